//! What is taken of one user, and what the audit log tells.

use diolkos_api::client::ListOptions;
use diolkos_apiserver::{AuditOptions, Security, UserLimits};
use http::Method;
use k8s_openapi::api::core::v1::ConfigMap;
use serde_json::{Value, json};

use crate::harness::{Lines, Server, config_map, eventually};
use crate::rbac::{grant, rules};

const MAPS: &str = "/api/v1/namespaces/default/configmaps";

fn limited(limits: UserLimits) -> Security {
    Security { limits, ..Security::default() }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_user_with_too_many_watches_is_refused_and_others_are_not() {
    let server = Server::secured(limited(UserLimits { watches: 2, ..UserLimits::default() })).await;
    let all = || rules(&["list", "watch"], &[""], &["configmaps"]);
    grant(&server, "alice", "alice", all()).await;
    grant(&server, "bob", "bob", all()).await;
    let (alice, bob) = (server.rest("alice", &[]), server.rest("bob", &[]));
    let path = format!("{MAPS}?watch=1");
    let held = [Lines::open(&alice, &path, "").await, Lines::open(&alice, &path, "").await];
    let refused = alice.get(&path).await;
    assert_eq!((refused.code.as_u16(), refused.json()["reason"].as_str()), (429, Some("TooManyRequests")));
    assert_eq!(refused.headers["retry-after"], "1");
    assert!(refused.json()["message"].as_str().unwrap().contains("2 open watches"), "{}", refused.json());
    let mut grpc = server.grpc("alice", &[]).raw();
    let key = crate::harness::key("", "configmaps", "default", "");
    let request = diolkos_api::wire::WatchRequest { key, ..Default::default() };
    let failure = diolkos_api::status::Failure::from_grpc(grpc.watch(request).await.unwrap_err());
    assert_eq!((failure.code(), failure.reason()), (429, "TooManyRequests"));
    drop(Lines::open(&bob, &path, "").await);
    assert_eq!(alice.get(MAPS).await.code, 200);
    drop(held);
    eventually("the places are given back", async || {
        alice.open(Method::GET, &path, &[], "").await.unwrap().status() == 200
    })
    .await;
    let metrics = server.admin_rest().get("/metrics").await;
    let text = String::from_utf8_lossy(&metrics.body).into_owned();
    let counted =
        text.lines().find_map(|line| line.strip_prefix("diolkos_apiserver_limited_requests_total{limit=\"watches\"} "));
    assert!(counted.unwrap().parse::<u64>().unwrap() > 0, "{text}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_user_that_asks_too_fast_is_told_when_to_come_back() {
    let server = Server::secured(limited(UserLimits { rate: 0.01, burst: 5.0, ..UserLimits::default() })).await;
    let alice = server.rest("alice", &[]);
    let mut codes = Vec::new();
    for _ in 0..7 {
        codes.push(alice.get("/version").await.code.as_u16());
    }
    assert_eq!(codes, [200, 200, 200, 200, 200, 429, 429]);
    let failure = server.grpc("alice", &[]).api::<ConfigMap>(None).list(&ListOptions::default()).await.unwrap_err();
    assert_eq!(failure.code(), 429);
    assert_eq!(server.rest("bob", &[]).get("/version").await.code, 200);
    assert_eq!(server.admin_rest().get("/version").await.code, 200);
    assert_eq!(alice.get("/healthz").await.code, 200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_audit_log_tells_of_each_request_and_of_no_secret() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("audit.log");
    let audit = AuditOptions { path: path.clone(), max_bytes: 1 << 20, max_backups: 1 };
    let server = Server::secured(Security { audit: Some(audit), ..Security::default() }).await;
    let admin = server.admin_rest();
    let secret =
        json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "s"}, "stringData": {"a": "hidden-word"}});
    let made = admin.post("/api/v1/namespaces/default/secrets", &secret).await;
    assert_eq!(made.code, 201, "{}", made.json());
    let headers = [("impersonate-user", "bob"), ("user-agent", "tester/1"), ("content-type", "application/json")];
    admin.send(Method::POST, MAPS, &headers, &config_map("m", "a", "b").to_string()).await;
    let bearer = [("authorization", "Bearer hidden-token")];
    server.rest_with(None).send(Method::GET, "/api/v1/namespaces", &bearer, "").await;
    admin.get("/healthz").await;
    let failure = server.grpc("alice", &[]).api::<ConfigMap>(None).list(&ListOptions::default()).await.unwrap_err();
    assert_eq!(failure.code(), 403);

    let mut events: Vec<Value> = Vec::new();
    eventually("all lines are written", async || {
        let text = std::fs::read_to_string(&path).unwrap();
        assert!(!text.contains("hidden"), "{text}");
        events = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        events.len() == 4
    })
    .await;
    let id = made.headers["audit-id"].to_str().unwrap();
    let of_secret = events.iter().find(|event| event["auditID"] == id).unwrap();
    assert_eq!((&of_secret["apiVersion"], &of_secret["kind"]), (&json!("audit.k8s.io/v1"), &json!("Event")));
    assert_eq!(of_secret["objectRef"], json!({"resource": "secrets", "namespace": "default", "apiVersion": "v1"}));
    assert_eq!((&of_secret["verb"], &of_secret["responseStatus"]["code"]), (&json!("create"), &json!(201)));
    assert_eq!(of_secret["user"]["username"], "admin");
    assert_eq!(of_secret["sourceIPs"], json!(["127.0.0.1"]));
    assert_eq!(of_secret["annotations"]["authorization.k8s.io/decision"], "allow");
    let of_bob = events.iter().find(|event| event["impersonatedUser"]["username"] == "bob").unwrap();
    assert_eq!((&of_bob["user"]["username"], &of_bob["userAgent"]), (&json!("admin"), &json!("tester/1")));
    assert_eq!(of_bob["annotations"]["authorization.k8s.io/decision"], "forbid");
    let of_nobody = events.iter().find(|event| event["responseStatus"]["code"] == 401).unwrap();
    assert_eq!((&of_nobody["requestURI"], &of_nobody["user"]), (&json!("/api/v1/namespaces"), &json!({})));
    let of_alice = events.iter().find(|event| event["user"]["username"] == "alice").unwrap();
    assert_eq!((&of_alice["verb"], &of_alice["responseStatus"]["code"]), (&json!("list"), &json!(403)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_whose_client_goes_away_is_in_the_audit_log_too() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("audit.log");
    let audit = AuditOptions { path: path.clone(), max_bytes: 1 << 20, max_backups: 1 };
    let server = Server::secured(Security { audit: Some(audit), ..Security::default() }).await;
    // It is answered after seconds, when that version has still not come.
    let patience = std::time::Duration::from_millis(300);
    let later = format!("{MAPS}?resourceVersion=999999999");
    assert!(tokio::time::timeout(patience, server.admin_rest().get(&later)).await.is_err());
    eventually("its line is written", async || {
        let text = std::fs::read_to_string(&path).unwrap();
        let events = text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
        let of_it: Vec<Value> = events.filter(|event| event["requestURI"] == later.as_str()).collect();
        of_it.len() == 1 && of_it[0]["responseStatus"]["code"] == 499 && of_it[0]["verb"] == "list"
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_documentation_lists_the_metrics_that_there_are() {
    let server = Server::start().await;
    let admin = server.admin_rest();
    let text = String::from_utf8_lossy(&admin.get("/metrics").await.body).into_owned();
    let mut rows: Vec<String> = Vec::new();
    for pair in text.lines().filter(|line| line.starts_with("# ")).collect::<Vec<_>>().chunks(2) {
        let (name, help) = pair[0].strip_prefix("# HELP ").unwrap().split_once(' ').unwrap();
        let kind = pair[1].strip_prefix(&format!("# TYPE {name} ")).unwrap();
        rows.push(format!("| `{name}` | {kind} | {help} |"));
    }
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/apiserver-metrics.md");
    let document = std::fs::read_to_string(path).unwrap();
    let listed: Vec<&str> = document.lines().filter(|line| line.starts_with("| `")).collect();
    assert_eq!(listed, rows, "docs/apiserver-metrics.md should read:\n{}", rows.join("\n"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_patch_that_cannot_be_applied_is_counted_once() {
    let server = Server::start().await;
    let admin = server.admin_rest();
    assert_eq!(admin.post(MAPS, &config_map("m", "a", "b")).await.code, 201);
    let path = format!("{MAPS}/m");
    let headers = [("content-type", "application/json-patch+json")];
    let wrong = json!([{"op": "remove", "path": "/none"}]).to_string();
    assert_eq!(admin.send(Method::PATCH, &path, &headers, &wrong).await.code, 422);
    let right = json!([{"op": "add", "path": "/data/c", "value": "d"}]).to_string();
    assert_eq!(admin.send(Method::PATCH, &path, &headers, &right).await.code, 200);
    let text = String::from_utf8_lossy(&admin.get("/metrics").await.body).into_owned();
    assert!(text.lines().any(|line| line == "diolkos_apiserver_unfit_patches_total 1"), "{text}");
}
