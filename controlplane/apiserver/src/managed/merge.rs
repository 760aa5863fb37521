//! What an applied configuration makes of an object: its fields are set, and those it gave up go.

use serde_json::{Map, Value};

use super::element::{items, name};
use super::set::{self, Set};
use crate::schema::{Elements, Shape};

/// Puts `config` over `live`.
pub(super) fn merge(live: &mut Value, config: &Value, shape: Shape<'_>) {
    match (live, config) {
        (Value::Object(live), Value::Object(config)) if !shape.is_atomic_map() => {
            for (name, value) in config {
                match live.get_mut(name) {
                    Some(own) => merge(own, value, shape.field(name)),
                    None => drop(live.insert(name.clone(), value.clone())),
                }
            }
        }
        (Value::Array(live), Value::Array(config)) if shape.elements() != Elements::One => {
            merge_lists(live, config, shape);
        }
        (live, config) => *live = config.clone(),
    }
}

/// The configuration's elements come in its order; others stay before those that they preceded.
fn merge_lists(live: &mut Vec<Value>, config: &[Value], shape: Shape<'_>) {
    let elements = shape.elements();
    let key = |value: &Value| name(value, &elements, shape).unwrap_or_default();
    let wanted: Vec<String> = config.iter().map(key).collect();
    let mut ranks = std::collections::HashMap::new();
    for (rank, name) in wanted.iter().enumerate() {
        ranks.insert(name.as_str(), rank);
    }
    let mut merged = Vec::with_capacity(live.len() + config.len());
    let mut emitted = 0;
    let old = std::mem::take(live);
    let mut own: Vec<Option<Value>> = vec![None; config.len()];
    let mut order = Vec::new();
    for value in old {
        match ranks.get(key(&value).as_str()) {
            Some(rank) => {
                own[*rank] = Some(value);
                order.push(Err(*rank));
            }
            None => order.push(Ok(value)),
        }
    }
    let mut emit = |until: usize, merged: &mut Vec<Value>| {
        while emitted < until {
            let mut value = own[emitted].take().unwrap_or(Value::Null);
            merge(&mut value, &config[emitted], shape.element());
            merged.push(value);
            emitted += 1;
        }
    };
    for next in order {
        match next {
            Ok(value) => merged.push(value),
            Err(rank) => emit(rank + 1, &mut merged),
        }
    }
    emit(config.len(), &mut merged);
    *live = merged;
}

/// Takes out what was applied the last time and nobody, not even the present configuration, owns.
pub(super) fn prune(value: &mut Value, last: &Set, owned: &Set, shape: Shape<'_>) {
    match value {
        Value::Object(map) => prune_map(map, last, owned, shape),
        Value::Array(list) if shape.elements() != Elements::One => prune_list(list, last, owned, shape),
        _ => {}
    }
}

fn prune_map(map: &mut Map<String, Value>, last: &Set, owned: &Set, shape: Shape<'_>) {
    let nothing = Set::default();
    map.retain(|name, value| {
        let element = set::field(name);
        let Some(was) = last.children.get(&element) else { return true };
        let is = owned.children.get(&element).unwrap_or(&nothing);
        // A field that holds others is there as long as one of them has an owner.
        if is.is_empty() {
            return false;
        }
        prune(value, was, is, shape.field(name));
        true
    });
}

fn prune_list(list: &mut Vec<Value>, last: &Set, owned: &Set, shape: Shape<'_>) {
    let nothing = Set::default();
    let elements = shape.elements();
    if items(Some(list), shape).is_err() {
        return;
    }
    list.retain_mut(|value| {
        let Ok(element) = name(value, &elements, shape) else { return true };
        let Some(was) = last.children.get(&element) else { return true };
        let is = owned.children.get(&element).unwrap_or(&nothing);
        if was.member && !is.member {
            return false;
        }
        prune(value, was, is, shape.element());
        true
    });
}
