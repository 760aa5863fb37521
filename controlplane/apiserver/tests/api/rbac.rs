//! Who may do what: roles and bindings, the default ones among them, and questions about them.

use diolkos_api::client::ListOptions;
use diolkos_store::{Expect, Model, Store as _, Write};
use http::Method;
use k8s_openapi::api::core::v1::Pod;
use serde_json::{Value, json};

use crate::harness::{Rest, Server, config_map, eventually};

const RBAC: &str = "/apis/rbac.authorization.k8s.io/v1";
const REVIEWS: &str = "/apis/authorization.k8s.io/v1";

pub(crate) fn role(name: &str, rules: Value) -> Value {
    json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "Role", "metadata": {"name": name}, "rules": rules})
}

pub(crate) fn cluster_role(name: &str, rules: Value) -> Value {
    json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole", "metadata": {"name": name},
           "rules": rules})
}

pub(crate) fn binding(kind: &str, name: &str, role_kind: &str, role: &str, user: &str) -> Value {
    json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": kind, "metadata": {"name": name},
           "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": role_kind, "name": role},
           "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": user}]})
}

pub(crate) fn rules(verbs: &[&str], groups: &[&str], resources: &[&str]) -> Value {
    json!([{"verbs": verbs, "apiGroups": groups, "resources": resources}])
}

/// Gives a user a ClusterRole everywhere, and waits until the server knows.
pub(crate) async fn grant(server: &Server, user: &str, name: &str, rules: Value) {
    let admin = server.admin_rest();
    let role = cluster_role(name, rules);
    assert_eq!(admin.post(&format!("{RBAC}/clusterroles"), &role).await.code, 201);
    let binding = binding("ClusterRoleBinding", name, "ClusterRole", name, user);
    let answer = admin.post(&format!("{RBAC}/clusterrolebindings"), &binding).await;
    assert_eq!(answer.code, 201, "{}", answer.json());
    known(server, user).await;
}

/// Waits until what was written of a user's roles counts: what comes later in the store counts later.
pub(crate) async fn known(server: &Server, user: &str) {
    let admin = server.admin_rest();
    let name = format!("known-{}", uuid());
    let role = cluster_role(&name, json!([{"verbs": ["get"], "nonResourceURLs": [format!("/{name}")]}]));
    admin.post(&format!("{RBAC}/clusterroles"), &role).await;
    let binding = binding("ClusterRoleBinding", &name, "ClusterRole", &name, user);
    admin.post(&format!("{RBAC}/clusterrolebindings"), &binding).await;
    eventually("the role counts", async || {
        let asked =
            json!({"spec": {"user": user, "nonResourceAttributes": {"verb": "get", "path": format!("/{name}")}}});
        let answer = admin.post(&format!("{REVIEWS}/subjectaccessreviews"), &asked).await;
        answer.json()["status"]["allowed"] == true
    })
    .await;
}

fn uuid() -> String {
    format!("{:08x}", rand::random::<u32>())
}

async fn allowed(rest: &Rest, attributes: Value) -> bool {
    let review = json!({"apiVersion": "authorization.k8s.io/v1", "kind": "SelfSubjectAccessReview",
                        "spec": {"resourceAttributes": attributes}});
    let answer = rest.post(&format!("{REVIEWS}/selfsubjectaccessreviews"), &review).await;
    assert_eq!(answer.code, 201, "{}", answer.json());
    answer.json()["status"]["allowed"] == true
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_role_gives_what_it_says_over_both_protocols_until_it_is_taken_away() {
    let server = Server::start().await;
    let (admin, alice) = (server.admin_rest(), server.rest("alice", &[]));
    let pods = "/api/v1/namespaces/default/pods";
    assert_eq!(alice.get(pods).await.code, 403);
    admin.post(&format!("{RBAC}/namespaces/default/roles"), &role("reader", rules(&["list"], &[""], &["pods"]))).await;
    let gives = binding("RoleBinding", "alice-reads", "Role", "reader", "alice");
    let made = admin.post(&format!("{RBAC}/namespaces/default/rolebindings"), &gives).await;
    assert_eq!(made.code, 201, "{}", made.json());
    eventually("alice may list pods", async || alice.get(pods).await.code == 200).await;
    let grpc = server.grpc("alice", &[]);
    assert!(grpc.api::<Pod>(Some("default")).list(&ListOptions::default()).await.is_ok());
    let elsewhere = grpc.api::<Pod>(Some("kube-system")).list(&ListOptions::default()).await.unwrap_err();
    assert_eq!((elsewhere.code(), elsewhere.reason()), (403, "Forbidden"));
    for other in ["/api/v1/pods", "/api/v1/namespaces/default/pods/p", "/api/v1/namespaces/default/services"] {
        assert_eq!(alice.get(other).await.code, 403, "{other}");
    }
    let gone = admin.delete(&format!("{RBAC}/namespaces/default/rolebindings/alice-reads"), &Value::Null).await;
    assert_eq!(gone.code, 200);
    eventually("alice may not list pods any more", async || alice.get(pods).await.code == 403).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_components_find_the_default_roles_of_kubernetes() {
    let server = Server::start().await;
    let admin = server.admin_rest();
    for name in [
        "cluster-admin",
        "admin",
        "edit",
        "view",
        "system:discovery",
        "system:basic-user",
        "system:public-info-viewer",
        "system:node-proxier",
        "system:kube-scheduler",
        "system:kube-controller-manager",
        "system:node",
        "system:node-bootstrapper",
        "system:controller:deployment-controller",
    ] {
        let answer = admin.get(&format!("{RBAC}/clusterroles/{name}")).await.json();
        assert_eq!(answer["metadata"]["labels"]["kubernetes.io/bootstrapping"], "rbac-defaults", "{answer}");
        assert_eq!(answer["metadata"]["annotations"]["rbac.authorization.kubernetes.io/autoupdate"], "true");
        assert!(!answer["rules"].as_array().unwrap().is_empty());
    }
    let view = admin.get(&format!("{RBAC}/clusterroles/view")).await.json();
    assert_eq!(
        view["aggregationRule"]["clusterRoleSelectors"][0]["matchLabels"]["rbac.authorization.k8s.io/aggregate-to-view"],
        "true"
    );
    assert!(!view["rules"].to_string().contains("\"secrets\""), "{view}");
    let scheduler = server.rest("system:kube-scheduler", &[]);
    let pods =
        |verb: &str, part: &str| json!({"verb": verb, "resource": "pods", "subresource": part, "namespace": "a"});
    assert!(allowed(&scheduler, pods("create", "binding")).await);
    assert!(!allowed(&scheduler, pods("create", "")).await);
    let manager = server.rest("system:kube-controller-manager", &[]);
    assert!(allowed(&manager, pods("create", "")).await);
    assert!(!allowed(&manager, pods("create", "exec")).await);
    let proxy = server.rest("system:kube-proxy", &[]);
    assert!(allowed(&proxy, json!({"verb": "watch", "resource": "services"})).await);
    assert!(!allowed(&proxy, json!({"verb": "watch", "resource": "secrets"})).await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_damaged_default_role_is_repaired_at_the_next_start_unless_it_says_not_to() {
    let store = Model::new();
    let server = Server::over(store.clone(), &["10.96.0.0/16"]).await;
    let admin = server.admin_rest();
    let path = |name: &str| format!("{RBAC}/clusterroles/{name}");
    let own = json!({"verbs": ["get"], "apiGroups": ["example.com"], "resources": ["things"]});
    let damaged = json!({"rules": [own]});
    assert_eq!(admin.patch("merge-patch", &path("system:basic-user"), &damaged).await.code, 200);
    let kept = json!({"rules": null,
                      "metadata": {"annotations": {"rbac.authorization.kubernetes.io/autoupdate": "false"}}});
    assert_eq!(admin.patch("merge-patch", &path("system:discovery"), &kept).await.code, 200);
    let bindings = format!("{RBAC}/clusterrolebindings/system:basic-user");
    assert_eq!(admin.patch("merge-patch", &bindings, &json!({"subjects": null})).await.code, 200);
    assert_eq!(admin.delete(&path("view"), &Value::Null).await.code, 200);
    server.running.stop().await;

    let server = Server::over(store, &["10.96.0.0/16"]).await;
    let admin = server.admin_rest();
    let repaired = admin.get(&path("system:basic-user")).await.json();
    assert!(repaired["rules"].as_array().unwrap().contains(&own), "{repaired}");
    assert!(repaired["rules"].to_string().contains("selfsubjectaccessreviews"), "{repaired}");
    assert!(admin.get(&path("system:discovery")).await.json().get("rules").is_none());
    assert_eq!(admin.get(&path("view")).await.code, 200);
    let subjects = admin.get(&bindings).await.json()["subjects"].clone();
    assert_eq!(subjects[0]["name"], "system:authenticated");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_role_of_the_store_that_cannot_be_read_gives_nothing_and_stops_nothing() {
    let store = Model::new();
    let key = "/registry/rbac.authorization.k8s.io/clusterroles/odd";
    let value = json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole",
                       "metadata": {"name": "odd", "uid": "1"}, "rules": "all"});
    let write = Write::Put { key: key.into(), value: value.to_string().into() };
    store.commit(&[Expect::Absent { key: key.into() }], &[write]).await.unwrap();
    let server = Server::over(store, &["10.96.0.0/16"]).await;
    let binding = binding("ClusterRoleBinding", "odd", "ClusterRole", "odd", "alice");
    assert_eq!(server.admin_rest().post(&format!("{RBAC}/clusterrolebindings"), &binding).await.code, 201);
    known(&server, "alice").await;
    assert_eq!(server.rest("alice", &[]).get("/api/v1/pods").await.code, 403);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_gives_what_they_do_not_have() {
    let server = Server::start().await;
    let roles_of_all = rules(&["create", "update", "patch", "get"], &["rbac.authorization.k8s.io"], &["*"]);
    grant(&server, "alice", "rbac-writer", roles_of_all).await;
    let alice = server.rest("alice", &[]);
    let secrets = cluster_role("secrets", rules(&["get"], &[""], &["secrets"]));
    let answer = alice.post(&format!("{RBAC}/clusterroles"), &secrets).await;
    assert_eq!(answer.code, 403);
    assert_eq!(
        answer.json()["message"],
        "clusterroles.rbac.authorization.k8s.io \"secrets\" is forbidden: user \"alice\" (groups=[\"system:authenticated\"]) \
         is attempting to grant RBAC permissions not currently held:\n{APIGroups:[\"\"], Resources:[\"secrets\"], Verbs:[\"get\"]}"
    );
    // What she has herself she may give.
    let same = cluster_role("same", rules(&["get"], &["rbac.authorization.k8s.io"], &["roles"]));
    assert_eq!(alice.post(&format!("{RBAC}/clusterroles"), &same).await.code, 201);
    let wider = json!({"rules": rules(&["get"], &["rbac.authorization.k8s.io", "apps"], &["roles"])});
    assert_eq!(alice.patch("merge-patch", &format!("{RBAC}/clusterroles/same"), &wider).await.code, 403);
    let aggregated = json!({"aggregationRule": {"clusterRoleSelectors": [{"matchLabels": {"a": "b"}}]}});
    assert_eq!(alice.patch("merge-patch", &format!("{RBAC}/clusterroles/same"), &aggregated).await.code, 403);
    let to_admin = binding("ClusterRoleBinding", "up", "ClusterRole", "cluster-admin", "alice");
    assert_eq!(alice.post(&format!("{RBAC}/clusterrolebindings"), &to_admin).await.code, 403);
    let dry = format!("{RBAC}/clusterrolebindings?dryRun=All");
    assert_eq!(alice.post(&dry, &to_admin).await.code, 403);
    let local = binding("RoleBinding", "up", "ClusterRole", "cluster-admin", "alice");
    assert_eq!(alice.post(&format!("{RBAC}/namespaces/default/rolebindings"), &local).await.code, 403);
    let nothing = binding("ClusterRoleBinding", "up", "ClusterRole", "missing", "alice");
    let answer = alice.post(&format!("{RBAC}/clusterrolebindings"), &nothing).await;
    assert_eq!(
        (answer.code.as_u16(), answer.json()["message"].as_str()),
        (404, Some("clusterroles.rbac.authorization.k8s.io \"missing\" not found"))
    );

    // The verbs that allow it all the same.
    let bind = json!([{"verbs": ["bind"], "apiGroups": ["rbac.authorization.k8s.io"], "resources": ["clusterroles"],
                       "resourceNames": ["view"]}]);
    grant(&server, "alice", "binder", bind).await;
    let view = binding("RoleBinding", "v", "ClusterRole", "view", "alice");
    assert_eq!(alice.post(&format!("{RBAC}/namespaces/default/rolebindings"), &view).await.code, 201);
    assert_eq!(alice.post(&format!("{RBAC}/clusterrolebindings"), &to_admin).await.code, 403);
    grant(&server, "alice", "escalator", rules(&["escalate"], &["rbac.authorization.k8s.io"], &["clusterroles"])).await;
    assert_eq!(alice.post(&format!("{RBAC}/clusterroles"), &secrets).await.code, 201);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rules_are_checked_and_the_role_of_a_binding_is_for_good() {
    let server = Server::start().await;
    let admin = server.admin_rest();
    let path = format!("{RBAC}/namespaces/default/roles");
    let urls = role("r", json!([{"verbs": ["get"], "nonResourceURLs": ["/metrics"]}]));
    let answer = admin.post(&path, &urls).await;
    assert_eq!(
        (answer.code.as_u16(), &answer.json()["details"]["causes"][0]["field"]),
        (422, &json!("rules[0].nonResourceURLs"))
    );
    let nothing = role("r", json!([{"apiGroups": [""], "resources": ["pods"]}]));
    assert_eq!(admin.post(&path, &nothing).await.code, 422);
    assert_eq!(admin.post(&path, &role("a/b", json!([]))).await.code, 422);
    let bindings = format!("{RBAC}/clusterrolebindings");
    let gives = binding("ClusterRoleBinding", "b", "ClusterRole", "view", "alice");
    assert_eq!(admin.post(&bindings, &gives).await.code, 201);
    let other = json!({"roleRef": {"name": "edit"}});
    let answer = admin.patch("merge-patch", &format!("{bindings}/b"), &other).await;
    assert_eq!(answer.code, 422);
    assert!(answer.json()["message"].as_str().unwrap().ends_with("cannot change roleRef"), "{}", answer.json());
    let local = binding("ClusterRoleBinding", "c", "Role", "r", "alice");
    assert_eq!(admin.post(&bindings, &local).await.code, 422);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reviews_tell_what_somebody_may_do() {
    let server = Server::start().await;
    let named = json!([{"verbs": ["get"], "apiGroups": [""], "resources": ["configmaps"], "resourceNames": ["one"]}]);
    grant(&server, "alice", "reader", named).await;
    let (admin, alice) = (server.admin_rest(), server.rest("alice", &["team"]));
    let map = |name: &str| json!({"verb": "get", "resource": "configmaps", "namespace": "default", "name": name});
    assert!(allowed(&alice, map("one")).await);
    assert!(!allowed(&alice, map("two")).await);
    assert_eq!(alice.get("/api/v1/namespaces/default/configmaps/one").await.code, 404);
    assert_eq!(alice.get("/api/v1/namespaces/default/configmaps/two").await.code, 403);

    let asked = json!({"spec": {"user": "alice", "resourceAttributes": map("one")}});
    let answer = admin.post(&format!("{REVIEWS}/subjectaccessreviews"), &asked).await;
    let status = answer.json()["status"].clone();
    assert_eq!(
        status["reason"],
        "RBAC: allowed by ClusterRoleBinding \"reader\" of ClusterRole \"reader\" to User \"alice\""
    );
    // Only those who may ask about others.
    assert_eq!(alice.post(&format!("{REVIEWS}/subjectaccessreviews"), &asked).await.code, 403);
    let local = format!("{REVIEWS}/namespaces/default/localsubjectaccessreviews");
    assert_eq!(admin.post(&local, &asked).await.json()["status"]["allowed"], true);
    let elsewhere = format!("{REVIEWS}/namespaces/kube-system/localsubjectaccessreviews");
    assert_eq!(admin.post(&elsewhere, &asked).await.code, 422);
    for wrong in [json!({"spec": {}}), json!({"spec": {"user": "x"}}), json!({"spec": {"resourceAttributes": {}}})] {
        assert_eq!(admin.post(&format!("{REVIEWS}/subjectaccessreviews"), &wrong).await.code, 422, "{wrong}");
    }
    let rules =
        alice.post(&format!("{REVIEWS}/selfsubjectrulesreviews"), &json!({"spec": {"namespace": "default"}})).await;
    let status = rules.json()["status"].clone();
    assert_eq!(status["incomplete"], false);
    assert!(status["resourceRules"].to_string().contains("\"resourceNames\":[\"one\"]"), "{status}");
    assert!(status["nonResourceRules"].to_string().contains("/openapi/*"), "{status}");
    let who = alice.post("/apis/authentication.k8s.io/v1/selfsubjectreviews", &json!({})).await.json();
    assert_eq!(who["status"]["userInfo"], json!({"username": "alice", "groups": ["team", "system:authenticated"]}));
    assert_eq!(alice.get(&format!("{REVIEWS}/selfsubjectaccessreviews")).await.code, 403);
    assert_eq!(admin.get(&format!("{REVIEWS}/selfsubjectaccessreviews")).await.code, 405);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn somebody_acts_as_another_only_where_each_part_of_it_is_allowed() {
    let server = Server::start().await;
    let admin = server.admin_rest();
    let reviews = "/apis/authentication.k8s.io/v1/selfsubjectreviews";
    let who = async |rest: &Rest, headers: &[(&str, &str)]| {
        let headers = [headers, &[("content-type", "application/json")]].concat();
        rest.send(Method::POST, reviews, &headers, "{}").await
    };
    let bob =
        [("impersonate-user", "bob"), ("impersonate-group", "team"), ("impersonate-extra-example.com%2fteam", "x")];
    let answer = who(&admin, &bob).await;
    assert_eq!(
        answer.json()["status"]["userInfo"],
        json!({"username": "bob", "groups": ["team", "system:authenticated"], "extra": {"example.com/team": ["x"]}})
    );
    // The rights of the other count, not one's own.
    let pods = admin.send(Method::GET, "/api/v1/pods", &bob, "").await;
    assert_eq!(
        pods.json()["message"],
        "pods is forbidden: User \"bob\" cannot list resource \"pods\" in API group \"\" at the cluster scope"
    );
    let robot = who(&admin, &[("impersonate-user", "system:serviceaccount:default:robot")]).await.json();
    assert_eq!(
        robot["status"]["userInfo"]["groups"],
        json!(["system:serviceaccounts", "system:serviceaccounts:default", "system:authenticated"])
    );
    let alice = server.rest("alice", &[]);
    let refused = who(&alice, &[("impersonate-user", "bob")]).await;
    assert_eq!(refused.code, 403);
    assert_eq!(
        refused.json()["message"],
        "users \"bob\" is forbidden: User \"alice\" cannot impersonate resource \"users\" in API group \"\" at the cluster scope"
    );
    grant(&server, "alice", "impersonator", rules(&["impersonate"], &[""], &["users"])).await;
    assert_eq!(who(&alice, &[("impersonate-user", "bob")]).await.code, 201);
    for more in [("impersonate-group", "system:masters"), ("impersonate-uid", "1"), ("impersonate-extra-scopes", "x")] {
        assert_eq!(who(&alice, &[("impersonate-user", "bob"), more]).await.code, 403, "{more:?}");
    }
    assert_eq!(who(&alice, &[("impersonate-user", "system:serviceaccount:default:robot")]).await.code, 403);
    assert_eq!(who(&admin, &[("impersonate-group", "team")]).await.code, 500);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_field_selector_by_name_asks_for_that_object() {
    let server = Server::start().await;
    let named =
        json!([{"verbs": ["list", "watch"], "apiGroups": [""], "resources": ["configmaps"], "resourceNames": ["one"]}]);
    grant(&server, "alice", "one-map", named).await;
    server.admin_rest().post("/api/v1/namespaces/default/configmaps", &config_map("one", "a", "b")).await;
    let alice = server.rest("alice", &[]);
    let path = "/api/v1/namespaces/default/configmaps";
    let list = alice.get(&format!("{path}?fieldSelector=metadata.name%3Done")).await;
    assert_eq!((list.code.as_u16(), list.json()["items"].as_array().unwrap().len()), (200, 1));
    for other in [
        path.to_owned(),
        format!("{path}?fieldSelector=metadata.name%3Dtwo"),
        format!("{path}?fieldSelector=metadata.name%21%3Done"),
    ] {
        assert_eq!(alice.get(&other).await.code, 403, "{other}");
    }
}
