//! Starting sandboxes and containers.

use super::execute::{Fault, blocking, prepare_volumes, run_hook};
use super::{Context, pod_ips};
use crate::desired::environment::{self, ConfigMaps, Facts, Resolved};
use crate::desired::{ContainerWish, PullPolicy, VolumeSource, Workload};
use crate::host;
use crate::observed::ObservedPod;
use crate::runtime::{ContainerSpec, Dns, Mount, SandboxSpec, labels};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

/// Longest time of a postStart hook.
const POST_START_LIMIT: Duration = Duration::from_secs(120);

pub(super) async fn run_sandbox(context: &Context, workload: &Workload, attempt: u32) -> Result<(), Fault> {
    let failed = |error: &dyn std::fmt::Display| Fault::new("FailedCreatePodSandBox", error);
    let _turn = context.starts.acquire().await.map_err(|error| failed(&error))?;
    prepare_volumes(context, workload).await?;
    let spec = sandbox_spec(context, workload, attempt);
    let id = context.runtime.run_sandbox(&spec).await.map_err(|error| failed(&error))?;
    tracing::info!(pod = workload.key.name, namespace = workload.key.namespace, id, "started the sandbox");
    Ok(())
}

/// `run` is the attempt, and the step of the back-off that a crash of this run would be.
pub(super) async fn start(
    context: &Context,
    workload: &Workload,
    seen: &ObservedPod,
    name: &str,
    sandbox: &str,
    run: (u32, u32),
) -> Result<(), Fault> {
    let config = |message: String| Fault::new("CreateContainerConfigError", message);
    let mut wishes = workload.init.iter().chain(&workload.containers);
    let wish =
        wishes.find(|wish| wish.name == name).ok_or_else(|| config(format!("the pod has no container {name}")))?;
    ensure_image(context, wish).await?;
    let turn = context.starts.acquire().await.map_err(|error| config(error.to_string()))?;
    prepare_volumes(context, workload).await?;
    let facts = Facts { pod_ips: pod_ips(&context.facts, workload, seen), ..context.facts.clone() };
    let maps = config_maps(context, workload, wish).await?;
    let resolved = environment::resolve(wish, workload, &facts, &maps).map_err(config)?;
    let mounts = mounts(context, workload, wish, &facts).await.map_err(|error| config(error.to_string()))?;
    let attempt = seen.current().map_or(0, |current| current.sandbox.attempt);
    let spec = container_spec(sandbox_spec(context, workload, attempt), workload, wish, run, resolved, mounts);
    let (host, key, container) = (context.host.clone(), workload.key.clone(), wish.name.clone());
    let log = blocking(move || host.prepare_log(&key, &container, run.0)).await;
    let log_path = log.map_err(|error| config(error.to_string()))?;
    let spec = ContainerSpec { log_path, ..spec };
    let created = context.runtime.create_container(sandbox, &spec).await;
    let id = created.map_err(|error| Fault::new("CreateContainerError", error))?;
    context.runtime.start_container(&id).await.map_err(|error| Fault::new("RunContainerError", error))?;
    tracing::info!(pod = workload.key.name, namespace = workload.key.namespace, container = name, id, "started");
    drop(turn);
    let Some(hook) = &wish.post_start else { return Ok(()) };
    let address = facts.pod_ips.first().cloned().unwrap_or_default();
    if let Err(problem) = run_hook(context, hook, &id, &address, POST_START_LIMIT).await {
        let stopped = context.runtime.stop_container(&id, workload.grace).await;
        stopped.map_err(|error| Fault::new("RunContainerError", error))?;
        return Err(Fault::new("PostStartHookError", problem));
    }
    Ok(())
}

async fn ensure_image(context: &Context, wish: &ContainerWish) -> Result<(), Fault> {
    let found = context.runtime.image(&wish.image).await;
    let present = found.map_err(|error| Fault::new("ImageInspectError", error))?.is_some();
    match (wish.pull, present) {
        (PullPolicy::Never | PullPolicy::IfNotPresent, true) => Ok(()),
        (PullPolicy::Never, false) => {
            let message = format!("container image {:?} is not present with pull policy of Never", wish.image);
            Err(Fault::new("ErrImageNeverPull", message))
        }
        (PullPolicy::Always, _) | (PullPolicy::IfNotPresent, false) => {
            let turn = context.pulls.acquire().await;
            let _turn = turn.map_err(|error| Fault::new("ErrImagePull", error))?;
            let pulled = context.runtime.pull(&wish.image).await;
            pulled.map(drop).map_err(|error| Fault::new("ErrImagePull", error))
        }
    }
}

async fn config_maps(context: &Context, workload: &Workload, wish: &ContainerWish) -> Result<ConfigMaps, Fault> {
    let mut maps = ConfigMaps::new();
    for name in environment::references(wish) {
        let found = context.cluster.config_map(&workload.key.namespace, &name).await;
        let found = found.map_err(|failure| Fault::new("CreateContainerConfigError", failure))?;
        maps.extend(found.map(|map| (name, map)));
    }
    Ok(maps)
}

fn sandbox_spec(context: &Context, workload: &Workload, attempt: u32) -> SandboxSpec {
    let containers = workload.init.iter().chain(&workload.containers);
    SandboxSpec {
        pod: workload.key.clone(),
        attempt,
        hostname: workload.hostname.clone(),
        dns: dns(context, workload),
        namespaces: workload.namespaces,
        privileged: containers.clone().any(|wish| wish.security.privileged),
        sysctls: workload.sysctls.clone(),
        cgroup_parent: context.host.cgroup_parent(&workload.key.uid),
        log_directory: context.host.log_directory(&workload.key).to_string_lossy().into_owned(),
        labels: pod_labels(workload),
    }
}

/// `dnsPolicy: None` starts empty, every other policy from the node's own; `dnsConfig` adds to either.
fn dns(context: &Context, workload: &Workload) -> Option<Dns> {
    let spec = workload.pod.spec.as_ref();
    let mut dns = match spec.and_then(|spec| spec.dns_policy.as_deref()) {
        Some("None") => Dns::default(),
        _ => host::parse_resolv_conf(&std::fs::read_to_string(&context.resolv_conf).ok()?),
    };
    if let Some(config) = spec.and_then(|spec| spec.dns_config.as_ref()) {
        dns.servers.extend(config.nameservers.iter().flatten().cloned());
        dns.searches.extend(config.searches.iter().flatten().cloned());
        let options = config.options.iter().flatten().filter_map(|option| {
            let name = option.name.as_deref()?;
            Some(option.value.as_ref().map_or(name.to_owned(), |value| format!("{name}:{value}")))
        });
        dns.options.extend(options);
    }
    Some(dns)
}

fn pod_labels(workload: &Workload) -> BTreeMap<String, String> {
    let mut all = workload.pod.metadata.labels.clone().unwrap_or_default();
    all.insert(labels::POD_NAME.to_owned(), workload.key.name.clone());
    all.insert(labels::POD_NAMESPACE.to_owned(), workload.key.namespace.clone());
    all.insert(labels::POD_UID.to_owned(), workload.key.uid.clone());
    all
}

fn container_spec(
    sandbox: SandboxSpec,
    workload: &Workload,
    wish: &ContainerWish,
    (attempt, step): (u32, u32),
    resolved: Resolved,
    mounts: Vec<Mount>,
) -> ContainerSpec {
    ContainerSpec {
        labels: BTreeMap::from([
            (labels::POD_NAME.to_owned(), workload.key.name.clone()),
            (labels::POD_NAMESPACE.to_owned(), workload.key.namespace.clone()),
            (labels::POD_UID.to_owned(), workload.key.uid.clone()),
            (labels::CONTAINER_NAME.to_owned(), wish.name.clone()),
        ]),
        annotations: BTreeMap::from([
            (labels::CONTAINER_HASH.to_owned(), wish.hash.clone()),
            (labels::GRACE_SECONDS.to_owned(), workload.grace.as_secs().to_string()),
            (labels::BACKOFF_STEP.to_owned(), step.to_string()),
        ]),
        sandbox,
        name: wish.name.clone(),
        attempt,
        image: wish.image.clone(),
        command: resolved.command,
        args: resolved.args,
        env: resolved.env,
        working_dir: wish.working_dir.clone(),
        mounts,
        log_path: String::new(),
        resources: wish.resources,
        security: wish.security.clone(),
        tty: wish.tty,
        stdin: wish.stdin,
    }
}

/// The volumes of the container, and /etc/hosts unless it brings its own.
async fn mounts(
    context: &Context,
    workload: &Workload,
    wish: &ContainerWish,
    facts: &Facts,
) -> Result<Vec<Mount>, host::Error> {
    let mut mounts = Vec::new();
    for mount in &wish.mounts {
        let volume = workload.volumes.iter().find(|volume| volume.name == mount.volume);
        let volume = volume.ok_or_else(|| host::Error::Config(format!("the pod has no volume {:?}", mount.volume)))?;
        let (host, base, sub) =
            (context.host.clone(), context.host.volume_path(&workload.key, volume), mount.sub_path.clone());
        let path: PathBuf = blocking(move || host.resolve_sub_path(&base, &sub)).await?;
        // What the cluster put there is not the container's to change.
        let given = matches!(volume.source, VolumeSource::ConfigMap { .. } | VolumeSource::Projected { .. });
        let read_only = mount.read_only || given;
        let host_path = path.to_string_lossy().into_owned();
        mounts.push(Mount { host_path, container_path: mount.path.clone(), read_only });
    }
    let own_hosts = mounts.iter().any(|mount| mount.container_path == "/etc/hosts");
    if !workload.namespaces.host_network && !own_hosts {
        let text = hosts_file(workload, facts);
        let (host, uid) = (context.host.clone(), workload.key.uid.clone());
        let path = blocking(move || host.write_hosts(&uid, &text)).await?;
        let host_path = path.to_string_lossy().into_owned();
        mounts.push(Mount { host_path, container_path: "/etc/hosts".to_owned(), read_only: false });
    }
    Ok(mounts)
}

fn hosts_file(workload: &Workload, facts: &Facts) -> String {
    let mut text = "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n".to_owned();
    for ip in &facts.pod_ips {
        text.push_str(&format!("{ip}\t{}\n", workload.hostname));
    }
    let aliases = workload.pod.spec.iter().flat_map(|spec| spec.host_aliases.iter().flatten());
    for alias in aliases {
        let names = alias.hostnames.iter().flatten().map(String::as_str).collect::<Vec<_>>().join(" ");
        text.push_str(&format!("{}\t{names}\n", alias.ip));
    }
    text
}
