//! ResourceQuotas: exact, however many write at once.

use std::sync::Arc;

use diolkos_apiserver::{Security, serve_with};
use futures::future::join_all;
use serde_json::{Value, json};

use crate::admission::{PODS, make, refused};
use crate::harness::{Rest, Server, config_map, eventually, pod};

const QUOTAS: &str = "/api/v1/namespaces/default/resourcequotas";
const MAPS: &str = "/api/v1/namespaces/default/configmaps";

async fn quota(server: &Server, name: &str, spec: Value) {
    make(server, QUOTAS, json!({"metadata": {"name": name}, "spec": spec})).await;
}

async fn used(rest: &Rest, name: &str) -> Value {
    rest.get(&format!("{QUOTAS}/{name}")).await.json()["status"]["used"].clone()
}

fn asking(name: &str, cpu: &str) -> Value {
    let mut pod = pod(name, "");
    pod["spec"]["containers"][0]["resources"] = json!({"requests": {"cpu": cpu}});
    pod
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_beyond_a_quota_is_refused_in_kubernetes_words() {
    let server = Server::start().await;
    let rest = server.admin_rest();
    quota(&server, "q", json!({"hard": {"requests.cpu": "1", "pods": "2", "count/configmaps": "1"}})).await;
    eventually("nothing is used", async || used(&rest, "q").await["pods"] == "0").await;
    assert_eq!(
        refused(&server, PODS, &pod("p", "")).await,
        "pods \"p\" is forbidden: failed quota: q: must specify requests.cpu for: main"
    );
    make(&server, PODS, asking("a", "600m")).await;
    assert_eq!(
        refused(&server, PODS, &asking("b", "500m")).await,
        "pods \"b\" is forbidden: exceeded quota: q, requested: requests.cpu=500m, used: requests.cpu=600m, limited: \
         requests.cpu=1"
    );
    let dry = format!("{PODS}?dryRun=All");
    assert!(refused(&server, &dry, &asking("b", "500m")).await.contains("exceeded quota"));
    make(&server, &dry, asking("b", "100m")).await;
    make(&server, PODS, asking("b", "400m")).await;
    assert!(
        refused(&server, PODS, &asking("c", "0")).await.contains("requested: pods=1, used: pods=2, limited: pods=2")
    );
    make(&server, MAPS, config_map("m", "a", "b")).await;
    assert_eq!(
        refused(&server, MAPS, &config_map("n", "a", "b")).await,
        "configmaps \"n\" is forbidden: exceeded quota: q, requested: count/configmaps=1, used: count/configmaps=1, \
         limited: count/configmaps=1"
    );
    eventually("status tells what is used", async || {
        used(&rest, "q").await == json!({"requests.cpu": "1", "pods": "2", "count/configmaps": "1"})
    })
    .await;
    let status = rest.get(&format!("{QUOTAS}/q")).await.json()["status"].clone();
    assert_eq!(status["hard"], json!({"requests.cpu": "1", "pods": "2", "count/configmaps": "1"}));

    // What is deleted is free at once, and told soon.
    assert_eq!(rest.delete(&format!("{PODS}/a"), &Value::Null).await.code, 200);
    make(&server, PODS, asking("c", "600m")).await;
    assert_eq!(rest.delete(&format!("{PODS}/b"), &Value::Null).await.code, 200);
    eventually("status tells of deletions", async || used(&rest, "q").await["pods"] == "1").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_writers_over_two_servers_use_exactly_what_there_is() {
    const MOST: usize = 12;
    let server = Server::start().await;
    let second = serve_with(Arc::new(server.store.clone()), &server.pki, server.settings(Security::default())).await;
    let (one, other) = (server.admin_rest(), server.admin_rest().to(second.as_ref().unwrap().address()));
    quota(&server, "q", json!({"hard": {"pods": MOST.to_string(), "requests.cpu": "100"}})).await;
    // Another quota of the same namespace holds as well.
    quota(&server, "maps", json!({"hard": {"configmaps": MOST.to_string()}})).await;
    eventually("the second server knows the quotas", async || {
        other.get(QUOTAS).await.json()["items"].as_array().is_some_and(|items| items.len() == 2)
    })
    .await;
    let writes = (0..64).map(|number| {
        let rest = if number % 2 == 0 { &one } else { &other };
        async move {
            let made = if number % 4 < 2 {
                rest.post(PODS, &asking(&format!("p{number}"), "1")).await
            } else {
                rest.post(MAPS, &config_map(&format!("m{number}"), "a", "b")).await
            };
            assert!(matches!(made.code.as_u16(), 201 | 403), "{}", made.json());
            made.code == 201
        }
    });
    let made = join_all(writes).await.into_iter().filter(|made| *made).count();
    assert_eq!(made, 2 * MOST);
    let count = async |path: &str| one.get(path).await.json()["items"].as_array().unwrap().len();
    assert_eq!((count(PODS).await, count(MAPS).await), (MOST, MOST));
    let full = json!({"pods": MOST.to_string(), "requests.cpu": MOST.to_string()});
    eventually("status tells of all writers", async || used(&other, "q").await == full).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_update_that_uses_more_is_counted_and_one_that_does_not_is_free() {
    let server = Server::start().await;
    let rest = server.admin_rest();
    quota(&server, "q", json!({"hard": {"services.nodeports": "1", "services": "2"}})).await;
    let path = "/api/v1/namespaces/default/services";
    make(&server, path, crate::harness::service("other")).await;
    // The kubernetes service is one of the namespace, too.
    let why = refused(&server, path, &crate::harness::service("third")).await;
    assert!(why.contains("exceeded quota: q, requested: services=1"), "{why}");
    let labels = json!({"metadata": {"labels": {"a": "b"}}});
    assert_eq!(rest.patch("merge-patch", &format!("{path}/other"), &labels).await.code, 200);
    let ports = json!([{"name": "a", "port": 80}, {"name": "b", "port": 81}]);
    let larger = json!({"spec": {"type": "NodePort", "ports": ports}});
    let refused = rest.patch("merge-patch", &format!("{path}/other"), &larger).await;
    assert_eq!(refused.code, 403, "{}", refused.json());
    assert!(refused.json()["message"].as_str().unwrap().contains("requested: services.nodeports=2, used: "));
    let one = json!({"spec": {"type": "NodePort"}});
    assert_eq!(rest.patch("merge-patch", &format!("{path}/other"), &one).await.code, 200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_guard_of_a_namespace_goes_with_its_quotas() {
    let server = Server::start().await;
    let rest = server.admin_rest();
    quota(&server, "q", json!({"hard": {"configmaps": "5"}})).await;
    make(&server, MAPS, config_map("m", "a", "b")).await;
    let guarded = async || crate::harness::keys(&server.store, "/registry/_quota/").await;
    assert_eq!(guarded().await, ["/registry/_quota/default"]);
    assert_eq!(rest.delete(&format!("{QUOTAS}/q"), &Value::Null).await.code, 200);
    eventually("the guard is gone", async || guarded().await.is_empty()).await;
    make(&server, MAPS, config_map("n", "a", "b")).await;
}
