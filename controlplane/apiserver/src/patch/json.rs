//! JSON patch, one operation after the other: a small document can copy itself into a huge or endlessly deep object.

use json_patch::{Patch, PatchOperation};
use serde_json::Value;

use super::{MAX_DEPTH, measure};

/// Bytes that the copies and moves of one patch may carry in all: the size of the largest request, as in Kubernetes.
const MAX_CARRIED: usize = 3 << 20;

/// Applies `patch`, or says which operation cannot be; nothing is changed then.
pub(super) fn apply(object: &mut Value, patch: &Patch) -> Result<(), String> {
    let mut patched = object.clone();
    apply_each(&mut patched, patch)?;
    *object = patched;
    Ok(())
}

fn apply_each(object: &mut Value, patch: &Patch) -> Result<(), String> {
    let mut carried = 0;
    for (index, operation) in patch.0.iter().enumerate() {
        let fails = |why: &str| format!("operation {index} ({}) {why}", operation.path());
        let added = match operation {
            PatchOperation::Add(add) => Some(measure(&add.value)),
            PatchOperation::Replace(replace) => Some(measure(&replace.value)),
            PatchOperation::Copy(copy) => object.pointer(copy.from.as_str()).map(measure),
            PatchOperation::Move(from) => object.pointer(from.from.as_str()).map(measure),
            PatchOperation::Remove(_) | PatchOperation::Test(_) => None,
        };
        if let Some(added) = added {
            if operation.path().tokens().count() + added.depth > MAX_DEPTH {
                return Err(fails(&format!("would nest more than {MAX_DEPTH} levels deep")));
            }
            if matches!(operation, PatchOperation::Copy(_) | PatchOperation::Move(_)) {
                carried += added.bytes;
            }
            if carried > MAX_CARRIED {
                return Err(fails(&format!("copies and moves more than {MAX_CARRIED} bytes, with those before it")));
            }
        }
        // Nothing is undone after a failure, so a move into itself has nothing to go wrong in.
        json_patch::patch_unsafe(object, std::slice::from_ref(operation)).map_err(|error| fails(&error.to_string()))?;
    }
    Ok(())
}
