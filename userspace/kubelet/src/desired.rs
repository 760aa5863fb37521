//! What a pod object asks this node to run: values only. What the kubelet cannot do is refused here, whole, with the
//! reason, so that no pod ever starts with a part of it missing.

mod container;
pub mod environment;
mod probe;
mod volume;

pub use container::{ContainerWish, MountWish, PullPolicy};
pub use probe::{Check, Hook, Probe, Probes};
pub use volume::{ConfigFile, Projection, Volume, VolumeSource};

use crate::runtime::{Namespaces, PodKey};
use k8s_openapi::api::core::v1::{Pod, PodSpec};
use k8s_openapi::jiff::Timestamp;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

/// One pod as wanted.
#[derive(Clone, Debug)]
pub struct Workload {
    pub key: PodKey,
    /// The object it came from.
    pub pod: Arc<Pod>,
    /// When everything must have ended, once the pod is being deleted.
    pub delete_by: Option<Timestamp>,
    pub restart: RestartPolicy,
    /// How long a container may take to end after TERM.
    pub grace: Duration,
    pub hostname: String,
    pub namespaces: Namespaces,
    pub sysctls: BTreeMap<String, String>,
    pub init: Vec<ContainerWish>,
    pub containers: Vec<ContainerWish>,
    pub volumes: Vec<Volume>,
    pub qos: Qos,
    /// Why this pod cannot run here, as far as the object alone tells.
    pub refused: Option<String>,
    /// The object says Succeeded or Failed already: nothing of it is ever started again.
    pub finished: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RestartPolicy {
    Always,
    OnFailure,
    Never,
}

/// Quality of service class, from requests and limits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Qos {
    Guaranteed,
    Burstable,
    BestEffort,
}

impl Qos {
    pub fn name(self) -> &'static str {
        match self {
            Qos::Guaranteed => "Guaranteed",
            Qos::Burstable => "Burstable",
            Qos::BestEffort => "BestEffort",
        }
    }
}

/// Longest name of a host.
const MAX_HOSTNAME: usize = 63;
/// Grace of pods that do not say, seconds.
const DEFAULT_GRACE_SECONDS: i64 = 30;

/// Reads a pod object; `node_memory_bytes` weighs requests for the OOM killer.
pub fn workload(pod: &Arc<Pod>, node_memory_bytes: i64) -> Workload {
    let empty = PodSpec::default();
    let spec = pod.spec.as_ref().unwrap_or(&empty);
    let meta = &pod.metadata;
    let key = PodKey {
        namespace: meta.namespace.clone().unwrap_or_default(),
        name: meta.name.clone().unwrap_or_default(),
        uid: meta.uid.clone().unwrap_or_default(),
    };
    let grace = meta.deletion_grace_period_seconds.or(spec.termination_grace_period_seconds);
    let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
    let qos = container::qos(spec);
    let mut problems = Vec::new();
    let init = spec.init_containers.iter().flatten();
    let init = init.map(|c| container::wish(c, spec, qos, node_memory_bytes, &mut problems)).collect();
    let containers = spec.containers.iter();
    let containers = containers.map(|c| container::wish(c, spec, qos, node_memory_bytes, &mut problems)).collect();
    let volumes = spec.volumes.iter().flatten().map(|v| volume::read(pod, v, &mut problems)).collect();
    let host_network = spec.host_network.unwrap_or(false);
    Workload {
        hostname: if host_network { String::new() } else { hostname(spec, &key.name) },
        key,
        pod: pod.clone(),
        delete_by: meta.deletion_timestamp.as_ref().map(|time| time.0),
        restart: restart_policy(spec),
        grace: Duration::from_secs(grace.unwrap_or(DEFAULT_GRACE_SECONDS).max(0).unsigned_abs()),
        namespaces: Namespaces {
            host_network,
            host_pid: spec.host_pid.unwrap_or(false),
            host_ipc: spec.host_ipc.unwrap_or(false),
            share_pid: spec.share_process_namespace.unwrap_or(false),
        },
        sysctls: sysctls(spec),
        init,
        containers,
        volumes,
        qos,
        refused: problems.into_iter().next(),
        finished: matches!(phase, Some("Succeeded" | "Failed")),
    }
}

fn hostname(spec: &PodSpec, pod_name: &str) -> String {
    let name = spec.hostname.as_deref().filter(|name| !name.is_empty()).unwrap_or(pod_name);
    let cut = name.get(..MAX_HOSTNAME).unwrap_or(name);
    cut.trim_end_matches(['-', '.']).to_owned()
}

fn restart_policy(spec: &PodSpec) -> RestartPolicy {
    match spec.restart_policy.as_deref() {
        Some("Never") => RestartPolicy::Never,
        Some("OnFailure") => RestartPolicy::OnFailure,
        _ => RestartPolicy::Always,
    }
}

fn sysctls(spec: &PodSpec) -> BTreeMap<String, String> {
    let listed = spec.security_context.iter().flat_map(|context| context.sysctls.iter().flatten());
    listed.map(|sysctl| (sysctl.name.clone(), sysctl.value.clone())).collect()
}

#[cfg(test)]
mod tests;
