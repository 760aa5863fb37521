//! Carrying out one action of a plan.

use super::{Context, start};
use crate::cluster::TokenFor;
use crate::desired::{Hook, Probe, Projection, Volume, VolumeSource, Workload};
use crate::host::{self, ConfigMapFiles};
use crate::observed::ObservedPod;
use crate::plan::Action;
use crate::probe;
use crate::runtime;
use futures::future::join_all;
use std::time::{Duration, Instant, SystemTime};

/// A token is replaced after this share of its time, and after a day at most.
const TOKEN_SHARE: f64 = 0.8;
const TOKEN_MOST: Duration = Duration::from_secs(24 * 60 * 60);

/// Why an action failed: one word for the pod's status, and the whole story.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    pub reason: &'static str,
    pub message: String,
    /// Expected and harmless: not worth a line in the log.
    pub quiet: bool,
}

impl Fault {
    pub fn new(reason: &'static str, message: impl std::fmt::Display) -> Fault {
        Fault { reason, message: message.to_string(), quiet: false }
    }

    pub fn quiet(message: impl std::fmt::Display) -> Fault {
        Fault { reason: "Retry", message: message.to_string(), quiet: true }
    }

    /// First and longest pause before the next try.
    pub fn pauses(&self) -> (Duration, Duration) {
        match self.reason {
            // As Kubernetes does: a registry is not asked all the time.
            "ErrImagePull" => (Duration::from_secs(10), Duration::from_secs(300)),
            "ErrImageNeverPull" | "CreateContainerConfigError" => (Duration::from_secs(2), Duration::from_secs(60)),
            "Retry" => (Duration::from_millis(200), Duration::from_secs(5)),
            _ => (Duration::from_secs(1), Duration::from_secs(30)),
        }
    }
}

pub(super) async fn execute(
    context: &Context,
    workload: Option<&Workload>,
    seen: &ObservedPod,
    action: &Action,
) -> Result<(), Fault> {
    let runtime = context.runtime.as_ref();
    let removal = |error: runtime::Error| Fault::new("FailedKillPod", error);
    match action {
        Action::StopContainers { ids, grace, why } => {
            tracing::info!(pod = seen.key.name, namespace = seen.key.namespace, why, "stopping containers");
            let stops = ids.iter().map(|id| stop(context, workload, seen, id, *grace));
            join_all(stops).await.into_iter().collect::<Result<(), runtime::Error>>().map_err(removal)
        }
        Action::StopSandbox { id } => runtime.stop_sandbox(id).await.map_err(removal),
        Action::RemoveContainer { id } => runtime.remove_container(id).await.map_err(removal),
        Action::RemoveSandbox { id } => runtime.remove_sandbox(id).await.map_err(removal),
        Action::Clean => {
            let (host, key) = (context.host.clone(), seen.key.clone());
            blocking(move || host.clean(&key)).await.map_err(|error| Fault::new("FailedCleanup", error))
        }
        Action::DeleteObject => {
            let key = &seen.key;
            match context.cluster.delete_pod(&key.namespace, &key.name, &key.uid).await {
                Err(failure) if !failure.is_not_found() => Err(Fault::new("FailedDelete", failure)),
                _ => {
                    tracing::info!(pod = key.name, namespace = key.namespace, "the pod has ended and is gone");
                    Ok(())
                }
            }
        }
        Action::RunSandbox { attempt } => match workload {
            Some(workload) => start::run_sandbox(context, workload, *attempt).await,
            None => Ok(()),
        },
        Action::Start { container, sandbox, attempt, step } => match workload {
            Some(workload) => start::start(context, workload, seen, container, sandbox, (*attempt, *step)).await,
            None => Ok(()),
        },
    }
}

/// Rotates logs beyond their limit, and brings ConfigMap and projected volumes up to date.
pub(super) async fn keep_up(context: &Context, workload: &Workload, seen: &ObservedPod) -> Result<(), Fault> {
    let failed = |error: host::Error| Fault::new("FailedUpkeep", error);
    for run in seen.containers.iter().filter(|run| run.running()) {
        let (host, key, container) = (context.host.clone(), seen.key.clone(), run.container.clone());
        let rotated = blocking(move || host.rotate_log(&key, &container.name, container.attempt));
        if rotated.await.map_err(failed)? {
            let reopened = context.runtime.reopen_log(&run.container.id).await;
            reopened.map_err(|error| Fault::new("FailedUpkeep", error))?;
        }
    }
    prepare_volumes(context, workload).await
}

/// Makes the volumes of a pod ready, or says which one cannot be.
pub(super) async fn prepare_volumes(context: &Context, workload: &Workload) -> Result<(), Fault> {
    for volume in &workload.volumes {
        let failed = |error: host::Error| Fault::new("FailedMount", format!("volume {}: {error}", volume.name));
        let files = match &volume.source {
            VolumeSource::ConfigMap { name, optional, items, mode } => {
                let found = context.cluster.config_map(&workload.key.namespace, name).await;
                let map = found.map_err(|failure| Fault::new("FailedMount", failure))?;
                host::config_map_files(map.as_ref(), name, *optional, items, *mode).map_err(failed)?
            }
            VolumeSource::Projected { sources, mode } => projected(context, workload, volume, sources, *mode).await?,
            _ => ConfigMapFiles::new(),
        };
        let (host, key, wanted) = (context.host.clone(), workload.key.clone(), volume.clone());
        blocking(move || host.prepare_volume(&key, &wanted, &files)).await.map_err(failed)?;
    }
    Ok(())
}

/// The files of a projected volume.
async fn projected(
    context: &Context,
    workload: &Workload,
    volume: &Volume,
    sources: &[Projection],
    mode: u32,
) -> Result<ConfigMapFiles, Fault> {
    let failed = |error: host::Error| Fault::new("FailedMount", format!("volume {}: {error}", volume.name));
    let mut files = ConfigMapFiles::new();
    for source in sources {
        match source {
            Projection::ConfigMap { name, optional, items } => {
                let found = context.cluster.config_map(&workload.key.namespace, name).await;
                let map = found.map_err(|failure| Fault::new("FailedMount", failure))?;
                files.extend(host::config_map_files(map.as_ref(), name, *optional, items, mode).map_err(failed)?);
            }
            Projection::Field { path, text, mode: own } => {
                files.insert(path.clone(), (text.clone().into_bytes(), own.unwrap_or(mode)));
            }
            Projection::Token { audience, seconds, path } => {
                let token = token(context, workload, volume, audience.as_deref(), *seconds, path).await?;
                files.insert(path.clone(), (token, mode));
            }
        }
    }
    Ok(files)
}

/// The token that is there while it is young, otherwise a new one. Its file says how old it is, also to the next kubelet.
async fn token(
    context: &Context,
    workload: &Workload,
    volume: &Volume,
    audience: Option<&str>,
    seconds: i64,
    path: &str,
) -> Result<Vec<u8>, Fault> {
    let fresh = Duration::from_secs(seconds.unsigned_abs()).mul_f64(TOKEN_SHARE).min(TOKEN_MOST);
    let (host, key, own, file) = (context.host.clone(), workload.key.clone(), volume.clone(), path.to_owned());
    let present = blocking(move || Ok(host.volume_file(&key, &own, &file))).await;
    let present = present.map_err(|error| Fault::new("FailedMount", format!("volume {}: {error}", volume.name)))?;
    let young = |written: &SystemTime| written.elapsed().is_ok_and(|age| age < fresh);
    if let Some((token, _)) = present.filter(|(_, written)| young(written)) {
        return Ok(token);
    }
    let account = workload.pod.spec.as_ref().and_then(|spec| spec.service_account_name.as_deref()).unwrap_or("default");
    let request = TokenFor {
        namespace: &workload.key.namespace,
        account,
        pod: (&workload.key.name, &workload.key.uid),
        audience,
        seconds,
    };
    let token = context.cluster.token(&request).await;
    let token = token.map_err(|failure| {
        Fault::new("FailedMount", format!("volume {}: no token of {account:?}: {failure}", volume.name))
    })?;
    Ok(token.into_bytes())
}

/// Runs work on the disk beside the async tasks.
pub(super) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, host::Error> + Send + 'static,
) -> Result<T, host::Error> {
    match tokio::task::spawn_blocking(work).await {
        Ok(outcome) => outcome,
        Err(error) => Err(host::Error::Config(format!("the work on the disk was cut off: {error}"))),
    }
}

/// The preStop hook first; it shares the grace period with TERM.
async fn stop(
    context: &Context,
    workload: Option<&Workload>,
    seen: &ObservedPod,
    id: &str,
    grace: Duration,
) -> Result<(), runtime::Error> {
    let begun = Instant::now();
    let name = seen.containers.iter().find(|run| run.container.id == id).map(|run| run.container.name.as_str());
    let wish = workload.and_then(|workload| {
        workload.init.iter().chain(&workload.containers).find(|wish| Some(wish.name.as_str()) == name)
    });
    if let (Some(workload), Some(hook)) = (workload, wish.and_then(|wish| wish.pre_stop.as_ref()))
        && !grace.is_zero()
    {
        let address = super::pod_ips(&context.facts, workload, seen).into_iter().next().unwrap_or_default();
        if let Err(problem) = run_hook(context, hook, id, &address, grace).await {
            tracing::warn!(pod = seen.key.name, container = name, problem, "the preStop hook failed");
        }
    }
    // After a hook that took it all, TERM still comes before KILL.
    let left = grace.saturating_sub(begun.elapsed()).max(Duration::from_secs(1).min(grace));
    context.runtime.stop_container(id, left).await
}

pub(super) async fn run_hook(
    context: &Context,
    hook: &Hook,
    container: &str,
    address: &str,
    limit: Duration,
) -> Result<(), String> {
    match hook {
        Hook::Sleep(time) => {
            tokio::time::sleep((*time).min(limit)).await;
            Ok(())
        }
        Hook::Check(check) => {
            let once = Probe {
                check: check.clone(),
                initial_delay: Duration::ZERO,
                period: limit,
                timeout: limit,
                success_threshold: 1,
                failure_threshold: 1,
            };
            probe::check(&once, context.runtime.as_ref(), container, address).await
        }
    }
}
