//! What a structural schema makes of an object before it is looked at: unknown fields and nulls go, defaults come.

use serde_json::Value;

const PRESERVE: &str = "x-kubernetes-preserve-unknown-fields";
const EMBEDDED: &str = "x-kubernetes-embedded-resource";

/// Fields of every object, whatever its schema says.
const OBJECT_FIELDS: [&str; 3] = ["apiVersion", "kind", "metadata"];

/// The schema of a field of an object; null for one that is unknown.
fn below<'a>(schema: &'a Value, name: &str) -> &'a Value {
    schema["properties"].get(name).unwrap_or_else(|| match &schema["additionalProperties"] {
        additional @ Value::Object(_) => additional,
        Value::Bool(true) => schema,
        _ => &Value::Null,
    })
}

/// `free`: a map whose values are of no known type.
fn is_free(schema: &Value) -> bool {
    schema["additionalProperties"] == true
}

/// Takes out unknown fields, and nulls where no null may be. `whole`: an object with metadata of its own.
pub(super) fn prune(value: &mut Value, schema: &Value, whole: bool) {
    match value {
        Value::Object(fields) => {
            let keeps = schema[PRESERVE] == true || is_free(schema);
            fields.retain(|name, value| {
                if whole && OBJECT_FIELDS.contains(&name.as_str()) {
                    return true;
                }
                let known = below(schema, name);
                if value.is_null() {
                    return known["nullable"] == true || (keeps && known.is_null());
                }
                if known.is_null() || std::ptr::eq(known, schema) {
                    return keeps;
                }
                prune(value, known, known[EMBEDDED] == true);
                true
            });
        }
        Value::Array(items) if schema["items"].is_object() => {
            items.iter_mut().for_each(|item| prune(item, &schema["items"], schema["items"][EMBEDDED] == true));
        }
        _ => {}
    }
}

/// The paths of what [`prune`] would take out.
pub(super) fn unknown(value: &Value, schema: &Value, whole: bool, path: &mut String, found: &mut Vec<String>) {
    let length = path.len();
    match value {
        Value::Object(fields) => {
            let keeps = schema[PRESERVE] == true || is_free(schema);
            for (name, value) in fields {
                if whole && OBJECT_FIELDS.contains(&name.as_str()) {
                    continue;
                }
                if length > 0 {
                    path.push('.');
                }
                path.push_str(name);
                let known = below(schema, name);
                if known.is_null() || std::ptr::eq(known, schema) {
                    if !keeps {
                        found.push(path.clone());
                    }
                } else {
                    unknown(value, known, known[EMBEDDED] == true, path, found);
                }
                path.truncate(length);
            }
        }
        Value::Array(items) if schema["items"].is_object() => {
            for (index, item) in items.iter().enumerate() {
                path.push_str(&format!("[{index}]"));
                unknown(item, &schema["items"], schema["items"][EMBEDDED] == true, path, found);
                path.truncate(length);
            }
        }
        _ => {}
    }
}

/// Fills what the schema has a default for, in what is there.
pub(super) fn default(value: &mut Value, schema: &Value) {
    match value {
        Value::Object(fields) => {
            for (name, known) in schema["properties"].as_object().into_iter().flatten() {
                if let (Some(default), None) = (known.get("default"), fields.get(name)) {
                    fields.insert(name.clone(), default.clone());
                }
            }
            for (name, value) in fields.iter_mut() {
                let known = below(schema, name);
                if known.is_object() && !std::ptr::eq(known, schema) {
                    default(value, known);
                }
            }
        }
        Value::Array(items) => items.iter_mut().for_each(|item| default(item, &schema["items"])),
        _ => {}
    }
}
