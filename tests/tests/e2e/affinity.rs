//! A client that wants one backend keeps it.

use std::collections::BTreeSet;

use serde_json::json;

use crate::fixture::{Fixture, PATIENCE, Place, REPLICAS, fixture};

/// All that is one client: by sockets and by packets it has the same address.
fn clients(fixture: &Fixture) -> [[Place<'_>; 2]; 4] {
    let (near, far) = (&fixture.client, &fixture.far);
    [
        [Place::Pod(near), Place::Packets(near)],
        [Place::Packets(far), Place::Pod(far)],
        [Place::Node(0), Place::NodePackets(0)],
        [Place::NodePackets(1), Place::Pod(&fixture.hosts[1])],
    ]
}

/// Who answers a client: all that it asked, from both of its places.
fn heard(fixture: &Fixture, client: [Place<'_>; 2], how: &str, address: &str) -> BTreeSet<String> {
    client.into_iter().flat_map(|from| fixture.probe(from, &[how, address, "80", "12"]).into_keys()).collect()
}

#[test]
fn a_client_keeps_one_backend_by_sockets_and_by_packets_for_each_port() {
    let mut fixture = fixture();
    let spec = json!({ "sessionAffinity": "ClientIP", "ipFamilyPolicy": "RequireDualStack" });
    let addresses = fixture.serve("kept", "web", 8080, &spec);
    for address in &addresses {
        fixture.wait_answer(address, 80);
    }
    let mut all = BTreeSet::new();
    for address in &addresses {
        for client in clients(&fixture) {
            for how in ["tcp", "udp"] {
                let first = heard(&fixture, client, how, address);
                assert!(first.len() == 1 && first.iter().all(|name| name.starts_with("web-")), "{client:?}: {first:?}");
                assert_eq!(heard(&fixture, client, how, address), first, "{client:?} {how} {address}");
                all.extend(first);
            }
        }
    }
    // Sixteen choices of four: that they are one by chance happens once in a billion times.
    assert!(all.len() > 1, "everybody has the same backend: {all:?}");
    fixture.cluster.kubectl(&["delete", "service", "kept"]).unwrap();
}

#[test]
fn a_client_keeps_its_backend_until_that_goes() {
    let mut fixture = fixture();
    let address = fixture.serve("moving", "web", 8080, &json!({ "sessionAffinity": "ClientIP" })).remove(0);
    let object = fixture.cluster.get(&["service", "moving"]).unwrap();
    assert_eq!(object["spec"]["sessionAffinityConfig"]["clientIP"]["timeoutSeconds"], 10_800);
    fixture.wait_answer(&address, 80);
    let client = fixture.client.clone();
    let ask = ["tcp", &address, "80", "20"];
    let first = fixture.probe(Place::Pod(&client), &ask);
    assert_eq!(first.len(), 1, "{first:?}");
    let gone = first.keys().next().unwrap().clone();
    fixture.cluster.kubectl(&["delete", "pod", &gone]).unwrap();
    fixture.cluster.wait_pods("app=web", REPLICAS, PATIENCE).unwrap();
    let second = fixture.probe(Place::Pod(&client), &ask);
    assert!(second.len() == 1 && !second.contains_key(&gone), "{second:?} after {first:?}");
    fixture.cluster.kubectl(&["delete", "service", "moving"]).unwrap();
}
