//! What a pod answers a process of its node under a Service's address: the node has no route to that by the pod's device.

use std::net::UdpSocket;
use std::time::Duration;

use crate::world::{NODE_IP, Node, Sandbox, ip, on_a_node};

/// An address of a Service, which programs that are not there would put in place of the pod's.
const VIP: &str = "10.96.0.10";

#[test]
fn the_node_takes_what_a_pod_sends_under_another_address_whatever_filters_all_devices() {
    on_a_node(async || {
        ip("route add default via 192.0.2.254 dev uplink");
        let node = Node::new().await;
        let sandbox = Sandbox::new();
        node.add("c1", &sandbox).await.unwrap();
        sandbox.ip("addr add 10.96.0.10/32 dev lo");
        let here = UdpSocket::bind((NODE_IP, 5000)).unwrap();
        here.set_read_timeout(Some(Duration::from_secs(2))).unwrap();
        // Not strict: that the agent loosens.
        for all in ["0", "2"] {
            std::fs::write("/proc/sys/net/ipv4/conf/all/rp_filter", all).unwrap();
            let there = sandbox.inside(|| UdpSocket::bind((VIP, 80)).unwrap());
            there.send_to(b"answer", (NODE_IP, 5000)).unwrap();
            let from = here.recv_from(&mut [0; 16]).unwrap_or_else(|error| panic!("rp_filter of all {all}: {error}")).1;
            assert_eq!(from.ip().to_string(), VIP);
        }
    });
}

#[test]
fn a_device_that_lost_what_the_filter_looks_for_is_named_and_repaired() {
    on_a_node(async || {
        let node = Node::new().await;
        let sandbox = Sandbox::new();
        let result = node.add("c1", &sandbox).await.unwrap();
        let device = node.host_ifname(&result);
        ip(&format!("addr del 169.254.1.1/32 dev {device}"));
        let check = crate::world::request("CHECK", "c1", &sandbox.path);
        let error = node.call(check.clone()).await.unwrap_err();
        assert!(format!("{error:?}").contains("169.254.1.1"), "{error:?}");
        node.pods.repair().await.unwrap();
        node.call(check).await.unwrap();
    });
}
