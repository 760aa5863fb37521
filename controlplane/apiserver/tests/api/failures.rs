//! Failures look as Kubernetes' do: compared with recorded ones, over REST, and the same over gRPC.

use diolkos_api::status::Failure;
use diolkos_api::wire;
use http::Method;
use serde_json::{Value, json};

use crate::harness::{Server, config_map, fixture, key, service};

const SERVICES: &str = "/api/v1/namespaces/default/services";
const JSON: &str = "application/json";

/// Everything that a client may look at. `exact`: the message too, where it says nothing of the server's language.
fn assert_same(name: &str, answer: &Value, exact: bool) {
    let recorded = fixture(name);
    for field in ["kind", "apiVersion", "status", "reason", "code"] {
        assert_eq!(answer[field], recorded[field], "{field} of {name}: {answer}");
    }
    // An empty object says as much as none.
    let details = |status: &Value| status["details"].as_object().cloned().unwrap_or_default();
    assert_eq!(details(answer), details(&recorded), "details of {name}");
    if exact {
        assert_eq!(answer["message"], recorded["message"], "message of {name}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn failures_of_rest_are_those_of_kubernetes() {
    let server = Server::start().await;
    let rest = server.admin_rest();
    let created = rest.post(SERVICES, &service("fx")).await;
    assert_eq!(created.code, 201, "{}", created.json());
    let bad_selector = "/api/v1/services?labelSelector=a%3D%3D%3D";
    let strict = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "st"},
                        "spec": {"ports": [{"port": 80}], "foo": 1}});
    let other_namespace = json!({"apiVersion": "v1", "kind": "Service",
                                 "metadata": {"name": "a", "namespace": "other"}, "spec": {"ports": [{"port": 1}]}});
    let mut old = created.json();
    old["metadata"]["resourceVersion"] = "1".into();
    let with_address = |name: &str, address: &str| {
        json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": name},
               "spec": {"ports": [{"port": if name == "b" { 80 } else { 70000 }}], "clusterIP": address}})
    };
    let moved = json!({"spec": {"clusterIP": "10.96.77.77", "clusterIPs": ["10.96.77.77"]}});
    let merge = "application/merge-patch+json";
    let fx = &format!("{SERVICES}/fx");
    let strictly = &format!("{SERVICES}?fieldValidation=Strict");
    let nope = &format!("{SERVICES}/nope");
    let part = &format!("{SERVICES}/kubernetes/nope");
    let nowhere = "/api/v1/namespaces/nons/services";
    let (get, post, put, patch) = (Method::GET, Method::POST, Method::PUT, Method::PATCH);
    let cases: Vec<(&str, bool, &Method, &str, &str, String)> = vec![
        ("err_400_badjson", false, &post, SERVICES, JSON, "{\"kind\":".into()),
        ("err_400_badrv", true, &get, "/api/v1/services?resourceVersion=abc", "", String::new()),
        ("err_400_fieldselector", true, &get, "/api/v1/services?fieldSelector=spec.foo%3Dbar", "", String::new()),
        ("err_400_nsmismatch", true, &post, SERVICES, JSON, other_namespace.to_string()),
        ("err_400_selector", true, &get, bad_selector, "", String::new()),
        ("err_400_strict", true, &post, strictly, JSON, strict.to_string()),
        ("err_404_ns_create", true, &post, nowhere, JSON, service("fx").to_string()),
        ("err_404_object", true, &get, nope, "", String::new()),
        ("err_404_subresource", true, &get, part, "", String::new()),
        ("err_405", true, &put, SERVICES, JSON, "{}".into()),
        ("err_409_already_exists", true, &post, SERVICES, JSON, service("fx").to_string()),
        ("err_409_conflict_rv", true, &put, fx, JSON, old.to_string()),
        ("err_415", false, &post, SERVICES, "text/plain", "x".into()),
        ("err_422_clusterip_range", true, &post, SERVICES, JSON, with_address("b", "1.2.3.4").to_string()),
        ("err_422_clusterip_taken", true, &post, SERVICES, JSON, with_address("b", "10.96.0.1").to_string()),
        ("err_422_immutable_clusterip", true, &patch, fx, merge, moved.to_string()),
        ("err_422_invalid", true, &post, SERVICES, JSON, with_address("Bad_Name", "1.2.3.4").to_string()),
    ];
    for (name, exact, method, path, content_type, body) in cases {
        let headers = [("content-type", content_type)];
        let answer = rest.send(method.clone(), path, if content_type.is_empty() { &[] } else { &headers }, &body).await;
        assert_eq!(i64::from(answer.code.as_u16()), fixture(name)["code"], "{name}");
        assert_same(name, &answer.json(), exact);
    }
    let xml = rest.send(Method::GET, "/api/v1/services", &[("accept", "application/xml")], "").await;
    assert_same("err_406", &xml.json(), false);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_unknown_path_is_plain_text() {
    let server = Server::start().await;
    let answer = server.admin_rest().get("/apis/nope.example.com/v1/foos").await;
    assert_eq!(answer.code, 404);
    assert_eq!(answer.headers["content-type"], "text/plain; charset=utf-8");
    assert_eq!(&answer.body[..], b"404 page not found\n");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn versions_that_are_gone_or_not_there_yet_say_so() {
    let server = Server::start().await;
    let rest = server.admin_rest();
    let first = rest.get("/api/v1/namespaces?limit=1").await.json();
    assert_eq!(first["items"].as_array().unwrap().len(), 1);
    let token = first["metadata"]["continue"].as_str().unwrap().to_owned();
    for round in 0..3 {
        rest.post("/api/v1/namespaces/default/configmaps", &config_map(&format!("c{round}"), "a", "b")).await;
    }
    let now = rest.get("/api/v1/configmaps").await.json()["metadata"]["resourceVersion"].clone();
    diolkos_store::Store::compact(&server.store, now.as_str().unwrap().parse().unwrap()).await.unwrap();
    let answer = rest.get(&format!("/api/v1/namespaces?limit=1&continue={token}")).await;
    assert_same("err_410_list_continue", &answer.json(), true);
    let rest_token = answer.json()["metadata"]["continue"].as_str().unwrap().to_owned();
    let rest_of_list = rest.get(&format!("/api/v1/namespaces?continue={rest_token}")).await.json();
    assert_eq!(rest_of_list["items"].as_array().unwrap().len(), 3, "{rest_of_list}");
    let answer = rest.get("/api/v1/services?resourceVersion=1&resourceVersionMatch=Exact").await;
    assert_same("err_410_list_exact_rv1", &answer.json(), true);

    let answer = rest.get("/api/v1/services?resourceVersion=99999999999").await;
    assert_eq!(answer.headers["retry-after"], "1");
    assert_same("err_504_future_rv", &answer.json(), false);
    let message = answer.json()["message"].as_str().unwrap().to_owned();
    assert!(message.starts_with("Timeout: Too large resource version: 99999999999, current: "), "{message}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_delete_with_a_wrong_uid_is_a_conflict() {
    let server = Server::start().await;
    let rest = server.admin_rest();
    let created = rest.post(SERVICES, &service("fx")).await.json();
    let wrong = json!({"preconditions": {"uid": "00000000-0000-0000-0000-000000000000"}});
    let answer = rest.delete(&format!("{SERVICES}/fx"), &wrong).await;
    assert_eq!(answer.code, 409);
    assert_same("err_422_delete_precond", &answer.json(), false);
    let recorded = fixture("err_422_delete_precond")["message"].as_str().unwrap().to_owned();
    let uid = created["metadata"]["uid"].as_str().unwrap();
    assert_eq!(answer.json()["message"], recorded.replace("bdac6a90-c69f-4c38-8f7a-9294e7ae0bb9", uid));
    let right = json!({"preconditions": {"uid": uid}});
    assert_eq!(rest.delete(&format!("{SERVICES}/fx"), &right).await.code, 200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_may_not_is_told_what_it_may_not() {
    let server = Server::start().await;
    let alice = server.rest("alice", &[]);
    assert_same("err_403_nonresource", &alice.get("/metrics").await.json(), true);
    assert_same("err_403_user", &alice.get("/api/v1/namespaces/default/pods").await.json(), true);
    assert_same("err_403_user_create", &alice.post(SERVICES, &service("fx")).await.json(), true);
    let nobody = server.rest_with(None);
    let answer = nobody.get("/api/v1/pods").await;
    assert_eq!(answer.code, 401);
    assert_same("err_401_badtoken", &answer.json(), true);
    let token = [("authorization", "Bearer nope")];
    let answer = server.admin_rest().send(Method::GET, "/api/v1/pods", &token, "").await;
    assert_same("err_401_badtoken", &answer.json(), true);
    assert_eq!(nobody.get("/healthz").await.body, "ok");
    assert_eq!(nobody.get("/readyz").await.body, "ok");
    assert_eq!(nobody.get("/version").await.code, 401);
    let metrics = server.admin_rest().get("/metrics").await;
    assert!(String::from_utf8_lossy(&metrics.body).contains("\ndiolkos_watch_cache_fills_total 1\n"));
    assert_eq!(alice.get("/version").await.code, 200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_body_that_is_too_large_is_413() {
    let server = Server::start().await;
    let rest = server.admin_rest();
    let path = "/api/v1/namespaces/default/configmaps";
    let answer = rest.post(path, &config_map("big", "a", &"x".repeat(3 << 20))).await;
    assert_eq!((answer.code.as_u16(), answer.json()["reason"].as_str()), (413, Some("RequestEntityTooLarge")));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn grpc_carries_the_same_status_as_rest() {
    let server = Server::start().await;
    let rest = server.admin_rest();
    let mut grpc = server.admin().raw();
    assert_eq!(rest.post(SERVICES, &service("fx")).await.code, 201);
    let write = |name: &str, object: Value| wire::WriteRequest {
        key: key("", "services", "default", name),
        json: object.to_string().into(),
        field_validation: "Strict".into(),
        ..wire::WriteRequest::default()
    };
    let mut bad_port = service("bad");
    bad_port["spec"]["ports"][0]["port"] = 70_000.into();
    let mut unknown = service("unknown");
    unknown["spec"]["foo"] = 1.into();
    for object in [service("fx"), bad_port, unknown] {
        let status = grpc.create(write("", object.clone())).await.unwrap_err();
        let answer = rest.post(&format!("{SERVICES}?fieldValidation=Strict"), &object).await;
        assert_eq!(Failure::from_grpc(status).to_json(), answer.body);
    }
    let mut old = service("fx");
    old["metadata"]["resourceVersion"] = "1".into();
    let status = grpc.update(write("fx", old.clone())).await.unwrap_err();
    assert_eq!(Failure::from_grpc(status).to_json(), rest.put(&format!("{SERVICES}/fx"), &old).await.body);

    let request = wire::GetRequest { key: key("", "services", "default", "nope"), ..wire::GetRequest::default() };
    let status = grpc.get(request).await.unwrap_err();
    assert_eq!(status.code(), tonic::Code::NotFound);
    assert_eq!(Failure::from_grpc(status).to_json(), rest.get(&format!("{SERVICES}/nope")).await.body);

    let alice = server.grpc("alice", &[]);
    let list = wire::ListRequest { key: key("", "pods", "default", ""), ..wire::ListRequest::default() };
    let status = alice.raw().list(list).await.unwrap_err();
    let answer = server.rest("alice", &[]).get("/api/v1/namespaces/default/pods").await;
    assert_eq!(Failure::from_grpc(status).to_json(), answer.body);

    let apply = |manager: &str, z: &str| wire::PatchRequest {
        key: key("", "services", "default", "fx"),
        r#type: wire::patch_request::Type::Apply.into(),
        patch: format!("{{apiVersion: v1, kind: Service, metadata: {{name: fx, labels: {{z: '{z}'}}}}}}").into(),
        field_manager: manager.into(),
        ..wire::PatchRequest::default()
    };
    grpc.patch(apply("me", "2")).await.unwrap();
    let conflict = Failure::from_grpc(grpc.patch(apply("other", "3")).await.unwrap_err());
    let recorded: Value = serde_json::from_str(include_str!("../fixtures/err_409_ssa_conflict.json")).unwrap();
    assert_eq!(serde_json::from_slice::<Value>(&conflict.to_json()).unwrap(), recorded);
}
