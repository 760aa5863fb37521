//! The Node object of this machine: what it should say, and when that is worth a write. Pure.

use crate::runtime::{Health, Version};
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::api::core::v1 as core;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta, OwnerReference, Time};
use k8s_openapi::jiff::Timestamp;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::time::Duration;

/// What this node is, for as long as the kubelet runs.
#[derive(Clone, Debug)]
pub struct NodeIdentity {
    pub name: String,
    /// One for each address family, the first one first.
    pub ips: Vec<String>,
    pub capacity: BTreeMap<String, String>,
    pub kernel: String,
    pub os_image: String,
    pub machine_id: String,
    pub boot_id: String,
}

/// What changes: the runtime and the pressure on the machine.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NodeHealth {
    pub version: Option<Version>,
    /// The runtime's two conditions, or why it could not be asked.
    pub runtime: Option<Health>,
    pub unreachable: Option<String>,
    pub pressure: Pressure,
}

/// Why a resource of the machine runs short; `None` when it does not.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Pressure {
    pub memory: Option<String>,
    pub disk: Option<String>,
    pub pids: Option<String>,
}

/// The version this kubelet stands for, and its own.
pub const KUBELET_VERSION: &str = concat!("v1.36.0+diolkos-", env!("CARGO_PKG_VERSION"));
/// A status that says nothing new is written again after this long.
pub const STATUS_PERIOD: Duration = Duration::from_secs(300);
/// The node counts as gone when its lease is not renewed for this long.
const LEASE_SECONDS: i32 = 40;

/// The object to create when the node is not known yet.
pub fn object(identity: &NodeIdentity) -> core::Node {
    let metadata =
        ObjectMeta { name: Some(identity.name.clone()), labels: Some(labels(identity)), ..ObjectMeta::default() };
    core::Node { metadata, spec: Some(core::NodeSpec::default()), status: None }
}

/// What an existing object lacks of its labels, as a merge patch.
pub fn adoption(identity: &NodeIdentity, node: &core::Node) -> Option<Value> {
    let have = node.metadata.labels.clone().unwrap_or_default();
    let missing: BTreeMap<String, String> =
        labels(identity).into_iter().filter(|(key, value)| have.get(key) != Some(value)).collect();
    (!missing.is_empty()).then(|| json!({"metadata": {"labels": missing}}))
}

/// The status as it should read now; conditions that others wrote stay.
pub fn status(
    identity: &NodeIdentity,
    health: &NodeHealth,
    previous: &core::NodeStatus,
    now: Timestamp,
) -> core::NodeStatus {
    let address = |kind: &str, address: &str| core::NodeAddress { type_: kind.to_owned(), address: address.to_owned() };
    let internal = identity.ips.iter().map(|ip| address("InternalIP", ip));
    let addresses = internal.chain([address("Hostname", &identity.name)]);
    let quantities: BTreeMap<String, Quantity> =
        identity.capacity.iter().map(|(name, value)| (name.clone(), Quantity(value.clone()))).collect();
    core::NodeStatus {
        addresses: Some(addresses.collect()),
        allocatable: Some(quantities.clone()),
        capacity: Some(quantities),
        conditions: Some(conditions(health, previous, now)),
        node_info: Some(core::NodeSystemInfo {
            architecture: architecture().to_owned(),
            boot_id: identity.boot_id.clone(),
            container_runtime_version: health
                .version
                .as_ref()
                .map(|version| format!("{}://{}", version.name, version.version))
                .or_else(|| previous.node_info.as_ref().map(|info| info.container_runtime_version.clone()))
                .unwrap_or_default(),
            kernel_version: identity.kernel.clone(),
            kubelet_version: KUBELET_VERSION.to_owned(),
            machine_id: identity.machine_id.clone(),
            operating_system: "linux".to_owned(),
            os_image: identity.os_image.clone(),
            system_uuid: identity.machine_id.clone(),
            ..previous.node_info.clone().unwrap_or_default()
        }),
        ..previous.clone()
    }
}

/// The merge patch that makes `previous` read `new`, when it is due: at once for a change of substance, otherwise
/// every [`STATUS_PERIOD`] for the heartbeat times.
pub fn patch(
    previous: &core::NodeStatus,
    new: &core::NodeStatus,
    last_write: Option<Timestamp>,
    now: Timestamp,
) -> Option<Value> {
    let old = serde_json::to_value(previous).unwrap_or_default();
    let new = serde_json::to_value(new).unwrap_or_default();
    let fields: serde_json::Map<String, Value> = new
        .as_object()
        .into_iter()
        .flatten()
        .filter(|(key, value)| old.get(*key) != Some(*value))
        .map(|(key, value)| (key.clone(), value.clone()))
        .collect();
    let overdue = last_write.is_none_or(|last| now >= last + STATUS_PERIOD);
    let substance = without_heartbeat(&old) != without_heartbeat(&new);
    (!fields.is_empty() && (overdue || substance)).then(|| json!({"status": fields}))
}

/// The lease as renewed now.
pub fn lease(previous: Option<Lease>, node: &core::Node, now: Timestamp) -> Lease {
    let name = node.metadata.name.clone().unwrap_or_default();
    let mut lease = previous.unwrap_or_default();
    lease.metadata.name = Some(name.clone());
    lease.metadata.namespace = Some(crate::cluster::LEASE_NAMESPACE.to_owned());
    // The lease goes with its node; an owner without a uid would be refused.
    lease.metadata.owner_references = node.metadata.uid.clone().map(|uid| {
        let owner = OwnerReference {
            api_version: "v1".to_owned(),
            kind: "Node".to_owned(),
            name: name.clone(),
            uid,
            ..Default::default()
        };
        vec![owner]
    });
    let spec = lease.spec.get_or_insert_with(LeaseSpec::default);
    spec.holder_identity = Some(name);
    spec.lease_duration_seconds = Some(LEASE_SECONDS);
    spec.renew_time = Some(MicroTime(now));
    lease
}

fn labels(identity: &NodeIdentity) -> BTreeMap<String, String> {
    BTreeMap::from([
        ("kubernetes.io/hostname".to_owned(), identity.name.clone()),
        ("kubernetes.io/os".to_owned(), "linux".to_owned()),
        ("kubernetes.io/arch".to_owned(), architecture().to_owned()),
    ])
}

/// The name that Kubernetes, after Go, gives the architecture.
fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

fn conditions(health: &NodeHealth, previous: &core::NodeStatus, now: Timestamp) -> Vec<core::NodeCondition> {
    let condition = |kind: &str, holds: bool, reason: &str, message: String| {
        let status = if holds { "True" } else { "False" };
        let before = previous.conditions.iter().flatten().find(|condition| condition.type_ == kind);
        let since = before.filter(|condition| condition.status == status);
        core::NodeCondition {
            type_: kind.to_owned(),
            status: status.to_owned(),
            reason: Some(reason.to_owned()),
            message: Some(message),
            last_heartbeat_time: Some(Time(now)),
            last_transition_time: since.and_then(|c| c.last_transition_time.clone()).or(Some(Time(now))),
        }
    };
    let pressed = |kind: &str, name: &str, problem: &Option<String>, fine: &str| {
        let reason = if problem.is_some() { format!("KubeletHas{kind}") } else { format!("KubeletHas{name}") };
        condition(kind, problem.is_some(), &reason, problem.clone().unwrap_or_else(|| fine.to_owned()))
    };
    let pressure = &health.pressure;
    let ready = match not_ready(health) {
        None => condition("Ready", true, "KubeletReady", "kubelet is posting ready status".to_owned()),
        Some(message) => condition("Ready", false, "KubeletNotReady", message),
    };
    let own = [
        pressed("MemoryPressure", "SufficientMemory", &pressure.memory, "kubelet has sufficient memory available"),
        pressed("DiskPressure", "NoDiskPressure", &pressure.disk, "kubelet has no disk pressure"),
        pressed("PIDPressure", "SufficientPID", &pressure.pids, "kubelet has sufficient PID available"),
        ready,
    ];
    let known = |kind: &str| own.iter().any(|condition| condition.type_ == kind);
    let others = previous.conditions.iter().flatten().filter(|condition| !known(&condition.type_)).cloned();
    others.chain(own.iter().cloned()).collect()
}

fn not_ready(health: &NodeHealth) -> Option<String> {
    if let Some(message) = &health.unreachable {
        return Some(message.clone());
    }
    let Some(runtime) = &health.runtime else { return Some("the container runtime was not asked yet".to_owned()) };
    let runtime_problem = runtime.runtime.as_ref().map(|message| format!("container runtime is not ready: {message}"));
    let network_problem = runtime.network.as_ref().map(|message| format!("container network is not ready: {message}"));
    match (runtime_problem, network_problem) {
        (Some(one), Some(two)) => Some(format!("[{one}, {two}]")),
        (one, two) => one.or(two),
    }
}

/// The status without the times that move with every look.
fn without_heartbeat(status: &Value) -> Value {
    let mut status = status.clone();
    if let Some(conditions) = status.get_mut("conditions").and_then(Value::as_array_mut) {
        for condition in conditions.iter_mut().filter_map(Value::as_object_mut) {
            condition.shift_remove("lastHeartbeatTime");
        }
    }
    status
}

#[cfg(test)]
mod tests;
