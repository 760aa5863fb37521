//! Pods on the host network of their node, as servers and as clients, and processes of the nodes.

use crate::fixture::{Fixture, HOST_PORT, Place, fixture};

/// Questions that reach both servers: that one is missed by chance happens once in eight million times.
const MANY: &str = "24";

/// Everybody there is: pods and nodes, by sockets and by packets, and pods on both host networks.
fn places(fixture: &Fixture) -> [Place<'_>; 10] {
    let (near, far, [first, second]) = (&fixture.client, &fixture.far, &fixture.hosts);
    let (sockets, packets) = ([near, far, first, second].map(Place::Pod), [near, far].map(Place::Packets));
    let nodes = [Place::Node(0), Place::Node(1), Place::NodePackets(0), Place::NodePackets(1)];
    let [a, b, c, d] = sockets;
    let ([e, f], [g, h, i, j]) = (packets, nodes);
    [a, b, c, d, e, f, g, h, i, j]
}

#[test]
fn servers_on_the_host_network_of_either_node_answer_a_service_from_everywhere() {
    let fixture = fixture();
    for address in &fixture.hosts_service {
        for from in places(&fixture) {
            for how in ["tcp", "udp"] {
                let heard = fixture.probe(from, &[how, address, "80", MANY]);
                assert!(heard.keys().eq(["host-1", "host-2"]), "{from:?} {how} {address}: {heard:?}");
            }
        }
    }
}

#[test]
fn pods_on_the_host_network_reach_services_pods_and_each_other() {
    let fixture = fixture();
    let port = HOST_PORT.to_string();
    for from in fixture.hosts.each_ref().map(Place::Pod) {
        for address in &fixture.both {
            for how in ["tcp", "udp", "datagrams"] {
                let heard = fixture.probe(from, &[how, address, "80", MANY]);
                assert!(heard.keys().all(|name| name.starts_with("web-")), "{from:?} {how} {address}: {heard:?}");
                // A socket that names its destination with each datagram keeps what it has.
                assert!(heard.len() > 1 || how == "datagrams", "{from:?} {how} {address}: {heard:?}");
            }
        }
        let pods = [&fixture.near, &fixture.far].map(|pod| (pod, "8080"));
        for (to, port) in pods.into_iter().chain(fixture.hosts.iter().map(|pod| (pod, port.as_str()))) {
            for address in &to.addresses {
                for how in ["tcp", "udp"] {
                    let heard = fixture.probe(from, &[how, address, port, "1"]);
                    assert!(heard.keys().eq([&to.name]), "{from:?} {how} {address}: {heard:?}");
                }
            }
        }
    }
}
