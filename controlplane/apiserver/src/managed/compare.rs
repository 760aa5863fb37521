//! Which fields two states of an object differ in, and which fields an object has.

use serde_json::{Map, Value};

use super::element::{Item, items};
use super::set::{self, Set};
use crate::schema::{Elements, Shape};

/// What became of the fields of an object.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Changes {
    /// New, or of another value.
    pub changed: Set,
    pub removed: Set,
}

impl Changes {
    pub(super) fn is_empty(&self) -> bool {
        self.changed.is_empty() && self.removed.is_empty()
    }

    fn put(&mut self, element: String, below: Changes) {
        if below.is_empty() {
            return;
        }
        if !below.removed.is_empty() {
            self.removed.put(element.clone(), below.removed);
        }
        self.changed.put(element, below.changed);
    }

    /// A place that is one value.
    fn leaf(old: Option<&Value>, new: Option<&Value>) -> Changes {
        let mut changes = Changes::default();
        match (old, new) {
            (Some(old), Some(new)) => changes.changed.member = old != new,
            (None, Some(_)) => changes.changed.member = true,
            (Some(_), None) => changes.removed.member = true,
            (None, None) => {}
        }
        changes
    }
}

/// Compares two states of one place.
pub(super) fn compare(old: Option<&Value>, new: Option<&Value>, shape: Shape<'_>) -> Changes {
    match (old, new) {
        (Some(Value::Object(old)), Some(Value::Object(new))) => maps(Some(old), Some(new), shape),
        (None, Some(Value::Object(new))) => maps(None, Some(new), shape),
        (Some(Value::Object(old)), None) => maps(Some(old), None, shape),
        (Some(Value::Array(old)), Some(Value::Array(new))) => lists(Some(old), Some(new), shape),
        (None, Some(Value::Array(new))) => lists(None, Some(new), shape),
        (Some(Value::Array(old)), None) => lists(Some(old), None, shape),
        // Another type of value: what was there goes, what comes is new.
        (Some(old @ (Value::Object(_) | Value::Array(_))), Some(new))
        | (Some(old), Some(new @ (Value::Object(_) | Value::Array(_)))) => {
            let mut changes = compare(None, Some(new), shape);
            changes.removed = compare(Some(old), None, shape).removed;
            changes.changed.member = true;
            changes.removed.member = false;
            changes
        }
        _ => Changes::leaf(old, new),
    }
}

fn maps(old: Option<&Map<String, Value>>, new: Option<&Map<String, Value>>, shape: Shape<'_>) -> Changes {
    let mut changes = Changes::default();
    let empty = |map: Option<&Map<String, Value>>| map.is_none_or(Map::is_empty);
    if shape.is_atomic_map() || (empty(old) && empty(new)) {
        match (old, new) {
            (Some(old), Some(new)) => changes.changed.member = old != new,
            _ => (changes.changed.member, changes.removed.member) = (old.is_none(), new.is_none()),
        }
        return changes;
    }
    (changes.changed.member, changes.removed.member) = (old.is_none(), new.is_none());
    let none = Map::new();
    let both_there = old.is_some() && new.is_some();
    let (old, new) = (old.unwrap_or(&none), new.unwrap_or(&none));
    let gone = old.iter().filter(|(name, _)| !new.contains_key(*name)).map(|(name, value)| (name, Some(value), None));
    let there = new.iter().map(|(name, value)| (name, old.get(name), Some(value)));
    for (name, before, after) in gone.chain(there) {
        let (mut before, mut after) = (before, after);
        let nothing = match before.or(after) {
            Some(Value::Array(_)) => Value::Array(Vec::new()),
            _ => Value::Object(Map::new()),
        };
        if both_there && shape.always_has(name) {
            before = before.or(Some(&nothing));
            after = after.or(Some(&nothing));
        }
        changes.put(set::field(name), compare(before, after, shape.field(name)));
    }
    changes
}

fn lists(old: Option<&Vec<Value>>, new: Option<&Vec<Value>>, shape: Shape<'_>) -> Changes {
    let mut changes = Changes::default();
    let empty = |list: Option<&Vec<Value>>| list.is_none_or(Vec::is_empty);
    let whole = shape.elements() == Elements::One || (empty(old) && empty(new));
    let keyed = || Some((items(old, shape).ok()?, items(new, shape).ok()?));
    let Some((before, after)) = (if whole { None } else { keyed() }) else {
        match (old, new) {
            (Some(old), Some(new)) => changes.changed.member = old != new,
            _ => (changes.changed.member, changes.removed.member) = (old.is_none(), new.is_none()),
        }
        return changes;
    };
    (changes.changed.member, changes.removed.member) = (old.is_none(), new.is_none());
    for (element, own) in &before {
        if !after.contains_key(element) {
            changes.put(element.clone(), element_changes(Some(own), None, shape));
        }
    }
    for (element, own) in &after {
        changes.put(element.clone(), element_changes(before.get(element), Some(own), shape));
    }
    changes
}

/// Elements under one key, which objects of old times may have several of: those are one value.
fn element_changes(old: Option<&Item<'_>>, new: Option<&Item<'_>>, shape: Shape<'_>) -> Changes {
    let single = |item: Option<&Item<'_>>| item.is_none_or(|item| item.len() == 1);
    if single(old) && single(new) {
        return compare(old.map(|item| item[0]), new.map(|item| item[0]), shape.element());
    }
    let mut changes = Changes::default();
    match (old, new) {
        (Some(old), Some(new)) => changes.changed.member = old != new,
        _ => (changes.changed.member, changes.removed.member) = (old.is_none(), new.is_none()),
    }
    changes
}

/// All fields that an applied configuration speaks of. Fails for lists whose elements cannot be told apart.
pub(super) fn fields_of(value: &Value, shape: Shape<'_>, path: &mut String) -> Result<Set, String> {
    let mut own = Set::default();
    match value {
        Value::Object(map) if !map.is_empty() && !shape.is_atomic_map() => {
            for (name, value) in map {
                let length = path.len();
                path.push('.');
                path.push_str(name);
                own.put(set::field(name), fields_of(value, shape.field(name), path)?);
                path.truncate(length);
            }
        }
        Value::Array(list) if shape.elements() != Elements::One => {
            for (element, values) in items(Some(list), shape).map_err(|why| format!("{path}: {why}"))? {
                if values.len() > 1 {
                    return Err(format!("{path}: duplicate entries for key {}", Set::name(&element)));
                }
                let mut below = fields_of(values[0], shape.element(), path)?;
                below.member = true;
                own.put(element, below);
            }
        }
        _ => own.member = true,
    }
    Ok(own)
}
