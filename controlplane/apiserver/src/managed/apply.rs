//! Server-side apply: a configuration says what its manager wants, and only that.

use serde_json::{Map, Value};

use super::compare::{compare, fields_of};
use super::entries::{self, Entry, Writer};
use super::merge::{merge, prune};
use super::set::Set;
use super::{Write, hand_over, put, strip, take};

/// The manager of everything that was there before anybody applied.
const BEFORE_FIRST: &str = "before-first-apply";

/// kubectl's own manager, which takes over what kubectl wrote before it applied on the server.
const KUBECTL: &str = "kubectl";
const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";

/// What is applied.
pub(crate) struct Configuration<'a> {
    pub object: &'a Value,
    pub write: Write<'a>,
    /// Fields of others are taken over.
    pub force: bool,
}

/// Why a configuration is not applied.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// Other managers own what it would change: each with the paths of its fields.
    Conflicts(Vec<(String, Vec<String>)>),
    /// It is none.
    Unclear(String),
}

/// The object that `configuration` makes of `live`, with its managers. Where it changes nothing, the result is `live`.
pub(crate) fn apply(live: Option<&Value>, configuration: &Configuration<'_>) -> Result<Value, Refusal> {
    let Configuration { object: config, write, .. } = configuration;
    let Write { shape, writer, scope, now } = *write;
    let mut set = fields_of(config, shape, &mut String::new()).map_err(Refusal::Unclear)?;
    scope.confine(&mut set);
    let mut old = live.cloned().unwrap_or_else(|| Value::Object(Map::new()));
    let at_rest = take(&mut old).unwrap_or(Value::Null);
    let mut entries = entries::at_rest(&at_rest);
    if entries.is_empty() && live.is_some() {
        entries.push(first_owner(&old, write));
    }
    let last = match entries::position(&entries, writer) {
        Some(at) => std::mem::take(entries[at].set()),
        None => Set::default(),
    };
    let mut new = old.clone();
    merge(&mut new, config, shape);
    let mut owned = set.clone();
    entries.iter_mut().for_each(|entry| owned.add(entry.set()));
    prune(&mut new, &last, &owned, shape);
    let mut changes = compare(Some(&old), Some(&new), shape);
    // The rest of the configuration is not written.
    scope.confine(&mut changes.changed);
    scope.confine(&mut changes.removed);
    if !configuration.force {
        refuse_conflicts(&mut entries, &changes.changed, allowed(&old, configuration))?;
    }
    hand_over(&mut entries, &changes);
    strip(&mut set);
    let own = entries::of(&mut entries, writer);
    *own.set() = set;
    own.writer.api_version = writer.api_version.clone();
    if old != new {
        own.time = Some(now.to_owned());
    }
    note_last_applied(&mut new, configuration);
    put(&mut new, entries, &at_rest);
    Ok(new)
}

/// What was there before the first configuration belongs to somebody, too.
fn first_owner(old: &Value, write: &Write<'_>) -> Entry {
    let nothing = Value::Object(Map::new());
    let mut set = compare(Some(&nothing), Some(old), write.shape).changed;
    strip(&mut set);
    write.scope.confine(&mut set);
    let writer = Writer {
        manager: BEFORE_FIRST.into(),
        applies: false,
        subresource: String::new(),
        api_version: write.writer.api_version.clone(),
    };
    Entry::new(writer, Some(write.now.to_owned()), set)
}

fn refuse_conflicts(entries: &mut [Entry], changed: &Set, allowed: Set) -> Result<(), Refusal> {
    let mut conflicts = Vec::new();
    for entry in entries.iter_mut().filter(|entry| entry.meets(changed)) {
        let mut lost = entry.set().intersection(changed);
        lost.subtract(&allowed);
        if !lost.is_empty() {
            conflicts.push((entry.writer.described(entry.time.as_deref()), lost.paths()));
        }
    }
    if conflicts.is_empty() {
        return Ok(());
    }
    conflicts.sort();
    Err(Refusal::Conflicts(conflicts))
}

/// What kubectl applied on the client's side, and is still so, it may apply on the server's without a conflict.
fn allowed(old: &Value, configuration: &Configuration<'_>) -> Set {
    let text = old["metadata"]["annotations"][LAST_APPLIED].as_str().unwrap_or_default();
    if configuration.write.writer.manager != KUBECTL || text.is_empty() {
        return Set::default();
    }
    let Ok(last) = serde_json::from_str::<Value>(text) else { return Set::default() };
    if last["apiVersion"] != configuration.object["apiVersion"] {
        return Set::default();
    }
    let mut set = fields_of(&last, configuration.write.shape, &mut String::new()).unwrap_or_default();
    let changes = compare(Some(&last), Some(old), configuration.write.shape);
    set.subtract(&changes.changed);
    set.subtract(&changes.removed);
    set
}

/// kubectl's note of what it applied on the client's side stays true as long as there is one.
fn note_last_applied(new: &mut Value, configuration: &Configuration<'_>) {
    let note = &new["metadata"]["annotations"][LAST_APPLIED];
    if configuration.write.writer.manager != KUBECTL || note.as_str().is_none_or(str::is_empty) {
        return;
    }
    let mut applied = configuration.object.clone();
    if let Some(annotations) = applied["metadata"].get_mut("annotations").and_then(Value::as_object_mut) {
        annotations.shift_remove(LAST_APPLIED);
    }
    new["metadata"]["annotations"][LAST_APPLIED] = format!("{applied}\n").into();
}
