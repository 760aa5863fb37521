//! What the components on a node may do.

use serde_json::{Value, json};

use crate::harness::{Server, eventually, pod};

const PODS: &str = "/api/v1/namespaces/default/pods";

fn node(name: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": name}})
}

fn lease(name: &str) -> Value {
    json!({"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": {"name": name},
           "spec": {"holderIdentity": name}})
}

fn leases(namespace: &str) -> String {
    format!("/apis/coordination.k8s.io/v1/namespaces/{namespace}/leases")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_writes_only_what_is_its_own() {
    let server = Server::start().await;
    let admin = server.admin_rest();
    for (name, node) in [("own", "n1"), ("other", "n2"), ("free", "")] {
        assert_eq!(admin.post(PODS, &pod(name, node)).await.code, 201);
    }
    assert_eq!(admin.post(&leases("kube-system"), &lease("n1")).await.code, 201);
    let kubelet = server.rest("system:node:n1", &["system:nodes"]);
    let status = json!({"status": {"message": "from the node"}});
    for (pod, code) in [("own", 200), ("other", 403), ("free", 403)] {
        let answer = kubelet.patch("merge-patch", &format!("{PODS}/{pod}/status"), &status).await;
        assert_eq!(answer.code, code, "{}", answer.json());
        let answer = kubelet.delete(&format!("{PODS}/{pod}?gracePeriodSeconds=0"), &Value::Null).await;
        assert_eq!(answer.code, code, "{}", answer.json());
    }
    assert_eq!(kubelet.post(PODS, &pod("mirror", "n1")).await.code, 403);
    for (name, code) in [("n1", 201), ("n2", 403)] {
        let answer = kubelet.post("/api/v1/nodes", &node(name)).await;
        assert_eq!(answer.code, code, "{}", answer.json());
        let answer = kubelet.post(&leases("kube-node-lease"), &lease(name)).await;
        assert_eq!(answer.code, code, "{}", answer.json());
    }
    assert_eq!(kubelet.post(&leases("default"), &lease("n1")).await.code, 403);
    let change = json!({"spec": {"holderIdentity": "stolen"}});
    for (namespace, code) in [("kube-node-lease", 200), ("kube-system", 403)] {
        let path = format!("{}/n1", leases(namespace));
        assert_eq!(kubelet.patch("merge-patch", &path, &change).await.code, code);
    }
    assert_eq!(kubelet.get("/api/v1/pods").await.code, 403);
    assert_eq!(kubelet.get("/api/v1/pods?fieldSelector=spec.nodeName%3Dn2").await.code, 403);
    assert_eq!(kubelet.get("/api/v1/pods?fieldSelector=spec.nodeName%3Dn1").await.code, 200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_volume_says_itself_whose_it_is() {
    let server = Server::start().await;
    let admin = server.admin_rest();
    let mut web = pod("web", "n1");
    web["spec"]["volumes"] = json!([{"name": "v", "persistentVolumeClaim": {"claimName": "mine"}}]);
    assert_eq!(admin.post(PODS, &web).await.code, 201);
    // Whoever writes claims can name any volume in them.
    let claim = json!({"metadata": {"name": "mine"}, "spec": {
        "accessModes": ["ReadWriteOnce"], "volumeName": "theirs", "resources": {"requests": {"storage": "1Gi"}},
    }});
    let made = admin.post("/api/v1/namespaces/default/persistentvolumeclaims", &claim).await;
    assert_eq!(made.code, 201, "{}", made.json());
    for (name, namespace, claim) in [("theirs", "kube-system", "secret"), ("own", "default", "mine")] {
        let volume = json!({"metadata": {"name": name}, "spec": {
            "accessModes": ["ReadWriteOnce"], "capacity": {"storage": "1Gi"}, "hostPath": {"path": "/data"},
            "claimRef": {"namespace": namespace, "name": claim},
        }});
        let made = admin.post("/api/v1/persistentvolumes", &volume).await;
        assert_eq!(made.code, 201, "{}", made.json());
    }
    let kubelet = server.rest("system:node:n1", &["system:nodes"]);
    eventually("the node reads its volume", async || kubelet.get("/api/v1/persistentvolumes/own").await.code == 200)
        .await;
    assert_eq!(kubelet.get("/api/v1/persistentvolumes/theirs").await.code, 403);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_only_reads() {
    let server = Server::start().await;
    server.admin_rest().post(PODS, &pod("a", "n1")).await;
    let agent = server.rest("system:diolkos:agent:n1", &["system:diolkos-agents"]);
    for path in ["/api/v1/nodes", "/api/v1/pods", "/api/v1/services", "/apis/discovery.k8s.io/v1/endpointslices"] {
        assert_eq!(agent.get(path).await.code, 200);
    }
    assert_eq!(agent.post("/api/v1/nodes", &node("n1")).await.code, 403);
    assert_eq!(agent.delete(&format!("{PODS}/a"), &Value::Null).await.code, 403);
    assert_eq!(agent.patch("merge-patch", &format!("{PODS}/a/status"), &json!({})).await.code, 403);
    assert_eq!(agent.get("/api/v1/configmaps").await.code, 403);
}
