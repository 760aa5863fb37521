//! The roles of the cluster's own components, after Kubernetes' bootstrap roles.

/// In `resource_names`: the node whose certificate asks.
pub(super) const OWN_NODE: &str = "system:node:*";

/// Gives a subject the permissions of some rules.
pub(super) struct Binding {
    pub subject: Subject,
    pub rules: &'static [Rule],
}

pub(super) enum Subject {
    User(&'static str),
    Group(&'static str),
}

/// What may be done, as in RBAC: everything that no rule allows is refused.
pub(super) struct Rule {
    pub verbs: &'static [&'static str],
    pub api_groups: &'static [&'static str],
    /// "pods", "pods/status", or "*".
    pub resources: &'static [&'static str],
    /// Empty: every name.
    pub resource_names: &'static [&'static str],
    /// Paths; one that ends with `*` stands for all that begin so.
    pub non_resource_urls: &'static [&'static str],
}

const READ: &[&str] = &["get", "list", "watch"];
const EDIT: &[&str] = &["create", "update", "patch"];
const CHANGE: &[&str] = &["update", "patch"];
const ALL: &[&str] = &["*"];
const CORE: &[&str] = &[""];
const APPS: &[&str] = &["apps"];
const DISCOVERY: &[&str] = &["discovery.k8s.io"];
const LEASES: &[&str] = &["coordination.k8s.io"];

const fn rule(
    verbs: &'static [&'static str],
    api_groups: &'static [&'static str],
    resources: &'static [&'static str],
) -> Rule {
    Rule { verbs, api_groups, resources, resource_names: &[], non_resource_urls: &[] }
}

const fn own_node(
    verbs: &'static [&'static str],
    api_groups: &'static [&'static str],
    resources: &'static [&'static str],
) -> Rule {
    Rule { resource_names: &[OWN_NODE], ..rule(verbs, api_groups, resources) }
}

const fn paths(verbs: &'static [&'static str], non_resource_urls: &'static [&'static str]) -> Rule {
    Rule { verbs, api_groups: &[], resources: &[], resource_names: &[], non_resource_urls }
}

pub(super) const BINDINGS: &[Binding] = &[
    Binding { subject: Subject::Group(crate::pki::ADMIN_GROUP), rules: &[rule(ALL, ALL, ALL), paths(ALL, ALL)] },
    Binding {
        subject: Subject::Group("system:authenticated"),
        rules: &[paths(
            &["get"],
            &[
                "/",
                "/healthz*",
                "/livez*",
                "/readyz*",
                "/version",
                "/version/",
                "/api",
                "/api/*",
                "/apis",
                "/apis/*",
                "/openapi",
                "/openapi/*",
            ],
        )],
    },
    Binding {
        subject: Subject::Group("system:unauthenticated"),
        rules: &[paths(&["get"], &["/healthz*", "/livez*", "/readyz*"])],
    },
    Binding {
        subject: Subject::User("system:kube-scheduler"),
        rules: &[
            rule(READ, CORE, &["pods", "nodes", "namespaces", "services"]),
            rule(READ, APPS, &["replicasets", "statefulsets"]),
            rule(&["create"], CORE, &["pods/binding", "bindings"]),
            rule(CHANGE, CORE, &["pods/status"]),
            rule(&["delete"], CORE, &["pods"]),
            rule(&["create", "update", "patch", "get", "list", "watch"], LEASES, &["leases"]),
            rule(EDIT, &["", "events.k8s.io"], &["events"]),
        ],
    },
    Binding {
        subject: Subject::User("system:kube-controller-manager"),
        rules: &[
            rule(READ, ALL, ALL),
            // What owners leave behind, and all that is in a namespace on its way out.
            rule(&["delete", "deletecollection"], ALL, ALL),
            rule(&["update"], CORE, &["namespaces/finalize"]),
            rule(EDIT, CORE, &["pods"]),
            rule(
                CHANGE,
                CORE,
                &["pods/status", "nodes", "nodes/status", "services/status", "namespaces", "namespaces/status"],
            ),
            rule(EDIT, APPS, &["replicasets"]),
            rule(CHANGE, APPS, &["deployments", "deployments/status", "replicasets/status"]),
            rule(EDIT, DISCOVERY, &["endpointslices"]),
            rule(EDIT, LEASES, &["leases"]),
            rule(EDIT, &["", "events.k8s.io"], &["events"]),
        ],
    },
    // The kubelet. Which lease and which pods are its own, the handlers see.
    Binding {
        subject: Subject::Group("system:nodes"),
        rules: &[
            rule(READ, CORE, &["nodes", "pods", "services", "namespaces", "configmaps"]),
            rule(READ, DISCOVERY, &["endpointslices"]),
            rule(&["create"], CORE, &["nodes"]),
            own_node(CHANGE, CORE, &["nodes", "nodes/status"]),
            rule(CHANGE, CORE, &["pods/status"]),
            rule(&["delete"], CORE, &["pods"]),
            rule(&["create"], LEASES, &["leases"]),
            own_node(&["get", "update", "patch", "delete"], LEASES, &["leases"]),
        ],
    },
    // The agent, and kube-proxy, which needs the same.
    Binding { subject: Subject::User("system:kube-proxy"), rules: NETWORK },
    Binding { subject: Subject::Group("system:diolkos-agents"), rules: NETWORK },
];

const NETWORK: &[Rule] =
    &[rule(READ, CORE, &["nodes", "pods", "services", "namespaces"]), rule(READ, DISCOVERY, &["endpointslices"])];
