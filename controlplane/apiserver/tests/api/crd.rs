//! CustomResourceDefinitions and the objects of their kinds.

use http::{Method, StatusCode};
use serde_json::{Value, json};

use crate::harness::{Answer, PATIENCE, Rest, Server};

const DEFINITIONS: &str = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
const CRONTABS: &str = "/apis/stable.example.com/v1/namespaces/default/crontabs";

fn definition() -> Value {
    serde_json::from_str(include_str!("../fixtures/crontabs.json")).unwrap()
}

fn tab(name: &str, spec: Value) -> Value {
    json!({"apiVersion": "stable.example.com/v1", "kind": "CronTab", "metadata": {"name": name}, "spec": spec})
}

/// Asks until the answer is as it should be.
async fn until(rest: &Rest, path: &str, is: impl Fn(&Answer) -> bool) -> Answer {
    let deadline = tokio::time::Instant::now() + PATIENCE;
    loop {
        let answer = rest.get(path).await;
        if is(&answer) {
            return answer;
        }
        assert!(tokio::time::Instant::now() < deadline, "{path} is still {}", String::from_utf8_lossy(&answer.body));
        tokio::task::yield_now().await;
    }
}

async fn established(rest: &Rest) {
    let made = rest.post(DEFINITIONS, &definition()).await;
    assert_eq!(made.code, StatusCode::CREATED, "{}", made.json());
    until(rest, CRONTABS, |answer| answer.code == StatusCode::OK).await;
}

fn messages(answer: &Answer) -> Vec<String> {
    let body = answer.json();
    let causes = body["details"]["causes"].as_array().cloned().unwrap_or_default();
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    causes.iter().map(|cause| format!("{}: {}", text(&cause["field"]), text(&cause["message"]))).collect()
}

#[tokio::test]
async fn a_definition_is_established_and_its_kind_is_found_kept_pruned_and_defaulted() {
    let server = Server::start().await;
    let rest = server.admin_rest();
    established(&rest).await;
    let own = rest.get(&format!("{DEFINITIONS}/crontabs.stable.example.com")).await.json();
    let conditions: Vec<String> = own["status"]["conditions"]
        .as_array()
        .unwrap()
        .iter()
        .map(|own| format!("{}={}", own["type"].as_str().unwrap(), own["status"].as_str().unwrap()))
        .collect();
    assert_eq!(conditions, ["NamesAccepted=True", "Established=True"]);
    assert_eq!(own["status"]["acceptedNames"]["listKind"], "CronTabList");
    assert_eq!(own["status"]["storedVersions"], json!(["v1"]));
    let resources = rest.get("/apis/stable.example.com/v1").await.json();
    let names: Vec<&str> =
        resources["resources"].as_array().unwrap().iter().map(|own| own["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["crontabs", "crontabs/status", "crontabs/scale"]);
    assert_eq!(resources["resources"][0]["shortNames"], json!(["ct"]));
    let sent = json!({"cronSpec": "* * * * */5", "unknown": 1, "free": {"any": {"thing": [1]}}, "note": null, "hosts": [{"name": "a"}]});
    let made = rest.post(CRONTABS, &tab("one", sent.clone())).await;
    assert_eq!(made.code, StatusCode::CREATED, "{}", made.json());
    assert!(
        made.headers["warning"].to_str().unwrap().contains("unknown field \\\"spec.unknown\\\""),
        "{:?}",
        made.headers
    );
    let object = made.json();
    let spec = json!({"cronSpec": "* * * * */5", "free": {"any": {"thing": [1]}}, "note": null,
                      "hosts": [{"name": "a", "weight": 1}], "image": "busybox"});
    assert_eq!(object["spec"], spec);
    assert_eq!(object["metadata"]["generation"], 1);
    let strict = rest.post(&format!("{CRONTABS}?fieldValidation=Strict"), &tab("two", sent)).await;
    assert_eq!(strict.code, StatusCode::BAD_REQUEST);
    assert!(strict.json()["message"].as_str().unwrap().contains("unknown field \"spec.unknown\""), "{}", strict.json());
    let headers = [("accept", "application/json;as=Table;v=v1;g=meta.k8s.io")];
    let table = rest.send(Method::GET, CRONTABS, &headers, "").await.json();
    let columns: Vec<&str> =
        table["columnDefinitions"].as_array().unwrap().iter().map(|own| own["name"].as_str().unwrap()).collect();
    assert_eq!(columns, ["Name", "Spec", "Replicas", "Ready", "Age"]);
    assert_eq!(
        table["rows"][0]["cells"].as_array().unwrap()[..4],
        [json!("one"), json!("* * * * */5"), Value::Null, Value::Null]
    );
}

#[tokio::test]
async fn what_breaks_the_schema_is_refused_field_by_field() {
    let server = Server::start().await;
    let rest = server.admin_rest();
    established(&rest).await;
    let bad = json!({"cronSpec": "never", "policy": "Maybe", "replicas": 11, "port": true, "hosts": [{"name": "a"}, {"name": "a"}, {}]});
    let answer = rest.post(CRONTABS, &tab("x", bad)).await;
    assert_eq!(answer.code, StatusCode::UNPROCESSABLE_ENTITY);
    let expected = [
        "spec.cronSpec: Invalid value: \"never\": spec.cronSpec in body should match '^(\\d+|\\*)(/\\d+)?(\\s+(\\d+|\\*)(/\\d+)?){4}$'",
        "spec.policy: Unsupported value: \"Maybe\": supported values: \"Allow\", \"Forbid\"",
        "spec.replicas: Invalid value: 11: spec.replicas in body should be less than or equal to 10",
        "spec.port: Invalid value: \"boolean\": spec.port in body must be of type integer,string: \"boolean\"",
        "spec.hosts[1]: Duplicate value: {\"name\":\"a\"}",
        "spec.hosts[2].name: Required value",
    ];
    assert_eq!(messages(&answer), expected);
    let none = rest
        .post(CRONTABS, &json!({"apiVersion": "stable.example.com/v1", "kind": "CronTab", "metadata": {"name": "x"}}))
        .await;
    assert_eq!(messages(&none), ["spec: Required value"]);
    let labels = json!({"apiVersion": "stable.example.com/v1", "kind": "CronTab", "metadata": {"name": "x", "labels": {"a": 1}}});
    assert_eq!(rest.post(CRONTABS, &labels).await.code, StatusCode::BAD_REQUEST, "metadata has its own types");
}

#[tokio::test]
async fn status_scale_versions_patches_apply_and_watch_work_as_for_other_kinds() {
    let server = Server::start().await;
    let rest = server.admin_rest();
    established(&rest).await;
    let one = format!("{CRONTABS}/one");
    rest.post(CRONTABS, &tab("one", json!({"cronSpec": "* * * * *", "replicas": 2}))).await;
    let status = json!({"spec": {"replicas": 9}, "status": {"replicas": 2, "labelSelector": "a=b", "conditions": [{"type": "Ready", "status": "True"}]}});
    let written = rest.patch("merge-patch", &format!("{one}/status"), &status).await.json();
    assert_eq!((&written["spec"]["replicas"], &written["metadata"]["generation"]), (&json!(2), &json!(1)));
    let scale = rest.get(&format!("{one}/scale")).await.json();
    assert_eq!((&scale["spec"]["replicas"], &scale["status"]), (&json!(2), &json!({"replicas": 2, "selector": "a=b"})));
    rest.patch("merge-patch", &format!("{one}/scale"), &json!({"spec": {"replicas": 5}})).await;
    let scaled = rest.get(&one).await.json();
    assert_eq!((&scaled["spec"]["replicas"], &scaled["metadata"]["generation"]), (&json!(5), &json!(2)));
    let strategic = rest.patch("strategic-merge-patch", &one, &json!({})).await;
    assert_eq!(strategic.code, StatusCode::UNSUPPORTED_MEDIA_TYPE);
    let replaced =
        rest.patch("json-patch", &one, &json!([{"op": "add", "path": "/spec/policy", "value": "Forbid"}])).await.json();
    assert_eq!(replaced["spec"]["policy"], "Forbid");
    let beta = rest.get("/apis/stable.example.com/v1beta1/namespaces/default/crontabs/one").await;
    assert!(beta.headers["warning"].to_str().unwrap().contains("stable.example.com/v1beta1 CronTab is deprecated"));
    let mut object = beta.json();
    assert_eq!(object["apiVersion"], "stable.example.com/v1beta1");
    object["spec"]["image"] = "other".into();
    let put = rest.put("/apis/stable.example.com/v1beta1/namespaces/default/crontabs/one", &object).await;
    assert_eq!(
        (put.code, &put.json()["apiVersion"]),
        (StatusCode::OK, &json!("stable.example.com/v1beta1")),
        "{}",
        put.json()
    );
    assert_eq!(rest.get(&one).await.json()["spec"]["image"], "other");
    let apply = |manager: &str, host: &str| {
        let path = format!("{CRONTABS}/applied?fieldManager={manager}");
        let config = tab("applied", json!({"cronSpec": "* * * * *", "hosts": [{"name": host}]})).to_string();
        async move { server_apply(&path, &config).await }
    };
    async fn server_apply(path: &str, config: &str) -> (String, String) {
        (path.to_owned(), config.to_owned())
    }
    let headers = [("content-type", "application/apply-patch+yaml")];
    for (manager, host) in [("a", "x"), ("b", "y")] {
        let (path, config) = apply(manager, host).await;
        let answer = rest.send(Method::PATCH, &path, &headers, &config).await;
        assert!(answer.code.is_success(), "{}", answer.json());
    }
    let hosts = rest.get(&format!("{CRONTABS}/applied")).await.json()["spec"]["hosts"].clone();
    assert_eq!(
        hosts,
        json!([{"name": "x", "weight": 1}, {"name": "y", "weight": 1}]),
        "lists merge by the schema's keys"
    );
}

#[tokio::test]
async fn a_definition_goes_with_its_objects_and_not_before_them() {
    let server = Server::start().await;
    let rest = server.admin_rest();
    established(&rest).await;
    let mut held = tab("held", json!({"cronSpec": "* * * * *"}));
    held["metadata"]["finalizers"] = json!(["example.com/hold"]);
    rest.post(CRONTABS, &held).await;
    rest.post(CRONTABS, &tab("free", json!({"cronSpec": "* * * * *"}))).await;
    let name = format!("{DEFINITIONS}/crontabs.stable.example.com");
    let deleted = rest.delete(&name, &Value::Null).await.json();
    assert_eq!(deleted["metadata"]["finalizers"], json!(["customresourcecleanup.apiextensions.k8s.io"]));
    until(&rest, &format!("{CRONTABS}/free"), |answer| answer.code == StatusCode::NOT_FOUND).await;
    let late = rest.post(CRONTABS, &tab("late", json!({"cronSpec": "* * * * *"}))).await;
    assert_eq!(late.code, StatusCode::METHOD_NOT_ALLOWED, "{}", late.json());
    assert_eq!(rest.get(&name).await.code, StatusCode::OK, "one object is still there");
    rest.patch("merge-patch", &format!("{CRONTABS}/held"), &json!({"metadata": {"finalizers": null}})).await;
    until(&rest, &name, |answer| answer.code == StatusCode::NOT_FOUND).await;
    until(&rest, CRONTABS, |answer| answer.code == StatusCode::NOT_FOUND).await;
}

#[tokio::test]
async fn roles_give_custom_kinds_as_others() {
    let server = Server::start().await;
    let rest = server.admin_rest();
    established(&rest).await;
    let alice = server.rest("alice", &[]);
    assert_eq!(alice.get(CRONTABS).await.code, StatusCode::FORBIDDEN);
    let rbac = "/apis/rbac.authorization.k8s.io/v1/namespaces/default";
    let role = json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "Role", "metadata": {"name": "tabs"},
                      "rules": [{"apiGroups": ["stable.example.com"], "resources": ["crontabs"], "verbs": ["list"]}]});
    rest.post(&format!("{rbac}/roles"), &role).await;
    let binding = json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "RoleBinding", "metadata": {"name": "tabs"},
        "subjects": [{"kind": "User", "name": "alice", "apiGroup": "rbac.authorization.k8s.io"}],
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "tabs"}});
    rest.post(&format!("{rbac}/rolebindings"), &binding).await;
    until(&alice, CRONTABS, |answer| answer.code == StatusCode::OK).await;
    assert_eq!(alice.get(&format!("{CRONTABS}/x")).await.code, StatusCode::FORBIDDEN);
}

#[tokio::test]
async fn definitions_that_cannot_be_are_refused_and_say_why() {
    let server = Server::start().await;
    let rest = server.admin_rest();
    let with = |pointer: &str, value: Value| {
        let mut own = definition();
        let (parent, field) = pointer.rsplit_once('/').unwrap();
        own.pointer_mut(parent).unwrap()[field] = value;
        own
    };
    let spec = "/spec/versions/0/schema/openAPIV3Schema/properties/spec/properties";
    let cases = [
        (
            with("/metadata/name", json!("other.stable.example.com")),
            "metadata.name: Invalid value: \"other.stable.example.com\": must be spec.names.plural+\".\"+spec.group",
        ),
        (
            with("/spec/versions/1/storage", json!(true)),
            "spec.versions: Invalid value: [\"v1\",\"v1beta1\"]: must have exactly one version marked as storage version",
        ),
        (
            with("/spec/scope", json!("Both")),
            "spec.scope: Unsupported value: \"Both\": supported values: \"Cluster\", \"Namespaced\"",
        ),
        (
            with("/spec/conversion", json!({"strategy": "Webhook"})),
            "spec.conversion.strategy: Forbidden: this server calls no webhooks: it converts by changing the apiVersion alone, so the strategy has to be None",
        ),
        (
            with(&format!("{spec}/image"), json!({})),
            "spec.versions[0].schema.openAPIV3Schema.properties[spec].properties[image].type: Required value: must not be empty for specified object fields",
        ),
        (
            with(&format!("{spec}/image"), json!({"type": "array"})),
            "spec.versions[0].schema.openAPIV3Schema.properties[spec].properties[image].items: Required value: must be specified",
        ),
        (
            with(&format!("{spec}/image"), json!({"type": "string", "anyOf": [{"type": "string"}]})),
            "spec.versions[0].schema.openAPIV3Schema.properties[spec].properties[image].anyOf[0].type: Forbidden: must be empty to be structural",
        ),
        (
            with("/spec/versions/0/subresources/scale/specReplicasPath", json!(".status.x")),
            "spec.versions[0].subresources.scale.specReplicasPath: Invalid value: \".status.x\": should be a json path under .spec",
        ),
    ];
    for (definition, why) in cases {
        let answer = rest.post(DEFINITIONS, &definition).await;
        assert_eq!(messages(&answer), [why], "{}", answer.json());
    }
    let mut protected = definition();
    protected["spec"]["group"] = "stable.k8s.io".into();
    protected["metadata"]["name"] = "crontabs.stable.k8s.io".into();
    let refused = rest.post(DEFINITIONS, &protected).await;
    assert!(
        messages(&refused)[0].contains("protected groups must have approval annotation"),
        "{:?}",
        messages(&refused)
    );
    let rules = json!({"type": "string", "x-kubernetes-validations": [{"rule": "self != ''"}]});
    let warned = rest.post(DEFINITIONS, &with(&format!("{spec}/image"), rules)).await;
    assert_eq!(warned.code, StatusCode::CREATED, "{}", warned.json());
    assert!(warned.headers["warning"].to_str().unwrap().contains("this server does not evaluate them"));
}

#[tokio::test]
async fn names_that_another_definition_has_are_not_accepted_until_they_are_free() {
    let server = Server::start().await;
    let rest = server.admin_rest();
    established(&rest).await;
    let mut second = definition();
    second["metadata"]["name"] = "tables.stable.example.com".into();
    second["spec"]["names"] = json!({"plural": "tables", "kind": "CronTab", "shortNames": ["tb"]});
    rest.post(DEFINITIONS, &second).await;
    let path = format!("{DEFINITIONS}/tables.stable.example.com");
    let refused = |answer: &Answer| answer.json()["status"]["conditions"][0]["status"] == "False";
    let conditions = until(&rest, &path, refused).await.json()["status"]["conditions"].clone();
    assert_eq!(
        (&conditions[0]["type"], &conditions[0]["reason"]),
        (&json!("NamesAccepted"), &json!("MultipleConflicts"))
    );
    assert_eq!((&conditions[1]["type"], &conditions[1]["status"]), (&json!("Established"), &json!("False")));
    assert_eq!(rest.get("/apis/stable.example.com/v1/namespaces/default/tables").await.code, StatusCode::NOT_FOUND);
    rest.delete(&format!("{DEFINITIONS}/crontabs.stable.example.com"), &Value::Null).await;
    until(&rest, "/apis/stable.example.com/v1/namespaces/default/tables", |answer| answer.code == StatusCode::OK).await;
}

#[tokio::test]
async fn a_server_that_starts_serves_the_kinds_that_are_defined() {
    let store = {
        let server = Server::start().await;
        let rest = server.admin_rest();
        established(&rest).await;
        rest.post(CRONTABS, &tab("one", json!({"cronSpec": "* * * * *"}))).await;
        server.store.clone()
    };
    let server = Server::over(store, &["10.96.0.0/16"]).await;
    let listed = server.admin_rest().get(CRONTABS).await;
    assert_eq!(listed.code, StatusCode::OK);
    assert_eq!(
        (&listed.json()["kind"], &listed.json()["items"][0]["metadata"]["name"]),
        (&json!("CronTabList"), &json!("one"))
    );
}
