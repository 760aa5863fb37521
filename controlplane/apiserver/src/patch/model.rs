//! Merge and strategic merge patches beside models of what they mean.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;

use diolkos_api::kind::Registry;
use proptest::prelude::*;
use serde_json::json;

use super::*;

/// A place in an object, and what is there.
type Leaves = BTreeMap<Vec<String>, Value>;

fn scalar() -> impl Strategy<Value = Value> {
    prop_oneof![any::<bool>().prop_map(Value::from), (0..3_i64).prop_map(Value::from), "[a-b]".prop_map(Value::from)]
}

/// Objects of a few fields; with nulls where `nulls` says so.
fn object(nulls: bool) -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        6 => scalar(),
        1 => prop::collection::vec(scalar(), 0..3).prop_map(Value::Array),
        2 => Just(()).prop_map(move |()| if nulls { Value::Null } else { 7.into() }),
    ];
    let fields = |value: BoxedStrategy<Value>| {
        prop::collection::btree_map("[a-d]", value, 0..4).prop_map(|fields| Value::Object(fields.into_iter().collect()))
    };
    leaf.prop_recursive(3, 24, 4, move |inner| fields(inner.boxed()).boxed())
        .prop_flat_map(move |value| fields(Just(value).boxed()).boxed())
}

/// Every leaf by its path; an empty object is one.
fn leaves(value: &Value, path: &mut Vec<String>, into: &mut Leaves) {
    match value {
        Value::Object(fields) if !fields.is_empty() => {
            for (name, value) in fields {
                path.push(name.clone());
                leaves(value, path, into);
                path.pop();
            }
        }
        other => drop(into.insert(path.clone(), other.clone())),
    }
}

fn leaves_of(value: &Value) -> Leaves {
    let mut all = Leaves::new();
    leaves(value, &mut Vec::new(), &mut all);
    all
}

/// What a merge patch means, said of leaves: one of the patch replaces all at, above and below its path.
fn merged_leaves(object: &Value, patch: &Value) -> Leaves {
    let mut result = leaves_of(object);
    for (path, value) in leaves_of(patch) {
        let covers = |own: &Vec<String>| own.starts_with(&path) || path.starts_with(own);
        if value == json!({}) && result.keys().any(|own| own.starts_with(&path) && own.len() > path.len()) {
            // An empty object asks for an object, and there is one.
            continue;
        }
        result.retain(|own, _| !covers(own));
        if !value.is_null() {
            result.insert(path, value);
        }
    }
    result
}

/// Without objects that hold nothing: a patch that only deletes may leave such.
fn bare(leaves: Leaves) -> Leaves {
    leaves.into_iter().filter(|(_, value)| *value != json!({})).collect()
}

fn apply(kind: Type, plural: &str, object: &Value, patch: &Value) -> Value {
    let registered = Registry::builtin().find("", "v1", plural).unwrap();
    let mut patched = object.clone();
    Patch::parse(kind, patch.to_string().as_bytes()).unwrap().apply(&registered, "x", &mut patched).unwrap();
    patched
}

/// The patch that makes `new` of `old`.
fn difference(old: &Value, new: &Value) -> Value {
    let (Value::Object(own), Value::Object(theirs)) = (old, new) else { return new.clone() };
    let mut patch = Map::new();
    for name in own.keys().filter(|name| !theirs.contains_key(*name)) {
        patch.insert(name.clone(), Value::Null);
    }
    for (name, value) in theirs {
        match own.get(name) {
            Some(same) if same == value => {}
            Some(other) if other.is_object() && value.is_object() => {
                patch.insert(name.clone(), difference(other, value));
            }
            // The patch of what is no object begins with an empty one.
            _ => drop(patch.insert(name.clone(), value.clone())),
        }
    }
    Value::Object(patch)
}

proptest! {
    #[test]
    fn a_merge_patch_sets_and_deletes_the_leaves_that_it_names(object in object(false), patch in object(true)) {
        let patched = apply(Type::Merge, "configmaps", &object, &patch);
        prop_assert_eq!(bare(leaves_of(&patched)), bare(merged_leaves(&object, &patch)));
        prop_assert_eq!(apply(Type::Merge, "configmaps", &patched, &patch), patched.clone(), "again it changes nothing");
        let kept = |object: &Value| -> Vec<String> {
            let names = object.as_object().unwrap().keys();
            names.filter(|name| patched.get(*name).is_some()).cloned().collect()
        };
        let order: Vec<String> = patched.as_object().unwrap().keys().take(kept(&object).len()).cloned().collect();
        prop_assert_eq!(kept(&object), order, "keys keep their places");
    }

    #[test]
    fn the_difference_of_two_objects_as_a_patch_makes_one_of_the_other(old in object(false), new in object(false)) {
        let patch = difference(&old, &new);
        prop_assert_eq!(apply(Type::Merge, "configmaps", &old, &patch), new.clone());
        prop_assert_eq!(apply(Type::StrategicMerge, "configmaps", &old, &patch), new, "no list merges in these");
    }

    #[test]
    fn a_strategic_patch_changes_adds_and_deletes_elements_by_their_key(
        old in prop::collection::btree_map("[a-f]", 0..3_u8, 0..5),
        changes in prop::collection::btree_map("[a-f]", prop::option::of(0..3_u8), 0..5),
    ) {
        let elements: Vec<Value> = old.iter().map(|(name, image)| json!({"name": name, "image": image, "tty": true})).collect();
        let patch: Vec<Value> = changes.iter().map(|(name, change)| match change {
            Some(image) => json!({"name": name, "image": image}),
            None => json!({"name": name, "$patch": "delete"}),
        }).collect();
        let pod = json!({"spec": {"containers": elements}});
        let patched = apply(Type::StrategicMerge, "pods", &pod, &json!({"spec": {"containers": patch}}));
        let mut model: BTreeMap<String, (u8, bool)> = old.iter().map(|(name, image)| (name.clone(), (*image, true))).collect();
        for (name, change) in &changes {
            match change {
                Some(image) => model.entry(name.clone()).or_insert((0, false)).0 = *image,
                None => drop(model.remove(name)),
            }
        }
        let got = patched["spec"]["containers"].as_array().unwrap();
        let seen: BTreeMap<String, (u8, bool)> = got.iter().map(|own| {
            let image = u8::try_from(own["image"].as_u64().unwrap()).unwrap();
            (own["name"].as_str().unwrap().to_owned(), (image, own["tty"] == true))
        }).collect();
        prop_assert_eq!(seen.len(), got.len(), "no element is there twice");
        prop_assert_eq!(seen, model);
    }

    #[test]
    fn a_strategic_patch_puts_elements_into_the_order_that_it_names(
        old in prop::sample::subsequence(vec!["a", "b", "c", "d", "e"], 0..=5).prop_shuffle(),
        order in prop::sample::subsequence(vec!["a", "b", "c", "d", "e"], 0..=5).prop_shuffle(),
    ) {
        let elements = |names: &[&str]| -> Vec<Value> { names.iter().map(|name| json!({"name": name})).collect() };
        let pod = json!({"spec": {"containers": elements(&old)}});
        let patch = json!({"spec": {"$setElementOrder/containers": elements(&order)}});
        let patched = apply(Type::StrategicMerge, "pods", &pod, &patch);
        let names: Vec<&str> = patched["spec"]["containers"].as_array().unwrap().iter().map(|own| own["name"].as_str().unwrap()).collect();
        let named: Vec<&str> = names.iter().filter(|name| order.contains(name)).copied().collect();
        let wanted: Vec<&str> = order.iter().filter(|name| old.contains(name)).copied().collect();
        prop_assert_eq!(named, wanted);
        let rest = |list: &[&str]| -> Vec<String> {
            list.iter().filter(|name| !order.contains(name)).map(|name| (*name).to_owned()).collect()
        };
        prop_assert_eq!(rest(&names), rest(&old), "what it does not name keeps its order");
    }
}
