//! Delete: grace, finalizers, collections.

use diolkos_api::wire;
use serde_json::{Value, json};

use crate::harness::{Server, config_map, eventually, key, pod};

const PODS: &str = "/api/v1/namespaces/default/pods";
const MAPS: &str = "/api/v1/namespaces/default/configmaps";

fn names(list: &Value) -> Vec<String> {
    let name = |item: &Value| item["metadata"]["name"].as_str().unwrap().to_owned();
    list["items"].as_array().unwrap_or_else(|| panic!("{list}")).iter().map(name).collect()
}

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
    let cause = json!({
        "reason": "NamespaceTerminating",
        "message": "namespace gone is being terminated",
        "field": "metadata.namespace",
    });
    assert_eq!(answer.json()["details"]["causes"], json!([cause]));
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
async fn a_collection_is_deleted_page_by_page() {
    let server = Server::start().await;
    let rest = server.admin_rest();
    for name in ["a", "b", "c", "d", "e"] {
        rest.post(MAPS, &config_map(name, "a", "b")).await;
    }
    let first = rest.delete(&format!("{MAPS}?limit=2"), &Value::Null).await.json();
    assert_eq!((&first["kind"], &first["metadata"]["remainingItemCount"]), (&"ConfigMapList".into(), &3.into()));
    assert_eq!(names(&first), ["a", "b"]);
    assert_eq!(names(&rest.get(MAPS).await.json()), ["c", "d", "e"]);
    let token = first["metadata"]["continue"].as_str().unwrap();
    let second = rest.delete(&format!("{MAPS}?limit=2&continue={token}"), &Value::Null).await.json();
    assert_eq!(
        (names(&second), &second["metadata"]["resourceVersion"]),
        (vec!["c".to_owned(), "d".to_owned()], &first["metadata"]["resourceVersion"])
    );
    assert_eq!(names(&rest.get(MAPS).await.json()), ["e"]);
    let wrong = rest.delete(&format!("{MAPS}?resourceVersionMatch=Exact"), &Value::Null).await;
    assert_eq!(wrong.code, 422);
    assert_eq!(names(&rest.get(MAPS).await.json()), ["e"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_options_of_a_collection_count_for_each_of_its_objects() {
    let server = Server::start().await;
    let rest = server.admin_rest();
    rest.post(PODS, &pod("bound", "n1")).await;
    rest.post(PODS, &pod("free", "")).await;
    let mut kept = pod("kept", "");
    kept["metadata"]["finalizers"] = json!(["example.org/a"]);
    rest.post(PODS, &kept).await;
    let list = rest.get(PODS).await.json();

    let dry = rest.delete(PODS, &json!({"dryRun": ["All"]})).await.json();
    assert_eq!(names(&dry), ["bound", "free", "kept"]);
    assert_eq!(rest.get(PODS).await.json()["items"], list["items"]);

    let other = json!({"preconditions": {"uid": "00000000-0000-0000-0000-000000000000"}});
    assert_eq!(rest.delete(PODS, &other).await.code, 409);
    assert_eq!(rest.get(PODS).await.json()["items"], list["items"]);
    let of_free = json!({"preconditions": {"resourceVersion": list["items"][1]["metadata"]["resourceVersion"]}});
    let one = format!("{PODS}?fieldSelector=metadata.name%3Dfree");
    assert_eq!(names(&rest.delete(&one, &of_free).await.json()), ["free"]);

    let both = json!({"orphanDependents": false, "propagationPolicy": "Background"});
    let nonsense = json!({"propagationPolicy": "Sideways"});
    for (options, message) in [
        (
            both,
            "DeleteOptions.meta.k8s.io \"\" is invalid: propagationPolicy: Invalid value: \"Background\": orphanDependents and deletionPropagation cannot be both set",
        ),
        (
            nonsense,
            "DeleteOptions.meta.k8s.io \"\" is invalid: propagationPolicy: Unsupported value: \"Sideways\": supported values: \"Foreground\", \"Background\", \"Orphan\", \"nil\"",
        ),
    ] {
        let answer = rest.delete(PODS, &options).await;
        assert_eq!((answer.code.as_u16(), &answer.json()["message"]), (422, &message.into()));
    }

    let listed = rest.delete(PODS, &json!({"gracePeriodSeconds": 7, "propagationPolicy": "Background"})).await.json();
    // The answer tells what was there.
    assert!(listed["items"][0]["metadata"].get("deletionTimestamp").is_none());
    let left = rest.get(PODS).await.json();
    assert_eq!(names(&left), ["bound", "kept"]);
    assert_eq!(left["items"][0]["metadata"]["deletionGracePeriodSeconds"], 7);
    assert!(left["items"][1]["metadata"]["deletionTimestamp"].is_string());
    // A grace that makes no sense is the shortest.
    rest.delete(PODS, &json!({"gracePeriodSeconds": -5})).await;
    assert_eq!(rest.get(PODS).await.json()["items"][0]["metadata"]["deletionGracePeriodSeconds"], 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_collection_is_deleted_over_grpc_by_who_may() {
    let server = Server::start().await;
    let rest = server.admin_rest();
    for index in 0..1100 {
        assert_eq!(rest.post(MAPS, &config_map(&format!("m{index}"), "a", "b")).await.code, 201);
    }
    let request = wire::DeleteRequest { key: key("", "configmaps", "default", ""), ..wire::DeleteRequest::default() };
    let rules = |verb: &str| json!([{"apiGroups": [""], "resources": ["configmaps"], "verbs": [verb]}]);
    let role = json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "Role", "metadata": {"name": "r"}, "rules": rules("delete")});
    let binding = json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "RoleBinding", "metadata": {"name": "b"},
        "subjects": [{"kind": "User", "name": "alice", "apiGroup": "rbac.authorization.k8s.io"}],
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "r"}});
    let rbac = "/apis/rbac.authorization.k8s.io/v1/namespaces/default";
    rest.post(&format!("{rbac}/roles"), &role).await;
    rest.post(&format!("{rbac}/rolebindings"), &binding).await;
    // Who may delete each may not delete all.
    let alice = server.grpc("alice", &[]);
    let refused = alice.raw().delete_collection(request.clone()).await.unwrap_err();
    assert_eq!(refused.code(), tonic::Code::PermissionDenied);
    assert_eq!(server.rest("alice", &[]).delete(MAPS, &Value::Null).await.code, 403);
    let granted = json!({"rules": rules("deletecollection")});
    assert_eq!(rest.patch("merge-patch", &format!("{rbac}/roles/r"), &granted).await.code, 200);
    eventually("the role to count", async || {
        alice.raw().delete_collection(wire::DeleteRequest { dry_run: true, limit: 1, ..request.clone() }).await.is_ok()
    })
    .await;
    let mut pages = alice.raw().delete_collection(request).await.unwrap().into_inner();
    let mut counts = Vec::new();
    while let Some(page) = pages.message().await.unwrap() {
        counts.push(page.items.len());
    }
    assert_eq!(counts, [500, 500, 100]);
    assert!(rest.get(MAPS).await.json()["items"].as_array().unwrap().is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_gone_is_told_as_kubernetes_tells_it() {
    let server = Server::start().await;
    let rest = server.admin_rest();
    let made = rest.post(MAPS, &config_map("a", "b", "c")).await.json();
    let gone = rest.delete(&format!("{MAPS}/a"), &Value::Null).await.json();
    let told = json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success",
                      "details": {"name": "a", "kind": "configmaps", "uid": made["metadata"]["uid"]}});
    assert_eq!(gone, told);
    let lease = json!({"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": {"name": "l"}});
    let leases = "/apis/coordination.k8s.io/v1/namespaces/default/leases";
    rest.post(leases, &lease).await;
    let gone = rest.delete(&format!("{leases}/l"), &Value::Null).await.json();
    assert_eq!((&gone["kind"], &gone["details"]["group"]), (&"Status".into(), &"coordination.k8s.io".into()));
    rest.post(PODS, &pod("p", "")).await;
    assert_eq!(rest.delete(&format!("{PODS}/p"), &Value::Null).await.json()["kind"], "Pod");
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
