//! ClusterIPs of two address families: both are claimed, kept and given back, and nothing is left over.

use std::collections::BTreeSet;

use diolkos_store::{Store as _, Write};
use serde_json::{Value, json};

use crate::harness::{PATIENCE, Rest, Server, service};

const SERVICES: &str = "/api/v1/namespaces/default/services";
const ADDRESSES: &str = "/apis/networking.k8s.io/v1/ipaddresses";
const DUAL: [&str; 2] = ["10.96.0.0/16", "fd00:10:96::/112"];

fn with(name: &str, spec: &Value) -> Value {
    let mut service = service(name);
    for (field, value) in spec.as_object().unwrap() {
        service["spec"][field] = value.clone();
    }
    service
}

fn addresses(service: &Value) -> Vec<String> {
    let list = service["spec"]["clusterIPs"].as_array().unwrap_or_else(|| panic!("{service}"));
    list.iter().map(|address| address.as_str().unwrap().to_owned()).collect()
}

/// The addresses that are claimed, but for that of the kubernetes service.
async fn claimed(rest: &Rest) -> BTreeSet<String> {
    let list = rest.get(ADDRESSES).await.json();
    let names = list["items"].as_array().unwrap().iter().map(|item| item["metadata"]["name"].as_str().unwrap());
    names.filter(|name| !matches!(*name, "10.96.0.1" | "fd00:10:96::1")).map(str::to_owned).collect()
}

fn set(addresses: &[String]) -> BTreeSet<String> {
    addresses.iter().cloned().collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_service_has_the_families_it_asks_for() {
    let server = Server::with_service_cidrs(&DUAL).await;
    let rest = server.admin_rest();
    let single = rest.post(SERVICES, &service("single")).await.json();
    assert_eq!(single["spec"]["ipFamilyPolicy"], "SingleStack");
    assert_eq!((addresses(&single).len(), &single["spec"]["ipFamilies"]), (1, &json!(["IPv4"])));
    let both = with("both", &json!({"ipFamilyPolicy": "PreferDualStack"}));
    let both = rest.post(SERVICES, &both).await.json();
    assert_eq!(both["spec"]["ipFamilies"], json!(["IPv4", "IPv6"]));
    assert!(both["spec"]["clusterIP"].as_str().unwrap().starts_with("10.96."));
    assert!(addresses(&both)[1].starts_with("fd00:10:96::"), "{both}");
    let six = with("six", &json!({"ipFamilies": ["IPv6"]}));
    let six = rest.post(SERVICES, &six).await.json();
    assert!(six["spec"]["clusterIP"].as_str().unwrap().starts_with("fd00:10:96::"), "{six}");
    let all = [addresses(&single), addresses(&both), addresses(&six)].concat();
    assert_eq!(claimed(&rest).await, set(&all));
    let claim = rest.get(&format!("{ADDRESSES}/{}", addresses(&both)[1])).await.json();
    assert_eq!(claim["metadata"]["labels"]["ipaddress.kubernetes.io/ip-family"], "IPv6");
    assert_eq!(claim["spec"]["parentRef"]["name"], "both");
    let kubernetes = rest.get(&format!("{SERVICES}/kubernetes")).await.json();
    assert_eq!(addresses(&kubernetes), ["10.96.0.1"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn both_addresses_live_as_long_as_their_service() {
    let server = Server::with_service_cidrs(&DUAL).await;
    let rest = server.admin_rest();
    let asked = json!({"ipFamilyPolicy": "RequireDualStack", "clusterIP": "fd00:10:96::10", "clusterIPs":
        ["fd00:10:96::10", "10.96.0.10"]});
    let created = rest.post(SERVICES, &with("dns", &asked)).await;
    assert_eq!(created.code, 201, "{}", created.json());
    assert_eq!(addresses(&created.json()), ["fd00:10:96::10", "10.96.0.10"]);
    assert_eq!(created.json()["spec"]["ipFamilies"], json!(["IPv6", "IPv4"]));
    let path = format!("{SERVICES}/dns");
    // Who leaves the addresses out keeps them.
    let replaced = rest.put(&path, &service("dns")).await.json();
    assert_eq!(addresses(&replaced), ["fd00:10:96::10", "10.96.0.10"]);
    let external = json!({"spec": {"type": "ExternalName", "externalName": "example.org", "clusterIP": null,
        "clusterIPs": null, "ipFamilies": null, "ipFamilyPolicy": null}});
    let answer = rest.patch("merge-patch", &path, &external).await;
    assert_eq!(answer.code, 200, "{}", answer.json());
    assert_eq!(claimed(&rest).await, BTreeSet::new());
    let back = json!({"spec": {"type": "ClusterIP", "externalName": null, "ipFamilyPolicy": "PreferDualStack"}});
    let back = rest.patch("merge-patch", &path, &back).await.json();
    assert_eq!(claimed(&rest).await, set(&addresses(&back)));
    assert_eq!(addresses(&back).len(), 2);
    assert_eq!(rest.delete(&path, &Value::Null).await.code, 200);
    assert_eq!(claimed(&rest).await, BTreeSet::new());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_second_family_comes_and_goes_with_the_policy() {
    let server = Server::with_service_cidrs(&DUAL).await;
    let rest = server.admin_rest();
    let first = rest.post(SERVICES, &service("a")).await.json();
    let path = format!("{SERVICES}/a");
    let policy = |policy: &str| json!({"spec": {"ipFamilyPolicy": policy}});
    let upgraded = rest.patch("merge-patch", &path, &policy("RequireDualStack")).await.json();
    assert_eq!((addresses(&upgraded).len(), &addresses(&upgraded)[0]), (2, &addresses(&first)[0]));
    assert_eq!(claimed(&rest).await, set(&addresses(&upgraded)));
    let fewer = json!({"spec": {"clusterIPs": [addresses(&first)[0]], "ipFamilies": ["IPv4"]}});
    let refused = rest.patch("merge-patch", &path, &fewer).await;
    assert_eq!(refused.code, 422);
    assert!(refused.json()["message"].as_str().unwrap().contains("must be 'SingleStack' to release"));
    let other = json!({"spec": {"clusterIPs": [addresses(&first)[0], "fd00:10:96::77"]}});
    let refused = rest.patch("merge-patch", &path, &other).await.json();
    assert!(refused["message"].as_str().unwrap().contains("may not change once set"), "{refused}");
    let downgraded = rest.patch("merge-patch", &path, &policy("SingleStack")).await.json();
    assert_eq!(addresses(&downgraded), addresses(&first));
    assert_eq!(downgraded["spec"]["ipFamilies"], json!(["IPv4"]));
    assert_eq!(claimed(&rest).await, set(&addresses(&first)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_of_one_family_refuses_the_other_and_grants_what_is_preferred() {
    let server = Server::start().await;
    let rest = server.admin_rest();
    for (spec, field) in [
        (json!({"ipFamilyPolicy": "RequireDualStack"}), "spec.ipFamilyPolicy"),
        (json!({"ipFamilies": ["IPv6"]}), "spec.ipFamilies[0]"),
        (json!({"clusterIP": "fd00::5"}), "spec.clusterIPs[0]"),
        (json!({"ipFamilies": ["IPv5"]}), "spec.ipFamilies[0]"),
        (json!({"ipFamilies": ["IPv4", "IPv4"], "ipFamilyPolicy": "PreferDualStack"}), "spec.ipFamilies[1]"),
        (json!({"ipFamilyPolicy": "Both"}), "spec.ipFamilyPolicy"),
        (json!({"clusterIP": "10.96.0.9", "ipFamilies": ["IPv6"]}), "spec.ipFamilies[0]"),
    ] {
        let refused = rest.post(SERVICES, &with("wrong", &spec)).await;
        assert_eq!(refused.code, 422, "{spec}: {}", refused.json());
        assert_eq!(refused.json()["details"]["causes"][0]["field"], field, "{spec}");
    }
    let preferred = rest.post(SERVICES, &with("p", &json!({"ipFamilyPolicy": "PreferDualStack"}))).await.json();
    assert_eq!((addresses(&preferred).len(), &preferred["spec"]["ipFamilies"]), (1, &json!(["IPv4"])));
    assert_eq!(claimed(&rest).await, set(&addresses(&preferred)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_service_that_is_not_written_leaves_no_address_claimed() {
    let server = Server::with_service_cidrs(&DUAL).await;
    let rest = server.admin_rest();
    let both = with("twice", &json!({"ipFamilyPolicy": "RequireDualStack"}));
    let created = rest.post(SERVICES, &both).await.json();
    assert_eq!(rest.post(SERVICES, &both).await.code, 409);
    assert_eq!(rest.post(&format!("{SERVICES}?dryRun=All"), &with("dry", &both["spec"])).await.code, 201);
    // Of two that want one second address, one gets it, and the other keeps neither of its own.
    let asked = |name: &str| {
        with(
            name,
            &json!({"ipFamilyPolicy": "RequireDualStack", "clusterIP": "", "clusterIPs":
        ["10.96.0.200", "fd00:10:96::200"]}),
        )
    };
    let (first, second) = (asked("first"), asked("second"));
    let (one, two) = tokio::join!(rest.post(SERVICES, &first), rest.post(SERVICES, &second));
    let codes = BTreeSet::from([one.code.as_u16(), two.code.as_u16()]);
    assert_eq!(codes, BTreeSet::from([201, 422]), "{} {}", one.json(), two.json());
    let mut expected = set(&addresses(&created));
    expected.extend(["10.96.0.200".to_owned(), "fd00:10:96::200".to_owned()]);
    assert_eq!(claimed(&rest).await, expected);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_address_without_its_service_is_given_back() {
    let server = Server::with_service_cidrs(&DUAL).await;
    let both = with("both", &json!({"ipFamilyPolicy": "RequireDualStack"}));
    let created = server.admin_rest().post(SERVICES, &both).await.json();
    // As a server leaves it that ends after the first commit of a Service, and one that is being written now.
    let claim = |address: &str, service: &str, created: &str| {
        let value = json!({
            "apiVersion": "networking.k8s.io/v1", "kind": "IPAddress",
            "metadata": {"name": address, "uid": address, "creationTimestamp": created,
                         "labels": {"ipaddress.kubernetes.io/managed-by": "ipallocator.k8s.io"}},
            "spec": {"parentRef": {"group": "", "resource": "services", "namespace": "default", "name": service}},
        });
        let key = format!("/registry/networking.k8s.io/ipaddresses/{address}");
        Write::Put { key, value: value.to_string().into() }
    };
    let now = diolkos_api::now().to_string();
    for (address, service, created) in [
        ("fd00:10:96::a0", "nobody", "2026-01-01T00:00:00Z"),
        ("fd00:10:96::a1", "both", "2026-01-01T00:00:00Z"),
        ("fd00:10:96::a2", "nobody", now.as_str()),
    ] {
        server.store.commit(&[], &[claim(address, service, created)]).await.unwrap();
    }
    let next = Server::over(server.store.clone(), &DUAL).await;
    let rest = next.admin_rest();
    let mut expected = set(&addresses(&created));
    expected.insert("fd00:10:96::a2".into());
    let start = std::time::Instant::now();
    while claimed(&rest).await != expected {
        assert!(start.elapsed() < PATIENCE, "{:?} instead of {expected:?}", claimed(&rest).await);
        tokio::task::yield_now().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn watches_of_addresses_see_one_change_in_a_version() {
    let server = Server::with_service_cidrs(&DUAL).await;
    let rest = server.admin_rest();
    let both = with("both", &json!({"ipFamilyPolicy": "RequireDualStack"}));
    let created = rest.post(SERVICES, &both).await.json();
    let list = rest.get(ADDRESSES).await.json();
    let versions: BTreeSet<&str> = list["items"]
        .as_array()
        .unwrap()
        .iter()
        .map(|item| item["metadata"]["resourceVersion"].as_str().unwrap())
        .collect();
    assert_eq!(versions.len(), 3, "{list}");
    // The first one is in the Service's own commit.
    assert!(versions.contains(created["metadata"]["resourceVersion"].as_str().unwrap()));
}
