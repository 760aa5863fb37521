//! Rules of `metadata`, the same for all kinds.

use serde_json::Value;

use super::rule::{items, text};
use super::{Causes, Kind, names};

/// Most bytes of all annotations of an object together.
const MAX_ANNOTATIONS: usize = 256 << 10;

pub(super) fn validate(kind: &Kind, object: &Value, old: Option<&Value>, causes: &mut Causes) {
    let metadata = &object["metadata"];
    if !kind.stored {
        return;
    }
    let name = text(&metadata["name"]);
    if name.is_empty() {
        causes.required("metadata.name", "name or generateName is required");
    } else if old.is_none() {
        causes.invalid_each("metadata.name", name, (kind.rules.name)(name));
    }
    let namespace = text(&metadata["namespace"]);
    match (kind.namespaced, namespace) {
        (true, "") => causes.required("metadata.namespace", ""),
        (true, _) => causes.invalid_each("metadata.namespace", namespace, names::dns_label(namespace)),
        (false, "") => {}
        (false, _) => causes.forbidden("metadata.namespace", "not allowed on this type"),
    }
    labels(&metadata["labels"], "metadata.labels", causes);
    annotations(&metadata["annotations"], "metadata.annotations", causes);
    finalizers(&metadata["finalizers"], causes);
    owners(&metadata["ownerReferences"], causes);
    if let Some(old) = old {
        for field in ["name", "namespace", "uid", "creationTimestamp"] {
            causes.immutable(format!("metadata.{field}"), &metadata[field], &old["metadata"][field]);
        }
    }
}

/// Names and values of labels.
pub(super) fn labels(labels: &Value, field: &str, causes: &mut Causes) {
    for (key, value) in labels.as_object().into_iter().flatten() {
        causes.invalid_each(field, key, names::qualified_name(key));
        causes.invalid_each(field, text(value), names::label_value(text(value)));
    }
}

/// Names of annotations, and their size.
pub(super) fn annotations(annotations: &Value, field: &str, causes: &mut Causes) {
    let mut size = 0;
    for (key, value) in annotations.as_object().into_iter().flatten() {
        causes.invalid_each(field, key, names::qualified_name(&key.to_ascii_lowercase()));
        size += key.len() + text(value).len();
    }
    if size > MAX_ANNOTATIONS {
        causes.too_long(field, MAX_ANNOTATIONS);
    }
}

fn finalizers(finalizers: &Value, causes: &mut Causes) {
    for (index, finalizer) in items(finalizers).iter().enumerate() {
        let finalizer = text(finalizer);
        causes.invalid_each(format!("metadata.finalizers[{index}]"), finalizer, names::qualified_name(finalizer));
    }
}

fn owners(owners: &Value, causes: &mut Causes) {
    let mut controllers = 0;
    for (index, owner) in items(owners).iter().enumerate() {
        for field in ["apiVersion", "kind", "name", "uid"] {
            if text(&owner[field]).is_empty() {
                causes.required(format!("metadata.ownerReferences[{index}].{field}"), "must not be empty");
            }
        }
        controllers += usize::from(owner["controller"] == true);
    }
    if controllers > 1 {
        let why = "Only one reference can have Controller set to true";
        causes.invalid("metadata.ownerReferences", owners.clone(), why);
    }
}
