//! Discovery, and the tables of `kubectl get`.

use http::Method;
use serde_json::{Value, json};

use crate::harness::{Server, fixture, pod, service};

const TABLE: &str = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_columns_of_tables_are_those_of_kubernetes() {
    let server = Server::start().await;
    let rest = server.admin_rest();
    rest.post("/api/v1/namespaces/default/pods", &pod("p", "n1")).await;
    let collections = [
        ("pods", "/api/v1/namespaces/default/pods"),
        ("nodes", "/api/v1/nodes"),
        ("services", "/api/v1/services"),
        ("namespaces", "/api/v1/namespaces"),
        ("deployments", "/apis/apps/v1/deployments"),
        ("replicasets", "/apis/apps/v1/replicasets"),
    ];
    for (name, path) in collections {
        let table = rest.send(Method::GET, path, &[("accept", TABLE)], "").await.json();
        let columns: Vec<Value> = table["columnDefinitions"]
            .as_array()
            .unwrap_or_else(|| panic!("{table}"))
            .iter()
            .map(|column| json!([column["name"], column["type"], column["format"], column["priority"]]))
            .collect();
        assert_eq!(Value::from(columns.clone()), fixture("columns")[name], "{name}");
        for row in table["rows"].as_array().unwrap() {
            assert_eq!(row["cells"].as_array().unwrap().len(), columns.len());
            assert_eq!(row["object"]["kind"], "PartialObjectMetadata");
        }
    }
    let path = "/api/v1/namespaces/default/pods/p?includeObject=Object";
    let one = rest.send(Method::GET, path, &[("accept", TABLE)], "").await.json();
    assert_eq!(one["rows"][0]["cells"][0], "p");
    assert_eq!(one["rows"][0]["object"]["kind"], "Pod");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_cells_of_a_service_are_those_of_kubernetes() {
    let server = Server::start().await;
    let rest = server.admin_rest();
    let mut object = service("web");
    object["spec"]["clusterIP"] = "10.96.8.1".into();
    object["spec"]["ports"][0]["port"] = 5201.into();
    rest.post("/api/v1/namespaces/default/services", &object).await;
    let path = "/api/v1/namespaces/default/services/web";
    let table = rest.send(Method::GET, path, &[("accept", TABLE)], "").await.json();
    let cells = table["rows"][0]["cells"].as_array().unwrap();
    assert_eq!(cells[..5], ["web", "ClusterIP", "10.96.8.1", "<none>", "5201/TCP"].map(Value::from));
    assert_eq!(cells[6], "<none>");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn discovery_lists_groups_versions_and_kinds() {
    let server = Server::start().await;
    let rest = server.admin_rest();
    let api = rest.get("/api").await.json();
    assert_eq!((&api["kind"], &api["versions"]), (&fixture("api")["kind"], &fixture("api")["versions"]));
    let apps = rest.get("/apis/apps/v1").await.json();
    let recorded = fixture("apis_apps_v1");
    assert_eq!(apps["groupVersion"], recorded["groupVersion"]);
    for resource in recorded["resources"].as_array().unwrap() {
        let own = apps["resources"].as_array().unwrap().iter().find(|own| own["name"] == resource["name"]);
        assert_eq!(own, Some(resource));
    }
    let groups = rest.get("/apis").await.json();
    let names: Vec<_> = groups["groups"].as_array().unwrap().iter().map(|group| group["name"].clone()).collect();
    assert!(names.contains(&"apps".into()) && names.contains(&"networking.k8s.io".into()), "{names:?}");
    assert_eq!(rest.get("/apis/apps").await.json()["preferredVersion"]["groupVersion"], "apps/v1");
    assert_eq!(rest.get("/apis/nope").await.code, 404);
    let version = rest.get("/version").await.json();
    assert_eq!((&version["major"], &version["minor"]), (&fixture("version")["major"], &fixture("version")["minor"]));
}

const AGGREGATED: &str = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList";

/// The versions of groups, each with what is in it.
fn versions(list: &Value) -> Vec<(String, Value)> {
    let group = |group: &Value| group["metadata"]["name"].as_str().unwrap_or_default().to_owned();
    let of = |item: &Value| -> Vec<(String, Value)> {
        let versions = item["versions"].as_array().unwrap().iter();
        versions
            .map(|version| (format!("{}/{}", group(item), version["version"].as_str().unwrap()), version.clone()))
            .collect()
    };
    list["items"].as_array().unwrap().iter().flat_map(of).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn newer_clients_get_everything_in_one_answer_as_from_a_real_server() {
    let server = Server::start().await;
    let rest = server.admin_rest();
    let mut kinds = 0;
    for (path, name) in [("/api", "aggdisc_api"), ("/apis", "aggdisc_apis")] {
        let answer = rest.send(Method::GET, path, &[("accept", AGGREGATED)], "").await;
        assert_eq!(answer.headers["content-type"], AGGREGATED);
        assert_eq!(
            (&answer.headers["vary"], &answer.headers["cache-control"]),
            (&"Accept".parse().unwrap(), &"public".parse().unwrap())
        );
        let (own, recorded) = (answer.json(), fixture(name));
        for field in ["kind", "apiVersion", "metadata"] {
            assert_eq!(own[field], recorded[field]);
        }
        let recorded = versions(&recorded);
        let order: Vec<&String> = recorded.iter().map(|(name, _)| name).collect();
        let own = versions(&own);
        let named: Vec<&String> = own.iter().map(|(name, _)| name).collect();
        assert_eq!(named, order.into_iter().filter(|name| named.contains(name)).collect::<Vec<_>>());
        for (name, version) in own {
            let real = &recorded.iter().find(|(other, _)| *other == name).unwrap().1;
            assert_eq!(version["freshness"], real["freshness"]);
            for row in version["resources"].as_array().unwrap() {
                let same = |other: &&Value| other["resource"] == row["resource"];
                let mut real = real["resources"].as_array().unwrap().iter().find(same).unwrap().clone();
                // Streams into pods and proxies are not part of this server.
                let parts = row["subresources"].as_array().into_iter().flatten();
                let parts: Vec<&Value> = parts.map(|part| &part["subresource"]).collect();
                if let Some(all) = real.get_mut("subresources").and_then(Value::as_array_mut) {
                    all.retain(|part| parts.contains(&&part["subresource"]));
                    if all.is_empty() {
                        real.as_object_mut().unwrap().remove("subresources");
                    }
                }
                assert_eq!(*row, real, "{name}");
                kinds += 1;
            }
        }
    }
    assert!(kinds > 40, "{kinds}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_knows_what_there_is_is_told_that_it_is_still_so() {
    let server = Server::start().await;
    let rest = server.admin_rest();
    let first = rest.send(Method::GET, "/apis", &[("accept", AGGREGATED)], "").await;
    let tag = first.headers["etag"].to_str().unwrap().to_owned();
    assert_eq!(tag.len(), 130);
    let known = [("accept", AGGREGATED), ("if-none-match", &tag)];
    let again = rest.send(Method::GET, "/apis", &known, "").await;
    assert_eq!((again.code.as_u16(), again.body.len(), &again.headers["etag"]), (304, 0, &first.headers["etag"]));
    assert_eq!(rest.send(Method::GET, "/api", &known, "").await.code, 200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn discovery_comes_in_the_form_that_the_client_asks_for() {
    let server = Server::start().await;
    let rest = server.admin_rest();
    let beta = "application/json;g=apidiscovery.k8s.io;v=v2beta1;as=APIGroupDiscoveryList";
    let alone = rest.send(Method::GET, "/apis", &[("accept", beta)], "").await;
    assert_eq!(alone.code, 406);
    let recorded = fixture("aggdisc_apis_v2beta1");
    for field in ["kind", "apiVersion", "metadata", "status", "reason", "code"] {
        assert_eq!(alone.json()[field], recorded[field]);
    }
    // The server has no protobuf of its own.
    let message = recorded["message"].as_str().unwrap().replace(", application/vnd.kubernetes.protobuf", "");
    assert_eq!(alone.json()["message"], message);
    for accept in [format!("{beta},application/json"), "application/json, */*".into(), "*/*".into()] {
        assert_eq!(
            rest.send(Method::GET, "/apis", &[("accept", &accept)], "").await.json()["kind"],
            "APIGroupList",
            "{accept}"
        );
    }
    let both = format!("{AGGREGATED},{beta},application/json");
    assert_eq!(rest.send(Method::GET, "/apis", &[("accept", &both)], "").await.json()["kind"], "APIGroupDiscoveryList");
    let yaml = rest.send(Method::GET, "/api/v1", &[("accept", "application/yaml")], "").await;
    assert!(yaml.body.starts_with(b"kind: APIResourceList\n"), "{:?}", yaml.body);
    // What is of one version is never aggregated.
    let apps = rest.send(Method::GET, "/apis/apps/v1", &[("accept", &both)], "").await;
    assert_eq!(apps.json()["kind"], "APIResourceList");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn metadata_alone_is_served_when_asked_for() {
    let server = Server::start().await;
    let accept = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1";
    let answer = server.admin_rest().send(Method::GET, "/api/v1/services", &[("accept", accept)], "").await.json();
    assert_eq!(
        (&answer["kind"], &answer["apiVersion"]),
        (&"PartialObjectMetadataList".into(), &"meta.k8s.io/v1".into())
    );
    assert_eq!(answer["items"][0]["metadata"]["name"], "kubernetes");
    assert!(answer["items"][0].get("spec").is_none());
}
