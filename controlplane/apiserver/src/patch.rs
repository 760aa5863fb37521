//! The kinds of patches: JSON patch (RFC 6902), merge patch (RFC 7386) and Kubernetes' strategic merge patch. All edit
//! the object in place and keep the order of its keys.

mod json;
mod strategic;

use diolkos_api::kind::Kind;
use diolkos_api::status::{Failure, StatusCause};
use diolkos_api::wire::patch_request::Type;
use serde_json::{Map, Value};

use crate::schema;

/// Operations of one JSON patch, as in Kubernetes.
const MAX_OPERATIONS: usize = 10_000;

/// How deeply an object may nest: all readers of JSON take that, also where the object is an item of a list.
const MAX_DEPTH: usize = 120;

/// A parsed patch.
pub(crate) enum Patch {
    Json(json_patch::Patch),
    Merge(Value),
    StrategicMerge(Map<String, Value>),
}

impl Patch {
    pub(crate) fn parse(kind: Type, document: &[u8]) -> Result<Patch, Failure> {
        let unreadable = |cause: serde_json::Error| Failure::bad_request(format!("error decoding patch: {cause}"));
        match kind {
            Type::Json => {
                let patch: json_patch::Patch = serde_json::from_slice(document).map_err(unreadable)?;
                if patch.0.len() > MAX_OPERATIONS {
                    let count = patch.0.len();
                    return Err(Failure::bad_request(format!(
                        "the patch has {count} operations; at most {MAX_OPERATIONS} are taken"
                    )));
                }
                Ok(Patch::Json(patch))
            }
            Type::Merge => match serde_json::from_slice(document).map_err(unreadable)? {
                patch @ Value::Object(_) => Ok(Patch::Merge(patch)),
                _ => Err(Failure::bad_request("error decoding patch: a merge patch of an object is an object")),
            },
            Type::StrategicMerge => Ok(Patch::StrategicMerge(serde_json::from_slice(document).map_err(unreadable)?)),
            // A configuration that is applied is no edit of the object: see `managed`.
            Type::Apply | Type::Unspecified => Err(Failure::bad_request("the type of the patch is missing")),
        }
    }

    /// Changes `object`, which is of `kind`. After an error of a merge it is half changed: callers give a copy.
    pub(crate) fn apply(&self, kind: &Kind, name: &str, object: &mut Value) -> Result<(), Failure> {
        match self {
            Patch::Json(patch) => json::apply(object, patch).map_err(|cause| {
                let cause = StatusCause {
                    field: Some("patch".into()),
                    message: Some(cause),
                    reason: Some("FieldValueInvalid".into()),
                };
                Failure::invalid(kind, name, vec![cause])
            })?,
            Patch::Merge(patch) => merge(object, patch),
            Patch::StrategicMerge(patch) => {
                let root = schema::root(&kind.group, &kind.version, &kind.kind);
                strategic::merge_object(object, patch, &root).map_err(|cause| {
                    Failure::bad_request(format!("cannot apply the strategic merge patch: {cause}"))
                })?;
            }
        }
        check_depth(object)?;
        if object.is_object() { Ok(()) } else { Err(Failure::bad_request("the patch leaves no object")) }
    }
}

/// 400 for an object that nests more deeply than it could be read again.
pub(crate) fn check_depth(object: &Value) -> Result<(), Failure> {
    if measure(object).depth <= MAX_DEPTH {
        return Ok(());
    }
    Err(Failure::bad_request(format!("the object nests more than {MAX_DEPTH} levels deep: make it flatter")))
}

/// The extent of a value.
struct Measure {
    depth: usize,
    /// About as many as its JSON has.
    bytes: usize,
}

/// Without recursion: what is measured may be deeper than the stack.
fn measure(value: &Value) -> Measure {
    let mut measure = Measure { depth: 0, bytes: 0 };
    let mut left = vec![(value, 1)];
    while let Some((value, depth)) = left.pop() {
        measure.depth = measure.depth.max(depth);
        measure.bytes += 8;
        match value {
            Value::String(text) => measure.bytes += text.len(),
            Value::Array(items) => left.extend(items.iter().map(|item| (item, depth + 1))),
            Value::Object(fields) => {
                measure.bytes += fields.keys().map(String::len).sum::<usize>();
                left.extend(fields.values().map(|value| (value, depth + 1)));
            }
            _ => {}
        }
    }
    measure
}

/// RFC 7386, but that keys keep their places.
fn merge(target: &mut Value, patch: &Value) {
    let Value::Object(patch) = patch else {
        *target = patch.clone();
        return;
    };
    if !target.is_object() {
        *target = Value::Object(Map::new());
    }
    let Value::Object(target) = target else { return };
    for (key, value) in patch {
        if value.is_null() {
            target.shift_remove(key);
        } else {
            merge(target.entry(key.clone()).or_insert(Value::Null), value);
        }
    }
}

#[cfg(test)]
#[path = "patch/tests.rs"]
mod tests;

#[cfg(test)]
mod model;
