//! What may you do, and what may you give?

use super::*;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_does_what_no_role_gives_them() {
    let server = Server::start().await;
    let admin = server.admin_rest();
    account(&server, "robot").await;
    assert_eq!(admin.post(PODS, &pod("p", "")).await.code, 201);
    assert_eq!(admin.post(MAPS, &config_map("m", "a", "b")).await.code, 201);
    // Enough that a part or another verb of the same thing would be at hand.
    let reader = json!([
        {"verbs": ["get", "delete"], "apiGroups": [""], "resources": ["pods"]},
        {"verbs": ["get", "list", "watch"], "apiGroups": [""], "resources": ["configmaps"], "resourceNames": ["other"]},
        {"verbs": ["impersonate"], "apiGroups": [""], "resources": ["users"], "resourceNames": ["carol"]},
    ]);
    grant(&server, "alice", "reader", reader).await;
    let (get, post, put, patch, delete) = (Method::GET, Method::POST, Method::PUT, Method::PATCH, Method::DELETE);
    let forbidden = |what, method: &Method, path: &str| case(what, ALICE, method.clone(), path, 403, "Forbidden");
    let acting = |what, headers: &[(&'static str, &str)]| {
        let plain = forbidden(what, &get, &format!("{PODS}/p"));
        headers.iter().fold(plain, |case, (name, value)| case.header(name, value))
    };
    let reviews = "/apis/authorization.k8s.io/v1";
    let cases = vec![
        forbidden("a list of all pods", &get, "/api/v1/pods"),
        forbidden("a list where only get is given", &get, PODS),
        forbidden("a watch where only get is given", &get, &format!("{PODS}?watch=1")),
        forbidden("a collection where only delete is given", &delete, PODS),
        forbidden("a creation", &post, PODS).json(pod("q", "")),
        forbidden("an update", &put, &format!("{PODS}/p")).json(pod("p", "")),
        forbidden("a patch", &patch, &format!("{PODS}/p")).json(json!({})),
        forbidden("the status of a pod", &patch, &format!("{PODS}/p/status")).json(json!({})),
        forbidden("reading the status of a pod", &get, &format!("{PODS}/p/status")),
        forbidden("a binding", &post, &format!("{PODS}/p/binding")).json(json!({"target": {"name": "n1"}})),
        forbidden("a part that is not there", &get, &format!("{PODS}/p/nonsense")),
        forbidden("an object of another name", &get, &format!("{MAPS}/m")),
        forbidden("a list that a name would be chosen of", &get, MAPS),
        forbidden("a list of another name", &get, &format!("{MAPS}?fieldSelector=metadata.name%3Dm")),
        forbidden("a list of two names", &get, &format!("{MAPS}?fieldSelector=metadata.name%21%3Dother")),
        forbidden("a watch of secrets", &get, &format!("{SECRETS}?watch=1")),
        forbidden("a secret", &get, &format!("{SECRETS}/s")),
        forbidden("a node", &delete, "/api/v1/nodes/n1"),
        forbidden("a namespace", &post, "/api/v1/namespaces").json(json!({"metadata": {"name": "own"}})),
        forbidden("the finalizers of a namespace", &put, "/api/v1/namespaces/default/finalize").json(json!({})),
        forbidden("the scale of a deployment", &patch, "/apis/apps/v1/namespaces/default/deployments/d/scale")
            .json(json!({})),
        forbidden("a service", &post, "/api/v1/namespaces/default/services").json(service("s")),
        forbidden("a group that is not there", &get, "/apis/nope.example.com/v1/things"),
        forbidden("a kind that is not there", &get, "/api/v1/things"),
        forbidden("a token", &post, "/api/v1/namespaces/default/serviceaccounts/robot/token").json(json!({})),
        forbidden("a review of others", &post, &format!("{reviews}/subjectaccessreviews")).json(json!({})),
        forbidden("a review of a token", &post, "/apis/authentication.k8s.io/v1/tokenreviews").json(json!({})),
        forbidden("the metrics", &get, "/metrics"),
        forbidden("the keys of tokens", &get, "/openid/v1/jwks"),
        forbidden("a path that nothing is at", &get, "/debug/pprof"),
        forbidden("another method of a path that may be read", &post, "/version"),
        forbidden("deleting a path", &delete, "/healthz"),
        acting("acting as an administrator", &[("impersonate-user", "kubernetes-admin")]),
        acting(
            "acting as a group of one's choice",
            &[("impersonate-user", "carol"), ("impersonate-group", "system:masters")],
        ),
        acting("acting as a service account", &[("impersonate-user", "system:serviceaccount:kube-system:x")]),
        acting("acting as a node", &[("impersonate-user", "system:node:n1"), ("impersonate-group", "system:nodes")]),
        acting("acting under a uid", &[("impersonate-user", "carol"), ("impersonate-uid", "1")]),
        acting("acting with extras", &[("impersonate-user", "carol"), ("impersonate-extra-scopes", "all")]),
        acting("acting as somebody who may less", &[("impersonate-user", "carol")]),
    ];
    refuse_all(&server, cases, 30, true).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_gives_themselves_more() {
    let server = Server::start().await;
    let admin = server.admin_rest();
    let writer = json!([
        {"verbs": ["*"], "apiGroups": ["rbac.authorization.k8s.io"], "resources": ["rolebindings", "clusterrolebindings"],
         "resourceNames": []},
        {"verbs": ["create", "update", "patch", "get"], "apiGroups": ["rbac.authorization.k8s.io"], "resources": ["roles", "clusterroles"]},
        {"verbs": ["get"], "apiGroups": [""], "resources": ["configmaps"]},
    ]);
    grant(&server, "alice", "writer", writer).await;
    let (roles, bindings) = (format!("{RBAC}/clusterroles"), format!("{RBAC}/clusterrolebindings"));
    let local = format!("{RBAC}/namespaces/default/roles");
    let small = cluster_role("small", rules(&["get"], &[""], &["configmaps"]));
    assert_eq!(admin.post(&roles, &small).await.code, 201);
    assert_eq!(admin.post(&local, &role("small", rules(&["get"], &[""], &["configmaps"]))).await.code, 201);
    assert_eq!(
        admin.post(&bindings, &binding("ClusterRoleBinding", "up", "ClusterRole", "edit", "bob")).await.code,
        201
    );
    known(&server, "alice").await;
    // What she has she may give: the refusals below are about more.
    let alice = server.rest("alice", &[]);
    let same = binding("ClusterRoleBinding", "same", "ClusterRole", "small", "bob");
    assert_eq!(alice.post(&bindings, &same).await.code, 201);

    let cases = new_roles().into_iter().chain(more_in_roles(&small)).chain(bindings_to_more()).collect();
    refuse_all(&server, cases, 25, true).await;
    // None of it left anything behind.
    assert_eq!(admin.get(&format!("{roles}/new")).await.code, 404);
    assert_eq!(alice.get("/api/v1/nodes").await.code, 403);
}

fn forbidden(what: &'static str, method: Method, path: &str, body: Value) -> Case {
    case(what, ALICE, method, path, 403, "Forbidden").json(body)
}

/// ClusterRoles beyond what she has.
/// A small text that multiplies to more permissions than fit into memory.
fn endless() -> Value {
    let words: Vec<String> = (0..200).map(|n| format!("w{n}")).collect();
    json!([{"verbs": words, "apiGroups": words, "resources": words, "resourceNames": words}])
}

fn new_roles() -> Vec<Case> {
    let path = format!("{RBAC}/clusterroles");
    let new_role = |what, rules: Value| forbidden(what, Method::POST, &path, cluster_role("new", rules));
    vec![
        new_role("another resource", rules(&["get"], &[""], &["secrets"])),
        new_role("another verb", rules(&["list"], &[""], &["configmaps"])),
        new_role("another group", rules(&["get"], &["apps"], &["configmaps"])),
        new_role("a part", rules(&["get"], &[""], &["configmaps/status"])),
        new_role("every verb", rules(&["*"], &[""], &["configmaps"])),
        new_role("every group", rules(&["get"], &["*"], &["configmaps"])),
        new_role("every resource", rules(&["get"], &[""], &["*"])),
        new_role("every part", rules(&["get"], &[""], &["*/status"])),
        new_role("a path", json!([{"verbs": ["get"], "nonResourceURLs": ["/metrics"]}])),
        new_role("every path", json!([{"verbs": ["*"], "nonResourceURLs": ["*"]}])),
        new_role("more permissions than can be counted", endless()),
        new_role("the right to escalate", rules(&["escalate"], &["rbac.authorization.k8s.io"], &["clusterroles"])),
        new_role("the right to act as others", rules(&["impersonate"], &[""], &["users"])),
        new_role(
            "two rules of which one is too much",
            json!([
                {"verbs": ["get"], "apiGroups": [""], "resources": ["configmaps"]},
                {"verbs": ["get"], "apiGroups": [""], "resources": ["nodes"]},
            ]),
        ),
    ]
}

/// Roles that become more than she has, or that others fill.
fn more_in_roles(small: &Value) -> Vec<Case> {
    let roles = format!("{RBAC}/clusterroles");
    let local = format!("{RBAC}/namespaces/default/roles");
    let change = |rules: Value| json!({"rules": rules});
    let mut whole = small.clone();
    whole["rules"] = rules(&["*"], &["*"], &["*"]);
    let mut aggregated = cluster_role("new", json!([]));
    aggregated["aggregationRule"] = json!({"clusterRoleSelectors": [{"matchLabels": {"a": "b"}}]});
    vec![
        forbidden("a role that others fill", Method::POST, &roles, aggregated),
        forbidden("a role in a namespace", Method::POST, &local, role("new", rules(&["get"], &[""], &["secrets"]))),
        forbidden("more in an update", Method::PUT, &format!("{roles}/small"), whole),
        forbidden("more in a patch", Method::PATCH, &format!("{roles}/small"), change(rules(&["*"], &[""], &["pods"]))),
        forbidden(
            "more in a role of a namespace",
            Method::PATCH,
            &format!("{local}/small"),
            change(rules(&["get"], &[""], &["pods"])),
        ),
        forbidden(
            "more in a default role",
            Method::PATCH,
            &format!("{roles}/system:basic-user"),
            change(rules(&["*"], &["*"], &["*"])),
        ),
    ]
}

/// Bindings to what she does not have.
fn bindings_to_more() -> Vec<Case> {
    let bindings = format!("{RBAC}/clusterrolebindings");
    let local_bindings = format!("{RBAC}/namespaces/default/rolebindings");
    let to = |name: &str| binding("ClusterRoleBinding", "new", "ClusterRole", name, "alice");
    let subject =
        |kind: &str, name: &str| json!([{"apiGroup": "rbac.authorization.k8s.io", "kind": kind, "name": name}]);
    let (me, masters) = (subject("User", "alice"), subject("Group", "system:authenticated"));
    vec![
        forbidden("a rehearsal of it", Method::POST, &format!("{bindings}?dryRun=All"), to("cluster-admin")),
        forbidden("everything", Method::POST, &bindings, to("cluster-admin")),
        forbidden("editing", Method::POST, &bindings, to("edit")),
        forbidden("the role of the controller manager", Method::POST, &bindings, to("system:kube-controller-manager")),
        forbidden(
            "everything in a namespace",
            Method::POST,
            &local_bindings,
            binding("RoleBinding", "new", "ClusterRole", "cluster-admin", "alice"),
        ),
        forbidden(
            "administering a namespace",
            Method::POST,
            &local_bindings,
            binding("RoleBinding", "new", "ClusterRole", "admin", "alice"),
        ),
        forbidden("becoming a subject", Method::PATCH, &format!("{bindings}/up"), json!({"subjects": me})),
        forbidden(
            "becoming an administrator",
            Method::PATCH,
            &format!("{bindings}/cluster-admin"),
            json!({"subjects": masters}),
        ),
        case("a role that is not there", ALICE, Method::POST, &bindings, 404, "NotFound").json(to("later")),
        case("another role for a binding", ALICE, Method::PATCH, format!("{bindings}/same"), 422, "Invalid")
            .json(json!({"roleRef": {"name": "cluster-admin"}})),
    ]
}
