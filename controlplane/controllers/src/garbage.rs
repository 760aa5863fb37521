//! Garbage: what belongs to nobody any more. An object goes when all the owners it names are gone, a pod also when its
//! node is.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use k8s_openapi::jiff::Timestamp;

use crate::object::{Action, Key, KindName, Object, Target};
use crate::pod_state::node_name;
use crate::view::{View, owners};

/// Collects one object if it is garbage. The views of the kinds are not of one moment, so the server is asked again
/// before anything is deleted.
pub fn reconcile(view: &View, key: &Key, _: Timestamp) -> Vec<Action> {
    let Some(object) = view.get(key) else { return Vec::new() };
    if let Object::Pod(pod) = &object
        && !node_name(pod).is_empty()
        && view.nodes.get("", node_name(pod)).is_none()
    {
        let node = Target { key: Key::new(KindName::Node, "", node_name(pod)), uid: String::new(), at_once: false };
        return vec![Action::Collect { target: Target { at_once: true, ..object.target() }, unless: vec![node] }];
    }
    let owners = owners(object.metadata());
    if owners.is_empty() || object.metadata().deletion_timestamp.is_some() {
        return Vec::new();
    }
    let mut gone = Vec::new();
    for owner in owners {
        // Whether an owner of a kind that is not known here exists cannot be said.
        let Some(target) = target_of(owner, key) else { return Vec::new() };
        let present = view.get(&target.key);
        if present.is_some_and(|present| present.metadata().uid.as_ref() == Some(&owner.uid)) {
            return Vec::new();
        }
        gone.push(target);
    }
    vec![Action::Collect { target: object.target(), unless: gone }]
}

fn target_of(owner: &OwnerReference, dependent: &Key) -> Option<Target> {
    let kind = KindName::find(&owner.api_version, &owner.kind)?;
    let namespace = if kind.is_namespaced() { dependent.namespace.as_str() } else { "" };
    Some(Target { key: Key::new(kind, namespace, &owner.name), uid: owner.uid.clone(), at_once: false })
}
