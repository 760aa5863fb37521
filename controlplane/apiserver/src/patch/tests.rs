#![allow(clippy::unwrap_used)]

use diolkos_api::kind::Registry;
use serde_json::json;

use super::*;

fn strategic(group: &str, plural: &str, mut object: Value, patch: Value) -> Result<Value, Failure> {
    let kind = Registry::builtin().find(group, "v1", plural).unwrap();
    Patch::parse(Type::StrategicMerge, patch.to_string().as_bytes())?.apply(&kind, "x", &mut object)?;
    Ok(object)
}

fn names(list: &Value) -> Vec<&str> {
    list.as_array().unwrap().iter().map(|item| item["name"].as_str().unwrap()).collect()
}

fn pod(containers: &[&str]) -> Value {
    let containers: Vec<Value> = containers.iter().map(|name| json!({"name": name, "image": "old"})).collect();
    json!({"spec": {"containers": containers, "nodeName": "n"}})
}

#[test]
fn containers_merge_by_name_and_keep_their_order() {
    let patch = json!({"spec": {"containers": [{"name": "b", "image": "new"}]}});
    let patched = strategic("", "pods", pod(&["a", "b", "c"]), patch).unwrap();
    assert_eq!(names(&patched["spec"]["containers"]), ["a", "b", "c"]);
    assert_eq!(patched["spec"]["containers"][1]["image"], "new");
    assert_eq!(patched["spec"]["containers"][0]["image"], "old");
}

#[test]
fn patch_delete_removes_an_element_by_its_key() {
    let patch = json!({"spec": {"containers": [{"name": "b", "$patch": "delete"}, {"name": "d"}]}});
    let patched = strategic("", "pods", pod(&["a", "b"]), patch).unwrap();
    assert_eq!(names(&patched["spec"]["containers"]), ["a", "d"]);
}

#[test]
fn set_element_order_orders_old_and_new_elements() {
    let patch = json!({"spec": {
        "$setElementOrder/containers": [{"name": "c"}, {"name": "new"}, {"name": "a"}],
        "containers": [{"name": "new", "image": "x"}, {"name": "b", "$patch": "delete"}],
    }});
    let patched = strategic("", "pods", pod(&["a", "b", "c"]), patch).unwrap();
    assert_eq!(names(&patched["spec"]["containers"]), ["c", "new", "a"]);
    assert!(patched["spec"].get("$setElementOrder/containers").is_none());
}

#[test]
fn elements_that_the_order_does_not_name_stay_before_their_followers() {
    let patch = json!({"spec": {"$setElementOrder/containers": [{"name": "a"}, {"name": "c"}]}});
    let patched = strategic("", "pods", pod(&["server", "a", "c"]), patch).unwrap();
    assert_eq!(names(&patched["spec"]["containers"]), ["server", "a", "c"]);
}

#[test]
fn patch_replace_takes_the_whole_list_or_object() {
    let patch = json!({"spec": {"containers": [{"$patch": "replace"}, {"name": "only", "x": null}]}});
    let patched = strategic("", "pods", pod(&["a", "b"]), patch).unwrap();
    assert_eq!(patched["spec"]["containers"], json!([{"name": "only"}]));
    let patch = json!({"spec": {"$patch": "replace", "nodeName": "m"}});
    assert_eq!(strategic("", "pods", pod(&["a"]), patch).unwrap(), json!({"spec": {"nodeName": "m"}}));
}

#[test]
fn retain_keys_drops_the_other_keys() {
    let object = json!({"spec": {"strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1}}}});
    let patch = json!({"spec": {"strategy": {"$retainKeys": ["type"], "type": "Recreate"}}});
    let patched = strategic("apps", "deployments", object, patch).unwrap();
    assert_eq!(patched, json!({"spec": {"strategy": {"type": "Recreate"}}}));
}

#[test]
fn the_template_of_a_deployment_merges_like_a_pod() {
    let object = json!({"spec": {"template": pod(&["web", "sidecar"])}});
    let patch = json!({"spec": {"template": {"spec": {"containers": [
        {"name": "web", "ports": [{"containerPort": 80}], "env": [{"name": "A", "value": "1"}]},
    ]}}}});
    let patched = strategic("apps", "deployments", object, patch).unwrap();
    let containers = &patched["spec"]["template"]["spec"]["containers"];
    assert_eq!(names(containers), ["web", "sidecar"]);
    assert_eq!(containers[0]["env"], json!([{"name": "A", "value": "1"}]));
}

#[test]
fn finalizers_are_a_set_with_deletions() {
    let object = json!({"metadata": {"finalizers": ["a", "b"]}});
    let patch = json!({"metadata": {"finalizers": ["c"], "$deleteFromPrimitiveList/finalizers": ["a"]}});
    let patched = strategic("", "pods", object, patch).unwrap();
    assert_eq!(patched["metadata"]["finalizers"], json!(["b", "c"]));
}

#[test]
fn conditions_merge_by_type_and_plain_lists_are_replaced() {
    let object = json!({"status": {"conditions": [{"type": "Ready", "status": "False"}, {"type": "Disk"}]},
                        "spec": {"taints": [{"key": "a"}]}});
    let patch = json!({"status": {"conditions": [{"type": "Ready", "status": "True"}]}, "spec": {"taints": null}});
    let patched = strategic("", "nodes", object, patch).unwrap();
    assert_eq!(patched["status"]["conditions"], json!([{"type": "Ready", "status": "True"}, {"type": "Disk"}]));
    assert_eq!(patched["spec"], json!({}));
}

#[test]
fn an_element_without_its_merge_key_is_refused() {
    let patch = json!({"spec": {"containers": [{"image": "x"}]}});
    let failure = strategic("", "pods", pod(&["a"]), patch).unwrap_err();
    assert_eq!(failure.code(), 400);
    assert!(failure.to_string().contains("merge key name"), "{failure}");
}

#[test]
fn a_merge_patch_deletes_with_null_and_keeps_the_order_of_keys() {
    let kind = Registry::builtin().find("", "v1", "configmaps").unwrap();
    let mut object = json!({"data": {"a": "1", "b": "2", "c": "3"}});
    let patch = Patch::parse(Type::Merge, br#"{"data":{"a":null,"d":"4"}}"#).unwrap();
    patch.apply(&kind, "x", &mut object).unwrap();
    assert_eq!(object.to_string(), r#"{"data":{"b":"2","c":"3","d":"4"}}"#);
}

#[test]
fn a_json_patch_whose_test_fails_changes_nothing_and_is_invalid() {
    let kind = Registry::builtin().find("", "v1", "configmaps").unwrap();
    let mut object = json!({"data": {"a": "1"}});
    let patch = br#"[{"op":"add","path":"/data/b","value":"2"},{"op":"test","path":"/data/a","value":"9"}]"#;
    let failure = Patch::parse(Type::Json, patch).unwrap().apply(&kind, "x", &mut object).unwrap_err();
    assert_eq!(failure.code(), 422);
    assert_eq!(object, json!({"data": {"a": "1"}}));
}

fn json_patch(object: &Value, operations: Value) -> Result<Value, String> {
    let kind = Registry::builtin().find("", "v1", "configmaps").unwrap();
    let mut object = object.clone();
    let patch = Patch::parse(Type::Json, operations.to_string().as_bytes()).unwrap();
    patch.apply(&kind, "x", &mut object).map_err(|failure| failure.to_string())?;
    Ok(object)
}

#[test]
fn copies_in_a_json_patch_cannot_grow_an_object_without_end() {
    let object = json!({"data": {"a": ["x".repeat(1000)]}});
    let double = json!({"op": "copy", "from": "/data/a", "path": "/data/a/-"});
    let why = json_patch(&object, Value::Array(vec![double; 40])).unwrap_err();
    assert!(why.contains("copies and moves more than 3145728 bytes"), "{why}");
    assert!(why.contains("operation 1"), "it says which: {why}");
}

#[test]
fn copies_in_a_json_patch_cannot_nest_an_object_without_end() {
    let mut path = "/data".to_owned();
    let mut operations = Vec::new();
    for _ in 0..17 {
        path.push_str("/x");
        operations.push(json!({"op": "copy", "from": "/data", "path": path}));
    }
    let deeper = json!({"op": "copy", "from": "/data", "path": format!("/data{}", "/x".repeat(17))});
    operations.extend(vec![deeper; 20]);
    let why = json_patch(&json!({"data": {"a": "b"}}), operations.into()).unwrap_err();
    assert!(why.contains("levels deep"), "{why}");
}

#[test]
fn a_move_into_itself_before_a_failing_test_is_an_error_like_others() {
    let operations = json!([
        {"op": "move", "from": "/data/a", "path": "/data"},
        {"op": "test", "path": "/data", "value": "nothing"},
    ]);
    json_patch(&json!({"data": {"a": {"b": "c"}}}), operations).unwrap_err();
    json_patch(&json!({"data": {"a": "b"}}), json!([{"op": "move", "from": "/data", "path": "/data/a"}])).unwrap_err();
}

#[test]
fn no_kind_of_patch_leaves_more_levels_than_can_be_read_again() {
    let mut deep = json!("x");
    for _ in 0..119 {
        deep = json!({"x": deep});
    }
    let kind = Registry::builtin().find("", "v1", "configmaps").unwrap();
    for form in [Type::Merge, Type::StrategicMerge] {
        let text = json!({"y": deep}).to_string();
        let why = Patch::parse(form, text.as_bytes()).unwrap().apply(&kind, "x", &mut json!({})).unwrap_err();
        assert_eq!((why.code(), why.to_string().contains("levels deep")), (400, true), "{why}");
        Patch::parse(form, deep.to_string().as_bytes()).unwrap().apply(&kind, "x", &mut json!({})).unwrap();
    }
}

#[test]
fn lists_too_long_to_be_compared_are_refused_and_not_tried() {
    let finalizers: Vec<String> = (0..400_000).map(|n| format!("f{n}")).collect();
    for patch in [
        json!({"metadata": {"finalizers": finalizers}}),
        json!({"metadata": {"$setElementOrder/finalizers": finalizers, "finalizers": ["a"]}}),
        json!({"metadata": {"$deleteFromPrimitiveList/finalizers": finalizers}}),
    ] {
        let object = json!({"metadata": {"finalizers": (0..20).collect::<Vec<_>>()}});
        let why = strategic("", "configmaps", object, patch).unwrap_err();
        assert_eq!((why.code(), why.to_string().contains("too long to be merged")), (400, true), "{why}");
    }
}
