//! Strict decoding: unknown fields by their paths, wrong types in the words of Kubernetes' decoder.

use serde_json::{Value, json};

use crate::{deployment, kind, pod, wrong};

#[test]
fn unknown_fields_are_found_wherever_they_are() {
    let kind = kind("apps/v1", "Deployment");
    let mut object = deployment();
    assert_eq!(kind.unknown_fields(&object), Vec::<String>::new());
    object["spec"]["replicaCount"] = 3.into();
    object["spec"]["template"]["spec"]["containers"][0]["ports"][0]["port"] = 80.into();
    object["spec"]["template"]["metadata"]["creationTimestamp"] = Value::Null;
    object["extra"] = json!({});
    assert_eq!(
        kind.unknown_fields(&object),
        ["spec.template.spec.containers[0].ports[0].port", "spec.replicaCount", "extra"]
    );
}

/// What Kubernetes answers to an edit of a Deployment, after "... cannot be handled as a Deployment: ".
fn refused(pointer: &str, value: Value) -> String {
    let mut object = deployment();
    let (parent, field) = pointer.rsplit_once('/').unwrap();
    object.pointer_mut(parent).unwrap()[field] = value;
    let failure = kind("apps/v1", "Deployment").check_types(&object).unwrap_err();
    assert_eq!(failure.code(), 400);
    let text = failure.to_string();
    text.strip_prefix("Deployment in version \"v1\" cannot be handled as a Deployment: ").unwrap().to_owned()
}

#[test]
fn a_field_of_a_wrong_type_is_a_bad_request_in_kubernetes_words() {
    for (pointer, value, expected) in [
        ("/spec/replicas", json!("three"), "string into Go struct field DeploymentSpec.spec.replicas of type int32"),
        ("/spec/replicas", json!(1.5), "number 1.5 into Go struct field DeploymentSpec.spec.replicas of type int32"),
        (
            "/spec/replicas",
            json!(3_000_000_000_i64),
            "number 3000000000 into Go struct field DeploymentSpec.spec.replicas of type int32",
        ),
        ("/spec/paused", json!("yes"), "string into Go struct field DeploymentSpec.spec.paused of type bool"),
        ("/spec", json!([]), "array into Go struct field Deployment.spec of type v1.DeploymentSpec"),
        (
            "/spec/selector",
            json!("a=b"),
            "string into Go struct field DeploymentSpec.spec.selector of type v1.LabelSelector",
        ),
        (
            "/metadata/labels",
            json!(["a"]),
            "array into Go struct field ObjectMeta.metadata.labels of type map[string]string",
        ),
        (
            "/spec/template/spec/containers",
            json!({}),
            "object into Go struct field PodSpec.spec.template.spec.containers of type []v1.Container",
        ),
    ] {
        assert_eq!(refused(pointer, value.clone()), format!("json: cannot unmarshal {expected}"), "{pointer} {value}");
    }
    let mut object = deployment();
    object["metadata"]["labels"] = json!({"a": 1});
    assert!(wrong(&object, None)[0].contains("number into Go struct field ObjectMeta.metadata.labels of type string"));
    object["metadata"]["labels"] = json!({});
    object["spec"]["template"]["spec"]["containers"][0]["env"] = json!([{"name": "A", "value": 1}]);
    assert!(
        wrong(&object, None)[0]
            .contains("number into Go struct field EnvVar.spec.template.spec.containers.env.value of type string")
    );
}

#[test]
fn values_that_read_themselves_say_what_they_are() {
    let mut object =
        pod(json!({"containers": [{"name": "c", "image": "a", "resources": {"limits": {"cpu": "much"}}}]}));
    let refused = |object: &Value| kind("v1", "Pod").check_types(object).unwrap_err().to_string();
    assert!(
        refused(&object)
            .ends_with("quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'")
    );
    object["spec"]["containers"][0]["resources"] = json!({"limits": {"cpu": 2, "memory": "1Gi"}});
    assert_eq!(kind("v1", "Pod").unknown_fields(&object), Vec::<String>::new());
    object["metadata"]["creationTimestamp"] = "today".into();
    assert!(refused(&object).contains("parsing time \"today\" as \"2006-01-02T15:04:05Z07:00\""));
    let secret = json!({"apiVersion": "v1", "kind": "Secret", "data": {"a": "no base64"}});
    let failure = kind("v1", "Secret").check_types(&secret).unwrap_err();
    assert_eq!(
        failure.to_string(),
        "Secret in version \"v1\" cannot be handled as a Secret: illegal base64 data at input byte 2"
    );
}

#[test]
fn a_null_in_a_list_is_refused_because_it_would_rest_there() {
    for (api_version, name, object, why) in [
        (
            "v1",
            "Service",
            json!({"spec": {"loadBalancerSourceRanges": ["10.0.0.0/8", null]}}),
            "null into Go struct field ServiceSpec.spec.loadBalancerSourceRanges of type string",
        ),
        (
            "v1",
            "Pod",
            json!({"spec": {"containers": [null]}}),
            "null into Go struct field PodSpec.spec.containers of type v1.Container",
        ),
        (
            "v1",
            "Node",
            json!({"status": {"images": [{"names": [null]}]}}),
            "null into Go struct field ContainerImage.status.images.names of type string",
        ),
    ] {
        let failure = kind(api_version, name).check_types(&object).unwrap_err();
        assert_eq!(failure.code(), 400);
        assert!(failure.to_string().ends_with(why), "{failure}");
    }
}

#[test]
fn what_a_plain_client_cannot_read_is_not_kept() {
    let kind = kind("v1", "Service");
    let mut service = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "a"}});
    kind.check_readable(&service).unwrap();
    service["spec"] = json!({"loadBalancerSourceRanges": [null]});
    let failure = kind.check_readable(&service).unwrap_err();
    assert_eq!(failure.code(), 400);
    assert!(failure.to_string().starts_with("the Service cannot be kept: "), "{failure}");
}
