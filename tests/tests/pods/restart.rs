//! A restart of the agent: what stands is kept, what is gone is collected.

use diolkos_abi::address::v4_mapped;
use diolkos_abi::pod::{Endpoint, Netns, netns_flags};
use diolkos_agent::dataplane::model::Model;
use diolkos_agent::dataplane::{Capacities, Shared};
use diolkos_agent::pods::Repaired;

use crate::world::{Node, Sandbox, address, ip, link_exists, on_a_node, request};

#[test]
fn a_restart_keeps_pods_and_fills_an_empty_dataplane() {
    on_a_node(async || {
        let mut node = Node::new().await;
        let sandbox = Sandbox::new();
        let result = node.add("c1", &sandbox).await.unwrap();
        let before = node.dataplane.lock().endpoints().unwrap();
        node.restart(Shared::new(Model::new(Capacities::ABI)));
        assert_eq!(node.pods.repair().await.unwrap(), Repaired { kept: 1, ..Repaired::default() });
        assert_eq!(node.dataplane.lock().endpoints().unwrap(), before);
        assert_eq!(node.add("c1", &sandbox).await.unwrap(), result, "ADD after the restart answers the same");
        let other = Sandbox::new();
        assert_ne!(address(&node.add("c2", &other).await.unwrap()), address(&result));
        node.call(request("CHECK", "c1", &sandbox.path)).await.unwrap();
        assert_eq!(node.pods.repair().await.unwrap(), Repaired { kept: 2, ..Repaired::default() });
    });
}

#[test]
fn pods_that_went_while_the_agent_was_away_are_collected() {
    on_a_node(async || {
        let mut node = Node::new().await;
        let (stays, goes) = (Sandbox::new(), Sandbox::new());
        node.add("stays", &stays).await.unwrap();
        let gone = node.add("goes", &goes).await.unwrap();
        let host = node.host_ifname(&gone);
        let same_dataplane = node.dataplane.clone();
        drop(goes);
        ip_link_is_gone(&host);
        node.restart(same_dataplane);
        assert_eq!(node.pods.repair().await.unwrap(), Repaired { kept: 1, collected: 1, ..Repaired::default() });
        assert_eq!(node.dataplane.lock().endpoints().unwrap().len(), 2, "one of each family");
        let next = Sandbox::new();
        let fresh = node.add("next", &next).await.unwrap();
        assert_ne!(address(&fresh), address(&gone), "the address rests, after the restart too");
        for id in ["stays", "goes", "next"] {
            node.call(request("DEL", id, "")).await.unwrap();
        }
        node.assert_empty();
    });
}

/// The kernel takes a namespace down in its own time.
fn ip_link_is_gone(name: &str) {
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(10);
    while link_exists(name) {
        assert!(std::time::Instant::now() < deadline, "{name} is still there");
        std::thread::yield_now();
    }
}

#[test]
fn what_belongs_to_no_pod_is_removed() {
    on_a_node(async || {
        let node = Node::new().await;
        let sandbox = Sandbox::new();
        node.add("c1", &sandbox).await.unwrap();
        ip("link add di00000000000 type veth peer name orphan");
        ip("link set di00000000000 alias diolkos");
        ip("link add di11111111111 type veth peer name foreign");
        {
            let mut dataplane = node.dataplane.lock();
            dataplane.upsert_endpoint(v4_mapped([10, 244, 1, 99]), Endpoint::default()).unwrap();
            dataplane.set_netns(1 << 40, Netns::default()).unwrap();
            dataplane.set_netns(1 << 41, Netns { flags: netns_flags::HOST, ..Netns::default() }).unwrap();
            dataplane.attach_pod("di22222222222", 77).unwrap();
        }
        assert_eq!(node.pods.repair().await.unwrap(), Repaired { kept: 1, orphans: 4, ..Repaired::default() });
        assert!(!link_exists("di00000000000"));
        assert!(link_exists("di11111111111"), "a device without our alias stays");
        let dataplane = node.dataplane.lock();
        assert_eq!((dataplane.endpoints().unwrap().len(), dataplane.attached_pods().unwrap().len()), (2, 1));
        assert!(dataplane.netnses().unwrap().iter().any(|(cookie, _)| *cookie == 1 << 41), "the node's own stays");
    });
}
