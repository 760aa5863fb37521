//! Watches over both protocols.

use std::pin::pin;

use diolkos_api::client::{Event, ListOptions, follow};
use diolkos_api::wire;
use diolkos_api::wire::watch_event::Type;
use k8s_openapi::api::core::v1::ConfigMap;
use serde_json::{Value, json};

use crate::harness::{Lines, PATIENCE, Server, config_map, fixture, key, pod};

const MAPS: &str = "/api/v1/namespaces/default/configmaps";

fn told(event: &Value) -> (String, String) {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    (text(&event["type"]), text(&event["object"]["metadata"]["name"]))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rest_watch_tells_what_was_and_what_happens() {
    let server = Server::start().await;
    let rest = server.admin_rest();
    rest.post(MAPS, &config_map("a", "x", "1")).await;
    let mut lines = Lines::open(&rest, &format!("{MAPS}?watch=true"), "").await;
    assert_eq!(told(&lines.next().await.unwrap()), ("ADDED".into(), "a".into()));
    let created = rest.post(MAPS, &config_map("b", "x", "1")).await.json();
    let event = lines.next().await.unwrap();
    assert_eq!(event["object"]["metadata"]["resourceVersion"], created["metadata"]["resourceVersion"]);
    assert_eq!(told(&event), ("ADDED".into(), "b".into()));
    rest.patch("merge-patch", &format!("{MAPS}/b"), &json!({"data": {"x": "2"}})).await;
    assert_eq!(told(&lines.next().await.unwrap()), ("MODIFIED".into(), "b".into()));
    rest.delete(&format!("{MAPS}/b"), &Value::Null).await;
    assert_eq!(told(&lines.next().await.unwrap()), ("DELETED".into(), "b".into()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_watch_resumes_after_a_version_and_ends_with_its_timeout() {
    let server = Server::start().await;
    let rest = server.admin_rest();
    let first = rest.post(MAPS, &config_map("a", "x", "1")).await.json();
    rest.post(MAPS, &config_map("b", "x", "1")).await;
    let version = first["metadata"]["resourceVersion"].as_str().unwrap();
    let path = format!("{MAPS}?watch=1&resourceVersion={version}&timeoutSeconds=1");
    let mut lines = Lines::open(&rest, &path, "").await;
    assert_eq!(told(&lines.next().await.unwrap()), ("ADDED".into(), "b".into()));
    assert_eq!(lines.next().await, None);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_object_that_leaves_the_selection_is_deleted_for_the_watcher() {
    let server = Server::start().await;
    let rest = server.admin_rest();
    rest.post("/api/v1/namespaces/default/pods", &pod("p", "")).await;
    let mut lines = Lines::open(&rest, "/api/v1/pods?watch=1&fieldSelector=spec.nodeName%3D", "").await;
    assert_eq!(told(&lines.next().await.unwrap()), ("ADDED".into(), "p".into()));
    let mut mine = Lines::open(&rest, "/api/v1/pods?watch=1&fieldSelector=spec.nodeName%3Dn1", "").await;
    let binding = json!({"apiVersion": "v1", "kind": "Binding", "metadata": {"name": "p"},
                         "target": {"kind": "Node", "name": "n1"}});
    assert_eq!(rest.post("/api/v1/namespaces/default/pods/p/binding", &binding).await.code, 201);
    assert_eq!(told(&lines.next().await.unwrap()), ("DELETED".into(), "p".into()));
    assert_eq!(told(&mine.next().await.unwrap()), ("ADDED".into(), "p".into()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn initial_events_end_with_an_annotated_bookmark_and_more_bookmarks_follow() {
    let server = Server::start().await;
    let rest = server.admin_rest();
    rest.post(MAPS, &config_map("a", "x", "1")).await;
    let path =
        format!("{MAPS}?watch=1&allowWatchBookmarks=true&sendInitialEvents=true&resourceVersionMatch=NotOlderThan");
    let mut lines = Lines::open(&rest, &path, "").await;
    assert_eq!(told(&lines.next().await.unwrap()).0, "ADDED");
    let bookmark = lines.next().await.unwrap();
    assert_eq!(bookmark["type"], "BOOKMARK");
    assert_eq!(bookmark["object"]["kind"], "ConfigMap");
    assert_eq!(bookmark["object"]["metadata"]["annotations"], json!({"k8s.io/initial-events-end": "true"}));
    let later = lines.next().await.unwrap();
    assert_eq!((&later["type"], later["object"]["metadata"].get("annotations")), (&json!("BOOKMARK"), None));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_watch_from_before_the_history_is_told_so_in_its_first_event() {
    let server = Server::start().await;
    let rest = server.admin_rest();
    let mut lines = Lines::open(&rest, "/api/v1/services?watch=1&resourceVersion=0", "").await;
    assert_eq!(told(&lines.next().await.unwrap()).1, "kubernetes");
    // More events than the history holds of one resource.
    drop(lines);
    let dir = tempfile::tempdir().unwrap();
    let pki = diolkos_apiserver::pki::Pki::open(dir.path(), &[]).unwrap();
    let settings = diolkos_apiserver::Settings {
        listen: "127.0.0.1:0".parse().unwrap(),
        advertise_address: "127.0.0.1".parse().unwrap(),
        service_cidrs: vec!["10.96.0.0/16".parse().unwrap()],
        cache: Default::default(),
        security: Default::default(),
    };
    // A second server begins its history where it begins.
    let store = std::sync::Arc::new(server.store.clone());
    let running = diolkos_apiserver::serve_with(store, &pki, settings).await.unwrap();
    let url = format!("https://{}", running.address());
    let kubeconfig = pki.kubeconfig(&url, "admin", &["system:masters"]).unwrap();
    let client = diolkos_api::client::Client::connect(&kubeconfig).unwrap();
    let request = wire::WatchRequest {
        key: key("", "services", "", ""),
        resource_version: "1".into(),
        ..wire::WatchRequest::default()
    };
    let mut events = client.raw().watch(request).await.unwrap().into_inner();
    let event = events.message().await.unwrap().unwrap();
    assert_eq!(event.r#type(), Type::Error);
    let status: Value = serde_json::from_slice(&event.object.unwrap().json).unwrap();
    let recorded = fixture("watch_410_rv1_services")["object"].clone();
    for field in ["kind", "status", "reason", "code"] {
        assert_eq!(status[field], recorded[field]);
    }
    assert!(status["message"].as_str().unwrap().starts_with("too old resource version: 1 ("), "{status}");
    assert!(events.message().await.unwrap().is_none());
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_watch_as_a_table_names_its_columns_once() {
    let server = Server::start().await;
    let rest = server.admin_rest();
    rest.post(MAPS, &config_map("a", "x", "1")).await;
    let accept = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json";
    let mut lines = Lines::open(&rest, &format!("{MAPS}?watch=1"), accept).await;
    let first = lines.next().await.unwrap();
    assert_eq!(first["object"]["kind"], "Table");
    assert_eq!(first["object"]["columnDefinitions"][0]["name"], "Name");
    assert_eq!(first["object"]["rows"][0]["cells"][0], "a");
    rest.post(MAPS, &config_map("b", "x", "1")).await;
    let second = lines.next().await.unwrap();
    assert_eq!(second["object"]["columnDefinitions"], Value::Null);
    assert_eq!(second["object"]["rows"][0]["object"]["metadata"]["name"], "b");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_typed_client_follows_lists_and_changes() {
    let server = Server::start().await;
    let client = server.admin();
    let maps = client.api::<ConfigMap>(Some("default"));
    let map = |name: &str| serde_json::from_value::<ConfigMap>(config_map(name, "x", "1")).unwrap();
    maps.create(&map("a")).await.unwrap();
    let mut events = pin!(follow::<ConfigMap>(client.clone(), Some("default".into()), ListOptions::default()));
    let next = async |events: &mut std::pin::Pin<&mut _>| {
        tokio::time::timeout(PATIENCE, futures::StreamExt::next(events)).await.expect("an event in time").unwrap()
    };
    let names = |maps: &[ConfigMap]| maps.iter().map(|m| m.metadata.name.clone().unwrap()).collect::<Vec<_>>();
    match next(&mut events).await {
        Event::Restarted(all) => assert_eq!(names(&all), ["a"]),
        other => panic!("{other:?}"),
    }
    maps.create(&map("b")).await.unwrap();
    match next(&mut events).await {
        Event::Applied(one) => assert_eq!(names(&[one]), ["b"]),
        other => panic!("{other:?}"),
    }
    maps.delete("a", &Default::default()).await.unwrap();
    match next(&mut events).await {
        Event::Deleted(one) => assert_eq!(names(&[one]), ["a"]),
        other => panic!("{other:?}"),
    }
}
