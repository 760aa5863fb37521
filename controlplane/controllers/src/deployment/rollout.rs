//! How many replicas each ReplicaSet of a Deployment may have now.

use std::sync::Arc;

use k8s_openapi::api::apps::v1::{Deployment, DeploymentSpec, ReplicaSet};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::{REVISION, revision_of};
use crate::object::{Action, Object};
use crate::pod_state::is_finished;
use crate::view::View;

/// The ReplicaSets of a Deployment, and what is to become of them.
pub(super) struct Rollout {
    replicas: i32,
    max_surge: i32,
    max_unavailable: i32,
    recreate: bool,
    /// No pod of an old ReplicaSet runs any more.
    old_gone: bool,
    /// The one of the present template.
    pub(super) new: Option<Arc<ReplicaSet>>,
    /// All others, oldest first.
    pub(super) old: Vec<Arc<ReplicaSet>>,
    created: bool,
    changed: Vec<String>,
}

impl Rollout {
    pub(super) fn new(
        view: &View,
        spec: &DeploymentSpec,
        new: Option<Arc<ReplicaSet>>,
        old: Vec<Arc<ReplicaSet>>,
    ) -> Self {
        let replicas = spec.replicas.unwrap_or(1).max(0);
        let strategy = spec.strategy.as_ref();
        let recreate = strategy.and_then(|strategy| strategy.type_.as_deref()) == Some("Recreate");
        let (max_surge, max_unavailable) = bounds(spec, replicas);
        let gone = |set: &Arc<ReplicaSet>| {
            let uid = set.metadata.uid.as_deref().unwrap_or_default();
            wanted(set) == 0 && view.pods.owned_by(uid).all(|pod| is_finished(pod))
        };
        let old_gone = old.iter().all(gone);
        let changed = Vec::new();
        Self { replicas, max_surge, max_unavailable, recreate, old_gone, new, old, created: false, changed }
    }

    /// With the strategy Recreate, the new ReplicaSet waits until the pods of the old ones are gone.
    pub(super) fn may_begin(&self) -> bool {
        !self.recreate || self.old_gone
    }

    pub(super) fn begin(&mut self, set: ReplicaSet) {
        self.new = Some(Arc::new(set));
        self.created = true;
    }

    /// Decides the replicas of each.
    pub(super) fn advance(&mut self, paused: bool) {
        if paused {
            return self.scale_the_only_one();
        }
        if self.recreate {
            let mut old = std::mem::take(&mut self.old);
            old.iter_mut().for_each(|set| self.scale(set, 0));
            self.old = old;
        }
        let new = self.new_replicas();
        if let Some(mut set) = self.new.take() {
            self.scale(&mut set, new);
            self.new = Some(set);
        }
        if !self.recreate {
            self.shrink_old();
        }
    }

    /// Marks the new one with its place in the history.
    pub(super) fn number(&mut self, revision: i64) {
        let Some(set) = &mut self.new else { return };
        if revision_of(&set.metadata) != revision {
            let set = Arc::make_mut(set);
            set.metadata.annotations.get_or_insert_default().insert(REVISION.into(), revision.to_string());
            self.changed.push(set.metadata.name.clone().unwrap_or_default());
        }
    }

    /// The writes that make it so.
    pub(super) fn actions(&self) -> Vec<Action> {
        let mut actions = Vec::new();
        for set in self.new.iter().chain(&self.old) {
            let is_new = self.new.as_ref().is_some_and(|new| Arc::ptr_eq(new, set));
            if is_new && self.created {
                actions.push(Action::Create(Object::ReplicaSet(set.clone())));
            } else if set.metadata.name.as_ref().is_some_and(|name| self.changed.contains(name)) {
                actions.push(Action::Update(Object::ReplicaSet(set.clone())));
            }
        }
        actions
    }

    /// Deletes the oldest empty ReplicaSets beyond what history keeps.
    pub(super) fn forget(&self, deployment: &Deployment, view: &View) -> Vec<Action> {
        let keep = deployment.spec.as_ref().and_then(|spec| spec.revision_history_limit).unwrap_or(10);
        let keep = usize::try_from(keep).unwrap_or(usize::MAX);
        let empty = |set: &&Arc<ReplicaSet>| {
            let uid = set.metadata.uid.as_deref().unwrap_or_default();
            wanted(set) == 0
                && set.metadata.deletion_timestamp.is_none()
                && count(set, |status| Some(status.replicas)) == 0
                && view.pods.owned_by(uid).next().is_none()
        };
        let mut oldest: Vec<&Arc<ReplicaSet>> = self.old.iter().filter(empty).collect();
        oldest.sort_by_key(|set| revision_of(&set.metadata));
        let surplus = oldest.len().saturating_sub(keep);
        let delete = |set: &Arc<ReplicaSet>| Action::Delete(Object::ReplicaSet(set.clone()).target());
        oldest.into_iter().take(surplus).map(delete).collect()
    }

    pub(super) fn replicas(&self) -> i32 {
        self.replicas
    }

    pub(super) fn max_unavailable(&self) -> i32 {
        self.max_unavailable
    }

    pub(super) fn is_created(&self) -> bool {
        self.created
    }

    /// The new one grows into the room that the surge leaves, and shrinks at once.
    fn new_replicas(&self) -> i32 {
        let Some(new) = &self.new else { return 0 };
        let present = if self.created { 0 } else { wanted(new) };
        if self.recreate {
            return if self.old_gone { self.replicas } else { present.min(self.replicas) };
        }
        if present > self.replicas {
            return self.replicas;
        }
        let all = sum(self.old.iter().map(|set| wanted(set)).chain([present]));
        let room = self.replicas.saturating_add(self.max_surge).saturating_sub(all);
        present + room.clamp(0, self.replicas - present)
    }

    /// The old ones shrink as far as availability allows: first by what does not work anyway.
    fn shrink_old(&mut self) {
        let Some(new) = self.new.clone() else { return };
        let minimum = self.replicas - self.max_unavailable;
        let new_unavailable = if self.created { wanted(&new) } else { wanted(&new) - available(&new) };
        let all = sum(self.old.iter().map(|set| wanted(set)).chain([wanted(&new)]));
        let mut may_go = all.saturating_sub(minimum).saturating_sub(new_unavailable.max(0));
        let mut old = std::mem::take(&mut self.old);
        for set in &mut old {
            let unhealthy = (wanted(set) - available(set)).clamp(0, may_go.max(0));
            may_go -= unhealthy;
            let left = wanted(set) - unhealthy;
            self.scale(set, left);
        }
        let healthy = |set: &Arc<ReplicaSet>| available(set).min(wanted(set));
        let new_available = if self.created { 0 } else { available(&new) };
        let mut surplus = sum(old.iter().map(healthy).chain([new_available])).saturating_sub(minimum);
        for set in &mut old {
            let goes = wanted(set).clamp(0, surplus.min(may_go).max(0));
            surplus -= goes;
            may_go -= goes;
            let left = wanted(set) - goes;
            self.scale(set, left);
        }
        self.old = old;
    }

    /// While paused nothing moves, but the only one in use follows the number of replicas.
    fn scale_the_only_one(&mut self) {
        let mut old = std::mem::take(&mut self.old);
        let mut new = self.new.take();
        let replicas = self.replicas;
        let mut in_use: Vec<&mut Arc<ReplicaSet>> =
            new.iter_mut().chain(&mut old).filter(|set| wanted(set) > 0).collect();
        if let [only] = in_use.as_mut_slice() {
            self.scale(only, replicas);
        }
        (self.new, self.old) = (new, old);
    }

    fn scale(&mut self, set: &mut Arc<ReplicaSet>, replicas: i32) {
        if wanted(set) == replicas {
            return;
        }
        let set = Arc::make_mut(set);
        set.spec.get_or_insert_default().replicas = Some(replicas);
        self.changed.push(set.metadata.name.clone().unwrap_or_default());
    }
}

/// Replicas are what people write: their sum may be more than a number holds.
pub(super) fn sum(counts: impl Iterator<Item = i32>) -> i32 {
    counts.fold(0, i32::saturating_add)
}

/// The replicas a ReplicaSet asks for.
pub(super) fn wanted(set: &ReplicaSet) -> i32 {
    set.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(1)
}

pub(super) fn available(set: &ReplicaSet) -> i32 {
    count(set, |status| status.available_replicas)
}

/// A number of the status, 0 when it is not set.
pub(super) fn count(
    set: &ReplicaSet,
    field: impl Fn(&k8s_openapi::api::apps::v1::ReplicaSetStatus) -> Option<i32>,
) -> i32 {
    set.status.as_ref().and_then(field).unwrap_or(0)
}

/// maxSurge (a share is rounded up) and maxUnavailable (rounded down); not both may come out as 0.
fn bounds(spec: &DeploymentSpec, replicas: i32) -> (i32, i32) {
    let rolling = spec.strategy.as_ref().and_then(|strategy| strategy.rolling_update.as_ref());
    let quarter = IntOrString::String("25%".into());
    let amount = |value: Option<&IntOrString>, round_up: bool| match value.unwrap_or(&quarter) {
        IntOrString::Int(amount) => *amount,
        IntOrString::String(share) => {
            let percent: i64 = share.trim_end_matches('%').parse().unwrap_or(25);
            let hundredths = i64::from(replicas).saturating_mul(percent);
            i32::try_from(if round_up { hundredths.saturating_add(99) / 100 } else { hundredths / 100 })
                .unwrap_or(i32::MAX)
        }
    };
    let surge = amount(rolling.and_then(|rolling| rolling.max_surge.as_ref()), true).max(0);
    let unavailable = amount(rolling.and_then(|rolling| rolling.max_unavailable.as_ref()), false).clamp(0, replicas);
    if surge == 0 && unavailable == 0 { (0, 1) } else { (surge, unavailable) }
}
