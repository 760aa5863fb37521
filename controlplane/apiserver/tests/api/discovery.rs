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
    let openapi = rest.get("/openapi/v2").await;
    assert_eq!((openapi.code.as_u16(), openapi.body.len()), (200, 0));
    assert_eq!(openapi.headers["content-type"], "application/octet-stream");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn newer_clients_get_everything_in_one_answer() {
    let server = Server::start().await;
    let rest = server.admin_rest();
    let accept = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList,application/json";
    let answer = rest.send(Method::GET, "/apis", &[("accept", accept)], "").await;
    assert_eq!(answer.headers["content-type"], "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList");
    let apps = answer.json()["items"].as_array().unwrap().iter().find(|g| g["metadata"]["name"] == "apps").cloned();
    let resources = apps.unwrap()["versions"][0]["resources"].clone();
    let deployments = resources.as_array().unwrap().iter().find(|row| row["resource"] == "deployments").unwrap();
    assert_eq!(deployments["responseKind"]["kind"], "Deployment");
    assert_eq!(deployments["scope"], "Namespaced");
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
