//! Who owns which fields of an object: `metadata.managedFields`, kept by every write, and server-side apply, which rests
//! on it. All is values in, values out.

mod apply;
mod compare;
mod element;
mod entries;
mod merge;
mod set;

use serde_json::{Map, Value};

use crate::schema::Shape;
use compare::{Changes, compare};
use entries::Entry;
use set::Set;

pub(crate) use apply::{Configuration, Refusal, apply};
pub(crate) use entries::Writer;

/// Fields that nobody owns: they say which object it is, or only the server writes them.
const NOBODYS: [&[&str]; 11] = [
    &["f:apiVersion"],
    &["f:kind"],
    &["f:metadata", "f:name"],
    &["f:metadata", "f:namespace"],
    &["f:metadata", "f:creationTimestamp"],
    &["f:metadata", "f:selfLink"],
    &["f:metadata", "f:uid"],
    &["f:metadata", "f:clusterName"],
    &["f:metadata", "f:generation"],
    &["f:metadata", "f:managedFields"],
    &["f:metadata", "f:resourceVersion"],
];

/// The part of an object that a write may own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Scope {
    Whole,
    /// The object of a kind whose status is written by itself.
    AllButStatus,
    Status,
}

impl Scope {
    fn confine(self, set: &mut Set) {
        set.children.retain(|field, _| match self {
            Scope::Whole => true,
            Scope::AllButStatus => field != "f:status",
            Scope::Status => matches!(field.as_str(), "f:status" | "f:metadata"),
        });
    }
}

/// Whose write it is, of what, and when.
pub(crate) struct Write<'a> {
    pub writer: &'a Writer,
    pub shape: Shape<'a>,
    pub scope: Scope,
    pub now: &'a str,
}

/// Notes in `new` what `write` changed of `old`; nothing for a new object.
pub(crate) fn track(old: Option<&Value>, new: &mut Value, write: &Write<'_>) {
    let given = take(new);
    let live = old.map_or(&Value::Null, |old| &old["metadata"]["managedFields"]);
    let Some(mut entries) = before(given, live, write.writer) else { return };
    if entries.is_empty() && old.is_some() {
        // Nobody ever cared, or somebody took all ownership away.
        return;
    }
    let nothing = Value::Object(Map::new());
    let mut changes = compare(Some(old.unwrap_or(&nothing)), Some(new), write.shape);
    for set in [&mut changes.changed, &mut changes.removed] {
        strip(set);
        write.scope.confine(set);
    }
    if !changes.is_empty() {
        hand_over(&mut entries, &changes);
        if !changes.changed.is_empty() {
            let own = entries::of(&mut entries, write.writer);
            own.set().add(&changes.changed);
            own.time = Some(write.now.to_owned());
        }
        entries::cap(&mut entries);
    }
    put(new, entries, live);
}

/// Takes over what is noted in `from` already.
pub(crate) fn carry(from: &Value, to: &mut Value) {
    take(to);
    if let Some(noted) = from["metadata"].get("managedFields") {
        to["metadata"]["managedFields"] = noted.clone();
    }
}

/// The entries to begin with: those that the client sent, if they can be read, or those that are there. None when all
/// are to go.
fn before(given: Option<Value>, live: &Value, writer: &Writer) -> Option<Vec<Entry>> {
    match given {
        // A part is no place to write them.
        Some(given) if writer.subresource.is_empty() && given != *live => {
            if entries::is_reset(&given) {
                return None;
            }
            match entries::sent(&given) {
                Ok(sent) if !sent.is_empty() => Some(sent),
                _ => Some(entries::at_rest(live)),
            }
        }
        _ => Some(entries::at_rest(live)),
    }
}

/// Takes from everybody what changed or went.
fn hand_over(entries: &mut [Entry], changes: &Changes) {
    for entry in entries {
        for lost in [&changes.changed, &changes.removed] {
            if entry.meets(lost) {
                entry.set().subtract(lost);
            }
        }
    }
}

fn strip(set: &mut Set) {
    NOBODYS.iter().for_each(|path| set.forget(path));
    if let Some(metadata) = set.children.get_mut("f:metadata") {
        metadata.member = false;
        if metadata.is_empty() {
            set.children.remove("f:metadata");
        }
    }
}

fn take(object: &mut Value) -> Option<Value> {
    object.get_mut("metadata")?.as_object_mut()?.shift_remove("managedFields")
}

/// Writes the entries, unless all that is new about them is their time.
fn put(object: &mut Value, entries: Vec<Entry>, live: &Value) {
    let Some(metadata) = object.get_mut("metadata").and_then(Value::as_object_mut) else { return };
    let list = entries::to_json(entries);
    if list.as_array().is_some_and(Vec::is_empty) {
        return;
    }
    let kept = if same_but_time(&list, live) { live.clone() } else { list };
    metadata.insert("managedFields".into(), kept);
}

fn same_but_time(a: &Value, b: &Value) -> bool {
    let timeless = |list: &Value| -> Option<Vec<Value>> {
        let mut list = list.as_array()?.clone();
        list.iter_mut().filter_map(Value::as_object_mut).for_each(|entry| drop(entry.shift_remove("time")));
        Some(list)
    };
    timeless(a).is_some_and(|a| Some(a) == timeless(b))
}

#[cfg(test)]
mod tests;
