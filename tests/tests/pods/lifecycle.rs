//! ADD, CHECK, DEL, GC and STATUS of pods that work.

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

use diolkos_abi::address::v4_mapped;
use serde_json::json;

use crate::world::{Node, Sandbox, address, addresses, ip, link_exists, on_a_node, request};

#[test]
fn add_makes_a_pod_that_check_approves_and_del_takes_everything_away() {
    on_a_node(async || {
        let node = Node::new().await;
        let sandbox = Sandbox::new();
        let result = node.add("c1", &sandbox).await.unwrap();
        assert_eq!(address(&result), Ipv4Addr::new(10, 244, 1, 2));
        assert_eq!(result["interfaces"][1]["sandbox"], sandbox.path.as_str());
        assert_pod(&sandbox, result["interfaces"][1]["mac"].as_str().unwrap());
        assert_host(&node, &result);

        let mut check = request("CHECK", "c1", &sandbox.path);
        check.config.insert("prevResult".into(), result.clone());
        node.call(check).await.unwrap();
        assert_eq!(node.add("c1", &sandbox).await.unwrap(), result, "a repeated ADD answers the same");

        node.call(request("DEL", "c1", &sandbox.path)).await.unwrap();
        tokio::time::timeout(Duration::ZERO, node.pods.gone()).await.expect("the driver is told of a pod that is gone");
        node.assert_empty();
        assert!(!sandbox.ip("-o link").contains("eth0"));
        for netns in ["", "/nonexistent/netns", &sandbox.path] {
            node.call(request("DEL", "c1", netns)).await.unwrap();
        }
    });
}

fn assert_pod(sandbox: &Sandbox, mac: &str) {
    let link = sandbox.ip("link show eth0");
    assert!(link.contains("mtu 1450") && link.contains(",UP") && link.contains(mac), "{link}");
    assert!(sandbox.ip("link show lo").contains("LOOPBACK,UP"));
    assert!(sandbox.ip("-4 -o addr show eth0").contains("10.244.1.2/32"));
    let v6 = sandbox.ip("-6 -o addr show eth0");
    assert!(v6.lines().count() == 1 && v6.contains("fd44:1::2/128") && !v6.contains("tentative"), "{v6}");
    let route = sandbox.ip("route");
    assert_eq!(route.trim(), "default via 169.254.1.1 dev eth0 proto static onlink");
    assert!(sandbox.ip("-6 route").contains("default via fe80::1 dev eth0 proto static"));
    let neighbours = sandbox.ip("neigh");
    for hop in ["169.254.1.1 ", "fe80::1 "] {
        let line = neighbours.lines().find(|line| line.starts_with(hop));
        assert!(line.is_some_and(|line| line.contains("PERMANENT")), "{neighbours}");
    }
}

fn assert_host(node: &Node, result: &serde_json::Value) {
    let host = node.host_ifname(result);
    assert!(host.starts_with("di") && host.len() == 13, "{host}");
    let link = ip(&format!("-d link show {host}"));
    assert!(link.contains("mtu 1450") && link.contains("alias diolkos"), "{link}");
    let route = ip("route show proto 209");
    assert_eq!(route.trim(), format!("10.244.1.2 dev {host} scope link src 10.244.1.1"));
    let route = ip("-6 route show proto 209");
    assert_eq!(route.trim(), format!("fd44:1::2 dev {host} src fd44:1::1 metric 1024 pref medium"));
    assert_eq!(ip(&format!("-6 -o addr show {host}")), "", "the node is nobody on the pod's link");
    let dataplane = node.dataplane.lock();
    assert_eq!(dataplane.attached_pods().unwrap(), [host]);
    let endpoints = dataplane.endpoints().unwrap();
    let v6 = "fd44:1::2".parse::<Ipv6Addr>().unwrap().octets();
    let known: BTreeSet<_> = endpoints.iter().map(|(address, endpoint)| (*address, endpoint.mtu)).collect();
    assert_eq!(known, BTreeSet::from([(v4_mapped([10, 244, 1, 2]), 1450), (v6, 1450)]));
    let netns = dataplane.netnses().unwrap()[0].1;
    assert_eq!((netns.v4, netns.v6), ([10, 244, 1, 2], v6));
}

#[test]
fn the_node_and_other_pods_reach_a_pod() {
    on_a_node(async || {
        let node = Node::new().await;
        let (server, client) = (Sandbox::new(), Sandbox::new());
        let servers = addresses(&node.add("server", &server).await.unwrap());
        let clients = addresses(&node.add("client", &client).await.unwrap());
        let sources = [node.network.source_v4.unwrap().into(), node.network.source_v6.unwrap().into()];
        for ((at, from), source) in servers.into_iter().zip(clients).zip(sources) {
            let at = SocketAddr::from((at, 7000));
            let listener = server.inside(move || TcpListener::bind(at).unwrap());
            let ask = move || {
                let mut stream = TcpStream::connect_timeout(&at, Duration::from_secs(5)).unwrap();
                stream.write_all(b"x").unwrap();
                stream.local_addr().unwrap().ip()
            };
            assert_eq!(ask(), source, "the node's source is its gateway address");
            assert_eq!(client.inside(ask), from);
            for expected in [source, from] {
                let (mut stream, peer) = listener.accept().unwrap();
                let mut byte = [0];
                stream.read_exact(&mut byte).unwrap();
                assert_eq!((peer.ip(), byte), (expected, *b"x"));
            }
        }
    });
}

#[test]
fn check_names_what_is_damaged_and_the_next_add_heals_it() {
    on_a_node(async || {
        let node = Node::new().await;
        let sandbox = Sandbox::new();
        let result = node.add("c1", &sandbox).await.unwrap();
        let host = node.host_ifname(&result);
        let check = || node.call(request("CHECK", "c1", &sandbox.path));
        check().await.unwrap();

        sandbox.ip("addr del 10.244.1.2/32 dev eth0");
        let error = check().await.unwrap_err();
        assert!(error.code == 103 && error.msg.contains("address"), "{error:?}");
        let healed = node.add("c1", &sandbox).await.unwrap();
        assert_ne!(address(&healed), address(&result), "the old address rests");
        check().await.unwrap();

        for address in addresses(&healed) {
            ip(&format!("route del {address} dev {host}"));
            assert!(check().await.unwrap_err().msg.contains("route"));
            node.pods.repair().await.unwrap();
            check().await.unwrap();
        }

        sandbox.ip("-6 neigh del fe80::1 dev eth0");
        let error = check().await.unwrap_err();
        assert!(error.code == 103 && error.msg.contains("fe80::1"), "{error:?}");
        let healed = node.add("c1", &sandbox).await.unwrap();
        let host = node.host_ifname(&healed);
        check().await.unwrap();

        node.dataplane.lock().detach_pod(&host).unwrap();
        assert!(check().await.unwrap_err().msg.contains("programs"));
        node.pods.repair().await.unwrap();
        check().await.unwrap();

        let elsewhere = Sandbox::new();
        assert_eq!(node.call(request("CHECK", "c1", &elsewhere.path)).await.unwrap_err().code, 103);
        assert_eq!(node.call(request("CHECK", "c2", &sandbox.path)).await.unwrap_err().code, 3);
    });
}

#[test]
fn a_pod_whose_namespace_is_gone_is_deleted_without_it() {
    on_a_node(async || {
        let node = Node::new().await;
        let sandbox = Sandbox::new();
        let host = node.host_ifname(&node.add("c1", &sandbox).await.unwrap());
        drop(sandbox);
        node.call(request("DEL", "c1", "")).await.unwrap();
        node.assert_empty();
        assert!(!link_exists(&host));
    });
}

#[test]
fn gc_removes_what_the_runtime_no_longer_knows_of_its_network() {
    on_a_node(async || {
        let node = Node::new().await;
        let sandboxes = [Sandbox::new(), Sandbox::new(), Sandbox::new()];
        node.add("kept", &sandboxes[0]).await.unwrap();
        node.add("lost", &sandboxes[1]).await.unwrap();
        let mut other = request("ADD", "other", &sandboxes[2].path);
        other.config.insert("name".into(), json!("another-network"));
        node.call(other).await.unwrap();

        let mut gc = request("GC", "", "");
        gc.config.insert("cniVersion".into(), json!("1.1.0"));
        let valid = json!([{ "containerID": "kept", "ifname": "eth0" }]);
        gc.config.insert("cni.dev/valid-attachments".into(), valid);
        node.call(gc).await.unwrap();
        let left: Vec<String> = node.pods.attachments().into_iter().map(|held| held.container_id).collect();
        assert_eq!(left, ["kept", "other"]);
        assert_eq!(node.dataplane.lock().endpoints().unwrap().len(), 4, "two of each family");
    });
}

#[test]
fn gc_goes_on_when_one_attachment_cannot_be_removed_and_says_so() {
    on_a_node(async || {
        let node = Node::new().await;
        let sandboxes = [Sandbox::new(), Sandbox::new()];
        node.add("first", &sandboxes[0]).await.unwrap();
        node.add("second", &sandboxes[1]).await.unwrap();
        // The record of the first cannot become a resting address: a directory has its name.
        let resting = node.state.path().join("resting/10.244.1.2");
        std::fs::create_dir(&resting).unwrap();
        let mut gc = request("GC", "", "");
        gc.config.insert("cni.dev/valid-attachments".into(), json!([]));
        let error = node.call(gc.clone()).await.unwrap_err();
        assert!(error.code == 5 && error.msg.contains("resting/10.244.1.2"), "{error:?}");
        let left: Vec<String> = node.pods.attachments().into_iter().map(|held| held.container_id).collect();
        assert_eq!(left, ["first"]);

        std::fs::remove_dir(&resting).unwrap();
        node.call(gc.clone()).await.unwrap();
        node.call(gc).await.unwrap();
        node.assert_empty();
    });
}

#[test]
fn status_tells_a_node_without_a_podcidr_from_one_whose_network_is_broken() {
    on_a_node(async || {
        let node = Node::new().await;
        let status = || node.call(request("STATUS", "", ""));
        status().await.unwrap();
        node.pods.set_limited(Some("the overlay device is somebody else's".into()));
        let error = status().await.unwrap_err();
        assert!(error.code == 51 && error.msg.contains("somebody else's") && !error.details.is_empty(), "{error:?}");
        node.pods.set_limited(None);
        status().await.unwrap();
    });
}

#[test]
fn results_and_errors_speak_the_version_of_the_request() {
    on_a_node(async || {
        let node = Node::new().await;
        let sandbox = Sandbox::new();
        for version in ["0.4.0", "1.0.0", "1.1.0"] {
            let mut add = request("ADD", "c1", &sandbox.path);
            add.config.insert("cniVersion".into(), json!(version));
            assert_eq!(node.call(add).await.unwrap()["cniVersion"], version);
            let mut check = request("CHECK", "absent", &sandbox.path);
            check.config.insert("cniVersion".into(), json!(version));
            assert_eq!(node.call(check).await.unwrap_err().cni_version, version);
        }
        let mut old = request("ADD", "c2", &sandbox.path);
        old.config.insert("cniVersion".into(), json!("0.2.0"));
        assert_eq!(node.call(old).await.unwrap_err().code, 1);
        assert_eq!(node.call(request("FROB", "c1", "")).await.unwrap_err().code, 4);
        let versions = node.call(request("VERSION", "", "")).await.unwrap();
        assert_eq!(versions["supportedVersions"], json!(["0.4.0", "1.0.0", "1.1.0"]));
    });
}
