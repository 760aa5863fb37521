//! The scans over JSON bytes, against serde_json.

use proptest::prelude::*;
use serde_json::{Map, Value, json};

use super::super::json::{prune, with_resource_version, without_managed_fields};

fn spliced(json: &str, revision: i64) -> Option<String> {
    with_resource_version(json.as_bytes(), revision).map(|bytes| String::from_utf8(bytes.to_vec()).unwrap())
}

#[test]
fn a_revision_goes_first_into_metadata() {
    let cases = [
        (r#"{"metadata":{}}"#, r#"{"metadata":{"resourceVersion":"7"}}"#),
        (r#"{"metadata":{ }}"#, r#"{"metadata":{"resourceVersion":"7" }}"#),
        (r#"{"metadata":{"name":"a"}}"#, r#"{"metadata":{"resourceVersion":"7","name":"a"}}"#),
        (
            " {\"kind\" : \"A\\\"}\" ,\n \"metadata\" : { \"name\" : \"a\" } , \"spec\":[{}] } ",
            " {\"kind\" : \"A\\\"}\" ,\n \"metadata\" : {\"resourceVersion\":\"7\", \"name\" : \"a\" } , \"spec\":[{}] } ",
        ),
        (
            r#"{"spec":{"metadata":{}},"metadata":{"name":"b"}}"#,
            r#"{"spec":{"metadata":{}},"metadata":{"resourceVersion":"7","name":"b"}}"#,
        ),
    ];
    for (json, wanted) in cases {
        assert_eq!(spliced(json, 7).as_deref(), Some(wanted));
    }
}

#[test]
fn a_revision_that_is_there_is_replaced_in_its_place() {
    let json = r#"{"metadata":{"name":"a","resourceVersion":"12345","uid":"x"}}"#;
    assert_eq!(spliced(json, 6).unwrap(), r#"{"metadata":{"name":"a","resourceVersion":"6","uid":"x"}}"#);
    assert_eq!(
        spliced(r#"{"metadata":{"resourceVersion":null}}"#, 6).unwrap(),
        r#"{"metadata":{"resourceVersion":"6"}}"#
    );
}

#[test]
fn what_is_not_an_object_with_metadata_has_no_place_for_a_revision() {
    for json in
        ["", "{", "{}", "[]", "null", r#"{"metadata":null}"#, r#"{"metadata":[]}"#, r#"{"metadata":{"#, r#"{"a"}"#]
    {
        assert_eq!(spliced(json, 1), None, "{json}");
    }
}

#[test]
fn only_asked_members_are_looked_up() {
    let pod = br#"{"spec":{"nodeName":"n1","containers":[{"name":"c"}],"x":{"y":1}},"status":null,"z":"{"}"#;
    let paths = ["spec.nodeName", "spec.x.y", "spec.x.none", "spec.none.deep", "status.phase", "z.deep"];
    let wanted = json!({"spec": {"nodeName": "n1", "x": {"y": 1}}, "status": null, "z": null});
    assert_eq!(prune(pod, &paths), Some(wanted));
    assert_eq!(prune(b"{\"spec\":{\"nodeName\":bad}}", &["spec.nodeName"]), None);
}

/// Any JSON value, with the names that matter here among the names of members.
fn value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<String>().prop_map(Value::from),
        Just(Value::from("\\\"}{][,:\\")),
    ];
    leaf.prop_recursive(4, 40, 6, |inner| {
        let object = prop::collection::vec((name(), inner.clone()), 0..6);
        prop_oneof![
            prop::collection::vec(inner, 0..6).prop_map(Value::from),
            object.prop_map(|members| Value::Object(members.into_iter().collect())),
        ]
    })
}

fn name() -> impl Strategy<Value = String> {
    let known = ["metadata", "managedFields", "resourceVersion", "labels", "spec", "nodeName", "name", ""];
    prop_oneof![prop::sample::select(known.to_vec()).prop_map(str::to_owned), any::<String>()]
}

/// An object with metadata, encoded compactly or with white space.
fn object() -> impl Strategy<Value = (Value, String)> {
    let members = prop::collection::vec((name(), value()), 0..5);
    let metadata = prop::collection::vec((name(), value()), 0..5);
    (members, metadata, any::<bool>()).prop_map(|(members, metadata, pretty)| {
        let mut object: Map<String, Value> = members.into_iter().collect();
        object.insert("metadata".into(), Value::Object(metadata.into_iter().collect()));
        let object = Value::Object(object);
        let text = if pretty { serde_json::to_string_pretty(&object) } else { serde_json::to_string(&object) };
        (object, text.unwrap())
    })
}

proptest! {
    #[test]
    fn a_splice_is_what_decoding_and_encoding_would_give((mut object, text) in object(), revision in 0_i64..) {
        let decoded: Value = serde_json::from_str(&spliced(&text, revision).unwrap()).unwrap();
        object["metadata"]["resourceVersion"] = revision.to_string().into();
        prop_assert_eq!(decoded, object);
    }

    #[test]
    fn managed_fields_are_cut_and_nothing_else((mut object, text) in object()) {
        let lean = without_managed_fields(&text.clone().into());
        let had = object["metadata"].as_object_mut().unwrap().remove("managedFields").is_some();
        prop_assert_eq!(serde_json::from_slice::<Value>(&lean).unwrap(), object);
        prop_assert_eq!(lean == text, !had);
    }

    #[test]
    fn a_lookup_finds_what_decoding_finds((object, text) in object()) {
        let pruned = prune(text.as_bytes(), &["metadata.labels", "spec.nodeName", "metadata.name"]).unwrap();
        for (first, second) in [("metadata", "labels"), ("spec", "nodeName"), ("metadata", "name")] {
            let wanted = object.get(first).and_then(|inner| inner.get(second));
            prop_assert_eq!(pruned.get(first).and_then(|inner| inner.get(second)), wanted);
        }
    }

    #[test]
    fn no_bytes_make_a_scan_panic(bytes in prop::collection::vec(prop::sample::select(b"{}[]\":,\\ametadata1 \n".to_vec()), 0..60)) {
        let _ = with_resource_version(&bytes, 1);
        let _ = prune(&bytes, &["metadata.a", "a"]);
        let _ = without_managed_fields(&bytes.into());
    }
}
