//! The roles of the controllers. Each is bound to a service account of its name in kube-system, and those of the
//! controllers that run in our controller manager to its user too.

use super::table::Allow::{Named, On};
use super::table::{EVENTS, READ, Role, role};

/// What the controllers' roles are called before the name of the controller.
pub(super) const PREFIX: &str = "system:controller:";

/// The controllers that our controller manager runs under its own name.
pub(super) const OURS: &[&str] = &[
    "certificate-controller",
    "deployment-controller",
    "endpointslice-controller",
    "generic-garbage-collector",
    "namespace-controller",
    "node-controller",
    "replicaset-controller",
    "root-ca-cert-publisher",
    "service-account-controller",
];

pub(super) const ROLES: &[Role] = &[
    role(
        "attachdetach-controller",
        &[
            On("list watch", "core", "persistentvolumeclaims persistentvolumes pods"),
            On(READ, "core", "nodes"),
            On("patch update", "core", "nodes/status"),
            EVENTS,
            On("create delete get list watch", "storage.k8s.io", "volumeattachments"),
            On(READ, "storage.k8s.io", "csidrivers csinodes"),
        ],
    ),
    role(
        "certificate-controller",
        &[
            On("delete get list watch", "certificates.k8s.io", "certificatesigningrequests"),
            On(
                "update",
                "certificates.k8s.io",
                "certificatesigningrequests/approval certificatesigningrequests/status",
            ),
            // Beside Kubernetes' own, that of our agents.
            Named(
                "approve",
                "certificates.k8s.io",
                "signers",
                "kubernetes.io/kube-apiserver-client-kubelet diolkos.io/agent-client",
            ),
            Named(
                "sign",
                "certificates.k8s.io",
                "signers",
                "kubernetes.io/kube-apiserver-client kubernetes.io/kube-apiserver-client-kubelet kubernetes.io/kubelet-serving kubernetes.io/legacy-unknown diolkos.io/agent-client",
            ),
            On("create", "authorization.k8s.io", "subjectaccessreviews"),
            EVENTS,
        ],
    ),
    role(
        "clusterrole-aggregation-controller",
        &[On("escalate get list patch update watch", "rbac.authorization.k8s.io", "clusterroles")],
    ),
    role(
        "cronjob-controller",
        &[
            On("get list update watch", "batch", "cronjobs"),
            On("create delete get list patch update watch", "batch", "jobs"),
            On("update", "batch", "cronjobs/finalizers cronjobs/status"),
            On("delete list", "core", "pods"),
            EVENTS,
        ],
    ),
    role(
        "daemon-set-controller",
        &[
            On(READ, "apps extensions", "daemonsets"),
            On("update", "apps extensions", "daemonsets/finalizers daemonsets/status"),
            On("list watch", "core", "nodes"),
            On("create delete list patch watch", "core", "pods"),
            On("create", "core", "pods/binding"),
            On("create delete get list patch update watch", "apps", "controllerrevisions"),
            EVENTS,
        ],
    ),
    role(
        "deployment-controller",
        &[
            On("get list update watch", "apps extensions", "deployments"),
            On("update", "apps extensions", "deployments/finalizers deployments/status"),
            On("create delete get list patch update watch", "apps extensions", "replicasets"),
            On("get list update watch", "core", "pods"),
            EVENTS,
        ],
    ),
    role(
        "disruption-controller",
        &[
            On(READ, "apps extensions", "deployments replicasets"),
            On(READ, "core", "replicationcontrollers"),
            On(READ, "policy", "poddisruptionbudgets"),
            On(READ, "apps", "statefulsets"),
            On("update", "policy", "poddisruptionbudgets/status"),
            On("patch update", "core", "pods/status"),
            On("get", "*", "*/scale"),
            EVENTS,
        ],
    ),
    role(
        "endpoint-controller",
        &[
            On(READ, "core", "pods services"),
            On("create delete get list update watch", "core", "endpoints"),
            On("create", "core", "endpoints/restricted"),
            EVENTS,
        ],
    ),
    role(
        "endpointslice-controller",
        &[
            On(READ, "core", "nodes pods services"),
            On("update", "core", "services/finalizers"),
            On("create delete get list update watch", "discovery.k8s.io", "endpointslices"),
            EVENTS,
        ],
    ),
    role(
        "endpointslicemirroring-controller",
        &[
            On(READ, "core", "endpoints services"),
            On("update", "core", "endpoints/finalizers services/finalizers"),
            On("create delete get list update watch", "discovery.k8s.io", "endpointslices"),
            EVENTS,
        ],
    ),
    role("generic-garbage-collector", &[On("delete get list patch update watch", "*", "*"), EVENTS]),
    role(
        "horizontal-pod-autoscaler",
        &[
            On(READ, "autoscaling", "horizontalpodautoscalers"),
            On("update", "autoscaling", "horizontalpodautoscalers/status"),
            On("get update", "*", "*/scale"),
            On("list", "core", "pods"),
            On("list", "metrics.k8s.io", "pods"),
            On("get list", "custom.metrics.k8s.io external.metrics.k8s.io", "*"),
            EVENTS,
        ],
    ),
    role(
        "job-controller",
        &[
            On("get list patch update watch", "batch", "jobs"),
            On("update", "batch", "jobs/finalizers jobs/status"),
            On("create delete list patch watch", "core", "pods"),
            EVENTS,
        ],
    ),
    role(
        "namespace-controller",
        &[
            On("delete get list watch", "core", "namespaces"),
            On("update", "core", "namespaces/finalize namespaces/status"),
            On("delete deletecollection get list", "*", "*"),
        ],
    ),
    role(
        "node-controller",
        &[
            On("delete get list patch update", "core", "nodes"),
            On("patch update", "core", "nodes/status"),
            On("patch update", "core", "pods/status"),
            On("delete list", "core", "pods"),
            EVENTS,
        ],
    ),
    role(
        "pod-garbage-collector",
        &[On("delete list watch", "core", "pods"), On("get list", "core", "nodes"), On("patch", "core", "pods/status")],
    ),
    role(
        "replicaset-controller",
        &[
            On("get list update watch", "apps extensions", "replicasets"),
            On("update", "apps extensions", "replicasets/finalizers replicasets/status"),
            // `update`, where Kubernetes patches: the owner of a pod that is adopted or released.
            On("create delete list patch update watch", "core", "pods"),
            EVENTS,
        ],
    ),
    role(
        "replication-controller",
        &[
            On("get list update watch", "core", "replicationcontrollers"),
            On("update", "core", "replicationcontrollers/finalizers replicationcontrollers/status"),
            On("create delete list patch watch", "core", "pods"),
            EVENTS,
        ],
    ),
    role(
        "resourcequota-controller",
        &[On("list watch", "*", "*"), On("update", "core", "resourcequotas/status"), EVENTS],
    ),
    role("root-ca-cert-publisher", &[On("create update", "core", "configmaps"), EVENTS]),
    role("service-account-controller", &[On("create", "core", "serviceaccounts"), EVENTS]),
    role(
        "service-controller",
        &[
            On(READ, "core", "services"),
            On("patch update", "core", "services/status"),
            On("list watch", "core", "nodes"),
            EVENTS,
        ],
    ),
    role(
        "service-cidrs-controller",
        &[
            On("get list patch update watch", "networking.k8s.io", "servicecidrs"),
            On("patch update", "networking.k8s.io", "servicecidrs/finalizers"),
            On("patch update", "networking.k8s.io", "servicecidrs/status"),
            On(READ, "networking.k8s.io", "ipaddresses"),
            EVENTS,
        ],
    ),
    role(
        "statefulset-controller",
        &[
            On("list watch", "core", "pods"),
            On(READ, "apps", "statefulsets"),
            On("update", "apps", "statefulsets/finalizers statefulsets/status"),
            On("create delete get patch update", "core", "pods"),
            On("create delete get list patch update watch", "apps", "controllerrevisions"),
            On("create get update", "core", "persistentvolumeclaims"),
            EVENTS,
        ],
    ),
    role("ttl-controller", &[On("list patch update watch", "core", "nodes"), EVENTS]),
    role("ttl-after-finished-controller", &[On("delete get list watch", "batch", "jobs"), EVENTS]),
];
