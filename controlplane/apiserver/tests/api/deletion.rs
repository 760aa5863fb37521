//! Delete: grace, finalizers, collections.

use diolkos_api::wire;
use serde_json::{Value, json};

use crate::harness::{Server, config_map, key, pod};

const PODS: &str = "/api/v1/namespaces/default/pods";
const MAPS: &str = "/api/v1/namespaces/default/configmaps";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pod_on_a_node_waits_for_its_kubelet() {
    let server = Server::start().await;
    let rest = server.admin_rest();
    rest.post(PODS, &pod("bound", "n1")).await;
    rest.post(PODS, &pod("free", "")).await;
    assert_eq!(rest.delete(&format!("{PODS}/free"), &Value::Null).await.code, 200);
    assert_eq!(rest.get(&format!("{PODS}/free")).await.code, 404);

    let marked = rest.delete(&format!("{PODS}/bound"), &json!({"propagationPolicy": "Background"})).await.json();
    assert!(marked["metadata"]["deletionTimestamp"].is_string());
    assert_eq!(marked["metadata"]["deletionGracePeriodSeconds"], 30);
    let again = rest.delete(&format!("{PODS}/bound"), &Value::Null).await.json();
    assert_eq!(again["metadata"], marked["metadata"]);
    let sooner = rest.delete(&format!("{PODS}/bound"), &json!({"gracePeriodSeconds": 5})).await.json();
    assert_eq!(sooner["metadata"]["deletionGracePeriodSeconds"], 5);
    // The kubelet's last word.
    assert_eq!(rest.delete(&format!("{PODS}/bound?gracePeriodSeconds=0"), &Value::Null).await.code, 200);
    assert_eq!(rest.get(&format!("{PODS}/bound")).await.code, 404);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn finalizers_keep_an_object_until_the_last_one_is_gone() {
    let server = Server::start().await;
    let rest = server.admin_rest();
    let mut map = config_map("kept", "a", "b");
    map["metadata"]["finalizers"] = json!(["example.org/a"]);
    rest.post(MAPS, &map).await;
    let path = format!("{MAPS}/kept");
    let marked = rest.delete(&path, &Value::Null).await.json();
    assert!(marked["metadata"]["deletionTimestamp"].is_string(), "{marked}");
    assert_eq!(rest.get(&path).await.code, 200);
    let last = rest.patch("merge-patch", &path, &json!({"metadata": {"finalizers": null}})).await;
    assert_eq!(last.code, 200, "{}", last.json());
    assert_eq!(rest.get(&path).await.code, 404);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_new_enters_a_namespace_on_its_way_out() {
    let server = Server::start().await;
    let rest = server.admin_rest();
    rest.post("/api/v1/namespaces", &json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "gone"}}))
        .await;
    let namespace = rest.delete("/api/v1/namespaces/gone", &Value::Null).await.json();
    assert_eq!(namespace["status"]["phase"], "Terminating");
    let answer = rest.post("/api/v1/namespaces/gone/configmaps", &config_map("a", "b", "c")).await;
    assert_eq!(answer.code, 403);
    let message = answer.json()["message"].as_str().unwrap().to_owned();
    assert!(message.contains("because it is being terminated"), "{message}");
    let mut emptied = namespace.clone();
    emptied["spec"]["finalizers"] = json!([]);
    emptied["metadata"].as_object_mut().unwrap().remove("resourceVersion");
    let finalized = rest.put("/api/v1/namespaces/gone/finalize", &emptied).await;
    assert_eq!(finalized.code, 200, "{}", finalized.json());
    assert_eq!(rest.get("/api/v1/namespaces/gone").await.code, 404);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_collection_is_deleted_by_its_labels() {
    let server = Server::start().await;
    let rest = server.admin_rest();
    for name in ["a", "b", "c"] {
        rest.post(PODS, &pod(name, "")).await;
    }
    let deleted = rest.delete(&format!("{PODS}?labelSelector=app+in+(a,c)"), &Value::Null).await;
    assert_eq!(deleted.json()["items"].as_array().unwrap().len(), 2, "{}", deleted.json());
    let left = rest.get(PODS).await.json();
    assert_eq!(left["items"].as_array().unwrap().len(), 1);
    assert_eq!(left["items"][0]["metadata"]["name"], "b");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn propagation_that_nobody_would_do_is_not_promised() {
    let server = Server::start().await;
    let rest = server.admin_rest();
    rest.post(MAPS, &config_map("a", "b", "c")).await;
    let answer = rest.delete(&format!("{MAPS}/a"), &json!({"propagationPolicy": "Orphan"})).await;
    assert_eq!(answer.code, 501);
    assert_eq!(rest.get(&format!("{MAPS}/a")).await.code, 200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_enters_a_namespace_that_went_since_it_was_looked_at() {
    let server = Server::start().await;
    let rest = server.admin_rest();
    let namespace = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "gone"}});
    rest.post("/api/v1/namespaces", &namespace).await;
    assert_eq!(rest.get("/api/v1/namespaces/gone").await.code, 200);
    // From here on the cache holds what is no longer so.
    server.store.hold_watches(true);
    let mut emptied = rest.delete("/api/v1/namespaces/gone", &Value::Null).await.json();
    let maps = "/api/v1/namespaces/gone/configmaps";
    assert_eq!(rest.post(maps, &config_map("a", "b", "c")).await.code, 403);
    emptied["spec"]["finalizers"] = json!([]);
    assert_eq!(rest.put("/api/v1/namespaces/gone/finalize", &emptied).await.code, 200);
    assert_eq!(rest.post(maps, &config_map("a", "b", "c")).await.code, 404);
    server.store.hold_watches(false);
    assert!(rest.get("/api/v1/configmaps").await.json()["items"].as_array().unwrap().is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_namespaces_of_the_system_stay() {
    let server = Server::start().await;
    let rest = server.admin_rest();
    for name in ["default", "kube-system", "kube-public"] {
        let answer = rest.delete(&format!("/api/v1/namespaces/{name}"), &Value::Null).await;
        assert_eq!(answer.code, 403);
        let message = format!("namespaces \"{name}\" is forbidden: this namespace may not be deleted");
        assert_eq!(answer.json()["message"], message);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_name_does_not_mean_a_whole_collection() {
    let server = Server::start().await;
    let rest = server.admin_rest();
    for name in ["a", "b"] {
        rest.post(MAPS, &config_map(name, "b", "c")).await;
    }
    let request = wire::DeleteRequest { key: key("", "configmaps", "default", "a"), ..wire::DeleteRequest::default() };
    let refused = server.admin().raw().delete_collection(request).await.unwrap_err();
    assert_eq!(refused.code(), tonic::Code::InvalidArgument, "{refused}");
    assert_eq!(rest.get(MAPS).await.json()["items"].as_array().unwrap().len(), 2);
}
