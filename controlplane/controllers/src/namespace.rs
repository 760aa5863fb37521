//! Namespace deletion: what is in a namespace goes first, the namespace last.

use k8s_openapi::jiff::Timestamp;

use crate::object::{Action, Key};
use crate::view::View;

/// Most objects that one look deletes.
const BURST: usize = 500;

/// Empties a namespace that is being deleted, and then lets it go.
pub fn reconcile(view: &View, key: &Key, _: Timestamp) -> Vec<Action> {
    let Some(namespace) = view.namespaces.get("", &key.name) else { return Vec::new() };
    let finalizers = namespace.spec.as_ref().and_then(|spec| spec.finalizers.as_deref()).unwrap_or_default();
    if namespace.metadata.deletion_timestamp.is_none() || finalizers.is_empty() {
        return Vec::new();
    }
    let contents = view.contents(&key.name);
    if contents.is_empty() {
        return vec![Action::Finalize(namespace.clone())];
    }
    let objects = contents.iter().filter_map(|key| view.get(key));
    let standing = objects.filter(|object| object.metadata().deletion_timestamp.is_none());
    standing.take(BURST).map(|object| Action::Delete(object.target())).collect()
}
