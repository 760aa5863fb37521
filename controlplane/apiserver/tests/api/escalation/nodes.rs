//! A node and what is not its own.

use super::*;

fn secret(name: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name}, "data": {"a": "Yg=="}})
}

fn pod_with(name: &str, node: &str, secret: &str) -> Value {
    let mut pod = pod_of(name, node, "robot");
    pod["spec"]["volumes"] = json!([{"name": "s", "secret": {"secretName": secret}}]);
    pod["spec"]["containers"][0]["envFrom"] = json!([{"configMapRef": {"name": format!("map-{secret}")}}]);
    pod
}

fn mirror(mut pod: Value) -> Value {
    pod["metadata"]["annotations"] = json!({"kubernetes.io/config.mirror": "x"});
    pod
}

fn lease(name: &str) -> Value {
    json!({"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": {"name": name}, "spec": {}})
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_reaches_nothing_of_another_node() {
    let server = Server::start().await;
    let admin = server.admin_rest();
    account(&server, "robot").await;
    let mut uids = Vec::new();
    for (name, node, needs) in [("own", "n1", "mine"), ("other", "n2", "theirs")] {
        let object = json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": node}});
        assert_eq!(admin.post("/api/v1/nodes", &object).await.code, 201);
        assert_eq!(admin.post(SECRETS, &secret(needs)).await.code, 201);
        assert_eq!(admin.post(MAPS, &config_map(&format!("map-{needs}"), "a", "b")).await.code, 201);
        let made = admin.post(PODS, &pod_with(name, node, needs)).await;
        assert_eq!(made.code, 201, "{}", made.json());
        uids.push(made.json()["metadata"]["uid"].clone());
        let path = format!("{LEASES}/kube-node-lease/leases");
        assert_eq!(admin.post(&path, &lease(node)).await.code, 201);
    }
    let node = server.rest("system:node:n1", &["system:nodes"]);
    crate::harness::eventually("the node reads what its pod needs", async || {
        node.get(&format!("{SECRETS}/mine")).await.code == 200
    })
    .await;
    assert_eq!(node.get(&format!("{MAPS}/map-mine")).await.code, 200);
    assert_eq!(node.get(&format!("{SECRETS}?fieldSelector=metadata.name%3Dmine")).await.code, 200);
    assert_eq!(node.get(&format!("{PODS}/own")).await.code, 200);
    assert_eq!(node.get("/api/v1/nodes/n1").await.code, 200);

    let budget = json!({"apiVersion": "policy/v1", "kind": "PodDisruptionBudget", "metadata": {"name": "all"},
                        "spec": {"minAvailable": 0, "selector": {}}});
    let budgets = "/apis/policy/v1/namespaces/default/poddisruptionbudgets";
    assert_eq!(admin.post(budgets, &budget).await.code, 201);
    let mut counted = admin.get(&format!("{budgets}/all")).await.json();
    counted["status"] = json!({"observedGeneration": counted["metadata"]["generation"], "disruptionsAllowed": 1,
                               "currentHealthy": 2, "desiredHealthy": 1, "expectedPods": 2});
    assert_eq!(admin.put(&format!("{budgets}/all/status"), &counted).await.code, 200);

    let cases = [reading(), nodes(), pods(), others(&uids[1])].into_iter().flatten().collect();
    refuse_all(&server, cases, 40, true).await;
    let left = admin.get(&format!("{budgets}/all")).await.json();
    assert_eq!(left["status"]["disruptionsAllowed"], 1, "no refused eviction is charged: {left}");
}

fn forbidden(what: &'static str, method: Method, path: &str) -> Case {
    case(what, NODE, method, path, 403, "Forbidden")
}

fn reading() -> Vec<Case> {
    vec![
        forbidden("a secret of another's pod", Method::GET, &format!("{SECRETS}/theirs")),
        forbidden("a secret of another namespace", Method::GET, "/api/v1/namespaces/kube-system/secrets/mine"),
        forbidden("all secrets", Method::GET, SECRETS),
        forbidden("all secrets there are", Method::GET, "/api/v1/secrets"),
        forbidden("a watch of all secrets", Method::GET, &format!("{SECRETS}?watch=1")),
        forbidden(
            "a list of another's secret",
            Method::GET,
            &format!("{SECRETS}?fieldSelector=metadata.name%3Dtheirs"),
        ),
        forbidden("writing a secret that it reads", Method::PATCH, &format!("{SECRETS}/mine"))
            .json(json!({"data": {}})),
        forbidden("deleting a secret that it reads", Method::DELETE, &format!("{SECRETS}/mine")),
        forbidden("a config map of another's pod", Method::GET, &format!("{MAPS}/map-theirs")),
        forbidden("all config maps", Method::GET, MAPS),
        forbidden("another's pod", Method::GET, &format!("{PODS}/other")),
        forbidden("all pods", Method::GET, "/api/v1/pods"),
        forbidden("a watch of another's pods", Method::GET, "/api/v1/pods?watch=1&fieldSelector=spec.nodeName%3Dn2"),
    ]
}

fn nodes() -> Vec<Case> {
    let label = |key: &str| json!({"metadata": {"labels": {key: "x"}}});
    vec![
        forbidden("another node", Method::GET, "/api/v1/nodes/n2"),
        forbidden("all nodes", Method::GET, "/api/v1/nodes"),
        forbidden("writing another node", Method::PATCH, "/api/v1/nodes/n2")
            .json(json!({"spec": {"unschedulable": true}})),
        forbidden("the status of another node", Method::PATCH, "/api/v1/nodes/n2/status").json(json!({"status": {}})),
        forbidden("another node in its name", Method::POST, "/api/v1/nodes")
            .json(json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "n3"}})),
        forbidden("deleting itself", Method::DELETE, "/api/v1/nodes/n1"),
        forbidden("a restricted label", Method::PATCH, "/api/v1/nodes/n1")
            .json(label("node-restriction.kubernetes.io/tier")),
        forbidden("the label of a role", Method::PATCH, "/api/v1/nodes/n1")
            .json(label("node-role.kubernetes.io/control-plane")),
        forbidden("a restricted label by its status", Method::PATCH, "/api/v1/nodes/n1/status")
            .json(label("node-restriction.kubernetes.io/tier")),
        forbidden("a taint", Method::PATCH, "/api/v1/nodes/n1")
            .json(json!({"spec": {"taints": [{"key": "a", "effect": "NoSchedule"}]}})),
        forbidden("an owner", Method::PATCH, "/api/v1/nodes/n1").json(
            json!({"metadata": {"ownerReferences": [{"apiVersion": "v1", "kind": "Node", "name": "n2", "uid": "1"}]}}),
        ),
    ]
}

fn pods() -> Vec<Case> {
    let label = |key: &str| json!({"metadata": {"labels": {key: "x"}}});
    let mut with_secret = mirror(pod_with("m", "n1", "theirs"));
    with_secret["spec"].as_object_mut().unwrap().remove("serviceAccountName");
    vec![
        forbidden("a pod of its own", Method::POST, PODS).json(pod("x", "n1")),
        forbidden("a mirror pod on another node", Method::POST, PODS).json(mirror(pod("x", "n2"))),
        forbidden("a mirror pod that reads a secret", Method::POST, PODS).json(with_secret),
        forbidden("a mirror pod with an account", Method::POST, PODS).json(mirror(pod_of("x", "n1", "robot"))),
        forbidden("the status of another's pod", Method::PATCH, &format!("{PODS}/other/status"))
            .json(json!({"status": {"message": "x"}})),
        forbidden("labels by the status of its pod", Method::PATCH, &format!("{PODS}/own/status")).json(label("app")),
        forbidden("changing its pod", Method::PATCH, &format!("{PODS}/own"))
            .json(json!({"metadata": {"labels": {"a": "b"}}})),
        forbidden("deleting another's pod", Method::DELETE, &format!("{PODS}/other")),
        forbidden("evicting another's pod", Method::POST, &format!("{PODS}/other/eviction"))
            .json(json!({"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": "other"}})),
        forbidden("binding a pod", Method::POST, &format!("{PODS}/own/binding"))
            .json(json!({"target": {"name": "n1"}})),
    ]
}

fn others(uid: &Value) -> Vec<Case> {
    let bound = json!({"spec": {"boundObjectRef": {"apiVersion": "v1", "kind": "Pod", "name": "other", "uid": uid}}});
    let nobody = Who::User("system:node", &["system:nodes"]);
    vec![
        forbidden("another's lease", Method::PATCH, &format!("{LEASES}/kube-node-lease/leases/n2"))
            .json(json!({"spec": {}})),
        forbidden("reading another's lease", Method::GET, &format!("{LEASES}/kube-node-lease/leases/n2")),
        forbidden("a lease of another name", Method::POST, &format!("{LEASES}/kube-node-lease/leases"))
            .json(lease("n3")),
        forbidden("a lease of the control plane", Method::POST, &format!("{LEASES}/kube-system/leases"))
            .json(lease("n1")),
        forbidden("a token for another's pod", Method::POST, "/api/v1/namespaces/default/serviceaccounts/robot/token")
            .json(bound),
        forbidden("a token for no pod", Method::POST, "/api/v1/namespaces/default/serviceaccounts/robot/token")
            .json(json!({"spec": {}})),
        forbidden(
            "a token of an account it does not run",
            Method::POST,
            "/api/v1/namespaces/kube-system/serviceaccounts/x/token",
        )
        .json(json!({})),
        forbidden("an account", Method::GET, "/api/v1/namespaces/default/serviceaccounts/robot"),
        forbidden("a role", Method::POST, &format!("{RBAC}/clusterroles")).json(cluster_role("x", json!([]))),
        forbidden("a binding", Method::POST, &format!("{RBAC}/clusterrolebindings")).json(binding(
            "ClusterRoleBinding",
            "x",
            "ClusterRole",
            "view",
            "system:node:n1",
        )),
        forbidden("a namespace", Method::POST, "/api/v1/namespaces").json(json!({"metadata": {"name": "x"}})),
        forbidden("a deployment", Method::GET, "/apis/apps/v1/deployments"),
        forbidden("the metrics", Method::GET, "/metrics"),
        forbidden("acting as an administrator", Method::GET, "/api/v1/nodes")
            .header("impersonate-user", "kubernetes-admin"),
        case(
            "a member of the nodes without a node's name",
            nobody.clone(),
            Method::GET,
            "/api/v1/nodes",
            403,
            "Forbidden",
        ),
        case("a secret for no node", nobody, Method::GET, format!("{SECRETS}/mine"), 403, "Forbidden"),
    ]
}
