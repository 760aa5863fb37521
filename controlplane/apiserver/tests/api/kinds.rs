//! Every kind over REST: discovery, one object of each, other versions of them, and what writers are warned of.

use std::collections::BTreeMap;

use http::Method;
use serde::Deserialize as _;
use serde_json::{Value, json};

use crate::harness::{Rest, Server, fixture};

const TABLE: &str = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json";
const AGGREGATED: &str = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList";
/// Parts of objects that a real server has and this one does not.
const NOT_SERVED: [&str; 6] = ["attach", "exec", "log", "portforward", "proxy", "resize"];

/// The objects with which the rules of all kinds are tested.
fn objects() -> Vec<Value> {
    let path = format!("{}/../api/tests/fixtures/every_kind.yaml", env!("CARGO_MANIFEST_DIR"));
    let text = std::fs::read_to_string(path).unwrap();
    serde_yaml_ng::Deserializer::from_str(&text).map(|document| Value::deserialize(document).unwrap()).collect()
}

type Rows = BTreeMap<(String, String, String), Value>;

fn rows(list: &Value, all: &mut Rows) {
    for group in list["items"].as_array().unwrap() {
        for version in group["versions"].as_array().unwrap() {
            for row in version["resources"].as_array().unwrap() {
                let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
                let key = (text(&group["metadata"]["name"]), text(&version["version"]), text(&row["resource"]));
                all.insert(key, row.clone());
            }
        }
    }
}

async fn served(rest: &Rest) -> Rows {
    let mut all = Rows::new();
    for path in ["/api", "/apis"] {
        rows(&rest.send(Method::GET, path, &[("accept", AGGREGATED)], "").await.json(), &mut all);
    }
    all
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_row_of_discovery_is_that_of_a_real_server() {
    let server = Server::start().await;
    let rest = server.admin_rest();
    let mut recorded = Rows::new();
    rows(&fixture("aggdisc_api"), &mut recorded);
    rows(&fixture("aggdisc_apis"), &mut recorded);
    let served = served(&rest).await;
    assert!(served.len() >= 45, "{}", served.len());
    for (key, mut row) in served {
        let mut expected = recorded[&key].clone();
        for row in [&mut row, &mut expected] {
            if let Some(parts) = row.get_mut("subresources").and_then(Value::as_array_mut) {
                parts.retain(|part| !NOT_SERVED.contains(&part["subresource"].as_str().unwrap()));
                if parts.is_empty() {
                    row.as_object_mut().unwrap().remove("subresources");
                }
            }
        }
        assert_eq!(row, expected, "{key:?}");
    }
    let groups = rest.get("/apis").await.json();
    let autoscaling = groups["groups"].as_array().unwrap().iter().find(|group| group["name"] == "autoscaling").unwrap();
    assert_eq!(autoscaling["preferredVersion"]["version"], "v2");
    assert_eq!(autoscaling["versions"].as_array().unwrap().len(), 2);
}

/// The collection that an object belongs to, by what discovery says of its kind.
fn collection(rows: &Rows, object: &Value) -> String {
    let api_version = object["apiVersion"].as_str().unwrap();
    let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
    let own = |(key, row): &(&(String, String, String), &Value)| {
        key.0 == group
            && key.1 == version
            && row["responseKind"]["kind"] == object["kind"]
            && row["verbs"] != json!(["create"])
    };
    let (key, row) = rows.iter().find(own).unwrap();
    let root = if group.is_empty() { "/api/v1".to_owned() } else { format!("/apis/{api_version}") };
    let place = if row["scope"] == "Namespaced" { "/namespaces/default" } else { "" };
    format!("{root}{place}/{}", key.2)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_object_of_every_kind_is_created_read_listed_replaced_and_deleted() {
    let server = Server::start().await;
    let rest = server.admin_rest();
    let rows = served(&rest).await;
    // The server itself writes on a definition at once, and deletes it in its own time: see `crd`.
    for mut object in objects().into_iter().filter(|object| object["kind"] != "CustomResourceDefinition") {
        object["futureField"] = json!({"z": 1, "a": [2]});
        let path = collection(&rows, &object);
        let created = rest.post(&path, &object).await;
        assert_eq!(created.code, 201, "{path}: {}", created.json());
        let made = created.json();
        assert_eq!((&made["apiVersion"], &made["kind"]), (&object["apiVersion"], &object["kind"]));
        let one = format!("{path}/{}", object["metadata"]["name"].as_str().unwrap());
        let read = rest.get(&one).await.json();
        assert_eq!(read, made, "{one}");
        assert_eq!(read["futureField"], object["futureField"], "unknown fields survive: {one}");
        let list = rest.get(&path).await.json();
        assert!(list["items"].as_array().unwrap().contains(&read), "{path}");
        let table = rest.send(Method::GET, &path, &[("accept", TABLE)], "").await.json();
        let columns = table["columnDefinitions"].as_array().unwrap().len();
        assert!(table["rows"].as_array().unwrap().iter().all(|row| row["cells"].as_array().unwrap().len() == columns));
        let mut labelled = read.clone();
        labelled["metadata"]["labels"]["touched"] = "yes".into();
        let replaced = rest.put(&one, &labelled).await;
        assert_eq!(replaced.code, 200, "{one}: {}", replaced.json());
        let patched = rest.patch("merge-patch", &one, &json!({"metadata": {"labels": {"touched": null}}})).await;
        assert_eq!(patched.code, 200, "{one}: {}", patched.json());
        let patched = patched.json();
        assert_eq!((&patched["spec"], &patched["futureField"]), (&read["spec"], &read["futureField"]), "{one}");
        if object["kind"] != "Namespace" {
            let gone = rest.send(Method::DELETE, &one, &[], "").await;
            assert_eq!(gone.code, 200, "{one}: {}", gone.json());
            assert_eq!(rest.get(&one).await.code, 404, "{one}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn unknown_and_duplicate_fields_are_refused_warned_of_or_ignored() {
    let server = Server::start().await;
    let rest = server.admin_rest();
    let body = "{\"apiVersion\":\"apps/v1\",\"kind\":\"ReplicaSet\",\"metadata\":{\"name\":\"a\"},\"spec\":{\"replicas\":1,\
                \"replicas\":2,\"foo\":1,\"selector\":{\"matchLabels\":{\"a\":\"b\"}},\"template\":{\"metadata\":{\"labels\":\
                {\"a\":\"b\"}},\"spec\":{\"containers\":[{\"name\":\"c\",\"image\":\"i\",\"bar\":null}]}}}}";
    let path = "/apis/apps/v1/namespaces/default/replicasets?dryRun=All&fieldValidation=";
    let json = [("content-type", "application/json")];
    let strict = rest.send(Method::POST, &format!("{path}Strict"), &json, body).await;
    assert_eq!(strict.code, 400);
    assert_eq!(
        strict.json()["message"],
        "ReplicaSet in version \"v1\" cannot be handled as a ReplicaSet: strict decoding error: duplicate field \
         \"spec.replicas\", unknown field \"spec.foo\", unknown field \"spec.template.spec.containers[0].bar\""
    );
    let warned = rest.send(Method::POST, &format!("{path}Warn"), &json, body).await;
    assert_eq!(warned.code, 201);
    let warnings: Vec<_> = warned.headers.get_all("warning").iter().map(|value| value.to_str().unwrap()).collect();
    assert_eq!(warnings.len(), 3, "{warnings:?}");
    assert_eq!(warnings[1], "299 - \"unknown field \\\"spec.foo\\\"\"");
    let ignored = rest.send(Method::POST, &format!("{path}Ignore"), &json, body).await;
    assert_eq!((ignored.code.as_u16(), ignored.headers.get("warning")), (201, None));
    let wrong = rest
        .send(Method::POST, &format!("{path}Ignore"), &json, &body.replace("\"replicas\":2", "\"replicas\":\"2\""))
        .await;
    assert_eq!(
        wrong.json()["message"],
        "ReplicaSet in version \"v1\" cannot be handled as a ReplicaSet: json: cannot unmarshal string into Go struct \
         field ReplicaSetSpec.spec.replicas of type int32"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_versions_and_two_groups_are_one_object() {
    let server = Server::start().await;
    let rest = server.admin_rest();
    let all = objects();
    let find = |api_version: &str, kind: &str| {
        all.iter().find(|own| own["apiVersion"] == api_version && own["kind"] == kind).unwrap().clone()
    };
    let v2 = "/apis/autoscaling/v2/namespaces/default/horizontalpodautoscalers";
    let v1 = "/apis/autoscaling/v1/namespaces/default/horizontalpodautoscalers";
    rest.post(v1, &find("autoscaling/v1", "HorizontalPodAutoscaler")).await;
    let newer = rest.get(&format!("{v2}/old")).await.json();
    assert_eq!(
        (&newer["apiVersion"], &newer["spec"]["metrics"][0]["resource"]["name"]),
        (&json!("autoscaling/v2"), &json!("cpu"))
    );
    let patch = json!({"spec": {"targetCPUUtilizationPercentage": 55}});
    assert_eq!(rest.patch("strategic-merge-patch", &format!("{v1}/old"), &patch).await.code, 200);
    let newer = rest.get(&format!("{v2}/old")).await.json();
    assert_eq!(newer["spec"]["metrics"][0]["resource"]["target"]["averageUtilization"], 55);
    assert_eq!(rest.get(v1).await.json()["items"][0]["spec"]["targetCPUUtilizationPercentage"], 55);

    let core = "/api/v1/namespaces/default/events";
    let new = "/apis/events.k8s.io/v1/namespaces/default/events";
    rest.post(new, &find("events.k8s.io/v1", "Event")).await;
    let event = rest.get(&format!("{core}?fieldSelector=involvedObject.name%3Dweb")).await.json();
    assert_eq!(event["items"][0]["message"], "assigned to n1");
    let event = rest.get(&format!("{new}?fieldSelector=regarding.name%3Dweb")).await.json();
    assert_eq!(event["items"][0]["note"], "assigned to n1");
    assert!(event["items"][0].get("message").is_none());
    let refused = rest.get(&format!("{new}?fieldSelector=involvedObject.name%3Dweb")).await;
    assert_eq!(refused.code, 400);
    let watch = format!("{new}?watch=true&timeoutSeconds=1");
    let seen = rest.get(&watch).await;
    let first: Value = serde_json::from_slice(seen.body.split(|byte| *byte == b'\n').next().unwrap()).unwrap();
    assert_eq!((&first["type"], &first["object"]["note"]), (&json!("ADDED"), &json!("assigned to n1")));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn writers_and_readers_are_warned() {
    let server = Server::start().await;
    let rest = server.admin_rest();
    let policy = json!({"metadata": {"name": "a"}, "spec": {"podSelector": {}}});
    let path = "/apis/networking.k8s.io/v1/namespaces/default/networkpolicies";
    let made = rest.post(path, &policy).await;
    assert_eq!(
        (made.code.as_u16(), &made.headers["warning"]),
        (201, &"299 - \"NetworkPolicy is not enforced\"".parse().unwrap())
    );
    // Whoever comes later finds an event.
    let events = rest.get("/api/v1/namespaces/default/events").await.json();
    let event = &events["items"][0];
    assert_eq!((&event["reason"], &event["type"]), (&json!("NotEnforced"), &json!("Warning")), "{events}");
    assert_eq!(event["involvedObject"]["uid"], made.json()["metadata"]["uid"]);
    let listed = rest.get("/api/v1/endpoints").await;
    assert_eq!(
        listed.headers["warning"],
        "299 - \"v1 Endpoints is deprecated in v1.33+; use discovery.k8s.io/v1 EndpointSlice\""
    );
    assert!(rest.get(path).await.headers.get("warning").is_none());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_eviction_asks_the_budget_of_the_pod() {
    let server = Server::start().await;
    let rest = server.admin_rest();
    let pods = "/api/v1/namespaces/default/pods";
    for name in ["a", "b"] {
        let mut pod = crate::harness::pod(name, "n1");
        pod["metadata"]["labels"] = json!({"app": "web"});
        rest.post(pods, &pod).await;
        let running = json!({"status": {"phase": "Running"}});
        assert_eq!(rest.patch("merge-patch", &format!("{pods}/{name}/status"), &running).await.code, 200);
    }
    let budgets = "/apis/policy/v1/namespaces/default/poddisruptionbudgets";
    let budget =
        json!({"metadata": {"name": "web"}, "spec": {"minAvailable": 1, "selector": {"matchLabels": {"app": "web"}}}});
    assert_eq!(rest.post(budgets, &budget).await.code, 201);
    let eviction = |name: &str| json!({"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": name}});
    let evict = |name: &'static str| {
        let rest = &rest;
        async move { rest.post(&format!("{pods}/{name}/eviction"), &eviction(name)).await }
    };
    let early = evict("a").await;
    assert_eq!(early.code, 429, "nobody has counted the pods yet");
    let counted = json!({"status": {"observedGeneration": 1, "disruptionsAllowed": 1, "currentHealthy": 2,
                                    "desiredHealthy": 1, "expectedPods": 2}});
    assert_eq!(rest.patch("merge-patch", &format!("{budgets}/web/status"), &counted).await.code, 200);
    let evicted = evict("a").await;
    assert_eq!(evicted.code, 201, "{}", evicted.json());
    let pod = rest.get(&format!("{pods}/a")).await.json();
    assert!(pod["metadata"]["deletionTimestamp"].is_string(), "its kubelet ends it");
    let left = rest.get(&format!("{budgets}/web")).await.json();
    assert_eq!(left["status"]["disruptionsAllowed"], 0);
    assert!(left["status"]["disruptedPods"]["a"].is_string());
    let refused = evict("b").await;
    assert_eq!(refused.code, 429);
    let status = refused.json();
    assert_eq!(status["message"], "Cannot evict pod as it would violate the pod's disruption budget.");
    assert_eq!(
        status["details"]["causes"][0]["message"],
        "The disruption budget web needs 1 healthy pods and has 2 currently"
    );
    assert!(rest.get(&format!("{pods}/b")).await.json()["metadata"].get("deletionTimestamp").is_none());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_for_a_certificate_names_who_sent_it() {
    let server = Server::start().await;
    let rest = server.admin_rest();
    let path = "/apis/certificates.k8s.io/v1/certificatesigningrequests";
    let mut request = objects().into_iter().find(|own| own["kind"] == "CertificateSigningRequest").unwrap();
    request["spec"]["username"] = "somebody-else".into();
    let made = rest.post(path, &request).await.json();
    assert_eq!(made["spec"]["username"], "admin");
    assert!(made["spec"]["groups"].as_array().unwrap().contains(&"system:masters".into()));
    let approved = json!({"status": {"conditions": [{"type": "Approved", "status": "True", "reason": "r"}]}});
    let answer = rest.patch("merge-patch", &format!("{path}/alice/approval"), &approved).await;
    assert_eq!(answer.code, 200, "{}", answer.json());
    assert_eq!(answer.json()["status"]["conditions"][0]["type"], "Approved");
    let status = rest.get(&format!("{path}/alice")).await.json();
    assert_eq!(status["spec"], made["spec"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn containers_in_every_template_of_pods_merge_by_name() {
    let server = Server::start().await;
    let rest = server.admin_rest();
    let rows = served(&rest).await;
    for (kind, template) in [
        ("DaemonSet", "/spec/template"),
        ("Deployment", "/spec/template"),
        ("ReplicaSet", "/spec/template"),
        ("StatefulSet", "/spec/template"),
        ("ReplicationController", "/spec/template"),
        ("PodTemplate", "/template"),
        ("CronJob", "/spec/jobTemplate/spec/template"),
    ] {
        let object = objects().into_iter().find(|own| own["kind"] == kind).unwrap();
        let path = collection(&rows, &object);
        rest.post(&path, &object).await;
        let mut patch = json!({"spec": {"containers": [{"name": "d", "image": "more:1"}]}});
        for part in template.split('/').skip(1).collect::<Vec<_>>().into_iter().rev() {
            patch = json!({part: patch});
        }
        let one = format!("{path}/{}", object["metadata"]["name"].as_str().unwrap());
        let patched = rest.patch("strategic-merge-patch", &one, &patch).await.json();
        let containers = patched.pointer(&format!("{template}/spec/containers")).unwrap_or_else(|| panic!("{patched}"));
        let mut names: Vec<&str> = containers.as_array().unwrap().iter().map(|c| c["name"].as_str().unwrap()).collect();
        names.sort_unstable();
        assert_eq!(names, ["c", "d"], "{kind}");
    }
}
