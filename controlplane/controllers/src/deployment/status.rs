//! What a Deployment says of itself.

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::apps::v1::{Deployment, DeploymentCondition, DeploymentStatus, ReplicaSet};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;

use super::rollout::{Rollout, available, count, wanted};
use crate::object::{Action, Key, Object};
use crate::view::View;

/// The new status, if it differs. It counts what the ReplicaSets said before this look's writes.
pub(super) fn update(view: &View, deployment: &Deployment, rollout: &Rollout, now: Timestamp) -> Option<Action> {
    let stored = |set: &Arc<ReplicaSet>| {
        let (namespace, name) = (set.metadata.namespace.as_deref(), set.metadata.name.as_deref());
        view.replica_sets.get(namespace.unwrap_or_default(), name.unwrap_or_default()).cloned()
    };
    let new = rollout.new.as_ref().and_then(stored);
    let all: Vec<Arc<ReplicaSet>> = new.iter().cloned().chain(rollout.old.iter().filter_map(stored)).collect();
    let sum = |field: fn(&ReplicaSet) -> i32| super::rollout::sum(all.iter().map(|set| field(set)));
    let total = sum(|set| count(set, |status| Some(status.replicas)));
    let total_available = sum(available);
    let before = deployment.status.clone().unwrap_or_default();
    let some = |count: i32| Some(count).filter(|count| *count > 0);
    let mut status = DeploymentStatus {
        observed_generation: deployment.metadata.generation,
        replicas: some(total),
        updated_replicas: some(new.as_deref().map_or(0, |set| count(set, |status| Some(status.replicas)))),
        ready_replicas: some(sum(|set| count(set, |status| status.ready_replicas))),
        available_replicas: some(total_available),
        unavailable_replicas: some(sum(wanted).max(rollout.replicas()).saturating_sub(total_available)),
        terminating_replicas: Some(sum(|set| count(set, |status| status.terminating_replicas))),
        collision_count: before.collision_count,
        conditions: before.conditions.clone(),
    };
    let minimum = rollout.replicas() - rollout.max_unavailable();
    set_condition(&mut status, availability(total_available >= minimum), now);
    if let Some(condition) = progress(deployment, rollout, &before, &status, now) {
        set_condition(&mut status, condition, now);
    }
    if deployment.status.as_ref() == Some(&status) {
        return None;
    }
    let mut deployment = deployment.clone();
    deployment.status = Some(status);
    Some(Action::UpdateStatus(Object::Deployment(Arc::new(deployment))))
}

/// When a rollout that does not move will have failed.
pub fn look_again(view: &View, key: &Key, now: Timestamp) -> Option<Duration> {
    let deployment = view.deployments.get(&key.namespace, &key.name)?;
    let deadline = i64::from(deployment.spec.as_ref()?.progress_deadline_seconds?);
    let progressing = condition(deployment.status.as_ref()?, "Progressing")?;
    if progressing.status != "True" || progressing.reason.as_deref() == Some("NewReplicaSetAvailable") {
        return None;
    }
    let left = progressing.last_update_time.as_ref()?.0.as_second() + deadline + 1 - now.as_second();
    u64::try_from(left).ok().filter(|left| *left > 0).map(Duration::from_secs)
}

fn availability(enough: bool) -> DeploymentCondition {
    let (status, reason, message) = if enough {
        ("True", "MinimumReplicasAvailable", "Deployment has minimum availability.")
    } else {
        ("False", "MinimumReplicasUnavailable", "Deployment does not have minimum availability.")
    };
    new_condition("Available", status, reason, message.into())
}

/// How the rollout goes; `None` leaves what was said before.
fn progress(
    deployment: &Deployment,
    rollout: &Rollout,
    before: &DeploymentStatus,
    status: &DeploymentStatus,
    now: Timestamp,
) -> Option<DeploymentCondition> {
    let deadline = deployment.spec.as_ref()?.progress_deadline_seconds?;
    let name = rollout.new.as_ref()?.metadata.name.clone().unwrap_or_default();
    let said = condition(before, "Progressing");
    let value = |count: Option<i32>| count.unwrap_or(0);
    let complete = !rollout.is_created()
        && value(status.updated_replicas) == rollout.replicas()
        && value(status.replicas) == rollout.replicas()
        && value(status.available_replicas) == rollout.replicas();
    if complete {
        let message = format!("ReplicaSet \"{name}\" has successfully progressed.");
        return Some(new_condition("Progressing", "True", "NewReplicaSetAvailable", message));
    }
    if rollout.is_created() {
        let message = format!("Created new replica set \"{name}\"");
        return Some(moving(new_condition("Progressing", "True", "NewReplicaSetCreated", message), now));
    }
    let old = |status: &DeploymentStatus| value(status.replicas) - value(status.updated_replicas);
    let moved = value(status.updated_replicas) > value(before.updated_replicas)
        || old(status) < old(before)
        || value(status.ready_replicas) > value(before.ready_replicas)
        || value(status.available_replicas) > value(before.available_replicas);
    // A finished rollout that lost pods is not a rollout that hangs.
    let finished = said.is_some_and(|said| said.reason.as_deref() == Some("NewReplicaSetAvailable"));
    let same_template = finished && before.observed_generation == deployment.metadata.generation;
    if moved || said.is_none() || (finished && !same_template) {
        let message = format!("ReplicaSet \"{name}\" is progressing.");
        return Some(moving(new_condition("Progressing", "True", "ReplicaSetUpdated", message), now));
    }
    let since = said.and_then(|said| said.last_update_time.as_ref()).map_or(now, |time| time.0);
    if !finished && now.as_second() - since.as_second() > i64::from(deadline) {
        let message = format!("ReplicaSet \"{name}\" has timed out progressing.");
        return Some(new_condition("Progressing", "False", "ProgressDeadlineExceeded", message));
    }
    None
}

/// A condition whose time is that of the last movement, not of the last change of its text.
fn moving(mut condition: DeploymentCondition, now: Timestamp) -> DeploymentCondition {
    condition.last_update_time = Some(Time(whole_seconds(now)));
    condition
}

fn new_condition(type_: &str, status: &str, reason: &str, message: String) -> DeploymentCondition {
    DeploymentCondition {
        type_: type_.into(),
        status: status.into(),
        reason: Some(reason.into()),
        message: Some(message),
        ..Default::default()
    }
}

/// Puts a condition in its place; times change only with what they are the times of.
fn set_condition(status: &mut DeploymentStatus, mut condition: DeploymentCondition, now: Timestamp) {
    let now = Time(whole_seconds(now));
    let conditions = status.conditions.get_or_insert_default();
    let Some(present) = conditions.iter_mut().find(|present| present.type_ == condition.type_) else {
        condition.last_update_time = Some(now.clone());
        condition.last_transition_time = Some(now);
        conditions.push(condition);
        return;
    };
    let same = present.status == condition.status && present.reason == condition.reason;
    if same && present.message == condition.message && condition.last_update_time.is_none() {
        return;
    }
    let transition = if present.status == condition.status { present.last_transition_time.clone() } else { None };
    condition.last_transition_time = transition.or_else(|| Some(now.clone()));
    condition.last_update_time = condition.last_update_time.or(Some(now));
    *present = condition;
}

fn condition<'a>(status: &'a DeploymentStatus, type_: &str) -> Option<&'a DeploymentCondition> {
    status.conditions.as_deref()?.iter().find(|condition| condition.type_ == type_)
}

/// Times of objects have whole seconds.
fn whole_seconds(now: Timestamp) -> Timestamp {
    Timestamp::from_second(now.as_second()).unwrap_or(now)
}
