//! Strict decoding without a schema of our own: what a typed round trip loses is unknown.

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

/// Decodes into the typed object and encodes again. The message of a failure says what was wrong.
pub(super) fn round_trip<K: Serialize + DeserializeOwned>(object: &Value) -> Result<Value, String> {
    let typed: K = K::deserialize(object).map_err(|error| error.to_string())?;
    serde_json::to_value(&typed).map_err(|error| error.to_string())
}

/// The paths of `object` that `known`, its typed round trip, does not have, in order: "spec.ports[0].foo".
pub(super) fn unknown_fields(object: &Value, known: &Value) -> Vec<String> {
    let mut unknown = Vec::new();
    compare(object, known, &mut String::new(), &mut unknown);
    unknown
}

/// Most unknown fields that are reported of one object.
const MAX_UNKNOWN: usize = 64;

fn compare(object: &Value, known: &Value, path: &mut String, unknown: &mut Vec<String>) {
    let length = path.len();
    match (object, known) {
        (Value::Object(fields), Value::Object(known)) => {
            for (key, value) in fields {
                if !path.is_empty() {
                    path.push('.');
                }
                path.push_str(key);
                match known.get(key) {
                    Some(known) => compare(value, known, path, unknown),
                    // An explicit null, like an empty list or map, is left out by the round trip of a known field too.
                    None if is_nothing(value) => {}
                    None if unknown.len() < MAX_UNKNOWN => unknown.push(path.clone()),
                    None => {}
                }
                path.truncate(length);
            }
        }
        (Value::Array(items), Value::Array(known)) => {
            for (index, (item, known)) in items.iter().zip(known).enumerate() {
                path.push_str(&format!("[{index}]"));
                compare(item, known, path, unknown);
                path.truncate(length);
            }
        }
        _ => {}
    }
}

fn is_nothing(value: &Value) -> bool {
    value.is_null()
}
