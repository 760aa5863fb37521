//! What every namespace has.

use diolkos_controllers::object::{Key, KindName};
use serde_json::json;

use crate::model::Model;

const ALL: &[&str] = &["serviceaccount", "root-ca-certificate-publisher", "namespace"];

fn namespace(model: &mut Model, name: &str) -> Key {
    model.create(json!({
        "apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}, "spec": {"finalizers": ["kubernetes"]},
    }))
}

#[test]
fn every_namespace_has_an_account_and_the_clusters_certificate() {
    let mut model = Model::new();
    namespace(&mut model, "shop");
    model.settle(ALL);
    let account = Key::new(KindName::ServiceAccount, "shop", "default");
    assert_eq!(model.view.keys(KindName::ServiceAccount), std::slice::from_ref(&account));
    let map = model.view.config_maps.get("shop", "kube-root-ca.crt").unwrap().clone();
    assert_eq!(map.data.as_ref().unwrap()["ca.crt"], "the certificate");

    // What is taken away comes back, and what is changed is repaired.
    model.remove(&account);
    model.remove(&Key::new(KindName::ConfigMap, "shop", "kube-root-ca.crt"));
    model.settle(ALL);
    assert_eq!(model.view.keys(KindName::ServiceAccount), [account]);
    model.create(json!({
        "apiVersion": "v1", "kind": "ConfigMap", "data": {"ca.crt": "another"},
        "metadata": {"name": "kube-root-ca.crt", "namespace": "other"},
    }));
    namespace(&mut model, "other");
    model.settle(ALL);
    let map = model.view.config_maps.get("other", "kube-root-ca.crt").unwrap();
    assert_eq!(map.data.as_ref().unwrap()["ca.crt"], "the certificate");
}

#[test]
fn a_namespace_that_ends_gets_nothing_new() {
    let mut model = Model::new();
    let key = namespace(&mut model, "shop");
    model.edit(&key, |namespace| namespace["metadata"]["deletionTimestamp"] = "2026-11-20T07:00:00Z".into());
    model.settle(&ALL[..2]);
    assert_eq!(model.log, Vec::<String>::new());
}
