//! Role, ClusterRole and their bindings.

use k8s_openapi::api::rbac::v1::{ClusterRole, ClusterRoleBinding, Role, RoleBinding};
use serde_json::Value;

use super::cell::{AGE, NAME, column, wide};
use super::row::{row, rules};
use super::rule::{items, items_mut, object_at, set_default, text};
use super::{Causes, Kind, Rules, names};

const GROUP: &str = "rbac.authorization.k8s.io";

/// As Kubernetes shows it: the time itself, not the age.
const CREATED_AT: super::Column =
    column("Created At", "The time of the creation.", |object, _| object["metadata"]["creationTimestamp"].clone());

const ROLE: super::Column = column("Role", "The role that is given.", |object, _| {
    format!("{}/{}", text(&object["roleRef"]["kind"]), text(&object["roleRef"]["name"])).into()
});

pub(super) fn role() -> Kind {
    let rules = Rules { validate: validate_role, ..rules::<Role>(names::path_segment) };
    row::<Role>("role", vec![NAME, CREATED_AT], rules)
}

pub(super) fn cluster_role() -> Kind {
    let rules = Rules { validate: validate_cluster_role, ..rules::<ClusterRole>(names::path_segment) };
    row::<ClusterRole>("clusterrole", vec![NAME, CREATED_AT], rules)
}

pub(super) fn role_binding() -> Kind {
    let rules = Rules {
        default,
        validate: |object, old, causes| validate_binding(object, old, causes, &["ClusterRole", "Role"]),
        ..rules::<RoleBinding>(names::path_segment)
    };
    row::<RoleBinding>("rolebinding", binding_columns(), rules)
}

pub(super) fn cluster_role_binding() -> Kind {
    let rules = Rules {
        default,
        validate: |object, old, causes| validate_binding(object, old, causes, &["ClusterRole"]),
        ..rules::<ClusterRoleBinding>(names::path_segment)
    };
    row::<ClusterRoleBinding>("clusterrolebinding", binding_columns(), rules)
}

fn binding_columns() -> Vec<super::Column> {
    vec![
        NAME,
        ROLE,
        AGE,
        wide("Users", "The users of the role.", |object, _| subjects(object, "User").into()),
        wide("Groups", "The groups of the role.", |object, _| subjects(object, "Group").into()),
        wide("ServiceAccounts", "The service accounts of the role.", |object, _| {
            subjects(object, "ServiceAccount").into()
        }),
    ]
}

fn subjects(object: &Value, kind: &str) -> String {
    let own = items(&object["subjects"]).iter().filter(|subject| subject["kind"] == kind);
    let names: Vec<String> = own
        .map(|subject| match (kind, text(&subject["namespace"])) {
            ("ServiceAccount", namespace) => format!("{namespace}/{}", text(&subject["name"])),
            _ => text(&subject["name"]).to_owned(),
        })
        .collect();
    names.join(", ")
}

fn default(object: &mut Value) {
    if object["roleRef"].is_object()
        && let Some(role) = object_at(object, "roleRef")
    {
        set_default(role, "apiGroup", GROUP);
    }
    for subject in items_mut(object, "subjects") {
        if matches!(text(&subject["kind"]), "User" | "Group") {
            set_default(subject, "apiGroup", GROUP);
        }
    }
}

fn validate_role(object: &Value, _: Option<&Value>, causes: &mut Causes) {
    validate_rules(object, true, causes);
}

fn validate_cluster_role(object: &Value, _: Option<&Value>, causes: &mut Causes) {
    validate_rules(object, false, causes);
    if object["aggregationRule"].is_object() && items(&object["aggregationRule"]["clusterRoleSelectors"]).is_empty() {
        causes.required(
            "aggregationRule.clusterRoleSelectors",
            "at least one clusterRoleSelector required if aggregationRule is non-nil",
        );
    }
}

fn validate_rules(object: &Value, namespaced: bool, causes: &mut Causes) {
    for (index, rule) in items(&object["rules"]).iter().enumerate() {
        let field = format!("rules[{index}]");
        let has = |list: &str| !items(&rule[list]).is_empty();
        if !has("verbs") {
            causes.required(format!("{field}.verbs"), "verbs must contain at least one value");
        }
        if has("nonResourceURLs") {
            let urls = rule["nonResourceURLs"].clone();
            let field = format!("{field}.nonResourceURLs");
            if namespaced {
                causes.invalid(&field, urls.clone(), "namespaced rules cannot apply to non-resource URLs");
            }
            if has("apiGroups") || has("resources") || has("resourceNames") {
                causes.invalid(field, urls, "rules cannot apply to both regular resources and non-resource URLs");
            }
            continue;
        }
        if !has("apiGroups") {
            causes.required(format!("{field}.apiGroups"), "resource rules must supply at least one api group");
        }
        if !has("resources") {
            causes.required(format!("{field}.resources"), "resource rules must supply at least one resource");
        }
    }
}

fn validate_binding(object: &Value, old: Option<&Value>, causes: &mut Causes, kinds: &[&str]) {
    let role = &object["roleRef"];
    if text(&role["apiGroup"]) != GROUP {
        causes.unsupported("roleRef.apiGroup", role["apiGroup"].clone(), &[GROUP]);
    }
    if !kinds.contains(&text(&role["kind"])) {
        causes.unsupported("roleRef.kind", role["kind"].clone(), kinds);
    }
    match text(&role["name"]) {
        "" => causes.required("roleRef.name", ""),
        name => causes.invalid_each("roleRef.name", name, names::path_segment(name)),
    }
    for (index, subject) in items(&object["subjects"]).iter().enumerate() {
        validate_subject(subject, &format!("subjects[{index}]"), kinds.contains(&"Role"), causes);
    }
    if let Some(old) = old
        && old["roleRef"] != *role
    {
        causes.invalid("roleRef", role.clone(), "cannot change roleRef");
    }
}

fn validate_subject(subject: &Value, field: &str, namespaced: bool, causes: &mut Causes) {
    let group = text(&subject["apiGroup"]);
    let name = text(&subject["name"]);
    if name.is_empty() {
        causes.required(format!("{field}.name"), "");
    }
    let expected = match text(&subject["kind"]) {
        "ServiceAccount" => {
            if !name.is_empty() {
                causes.invalid_each(format!("{field}.name"), name, names::dns_subdomain(name));
            }
            if !namespaced && text(&subject["namespace"]).is_empty() {
                causes.required(format!("{field}.namespace"), "");
            }
            ""
        }
        "User" | "Group" => GROUP,
        other => {
            return causes.unsupported(format!("{field}.kind"), other, &["ServiceAccount", "User", "Group"]);
        }
    };
    if group != expected {
        causes.unsupported(format!("{field}.apiGroup"), group, &[expected]);
    }
}
