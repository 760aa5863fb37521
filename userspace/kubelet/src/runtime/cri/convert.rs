//! Between the kubelet's values and CRI's messages.

use crate::runtime::{
    Container, ContainerSpec, Health, Mount, Namespaces, PodKey, Resources, Sandbox, SandboxSpec, Security, State,
    Times, labels,
};
use k8s_cri::v1 as wire;
use k8s_openapi::jiff::Timestamp;

/// Length of the period that a CPU quota counts in, microseconds.
const CPU_PERIOD_MICROS: i64 = 100_000;

pub(super) fn sandbox_config(spec: &SandboxSpec) -> wire::PodSandboxConfig {
    let security_context = wire::LinuxSandboxSecurityContext {
        namespace_options: Some(namespaces(spec.namespaces)),
        privileged: spec.privileged,
        ..Default::default()
    };
    wire::PodSandboxConfig {
        metadata: Some(wire::PodSandboxMetadata {
            name: spec.pod.name.clone(),
            uid: spec.pod.uid.clone(),
            namespace: spec.pod.namespace.clone(),
            attempt: spec.attempt,
        }),
        hostname: spec.hostname.clone(),
        log_directory: spec.log_directory.clone(),
        dns_config: spec.dns.as_ref().map(|dns| wire::DnsConfig {
            servers: dns.servers.clone(),
            searches: dns.searches.clone(),
            options: dns.options.clone(),
        }),
        labels: spec.labels.clone().into_iter().collect(),
        linux: Some(wire::LinuxPodSandboxConfig {
            cgroup_parent: spec.cgroup_parent.clone(),
            security_context: Some(security_context),
            sysctls: spec.sysctls.clone().into_iter().collect(),
            ..Default::default()
        }),
        ..Default::default()
    }
}

pub(super) fn container_config(spec: &ContainerSpec) -> wire::ContainerConfig {
    let envs = spec.env.iter().map(|(key, value)| wire::KeyValue { key: key.clone(), value: value.clone() });
    wire::ContainerConfig {
        metadata: Some(wire::ContainerMetadata { name: spec.name.clone(), attempt: spec.attempt }),
        image: Some(wire::ImageSpec { image: spec.image.clone(), ..Default::default() }),
        command: spec.command.clone(),
        args: spec.args.clone(),
        working_dir: spec.working_dir.clone(),
        envs: envs.collect(),
        mounts: spec.mounts.iter().map(mount).collect(),
        labels: spec.labels.clone().into_iter().collect(),
        annotations: spec.annotations.clone().into_iter().collect(),
        log_path: spec.log_path.clone(),
        stdin: spec.stdin,
        tty: spec.tty,
        linux: Some(wire::LinuxContainerConfig {
            resources: Some(resources(spec.resources)),
            security_context: Some(security(&spec.security, spec.sandbox.namespaces)),
        }),
        ..Default::default()
    }
}

pub(super) fn sandbox(item: wire::PodSandbox) -> Sandbox {
    let label = |key: &str| item.labels.get(key).cloned().unwrap_or_default();
    let pod =
        PodKey { namespace: label(labels::POD_NAMESPACE), name: label(labels::POD_NAME), uid: label(labels::POD_UID) };
    Sandbox {
        pod,
        attempt: item.metadata.as_ref().map_or(0, |metadata| metadata.attempt),
        ready: item.state() == wire::PodSandboxState::SandboxReady,
        created: timestamp(item.created_at).unwrap_or_default(),
        id: item.id,
    }
}

pub(super) fn container(item: wire::Container) -> Container {
    let state = state(item.state());
    let metadata = item.metadata.unwrap_or_default();
    Container {
        id: item.id,
        sandbox: item.pod_sandbox_id,
        name: metadata.name,
        attempt: metadata.attempt,
        state,
        image: item.image.unwrap_or_default().image,
        image_id: item.image_ref,
        annotations: item.annotations.into_iter().collect(),
    }
}

pub(super) fn times(status: wire::ContainerStatus) -> Times {
    let started = timestamp(status.started_at);
    Times {
        started,
        // containerd notes the start after the end of a program that ends at once: nothing ends before it began.
        finished: timestamp(status.finished_at).map(|finished| started.map_or(finished, |began| finished.max(began))),
        exit_code: status.exit_code,
        reason: status.reason,
        message: status.message,
    }
}

pub(super) fn health(status: wire::RuntimeStatus) -> Health {
    let problem = |name: &str| match status.conditions.iter().find(|condition| condition.r#type == name) {
        Some(condition) if condition.status => None,
        Some(condition) => Some(format!("{}: {}", condition.reason, condition.message)),
        None => Some(format!("the runtime does not report {name}")),
    };
    Health { runtime: problem("RuntimeReady"), network: problem("NetworkReady") }
}

fn namespaces(wanted: Namespaces) -> wire::NamespaceOption {
    let host_or_pod = |host: bool| if host { wire::NamespaceMode::Node } else { wire::NamespaceMode::Pod };
    let pid = match (wanted.host_pid, wanted.share_pid) {
        (true, _) => wire::NamespaceMode::Node,
        (false, true) => wire::NamespaceMode::Pod,
        (false, false) => wire::NamespaceMode::Container,
    };
    wire::NamespaceOption {
        network: host_or_pod(wanted.host_network).into(),
        pid: pid.into(),
        ipc: host_or_pod(wanted.host_ipc).into(),
        ..Default::default()
    }
}

fn mount(mount: &Mount) -> wire::Mount {
    wire::Mount {
        container_path: mount.container_path.clone(),
        host_path: mount.host_path.clone(),
        readonly: mount.read_only,
        ..Default::default()
    }
}

fn resources(limits: Resources) -> wire::LinuxContainerResources {
    wire::LinuxContainerResources {
        cpu_period: CPU_PERIOD_MICROS,
        cpu_quota: limits.cpu_quota,
        cpu_shares: limits.cpu_shares,
        memory_limit_in_bytes: limits.memory_limit_bytes,
        oom_score_adj: limits.oom_score_adj,
        ..Default::default()
    }
}

fn security(security: &Security, shared: Namespaces) -> wire::LinuxContainerSecurityContext {
    let number = |value: i64| wire::Int64Value { value };
    // What a container may not see of the kernel unless it is privileged: the defaults of the OCI world.
    let (masked_paths, readonly_paths) = if security.privileged {
        (Vec::new(), Vec::new())
    } else {
        (MASKED_PATHS.map(str::to_owned).to_vec(), READ_ONLY_PATHS.map(str::to_owned).to_vec())
    };
    wire::LinuxContainerSecurityContext {
        capabilities: Some(wire::Capability {
            add_capabilities: security.add_capabilities.clone(),
            drop_capabilities: security.drop_capabilities.clone(),
            ..Default::default()
        }),
        privileged: security.privileged,
        namespace_options: Some(namespaces(shared)),
        run_as_user: security.run_as_user.map(number),
        run_as_group: security.run_as_group.map(number),
        readonly_rootfs: security.read_only_root,
        supplemental_groups: security.supplemental_groups.clone(),
        no_new_privs: security.no_new_privileges,
        masked_paths,
        readonly_paths,
        ..Default::default()
    }
}

const MASKED_PATHS: [&str; 10] = [
    "/proc/asound",
    "/proc/acpi",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/sys/firmware",
];
const READ_ONLY_PATHS: [&str; 5] = ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];

fn state(state: wire::ContainerState) -> State {
    match state {
        wire::ContainerState::ContainerCreated => State::Created,
        wire::ContainerState::ContainerRunning => State::Running,
        wire::ContainerState::ContainerExited => State::Exited,
        wire::ContainerState::ContainerUnknown => State::Unknown,
    }
}

/// CRI gives nanoseconds since the epoch, 0 for "not yet".
fn timestamp(nanoseconds: i64) -> Option<Timestamp> {
    if nanoseconds <= 0 { None } else { Timestamp::from_nanosecond(i128::from(nanoseconds)).ok() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_container_ends_before_it_began() {
        let status = |started_at, finished_at| wire::ContainerStatus { started_at, finished_at, ..Default::default() };
        let ended_at_once = times(status(1_509, 1_506));
        assert_eq!((ended_at_once.started, ended_at_once.finished), (timestamp(1_509), timestamp(1_509)));
        let never_began = times(status(0, 1_506));
        assert_eq!((never_began.started, never_began.finished), (None, timestamp(1_506)));
    }
}
