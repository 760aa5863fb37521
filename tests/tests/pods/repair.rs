//! What the regular look at pods puts right, and what it learns of them.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use diolkos_abi::pod::netns_flags::{OPT_OUT, TAP};
use diolkos_agent::dataplane::Capacities;
use diolkos_agent::overlay::OverlayConfig;
use diolkos_agent::pods::{Network, Repaired, Wishes};
use serde_json::json;

use crate::world::{Node, Sandbox, addresses, ip, link_exists, on_a_node, overlay_config, request};

/// A pod with its own answer about `default/<name>`.
struct Api {
    answers: AtomicBool,
    /// Names of pods that ask for their sockets to be left alone.
    ask: &'static [&'static str],
}

struct Asked(Arc<Api>);

#[async_trait::async_trait]
impl Wishes for Asked {
    async fn socket_lb_disabled(&self, namespace: &str, pod: &str) -> Result<bool, String> {
        assert_eq!(namespace, "default");
        if !self.0.answers.load(Ordering::Relaxed) {
            std::future::pending::<()>().await;
        }
        Ok(self.0.ask.contains(&pod))
    }
}

impl Node {
    /// The flags of the only pod's network namespace.
    fn flags(&self) -> u32 {
        let netnses = self.dataplane.lock().netnses().unwrap();
        assert_eq!(netnses.len(), 1);
        netnses[0].1.flags
    }
}

#[test]
fn a_pod_that_opts_out_by_configuration_is_marked_so() {
    on_a_node(async || {
        let node = Node::new().await;
        let sandbox = Sandbox::new();
        let mut add = request("ADD", "c1", &sandbox.path);
        add.config.insert("diolkos.io/socket-lb".into(), json!("disabled"));
        node.call(add).await.unwrap();
        assert_eq!(node.flags(), OPT_OUT);
    });
}

#[test]
fn a_pod_or_namespace_whose_annotation_asks_for_it_is_left_alone() {
    on_a_node(async || {
        let node = Node::new().await;
        node.pods.set_wishes(Asked(Arc::new(Api { answers: true.into(), ask: &["asks"] })));
        let sandboxes = [Sandbox::new(), Sandbox::new()];
        node.add("asks", &sandboxes[0]).await.unwrap();
        assert_eq!(node.flags(), OPT_OUT);
        node.call(request("DEL", "asks", "")).await.unwrap();
        node.add("other", &sandboxes[1]).await.unwrap();
        assert_eq!(node.flags(), 0);
    });
}

#[test]
fn a_pod_is_attached_though_nobody_says_what_it_asks_for_and_heard_later() {
    on_a_node(async || {
        let mut node = Node::new().await;
        let api = Arc::new(Api { answers: false.into(), ask: &["asks"] });
        node.pods.set_wishes(Asked(api.clone()));
        let sandbox = Sandbox::new();
        let begin = std::time::Instant::now();
        node.add("asks", &sandbox).await.unwrap();
        assert!(begin.elapsed().as_secs() < 5, "{:?}", begin.elapsed());
        assert_eq!(node.flags(), 0);

        // The question outlives the agent.
        node.restart(node.dataplane.clone());
        node.pods.set_wishes(Asked(api.clone()));
        api.answers.store(true, Ordering::Relaxed);
        node.pods.repair().await.unwrap();
        assert_eq!(node.flags(), OPT_OUT);
        node.call(request("CHECK", "asks", &sandbox.path)).await.unwrap();
    });
}

#[test]
fn a_pod_with_a_tap_device_is_left_alone_as_long_as_it_has_one() {
    on_a_node(async || {
        let node = Node::new().await;
        let sandbox = Sandbox::new();
        node.add("vm", &sandbox).await.unwrap();
        node.pods.repair().await.unwrap();
        assert_eq!(node.flags(), 0);

        sandbox.ip("tuntap add tap0 mode tap");
        node.pods.repair().await.unwrap();
        assert_eq!(node.flags(), OPT_OUT | TAP);
        node.call(request("CHECK", "vm", &sandbox.path)).await.unwrap();

        sandbox.ip("link del tap0");
        sandbox.ip("tuntap add tun0 mode tun");
        node.pods.repair().await.unwrap();
        assert_eq!(node.flags(), OPT_OUT | TAP, "user space tunnels, too");

        sandbox.ip("link del tun0");
        node.pods.repair().await.unwrap();
        assert_eq!(node.flags(), 0);
    });
}

#[test]
fn pods_follow_the_mtu_of_the_network() {
    on_a_node(async || {
        let node = Node::new().await;
        let sandbox = Sandbox::new();
        let result = node.add("c1", &sandbox).await.unwrap();
        let host = node.host_ifname(&result);
        for mtu in [1400, 8950] {
            node.pods.set_network(Network { mtu, ..node.network });
            assert_eq!(node.pods.repair().await.unwrap(), Repaired { kept: 1, ..Repaired::default() });
            let text = format!("mtu {mtu} ");
            assert!(ip(&format!("link show {host}")).contains(&text) && sandbox.ip("link show eth0").contains(&text));
            let endpoints = node.dataplane.lock().endpoints().unwrap();
            assert!(endpoints.iter().all(|(_, endpoint)| u32::from(endpoint.mtu) == mtu), "{endpoints:?}");
            node.call(request("CHECK", "c1", &sandbox.path)).await.unwrap();
        }
    });
}

#[test]
fn a_pod_whose_namespace_file_is_gone_is_collected() {
    on_a_node(async || {
        let node = Node::new().await;
        let sandbox = Sandbox::new();
        let file = node.state.path().join("netns-of-c1");
        std::os::unix::fs::symlink(&sandbox.path, &file).unwrap();
        let result = node.call(request("ADD", "c1", file.to_str().unwrap())).await.unwrap();
        assert_eq!(node.pods.repair().await.unwrap(), Repaired { kept: 1, ..Repaired::default() });

        // The runtime's DEL found no agent. A process that outlives its pod still holds the namespace.
        std::fs::remove_file(&file).unwrap();
        assert_eq!(node.pods.repair().await.unwrap(), Repaired { collected: 1, ..Repaired::default() });
        assert!(!link_exists(&node.host_ifname(&result)));
        node.assert_empty();
        let again = node.add("c2", &sandbox).await.unwrap();
        assert!(addresses(&again).iter().all(|address| !addresses(&result).contains(address)), "they rest");
    });
}

#[test]
fn a_pod_whose_namespace_files_directory_is_gone_stays() {
    on_a_node(async || {
        let node = Node::new().await;
        let sandbox = Sandbox::new();
        let directory = node.state.path().join("netns");
        std::fs::create_dir(&directory).unwrap();
        let file = directory.join("c1");
        std::os::unix::fs::symlink(&sandbox.path, &file).unwrap();
        node.call(request("ADD", "c1", file.to_str().unwrap())).await.unwrap();
        std::fs::remove_dir_all(&directory).unwrap();
        let repaired = node.pods.repair().await.unwrap();
        assert_eq!((repaired.collected, repaired.failures.len()), (0, 1), "{repaired:?}");
        assert!(sandbox.ip("-o link").contains("eth0"));
    });
}

#[test]
fn the_node_learns_nothing_from_what_pods_send() {
    on_a_node(async || {
        let node = Node::new().await;
        let sandbox = Sandbox::new();
        // What a careless operator's defaults would give every new device.
        for (family, name) in [("ipv4", "accept_source_route"), ("ipv4", "proxy_arp"), ("ipv6", "accept_ra")] {
            std::fs::write(format!("/proc/sys/net/{family}/conf/default/{name}"), "1").unwrap();
        }
        let result = node.add("c1", &sandbox).await.unwrap();
        let host = node.host_ifname(&result);
        let settings = [
            ("ipv4", "accept_redirects"),
            ("ipv4", "accept_source_route"),
            ("ipv4", "proxy_arp"),
            ("ipv6", "accept_redirects"),
            ("ipv6", "accept_source_route"),
            ("ipv6", "accept_ra"),
            ("ipv6", "proxy_ndp"),
        ];
        let path = |family: &str, name: &str| format!("/proc/sys/net/{family}/conf/{host}/{name}");
        let all_off = || {
            for (family, name) in settings {
                let path = path(family, name);
                assert_eq!(std::fs::read_to_string(&path).unwrap().trim(), "0", "{path}");
            }
        };
        all_off();
        settings.iter().for_each(|(family, name)| std::fs::write(path(family, name), "1").unwrap());
        node.pods.repair().await.unwrap();
        all_off();
    });
}

#[test]
fn pods_of_one_family_alone_work_and_are_checked() {
    on_a_node(async || {
        let both = overlay_config();
        let v4 = OverlayConfig { node_v6: None, pod_cidr_v6: None, ..both };
        let v6 = OverlayConfig { node_v4: None, pod_cidr_v4: None, ..both };
        for (config, address, flag) in [(v4, "10.244.1.2", "-6"), (v6, "fd44:1::2", "-4")] {
            let node = Node::with(Capacities::ABI, &config).await;
            let sandbox = Sandbox::new();
            let result = node.add("c1", &sandbox).await.unwrap();
            assert_eq!(addresses(&result), [address.parse::<std::net::IpAddr>().unwrap()]);
            let other = sandbox.inside(move || ip(&format!("{flag} -o addr show eth0")));
            assert_eq!(other, "", "nothing of the other family");
            node.call(request("CHECK", "c1", &sandbox.path)).await.unwrap();
            node.call(request("DEL", "c1", "")).await.unwrap();
            node.assert_empty();
        }
    });
}
