//! Create, read, update, patch, list: over gRPC and REST.

use diolkos_api::client::ListOptions;
use diolkos_api::wire;
use k8s_openapi::api::core::v1::{ConfigMap, Pod};
use serde_json::{Value, json};

use crate::harness::{Server, config_map, key, pod};

const MAPS: &str = "/api/v1/namespaces/default/configmaps";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_one_protocol_writes_the_other_reads() {
    let server = Server::start().await;
    let (rest, client) = (server.admin_rest(), server.admin());
    let maps = client.api::<ConfigMap>(Some("default"));
    let created = rest.post(MAPS, &config_map("a", "x", "1")).await;
    assert_eq!(created.code, 201);
    let mut typed = maps.get("a").await.unwrap();
    assert_eq!(typed.metadata.uid.as_deref(), created.json()["metadata"]["uid"].as_str());
    assert!(typed.metadata.creation_timestamp.is_some() && typed.metadata.resource_version.is_some());
    typed.data.as_mut().unwrap().insert("y".into(), "2".into());
    let updated = maps.update(&typed).await.unwrap();
    let read = rest.get(&format!("{MAPS}/a")).await.json();
    assert_eq!(read["data"], json!({"x": "1", "y": "2"}));
    assert_eq!(read["metadata"]["resourceVersion"].as_str(), updated.metadata.resource_version.as_deref());
    maps.delete("a", &Default::default()).await.unwrap();
    assert_eq!(rest.get(&format!("{MAPS}/a")).await.code, 404);
    assert!(maps.get_opt("a").await.unwrap().is_none());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_write_keeps_unknown_fields_and_the_order_of_keys_and_drops_nulls() {
    let server = Server::start().await;
    let rest = server.admin_rest();
    let mut object = pod("odd", "");
    object["spec"]["futureField"] = json!({"z": 1, "a": [2]});
    object["metadata"]["annotations"] = Value::Null;
    let created = rest.post("/api/v1/namespaces/default/pods", &object).await;
    assert_eq!(created.headers["warning"], "299 - \"unknown field \\\"spec.futureField\\\"\"");
    let read = rest.get("/api/v1/namespaces/default/pods/odd").await.json();
    assert_eq!(read["spec"]["futureField"].to_string(), r#"{"z":1,"a":[2]}"#);
    assert!(read["metadata"].get("annotations").is_none());
    assert_eq!(read["status"]["phase"], "Pending");
    assert_eq!(read["spec"]["restartPolicy"], "Always");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn names_are_generated_when_asked_for() {
    let server = Server::start().await;
    let rest = server.admin_rest();
    let object = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"generateName": "gen-"}});
    let names: Vec<String> = [rest.post(MAPS, &object).await, rest.post(MAPS, &object).await]
        .iter()
        .map(|answer| answer.json()["metadata"]["name"].as_str().unwrap().to_owned())
        .collect();
    assert!(names.iter().all(|name| name.len() == 9 && name.starts_with("gen-")), "{names:?}");
    assert_ne!(names[0], names[1]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dry_run_answers_like_the_write_and_writes_nothing() {
    let server = Server::start().await;
    let rest = server.admin_rest();
    let answer = rest.post(&format!("{MAPS}?dryRun=All"), &config_map("dry", "a", "b")).await;
    assert_eq!(answer.code, 201);
    assert!(answer.json()["metadata"]["uid"].is_string());
    assert_eq!(rest.get(&format!("{MAPS}/dry")).await.code, 404);
    rest.post(MAPS, &config_map("wet", "a", "b")).await;
    assert_eq!(rest.delete(&format!("{MAPS}/wet?dryRun=All"), &Value::Null).await.code, 200);
    assert_eq!(rest.get(&format!("{MAPS}/wet")).await.code, 200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_paged_list_is_one_list_at_one_version() {
    let server = Server::start().await;
    let rest = server.admin_rest();
    for index in 0..7 {
        assert_eq!(rest.post(MAPS, &config_map(&format!("m{index}"), "a", "b")).await.code, 201);
    }
    let mut page = rest.get(&format!("{MAPS}?limit=3")).await.json();
    let version = page["metadata"]["resourceVersion"].clone();
    assert_eq!(page["metadata"]["remainingItemCount"], 4);
    // What happens between the pages is not part of the list.
    rest.delete(&format!("{MAPS}/m5"), &Value::Null).await;
    rest.post(MAPS, &config_map("m55", "a", "b")).await;
    let mut names = Vec::new();
    loop {
        assert_eq!(page["metadata"]["resourceVersion"], version);
        names.extend(page["items"].as_array().unwrap().iter().map(|item| item["metadata"]["name"].clone()));
        let Some(token) = page["metadata"]["continue"].as_str() else { break };
        page = rest.get(&format!("{MAPS}?limit=3&continue={token}")).await.json();
    }
    assert_eq!(names, ["m0", "m1", "m2", "m3", "m4", "m5", "m6"]);
    assert_eq!(page["kind"], "ConfigMapList");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn selectors_choose_in_lists_of_both_protocols() {
    let server = Server::start().await;
    let (rest, client) = (server.admin_rest(), server.admin());
    for (name, node) in [("a", "n1"), ("b", "n2"), ("c", "")] {
        assert_eq!(rest.post("/api/v1/namespaces/default/pods", &pod(name, node)).await.code, 201);
    }
    let pods = client.api::<Pod>(None);
    let names = async |options: ListOptions| -> Vec<String> {
        pods.list(&options).await.unwrap().0.into_iter().map(|pod| pod.metadata.name.unwrap()).collect()
    };
    assert_eq!(names(ListOptions::default()).await, ["a", "b", "c"]);
    assert_eq!(names(ListOptions::labels("app in (a,c)")).await, ["a", "c"]);
    assert_eq!(names(ListOptions::fields("spec.nodeName=n2")).await, ["b"]);
    assert_eq!(names(ListOptions::fields("metadata.name=c,metadata.namespace=default")).await, ["c"]);
    let selected = rest.get("/api/v1/pods?labelSelector=app%21%3Da&fieldSelector=spec.nodeName%21%3D&limit=1").await;
    assert_eq!(selected.json()["items"][0]["metadata"]["name"], "b");
    assert!(selected.json()["metadata"].get("continue").is_none());
    // kube-rs sends an empty pair, and a page with a selector goes on.
    let first = rest.get("/api/v1/pods?&limit=1&labelSelector=app").await.json();
    let token = first["metadata"]["continue"].as_str().unwrap();
    let second = rest.get(&format!("/api/v1/pods?limit=1&labelSelector=app&continue={token}")).await.json();
    assert_eq!(second["items"][0]["metadata"]["name"], "b");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn patches_of_each_type_change_the_object() {
    let server = Server::start().await;
    let rest = server.admin_rest();
    let path = "/apis/apps/v1/namespaces/default/deployments";
    let labels = json!({"app": "web"});
    let container = |name: &str| json!({"name": name, "image": "i:1"});
    let deployment = json!({
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web"},
        "spec": {"selector": {"matchLabels": labels}, "template": {"metadata": {"labels": labels},
                 "spec": {"containers": [container("web"), container("side")]}}},
    });
    let created = rest.post(path, &deployment).await;
    assert_eq!(created.code, 201, "{}", created.json());
    assert_eq!(created.json()["metadata"]["generation"], 1);
    let web = format!("{path}/web");
    let patch = json!({"spec": {"template": {"spec": {
        "$setElementOrder/containers": [{"name": "extra"}, {"name": "web"}],
        "containers": [{"name": "extra", "image": "e:1"}, {"name": "web", "image": "i:2"}, {"name": "side", "$patch": "delete"}],
    }}}});
    let patched = rest.patch("strategic-merge-patch", &web, &patch).await.json();
    let containers = patched["spec"]["template"]["spec"]["containers"].as_array().unwrap();
    let names: Vec<_> = containers.iter().map(|container| container["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["extra", "web"], "{patched}");
    assert_eq!(containers[1]["image"], "i:2");
    assert_eq!(patched["metadata"]["generation"], 2);
    let patched = rest.patch("merge-patch", &web, &json!({"metadata": {"labels": {"a": "b"}}})).await.json();
    assert_eq!((&patched["metadata"]["labels"]["a"], &patched["metadata"]["generation"]), (&json!("b"), &json!(2)));
    let operations = json!([{"op": "replace", "path": "/spec/replicas", "value": 5}]);
    assert_eq!(rest.patch("json-patch", &web, &operations).await.json()["spec"]["replicas"], 5);
    let unchanged = rest.patch("merge-patch", &web, &json!({"spec": {"replicas": 5}})).await.json();
    let before = rest.get(&web).await.json();
    assert_eq!(unchanged["metadata"]["resourceVersion"], before["metadata"]["resourceVersion"]);
    let scaled = rest.patch("merge-patch", &format!("{web}/scale"), &json!({"spec": {"replicas": 7}})).await.json();
    assert_eq!((&scaled["kind"], &scaled["spec"]["replicas"]), (&json!("Scale"), &json!(7)));
    assert_eq!(rest.get(&format!("{web}/scale")).await.json()["status"]["selector"], "app=web");
    let renamed = rest.patch("merge-patch", &web, &json!({"metadata": {"name": "other"}})).await;
    assert_eq!(renamed.code, 422);
    assert_eq!(rest.patch("merge-patch", &format!("{path}/none"), &json!({})).await.code, 404);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn status_and_spec_are_written_apart() {
    let server = Server::start().await;
    let rest = server.admin_rest();
    let path = "/api/v1/namespaces/default/pods";
    let mut created = rest.post(path, &pod("p", "")).await.json();
    created["status"]["phase"] = "Running".into();
    created["spec"]["priority"] = 7.into();
    let status = rest.put(&format!("{path}/p/status"), &created).await.json();
    assert_eq!((&status["status"]["phase"], &status["spec"]["priority"]), (&json!("Running"), &json!(0)));
    let mut again = status.clone();
    again["status"]["phase"] = "Failed".into();
    again["metadata"]["labels"] = json!({"new": "label"});
    let updated = rest.put(&format!("{path}/p"), &again).await.json();
    assert_eq!(updated["status"]["phase"], "Running");
    assert_eq!(updated["metadata"]["labels"], json!({"new": "label"}));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pod_is_bound_once() {
    let server = Server::start().await;
    let client = server.admin();
    let pods = client.api::<Pod>(Some("default"));
    let created: Pod = serde_json::from_value(pod("p", "")).unwrap();
    let created = pods.create(&created).await.unwrap();
    pods.bind(&created, "n1").await.unwrap();
    let bound = pods.get("p").await.unwrap();
    assert_eq!(bound.spec.unwrap().node_name.as_deref(), Some("n1"));
    let conditions = bound.status.unwrap().conditions.unwrap();
    assert!(conditions.iter().any(|condition| condition.type_ == "PodScheduled" && condition.status == "True"));
    let failure = pods.bind(&created, "n2").await.unwrap_err();
    assert_eq!((failure.code(), failure.reason()), (409, "Conflict"));
    assert!(failure.to_string().contains("pod p is already assigned to node \"n1\""), "{failure}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn yaml_is_read_and_written() {
    let server = Server::start().await;
    let rest = server.admin_rest();
    let yaml = "apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: y\ndata:\n  a: \"1\"\n";
    let headers = [("content-type", "application/yaml"), ("accept", "application/yaml")];
    let answer = rest.send(http::Method::POST, MAPS, &headers, yaml).await;
    assert_eq!(answer.code, 201);
    assert_eq!(answer.headers["content-type"], "application/yaml");
    assert!(String::from_utf8_lossy(&answer.body).contains("data:\n  a: '1'\n"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn large_lists_come_in_pages_over_grpc() {
    let server = Server::start().await;
    let rest = server.admin_rest();
    let value = "x".repeat(400 << 10);
    for index in 0..6 {
        assert_eq!(rest.post(MAPS, &config_map(&format!("big{index}"), "a", &value)).await.code, 201);
    }
    let request = wire::ListRequest { key: key("", "configmaps", "default", ""), ..wire::ListRequest::default() };
    let mut pages = server.admin().raw().list(request).await.unwrap().into_inner();
    let (mut count, mut items, mut versions) = (0, 0, Vec::new());
    while let Some(page) = pages.message().await.unwrap() {
        count += 1;
        items += page.items.len();
        versions.push(page.resource_version);
    }
    assert_eq!((count, items), (3, 6));
    assert!(versions.iter().all(|version| *version == versions[0] && *version > 0));
}
