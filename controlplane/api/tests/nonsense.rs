//! No JSON, however wrong, makes the rules of a kind panic: writers send what they like.
#![allow(clippy::unwrap_used)]

use diolkos_api::Timestamp;
use diolkos_api::kind::Registry;
use proptest::prelude::*;
use serde_json::{Value, json};

fn recorded(name: &str) -> Value {
    let path = format!("{}/tests/fixtures/{name}.json", env!("CARGO_MANIFEST_DIR"));
    let list: Value = serde_json::from_str(&std::fs::read_to_string(&path).unwrap()).unwrap();
    list["items"][0].clone()
}

/// A whole object of each kind, by the name of the kind.
fn whole(kind: &str) -> Value {
    match kind {
        "Pod" => {
            let mut pod = recorded("list_pods");
            pod["spec"]["hostNetwork"] = true.into();
            pod["spec"]["nodeSelector"] = json!({"a": "b"});
            pod["spec"]["volumes"]
                .as_array_mut()
                .unwrap()
                .extend([json!({"name": "a"}), json!({"name": "b", "hostPath": {"path": "/x"}})]);
            let container = &mut pod["spec"]["containers"][0];
            container["ports"] = json!([{"containerPort": 80, "name": "http"}]);
            container["readinessProbe"] = json!({"httpGet": {"port": 80}});
            container["resources"] = json!({"limits": {"cpu": 1}, "requests": {"memory": "1Mi"}});
            container["env"] = json!([{"name": "A", "valueFrom": {"fieldRef": {"fieldPath": "spec.nodeName"}}}]);
            pod["spec"]["initContainers"] = json!([container.clone()]);
            pod
        }
        "Service" => {
            let mut service = recorded("list_services");
            service["spec"]["sessionAffinity"] = "ClientIP".into();
            service["spec"]["externalIPs"] = json!(["1.2.3.4"]);
            service["spec"]["selector"] = json!({"a": "b"});
            service
        }
        "Node" => {
            let mut node = recorded("list_nodes");
            node["spec"]["taints"] = json!([{"key": "a", "effect": "NoSchedule"}]);
            node
        }
        "Namespace" => recorded("list_namespaces"),
        "Deployment" | "ReplicaSet" => recorded("list_deployments"),
        "EndpointSlice" => recorded("list_endpointslices"),
        "Lease" => recorded("list_leases"),
        "IPAddress" => recorded("list_ipaddresses"),
        _ => json!({"metadata": {"name": "a", "namespace": "b"}, "data": {"a": "b"}, "binaryData": {"c": "ZA=="}}),
    }
}

fn paths(value: &Value, path: &str, all: &mut Vec<String>) {
    all.push(path.to_owned());
    match value {
        Value::Object(fields) => {
            for (key, value) in fields {
                paths(value, &format!("{path}/{}", key.replace('~', "~0").replace('/', "~1")), all);
            }
        }
        Value::Array(items) => {
            for (index, value) in items.iter().enumerate() {
                paths(value, &format!("{path}/{index}"), all);
            }
        }
        _ => {}
    }
}

fn anything() -> impl Strategy<Value = Value> {
    prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        "[ -~]{0,12}".prop_map(Value::from),
        Just("é".repeat(200).into()),
        Just(json!([])),
        Just(json!({})),
        Just(json!(["x", 1, null, {}])),
        Just(json!({"name": [], "spec": 1, "limits": "x", "matchLabels": {"a": 1}})),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn no_object_makes_a_rule_panic(
        which in any::<prop::sample::Index>(),
        edits in prop::collection::vec((any::<prop::sample::Index>(), anything()), 0..4),
    ) {
        let registry = Registry::builtin();
        let kinds: Vec<_> = registry.all().collect();
        let kind = which.get(&kinds);
        let mut old = whole(&kind.kind);
        kind.default(&mut old);
        let mut object = old.clone();
        for (place, value) in edits {
            let mut all = Vec::new();
            paths(&object, "", &mut all);
            *object.pointer_mut(place.get::<String>(&all)).unwrap() = value;
        }
        let mut defaulted = object.clone();
        kind.default(&mut defaulted);
        let mut twice = defaulted.clone();
        kind.default(&mut twice);
        prop_assert_eq!(&twice, &defaulted);
        kind.unknown_fields(&object);
        let typed = kind.check_types(&object).is_ok();
        kind.validate(&defaulted, None);
        kind.validate(&defaulted, Some(&old));
        for column in &kind.columns {
            (column.cell)(&object, Timestamp::UNIX_EPOCH);
        }
        for field in &kind.fields {
            (field.value)(&object);
        }
        // What comes next is only done with objects whose fields have the right types.
        if typed {
            let mut new = defaulted.clone();
            kind.prepare_for_create(&mut new);
            for prepare in [
                diolkos_api::kind::Kind::prepare_for_update,
                diolkos_api::kind::Kind::prepare_for_status_update,
                diolkos_api::kind::Kind::prepare_for_finalize,
            ] {
                prepare(kind, &mut defaulted.clone(), &old);
                prepare(kind, &mut old.clone(), &defaulted);
            }
        }
    }
}
