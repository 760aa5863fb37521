//! Both address families and both protocols, from everywhere.

use serde_json::json;

use crate::fixture::{Fixture, PATIENCE, Place, REPLICAS, fixture, pod};
use crate::services::HELD;

/// Questions that reach every replica: that one is missed by chance happens once in a million times.
const MANY: &str = "60";

/// From pods of both nodes, by sockets and by packets, and from the nodes themselves.
fn places(fixture: &Fixture) -> [Place<'_>; 6] {
    let (near, far) = (&fixture.client, &fixture.far);
    [Place::Pod(near), Place::Pod(far), Place::Packets(near), Place::Packets(far), Place::Node(0), Place::Node(1)]
}

/// All replicas answer, and nothing else is heard.
fn all_answer(fixture: &Fixture, from: Place<'_>, how: &str, address: &str) {
    let heard = fixture.probe(from, &[how, address, "80", MANY]);
    assert!(heard.keys().all(|name| name.starts_with("web-")), "{from:?} {how} {address}: {heard:?}");
    assert_eq!(heard.len(), REPLICAS, "{from:?} {how} {address}: {heard:?}");
}

#[test]
fn a_dual_stack_service_answers_over_both_families_from_everywhere() {
    let fixture = fixture();
    for address in &fixture.both {
        for from in places(&fixture) {
            all_answer(&fixture, from, "tcp", address);
        }
    }
}

#[test]
fn udp_services_answer_over_both_families_from_everywhere() {
    let fixture = fixture();
    for address in &fixture.both {
        for from in places(&fixture) {
            all_answer(&fixture, from, "udp", address);
        }
    }
}

#[test]
fn datagrams_of_one_socket_are_answered_from_the_address_they_were_sent_to() {
    let fixture = fixture();
    for address in &fixture.both {
        for from in places(&fixture) {
            let heard = fixture.probe(from, &["datagrams", address, "80", "20"]);
            assert!(heard.keys().all(|name| name.starts_with("web-") && !name.contains(' ')), "{from:?}: {heard:?}");
        }
    }
}

#[test]
fn a_service_of_ipv6_alone_answers() {
    let mut fixture = fixture();
    let addresses = fixture.serve("six", "near", 8080, &json!({ "ipFamilies": ["IPv6"] }));
    assert!(addresses.len() == 1 && addresses[0].contains(':'), "{addresses:?}");
    let far = fixture.far.clone();
    for from in [Place::Pod(&far), Place::Packets(&far), Place::Node(0)] {
        for how in ["tcp", "udp"] {
            fixture.wait_probe(from, &[how, &addresses[0], "80", "3"], "near");
        }
    }
    fixture.cluster.kubectl(&["delete", "service", "six"]).unwrap();
}

#[test]
fn pods_and_nodes_reach_pods_over_both_families() {
    let fixture = fixture();
    assert_eq!(fixture.far.addresses.len(), 2, "{:?}", fixture.far);
    for to in [&fixture.near, &fixture.far] {
        for address in &to.addresses {
            for from in [Place::Pod(&fixture.client), Place::Node(0), Place::Node(1)] {
                for how in ["tcp", "udp"] {
                    let heard = fixture.probe(from, &[how, address, "8080", "1"]);
                    assert!(heard.keys().eq([&to.name]), "{from:?} {how} {address}: {heard:?}");
                }
            }
        }
    }
}

#[test]
fn a_pod_that_opted_out_reaches_services_packet_by_packet() {
    let mut fixture = fixture();
    let mut apart = pod("apart", Some("node-1"));
    apart["metadata"]["annotations"] = json!({ "diolkos.io/socket-lb": "disabled" });
    fixture.cluster.apply(&apart.to_string()).unwrap();
    let apart = fixture.cluster.wait_pods("app=apart", 1, PATIENCE).unwrap().remove(0);
    for address in &fixture.both {
        all_answer(&fixture, Place::Pod(&apart), "tcp", address);
        all_answer(&fixture, Place::Pod(&apart), "udp", address);
    }
    // What its socket is connected to is the Service itself; port 9000 is 2328 in hexadecimal.
    let table = fixture.cluster.exec(&apart, &["sh", "-c", HELD, &fixture.both[0], "9000"]).unwrap();
    let octets: std::net::Ipv4Addr = fixture.both[0].parse().unwrap();
    let wanted = format!("{:08X}:2328", u32::from_ne_bytes(octets.octets()));
    assert!(table.contains(&wanted), "{wanted} is not in {table}");
    fixture.cluster.kubectl(&["delete", "pod", "apart"]).unwrap();
}
