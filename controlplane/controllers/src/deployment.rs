//! Deployment: one ReplicaSet for its present template, and the way there from those before.

mod rollout;
mod status;

use std::collections::BTreeMap;
use std::sync::Arc;

use diolkos_api::selector::LabelSelector;
use k8s_openapi::api::apps::v1::{Deployment, DeploymentSpec, ReplicaSet, ReplicaSetSpec};
use k8s_openapi::api::core::v1::PodTemplateSpec;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use k8s_openapi::jiff::Timestamp;

use crate::object::{Action, Key, Object};
use crate::view::{View, controller};

pub use status::look_again;

/// The label that tells the pods of one template from those of another.
const HASH_LABEL: &str = "pod-template-hash";
/// Counts the templates of a Deployment; `kubectl rollout history` lists them.
const REVISION: &str = "deployment.kubernetes.io/revision";

/// Makes the ReplicaSet of the present template, moves the replicas to it as the strategy allows, forgets the oldest
/// ones and says how far it is.
pub fn reconcile(view: &View, key: &Key, now: Timestamp) -> Vec<Action> {
    let Some(deployment) = view.deployments.get(&key.namespace, &key.name) else { return Vec::new() };
    let Some(spec) = &deployment.spec else { return Vec::new() };
    if deployment.metadata.deletion_timestamp.is_some() {
        return Vec::new();
    }
    let mut actions = adoptions(view, deployment, spec);
    let sets = own_sets(view, deployment);
    let (new, old): (Vec<_>, Vec<_>) = sets.iter().cloned().partition(|set| has_template(set, &spec.template));
    // Two of the same template can only come from outside; the older one counts.
    let (new, doubles) = match new.split_first() {
        Some((first, rest)) => (Some(first.clone()), rest.to_vec()),
        None => (None, Vec::new()),
    };
    let old: Vec<Arc<ReplicaSet>> = old.into_iter().chain(doubles).collect();
    let last = old.iter().map(|set| revision_of(&set.metadata)).max().unwrap_or(0);
    // A template that was there before becomes the newest again.
    let revision = new.as_ref().map_or(0, |set| revision_of(&set.metadata)).max(last + 1);
    let paused = spec.paused == Some(true);
    let mut rollout = rollout::Rollout::new(view, spec, new, old);
    if rollout.new.is_none() && !paused && rollout.may_begin() {
        let set = new_set(deployment, spec, revision);
        if let Some(taken) = view.replica_sets.get(&key.namespace, set.metadata.name.as_deref().unwrap_or_default()) {
            return collide(deployment, taken);
        }
        rollout.begin(set);
    }
    rollout.advance(paused);
    rollout.number(revision);
    actions.extend(rollout.actions());
    actions.extend(number_deployment(deployment, &rollout, revision));
    actions.extend(status::update(view, deployment, &rollout, now));
    actions.extend(rollout.forget(deployment, view));
    actions
}

/// The controller's ReplicaSets, oldest first.
fn own_sets(view: &View, deployment: &Deployment) -> Vec<Arc<ReplicaSet>> {
    let uid = deployment.metadata.uid.as_deref().unwrap_or_default();
    let controlled = |set: &&Arc<ReplicaSet>| controller(&set.metadata).is_some_and(|owner| owner.uid == uid);
    let mut sets: Vec<_> = view.replica_sets.owned_by(uid).filter(controlled).cloned().collect();
    sets.sort_by_key(|set| (set.metadata.creation_timestamp.as_ref().map(|time| time.0), set.metadata.name.clone()));
    sets
}

/// ReplicaSets without a controller that the selector matches become ours, one look before they count.
fn adoptions(view: &View, deployment: &Deployment, spec: &DeploymentSpec) -> Vec<Action> {
    let Ok(selector) = LabelSelector::from_meta(&spec.selector) else { return Vec::new() };
    let namespace = deployment.metadata.namespace.as_deref().unwrap_or_default();
    let orphan = |set: &&Arc<ReplicaSet>| {
        let labels = set.metadata.labels.clone().unwrap_or_default();
        let free = controller(&set.metadata).is_none() && set.metadata.deletion_timestamp.is_none();
        free && !selector.is_empty() && selector.matches(&labels)
    };
    let adopt = |set: &Arc<ReplicaSet>| {
        let mut set = ReplicaSet::clone(set);
        set.metadata.owner_references.get_or_insert_default().push(owner(deployment));
        Action::Update(Object::ReplicaSet(Arc::new(set)))
    };
    view.replica_sets.of(namespace).filter(orphan).map(adopt).collect()
}

fn owner(deployment: &Deployment) -> OwnerReference {
    OwnerReference {
        api_version: "apps/v1".into(),
        kind: "Deployment".into(),
        name: deployment.metadata.name.clone().unwrap_or_default(),
        uid: deployment.metadata.uid.clone().unwrap_or_default(),
        controller: Some(true),
        block_owner_deletion: Some(true),
    }
}

/// Whether a ReplicaSet was made for this template.
fn has_template(set: &ReplicaSet, template: &PodTemplateSpec) -> bool {
    let Some(own) = set.spec.as_ref().and_then(|spec| spec.template.as_ref()) else { return false };
    let mut own = own.clone();
    if let Some(labels) = own.metadata.as_mut().and_then(|metadata| metadata.labels.as_mut()) {
        labels.remove(HASH_LABEL);
    }
    let bare = |template: &PodTemplateSpec| {
        let metadata = template.metadata.clone().unwrap_or_default();
        (metadata.labels.unwrap_or_default(), metadata.annotations.unwrap_or_default(), template.spec.clone())
    };
    bare(&own) == bare(template)
}

fn new_set(deployment: &Deployment, spec: &DeploymentSpec, revision: i64) -> ReplicaSet {
    let collisions = deployment.status.as_ref().and_then(|status| status.collision_count).unwrap_or(0);
    let hash = template_hash(&spec.template, collisions);
    let mut template = spec.template.clone();
    let metadata = template.metadata.get_or_insert_default();
    let labels = metadata.labels.get_or_insert_default();
    labels.insert(HASH_LABEL.into(), hash.clone());
    let labels = labels.clone();
    let mut selector = spec.selector.clone();
    selector.match_labels.get_or_insert_default().insert(HASH_LABEL.into(), hash.clone());
    ReplicaSet {
        metadata: ObjectMeta {
            name: Some(format!("{}-{hash}", deployment.metadata.name.as_deref().unwrap_or_default())),
            namespace: deployment.metadata.namespace.clone(),
            labels: Some(labels),
            annotations: Some(BTreeMap::from([(REVISION.into(), revision.to_string())])),
            owner_references: Some(vec![owner(deployment)]),
            ..Default::default()
        },
        spec: Some(ReplicaSetSpec {
            replicas: Some(0),
            min_ready_seconds: spec.min_ready_seconds,
            selector,
            template: Some(template),
        }),
        status: None,
    }
}

/// FNV-1a of the template, in letters that make no words and are legal everywhere in a name.
fn template_hash(template: &PodTemplateSpec, collisions: i32) -> String {
    const ALPHABET: &[u8; 27] = b"bcdfghjklmnpqrstvwxz2456789";
    let text = serde_json::to_string(template).unwrap_or_default();
    let mut hash: u64 = 0xcbf2_9ce4_8422_2325;
    for byte in text.bytes().chain(collisions.to_le_bytes()) {
        hash = (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
    }
    let mut letters = String::with_capacity(10);
    for _ in 0..10 {
        letters.push(char::from(ALPHABET[usize::try_from(hash % 27).unwrap_or(0)]));
        hash /= 27;
    }
    letters
}

/// The name for the template is taken by another's ReplicaSet: the next hash is tried.
fn collide(deployment: &Deployment, taken: &ReplicaSet) -> Vec<Action> {
    let mut deployment = deployment.clone();
    let own = |owner: &OwnerReference| Some(&owner.uid) == deployment.metadata.uid.as_ref();
    if controller(&taken.metadata).is_some_and(own) && taken.metadata.deletion_timestamp.is_some() {
        // Our own of the same template is on its way out; its name is free soon.
        return Vec::new();
    }
    let status = deployment.status.get_or_insert_default();
    status.collision_count = Some(status.collision_count.unwrap_or(0) + 1);
    vec![Action::UpdateStatus(Object::Deployment(Arc::new(deployment)))]
}

fn revision_of(metadata: &ObjectMeta) -> i64 {
    let annotation = metadata.annotations.as_ref().and_then(|annotations| annotations.get(REVISION));
    annotation.and_then(|revision| revision.parse().ok()).unwrap_or(0)
}

fn number_deployment(deployment: &Deployment, rollout: &rollout::Rollout, revision: i64) -> Option<Action> {
    if rollout.new.is_none() || revision_of(&deployment.metadata) == revision {
        return None;
    }
    let mut deployment = deployment.clone();
    deployment.metadata.annotations.get_or_insert_default().insert(REVISION.into(), revision.to_string());
    Some(Action::Update(Object::Deployment(Arc::new(deployment))))
}
