//! What a strategic merge patch must know of the types: how a field's list merges, and the type of what is in it.

use std::collections::HashMap;
use std::sync::LazyLock;

/// How a list of the patch meets the list of the object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ListMerge {
    /// The patch's list takes the place of the object's.
    Replace,
    /// Objects with the same value of this key are one.
    ByKey(&'static str),
    /// A set of plain values.
    Set,
}

/// The type that a field holds, and how it merges if it is a list of it.
pub(super) struct Field {
    pub list: ListMerge,
    pub content: String,
}

/// Published facts of the API, one line a field: type, field, list type, list map keys, strategic merge key, strategy,
/// map type.
const LIST_KEYS: &str = include_str!("list-keys.tsv");

/// Fields on the way to a list that merges: type, field, type of the field's value or of its list's elements.
const PATHS: &[(&str, &str, &str)] = &[
    ("core.v1.Pod", "spec", "core.v1.PodSpec"),
    ("core.v1.Pod", "status", "core.v1.PodStatus"),
    ("core.v1.PodTemplateSpec", "spec", "core.v1.PodSpec"),
    ("core.v1.PodSpec", "containers", "core.v1.Container"),
    ("core.v1.PodSpec", "initContainers", "core.v1.Container"),
    ("core.v1.PodSpec", "ephemeralContainers", "core.v1.EphemeralContainer"),
    ("core.v1.Service", "spec", "core.v1.ServiceSpec"),
    ("core.v1.Service", "status", "core.v1.ServiceStatus"),
    ("core.v1.Node", "spec", "core.v1.NodeSpec"),
    ("core.v1.Node", "status", "core.v1.NodeStatus"),
    ("core.v1.Namespace", "status", "core.v1.NamespaceStatus"),
    ("apps.v1.Deployment", "spec", "apps.v1.DeploymentSpec"),
    ("apps.v1.Deployment", "status", "apps.v1.DeploymentStatus"),
    ("apps.v1.DeploymentSpec", "template", "core.v1.PodTemplateSpec"),
    ("apps.v1.ReplicaSet", "spec", "apps.v1.ReplicaSetSpec"),
    ("apps.v1.ReplicaSet", "status", "apps.v1.ReplicaSetStatus"),
    ("apps.v1.ReplicaSetSpec", "template", "core.v1.PodTemplateSpec"),
    ("apps.v1.StatefulSet", "spec", "apps.v1.StatefulSetSpec"),
    ("apps.v1.StatefulSet", "status", "apps.v1.StatefulSetStatus"),
    ("apps.v1.StatefulSetSpec", "template", "core.v1.PodTemplateSpec"),
    ("apps.v1.DaemonSet", "spec", "apps.v1.DaemonSetSpec"),
    ("apps.v1.DaemonSet", "status", "apps.v1.DaemonSetStatus"),
    ("apps.v1.DaemonSetSpec", "template", "core.v1.PodTemplateSpec"),
    ("batch.v1.Job", "spec", "batch.v1.JobSpec"),
    ("batch.v1.Job", "status", "batch.v1.JobStatus"),
    ("batch.v1.JobSpec", "template", "core.v1.PodTemplateSpec"),
    ("batch.v1.CronJob", "spec", "batch.v1.CronJobSpec"),
    ("batch.v1.CronJobSpec", "jobTemplate", "batch.v1.JobTemplateSpec"),
    ("batch.v1.JobTemplateSpec", "spec", "batch.v1.JobSpec"),
    ("core.v1.ReplicationController", "spec", "core.v1.ReplicationControllerSpec"),
    ("core.v1.ReplicationController", "status", "core.v1.ReplicationControllerStatus"),
    ("core.v1.ReplicationControllerSpec", "template", "core.v1.PodTemplateSpec"),
    ("core.v1.PodTemplate", "template", "core.v1.PodTemplateSpec"),
    ("core.v1.PersistentVolumeClaim", "status", "core.v1.PersistentVolumeClaimStatus"),
    ("autoscaling.v2.HorizontalPodAutoscaler", "status", "autoscaling.v2.HorizontalPodAutoscalerStatus"),
    ("networking.v1.ServiceCIDR", "status", "networking.v1.ServiceCIDRStatus"),
    ("policy.v1.PodDisruptionBudget", "status", "policy.v1.PodDisruptionBudgetStatus"),
];

static LISTS: LazyLock<HashMap<(&'static str, &'static str), ListMerge>> = LazyLock::new(|| {
    let row = |line: &'static str| {
        let columns: Vec<&str> = line.split('\t').collect();
        let [kind, field, _, _, key, strategy, ..] = columns[..] else { return None };
        match (key, strategy.split(',').any(|word| word == "merge")) {
            ("", true) => Some(((kind, field), ListMerge::Set)),
            (key, true) => Some(((kind, field), ListMerge::ByKey(key))),
            _ => None,
        }
    };
    LIST_KEYS.lines().filter(|line| !line.starts_with('#')).filter_map(row).collect()
});

/// The name of a kind's type in the tables: the first label of its group, or "core".
pub(super) fn root(group: &str, version: &str, kind: &str) -> String {
    let group = if group.is_empty() { "core" } else { group.split('.').next().unwrap_or(group) };
    format!("{group}.{version}.{kind}")
}

pub(super) fn field(kind: &str, field: &str) -> Field {
    let list = LISTS.get(&(kind, field)).copied().unwrap_or(ListMerge::Replace);
    let content = match field {
        "metadata" => "meta.v1.ObjectMeta",
        _ => PATHS.iter().find(|(of, name, _)| *of == kind && *name == field).map_or("", |(_, _, content)| content),
    };
    Field { list, content: content.to_owned() }
}
