//! ClusterIPs: one owner each, written with its Service.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use crate::harness::{ADVERTISED, Server, service};

const SERVICES: &str = "/api/v1/namespaces/default/services";
const ADDRESSES: &str = "/apis/networking.k8s.io/v1/ipaddresses";

fn address(service: &Value) -> String {
    service["spec"]["clusterIP"].as_str().unwrap_or_else(|| panic!("{service}")).to_owned()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_kubernetes_service_has_the_first_address_and_points_at_the_server() {
    let server = Server::start().await;
    let rest = server.admin_rest();
    let kubernetes = rest.get(&format!("{SERVICES}/kubernetes")).await.json();
    assert_eq!(address(&kubernetes), "10.96.0.1");
    let slice = rest.get("/apis/discovery.k8s.io/v1/namespaces/default/endpointslices/kubernetes").await.json();
    assert_eq!(slice["endpoints"][0]["addresses"], json!([ADVERTISED]));
    assert_eq!(slice["ports"][0]["port"], server.running.address().port());
    let claim = rest.get(&format!("{ADDRESSES}/10.96.0.1")).await.json();
    let parent = json!({"group": "", "resource": "services", "namespace": "default", "name": "kubernetes"});
    assert_eq!(claim["spec"]["parentRef"], parent);
    for namespace in ["default", "kube-system", "kube-public", "kube-node-lease"] {
        assert_eq!(rest.get(&format!("/api/v1/namespaces/{namespace}")).await.code, 200);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_address_lives_as_long_as_its_service() {
    let server = Server::start().await;
    let rest = server.admin_rest();
    let created = rest.post(SERVICES, &service("a")).await.json();
    let claim = format!("{ADDRESSES}/{}", address(&created));
    assert_eq!(created["spec"]["clusterIPs"], json!([address(&created)]));
    let held = rest.get(&claim).await.json();
    // One transaction: the same revision.
    assert_eq!(held["metadata"]["resourceVersion"], created["metadata"]["resourceVersion"]);
    // A writer that leaves the address out keeps it.
    let replaced = rest.put(&format!("{SERVICES}/a"), &service("a")).await.json();
    assert_eq!(address(&replaced), address(&created));
    let external = json!({"spec": {"type": "ExternalName", "externalName": "example.org", "clusterIP": null,
                          "clusterIPs": null}});
    let answer = rest.patch("merge-patch", &format!("{SERVICES}/a"), &external).await;
    assert_eq!(answer.code, 200, "{}", answer.json());
    assert_eq!(rest.get(&claim).await.code, 404);
    let back = json!({"spec": {"type": "ClusterIP", "externalName": null}});
    let again = rest.patch("merge-patch", &format!("{SERVICES}/a"), &back).await.json();
    let claim = format!("{ADDRESSES}/{}", address(&again));
    assert_eq!(rest.get(&claim).await.code, 200);
    assert_eq!(rest.delete(&format!("{SERVICES}/a"), &Value::Null).await.code, 200);
    assert_eq!(rest.get(&claim).await.code, 404);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_headless_service_has_no_address_and_a_chosen_one_is_granted() {
    let server = Server::start().await;
    let rest = server.admin_rest();
    let mut headless = service("headless");
    headless["spec"]["clusterIP"] = "None".into();
    let created = rest.post(SERVICES, &headless).await;
    assert_eq!((created.code.as_u16(), address(&created.json())), (201, "None".to_owned()));
    let mut dns = service("dns");
    dns["spec"]["clusterIP"] = "10.96.0.10".into();
    assert_eq!(address(&rest.post(SERVICES, &dns).await.json()), "10.96.0.10");
    let claims = rest.get(ADDRESSES).await.json();
    assert_eq!(claims["items"].as_array().unwrap().len(), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn services_created_at_once_never_share_an_address_and_a_full_range_says_so() {
    // 30 addresses: one is the kubernetes service's, one is kept for DNS.
    let server = Server::with_service_cidrs(&["10.96.0.0/27"]).await;
    let creating: Vec<_> = (0..32)
        .map(|index| {
            let rest = server.admin_rest();
            tokio::spawn(async move { rest.post(SERVICES, &service(&format!("s{index}"))).await })
        })
        .collect();
    let (mut addresses, mut refused) = (BTreeSet::new(), Vec::new());
    for created in creating {
        let answer = created.await.unwrap();
        match answer.code.as_u16() {
            201 => assert!(addresses.insert(address(&answer.json())), "{} twice", answer.json()),
            _ => refused.push(answer.json()),
        }
    }
    assert_eq!(addresses.len(), 28, "{refused:?}");
    assert!(!addresses.contains("10.96.0.1") && !addresses.contains("10.96.0.10"));
    for answer in &refused {
        assert_eq!(answer["code"], 500);
        assert!(answer["message"].as_str().unwrap().ends_with("failed to allocate a serviceIP: range is full"));
    }
    let rest = server.admin_rest();
    let services = rest.get(SERVICES).await.json();
    // Nothing is half applied: as many services as addresses, and the kubernetes service.
    assert_eq!(services["items"].as_array().unwrap().len(), 29);
    let claims = rest.get(ADDRESSES).await.json();
    assert_eq!(claims["items"].as_array().unwrap().len(), 29);
    let gone = services["items"][5]["metadata"]["name"].as_str().unwrap();
    assert_eq!(rest.delete(&format!("{SERVICES}/{gone}"), &Value::Null).await.code, 200);
    assert_eq!(rest.post(SERVICES, &service("late")).await.code, 201);
}
