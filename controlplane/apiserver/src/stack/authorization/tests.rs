#![allow(clippy::unwrap_used)]

use proptest::prelude::*;
use proptest::sample::{select, subsequence};
use serde_json::{Value, json};

use super::*;
use crate::stack::AUTHENTICATED;

fn user(name: &str, groups: &[&str]) -> User {
    User::new(name, groups.iter().copied())
}

fn on(verb: &'static str, resource: &str, namespace: &str, name: &str) -> Attributes {
    let (resource, subresource) = resource.split_once('/').unwrap_or((resource, ""));
    Attributes {
        verb: verb.into(),
        resource: resource.into(),
        subresource: subresource.into(),
        namespace: namespace.into(),
        name: name.into(),
        ..Attributes::default()
    }
}

fn authorizer(objects: &[Value]) -> Authorizer {
    let authorizer = Authorizer::new(Metrics::default());
    let mut index = Index::default();
    for object in objects {
        put(&mut index, object);
    }
    *authorizer.index.write().unwrap() = index;
    authorizer
}

fn put(index: &mut Index, object: &Value) {
    let (namespace, name) =
        (object["metadata"]["namespace"].as_str().unwrap_or(""), object["metadata"]["name"].as_str().unwrap());
    let is_binding = object["roleRef"].is_object();
    let parsed = rbac::parse(namespace, name, is_binding, object.to_string().as_bytes()).unwrap();
    index.put(&key(object), parsed);
}

fn key(object: &Value) -> String {
    format!("{}/{}/{}", object["kind"], object["metadata"]["namespace"], object["metadata"]["name"])
}

fn role(kind: &str, namespace: &str, name: &str, rules: Value) -> Value {
    json!({"kind": kind, "metadata": {"namespace": namespace, "name": name}, "rules": rules})
}

fn binding(kind: &str, namespace: &str, name: &str, role: (&str, &str), subjects: Value) -> Value {
    json!({"kind": kind, "metadata": {"namespace": namespace, "name": name},
           "roleRef": {"kind": role.0, "name": role.1}, "subjects": subjects})
}

#[test]
fn masters_may_do_everything() {
    let admin = user("kubernetes-admin", &["system:masters"]);
    for asked in [
        on("delete", "nodes", "", "n1"),
        on("patch", "anything/status", "", ""),
        Attributes::of_path("get", "/metrics"),
    ] {
        assert_eq!(authorizer(&[]).authorize(&admin, &asked, &Record::default()), Ok(()));
    }
}

#[test]
fn a_refusal_says_who_may_not_do_what() {
    let alice = user("alice", &[AUTHENTICATED]);
    let failure =
        authorizer(&[]).authorize(&alice, &Attributes::of_path("get", "/metrics"), &Record::default()).unwrap_err();
    assert_eq!(failure.to_string(), "forbidden: User \"alice\" cannot get path \"/metrics\"");
    let failure =
        authorizer(&[]).authorize(&alice, &on("patch", "nodes/status", "", "n2"), &Record::default()).unwrap_err();
    assert_eq!(
        failure.to_string(),
        "nodes \"n2\" is forbidden: User \"alice\" cannot patch resource \"nodes/status\" in API group \"\" at the cluster scope"
    );
}

#[test]
fn a_binding_in_a_namespace_gives_its_role_there_only() {
    let pods = json!([{"verbs": ["get"], "apiGroups": [""], "resources": ["pods"]}]);
    let authorizer = authorizer(&[
        role("ClusterRole", "", "reader", pods),
        binding("RoleBinding", "a", "b", ("ClusterRole", "reader"), json!([{"kind": "User", "name": "alice"}])),
    ]);
    let alice = user("alice", &[]);
    let decision = authorizer.decide(&alice, &on("get", "pods", "a", "p"));
    assert_eq!(decision.reason(), "RBAC: allowed by RoleBinding \"b/a\" of ClusterRole \"reader\" to User \"alice\"");
    assert!(decision.is_allowed());
    for asked in [on("get", "pods", "b", "p"), on("get", "pods", "", ""), on("get", "pods/log", "a", "p")] {
        assert!(!authorizer.decide(&alice, &asked).is_allowed(), "{asked:?}");
    }
}

#[test]
fn a_service_account_of_another_namespace_is_not_meant() {
    let all = json!([{"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"]}]);
    let subjects = json!([{"kind": "ServiceAccount", "name": "robot"}]);
    let authorizer =
        authorizer(&[role("Role", "a", "r", all), binding("RoleBinding", "a", "b", ("Role", "r"), subjects)]);
    let may = |user_name: &str| authorizer.decide(&user(user_name, &[]), &on("get", "pods", "a", "p")).is_allowed();
    assert!(may("system:serviceaccount:a:robot"));
    assert!(!may("system:serviceaccount:b:robot"));
    assert!(!may("robot"));
}

#[test]
fn what_is_taken_out_of_the_index_gives_nothing_any_more() {
    let all = json!([{"verbs": ["*"], "nonResourceURLs": ["*"]}]);
    let alice = json!([{"kind": "User", "name": "alice"}, {"kind": "User", "name": "alice"}]);
    let (role, binding) =
        (role("ClusterRole", "", "r", all), binding("ClusterRoleBinding", "", "b", ("ClusterRole", "r"), alice));
    let asked = Attributes::of_path("get", "/metrics");
    for gone in [(&role, false), (&binding, true)] {
        let authorizer = authorizer(&[role.clone(), binding.clone()]);
        assert!(authorizer.decide(&user("alice", &[]), &asked).is_allowed());
        authorizer.index.write().unwrap().remove(&key(gone.0), gone.1);
        assert!(!authorizer.decide(&user("alice", &[]), &asked).is_allowed());
    }
}

const VERBS: &[&str] = &["get", "list", "create", "*"];
const GROUPS: &[&str] = &["", "apps", "*"];
const RESOURCES: &[&str] = &["pods", "pods/status", "nodes", "*/status", "*/scale", "*"];
const NAMES: &[&str] = &["a", "b"];
const URLS: &[&str] = &["/api", "/api/*", "/healthz", "*"];
const USERS: &[&str] = &["alice", "bob", "system:serviceaccount:n1:robot"];
const TEAMS: &[&str] = &["team", "others"];
const NAMESPACES: &[&str] = &["n1", "n2"];

fn some(of: &'static [&'static str], least: usize) -> impl Strategy<Value = Vec<String>> {
    subsequence(of, least..=of.len()).prop_map(|list| list.into_iter().map(str::to_owned).collect())
}

fn any_rule() -> impl Strategy<Value = Rule> {
    let resources = (some(VERBS, 1), some(GROUPS, 1), some(RESOURCES, 1), some(NAMES, 0)).prop_map(
        |(verbs, api_groups, resources, resource_names)| Rule {
            verbs,
            api_groups,
            resources,
            resource_names,
            ..Rule::default()
        },
    );
    let paths = (some(VERBS, 1), some(URLS, 1)).prop_map(|(verbs, non_resource_urls)| Rule {
        verbs,
        non_resource_urls,
        ..Rule::default()
    });
    prop_oneof![3 => resources, 1 => paths]
}

fn any_question() -> impl Strategy<Value = Attributes> {
    let object = (
        select(&["get", "list", "create", "delete"][..]),
        select(&["", "apps", "batch"][..]),
        select(&["pods", "pods/status", "nodes", "nodes/scale", "jobs"][..]),
        select(&["", "n1", "n2"][..]),
        select(&["", "a", "b", "c"][..]),
    )
        .prop_map(|(verb, group, resource, namespace, name)| Attributes {
            group: group.into(),
            ..on(verb, resource, namespace, name)
        });
    let path = (select(&["get", "post"][..]), select(&["/api", "/api/v1", "/apis", "/healthz", "/metrics"][..]))
        .prop_map(|(verb, path)| Attributes::of_path(verb, path));
    prop_oneof![4 => object, 1 => path]
}

/// One rule, word by word as the documentation has it.
fn naive(rule: &Rule, asked: &Attributes) -> bool {
    let has = |list: &[String], value: &str| list.iter().any(|own| own == value);
    if !has(&rule.verbs, "*") && !has(&rule.verbs, &asked.verb) {
        return false;
    }
    if asked.resource.is_empty() {
        let begins = |own: &&String| own.ends_with('*') && asked.path.starts_with(own.trim_end_matches('*'));
        return has(&rule.non_resource_urls, &asked.path) || rule.non_resource_urls.iter().any(|own| begins(&own));
    }
    let full = match asked.subresource.as_str() {
        "" => asked.resource.clone(),
        part => format!("{}/{part}", asked.resource),
    };
    let part = format!("*/{}", asked.subresource);
    let resource = has(&rule.resources, "*")
        || has(&rule.resources, &full)
        || (!asked.subresource.is_empty() && has(&rule.resources, &part));
    let group = has(&rule.api_groups, "*") || has(&rule.api_groups, &asked.group);
    let name = rule.resource_names.is_empty() || has(&rule.resource_names, &asked.name);
    resource && group && name
}

#[derive(Clone, Debug)]
struct World {
    objects: Vec<Value>,
}

fn any_subject() -> impl Strategy<Value = Value> {
    prop_oneof![
        select(USERS).prop_map(|name| json!({"kind": "User", "name": name})),
        select(TEAMS).prop_map(|name| json!({"kind": "Group", "name": name})),
        select(NAMESPACES)
            .prop_map(|namespace| json!({"kind": "ServiceAccount", "name": "robot", "namespace": namespace})),
    ]
}

fn any_world() -> impl Strategy<Value = World> {
    let names = ["r1", "r2", "r3"];
    let rules = || prop::collection::vec(any_rule(), 0..3).prop_map(|rules| serde_json::to_value(rules).unwrap());
    let roles = (rules(), rules(), rules(), rules()).prop_map(move |(a, b, c, d)| {
        vec![
            role("ClusterRole", "", names[0], a),
            role("ClusterRole", "", names[1], b),
            role("Role", "n1", names[0], c),
            role("Role", "n2", names[1], d),
        ]
    });
    let one = (
        select(&["", "n1", "n2"][..]),
        select(&["ClusterRole", "Role"][..]),
        select(names.to_vec()),
        prop::collection::vec(any_subject(), 0..3),
    );
    let bindings = prop::collection::vec(one, 0..5).prop_map(|list| {
        let numbered = list.into_iter().enumerate();
        let made = numbered.map(|(number, (namespace, role_kind, role, subjects))| {
            let (kind, role_kind) =
                if namespace.is_empty() { ("ClusterRoleBinding", "ClusterRole") } else { ("RoleBinding", role_kind) };
            binding(kind, namespace, &format!("b{number}"), (role_kind, role), subjects.into())
        });
        made.collect::<Vec<Value>>()
    });
    (roles, bindings).prop_map(|(roles, bindings)| World { objects: roles.into_iter().chain(bindings).collect() })
}

/// Every binding and every role in turn, without any index.
fn naive_rules(world: &World, who: &User, namespace: &str) -> Vec<Rule> {
    let mut rules = Vec::new();
    for binding in world.objects.iter().filter(|object| object["roleRef"].is_object()) {
        let own = binding["metadata"]["namespace"].as_str().unwrap();
        if !own.is_empty() && own != namespace {
            continue;
        }
        let is_meant =
            binding["subjects"].as_array().unwrap().iter().any(|subject| match subject["kind"].as_str().unwrap() {
                "User" => subject["name"] == who.name.as_str(),
                "Group" => who.groups.iter().any(|group| subject["name"] == group.as_str()),
                _ => {
                    let (namespace, name) = (subject["namespace"].as_str().unwrap(), subject["name"].as_str().unwrap());
                    who.name == format!("system:serviceaccount:{namespace}:{name}")
                }
            });
        let role_namespace = if binding["roleRef"]["kind"] == "ClusterRole" { "" } else { own };
        let role = world.objects.iter().find(|object| {
            object["kind"] == binding["roleRef"]["kind"]
                && object["metadata"]["name"] == binding["roleRef"]["name"]
                && object["metadata"]["namespace"] == role_namespace
        });
        if let (true, Some(role)) = (is_meant, role) {
            rules.extend(serde_json::from_value::<Vec<Rule>>(role["rules"].clone()).unwrap());
        }
    }
    rules
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, ..ProptestConfig::default() })]

    #[test]
    fn the_index_decides_as_reading_every_role_and_binding_would(
        world in any_world(),
        name in select(USERS),
        groups in subsequence(TEAMS, 0..=2),
        asked in any_question(),
        gone in 0_usize..9,
    ) {
        let authorizer = authorizer(&world.objects);
        let who = user(name, &groups);
        let expected = naive_rules(&world, &who, &asked.namespace).iter().any(|rule| naive(rule, &asked));
        prop_assert_eq!(authorizer.decide(&who, &asked).is_allowed(), expected);
        // The same without one of the objects: nothing of it stays behind.
        let mut left = world.clone();
        if gone < left.objects.len() {
            let object = left.objects.remove(gone);
            authorizer.index.write().unwrap().remove(&key(&object), object["roleRef"].is_object());
            let expected = naive_rules(&left, &who, &asked.namespace).iter().any(|rule| naive(rule, &asked));
            prop_assert_eq!(authorizer.decide(&who, &asked).is_allowed(), expected);
        }
    }

    #[test]
    fn who_holds_rules_without_anything_missing_may_do_all_they_allow(
        held in prop::collection::vec(any_rule(), 0..4),
        wanted in prop::collection::vec(any_rule(), 1..3),
        questions in prop::collection::vec(any_question(), 20),
    ) {
        let held_refs: Vec<&Rule> = held.iter().collect();
        let missing = rule::missing(&held_refs, &wanted);
        for asked in questions {
            let allowed = |rules: &[Rule]| rules.iter().any(|rule| naive(rule, &asked));
            if allowed(&wanted) && !allowed(&held) {
                prop_assert!(!missing.is_empty(), "{:?} would be gained", asked);
            }
        }
        let own: Vec<&Rule> = wanted.iter().collect();
        prop_assert!(rule::missing(&own, &wanted).is_empty());
    }
}

#[test]
fn missing_rules_are_told_as_kubernetes_tells_them() {
    let wanted = Rule {
        verbs: vec!["get".into(), "list".into()],
        api_groups: vec!["".into()],
        resources: vec!["secrets".into(), "pods".into()],
        ..Rule::default()
    };
    let held = Rule { resources: vec!["pods".into()], verbs: vec!["get".into()], ..wanted.clone() };
    let missing = rule::missing(&[&held], std::slice::from_ref(&wanted));
    assert_eq!(
        rule::text(&missing),
        "{APIGroups:[\"\"], Resources:[\"pods\"], Verbs:[\"list\"]}\n\
         {APIGroups:[\"\"], Resources:[\"secrets\"], Verbs:[\"get\" \"list\"]}"
    );
}
