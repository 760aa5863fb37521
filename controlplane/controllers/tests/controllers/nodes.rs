//! Node addresses and node lifecycle.

use std::collections::HashSet;

use diolkos_controllers::object::{Key, KindName, Object};
use ipnetwork::IpNetwork;
use k8s_openapi::api::core::v1::Node;
use proptest::prelude::*;
use serde_json::json;

use crate::model::Model;

fn add(model: &mut Model, name: &str) -> Key {
    model.create(json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": name}, "status": {
        "conditions": [{"type": "Ready", "status": "True", "lastHeartbeatTime": "2026-11-20T07:00:00Z"}],
    }}))
}

fn node(model: &Model, key: &Key) -> Node {
    match model.view.get(key) {
        Some(Object::Node(node)) => Node::clone(&node),
        _ => panic!("no {key}"),
    }
}

fn condition(model: &Model, key: &Key, type_: &str) -> Option<(String, Option<String>)> {
    let conditions = node(model, key).status?.conditions?;
    let found = conditions.into_iter().find(|condition| condition.type_ == type_)?;
    Some((found.status, found.reason))
}

fn cidrs(model: &Model) -> Vec<IpNetwork> {
    let cidrs = model.view.nodes.iter().filter_map(|node| node.spec.as_ref()?.pod_cidr.as_ref()?.parse().ok());
    cidrs.collect()
}

#[test]
fn every_node_gets_its_own_network_and_keeps_it() {
    let mut model = Model::new();
    let first = add(&mut model, "a");
    add(&mut model, "b");
    model.settle(&["node-ipam"]);
    let spec = node(&model, &first).spec.unwrap();
    assert_eq!(spec.pod_cidr.as_deref(), Some("10.244.0.0/24"));
    assert_eq!(spec.pod_cidrs.unwrap(), ["10.244.0.0/24"]);
    model.remove(&first);
    add(&mut model, "c");
    add(&mut model, "d");
    model.settle(&["node-ipam"]);
    let mut all = cidrs(&model);
    all.sort();
    let expected: Vec<IpNetwork> =
        ["10.244.0.0/24", "10.244.1.0/24", "10.244.2.0/24"].map(|cidr| cidr.parse().unwrap()).into();
    assert_eq!(all, expected);
}

#[test]
fn a_node_without_a_network_says_so_until_one_is_free() {
    let mut model = Model::with_network("10.244.0.0/23", 24);
    let keys = ["a", "b", "c"].map(|name| add(&mut model, name));
    model.settle(&["node-ipam"]);
    assert_eq!(cidrs(&model).len(), 2);
    let late = keys.iter().find(|key| node(&model, key).spec.is_none_or(|spec| spec.pod_cidr.is_none())).unwrap();
    assert_eq!(condition(&model, late, "NetworkUnavailable"), Some(("True".into(), Some("NoPodCIDR".into()))));
    let other = keys.iter().find(|key| *key != late).unwrap();
    model.remove(other);
    model.settle(&["node-ipam"]);
    assert_eq!(cidrs(&model).len(), 2);
    let reason = Some(("False".into(), Some("PodCIDRAssigned".into())));
    assert_eq!(condition(&model, late, "NetworkUnavailable"), reason);
}

#[test]
fn a_node_gets_a_network_of_each_family_or_none() {
    let mut model = Model::with_networks(&[("fd00:10:244::/56", 64), ("10.244.0.0/24", 25)]);
    let keys = ["a", "b", "c"].map(|name| add(&mut model, name));
    model.settle(&["node-ipam"]);
    let given = keys.each_ref().map(|key| node(&model, key).spec.and_then(|spec| spec.pod_cidrs));
    let pairs = [["fd00:10:244::/64", "10.244.0.0/25"], ["fd00:10:244:1::/64", "10.244.0.128/25"]];
    for pair in pairs {
        assert!(given.iter().flatten().any(|cidrs| *cidrs == pair), "{given:?}");
    }
    let late = keys.iter().zip(&given).find(|(_, cidrs)| cidrs.is_none()).unwrap().0;
    assert_eq!(condition(&model, late, "NetworkUnavailable"), Some(("True".into(), Some("NoPodCIDR".into()))));
    assert_eq!(
        node(&model, &keys[0]).spec.unwrap().pod_cidr.as_deref(),
        given[0].as_ref().map(|cidrs| cidrs[0].as_str())
    );
}

#[test]
fn a_network_that_overlaps_a_foreign_one_is_not_given() {
    let mut model = Model::with_network("10.244.0.0/16", 24);
    let odd = add(&mut model, "odd");
    model.edit(&odd, |node| node["spec"] = json!({"podCIDR": "10.244.0.0/22", "podCIDRs": ["10.244.0.0/22"]}));
    let key = add(&mut model, "a");
    model.settle(&["node-ipam"]);
    assert_eq!(node(&model, &key).spec.unwrap().pod_cidr.as_deref(), Some("10.244.4.0/24"));
}

proptest! {
    /// Nodes come and go; no two ever have the same network, and none loses its own.
    #[test]
    fn networks_are_never_given_twice(turns in prop::collection::vec((0..24usize, any::<bool>()), 0..80)) {
        let mut model = Model::with_network("10.244.0.0/20", 24);
        for (index, stays) in turns {
            let key = Key::new(KindName::Node, "", &format!("n{index}"));
            match (model.view.get(&key).is_some(), stays) {
                (true, false) => model.remove(&key),
                (true, true) => {}
                (false, _) => {
                    add(&mut model, &key.name);
                }
            }
            model.settle(&["node-ipam"]);
            let all = cidrs(&model);
            let unique: HashSet<_> = all.iter().collect();
            prop_assert_eq!(unique.len(), all.len());
            prop_assert_eq!(all.len(), model.view.nodes.iter().count().min(16));
        }
    }
}

#[test]
fn a_silent_node_and_its_pods_are_not_ready_until_it_speaks() {
    let mut model = Model::new();
    let key = add(&mut model, "n1");
    let pod = model
        .create(json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p", "namespace": "default"},
                                  "spec": {"nodeName": "n1", "containers": [{"name": "c", "image": "a:1"}]}}));
    model.edit(&pod, |pod| {
        pod["status"]["conditions"] = json!([{"type": "Ready", "status": "True"}]);
    });
    model.pass(40);
    model.settle(&["node-lifecycle"]);
    assert_eq!(model.log, Vec::<String>::new());
    model.pass(1);
    model.settle(&["node-lifecycle"]);
    assert_eq!(condition(&model, &key, "Ready"), Some(("Unknown".into(), Some("NodeStatusUnknown".into()))));
    let Some(Object::Pod(silent)) = model.view.get(&pod) else { panic!("no pod") };
    assert_eq!(silent.status.as_ref().unwrap().conditions.as_ref().unwrap()[0].status, "False");
    let now = model.now.to_string();
    model.edit(&key, |node| {
        node["status"]["conditions"] = json!([{"type": "Ready", "status": "True", "lastHeartbeatTime": now}]);
    });
    model.log.clear();
    model.settle(&["node-lifecycle"]);
    assert_eq!(model.log, Vec::<String>::new());
}

#[test]
fn a_lease_is_a_heartbeat() {
    let mut model = Model::new();
    let key = add(&mut model, "n1");
    let lease = model.create(json!({"apiVersion": "coordination.k8s.io/v1", "kind": "Lease",
        "metadata": {"name": "n1", "namespace": "kube-node-lease"},
        "spec": {"holderIdentity": "n1", "renewTime": "2026-11-20T07:00:00.000000Z", "leaseDurationSeconds": 40}}));
    for minute in 1..5 {
        model.pass(30);
        model.edit(&lease, |lease| lease["spec"]["renewTime"] = format!("2026-11-20T07:{minute:02}:00.000000Z").into());
        model.settle(&["node-lifecycle"]);
    }
    assert_eq!(condition(&model, &key, "Ready").unwrap().0, "True");
    model.pass(41);
    model.settle(&["node-lifecycle"]);
    assert_eq!(condition(&model, &key, "Ready").unwrap().0, "Unknown");
}

#[test]
fn a_node_that_never_spoke_is_told_apart() {
    let mut model = Model::new();
    let key = model.create(json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "n1"}}));
    model.settle(&["node-lifecycle"]);
    model.pass(41);
    model.settle(&["node-lifecycle"]);
    assert_eq!(condition(&model, &key, "Ready").unwrap().1.as_deref(), Some("NodeStatusNeverUpdated"));
}
