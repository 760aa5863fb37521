//! Where each container of a pod stands and what comes next for it: the one reading of a pod's state, from which both
//! the plan and the status follow.

use crate::desired::{ContainerWish, RestartPolicy, Workload};
use crate::observed::{ObservedContainer, ObservedPod, ObservedSandbox};
use crate::runtime::{State, labels};
use k8s_openapi::jiff::Timestamp;
use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

/// Everything known of one pod at one instant.
#[derive(Clone, Copy)]
pub struct View<'a> {
    pub workload: &'a Workload,
    pub observed: &'a ObservedPod,
    pub troubles: &'a Troubles,
    pub verdicts: &'a Verdicts,
    /// Why no sandbox can have a network now.
    pub network_problem: Option<&'a str>,
    pub now: Timestamp,
}

/// Operations of one pod that failed, until they succeed.
pub type Troubles = BTreeMap<Subject, Trouble>;

/// What an operation was about.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Subject {
    Sandbox,
    Container(String),
    /// Stopping, removing and cleaning.
    Removal,
    /// Writing the pod's status or deleting its object.
    Object,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trouble {
    /// One word for `waiting.reason`.
    pub reason: String,
    pub message: String,
    /// Failures in a row.
    pub count: u32,
    pub last: Timestamp,
    pub retry_at: Timestamp,
}

/// What the probes say, by container id. A container without an entry has not been probed yet.
pub type Verdicts = HashMap<String, Verdict>;

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Verdict {
    pub started: bool,
    pub ready: bool,
    /// Why the container must be restarted.
    pub unhealthy: Option<String>,
}

/// The reading of a whole pod.
pub struct Assessment<'a> {
    pub sandbox: Option<&'a ObservedSandbox>,
    pub init: Vec<Standing<'a>>,
    pub containers: Vec<Standing<'a>>,
    /// All init containers are done, all sidecars run.
    pub initialized: bool,
    pub outcome: Outcome,
}

/// One container: what it was asked to be, its newest run, the one before, and what comes next.
pub struct Standing<'a> {
    pub wish: &'a ContainerWish,
    pub latest: Option<&'a ObservedContainer>,
    pub previous: Option<&'a ObservedContainer>,
    pub next: Next,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Next {
    /// It runs and may go on.
    Keep,
    /// It runs and must be ended, for this reason.
    Replace(String),
    /// It was created and never started: it is removed first.
    Discard,
    Start {
        attempt: u32,
        step: u32,
    },
    /// Like `Start`, but not before this time.
    BackOff {
        until: Timestamp,
    },
    Done {
        code: i32,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    Ongoing,
    Succeeded,
    Failed,
}

/// A run of this length makes an earlier series of crashes forgotten.
const STABLE_RUN: Duration = Duration::from_secs(600);
const FIRST_BACKOFF: Duration = Duration::from_secs(10);
const MAX_BACKOFF: Duration = Duration::from_secs(300);

/// Reads the state of a pod.
pub fn assess<'a>(view: View<'a>) -> Assessment<'a> {
    let sandbox = view.observed.current();
    let init: Vec<Standing<'a>> = view.workload.init.iter().map(|wish| stand(view, wish, sandbox, true)).collect();
    let containers: Vec<Standing<'a>> =
        view.workload.containers.iter().map(|wish| stand(view, wish, sandbox, false)).collect();
    let initialized = init.iter().all(|standing| settled(standing, view.verdicts));
    let outcome = outcome(view.workload, &init, &containers);
    Assessment { sandbox, init, containers, initialized, outcome }
}

/// An init container is settled when it ended well; a sidecar when it has started.
pub fn settled(standing: &Standing<'_>, verdicts: &Verdicts) -> bool {
    if standing.wish.sidecar {
        return standing.latest.is_some_and(|latest| latest.running() && started(standing.wish, latest, verdicts));
    }
    standing.next == Next::Done { code: 0 }
}

/// Running, and past its startup probe.
pub fn started(wish: &ContainerWish, container: &ObservedContainer, verdicts: &Verdicts) -> bool {
    let verdict = verdicts.get(&container.container.id);
    container.running() && (wish.probes.startup.is_none() || verdict.is_some_and(|verdict| verdict.started))
}

/// Started, and its readiness probe agrees.
pub fn ready(wish: &ContainerWish, container: &ObservedContainer, verdicts: &Verdicts) -> bool {
    let verdict = verdicts.get(&container.container.id);
    started(wish, container, verdicts)
        && (wish.probes.readiness.is_none() || verdict.is_some_and(|verdict| verdict.ready))
}

/// How long to wait before the restart that follows `step` restarts in a row: the first is at once.
pub fn restart_delay(step: u32) -> Duration {
    match step {
        0 => Duration::ZERO,
        _ => doubled(FIRST_BACKOFF, step - 1, MAX_BACKOFF),
    }
}

/// `first` doubled `times` times, at most `limit`.
pub fn doubled(first: Duration, times: u32, limit: Duration) -> Duration {
    first.saturating_mul(2_u32.saturating_pow(times)).min(limit)
}

fn stand<'a>(
    view: View<'a>,
    wish: &'a ContainerWish,
    sandbox: Option<&'a ObservedSandbox>,
    init: bool,
) -> Standing<'a> {
    let mut runs = view.observed.named(&wish.name);
    let latest = runs.next();
    let previous = runs.next();
    let next = next(view, wish, latest, sandbox, init);
    Standing { wish, latest, previous, next }
}

fn next(
    view: View<'_>,
    wish: &ContainerWish,
    latest: Option<&ObservedContainer>,
    sandbox: Option<&ObservedSandbox>,
    init: bool,
) -> Next {
    let Some(latest) = latest else { return start(view, wish, first_attempt(view.workload, &wish.name), 0, None) };
    let here = sandbox.is_some_and(|current| current.sandbox.id == latest.container.sandbox);
    match latest.container.state {
        State::Running if !here => Next::Replace("its sandbox is gone".to_owned()),
        State::Running => must_go(view, wish, latest).map_or(Next::Keep, Next::Replace),
        State::Created => Next::Discard,
        State::Exited | State::Unknown => {
            let code = latest.times.exit_code;
            // A new sandbox is initialized anew; an init container of an earlier one does not count.
            if init && !here && !wish.sidecar {
                return start(view, wish, latest.container.attempt + 1, 0, None);
            }
            if !restarts(view.workload.restart, wish, init, code) {
                return Next::Done { code };
            }
            restart(view, wish, latest)
        }
    }
}

/// Restart counts go on when the runtime has forgotten the containers that the object remembers.
fn first_attempt(workload: &Workload, name: &str) -> u32 {
    let status = workload.pod.status.as_ref();
    let lists = status.into_iter().flat_map(|s| [&s.init_container_statuses, &s.container_statuses]);
    let mut known = lists.flatten().flatten().filter(|status| status.name == name);
    let known = known.find(|status| status.container_id.as_ref().is_some_and(|id| !id.is_empty()));
    known.map_or(0, |status| status.restart_count.max(0).unsigned_abs() + 1)
}

fn must_go(view: View<'_>, wish: &ContainerWish, latest: &ObservedContainer) -> Option<String> {
    let hash = latest.annotation(labels::CONTAINER_HASH);
    if hash.is_some_and(|hash| hash != wish.hash) {
        return Some(format!("the image changed to {}", wish.image));
    }
    view.verdicts.get(&latest.container.id)?.unhealthy.clone()
}

fn restarts(policy: RestartPolicy, wish: &ContainerWish, init: bool, code: i32) -> bool {
    match policy {
        _ if wish.sidecar => true,
        // An init container that ended well is done under every policy.
        _ if init && code == 0 => false,
        RestartPolicy::Always => true,
        RestartPolicy::OnFailure => code != 0,
        RestartPolicy::Never => false,
    }
}

fn restart(view: View<'_>, wish: &ContainerWish, latest: &ObservedContainer) -> Next {
    let ran = latest.times.started.map_or(Duration::ZERO, |started| {
        Duration::try_from(latest.finished().duration_since(started)).unwrap_or_default()
    });
    let written = latest.annotation(labels::BACKOFF_STEP).and_then(|text| text.parse().ok()).unwrap_or(0);
    let step = if ran >= STABLE_RUN { 0 } else { written };
    let due = latest.finished() + restart_delay(step);
    start(view, wish, latest.container.attempt + 1, step.saturating_add(1), Some(due))
}

fn start(view: View<'_>, wish: &ContainerWish, attempt: u32, step: u32, due: Option<Timestamp>) -> Next {
    let retry = view.troubles.get(&Subject::Container(wish.name.clone())).map(|trouble| trouble.retry_at);
    match due.max(retry) {
        Some(until) if until > view.now => Next::BackOff { until },
        _ => Next::Start { attempt, step },
    }
}

fn outcome(workload: &Workload, init: &[Standing<'_>], containers: &[Standing<'_>]) -> Outcome {
    let failed = |standing: &Standing<'_>| matches!(standing.next, Next::Done { code } if code != 0);
    if init.iter().any(failed) {
        return Outcome::Failed;
    }
    let all_done = containers.iter().all(|standing| matches!(standing.next, Next::Done { .. }));
    match (workload.containers.is_empty() || !all_done, containers.iter().any(failed)) {
        (true, _) => Outcome::Ongoing,
        (false, true) => Outcome::Failed,
        (false, false) => Outcome::Succeeded,
    }
}
