//! The kinds of patches: JSON patch (RFC 6902), merge patch (RFC 7386) and Kubernetes' strategic merge patch. All edit
//! the object in place and keep the order of its keys.

mod schema;
mod strategic;

use diolkos_api::kind::Kind;
use diolkos_api::status::{Failure, StatusCause};
use diolkos_api::wire::patch_request::Type;
use serde_json::{Map, Value};

/// Operations of one JSON patch, as in Kubernetes.
const MAX_OPERATIONS: usize = 10_000;

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
            Type::Apply => Err(Failure::unimplemented(
                "server-side apply is not part of this server yet: use kubectl apply without --server-side",
            )),
            Type::Unspecified => Err(Failure::bad_request("the type of the patch is missing")),
        }
    }

    /// Changes `object`, which is of `kind`.
    pub(crate) fn apply(&self, kind: &Kind, name: &str, object: &mut Value) -> Result<(), Failure> {
        match self {
            Patch::Json(patch) => json_patch::patch(object, patch).map_err(|cause| {
                let cause = StatusCause {
                    field: Some("patch".into()),
                    message: Some(cause.to_string()),
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
        if object.is_object() { Ok(()) } else { Err(Failure::bad_request("the patch leaves no object")) }
    }
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
