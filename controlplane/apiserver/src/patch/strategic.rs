//! Strategic merge patch: objects merge, lists merge by key where the type says so, and directives in the patch delete,
//! replace and order.

use serde_json::{Map, Value};

use crate::schema::{self, ListMerge};

const DIRECTIVE: &str = "$patch";
const RETAIN_KEYS: &str = "$retainKeys";
const SET_ORDER: &str = "$setElementOrder/";
const DELETE_VALUES: &str = "$deleteFromPrimitiveList/";

/// Pairs of elements that are compared at most to merge two lists: every element of one meets every one of the other.
const MAX_PAIRS: usize = 4_000_000;

/// Why a patch makes no sense.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum PatchError {
    #[error("an element of {field} lacks its merge key {key}")]
    NoMergeKey { field: String, key: &'static str },
    #[error("{DIRECTIVE} of {field} is {value}; it may be \"merge\", \"replace\" or \"delete\"")]
    Directive { field: String, value: Value },
    #[error("{directive} is not a list")]
    NotAList { directive: String },
    #[error("lists of {own} and {other} elements at {field} are too long to be merged: send the whole object instead")]
    TooLong { field: String, own: usize, other: usize },
}

/// Merges `patch` into `target`, which is of type `kind` (a name of the schema's, "" for one without merging lists).
pub(super) fn merge_object(target: &mut Value, patch: &Map<String, Value>, kind: &str) -> Result<(), PatchError> {
    if !target.is_object() {
        *target = Value::Object(Map::new());
    }
    let Value::Object(object) = target else { return Ok(()) };
    match patch.get(DIRECTIVE) {
        None => {}
        Some(Value::String(word)) if word == "merge" => {}
        Some(Value::String(word)) if word == "replace" || word == "delete" => object.clear(),
        Some(value) => return Err(PatchError::Directive { field: kind.into(), value: value.clone() }),
    }
    if let Some(keys) = patch.get(RETAIN_KEYS) {
        let keys = list(keys, RETAIN_KEYS)?;
        object.retain(|name, _| keys.iter().any(|key| key.as_str() == Some(name)));
    }
    for (name, value) in patch.iter().filter(|(name, _)| !name.starts_with('$')) {
        merge_field(object, name, value, kind)?;
    }
    for (directive, values) in patch {
        if let Some(name) = directive.strip_prefix(DELETE_VALUES) {
            let values = list(values, directive)?;
            if let Some(Value::Array(items)) = object.get_mut(name) {
                check_pairs(items, values, name)?;
                items.retain(|item| !values.contains(item));
            }
        }
    }
    for (directive, order) in patch {
        if let Some(name) = directive.strip_prefix(SET_ORDER) {
            let order = list(order, directive)?;
            let merging = schema::field(kind, name).list;
            if let Some(Value::Array(items)) = object.get_mut(name) {
                check_pairs(items, order, name)?;
                check_pairs(items, items, name)?;
                let present = items.clone();
                arrange(items, order, &present, merging);
            }
        }
    }
    Ok(())
}

fn merge_field(object: &mut Map<String, Value>, name: &str, value: &Value, kind: &str) -> Result<(), PatchError> {
    let field = schema::field(kind, name);
    match value {
        Value::Null => {
            object.shift_remove(name);
        }
        Value::Object(patch) => {
            merge_object(object.entry(name).or_insert(Value::Null), patch, field.content)?;
        }
        Value::Array(patch) => {
            let target = object.entry(name).or_insert(Value::Null);
            if !target.is_array() {
                *target = Value::Array(Vec::new());
            }
            if let Value::Array(items) = target {
                merge_list(items, patch, name, &field)?;
            }
        }
        plain => {
            object.insert(name.to_owned(), plain.clone());
        }
    }
    Ok(())
}

fn merge_list(items: &mut Vec<Value>, patch: &[Value], name: &str, field: &schema::Field) -> Result<(), PatchError> {
    if field.list != ListMerge::Replace {
        let all = items.len() + patch.len();
        if all.saturating_mul(all) > MAX_PAIRS {
            return Err(PatchError::TooLong { field: name.into(), own: items.len(), other: patch.len() });
        }
    }
    let before = items.clone();
    match field.list {
        ListMerge::Replace => {
            *items = patch.iter().map(without_directives).collect();
            return Ok(());
        }
        ListMerge::Set => {
            let new: Vec<Value> = patch.iter().filter(|value| !items.contains(value)).cloned().collect();
            items.extend(new);
        }
        ListMerge::ByKey(key) => {
            let replace = |element: &Value| element.get(DIRECTIVE).and_then(Value::as_str) == Some("replace");
            if patch.iter().any(|element| replace(element) && element.get(key).is_none()) {
                *items = patch.iter().filter(|element| !replace(element)).map(without_directives).collect();
                return Ok(());
            }
            for element in patch {
                merge_element(items, element, name, key, field.content)?;
            }
        }
    }
    arrange(items, patch, &before, field.list);
    Ok(())
}

fn merge_element(
    items: &mut Vec<Value>,
    element: &Value,
    name: &str,
    key: &'static str,
    content: &str,
) -> Result<(), PatchError> {
    let (Value::Object(patch), Some(id)) = (element, element.get(key)) else {
        return Err(PatchError::NoMergeKey { field: name.into(), key });
    };
    let at = items.iter().position(|item| item.get(key) == Some(id));
    if patch.get(DIRECTIVE).and_then(Value::as_str) == Some("delete") {
        items.retain(|item| item.get(key) != Some(id));
        return Ok(());
    }
    match at {
        Some(at) => merge_object(&mut items[at], patch, content),
        None => {
            let mut new = Value::Null;
            merge_object(&mut new, patch, content)?;
            items.push(new);
            Ok(())
        }
    }
}

/// Puts what `order` names in its order. What it does not name keeps its place relative to its neighbours of `before`.
fn arrange(items: &mut Vec<Value>, order: &[Value], before: &[Value], merging: ListMerge) {
    let same = |a: &Value, b: &Value| match merging {
        ListMerge::ByKey(key) => a.get(key).is_some() && a.get(key) == b.get(key),
        ListMerge::Replace | ListMerge::Set => a == b,
    };
    let place = |list: &[Value], item: &Value| list.iter().position(|other| same(other, item));
    let (mut named, rest): (Vec<Value>, Vec<Value>) =
        std::mem::take(items).into_iter().partition(|item| place(order, item).is_some());
    named.sort_by_key(|item| place(order, item));
    let mut named = named.into_iter().peekable();
    for item in rest {
        let own = place(before, &item);
        while let Some(next) = named.next_if(|next| matches!((place(before, next), own), (Some(a), Some(b)) if a < b)) {
            items.push(next);
        }
        items.push(item);
    }
    items.extend(named);
}

fn check_pairs(own: &[Value], other: &[Value], field: &str) -> Result<(), PatchError> {
    if own.len().saturating_mul(other.len()) <= MAX_PAIRS {
        return Ok(());
    }
    Err(PatchError::TooLong { field: field.into(), own: own.len(), other: other.len() })
}

/// What a patch leaves where the object had nothing: nulls and directives are gone.
fn without_directives(value: &Value) -> Value {
    match value {
        Value::Object(map) => {
            let kept = map.iter().filter(|(name, value)| !name.starts_with('$') && !value.is_null());
            Value::Object(kept.map(|(name, value)| (name.clone(), without_directives(value))).collect())
        }
        Value::Array(items) => Value::Array(items.iter().map(without_directives).collect()),
        plain => plain.clone(),
    }
}

fn list<'a>(value: &'a Value, directive: &str) -> Result<&'a Vec<Value>, PatchError> {
    value.as_array().ok_or_else(|| PatchError::NotAList { directive: directive.into() })
}
