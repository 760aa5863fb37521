//! ReplicaSet: as many pods of its template as it asks for.

use std::cmp::Reverse;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use diolkos_api::selector::LabelSelector;
use k8s_openapi::api::apps::v1::{ReplicaSet, ReplicaSetStatus};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use k8s_openapi::jiff::Timestamp;

use crate::object::{Action, Key, Object};
use crate::pod_state::{self, is_active, is_available, is_ready, node_name, phase};
use crate::view::{View, controller};

/// Most pods that one look creates or deletes.
const BURST: usize = 500;

/// Adopts, releases, creates and deletes pods, and counts them.
pub fn reconcile(view: &View, key: &Key, now: Timestamp) -> Vec<Action> {
    let Some(set) = view.replica_sets.get(&key.namespace, &key.name) else { return Vec::new() };
    let Some(spec) = &set.spec else { return Vec::new() };
    let Ok(selector) = LabelSelector::from_meta(&spec.selector) else { return Vec::new() };
    let mut actions = Vec::new();
    let deleting = set.metadata.deletion_timestamp.is_some();
    let mut pods = own_pods(view, set);
    if !deleting {
        // A pod that was relabelled is no longer ours, and another takes its place.
        let strays: Vec<Arc<Pod>> = pods.extract_if(.., |pod| is_stray(pod, &selector)).collect();
        actions.extend(strays.iter().map(|pod| Action::Update(Object::Pod(release(pod, set)))));
        let orphans = view.pods.of(&key.namespace).filter(|pod| is_orphan_of(pod, &selector));
        let adopted: Vec<Arc<Pod>> = orphans.map(|pod| adopt(pod, set)).collect();
        actions.extend(adopted.iter().cloned().map(|pod| Action::Update(Object::Pod(pod))));
        pods.extend(adopted);
    }
    let active: Vec<&Arc<Pod>> = pods.iter().filter(|pod| is_active(pod)).collect();
    let wanted = usize::try_from(spec.replicas.unwrap_or(1)).unwrap_or(0);
    if !deleting && active.len() < wanted {
        let missing = (wanted - active.len()).min(BURST);
        actions.extend((0..missing).map(|_| Action::Create(Object::Pod(Arc::new(new_pod(set))))));
    } else if !deleting && active.len() > wanted {
        let surplus = (active.len() - wanted).min(BURST);
        let victims = deletion_order(&active, now).into_iter().take(surplus);
        actions.extend(victims.map(|pod| Action::Delete(Object::Pod(pod.clone()).target())));
    }
    let status = status(set, &pods, now);
    if set.status.as_ref() != Some(&status) {
        let mut set = ReplicaSet::clone(set);
        set.status = Some(status);
        actions.push(Action::UpdateStatus(Object::ReplicaSet(Arc::new(set))));
    }
    actions
}

/// When a pod that is ready now will count as available.
pub fn look_again(view: &View, key: &Key, now: Timestamp) -> Option<Duration> {
    let set = view.replica_sets.get(&key.namespace, &key.name)?;
    let min_ready = i64::from(set.spec.as_ref()?.min_ready_seconds.unwrap_or(0));
    let waits = own_pods(view, set).into_iter().filter_map(|pod| {
        let left = pod_state::ready_since(&pod)?.as_second() + min_ready - now.as_second();
        u64::try_from(left).ok().filter(|left| *left > 0)
    });
    waits.min().map(Duration::from_secs)
}

fn own_pods(view: &View, set: &ReplicaSet) -> Vec<Arc<Pod>> {
    let uid = set.metadata.uid.as_deref().unwrap_or_default();
    let controlled = |pod: &&Arc<Pod>| controller(&pod.metadata).is_some_and(|owner| owner.uid == uid);
    view.pods.owned_by(uid).filter(controlled).cloned().collect()
}

fn is_orphan_of(pod: &Pod, selector: &LabelSelector) -> bool {
    controller(&pod.metadata).is_none() && is_active(pod) && matches(pod, selector)
}

fn is_stray(pod: &Pod, selector: &LabelSelector) -> bool {
    pod.metadata.deletion_timestamp.is_none() && !selector.is_empty() && !matches(pod, selector)
}

fn matches(pod: &Pod, selector: &LabelSelector) -> bool {
    !selector.is_empty() && selector.matches(pod.metadata.labels.as_ref().unwrap_or(&Default::default()))
}

fn adopt(pod: &Pod, set: &ReplicaSet) -> Arc<Pod> {
    let mut pod = pod.clone();
    pod.metadata.owner_references.get_or_insert_default().push(owner(set));
    Arc::new(pod)
}

fn release(pod: &Pod, set: &ReplicaSet) -> Arc<Pod> {
    let mut pod = pod.clone();
    if let Some(owners) = &mut pod.metadata.owner_references {
        owners.retain(|owner| Some(&owner.uid) != set.metadata.uid.as_ref());
    }
    Arc::new(pod)
}

fn owner(set: &ReplicaSet) -> OwnerReference {
    OwnerReference {
        api_version: "apps/v1".into(),
        kind: "ReplicaSet".into(),
        name: set.metadata.name.clone().unwrap_or_default(),
        uid: set.metadata.uid.clone().unwrap_or_default(),
        controller: Some(true),
        block_owner_deletion: Some(true),
    }
}

fn new_pod(set: &ReplicaSet) -> Pod {
    let template = set.spec.as_ref().and_then(|spec| spec.template.clone()).unwrap_or_default();
    let own = template.metadata.unwrap_or_default();
    let name = set.metadata.name.as_deref().unwrap_or_default();
    Pod {
        metadata: ObjectMeta {
            generate_name: Some(format!("{name}-")),
            namespace: set.metadata.namespace.clone(),
            labels: own.labels,
            annotations: own.annotations,
            finalizers: own.finalizers,
            owner_references: Some(vec![owner(set)]),
            ..Default::default()
        },
        spec: template.spec,
        status: None,
    }
}

/// The pods whose loss matters least come first: not placed, not running, not ready, cheap by their own word, crowded
/// on their node, ready for a short time, often restarted, young.
fn deletion_order<'a>(pods: &[&'a Arc<Pod>], now: Timestamp) -> Vec<&'a Arc<Pod>> {
    let mut on_node: HashMap<&str, usize> = HashMap::new();
    for pod in pods {
        *on_node.entry(node_name(pod)).or_default() += 1;
    }
    let mut ordered = pods.to_vec();
    ordered.sort_by_cached_key(|pod| {
        let placed = !node_name(pod).is_empty();
        let phase = match phase(pod) {
            "Pending" => 0,
            "Running" => 2,
            _ => 1,
        };
        let crowd = Reverse(on_node.get(node_name(pod)).copied().unwrap_or(0));
        let ready_for = pod_state::ready_since(pod).map_or(0, |since| now.as_second() - since.as_second());
        let created = pod.metadata.creation_timestamp.as_ref().map(|time| Reverse(time.0));
        let name = pod.metadata.name.clone();
        (placed, phase, is_ready(pod), deletion_cost(pod), crowd, ready_for, Reverse(restarts(pod)), created, name)
    });
    ordered
}

fn deletion_cost(pod: &Pod) -> i32 {
    let annotations = pod.metadata.annotations.as_ref();
    let cost = annotations.and_then(|annotations| annotations.get("controller.kubernetes.io/pod-deletion-cost"));
    cost.and_then(|cost| cost.parse().ok()).unwrap_or(0)
}

fn restarts(pod: &Pod) -> i32 {
    let statuses = pod.status.as_ref().and_then(|status| status.container_statuses.as_deref());
    statuses.unwrap_or_default().iter().map(|container| container.restart_count).max().unwrap_or(0)
}

fn status(set: &ReplicaSet, pods: &[Arc<Pod>], now: Timestamp) -> ReplicaSetStatus {
    let spec = set.spec.as_ref();
    let template = spec.and_then(|spec| spec.template.as_ref()).and_then(|template| template.metadata.as_ref());
    let labels = template.and_then(|metadata| metadata.labels.clone()).unwrap_or_default();
    let labels = LabelSelector::from_labels(&labels);
    let min_ready = spec.and_then(|spec| spec.min_ready_seconds).unwrap_or(0);
    let active: Vec<&Arc<Pod>> = pods.iter().filter(|pod| is_active(pod)).collect();
    let count = |condition: &dyn Fn(&Pod) -> bool| {
        i32::try_from(active.iter().filter(|pod| condition(pod)).count()).unwrap_or(i32::MAX)
    };
    let terminating =
        pods.iter().filter(|pod| pod.metadata.deletion_timestamp.is_some() && !pod_state::is_finished(pod)).count();
    let some = |count: i32| Some(count).filter(|count| *count > 0);
    ReplicaSetStatus {
        replicas: count(&|_| true),
        fully_labeled_replicas: some(count(&|pod| {
            labels.is_empty() || labels.matches(pod.metadata.labels.as_ref().unwrap_or(&Default::default()))
        })),
        ready_replicas: some(count(&is_ready)),
        available_replicas: some(count(&|pod| is_available(pod, min_ready, now))),
        terminating_replicas: i32::try_from(terminating).ok(),
        observed_generation: set.metadata.generation,
        conditions: set.status.as_ref().and_then(|status| status.conditions.clone()),
    }
}
