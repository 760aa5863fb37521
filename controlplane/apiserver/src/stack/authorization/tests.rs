#![allow(clippy::unwrap_used)]

use super::*;

fn user(name: &str, groups: &[&str]) -> User {
    User { name: name.into(), groups: groups.iter().map(|g| (*g).to_owned()).collect() }
}

fn on(verb: &'static str, resource: &str, name: &str) -> Attributes {
    let (resource, subresource) = resource.split_once('/').unwrap_or((resource, ""));
    Attributes {
        verb,
        resource: resource.into(),
        subresource: subresource.into(),
        name: name.into(),
        ..Attributes::default()
    }
}

#[test]
fn masters_may_do_everything() {
    let admin = user("kubernetes-admin", &["system:masters"]);
    for asked in
        [on("delete", "nodes", "n1"), on("patch", "anything/status", ""), Attributes::of_path("get", "/metrics")]
    {
        assert_eq!(authorize(&admin, &asked), Ok(()));
    }
}

#[test]
fn a_node_changes_only_itself() {
    let node = user("system:node:n1", &["system:nodes"]);
    assert_eq!(authorize(&node, &on("patch", "nodes/status", "n1")), Ok(()));
    let failure = authorize(&node, &on("patch", "nodes/status", "n2")).unwrap_err();
    assert_eq!(
        failure.to_string(),
        "nodes \"n2\" is forbidden: User \"system:node:n1\" cannot patch resource \"nodes/status\" in API group \"\" at the cluster scope"
    );
    assert!(authorize(&node, &on("create", "pods/binding", "p")).is_err());
}

#[test]
fn a_subresource_is_a_permission_of_its_own() {
    let scheduler = user("system:kube-scheduler", &[]);
    assert_eq!(authorize(&scheduler, &on("create", "pods/binding", "p")), Ok(()));
    assert!(authorize(&scheduler, &on("create", "pods", "")).is_err());
}

#[test]
fn everybody_known_sees_the_version_and_only_masters_the_metrics() {
    let alice = user("alice", &["system:authenticated"]);
    assert_eq!(authorize(&alice, &Attributes::of_path("get", "/version")), Ok(()));
    assert_eq!(authorize(&alice, &Attributes::of_path("get", "/apis/apps/v1")), Ok(()));
    let failure = authorize(&alice, &Attributes::of_path("get", "/metrics")).unwrap_err();
    assert_eq!(failure.to_string(), "forbidden: User \"alice\" cannot get path \"/metrics\"");
    assert!(authorize(&alice, &on("list", "pods", "")).is_err());
}
