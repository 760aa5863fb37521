//! Garbage collection and the deletion of namespaces.

use diolkos_controllers::object::{Action, Key, KindName};
use serde_json::json;

use crate::model::Model;

const ALL: &[&str] = &["deployment", "replicaset", "endpointslice", "garbage-collector", "namespace"];

fn deployment(model: &mut Model, namespace: &str) -> Key {
    model.create(json!({
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web", "namespace": namespace},
        "spec": {
            "replicas": 3,
            "selector": {"matchLabels": {"app": "web"}},
            "template": {
                "metadata": {"labels": {"app": "web"}},
                "spec": {"containers": [{"name": "c", "image": "a:1"}]},
            },
        },
    }))
}

#[test]
fn what_a_deployment_made_goes_with_it() {
    let mut model = Model::new();
    let key = deployment(&mut model, "default");
    model.settle(&["deployment", "replicaset", "garbage-collector"]);
    assert_eq!(model.view.pods.iter().count(), 3);
    assert!(!model.log.iter().any(|entry| entry.starts_with("delete")), "{:?}", model.log);
    model.remove(&key);
    model.settle(&["deployment", "replicaset", "garbage-collector"]);
    assert_eq!((model.view.replica_sets.iter().count(), model.view.pods.iter().count()), (0, 0));
}

#[test]
fn an_owner_of_the_same_name_is_not_the_owner() {
    let mut model = Model::new();
    let key = deployment(&mut model, "default");
    model.settle(&["deployment", "replicaset"]);
    let old = model.view.keys(KindName::ReplicaSet);
    model.remove(&key);
    deployment(&mut model, "default");
    model.settle(&["garbage-collector"]);
    assert!(model.log.contains(&format!("delete {}", old[0])), "{:?}", model.log);
}

#[test]
fn what_has_an_owner_of_an_unknown_kind_stays() {
    let mut model = Model::new();
    model.create(json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": "p", "namespace": "default", "ownerReferences": [
            {"apiVersion": "example.com/v1", "kind": "Ship", "name": "argo", "uid": "1"},
        ]},
        "spec": {"containers": [{"name": "c", "image": "a:1"}]},
    }));
    assert_eq!(model.wanted("garbage-collector"), []);
}

#[test]
fn the_pods_of_a_node_that_is_gone_go_at_once() {
    let mut model = Model::new();
    let node = model.create(json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "n1"}}));
    let pod = model
        .create(json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p", "namespace": "default"},
                                  "spec": {"nodeName": "n1", "containers": [{"name": "c", "image": "a:1"}]}}));
    assert_eq!(model.wanted("garbage-collector"), []);
    model.remove(&node);
    let wanted = model.wanted("garbage-collector");
    assert!(
        matches!(&wanted[..], [Action::Collect { target, .. }] if target.at_once && target.key == pod),
        "{wanted:?}"
    );
    model.settle(&["garbage-collector"]);
    assert_eq!(model.view.pods.iter().count(), 0);
}

#[test]
fn a_namespace_goes_when_it_is_empty() {
    let mut model = Model::new();
    let key = model.create(json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "demo"}}));
    deployment(&mut model, "demo");
    model.create(json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "c", "namespace": "demo"}}));
    model.create(json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "s", "namespace": "demo"},
                        "spec": {"selector": {"app": "web"}, "ports": [{"port": 80}]}}));
    let other = model.create(json!({"apiVersion": "v1", "kind": "ConfigMap",
                                    "metadata": {"name": "c", "namespace": "demo-2"}}));
    model.settle(ALL);
    model.run_pods(|_| true);
    assert!(model.view.contents("demo").len() > 6);
    for node in 0..3 {
        model.create(json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": format!("node-{node}")}}));
    }
    model.edit(&key, |namespace| namespace["metadata"]["deletionTimestamp"] = "2026-11-20T07:00:00Z".into());
    // The Deployment would make anew what is deleted; it goes first.
    for _ in 0..5 {
        model.settle(ALL);
        model.run_pods(|_| true);
    }
    assert_eq!(model.view.contents("demo"), []);
    assert!(model.log.contains(&"finalize demo".to_owned()));
    assert!(model.view.get(&other).is_some());
}
