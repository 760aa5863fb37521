//! ADD that cannot succeed: a clear error, and nothing left.

use diolkos_agent::dataplane::model::Model;
use diolkos_agent::dataplane::{Capacities, Shared};
use diolkos_agent::pods::{Network, Pods, REST};

use crate::world::{Node, Sandbox, address, ip, on_a_node, request};

#[test]
fn an_interface_that_exists_already_is_left_alone() {
    on_a_node(async || {
        let node = Node::new().await;
        let sandbox = Sandbox::new();
        sandbox.ip("link add eth0 type bridge");
        let error = node.add("c1", &sandbox).await.unwrap_err();
        assert_eq!(error.code, 102, "{error:?}");
        node.assert_empty();
        assert!(sandbox.ip("-d link show eth0").contains("bridge"));
    });
}

#[test]
fn a_device_of_others_with_the_hosts_name_is_left_alone() {
    on_a_node(async || {
        let node = Node::new().await;
        let sandbox = Sandbox::new();
        let host = node.host_ifname(&node.add("c1", &sandbox).await.unwrap());
        node.call(request("DEL", "c1", "")).await.unwrap();
        ip(&format!("link add {host} type bridge"));
        let error = node.add("c1", &sandbox).await.unwrap_err();
        assert!(error.code == 102 && error.msg.contains(&host), "{error:?}");
        assert!(ip(&format!("-d link show {host}")).contains("bridge"));
        node.assert_empty();
    });
}

#[test]
fn a_full_pool_of_one_family_takes_nothing_of_the_other() {
    on_a_node(async || {
        let node = Node::new().await;
        node.pods.set_network(Network { pod_cidr_v6: Some("fd44:1::/126".parse().unwrap()), ..node.network });
        let sandboxes = [Sandbox::new(), Sandbox::new(), Sandbox::new()];
        node.add("c1", &sandboxes[0]).await.unwrap();
        node.add("c2", &sandboxes[1]).await.unwrap();
        let error = node.add("c3", &sandboxes[2]).await.unwrap_err();
        assert!(error.code == 101 && error.msg.contains("fd44:1::/126"), "{error:?}");
        node.call(request("DEL", "c2", "")).await.unwrap();
        let resting = node.add("c3", &sandboxes[2]).await.unwrap_err();
        assert!(resting.code == 11 && resting.msg.contains("fd44:1::/126"), "{resting:?}");
        assert_eq!(node.pods.attachments().len(), 1);
    });
}

#[test]
fn a_full_endpoint_map_undoes_the_whole_add() {
    on_a_node(async || {
        let node = Node::with_capacities(Capacities { endpoints: 3, ..Capacities::ABI }).await;
        let sandboxes = [Sandbox::new(), Sandbox::new()];
        node.add("c1", &sandboxes[0]).await.unwrap();
        let error = node.add("c2", &sandboxes[1]).await.unwrap_err();
        assert!(error.code == 100 && error.msg.to_lowercase().contains("endpoint"), "{error:?}");
        assert!(!sandboxes[1].ip("-o link").contains("eth0"));
        assert_eq!(node.dataplane.lock().attached_pods().unwrap().len(), 1);
        assert_eq!(node.dataplane.lock().netnses().unwrap().len(), 1);
        node.call(request("DEL", "c1", "")).await.unwrap();
        node.assert_empty();
    });
}

#[test]
fn a_default_route_that_exists_already_undoes_the_whole_add() {
    on_a_node(async || {
        let node = Node::new().await;
        let sandbox = Sandbox::new();
        for setup in ["link add other type bridge", "link set other up", "route add default dev other"] {
            sandbox.ip(setup);
        }
        let error = node.add("c1", &sandbox).await.unwrap_err();
        assert!(error.code == 100 && error.msg.contains("default route"), "{error:?}");
        node.assert_empty();
        assert!(!sandbox.ip("-o link").contains("eth0"));
    });
}

#[test]
fn a_namespace_that_is_none_is_refused() {
    on_a_node(async || {
        let node = Node::new().await;
        let own = format!("/proc/{}/task/{}/ns/net", std::process::id(), nix::unistd::gettid());
        for (path, text) in [("", "missing"), ("/nonexistent", "open"), ("/etc/hostname", "no network"), (&own, "own")]
        {
            let error = node.call(request("ADD", "c1", path)).await.unwrap_err();
            assert!(error.code == 4 && error.msg.contains(text), "{path}: {error:?}");
        }
        assert_eq!(node.call(request("ADD", "../c1", &own)).await.unwrap_err().code, 4);
        node.assert_empty();
    });
}

#[test]
fn without_a_podcidr_add_asks_to_try_again_later_and_status_says_so() {
    on_a_node(async || {
        let state = tempfile::tempdir().unwrap();
        let dataplane = Shared::new(Model::new(Capacities::ABI));
        let ready = Node::new().await;
        let waiting =
            Node { pods: Pods::open(state.path(), dataplane.clone(), REST).unwrap(), dataplane, state, ..ready };
        let sandbox = Sandbox::new();
        let error = waiting.add("c1", &sandbox).await.unwrap_err();
        assert!(error.code == 11 && error.details.contains("podCIDRs"), "{error:?}");
        assert_eq!(waiting.call(request("STATUS", "", "")).await.unwrap_err().code, 50);
        waiting.call(request("DEL", "c1", "")).await.unwrap();
        waiting.pods.set_network(waiting.network);
        waiting.call(request("STATUS", "", "")).await.unwrap();
        waiting.add("c1", &sandbox).await.unwrap();
    });
}

#[test]
fn a_full_pool_and_a_resting_pool_are_told_apart() {
    on_a_node(async || {
        let node = Node::new().await;
        node.pods.set_network(Network { pod_cidr_v4: Some("10.244.1.0/30".parse().unwrap()), ..node.network });
        let sandboxes = [Sandbox::new(), Sandbox::new()];
        let first = node.add("c1", &sandboxes[0]).await.unwrap();
        assert_eq!(address(&first).octets(), [10, 244, 1, 2]);
        let full = node.add("c2", &sandboxes[1]).await.unwrap_err();
        assert!(full.code == 101 && full.msg.contains("10.244.1.0/30"), "{full:?}");
        assert!(full.details.contains("podCIDR"), "{full:?}");
        node.call(request("DEL", "c1", "")).await.unwrap();
        let resting = node.add("c2", &sandboxes[1]).await.unwrap_err();
        assert!(resting.code == 11 && resting.msg.contains("rest"), "{resting:?}");
        node.assert_empty();
    });
}
