//! The roles that every cluster has, under Kubernetes' names: those of people and of the components.

/// One rule of a default role; lists are words.
#[derive(Clone, Copy)]
pub(super) enum Allow {
    /// Verbs, groups ("core" for the core group), resources.
    On(&'static str, &'static str, &'static str),
    /// The same for objects of these names only.
    Named(&'static str, &'static str, &'static str, &'static str),
    /// Verbs and paths.
    Paths(&'static str, &'static str),
}

use Allow::{Named, On, Paths};

/// A role by its name.
pub(super) struct Role {
    pub name: &'static str,
    pub rules: &'static [Allow],
    /// The label by which an aggregated role finds it: `admin` for `rbac.authorization.k8s.io/aggregate-to-admin`.
    pub aggregate_to: &'static [&'static str],
}

pub(super) const fn role(name: &'static str, rules: &'static [Allow]) -> Role {
    Role { name, rules, aggregate_to: &[] }
}

pub(super) const READ: &str = "get list watch";
const WRITE: &str = "create delete deletecollection patch update";
pub(super) const EVENTS: Allow = On("create patch update", "core events.k8s.io", "events");

/// Roles that are the sum of others, which they find by label.
pub(super) const AGGREGATED: &[&str] = &["admin", "edit", "view"];

pub(super) const ROLES: &[Role] = &[
    role("cluster-admin", &[On("*", "*", "*"), Paths("*", "*")]),
    role(
        "system:discovery",
        &[Paths("get", "/api /api/* /apis /apis/* /healthz /livez /openapi /openapi/* /readyz /version /version/")],
    ),
    role("system:public-info-viewer", &[Paths("get", "/healthz /livez /readyz /version /version/")]),
    role(
        "system:service-account-issuer-discovery",
        &[Paths(
            "get",
            "/.well-known/openid-configuration /.well-known/openid-configuration/ /openid/v1/jwks /openid/v1/jwks/",
        )],
    ),
    role(
        "system:monitoring",
        &[Paths("get", "/healthz /healthz/* /livez /livez/* /metrics /metrics/slis /readyz /readyz/*")],
    ),
    role(
        "system:basic-user",
        &[
            On("create", "authorization.k8s.io", "selfsubjectaccessreviews selfsubjectrulesreviews"),
            On("create", "authentication.k8s.io", "selfsubjectreviews"),
        ],
    ),
    role(
        "system:auth-delegator",
        &[
            On("create", "authentication.k8s.io", "tokenreviews"),
            On("create", "authorization.k8s.io", "subjectaccessreviews"),
        ],
    ),
    role("system:heapster", &[On(READ, "core", "events namespaces nodes pods"), On(READ, "extensions", "deployments")]),
    role("system:kube-aggregator", &[On(READ, "core", "endpoints services")]),
    role(
        "system:kubelet-api-admin",
        &[
            On(READ, "core", "nodes"),
            On("proxy", "core", "nodes"),
            On("*", "core", "nodes/log nodes/metrics nodes/proxy nodes/spec nodes/stats"),
        ],
    ),
    role("system:kube-dns", &[On("list watch", "core", "endpoints services")]),
    role("system:node-problem-detector", &[On("get", "core", "nodes"), On("patch", "core", "nodes/status"), EVENTS]),
    role(
        "system:node-proxier",
        &[
            On("list watch", "core", "endpoints services"),
            On(READ, "core", "nodes"),
            EVENTS,
            On("list watch", "discovery.k8s.io", "endpointslices"),
            On("list watch", "networking.k8s.io", "servicecidrs"),
        ],
    ),
    role(
        "system:node-bootstrapper",
        &[On("create get list watch", "certificates.k8s.io", "certificatesigningrequests")],
    ),
    role(
        "system:persistent-volume-provisioner",
        &[
            On("create delete get list watch", "core", "persistentvolumes"),
            On("get list update watch", "core", "persistentvolumeclaims"),
            On(READ, "storage.k8s.io", "storageclasses"),
            On("watch", "core", "events"),
            EVENTS,
        ],
    ),
    role(
        "system:certificates.k8s.io:certificatesigningrequests:nodeclient",
        &[On("create", "certificates.k8s.io", "certificatesigningrequests/nodeclient")],
    ),
    role(
        "system:certificates.k8s.io:certificatesigningrequests:selfnodeclient",
        &[On("create", "certificates.k8s.io", "certificatesigningrequests/selfnodeclient")],
    ),
    role(
        "system:certificates.k8s.io:kube-apiserver-client-approver",
        &[Named("approve", "certificates.k8s.io", "signers", "kubernetes.io/kube-apiserver-client")],
    ),
    role(
        "system:certificates.k8s.io:kube-apiserver-client-kubelet-approver",
        &[Named("approve", "certificates.k8s.io", "signers", "kubernetes.io/kube-apiserver-client-kubelet")],
    ),
    role(
        "system:certificates.k8s.io:kubelet-serving-approver",
        &[Named("approve", "certificates.k8s.io", "signers", "kubernetes.io/kubelet-serving")],
    ),
    role(
        "system:certificates.k8s.io:legacy-unknown-approver",
        &[Named("approve", "certificates.k8s.io", "signers", "kubernetes.io/legacy-unknown")],
    ),
    NODE,
    SCHEDULER,
    role(
        "system:volume-scheduler",
        &[
            On("get list patch update watch", "core", "persistentvolumes"),
            On(READ, "storage.k8s.io", "storageclasses"),
            On("get list patch update watch", "core", "persistentvolumeclaims"),
        ],
    ),
    CONTROLLER_MANAGER,
    // What the agent reads beside what a proxy does: pods and namespaces, for the opt-out of the socket hooks.
    role(
        "system:diolkos:agent",
        &[On(READ, "core", "namespaces nodes pods services"), On(READ, "discovery.k8s.io", "endpointslices")],
    ),
    TO_ADMIN,
    TO_EDIT,
    TO_VIEW,
];

/// Bound to nobody: the node authorizer allows nodes what they need. It is here for those who bind it.
const NODE: Role = role(
    "system:node",
    &[
        On("create", "authentication.k8s.io", "tokenreviews"),
        On("create", "authorization.k8s.io", "localsubjectaccessreviews subjectaccessreviews"),
        On(READ, "core", "services"),
        On("create get list patch update watch", "core", "nodes"),
        On("patch update", "core", "nodes/status"),
        EVENTS,
        On("create delete get list watch", "core", "pods"),
        On("patch update", "core", "pods/status"),
        On("create", "core", "pods/eviction"),
        On(READ, "core", "configmaps secrets"),
        On("get", "core", "persistentvolumeclaims persistentvolumes"),
        On("get", "core", "endpoints"),
        On("create get list watch", "certificates.k8s.io", "certificatesigningrequests"),
        On("create delete get patch update", "coordination.k8s.io", "leases"),
        On("get", "storage.k8s.io", "volumeattachments"),
        On("create", "core", "serviceaccounts/token"),
        On("get patch update", "core", "persistentvolumeclaims/status"),
        On(READ, "storage.k8s.io", "csidrivers"),
        On("create delete get patch update", "storage.k8s.io", "csinodes"),
        On(READ, "node.k8s.io", "runtimeclasses"),
    ],
);

const SCHEDULER: Role = role(
    "system:kube-scheduler",
    &[
        EVENTS,
        On("create", "coordination.k8s.io", "leases"),
        Named("get list update watch", "coordination.k8s.io", "leases", "kube-scheduler"),
        On(READ, "core", "nodes"),
        On("delete get list watch", "core", "pods"),
        On("create", "core", "bindings pods/binding"),
        On("patch update", "core", "pods/status"),
        On(READ, "core", "namespaces replicationcontrollers services"),
        On(READ, "apps extensions", "replicasets"),
        On(READ, "apps", "statefulsets"),
        On(READ, "policy", "poddisruptionbudgets"),
        On(READ, "core", "persistentvolumeclaims persistentvolumes"),
        On("create", "authentication.k8s.io", "tokenreviews"),
        On("create", "authorization.k8s.io", "subjectaccessreviews"),
        On(READ, "storage.k8s.io", "csidrivers csinodes csistoragecapacities volumeattachments"),
    ],
);

const CONTROLLER_MANAGER: Role = role(
    "system:kube-controller-manager",
    &[
        EVENTS,
        On("create", "coordination.k8s.io", "leases"),
        Named("get list update watch", "coordination.k8s.io", "leases", "kube-controller-manager"),
        On("create", "core", "secrets serviceaccounts"),
        On("delete", "core", "secrets"),
        On("get", "core", "configmaps namespaces secrets serviceaccounts"),
        On("update", "core", "secrets serviceaccounts"),
        On("create", "authentication.k8s.io", "tokenreviews"),
        On("create", "authorization.k8s.io", "subjectaccessreviews"),
        On("list watch", "*", "*"),
        On("create", "core", "serviceaccounts/token"),
    ],
);

const TO_ADMIN: Role = Role {
    name: "system:aggregate-to-admin",
    rules: &[
        On("create", "authorization.k8s.io", "localsubjectaccessreviews"),
        On(
            "create delete deletecollection get list patch update watch",
            "rbac.authorization.k8s.io",
            "rolebindings roles",
        ),
    ],
    aggregate_to: &["admin"],
};

const TO_EDIT: Role = Role {
    name: "system:aggregate-to-edit",
    rules: &[
        On(READ, "core", "pods/attach pods/exec pods/portforward pods/proxy secrets services/proxy"),
        On("impersonate", "core", "serviceaccounts"),
        On(WRITE, "core", "pods pods/attach pods/exec pods/portforward pods/proxy"),
        On("create", "core", "pods/eviction"),
        On(
            WRITE,
            "core",
            "configmaps events persistentvolumeclaims replicationcontrollers replicationcontrollers/scale secrets \
             serviceaccounts services services/proxy",
        ),
        On("create", "core", "serviceaccounts/token"),
        On(
            WRITE,
            "apps",
            "daemonsets deployments deployments/rollback deployments/scale replicasets replicasets/scale statefulsets \
             statefulsets/scale",
        ),
        On(WRITE, "autoscaling", "horizontalpodautoscalers"),
        On(WRITE, "batch", "cronjobs jobs"),
        On(
            WRITE,
            "extensions",
            "daemonsets deployments deployments/rollback deployments/scale ingresses networkpolicies replicasets \
             replicasets/scale replicationcontrollers/scale",
        ),
        On(WRITE, "policy", "poddisruptionbudgets"),
        On(WRITE, "networking.k8s.io", "ingresses networkpolicies"),
        On("create delete deletecollection get list patch update watch", "coordination.k8s.io", "leases"),
    ],
    aggregate_to: &["admin", "edit"],
};

const TO_VIEW: Role = Role {
    name: "system:aggregate-to-view",
    rules: &[
        On(
            READ,
            "core",
            "configmaps endpoints persistentvolumeclaims persistentvolumeclaims/status pods replicationcontrollers \
             replicationcontrollers/scale serviceaccounts services services/status",
        ),
        On(
            READ,
            "core",
            "bindings events limitranges namespaces/status pods/log pods/status replicationcontrollers/status \
             resourcequotas resourcequotas/status",
        ),
        On(READ, "core", "namespaces"),
        On(READ, "discovery.k8s.io", "endpointslices"),
        On(
            READ,
            "apps",
            "controllerrevisions daemonsets daemonsets/status deployments deployments/scale deployments/status \
             replicasets replicasets/scale replicasets/status statefulsets statefulsets/scale statefulsets/status",
        ),
        On(READ, "autoscaling", "horizontalpodautoscalers horizontalpodautoscalers/status"),
        On(READ, "batch", "cronjobs cronjobs/status jobs jobs/status"),
        On(
            READ,
            "extensions",
            "daemonsets daemonsets/status deployments deployments/scale deployments/status ingresses ingresses/status \
             networkpolicies replicasets replicasets/scale replicasets/status replicationcontrollers/scale",
        ),
        On(READ, "policy", "poddisruptionbudgets poddisruptionbudgets/status"),
        On(READ, "networking.k8s.io", "ingresses ingresses/status networkpolicies"),
    ],
    aggregate_to: &["admin", "edit", "view"],
};
