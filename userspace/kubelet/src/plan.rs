//! From what is wanted and what is there to what is done next. Removals come first, then the sandbox, then containers;
//! the order is that of the variants of [`Action`].

use crate::lifecycle::{self, Assessment, Next, Outcome, Standing, Subject, Troubles, View};
use crate::observed::{ObservedContainer, ObservedPod};
use crate::runtime::labels;
use k8s_openapi::jiff::Timestamp;
use std::time::Duration;

/// One step for one pod. Steps of one plan run in order; the plan is made anew when they are done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// All at the same time, each with this grace.
    StopContainers {
        ids: Vec<String>,
        grace: Duration,
        why: String,
    },
    StopSandbox {
        id: String,
    },
    RemoveContainer {
        id: String,
    },
    RemoveSandbox {
        id: String,
    },
    /// Removes what the pod has on the node: directories, mounts, cgroups.
    Clean,
    /// Nothing of the pod is left here: the object goes.
    DeleteObject,
    RunSandbox {
        attempt: u32,
    },
    Start {
        container: String,
        sandbox: String,
        attempt: u32,
        step: u32,
    },
}

impl Action {
    /// Place in the order of a plan.
    fn rank(&self) -> u8 {
        match self {
            Action::StopContainers { .. } => 0,
            Action::StopSandbox { .. } => 1,
            Action::RemoveContainer { .. } => 2,
            Action::RemoveSandbox { .. } => 3,
            Action::Clean => 4,
            Action::DeleteObject => 5,
            Action::RunSandbox { .. } => 6,
            Action::Start { .. } => 7,
        }
    }

    /// What a failure of this action holds up.
    pub fn subject(&self) -> Subject {
        match self {
            Action::StopContainers { .. }
            | Action::StopSandbox { .. }
            | Action::RemoveContainer { .. }
            | Action::RemoveSandbox { .. }
            | Action::Clean => Subject::Removal,
            Action::DeleteObject => Subject::Object,
            Action::RunSandbox { .. } => Subject::Sandbox,
            Action::Start { container, .. } => Subject::Container(container.clone()),
        }
    }
}

/// Grace of containers that do not say, when their pod's object is gone.
const ORPHAN_GRACE: Duration = Duration::from_secs(2);
/// Ended runs of one container that stay for logs and `lastState`, besides a running one.
const KEPT_RUNS: usize = 1;

/// The next steps of a pod that has an object.
pub fn plan(view: View<'_>) -> Vec<Action> {
    let assessment = lifecycle::assess(view);
    let mut actions = if view.workload.delete_by.is_some() {
        plan_deletion(view)
    } else if view.workload.finished || assessment.outcome != Outcome::Ongoing {
        wind_down(view.observed, view.workload.grace, "the pod has finished")
    } else if view.workload.refused.is_some() {
        Vec::new()
    } else {
        plan_life(view, &assessment)
    };
    actions.retain(|action| !held(view.troubles, &action.subject(), view.now));
    actions.sort_by_key(Action::rank);
    actions
}

/// The next steps of what is left of a pod without an object.
pub fn plan_orphan(observed: &ObservedPod, troubles: &Troubles, now: Timestamp) -> Vec<Action> {
    let grace = observed.containers.iter().find_map(|container| container.annotation(labels::GRACE_SECONDS));
    let grace = grace.and_then(|text| text.parse().ok()).map_or(ORPHAN_GRACE, Duration::from_secs);
    let mut actions = wind_down(observed, grace, "the pod is gone");
    if actions.is_empty() {
        actions.extend(removal(observed));
    }
    actions.retain(|action| !held(troubles, &action.subject(), now));
    actions
}

/// Stop; report the ends; remove; then let the object go. A step waits for the one before to be seen.
fn plan_deletion(view: View<'_>) -> Vec<Action> {
    let deadline = view.workload.delete_by.unwrap_or(view.now);
    let left = Duration::try_from(deadline.duration_since(view.now)).unwrap_or_default();
    // A pod that is late still gets a second between TERM and KILL, unless it asked for none.
    let grace = if view.workload.grace.is_zero() { Duration::ZERO } else { left.max(Duration::from_secs(1)) };
    let stops = wind_down(view.observed, grace, "the pod is deleted");
    if !stops.is_empty() {
        return stops;
    }
    if !view.observed.sandboxes.is_empty() && !ends_reported(view) {
        return Vec::new();
    }
    let removals = removal(view.observed);
    if removals.is_empty() { vec![Action::DeleteObject] } else { removals }
}

/// The object says how each container that ran here has ended, or never learned that it ran.
fn ends_reported(view: View<'_>) -> bool {
    let Some(status) = view.workload.pod.status.as_ref() else { return true };
    let lists = [&status.init_container_statuses, &status.container_statuses];
    lists.into_iter().flatten().flatten().all(|status| {
        let ran = view.observed.named(&status.name).next().is_some_and(|run| run.times.started.is_some());
        !ran || status.state.as_ref().is_some_and(|state| state.terminated.is_some())
    })
}

fn wind_down(observed: &ObservedPod, grace: Duration, why: &str) -> Vec<Action> {
    let mut actions = Vec::from_iter(stop(observed.containers.iter().filter(|c| c.running()), grace, why));
    let ready = observed.sandboxes.iter().filter(|observed| observed.sandbox.ready);
    actions.extend(ready.map(|observed| Action::StopSandbox { id: observed.sandbox.id.clone() }));
    actions
}

fn removal(observed: &ObservedPod) -> Vec<Action> {
    let sandboxes = observed.sandboxes.iter();
    let mut actions: Vec<Action> =
        sandboxes.map(|observed| Action::RemoveSandbox { id: observed.sandbox.id.clone() }).collect();
    if observed.leftovers || !actions.is_empty() {
        actions.push(Action::Clean);
    }
    actions
}

fn plan_life(view: View<'_>, assessment: &Assessment<'_>) -> Vec<Action> {
    let Some(sandbox) = assessment.sandbox else { return plan_sandbox(view) };
    let mut actions = remove_old(view, assessment);
    let mut starts = Vec::new();
    for standing in &assessment.init {
        advance(standing, &sandbox.sandbox.id, view, &mut actions, &mut starts);
        if !lifecycle::settled(standing, view.verdicts) {
            break;
        }
    }
    if assessment.initialized {
        for standing in &assessment.containers {
            advance(standing, &sandbox.sandbox.id, view, &mut actions, &mut starts);
        }
    }
    actions.append(&mut starts);
    actions
}

/// Without a ready sandbox: what ran in the old one is ended, its network given back, then a new one is made.
fn plan_sandbox(view: View<'_>) -> Vec<Action> {
    let running = view.observed.containers.iter().filter(|container| container.running());
    let mut actions = Vec::from_iter(stop(running, view.workload.grace, "its sandbox has ended"));
    let newest = view.observed.sandboxes.first();
    for observed in &view.observed.sandboxes {
        let id = observed.sandbox.id.clone();
        let holds = view.observed.containers.iter().any(|container| container.container.sandbox == id);
        // What ended in a sandbox tells restart counts and exit codes; an empty one only keeps its name.
        actions.push(if holds { Action::StopSandbox { id } } else { Action::RemoveSandbox { id } });
    }
    if view.network_problem.is_none() || view.workload.namespaces.host_network {
        // A failed start may leave its name taken: the next attempt has a name of its own.
        let failures = view.troubles.get(&Subject::Sandbox).map_or(0, |trouble| trouble.count);
        let attempt = newest.map_or(0, |observed| observed.sandbox.attempt + 1).max(failures);
        actions.push(Action::RunSandbox { attempt });
    }
    actions
}

fn advance(
    standing: &Standing<'_>,
    sandbox: &str,
    view: View<'_>,
    actions: &mut Vec<Action>,
    starts: &mut Vec<Action>,
) {
    match &standing.next {
        Next::Replace(why) => actions.extend(stop(standing.latest.into_iter(), view.workload.grace, why)),
        Next::Discard => actions.extend(standing.latest.map(remove)),
        &Next::Start { attempt, step } => {
            let container = standing.wish.name.clone();
            starts.push(Action::Start { container, sandbox: sandbox.to_owned(), attempt, step });
        }
        Next::Keep | Next::BackOff { .. } | Next::Done { .. } => {}
    }
}

/// Ended runs beyond the kept ones, containers that the pod does not name, and sandboxes that nothing refers to.
fn remove_old(view: View<'_>, assessment: &Assessment<'_>) -> Vec<Action> {
    let mut actions = Vec::new();
    let mut kept_sandboxes: Vec<&str> =
        assessment.sandbox.iter().map(|observed| observed.sandbox.id.as_str()).collect();
    for standing in assessment.init.iter().chain(&assessment.containers) {
        let runs = view.observed.named(&standing.wish.name);
        let newest_ended = usize::from(standing.latest.is_some_and(ObservedContainer::ended));
        let old = runs.filter(|run| run.ended()).skip(KEPT_RUNS.max(newest_ended));
        actions.extend(old.map(remove));
        kept_sandboxes.extend(standing.latest.map(|latest| latest.container.sandbox.as_str()));
    }
    let old = view.observed.sandboxes.iter().filter(|observed| !kept_sandboxes.contains(&observed.sandbox.id.as_str()));
    actions.extend(old.map(|observed| Action::RemoveSandbox { id: observed.sandbox.id.clone() }));
    actions
}

fn remove(run: &ObservedContainer) -> Action {
    Action::RemoveContainer { id: run.container.id.clone() }
}

fn stop<'a>(containers: impl Iterator<Item = &'a ObservedContainer>, grace: Duration, why: &str) -> Option<Action> {
    let ids: Vec<String> = containers.map(|container| container.container.id.clone()).collect();
    let why = why.to_owned();
    (!ids.is_empty()).then_some(Action::StopContainers { ids, grace, why })
}

fn held(troubles: &Troubles, subject: &Subject, now: Timestamp) -> bool {
    troubles.get(subject).is_some_and(|trouble| trouble.retry_at > now)
}

#[cfg(test)]
mod tests;
