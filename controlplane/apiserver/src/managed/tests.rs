#![allow(clippy::unwrap_used)]

mod model;

use diolkos_api::kind::Registry;
use serde_json::{Value, json};

use super::*;
use crate::schema::Root;

/// The shape of a kind's objects.
fn root(group: &str, plural: &str) -> Root {
    Root::of(&Registry::builtin().find(group, "v1", plural).unwrap())
}

fn writer(manager: &str, applies: bool) -> Writer {
    Writer { manager: manager.into(), applies, api_version: "v1".into(), subresource: String::new() }
}

/// Writes and the time at which they are.
struct Clock<'a> {
    root: &'a Root,
    now: String,
}

impl Clock<'_> {
    fn update(&self, manager: &str, old: Option<&Value>, new: &Value) -> Value {
        let mut new = new.clone();
        let writer = writer(manager, false);
        let write = Write { writer: &writer, shape: self.root.shape(), scope: Scope::Whole, now: &self.now };
        track(old, &mut new, &write);
        new
    }

    fn apply(&self, manager: &str, live: Option<&Value>, object: &Value, force: bool) -> Result<Value, Refusal> {
        let writer = writer(manager, true);
        let write = Write { writer: &writer, shape: self.root.shape(), scope: Scope::Whole, now: &self.now };
        apply(live, &Configuration { object, write, force })
    }
}

fn at<'a>(root: &'a Root, second: u32) -> Clock<'a> {
    Clock { root, now: format!("2026-01-01T00:00:{second:02}Z") }
}

fn fields(object: &Value, manager: &str) -> Value {
    let entries = object["metadata"]["managedFields"].as_array().into_iter().flatten();
    entries.clone().find(|entry| entry["manager"] == manager).map_or(Value::Null, |entry| entry["fieldsV1"].clone())
}

fn managers(object: &Value) -> Vec<&str> {
    let entries = object["metadata"]["managedFields"].as_array().into_iter().flatten();
    entries.map(|entry| entry["manager"].as_str().unwrap()).collect()
}

#[test]
fn who_makes_an_object_owns_what_is_new_and_not_the_structs_that_are_always_there() {
    let root = root("apps", "deployments");
    let deployment = json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "w", "labels": {"a": "b"}},
        "spec": {"selector": {"matchLabels": {"a": "b"}}, "strategy": {"rollingUpdate": {"maxSurge": 1}, "type": "RollingUpdate"},
            "template": {"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [
                {"name": "c", "ports": [{"containerPort": 80, "protocol": "TCP"}], "resources": {}}], "dnsPolicy": "Default"}}}});
    let made = at(&root, 1).update("m", None, &deployment);
    // As kube-apiserver notes it.
    let expected = json!({
        "f:metadata": {"f:labels": {".": {}, "f:a": {}}},
        "f:spec": {"f:selector": {}, "f:strategy": {"f:rollingUpdate": {".": {}, "f:maxSurge": {}}, "f:type": {}},
            "f:template": {"f:metadata": {"f:labels": {".": {}, "f:a": {}}}, "f:spec": {"f:containers": {
                "k:{\"name\":\"c\"}": {".": {}, "f:name": {}, "f:ports": {".": {}, "k:{\"containerPort\":80,\"protocol\":\"TCP\"}":
                    {".": {}, "f:containerPort": {}, "f:protocol": {}}}, "f:resources": {}}}, "f:dnsPolicy": {}}}}});
    assert_eq!(fields(&made, "m"), expected);
}

#[test]
fn a_write_that_changes_nothing_changes_no_manager_and_no_time() {
    let root = root("", "configmaps");
    let object = json!({"metadata": {"name": "s"}, "data": {"a": "1"}});
    let made = at(&root, 1).update("m", None, &object);
    assert_eq!(at(&root, 2).update("n", Some(&made), &made), made);
    assert_eq!(at(&root, 2).update("n", Some(&made), &object), made, "who does not know the managers keeps them");
    let mut later = made.clone();
    later["metadata"]["managedFields"][0]["time"] = "2020-01-01T00:00:00Z".into();
    assert_eq!(at(&root, 2).update("n", Some(&made), &later), made, "times alone are no change");
}

#[test]
fn an_empty_list_of_managers_takes_all_ownership_away_until_somebody_applies() {
    let root = root("", "configmaps");
    let made = at(&root, 1).update("m", None, &json!({"metadata": {"name": "s"}, "data": {"a": "1"}}));
    for reset in [json!([]), json!([{}])] {
        let mut cleared = made.clone();
        cleared["metadata"]["managedFields"] = reset;
        let cleared = at(&root, 2).update("m", Some(&made), &cleared);
        assert_eq!(cleared["metadata"].get("managedFields"), None);
        let mut changed = cleared.clone();
        changed["data"]["a"] = "2".into();
        let changed = at(&root, 3).update("m", Some(&cleared), &changed);
        assert_eq!(changed["metadata"].get("managedFields"), None, "what nobody owns is not tracked");
        let config = json!({"metadata": {"name": "s"}, "data": {"b": "1"}});
        let applied = at(&root, 4).apply("a", Some(&changed), &config, false).unwrap();
        assert_eq!(managers(&applied), ["a", "before-first-apply"]);
        assert_eq!(fields(&applied, "before-first-apply"), json!({"f:data": {".": {}, "f:a": {}}}));
    }
}

#[test]
fn managers_that_a_client_sends_are_taken_and_nonsense_is_not() {
    let root = root("", "services");
    let made = at(&root, 1).update("m", None, &json!({"metadata": {"name": "s"}, "spec": {"ports": [{"port": 80}]}}));
    let entry = |fields: Value| json!([{"manager": "x", "operation": "Update", "apiVersion": "v1", "fieldsType": "FieldsV1", "fieldsV1": fields}]);
    let mut renamed = made.clone();
    // The keys of an element are put in their order, or it would be another one.
    renamed["metadata"]["managedFields"] =
        entry(json!({"f:spec": {"f:ports": {"k:{\"protocol\":\"TCP\", \"port\":80}": {".": {}}}}}));
    let renamed = at(&root, 2).update("m", Some(&made), &renamed);
    let fields_of_x = json!({"f:spec": {"f:ports": {"k:{\"port\":80,\"protocol\":\"TCP\"}": {}}}});
    assert_eq!((managers(&renamed), fields(&renamed, "x")), (vec!["x"], fields_of_x));
    for nonsense in [entry(json!({"spec": {}})), entry(json!(7)), json!([{"operation": "Own"}]), json!("x")] {
        let mut bad = made.clone();
        bad["metadata"]["managedFields"] = nonsense;
        assert_eq!(at(&root, 2).update("m", Some(&made), &bad), made);
    }
}

#[test]
fn the_oldest_of_more_than_ten_updaters_become_one() {
    let root = root("", "configmaps");
    let mut object = at(&root, 0).update("m0", None, &json!({"metadata": {"name": "s"}, "data": {"k0": ""}}));
    for n in 1..13 {
        let mut next = object.clone();
        next["data"][format!("k{n}")] = "".into();
        object = at(&root, n).update(&format!("m{n}"), Some(&object), &next);
    }
    let managers = managers(&object);
    assert_eq!(managers.len(), entries::MAX_UPDATERS, "{managers:?}");
    assert_eq!(managers[..2], ["ancient-changes", "m4"]);
    let ancient = json!({"f:data": {".": {}, "f:k0": {}, "f:k1": {}, "f:k2": {}, "f:k3": {}}});
    assert_eq!(fields(&object, "ancient-changes"), ancient);
}

#[test]
fn maps_and_lists_that_are_one_value_have_one_owner() {
    let root = root("", "services");
    let config = |key: &str| json!({"metadata": {"name": "s"}, "spec": {"selector": {key: "1"}, "externalIPs": [key]}});
    let first = at(&root, 1).apply("a", None, &config("x"), false).unwrap();
    assert_eq!(fields(&first, "a"), json!({"f:spec": {"f:externalIPs": {}, "f:selector": {}}}));
    let refusal = at(&root, 2).apply("b", Some(&first), &config("y"), false).unwrap_err();
    let paths = vec![".spec.externalIPs".to_owned(), ".spec.selector".to_owned()];
    assert_eq!(refusal, Refusal::Conflicts(vec![("\"a\"".into(), paths)]));
    let second = at(&root, 2).apply("b", Some(&first), &config("y"), true).unwrap();
    assert_eq!((managers(&second), &second["spec"]["selector"]), (vec!["b"], &json!({"y": "1"})));
}

#[test]
fn finalizers_are_owned_one_by_one_and_owners_by_their_uid() {
    let root = root("", "configmaps");
    let config = |finalizers: Value| json!({"metadata": {"name": "s", "finalizers": finalizers, "ownerReferences": [{"uid": "u", "name": "n"}]}});
    let one = at(&root, 1).apply("a", None, &config(json!(["x/a"])), false).unwrap();
    let both = at(&root, 2).apply("b", Some(&one), &config(json!(["x/b"])), false).unwrap();
    assert_eq!(both["metadata"]["finalizers"], json!(["x/a", "x/b"]));
    let own =
        json!({"f:metadata": {"f:finalizers": {"v:\"x/b\"": {}}, "f:ownerReferences": {"k:{\"uid\":\"u\"}": {}}}});
    assert_eq!(fields(&both, "b"), own);
    let gone = at(&root, 3).apply("a", Some(&both), &json!({"metadata": {"name": "s"}}), false).unwrap();
    assert_eq!(gone["metadata"]["finalizers"], json!(["x/b"]));
    assert_eq!(managers(&gone), ["b"]);
}

#[test]
fn applied_elements_come_in_their_order_and_others_keep_their_place() {
    let root = root("", "pods");
    let pod = |names: &[&str]| {
        let containers: Vec<Value> = names.iter().map(|name| json!({"name": name})).collect();
        json!({"metadata": {"name": "p"}, "spec": {"containers": containers}})
    };
    let live = at(&root, 1).update("m", None, &pod(&["a", "side", "b"]));
    let merged = at(&root, 2).apply("x", Some(&live), &pod(&["b", "new", "a"]), true).unwrap();
    let containers = merged["spec"]["containers"].as_array().unwrap();
    let names: Vec<&str> = containers.iter().map(|own| own["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["b", "new", "a", "side"]);
}

#[test]
fn kubectl_takes_over_what_it_applied_on_the_clients_side() {
    let root = root("", "configmaps");
    let last =
        json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "s"}, "data": {"a": "1", "b": "1"}});
    let mut object = last.clone();
    object["metadata"]["annotations"] = json!({"kubectl.kubernetes.io/last-applied-configuration": last.to_string()});
    let live = at(&root, 1).update("kubectl-client-side-apply", None, &object);
    let mut wanted = last;
    wanted["data"] = json!({"a": "2", "b": "1"});
    assert!(at(&root, 2).apply("somebody", Some(&live), &wanted, false).is_err());
    let taken = at(&root, 2).apply("kubectl", Some(&live), &wanted, false).unwrap();
    assert_eq!(taken["data"], json!({"a": "2", "b": "1"}));
    let note = &taken["metadata"]["annotations"]["kubectl.kubernetes.io/last-applied-configuration"];
    assert_eq!(serde_json::from_str::<Value>(note.as_str().unwrap()).unwrap(), wanted);
    // What another changed since is not kubectl's.
    let mut changed = live.clone();
    changed["data"]["a"] = "9".into();
    let changed = at(&root, 2).update("other", Some(&live), &changed);
    assert!(at(&root, 3).apply("kubectl", Some(&changed), &wanted, false).is_err());
}
