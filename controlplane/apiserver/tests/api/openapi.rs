//! OpenAPI: complete, in both versions, and not sent twice.

use std::collections::BTreeSet;

use http::Method;
use serde_json::Value;

use crate::harness::{Rest, Server, fixture};

const PROTOBUF: &str = "application/com.github.proto-openapi.spec.v2@v1.0+protobuf";

/// The place of the document of a group version.
async fn place(rest: &Rest, path: &str) -> String {
    let index = rest.get("/openapi/v3").await.json();
    index["paths"][path]["serverRelativeURL"].as_str().unwrap_or_else(|| panic!("{path}: {index}")).to_owned()
}

/// What is referred to anywhere in a document.
fn references(value: &Value, found: &mut BTreeSet<String>) {
    match value {
        Value::Object(fields) => {
            found.extend(fields.get("$ref").and_then(Value::as_str).map(str::to_owned));
            fields.values().for_each(|value| references(value, found));
        }
        Value::Array(items) => items.iter().for_each(|item| references(item, found)),
        _ => {}
    }
}

fn about(value: &Value) -> Vec<(&str, &str)> {
    let names = value["x-kubernetes-group-version-kind"].as_array().into_iter().flatten();
    names.map(|name| (name["version"].as_str().unwrap(), name["kind"].as_str().unwrap())).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_group_version_has_a_document_with_all_that_it_names() {
    let server = Server::start().await;
    let rest = server.admin_rest();
    let index = rest.get("/openapi/v3").await.json();
    let mut kinds = 0;
    for (path, place) in index["paths"].as_object().unwrap() {
        let place = place["serverRelativeURL"].as_str().unwrap();
        assert!(place.starts_with(&format!("/openapi/v3/{path}?hash=")), "{place}");
        assert!(fixture("openapi_v3_index")["paths"].get(path).is_some(), "{path} is not one of a real server");
        let document = rest.get(place).await.json();
        assert_eq!(document["openapi"], "3.0.0");
        let schemas = document["components"]["schemas"].as_object().unwrap();
        let mut named = BTreeSet::new();
        references(&document, &mut named);
        for name in named {
            assert!(schemas.contains_key(name.strip_prefix("#/components/schemas/").unwrap()), "{path}: {name}");
        }
        // What discovery tells of is described, and may be done as described.
        let discovered = rest.get(&format!("/{path}")).await.json();
        for row in discovered["resources"].as_array().unwrap() {
            let kind = row["kind"].as_str().unwrap();
            let version = row["version"].as_str().unwrap_or_else(|| path.rsplit('/').next().unwrap());
            assert!(schemas.values().any(|schema| about(schema).contains(&(version, kind))), "{path}: {kind}");
            let name = row["name"].as_str().unwrap().split('/').next().unwrap();
            let space = if row["namespaced"] == true { "/namespaces/{namespace}" } else { "" };
            let collection = &document["paths"][format!("/{path}{space}/{name}")];
            let item = &document["paths"][format!("/{path}{space}/{name}/{{name}}")];
            for verb in row["verbs"].as_array().unwrap().iter().filter_map(Value::as_str) {
                let there = match verb {
                    _ if row["name"] != name => continue,
                    "list" | "watch" => collection.get("get"),
                    "create" => collection.get("post"),
                    "deletecollection" => collection.get("delete"),
                    "update" => item.get("put"),
                    verb => item.get(verb),
                };
                assert!(there.is_some(), "{path}: {verb} {name}");
            }
            kinds += 1;
        }
    }
    assert!(kinds > 60, "{kinds}");
    assert_eq!(rest.get("/openapi/v3/apis/nope/v1").await.code, 404);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn writes_take_what_kubectl_looks_for() {
    let server = Server::start().await;
    let rest = server.admin_rest();
    let document = rest.get(&place(&rest, "apis/apps/v1").await).await.json();
    let item = &document["paths"]["/apis/apps/v1/namespaces/{namespace}/deployments/{name}"];
    let names = |operation: &Value| -> Vec<String> {
        operation["parameters"].as_array().unwrap().iter().map(|one| one["name"].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(names(&item["patch"]), ["dryRun", "fieldManager", "fieldValidation", "force"]);
    assert_eq!(item["patch"]["x-kubernetes-group-version-kind"]["kind"], "Deployment");
    assert_eq!(item["patch"]["operationId"], "patchAppsV1NamespacedDeployment");
    let schemas = &document["components"]["schemas"];
    let ports = &schemas["io.k8s.api.core.v1.Container"]["properties"]["ports"];
    assert_eq!(ports["x-kubernetes-list-type"], "map");
    assert_eq!(ports["x-kubernetes-list-map-keys"], serde_json::json!(["containerPort", "protocol"]));
    assert_eq!(ports["x-kubernetes-patch-merge-key"], "containerPort");
    let deployment = &schemas["io.k8s.api.apps.v1.Deployment"];
    assert_eq!(
        deployment["properties"]["spec"]["allOf"][0]["$ref"],
        "#/components/schemas/io.k8s.api.apps.v1.DeploymentSpec"
    );
    assert!(deployment.get("required").is_none(), "metadata may be left out");
    let number_or_text = &schemas["io.k8s.apimachinery.pkg.util.intstr.IntOrString"];
    assert_eq!(
        (&number_or_text["format"], number_or_text["oneOf"].as_array().unwrap().len()),
        (&"int-or-string".into(), 2)
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_document_is_kept_for_as_long_as_it_is_the_same() {
    let server = Server::start().await;
    let rest = server.admin_rest();
    let place = place(&rest, "api/v1").await;
    let answer = rest.get(&place).await;
    assert_eq!(answer.headers["cache-control"], "public, immutable, max-age=31536000");
    let tag = answer.headers["etag"].to_str().unwrap();
    assert_eq!(format!("/openapi/v3/api/v1?hash={}", tag.trim_matches('"')), place);
    let known = rest.send(Method::GET, &place, &[("if-none-match", tag)], "").await;
    assert_eq!((known.code.as_u16(), known.body.len()), (304, 0));
    let moved = rest.get("/openapi/v3/api/v1?hash=0123").await;
    assert_eq!((moved.code.as_u16(), moved.headers["location"].to_str().unwrap()), (301, place.as_str()));
    assert!(!rest.get("/openapi/v3/api/v1").await.headers.contains_key("cache-control"));
    // The same documents from every server: several may stand side by side.
    assert_eq!(self::place(&Server::start().await.admin_rest(), "api/v1").await, place);
    let other = rest
        .send(Method::GET, &place, &[("accept", "application/com.github.proto-openapi.spec.v3@v1.0+protobuf")], "")
        .await;
    assert_eq!(other.code, 406);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn version_2_is_complete_as_json_and_as_protobuf() {
    let server = Server::start().await;
    let rest = server.admin_rest();
    let json = rest.get("/openapi/v2").await;
    assert_eq!(json.headers["content-type"], "application/json");
    let document = json.json();
    assert_eq!(document["swagger"], "2.0");
    let definitions = document["definitions"].as_object().unwrap();
    let mut named = BTreeSet::new();
    references(&document, &mut named);
    assert!(named.len() > 300, "{}", named.len());
    for name in named {
        assert!(definitions.contains_key(name.strip_prefix("#/definitions/").unwrap()), "{name}");
    }
    let protobuf = rest.send(Method::GET, "/openapi/v2", &[("accept", PROTOBUF)], "").await;
    // Go reads no media type with an @ in it.
    assert_eq!(protobuf.headers["content-type"], "application/octet-stream");
    assert_ne!(protobuf.headers["etag"], json.headers["etag"]);
    let fields = fields(&protobuf.body);
    assert_eq!(fields[0], (1, b"2.0".to_vec()));
    let definitions_in_protobuf = self::fields(&fields.iter().find(|(number, _)| *number == 9).unwrap().1);
    assert_eq!(definitions_in_protobuf.len(), definitions.len());
    let paths = self::fields(&fields.iter().find(|(number, _)| *number == 8).unwrap().1);
    assert_eq!(paths.len(), document["paths"].as_object().unwrap().len());
}

/// The fields of a message that has only such of a length.
fn fields(mut bytes: &[u8]) -> Vec<(u64, Vec<u8>)> {
    let mut found = Vec::new();
    let number = |bytes: &mut &[u8]| {
        let (mut value, mut shift) = (0, 0);
        loop {
            let (first, rest) = bytes.split_first().unwrap();
            *bytes = rest;
            value |= u64::from(first & 0x7f) << shift;
            shift += 7;
            if first & 0x80 == 0 {
                return value;
            }
        }
    };
    while !bytes.is_empty() {
        let key = number(&mut bytes);
        assert_eq!(key & 7, 2);
        let length = usize::try_from(number(&mut bytes)).unwrap();
        found.push((key >> 3, bytes[..length].to_vec()));
        bytes = &bytes[length..];
    }
    found
}
