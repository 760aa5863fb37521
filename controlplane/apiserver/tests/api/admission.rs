//! What has to be passed before anything is written, over both protocols.

use diolkos_api::client::Client;
use diolkos_apiserver::{AdmissionOptions, Security, serve_with};
use k8s_openapi::api::core::v1::Pod;
use serde_json::{Value, json};

use crate::harness::{Server, pod};

pub(crate) const PODS: &str = "/api/v1/namespaces/default/pods";

/// The message of a refusal.
pub(crate) async fn refused(server: &Server, path: &str, object: &Value) -> String {
    let answer = server.admin_rest().post(path, object).await;
    assert_eq!(answer.code, 403, "{}", answer.json());
    answer.json()["message"].as_str().unwrap().to_owned()
}

/// Makes an object as the administrator.
pub(crate) async fn make(server: &Server, path: &str, object: Value) -> Value {
    let answer = server.admin_rest().post(path, &object).await;
    assert_eq!(answer.code, 201, "{}", answer.json());
    answer.json()
}

async fn over_grpc(client: &Client, object: &Value) -> Result<Value, String> {
    let pod: Pod = serde_json::from_value(object.clone()).unwrap();
    let made = client.api::<Pod>(Some("default")).create(&pod).await;
    made.map(|pod| serde_json::to_value(pod).unwrap()).map_err(|failure| failure.status().message.clone().unwrap())
}

fn with_class(name: &str, class: &str) -> Value {
    let mut pod = pod(name, "");
    pod["spec"]["priorityClassName"] = class.into();
    pod
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_pod_passes_the_chain_however_it_comes() {
    let server = Server::start().await;
    let (rest, grpc) = (make(&server, PODS, with_class("a", "system-node-critical")).await, server.admin());
    let grpc_made = over_grpc(&grpc, &with_class("b", "system-node-critical")).await.unwrap();
    for made in [&rest, &grpc_made] {
        assert_eq!(made["spec"]["priority"], 2_000_001_000);
        assert_eq!(made["spec"]["preemptionPolicy"], "PreemptLowerPriority");
        assert_eq!(made["spec"]["tolerations"].as_array().unwrap().len(), 2, "{made}");
    }
    let why = "pods \"c\" is forbidden: no PriorityClass with name none was found";
    assert_eq!(refused(&server, PODS, &with_class("c", "none")).await, why);
    assert_eq!(over_grpc(&grpc, &with_class("c", "none")).await.unwrap_err(), why);
    assert_eq!(refused(&server, &format!("{PODS}?dryRun=All"), &with_class("c", "none")).await, why);
    let text = String::from_utf8(server.admin_rest().get("/metrics").await.body.to_vec()).unwrap();
    assert!(text.contains("diolkos_apiserver_refused_admissions_total{plugin=\"Priority\"} 3"), "{text}");

    // Who leaves out what the chain filled in changes nothing.
    let mut again = with_class("a", "system-node-critical");
    again["metadata"]["labels"] = rest["metadata"]["labels"].clone();
    let replaced = server.admin_rest().put(&format!("{PODS}/a"), &again).await;
    assert_eq!(replaced.json()["spec"], rest["spec"], "{}", replaced.json());
    assert_eq!(replaced.json()["metadata"]["resourceVersion"], rest["metadata"]["resourceVersion"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_just_written_decides_what_comes_next() {
    let server = Server::start().await;
    for round in 0..20 {
        let class = json!({"metadata": {"name": format!("c{round}")}, "value": round});
        make(&server, "/apis/scheduling.k8s.io/v1/priorityclasses", class).await;
        let made = make(&server, PODS, with_class(&format!("p{round}"), &format!("c{round}"))).await;
        assert_eq!(made["spec"]["priority"], round);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn plugins_are_turned_off_by_their_names() {
    let options = |name: &str| AdmissionOptions { disable: vec![name.into()], enable: Vec::new() };
    let security = Security { admission: options("DefaultTolerationSeconds"), ..Security::default() };
    let server = Server::secured(security).await;
    assert!(make(&server, PODS, pod("p", "")).await["spec"].get("tolerations").is_none());

    let (store, settings) = (
        std::sync::Arc::new(server.store.clone()),
        server.settings(Security { admission: options("Defaults"), ..Security::default() }),
    );
    let why = serve_with(store, &server.pki, settings).await.err().unwrap().to_string();
    assert!(why.starts_with("there is no admission plugin \"Defaults\": there are NamespaceLifecycle, "), "{why}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_limits_of_a_namespace_hold_for_pods_and_claims() {
    let server = Server::start().await;
    let range = json!({"metadata": {"name": "r"}, "spec": {"limits": [
        {"type": "Container", "default": {"cpu": "500m"}, "max": {"cpu": "1"}},
        {"type": "PersistentVolumeClaim", "max": {"storage": "1Gi"}},
    ]}});
    make(&server, "/api/v1/namespaces/default/limitranges", range).await;
    let made = make(&server, PODS, pod("p", "")).await;
    assert_eq!(
        made["spec"]["containers"][0]["resources"],
        json!({"requests": {"cpu": "500m"}, "limits": {"cpu": "500m"}})
    );
    let mut large = pod("q", "");
    large["spec"]["containers"][0]["resources"] = json!({"limits": {"cpu": "2"}});
    assert_eq!(
        refused(&server, PODS, &large).await,
        "pods \"q\" is forbidden: maximum cpu usage per Container is 1, but limit is 2"
    );
    let claim = json!({"metadata": {"name": "c"}, "spec": {
        "accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "2Gi"}},
    }});
    let why = refused(&server, "/api/v1/namespaces/default/persistentvolumeclaims", &claim).await;
    assert!(why.ends_with("maximum storage usage per PersistentVolumeClaim is 1Gi, but request is 2Gi"), "{why}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_levels_of_a_namespace_hold_over_both_protocols() {
    let server = Server::start().await;
    let labels = json!({"pod-security.kubernetes.io/enforce": "baseline"});
    let patch = json!({"metadata": {"labels": labels}});
    let patched = server.admin_rest().patch("merge-patch", "/api/v1/namespaces/default", &patch).await;
    assert_eq!(patched.code, 200);
    let mut host = pod("p", "");
    host["spec"]["hostPID"] = true.into();
    let why = "pods \"p\" is forbidden: violates PodSecurity \"baseline:latest\": host namespaces (hostPID=true)";
    assert_eq!(refused(&server, PODS, &host).await, why);
    assert_eq!(over_grpc(&server.admin(), &host).await.unwrap_err(), why);
    let deployment = json!({"metadata": {"name": "d"}, "spec": {
        "selector": {"matchLabels": {"app": "p"}},
        "template": {"metadata": {"labels": {"app": "p"}}, "spec": host["spec"]},
    }});
    let answer = server.admin_rest().post("/apis/apps/v1/namespaces/default/deployments", &deployment).await;
    assert_eq!(answer.code, 201);
    let warning = answer.headers["warning"].to_str().unwrap();
    assert!(warning.contains("would violate PodSecurity"), "{warning}");
    make(&server, PODS, pod("p", "")).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pods_run_as_accounts_once_that_is_asked_for() {
    let enabled = AdmissionOptions { enable: vec!["ServiceAccount".into()], disable: Vec::new() };
    let server = Server::secured(Security { admission: enabled, ..Security::default() }).await;
    let why = "pods \"p\" is forbidden: error looking up service account default/default: serviceaccount \"default\" not \
               found";
    assert_eq!(refused(&server, PODS, &pod("p", "")).await, why);
    assert_eq!(over_grpc(&server.admin(), &pod("p", "")).await.unwrap_err(), why);
    let account = json!({"metadata": {"name": "default"}});
    make(&server, "/api/v1/namespaces/default/serviceaccounts", account).await;
    let made = make(&server, PODS, pod("p", "")).await;
    assert_eq!(made["spec"]["serviceAccountName"], "default");
    let volume = made["spec"]["volumes"][0]["name"].as_str().unwrap();
    assert_eq!(made["spec"]["containers"][0]["volumeMounts"][0]["name"], volume);
}
