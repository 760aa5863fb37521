//! What holds for every kind, shown with one object of each.

use std::collections::BTreeSet;

use diolkos_api::kind::Registry;
use serde::Deserialize as _;
use serde_json::Value;

use crate::{created, kind, recorded, wrong};

/// The objects of `fixtures/every_kind.yaml`, as their writer sends them to the namespace "default".
pub(crate) fn objects() -> Vec<Value> {
    let path = format!("{}/tests/fixtures/every_kind.yaml", env!("CARGO_MANIFEST_DIR"));
    let text = std::fs::read_to_string(path).unwrap();
    let documents = serde_yaml_ng::Deserializer::from_str(&text);
    documents
        .map(|document| {
            let mut object = Value::deserialize(document).unwrap();
            if kind_of(&object).namespaced {
                object["metadata"]["namespace"] = "default".into();
            }
            object
        })
        .collect()
}

/// The one object of a kind.
pub(crate) fn object(api_version: &str, kind: &str) -> Value {
    objects().into_iter().find(|own| own["kind"] == kind && own["apiVersion"] == api_version).unwrap()
}

fn kind_of(object: &Value) -> std::sync::Arc<diolkos_api::kind::Kind> {
    kind(object["apiVersion"].as_str().unwrap(), object["kind"].as_str().unwrap())
}

/// What a writer's object is at rest.
fn stored(object: Value) -> Value {
    let served = kind_of(&object);
    let mut object = created(object);
    served.to_storage(&mut object);
    kind_of(&object).default(&mut object);
    object
}

#[test]
fn every_kind_has_an_object_here() {
    let name = |object: &Value| format!("{} {}", object["apiVersion"], object["kind"]);
    let here: BTreeSet<String> = objects().iter().map(name).collect();
    let registry = Registry::builtin();
    let kept = registry.all().filter(|kind| kind.stored);
    let all: BTreeSet<String> = kept.map(|kind| format!("{:?} {:?}", kind.api_version(), kind.kind)).collect();
    assert_eq!(here, all);
}

#[test]
fn the_object_of_every_kind_is_valid_complete_and_may_stay() {
    for object in objects() {
        assert_eq!(kind_of(&object).unknown_fields(&object), Vec::<String>::new(), "{object}");
        let object = stored(object);
        assert_eq!(wrong(&object, None), Vec::<String>::new(), "{object}");
        assert_eq!(wrong(&object, Some(&object)), Vec::<String>::new(), "{object}");
        let mut again = object.clone();
        kind_of(&object).default(&mut again);
        assert_eq!(again, object, "defaults are given once");
    }
}

#[test]
fn every_kind_is_named_and_scoped_as_a_real_server_tells_it() {
    let mut rows = std::collections::BTreeMap::new();
    for file in ["aggdisc_api", "aggdisc_apis"] {
        let path = format!("../../../apiserver/tests/fixtures/{file}");
        for group in recorded(&path)["items"].as_array().unwrap() {
            for version in group["versions"].as_array().unwrap() {
                for row in version["resources"].as_array().unwrap() {
                    let group = group["metadata"]["name"].as_str().unwrap_or_default().to_owned();
                    let version = version["version"].as_str().unwrap().to_owned();
                    rows.insert((group, version, row["resource"].as_str().unwrap().to_owned()), row.clone());
                }
            }
        }
    }
    let texts = |value: &Value| -> Vec<String> {
        value.as_array().into_iter().flatten().map(|text| text.as_str().unwrap().to_owned()).collect()
    };
    for kind in Registry::builtin().all() {
        let row = &rows[&(kind.group.clone(), kind.version.clone(), kind.plural.clone())];
        assert_eq!(row["responseKind"]["kind"], kind.kind.as_str());
        assert_eq!(row["singularResource"], kind.singular.as_str());
        assert_eq!(row["scope"] == "Namespaced", kind.namespaced, "{}", kind.plural);
        assert_eq!(texts(&row["shortNames"]), kind.short_names, "{}", kind.plural);
        assert_eq!(texts(&row["categories"]), kind.categories, "{}", kind.plural);
        assert_eq!(texts(&row["verbs"]), kind.verbs, "{}", kind.plural);
        for part in &kind.subresources {
            let parts = row["subresources"].as_array().unwrap();
            let own = parts.iter().find(|own| own["subresource"] == part.name).unwrap();
            assert_eq!(texts(&own["verbs"]), part.verbs, "{}/{}", kind.plural, part.name);
            assert_eq!(own["responseKind"]["group"], part.group);
            let expected = if part.kind.is_empty() { &kind.kind } else { part.kind };
            assert_eq!(own["responseKind"]["kind"], expected);
        }
    }
}

/// The name, the columns that are always shown, and those of `-o wide` of every kind whose Table was not recorded, as
/// Kubernetes' printers have them.
const COLUMNS: &[(&str, &str, &str, &str)] = &[
    ("v1", "ConfigMap", "Name Data Age", ""),
    ("v1", "Endpoints", "Name Endpoints Age", ""),
    ("v1", "Event", "Last-Seen Type Reason Object Message", "Subobject Source First-Seen Count Name"),
    ("v1", "LimitRange", "Name Created-At", ""),
    (
        "v1",
        "PersistentVolumeClaim",
        "Name Status Volume Capacity Access-Modes StorageClass VolumeAttributesClass Age",
        "VolumeMode",
    ),
    (
        "v1",
        "PersistentVolume",
        "Name Capacity Access-Modes Reclaim-Policy Status Claim StorageClass VolumeAttributesClass Reason Age",
        "VolumeMode",
    ),
    ("v1", "PodTemplate", "Name Containers Images Pod-Labels", ""),
    ("v1", "ReplicationController", "Name Desired Current Ready Age", "Containers Images Selector"),
    ("v1", "ResourceQuota", "Name Request Limit Age", ""),
    ("v1", "Secret", "Name Type Data Age", ""),
    ("v1", "ServiceAccount", "Name Secrets Age", ""),
    ("apps/v1", "ControllerRevision", "Name Controller Revision Age", ""),
    (
        "apps/v1",
        "DaemonSet",
        "Name Desired Current Ready Up-to-date Available Node-Selector Age",
        "Containers Images Selector",
    ),
    ("apps/v1", "StatefulSet", "Name Ready Age", "Containers Images"),
    ("events.k8s.io/v1", "Event", "Last-Seen Type Reason Object Message", "Subobject Source First-Seen Count Name"),
    ("autoscaling/v2", "HorizontalPodAutoscaler", "Name Reference Targets MinPods MaxPods Replicas Age", ""),
    ("autoscaling/v1", "HorizontalPodAutoscaler", "Name Reference Targets MinPods MaxPods Replicas Age", ""),
    ("batch/v1", "CronJob", "Name Schedule Timezone Suspend Active Last-Schedule Age", "Containers Images Selector"),
    ("batch/v1", "Job", "Name Status Completions Duration Age", "Containers Images Selector"),
    (
        "certificates.k8s.io/v1",
        "CertificateSigningRequest",
        "Name Age SignerName Requestor RequestedDuration Condition",
        "",
    ),
    ("networking.k8s.io/v1", "IngressClass", "Name Controller Parameters Age", ""),
    ("networking.k8s.io/v1", "Ingress", "Name Class Hosts Address Ports Age", ""),
    ("networking.k8s.io/v1", "IPAddress", "Name ParentRef Age", ""),
    ("networking.k8s.io/v1", "NetworkPolicy", "Name Pod-Selector Age", ""),
    ("networking.k8s.io/v1", "ServiceCIDR", "Name CIDRs Age", ""),
    ("policy/v1", "PodDisruptionBudget", "Name Min-Available Max-Unavailable Allowed-Disruptions Age", ""),
    ("rbac.authorization.k8s.io/v1", "ClusterRoleBinding", "Name Role Age", "Users Groups ServiceAccounts"),
    ("rbac.authorization.k8s.io/v1", "ClusterRole", "Name Created-At", ""),
    ("rbac.authorization.k8s.io/v1", "RoleBinding", "Name Role Age", "Users Groups ServiceAccounts"),
    ("rbac.authorization.k8s.io/v1", "Role", "Name Created-At", ""),
    (
        "storage.k8s.io/v1",
        "StorageClass",
        "Name Provisioner ReclaimPolicy VolumeBindingMode AllowVolumeExpansion Age",
        "",
    ),
    ("scheduling.k8s.io/v1", "PriorityClass", "Name Value Global-Default Age PreemptionPolicy", ""),
    ("coordination.k8s.io/v1", "Lease", "Name Holder Age", ""),
    ("node.k8s.io/v1", "RuntimeClass", "Name Handler Age", ""),
];

#[test]
fn every_kind_has_the_columns_of_kubectl() {
    for (api_version, name, always, wide) in COLUMNS {
        let kind = kind(api_version, name);
        let of = |priority: i32| -> String {
            let own = kind.columns.iter().filter(|column| column.priority == priority);
            own.map(|column| column.name.replace(' ', "-")).collect::<Vec<_>>().join(" ")
        };
        assert_eq!((of(0).as_str(), of(1).as_str()), (*always, *wide), "{name}");
        let formats = kind.columns.iter().filter(|column| column.format == "name").map(|column| column.name);
        assert_eq!(formats.collect::<Vec<_>>(), ["Name"], "{name}");
    }
}

/// The cells of an object that was just created.
pub(crate) fn cells(object: &Value) -> Vec<String> {
    let kind = kind_of(object);
    let now = "2026-11-20T07:10:00Z".parse().unwrap();
    let text = |cell: Value| cell.as_str().map_or_else(|| cell.to_string(), str::to_owned);
    kind.cells(object, now).into_iter().map(text).collect()
}

#[test]
fn new_objects_are_shown_as_kubectl_shows_them() {
    for (api_version, kind, expected) in [
        ("v1", "ConfigMap", "settings|2|10m"),
        ("v1", "Endpoints", "outside|192.0.2.10:80,192.0.2.11:80|10m"),
        ("v1", "Event", "5m|Normal|Started|pod/web||kubelet, n1|Started container c|10m|3|web.1"),
        ("v1", "LimitRange", "limits|2026-11-20T07:00:00Z"),
        ("v1", "PersistentVolumeClaim", "data|Pending|||||<unset>|10m|Filesystem"),
        ("v1", "PersistentVolume", "disk|5Gi|RWO,ROX|Retain|Pending||slow|<unset>||10m|Filesystem"),
        ("v1", "PodTemplate", "shape|c|registry.local/web:1|app=web"),
        ("v1", "ReplicationController", "old|2|0|0|10m|c|registry.local/web:1|app=old"),
        ("v1", "ResourceQuota", "quota|||10m"),
        ("v1", "Secret", "keys|Opaque|1|10m"),
        ("v1", "ServiceAccount", "robot|0|10m"),
        ("apps/v1", "ControllerRevision", "web-1|<none>|1|10m"),
        ("apps/v1", "DaemonSet", "agent|0|0|0|0|0|disk=ssd|10m|c|registry.local/agent:1|app=agent"),
        ("apps/v1", "StatefulSet", "db|0/1|10m|c|registry.local/db:1"),
        (
            "events.k8s.io/v1",
            "Event",
            "10m|Normal|Scheduled|pod/web||default-scheduler, default-scheduler-n1|assigned to n1|10m|1|web.2",
        ),
        ("autoscaling/v2", "HorizontalPodAutoscaler", "web|Deployment/web|cpu: <unknown>/60%, <unknown>/100|1|5|0|10m"),
        ("autoscaling/v1", "HorizontalPodAutoscaler", "old|ReplicationController/old|cpu: <unknown>/70%|1|3|0|10m"),
        ("batch/v1", "CronJob", "nightly|0 3 * * *|Europe/Athens|False|0|<none>|10m|c|registry.local/job:1|<none>"),
        (
            "batch/v1",
            "Job",
            "once|Running|0/1||10m|c|registry.local/job:1|batch.kubernetes.io/controller-uid=11111111-2222-3333-4444-555555555555",
        ),
        (
            "certificates.k8s.io/v1",
            "CertificateSigningRequest",
            "alice|10m|kubernetes.io/kube-apiserver-client||60m|Pending",
        ),
        ("networking.k8s.io/v1", "IngressClass", "front|example.com/front|Front.example.com/big|10m"),
        ("networking.k8s.io/v1", "Ingress", "web|front|web.example.com,*.example.com||80, 443|10m"),
        ("networking.k8s.io/v1", "IPAddress", "10.96.200.1|services/default/web|10m"),
        ("networking.k8s.io/v1", "NetworkPolicy", "web|app=web|10m"),
        ("networking.k8s.io/v1", "ServiceCIDR", "more|10.97.0.0/16|10m"),
        ("policy/v1", "PodDisruptionBudget", "web|50%|N/A|0|10m"),
        (
            "rbac.authorization.k8s.io/v1",
            "ClusterRoleBinding",
            "team:readers|ClusterRole/team:reader|10m||readers|default/robot",
        ),
        ("storage.k8s.io/v1", "StorageClass", "slow (default)|example.com/disks|Delete|Immediate|false|10m"),
        ("scheduling.k8s.io/v1", "PriorityClass", "high|1000|false|10m|PreemptLowerPriority"),
        ("coordination.k8s.io/v1", "Lease", "leader|a|10m"),
        ("node.k8s.io/v1", "RuntimeClass", "sandboxed|gvisor|10m"),
    ] {
        assert_eq!(cells(&created(object(api_version, kind))).join("|"), expected, "{kind}");
    }
}
