//! Server-side apply and the managers of fields.

use http::{Method, StatusCode};
use serde_json::{Value, json};

use crate::harness::{Answer, Rest, Server};

const SERVICES: &str = "/api/v1/namespaces/default/services";
const CONFIGMAPS: &str = "/api/v1/namespaces/default/configmaps";

async fn apply(rest: &Rest, path: &str, parameters: &str, config: &Value) -> Answer {
    let path = format!("{path}?{parameters}");
    rest.send(Method::PATCH, &path, &[("content-type", "application/apply-patch+yaml")], &config.to_string()).await
}

fn settings(data: &Value) -> Value {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "s"}, "data": data})
}

/// Manager, operation and fields of each entry.
fn owners(object: &Value) -> Vec<(String, String, Value)> {
    let entries = object["metadata"]["managedFields"].as_array().cloned().unwrap_or_default();
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    entries.iter().map(|own| (text(&own["manager"]), text(&own["operation"]), own["fieldsV1"].clone())).collect()
}

/// The object as a recording can be compared with: without what differs between clusters.
fn timeless(object: &Value) -> Value {
    let mut object = object.clone();
    let metadata = object["metadata"].as_object_mut().unwrap();
    for field in ["uid", "resourceVersion", "creationTimestamp"] {
        metadata.remove(field);
    }
    for field in ["clusterIP", "clusterIPs"] {
        object["spec"].as_object_mut().unwrap().remove(field);
    }
    for entry in object["metadata"]["managedFields"].as_array_mut().into_iter().flatten() {
        entry.as_object_mut().unwrap().remove("time");
    }
    object
}

#[tokio::test]
async fn a_recorded_session_of_apply_and_its_conflict_are_answered_as_kubernetes_does() {
    let server = Server::start().await;
    let rest = server.admin_rest();
    let curl = [("content-type", "application/json"), ("user-agent", "curl/8.5.0")];
    let created = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "fx", "labels": {"a": "b"}}, "spec": {
        "ports": [{"name": "q", "port": 81}, {"name": "p", "port": 80}]}});
    let answer = rest.send(Method::POST, SERVICES, &curl, &created.to_string()).await;
    assert_eq!(answer.code, StatusCode::CREATED, "{}", answer.json());
    let path = format!("{SERVICES}/fx");
    let config =
        |z: &str| json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "fx", "labels": {"z": z}}});
    let applied = apply(&rest, &path, "fieldManager=me", &config("2")).await;
    assert_eq!(applied.code, StatusCode::OK, "{}", applied.json());
    let recorded: Value = serde_json::from_str(include_str!("../fixtures/ok_apply_ssa.json")).unwrap();
    assert_eq!(timeless(&applied.json()), timeless(&recorded));
    let conflict = apply(&rest, &path, "fieldManager=other", &config("3")).await;
    assert_eq!(conflict.code, StatusCode::CONFLICT);
    let recorded: Value = serde_json::from_str(include_str!("../fixtures/err_409_ssa_conflict.json")).unwrap();
    assert_eq!(conflict.json(), recorded);
    let forced = apply(&rest, &path, "fieldManager=other&force=true", &config("3")).await.json();
    assert_eq!(forced["metadata"]["labels"], json!({"a": "b", "z": "3"}));
    let managers: Vec<String> = owners(&forced).into_iter().map(|own| own.0).collect();
    assert_eq!(managers, ["other", "curl"], "who lost all it had is gone");
}

#[tokio::test]
async fn apply_creates_changes_nothing_when_repeated_and_removes_what_was_given_up() {
    let server = Server::start().await;
    let rest = server.admin_rest();
    let path = format!("{CONFIGMAPS}/s");
    let created = apply(&rest, &path, "fieldManager=a", &settings(&json!({"x": "1", "y": "2"}))).await;
    assert_eq!(created.code, StatusCode::CREATED, "{}", created.json());
    let fields = json!({"f:data": {"f:x": {}, "f:y": {}}});
    assert_eq!(owners(&created.json()), [("a".into(), "Apply".into(), fields)]);
    let again = apply(&rest, &path, "fieldManager=a", &settings(&json!({"x": "1", "y": "2"}))).await;
    assert_eq!((again.code, again.json()), (StatusCode::OK, created.json()), "nothing was written");
    let other = apply(&rest, &path, "fieldManager=b", &settings(&json!({"y": "2", "z": "3"}))).await.json();
    assert_eq!(other["data"], json!({"x": "1", "y": "2", "z": "3"}), "an equal value is owned by both");
    let less = apply(&rest, &path, "fieldManager=a", &settings(&json!({}))).await.json();
    assert_eq!(less["data"], json!({"y": "2", "z": "3"}), "y has another owner");
    let conflict = apply(&rest, &path, "fieldManager=a", &settings(&json!({"y": "9", "z": "9"}))).await.json();
    let message = "Apply failed with 2 conflicts: conflicts with \"b\":\n- .data.y\n- .data.z";
    assert_eq!(conflict["message"], message);
    let dry = apply(&rest, &path, "fieldManager=a&force=true&dryRun=All", &settings(&json!({"y": "9"}))).await.json();
    assert_eq!(dry["data"]["y"], "9");
    assert_eq!(rest.get(&path).await.json(), less, "a dry run stores nothing");
}

#[tokio::test]
async fn what_updates_change_is_taken_from_appliers_without_a_conflict() {
    let server = Server::start().await;
    let rest = server.admin_rest();
    let path = format!("{CONFIGMAPS}/s");
    apply(&rest, &path, "fieldManager=a", &settings(&json!({"x": "1", "y": "2"}))).await;
    let patched =
        rest.patch("merge-patch", &format!("{path}?fieldManager=m"), &json!({"data": {"x": "7"}})).await.json();
    let expected = [
        ("a".into(), "Apply".into(), json!({"f:data": {"f:y": {}}})),
        ("m".into(), "Update".into(), json!({"f:data": {"f:x": {}}})),
    ];
    assert_eq!(owners(&patched), expected);
    let conflict = apply(&rest, &path, "fieldManager=a", &settings(&json!({"x": "1", "y": "2"}))).await.json();
    let text = conflict["message"].as_str().unwrap();
    assert!(text.starts_with("Apply failed with 1 conflict: conflict with \"m\" using v1 at 20"), "{text}");
    assert_eq!(conflict["details"]["causes"][0]["field"], ".data.x");
    let mut whole = patched;
    whole["data"] = json!({"y": "2"});
    let put = rest.put(&format!("{path}?fieldManager=p"), &whole).await.json();
    assert_eq!(
        owners(&put),
        [("a".into(), "Apply".into(), json!({"f:data": {"f:y": {}}}))],
        "who only removes owns nothing"
    );
}

#[tokio::test]
async fn status_and_scale_are_applied_to_their_own_part_and_noted_under_it() {
    let server = Server::start().await;
    let rest = server.admin_rest();
    let path = "/apis/apps/v1/namespaces/default/deployments/web";
    let config = json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web"}, "spec": {
        "replicas": 2, "selector": {"matchLabels": {"app": "web"}},
        "template": {"metadata": {"labels": {"app": "web"}}, "spec": {"containers": [{"name": "c", "image": "i"}]}}}});
    let created = apply(&rest, path, "fieldManager=a", &config).await;
    assert_eq!(created.code, StatusCode::CREATED, "{}", created.json());
    let status = json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web"},
                        "spec": {"replicas": 9}, "status": {"replicas": 2, "observedGeneration": 1}});
    let answer = apply(&rest, &format!("{path}/status"), "fieldManager=s&force=true", &status).await;
    assert_eq!(answer.code, StatusCode::OK, "{}", answer.json());
    let with_status = answer.json();
    assert_eq!((&with_status["spec"]["replicas"], &with_status["status"]["replicas"]), (&json!(2), &json!(2)));
    let entry = &with_status["metadata"]["managedFields"][1];
    assert_eq!((&entry["manager"], &entry["subresource"]), (&json!("s"), &json!("status")));
    assert_eq!(entry["fieldsV1"], json!({"f:status": {"f:observedGeneration": {}, "f:replicas": {}}}));
    let scale = |count: i32| json!({"apiVersion": "autoscaling/v1", "kind": "Scale", "metadata": {"name": "web"}, "spec": {"replicas": count}});
    let conflict = apply(&rest, &format!("{path}/scale"), "fieldManager=h", &scale(5)).await;
    assert_eq!(conflict.json()["details"]["causes"][0]["field"], ".spec.replicas", "{}", conflict.json());
    let scaled = apply(&rest, &format!("{path}/scale"), "fieldManager=h&force=true", &scale(5)).await;
    assert_eq!((scaled.code, &scaled.json()["spec"]["replicas"]), (StatusCode::OK, &json!(5)), "{}", scaled.json());
    let updated = rest.put(&format!("{path}/scale?fieldManager=u"), &scale(6)).await;
    assert_eq!(updated.code, StatusCode::OK, "{}", updated.json());
    let deployment = rest.get(path).await.json();
    let entries = deployment["metadata"]["managedFields"].as_array().unwrap().clone();
    let own = entries.iter().find(|entry| entry["subresource"] == "scale").unwrap();
    assert_eq!((&own["manager"], &own["fieldsV1"]), (&json!("u"), &json!({"f:spec": {"f:replicas": {}}})));
    assert_eq!((&deployment["metadata"]["generation"], &deployment["spec"]["replicas"]), (&json!(3), &json!(6)));
}

#[tokio::test]
async fn what_is_no_configuration_is_refused_and_says_why() {
    let server = Server::start().await;
    let rest = server.admin_rest();
    let path = format!("{CONFIGMAPS}/s");
    let x = settings(&json!({"x": "1"}));
    let refused = |answer: Answer, code: u16, text: &str| {
        let message = answer.json()["message"].as_str().unwrap_or_default().to_owned();
        assert_eq!((answer.code.as_u16(), message.contains(text)), (code, true), "{text}: {message}");
    };
    let nobody = apply(&rest, &path, "", &x).await;
    let text = "PatchOptions.meta.k8s.io \"\" is invalid: fieldManager: Required value: is required for apply patch";
    refused(nobody, 422, text);
    refused(apply(&rest, &path, &format!("fieldManager={}", "m".repeat(129)), &x).await, 422, "Too long");
    let forced = rest.patch("merge-patch", &format!("{path}?force=true"), &json!({})).await;
    refused(forced, 422, "force: Forbidden: may not be specified for non-apply patch");
    let with = |field: &str, value: Value| {
        let mut config = x.clone();
        *config.pointer_mut("/metadata").unwrap().as_object_mut().unwrap().entry(field).or_insert(Value::Null) = value;
        config
    };
    refused(
        apply(&rest, &path, "fieldManager=a", &with("managedFields", json!([]))).await,
        400,
        "managedFields must be nil",
    );
    refused(apply(&rest, &path, "fieldManager=a", &with("uid", json!("u"))).await, 409, "no existing object was found");
    refused(
        apply(&rest, &path, "fieldManager=a", &with("resourceVersion", json!("7"))).await,
        409,
        "has been modified",
    );
    refused(apply(&rest, &path, "fieldManager=a", &with("name", json!("other"))).await, 400, "does not match the name");
    refused(apply(&rest, &path, "fieldManager=a", &json!({"metadata": {}})).await, 400, "Object 'kind' is missing");
    let secret = json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "s"}});
    refused(apply(&rest, &path, "fieldManager=a", &secret).await, 400, "invalid object type: v1, Kind=Secret");
    let strict = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "s"}, "dada": {}});
    refused(apply(&rest, &path, "fieldManager=a&fieldValidation=Strict", &strict).await, 400, "unknown field \"dada\"");
    let ports = |ports: Value| json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "s"}, "spec": {"ports": ports}});
    let twice = ports(json!([{"port": 80}, {"port": 80, "protocol": "TCP"}]));
    let text = ".spec.ports: duplicate entries for key [port=80,protocol=\"TCP\"]";
    refused(apply(&rest, &format!("{SERVICES}/s"), "fieldManager=a", &twice).await, 400, text);
    let keyless = ports(json!([{"targetPort": 80}]));
    refused(apply(&rest, &format!("{SERVICES}/s"), "fieldManager=a", &keyless).await, 400, "none of its keys");
    let yaml = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: s}\ndata:\n  x: '1'\n";
    let headers = [("content-type", "application/apply-patch+yaml")];
    let made = rest.send(Method::PATCH, &format!("{path}?fieldManager=a"), &headers, yaml).await;
    assert_eq!((made.code, &made.json()["data"]["x"]), (StatusCode::CREATED, &json!("1")), "{}", made.json());
    let bad = rest.send(Method::PATCH, &format!("{path}?fieldManager=a"), &headers, "a: [").await;
    refused(bad, 400, "error decoding YAML");
}
