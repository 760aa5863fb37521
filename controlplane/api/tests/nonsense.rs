//! No JSON, however wrong, makes the rules of a kind panic: writers send what they like.
#![allow(clippy::unwrap_used)]

use diolkos_api::Timestamp;
use diolkos_api::kind::{Kind, Registry};
use proptest::prelude::*;
use serde::Deserialize as _;
use serde_json::{Value, json};

fn recorded(name: &str) -> Value {
    let path = format!("{}/tests/fixtures/{name}.json", env!("CARGO_MANIFEST_DIR"));
    let list: Value = serde_json::from_str(&std::fs::read_to_string(&path).unwrap()).unwrap();
    list["items"][0].clone()
}

/// An object of each kind that is kept, as its writer sends it.
fn objects() -> Vec<Value> {
    let path = format!("{}/tests/fixtures/every_kind.yaml", env!("CARGO_MANIFEST_DIR"));
    let text = std::fs::read_to_string(path).unwrap();
    serde_yaml_ng::Deserializer::from_str(&text).map(|document| Value::deserialize(document).unwrap()).collect()
}

/// A whole object of the kind: what a real server keeps, where that was recorded.
fn whole(kind: &Kind) -> Value {
    let mut object = match (kind.group.as_str(), kind.kind.as_str()) {
        ("", "Pod") => with_more(recorded("list_pods"), &own(kind)),
        ("", "Service") => recorded("list_services"),
        ("", "Node") => recorded("list_nodes"),
        ("", "Namespace") => recorded("list_namespaces"),
        ("apps", "Deployment") => recorded("list_deployments"),
        ("discovery.k8s.io", "EndpointSlice") => recorded("list_endpointslices"),
        _ => own(kind),
    };
    if kind.namespaced {
        object["metadata"]["namespace"] = "default".into();
    }
    object
}

fn own(kind: &Kind) -> Value {
    let same = |object: &Value| object["kind"] == kind.kind.as_str() && object["apiVersion"] == kind.api_version();
    // Reviews are never kept, and have no rules but those of their types.
    objects().into_iter().find(same).unwrap_or_else(|| json!({"metadata": {}, "spec": {}}))
}

/// What was recorded, with the specification of a richer one.
fn with_more(mut recorded: Value, richer: &Value) -> Value {
    recorded["spec"] = richer["spec"].clone();
    recorded
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
        let mut old = whole(kind);
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
        kind.cells(&object, Timestamp::UNIX_EPOCH);
        kind.warnings(&object);
        for convert in [Kind::to_storage, Kind::from_storage] {
            convert(kind, &mut object.clone());
        }
        for field in &kind.fields {
            (field.value)(&object);
        }
        // What comes next is only done with objects whose fields have the right types.
        if typed {
            let mut new = defaulted.clone();
            kind.prepare_for_create(&mut new);
            kind.identify(&mut new, "u", "2026-11-20T07:00:00Z");
            for part in ["approval", "ephemeralcontainers", "binding"] {
                kind.prepare_for_part_update(part, &mut defaulted.clone(), &old);
                let _ = kind.check_part(part, &defaulted, Some(&old));
            }
            for prepare in [
                Kind::prepare_for_update,
                Kind::prepare_for_status_update,
                Kind::prepare_for_finalize,
            ] {
                prepare(kind, &mut defaulted.clone(), &old);
                prepare(kind, &mut old.clone(), &defaulted);
            }
        }
    }
}
