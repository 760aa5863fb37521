//! A client that wants one backend keeps it.

use serde_json::json;

use crate::fixture::{PATIENCE, Place, REPLICAS, fixture};

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
