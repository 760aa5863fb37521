//! One container of a pod as wanted.

use super::Qos;
use super::probe::{Hook, Probes, hook, probe};
use crate::runtime::{Resources, Security};
use diolkos_api::quantity::Quantity as Amount;
use k8s_openapi::api::core::v1 as core;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use std::collections::BTreeMap;

#[derive(Clone, Debug)]
pub struct ContainerWish {
    pub name: String,
    pub image: String,
    pub pull: PullPolicy,
    /// Changes when a running container must be replaced.
    pub hash: String,
    /// An init container that keeps running beside the others.
    pub sidecar: bool,
    pub command: Vec<String>,
    pub args: Vec<String>,
    pub env: Vec<core::EnvVar>,
    pub env_from: Vec<core::EnvFromSource>,
    pub working_dir: String,
    pub mounts: Vec<MountWish>,
    pub resources: Resources,
    /// Requests and limits as written, for `resourceFieldRef`.
    pub requests: BTreeMap<String, String>,
    pub limits: BTreeMap<String, String>,
    pub security: Security,
    pub probes: Probes,
    /// Runs right after the start; a failure ends the container.
    pub post_start: Option<Hook>,
    /// Runs before TERM, within the grace period.
    pub pre_stop: Option<Hook>,
    pub tty: bool,
    pub stdin: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PullPolicy {
    Always,
    IfNotPresent,
    Never,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MountWish {
    pub volume: String,
    pub path: String,
    pub sub_path: String,
    pub read_only: bool,
}

/// Shares of the smallest request, as the kernel allows.
const MIN_CPU_SHARES: i64 = 2;
/// Smallest quota that the kernel takes, microseconds of 100 ms.
const MIN_CPU_QUOTA: i64 = 1000;

pub(super) fn wish(
    container: &core::Container,
    spec: &core::PodSpec,
    qos: Qos,
    node_memory_bytes: i64,
    problems: &mut Vec<String>,
) -> ContainerWish {
    let image = container.image.clone().unwrap_or_default();
    let resources = container.resources.clone().unwrap_or_default();
    let limits = plain(resources.limits.as_ref());
    let mut requests = limits.clone();
    requests.extend(plain(resources.requests.as_ref()));
    let lifecycle = container.lifecycle.clone().unwrap_or_default();
    if container.volume_devices.as_ref().is_some_and(|devices| !devices.is_empty()) {
        problems.push(format!("container {}: block devices are not supported by this kubelet", container.name));
    }
    ContainerWish {
        name: container.name.clone(),
        pull: pull_policy(container.image_pull_policy.as_deref(), &image),
        hash: format!("{:016x}", fnv1a(image.as_bytes())),
        image,
        sidecar: container.restart_policy.as_deref() == Some("Always"),
        command: container.command.clone().unwrap_or_default(),
        args: container.args.clone().unwrap_or_default(),
        env: container.env.clone().unwrap_or_default(),
        env_from: container.env_from.clone().unwrap_or_default(),
        working_dir: container.working_dir.clone().unwrap_or_default(),
        mounts: container.volume_mounts.iter().flatten().map(|mount| mount_wish(mount, container, problems)).collect(),
        resources: kernel_limits(&requests, &limits, qos, node_memory_bytes),
        requests,
        limits,
        security: security(container.security_context.as_ref(), spec.security_context.as_ref(), problems),
        probes: Probes {
            startup: probe(container.startup_probe.as_ref(), container, problems),
            liveness: probe(container.liveness_probe.as_ref(), container, problems),
            readiness: probe(container.readiness_probe.as_ref(), container, problems),
        },
        post_start: hook(lifecycle.post_start.as_ref(), container, problems),
        pre_stop: hook(lifecycle.pre_stop.as_ref(), container, problems),
        tty: container.tty.unwrap_or(false),
        stdin: container.stdin.unwrap_or(false),
    }
}

/// Guaranteed: cpu and memory limits everywhere and requests equal to them. BestEffort: neither anywhere.
pub(super) fn qos(spec: &core::PodSpec) -> Qos {
    let all = spec.init_containers.iter().flatten().chain(&spec.containers);
    let (mut any, mut equal) = (false, true);
    for container in all {
        let resources = container.resources.clone().unwrap_or_default();
        let (limits, requests) = (plain(resources.limits.as_ref()), plain(resources.requests.as_ref()));
        for name in ["cpu", "memory"] {
            let value = |map: &BTreeMap<String, String>| map.get(name).and_then(|text| milli(text)).filter(|&v| v > 0);
            let (limit, request) = (value(&limits), value(&requests));
            any |= limit.is_some() || request.is_some();
            equal &= limit.is_some() && request.is_none_or(|request| Some(request) == limit);
        }
    }
    match (any, equal) {
        (false, _) => Qos::BestEffort,
        (true, true) => Qos::Guaranteed,
        (true, false) => Qos::Burstable,
    }
}

fn plain(quantities: Option<&BTreeMap<String, Quantity>>) -> BTreeMap<String, String> {
    quantities.into_iter().flatten().map(|(name, quantity)| (name.clone(), quantity.0.clone())).collect()
}

/// Thousandths; `None` when the text is no quantity, which the API server does not let through.
pub(super) fn milli(text: &str) -> Option<i64> {
    Amount::parse(text).ok().map(Amount::milli)
}

/// Whole units, rounded up.
pub(super) fn units(text: &str) -> Option<i64> {
    Amount::parse(text).ok().map(Amount::units)
}

fn pull_policy(policy: Option<&str>, image: &str) -> PullPolicy {
    match policy {
        Some("Always") => PullPolicy::Always,
        Some("Never") => PullPolicy::Never,
        Some("IfNotPresent") => PullPolicy::IfNotPresent,
        _ => {
            let last = image.rsplit('/').next().unwrap_or(image);
            let tagged = image.contains('@') || last.split_once(':').is_some_and(|(_, tag)| tag != "latest");
            if tagged { PullPolicy::IfNotPresent } else { PullPolicy::Always }
        }
    }
}

fn kernel_limits(
    requests: &BTreeMap<String, String>,
    limits: &BTreeMap<String, String>,
    qos: Qos,
    node_memory_bytes: i64,
) -> Resources {
    let cpu = |map: &BTreeMap<String, String>| map.get("cpu").and_then(|text| milli(text)).unwrap_or(0);
    let memory = |map: &BTreeMap<String, String>| map.get("memory").and_then(|text| units(text)).unwrap_or(0);
    let cpu_quota = match cpu(limits) {
        0 => 0,
        milli => milli.saturating_mul(100).max(MIN_CPU_QUOTA),
    };
    // The more of the node a burstable container asked for, the later it is killed; always between the other classes.
    let oom_score_adj = match qos {
        Qos::Guaranteed => -997,
        Qos::BestEffort => 1000,
        Qos::Burstable => {
            let share = memory(requests).saturating_mul(1000) / node_memory_bytes.max(1);
            (1000 - share).clamp(3, 999)
        }
    };
    Resources {
        cpu_shares: (cpu(requests).saturating_mul(1024) / 1000).max(MIN_CPU_SHARES),
        cpu_quota,
        memory_limit_bytes: memory(limits),
        oom_score_adj,
    }
}

fn mount_wish(mount: &core::VolumeMount, container: &core::Container, problems: &mut Vec<String>) -> MountWish {
    let sub_path = mount.sub_path.clone().unwrap_or_default();
    if sub_path.starts_with('/') || sub_path.split('/').any(|part| part == "..") {
        problems.push(format!("container {}: subPath {sub_path:?} leaves its volume", container.name));
    }
    if mount.sub_path_expr.as_ref().is_some_and(|text| !text.is_empty()) {
        problems.push(format!("container {}: subPathExpr is not supported by this kubelet", container.name));
    }
    if mount.mount_propagation.as_deref().is_some_and(|propagation| propagation != "None") {
        problems.push(format!("container {}: mountPropagation is not supported by this kubelet", container.name));
    }
    MountWish {
        volume: mount.name.clone(),
        path: mount.mount_path.clone(),
        sub_path,
        read_only: mount.read_only.unwrap_or(false),
    }
}

fn security(
    own: Option<&core::SecurityContext>,
    pod: Option<&core::PodSecurityContext>,
    problems: &mut Vec<String>,
) -> Security {
    let privileged = own.and_then(|context| context.privileged).unwrap_or(false);
    let run_as_user = own.and_then(|c| c.run_as_user).or(pod.and_then(|c| c.run_as_user));
    let non_root = own.and_then(|c| c.run_as_non_root).or(pod.and_then(|c| c.run_as_non_root)).unwrap_or(false);
    if non_root && run_as_user.is_none_or(|user| user == 0) {
        problems
            .push("runAsNonRoot needs a runAsUser other than 0: this kubelet does not read users from images".into());
    }
    let capabilities = own.and_then(|context| context.capabilities.clone()).unwrap_or_default();
    let mut supplemental_groups = pod.and_then(|context| context.supplemental_groups.clone()).unwrap_or_default();
    supplemental_groups.extend(pod.and_then(|context| context.fs_group));
    Security {
        privileged,
        run_as_user,
        run_as_group: own.and_then(|c| c.run_as_group).or(pod.and_then(|c| c.run_as_group)),
        supplemental_groups,
        read_only_root: own.and_then(|context| context.read_only_root_filesystem).unwrap_or(false),
        no_new_privileges: own.and_then(|c| c.allow_privilege_escalation) == Some(false),
        add_capabilities: capabilities.add.unwrap_or_default(),
        drop_capabilities: capabilities.drop.unwrap_or_default(),
    }
}

/// 64-bit FNV-1a: stable over releases, which the standard hasher is not.
fn fnv1a(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, &byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}
