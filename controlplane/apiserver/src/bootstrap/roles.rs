//! Default roles and bindings: made when they are missing, completed at every start when something of them is, and
//! left alone where their annotation `rbac.authorization.kubernetes.io/autoupdate` says "false". What an administrator
//! added stays.

mod controllers;
mod table;

use diolkos_api::status::Failure;
use diolkos_api::wire;
use futures::stream::{self, StreamExt as _, TryStreamExt as _};
use serde_json::{Value, json};

use super::{create, key, own_caller};
use crate::handlers::Handlers;
use crate::pki::ADMIN_GROUP;
use crate::stack::authorization::RBAC_GROUP as GROUP;
use crate::stack::{AUTHENTICATED, UNAUTHENTICATED};
use table::Allow::{self, Named, On, Paths};

const AUTOUPDATE: &str = "rbac.authorization.kubernetes.io/autoupdate";
/// Objects that are looked after at once.
const AT_ONCE: usize = 16;

const SYSTEM: &str = "kube-system";
const SCHEDULER: &str = "system:kube-scheduler";
const CONTROLLER_MANAGER: &str = "system:kube-controller-manager";

/// Makes and completes all of them; returns when the store has them.
pub(super) async fn ensure(handlers: &Handlers) -> Result<(), Failure> {
    // A binding needs its role to be of use, so roles go first.
    for objects in [roles(), bindings()] {
        let work =
            objects.into_iter().map(|(plural, namespace, object)| ensure_one(handlers, plural, namespace, object));
        stream::iter(work).buffer_unordered(AT_ONCE).try_collect::<()>().await?;
    }
    Ok(())
}

type Default = (&'static str, &'static str, Value);

async fn ensure_one(handlers: &Handlers, plural: &str, namespace: &str, object: Value) -> Result<(), Failure> {
    let name = object["metadata"]["name"].as_str().unwrap_or_default();
    let own = key(GROUP, plural, namespace, name);
    let kind = handlers.registry.find(GROUP, "v1", plural).ok_or_else(Failure::no_such_resource)?;
    let Some(present) = handlers.cached(&kind.key(namespace, name)).await? else {
        return create(handlers, own, &object).await;
    };
    let Some(completed) = completed(&present.object, &object) else { return Ok(()) };
    if completed["roleRef"] != present.object["roleRef"] {
        // Which role a binding gives cannot change: it is made anew.
        let request = wire::DeleteRequest { key: Some(own.clone()), ..wire::DeleteRequest::default() };
        match handlers.delete(&own_caller(), request).await {
            Err(failure) if !failure.is_not_found() => return Err(failure),
            _ => return create(handlers, own, &object).await,
        }
    }
    let json = completed.to_string().into();
    let request = wire::WriteRequest { key: Some(own), json, ..wire::WriteRequest::default() };
    match handlers.update(&own_caller(), request).await {
        // Another server completes it, or an administrator changes it right now: the next start looks again.
        Err(failure) if failure.is_conflict() || failure.is_not_found() => Ok(()),
        other => other.map(drop),
    }
}

/// The present object with what it lacks of the default one; `None` when it lacks nothing, or wants no completion.
fn completed(present: &Value, wanted: &Value) -> Option<Value> {
    if present["metadata"]["annotations"][AUTOUPDATE] == "false" {
        return None;
    }
    let mut new = present.clone();
    for part in ["labels", "annotations"] {
        for (name, value) in wanted["metadata"][part].as_object().into_iter().flatten() {
            if new["metadata"][part][name].is_null() {
                new["metadata"][part][name] = value.clone();
            }
        }
    }
    if wanted["aggregationRule"].is_object() && new["aggregationRule"].is_null() {
        new["aggregationRule"] = wanted["aggregationRule"].clone();
    }
    for list in ["rules", "subjects"] {
        let missing = missing(list, &new[list], &wanted[list]);
        if !missing.is_empty() {
            let mut all = new[list].as_array().cloned().unwrap_or_default();
            all.extend(missing);
            new[list] = all.into();
        }
    }
    if wanted["roleRef"].is_object() {
        let same = ["kind", "name"].iter().all(|field| new["roleRef"][field] == wanted["roleRef"][field]);
        if !same {
            new["roleRef"] = wanted["roleRef"].clone();
        }
    }
    (new != *present).then_some(new)
}

fn missing(list: &str, present: &Value, wanted: &Value) -> Vec<Value> {
    let present = present.as_array().map(Vec::as_slice).unwrap_or_default();
    let wanted = wanted.as_array().map(Vec::as_slice).unwrap_or_default();
    if list == "rules" {
        return crate::stack::authorization::missing_rules(present, wanted);
    }
    let same = |a: &Value, b: &Value| ["kind", "name", "namespace"].iter().all(|field| a[field] == b[field]);
    wanted.iter().filter(|subject| !present.iter().any(|own| same(own, subject))).cloned().collect()
}

fn roles() -> Vec<Default> {
    let mut roles: Vec<Default> = Vec::new();
    for role in table::ROLES {
        let mut object = object("ClusterRole", "", role.name);
        object["rules"] = role.rules.iter().map(rule).collect();
        for target in role.aggregate_to {
            object["metadata"]["labels"][aggregate_to(target)] = "true".into();
        }
        roles.push(("clusterroles", "", object));
    }
    for name in table::AGGREGATED {
        let mut object = object("ClusterRole", "", name);
        let sources = || table::ROLES.iter().filter(|role| role.aggregate_to.contains(name));
        object["aggregationRule"] = json!({"clusterRoleSelectors": [{"matchLabels": {aggregate_to(name): "true"}}]});
        // The sum of the defaults at once: what others label later needs a controller that aggregates.
        object["rules"] = sources().flat_map(|role| role.rules).map(rule).collect();
        // `edit` in turn is part of `admin`, and `view` of both.
        let parts: &[&str] = match *name {
            "edit" => &["admin"],
            "view" => &["edit"],
            _ => &[],
        };
        for target in parts {
            object["metadata"]["labels"][aggregate_to(target)] = "true".into();
        }
        roles.push(("clusterroles", "", object));
    }
    for role in controllers::ROLES {
        let mut object = object("ClusterRole", "", &format!("{}{}", controllers::PREFIX, role.name));
        object["rules"] = role.rules.iter().map(rule).collect();
        roles.push(("clusterroles", "", object));
    }
    for (namespace, name, rules) in NAMESPACED {
        let mut object = object("Role", namespace, name);
        object["rules"] = rules.iter().map(rule).collect();
        roles.push(("roles", namespace, object));
    }
    roles
}

/// Roles of one namespace.
const NAMESPACED: &[(&str, &str, &[Allow])] = &[
    (
        SYSTEM,
        "extension-apiserver-authentication-reader",
        &[Named("get list watch", "core", "configmaps", "extension-apiserver-authentication")],
    ),
    (
        SYSTEM,
        "system::leader-locking-kube-controller-manager",
        &[On("watch", "core", "configmaps"), Named("get update", "core", "configmaps", "kube-controller-manager")],
    ),
    (
        SYSTEM,
        "system::leader-locking-kube-scheduler",
        &[On("watch", "core", "configmaps"), Named("get update", "core", "configmaps", "kube-scheduler")],
    ),
    (SYSTEM, "system:controller:bootstrap-signer", &[On("get list watch", "core", "secrets")]),
    (SYSTEM, "system:controller:token-cleaner", &[On("delete get list watch", "core", "secrets"), table::EVENTS]),
    (
        "kube-public",
        "system:controller:bootstrap-signer",
        &[
            On("get list watch", "core", "configmaps"),
            Named("update", "core", "configmaps", "cluster-info"),
            table::EVENTS,
        ],
    ),
];

fn bindings() -> Vec<Default> {
    let cluster = |name: &str, subjects: Vec<Value>| -> Default {
        ("clusterrolebindings", "", binding("", name, "ClusterRole", name, subjects))
    };
    let mut bindings = vec![
        cluster("cluster-admin", vec![group(ADMIN_GROUP)]),
        cluster("system:discovery", vec![group(AUTHENTICATED)]),
        cluster("system:basic-user", vec![group(AUTHENTICATED)]),
        cluster("system:public-info-viewer", vec![group(AUTHENTICATED), group(UNAUTHENTICATED)]),
        cluster("system:monitoring", vec![group("system:monitoring")]),
        cluster("system:service-account-issuer-discovery", vec![group("system:serviceaccounts")]),
        cluster("system:node", Vec::new()),
        cluster("system:node-proxier", vec![user("system:kube-proxy")]),
        cluster("system:kube-controller-manager", vec![user(CONTROLLER_MANAGER)]),
        cluster("system:kube-dns", vec![account("kube-dns")]),
        cluster("system:kube-scheduler", vec![user(SCHEDULER)]),
        cluster("system:volume-scheduler", vec![user(SCHEDULER)]),
        cluster("system:diolkos:agent", vec![group("system:diolkos-agents")]),
    ];
    for role in controllers::ROLES {
        let mut subjects = vec![account(role.name)];
        if controllers::OURS.contains(&role.name) {
            subjects.push(user(CONTROLLER_MANAGER));
        }
        bindings.push(cluster(&format!("{}{}", controllers::PREFIX, role.name), subjects));
    }
    let managers = vec![user(CONTROLLER_MANAGER), user(SCHEDULER)];
    let mut local = |namespace, name: &str, role: &str, subjects| {
        bindings.push(("rolebindings", namespace, binding(namespace, name, "Role", role, subjects)));
    };
    let reader = "extension-apiserver-authentication-reader";
    local(SYSTEM, "system::extension-apiserver-authentication-reader", reader, managers);
    for (component, user_name) in [("kube-controller-manager", CONTROLLER_MANAGER), ("kube-scheduler", SCHEDULER)] {
        let name = format!("system::leader-locking-{component}");
        local(SYSTEM, &name, &name, vec![user(user_name), account(component)]);
    }
    for (namespace, name) in
        [(SYSTEM, "bootstrap-signer"), (SYSTEM, "token-cleaner"), ("kube-public", "bootstrap-signer")]
    {
        let role = format!("{}{name}", controllers::PREFIX);
        local(namespace, &role, &role, vec![account(name), user(CONTROLLER_MANAGER)]);
    }
    bindings
}

fn aggregate_to(target: &str) -> String {
    format!("rbac.authorization.k8s.io/aggregate-to-{target}")
}

fn object(kind: &str, namespace: &str, name: &str) -> Value {
    let mut object = json!({
        "apiVersion": format!("{GROUP}/v1"),
        "kind": kind,
        "metadata": {
            "name": name,
            "labels": {"kubernetes.io/bootstrapping": "rbac-defaults"},
            "annotations": {AUTOUPDATE: "true"},
        },
    });
    if !namespace.is_empty() {
        object["metadata"]["namespace"] = namespace.into();
    }
    object
}

fn binding(namespace: &str, name: &str, role_kind: &str, role: &str, subjects: Vec<Value>) -> Value {
    let kind = if namespace.is_empty() { "ClusterRoleBinding" } else { "RoleBinding" };
    let mut object = object(kind, namespace, name);
    object["roleRef"] = json!({"apiGroup": GROUP, "kind": role_kind, "name": role});
    if !subjects.is_empty() {
        object["subjects"] = subjects.into();
    }
    object
}

fn user(name: &str) -> Value {
    json!({"apiGroup": GROUP, "kind": "User", "name": name})
}

fn group(name: &str) -> Value {
    json!({"apiGroup": GROUP, "kind": "Group", "name": name})
}

fn account(name: &str) -> Value {
    json!({"kind": "ServiceAccount", "name": name, "namespace": SYSTEM})
}

fn rule(allow: &Allow) -> Value {
    let words = |text: &str| -> Vec<String> {
        text.split_whitespace().map(|word| if word == "core" { String::new() } else { word.to_owned() }).collect()
    };
    match *allow {
        On(verbs, groups, resources) => {
            json!({"verbs": words(verbs), "apiGroups": words(groups), "resources": words(resources)})
        }
        Named(verbs, groups, resources, names) => json!({
            "verbs": words(verbs), "apiGroups": words(groups), "resources": words(resources), "resourceNames": words(names),
        }),
        Paths(verbs, urls) => json!({"verbs": words(verbs), "nonResourceURLs": words(urls)}),
    }
}
