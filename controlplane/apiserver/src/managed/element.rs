//! The elements of a list that can be told apart.

use std::collections::BTreeMap;

use serde_json::Value;

use super::set;
use crate::schema::{Elements, Shape};

/// The values of one element: one, unless the list has it several times.
pub(super) type Item<'a> = Vec<&'a Value>;

/// The elements of a list by their path elements. Fails for one that has none of its keys.
pub(super) fn items<'a>(list: Option<&'a Vec<Value>>, shape: Shape<'_>) -> Result<BTreeMap<String, Item<'a>>, String> {
    let elements = shape.elements();
    let mut items: BTreeMap<String, Item<'a>> = BTreeMap::new();
    for value in list.into_iter().flatten() {
        items.entry(name(value, &elements, shape)?).or_default().push(value);
    }
    Ok(items)
}

/// The path element of one element.
pub(super) fn name(value: &Value, elements: &Elements<'_>, shape: Shape<'_>) -> Result<String, String> {
    match elements {
        Elements::ByKeys(keys) => {
            let Value::Object(fields) = value else {
                return Err(format!("{value} is no object with the keys {keys:?}"));
            };
            let own = keys.iter().filter_map(|key| {
                let value = fields.get(*key).cloned().or_else(|| shape.key_default(key))?;
                Some((*key, value))
            });
            let own: Vec<(&str, Value)> = own.collect();
            // A default alone says nothing.
            if !keys.iter().any(|key| fields.contains_key(*key)) {
                return Err(format!("an element of the list has none of its keys {keys:?}"));
            }
            Ok(set::by_keys(own))
        }
        Elements::ByValue | Elements::One => match value {
            Value::Object(_) | Value::Array(_) | Value::Null => {
                Err(format!("{value} cannot be an element of a set: it is no plain value"))
            }
            plain => Ok(set::by_value(plain)),
        },
    }
}
