//! Lists in parts: one state, however long it takes, and what contradicts itself is refused.

use diolkos_api::status::Continue;
use diolkos_api::wire;
use http::Method;
use serde_json::{Value, json};

use crate::harness::{Rest, Server, config_map, key, pod};

const MAPS: &str = "/api/v1/namespaces/default/configmaps";
const PODS: &str = "/api/v1/namespaces/default/pods";
const TABLE: &str = "application/json;as=Table;v=v1;g=meta.k8s.io";

async fn maps(rest: &Rest, count: usize) {
    for index in 0..count {
        assert_eq!(rest.post(MAPS, &config_map(&format!("m{index}"), "a", "b")).await.code, 201);
    }
}

fn names(list: &Value) -> Vec<String> {
    let name = |item: &Value| item["metadata"]["name"].as_str().unwrap().to_owned();
    list["items"].as_array().unwrap_or_else(|| panic!("{list}")).iter().map(name).collect()
}

fn version(list: &Value) -> String {
    list["metadata"]["resourceVersion"].as_str().unwrap().to_owned()
}

fn token(list: &Value) -> String {
    list["metadata"]["continue"].as_str().unwrap_or_else(|| panic!("{list}")).to_owned()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn options_that_contradict_each_other_are_refused() {
    let server = Server::start().await;
    let rest = server.admin_rest();
    let unless = "Forbidden: resourceVersionMatch is forbidden unless resourceVersion is provided";
    let with_continue = "Forbidden: resourceVersionMatch is forbidden when continue is provided";
    let unsupported = "Unsupported value: \"Newest\": supported values: \"Exact\", \"NotOlderThan\", \"\"";
    let zero = "Forbidden: resourceVersionMatch \"exact\" is forbidden for resourceVersion \"0\"";
    let watch = "Forbidden: resourceVersionMatch is forbidden for watch unless sendInitialEvents is provided";
    let initial = "Forbidden: sendInitialEvents requires setting resourceVersionMatch to NotOlderThan";
    let only = "Unsupported value: \"Exact\": supported values: \"NotOlderThan\"";
    let cases: Vec<(&str, Vec<&str>)> = vec![
        ("resourceVersionMatch=Exact", vec![unless]),
        ("resourceVersionMatch=NotOlderThan", vec![unless]),
        ("resourceVersionMatch=Newest", vec![unless, unsupported]),
        ("resourceVersion=1&resourceVersionMatch=Newest", vec![unsupported]),
        ("resourceVersion=0&resourceVersionMatch=Exact", vec![zero]),
        ("resourceVersion=1&resourceVersionMatch=Exact&continue=x", vec![with_continue]),
        ("resourceVersionMatch=NotOlderThan&continue=x", vec![unless, with_continue]),
        ("watch=1&resourceVersion=1&resourceVersionMatch=NotOlderThan", vec![watch]),
        ("watch=1&sendInitialEvents=true", vec![initial]),
        ("watch=1&sendInitialEvents=true&resourceVersionMatch=Exact", vec![initial, only]),
    ];
    for (query, causes) in cases {
        let answer = rest.get(&format!("{MAPS}?{query}")).await;
        let status = answer.json();
        assert_eq!((answer.code.as_u16(), &status["reason"]), (422, &"Invalid".into()), "{query}: {status}");
        let told: Vec<String> = status["details"]["causes"]
            .as_array()
            .unwrap()
            .iter()
            .map(|cause| {
                assert_eq!(cause["field"], "resourceVersionMatch");
                cause["message"].as_str().unwrap().to_owned()
            })
            .collect();
        assert_eq!(told, causes, "{query}");
        assert_eq!(
            (&status["details"]["group"], &status["details"]["kind"]),
            (&"meta.k8s.io".into(), &"ListOptions".into())
        );
        let texts: Vec<String> = causes.iter().map(|cause| format!("resourceVersionMatch: {cause}")).collect();
        let list = if texts.len() == 1 { texts[0].clone() } else { format!("[{}]", texts.join(", ")) };
        assert_eq!(status["message"], format!("ListOptions.meta.k8s.io \"\" is invalid: {list}"));
    }
    maps(&rest, 3).await;
    let page = rest.get(&format!("{MAPS}?limit=1")).await.json();
    let both = rest.get(&format!("{MAPS}?limit=1&continue={}&resourceVersion=7", token(&page))).await;
    assert_eq!(both.code, 400);
    assert_eq!(both.json()["message"], "specifying resource version is not allowed when using continue");
    let zero = rest.get(&format!("{MAPS}?limit=1&continue={}&resourceVersion=0", token(&page))).await;
    assert_eq!(names(&zero.json()), ["m0"].map(|_| "m1"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_version_is_met_exactly_or_at_least_as_asked() {
    let server = Server::start().await;
    let rest = server.admin_rest();
    maps(&rest, 3).await;
    let before = version(&rest.get(MAPS).await.json());
    assert_eq!(rest.delete(&format!("{MAPS}/m0"), &Value::Null).await.code, 200);
    let now = version(&rest.get(MAPS).await.json());
    assert_ne!(before, now);
    let listed = async |query: String| -> (Vec<String>, String) {
        let list = rest.get(&format!("{MAPS}?{query}")).await.json();
        (names(&list), version(&list))
    };
    let old = (vec!["m0".to_owned(), "m1".to_owned(), "m2".to_owned()], before.clone());
    let new = (vec!["m1".to_owned(), "m2".to_owned()], now);
    assert_eq!(listed(format!("resourceVersion={before}&resourceVersionMatch=Exact")).await, old);
    assert_eq!(listed(format!("resourceVersion={before}&resourceVersionMatch=NotOlderThan")).await, new);
    assert_eq!(listed(format!("resourceVersion={before}")).await, new);
    assert_eq!(listed(format!("resourceVersion={before}&limit=9&resourceVersionMatch=NotOlderThan")).await, new);
    // A page of a version that was named is of that version.
    assert_eq!(listed(format!("resourceVersion={before}&limit=9")).await, old);
    assert_eq!(listed("resourceVersion=0&limit=9".into()).await, new);
    let first = rest.get(&format!("{MAPS}?resourceVersion={before}&resourceVersionMatch=Exact&limit=2")).await.json();
    assert_eq!((names(&first), version(&first)), (vec!["m0".to_owned(), "m1".to_owned()], before.clone()));
    assert_eq!(first["metadata"]["remainingItemCount"], 1);
    assert_eq!(listed(format!("limit=2&continue={}", token(&first))).await, (vec!["m2".to_owned()], before));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pages_with_a_selector_are_one_list_at_one_version() {
    let server = Server::start().await;
    let rest = server.admin_rest();
    for index in 0..9 {
        let mut object = pod(&format!("p{index}"), "");
        object["metadata"]["labels"]["third"] = (index % 3).to_string().into();
        assert_eq!(rest.post(PODS, &object).await.code, 201);
    }
    let query = "labelSelector=third%3D1&fieldSelector=metadata.name!%3Dp7&limit=1";
    let mut page = rest.get(&format!("{PODS}?{query}")).await.json();
    let first = version(&page);
    assert_eq!(rest.delete(&format!("{PODS}/p4"), &Value::Null).await.code, 200);
    let mut found = names(&page);
    while page["metadata"]["continue"].is_string() {
        // How many match is not known.
        assert!(page["metadata"].get("remainingItemCount").is_none());
        page = rest.get(&format!("{PODS}?{query}&continue={}", token(&page))).await.json();
        assert_eq!(version(&page), first);
        found.extend(names(&page));
    }
    assert_eq!(found, ["p1", "p4"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tokens_are_those_of_kubernetes_and_stay_in_their_collection() {
    let server = Server::start().await;
    let rest = server.admin_rest();
    maps(&rest, 3).await;
    let page = rest.get("/api/v1/configmaps?limit=1").await.json();
    let decoded = Continue::decode(&token(&page)).unwrap();
    assert_eq!(decoded.start, format!("default/{}\0", names(&page)[0]));
    assert_eq!(decoded.resource_version.to_string(), version(&page));
    // Kubernetes' own token of a kind without namespaces has a slash first.
    let slash = Continue { resource_version: -1, start: "/kube-public\0".into() }.encode();
    assert_eq!(names(&rest.get(&format!("/api/v1/namespaces?continue={slash}")).await.json()), ["kube-system"]);
    let cases = [
        ("default//m0", "invalid continue token: continue key is not valid: default//m0"),
        ("../secrets/a", "invalid continue token: continue key is not valid: ../secrets/a"),
        ("", "invalid continue token: continue key is not valid: encoded start key empty (version meta.k8s.io/v1)"),
    ];
    for (start, message) in cases {
        let token = Continue { resource_version: 1, start: start.into() }.encode();
        let answer = rest.get(&format!("/api/v1/configmaps?continue={token}")).await;
        assert_eq!((answer.code.as_u16(), &answer.json()["message"]), (400, &message.into()));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tables_and_metadata_come_in_pages_too() {
    let server = Server::start().await;
    let rest = server.admin_rest();
    maps(&rest, 70).await;
    let partial = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1";
    for (accept, rows) in [(TABLE, "rows"), (partial, "items")] {
        let whole = rest.send(Method::GET, MAPS, &[("accept", accept)], "").await.json();
        assert_eq!(whole[rows].as_array().unwrap().len(), 70, "{accept}");
        let mut page = rest.send(Method::GET, &format!("{MAPS}?limit=33"), &[("accept", accept)], "").await.json();
        assert_eq!(page["metadata"]["remainingItemCount"], 37);
        let mut together = page[rows].as_array().unwrap().clone();
        while page["metadata"]["continue"].is_string() {
            let path = format!("{MAPS}?limit=33&continue={}", token(&page));
            page = rest.send(Method::GET, &path, &[("accept", accept)], "").await.json();
            together.extend(page[rows].as_array().unwrap().clone());
        }
        let objects = |rows: &[Value]| -> Vec<Value> { rows.iter().map(|row| row["object"].clone()).collect() };
        assert_eq!(objects(&together), objects(whole[rows].as_array().unwrap()));
        assert_eq!(page["kind"], whole["kind"]);
    }
    let yaml = rest.send(Method::GET, &format!("{MAPS}?limit=2"), &[("accept", "application/yaml")], "").await;
    let yaml: Value = serde_yaml_ng::from_slice(&yaml.body).unwrap();
    assert_eq!(names(&yaml), ["m0", "m1"]);
    let none = rest.send(Method::GET, "/api/v1/pods", &[("accept", TABLE)], "").await.json();
    assert_eq!(none["rows"], json!([]));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn grpc_has_the_same_pages() {
    let server = Server::start().await;
    maps(&server.admin_rest(), 5).await;
    let mut grpc = server.admin().raw();
    let mut request = wire::ListRequest { key: key("", "configmaps", "default", ""), limit: 2, ..Default::default() };
    let (mut found, mut versions) = (Vec::new(), Vec::new());
    loop {
        let mut pages = grpc.list(request.clone()).await.unwrap().into_inner();
        let mut last = wire::Page::default();
        while let Some(page) = pages.message().await.unwrap() {
            let name = |object: &wire::Object| {
                serde_json::from_slice::<Value>(&object.json).unwrap()["metadata"]["name"].clone()
            };
            found.extend(page.items.iter().map(name));
            versions.push(page.resource_version);
            last = page;
        }
        if last.r#continue.is_empty() {
            break;
        }
        assert_eq!(last.remaining, 5 - i64::try_from(found.len()).unwrap());
        request.r#continue = last.r#continue;
    }
    assert_eq!(found, ["m0", "m1", "m2", "m3", "m4"]);
    versions.dedup();
    assert_eq!((versions.len(), found.len()), (1, 5));
    let wrong = wire::ListRequest { resource_version_match: "Exact".into(), r#continue: String::new(), ..request };
    assert_eq!(grpc.list(wrong).await.unwrap_err().code(), tonic::Code::InvalidArgument);
}
