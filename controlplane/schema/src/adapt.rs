//! What the published schemas of Kubernetes say beyond the types: how lists and maps merge, and how the few types look
//! that are more than one.

use std::collections::HashMap;
use std::sync::LazyLock;

use serde_json::{Map, Value, json};

/// Published facts of the API, one line a field: type, field, list type, list map keys, strategic merge key, strategy,
/// map type.
const LIST_KEYS: &str = include_str!("../../apiserver/src/schema/list-keys.tsv");

const INT_OR_STRING: &str = "io.k8s.apimachinery.pkg.util.intstr.IntOrString";
const QUANTITY: &str = "io.k8s.apimachinery.pkg.api.resource.Quantity";
/// The field of facts about a type itself.
const WHOLE: &str = "(whole)";

/// A type and a field of it.
type Field = (&'static str, &'static str);

/// The extensions of a field, by its type (`core.v1.Pod`) and name.
static EXTENSIONS: LazyLock<HashMap<Field, Map<String, Value>>> =
    LazyLock::new(|| LIST_KEYS.lines().filter(|line| !line.starts_with('#')).filter_map(extensions).collect());

fn extensions(line: &'static str) -> Option<(Field, Map<String, Value>)> {
    let mut columns: Vec<&str> = line.split('\t').collect();
    columns.resize(7, "");
    let [kind, field, list_type, keys, merge_key, strategy, map_type] = columns[..] else { return None };
    let mut extensions = Map::new();
    let mut add = |name: &str, value: &str| {
        if !value.is_empty() {
            extensions.insert(format!("x-kubernetes-{name}"), value.into());
        }
    };
    add("list-type", list_type);
    add("map-type", map_type);
    add("patch-merge-key", merge_key);
    add("patch-strategy", strategy);
    if !keys.is_empty() {
        extensions.insert("x-kubernetes-list-map-keys".into(), keys.split(',').collect::<Vec<_>>().into());
    }
    Some(((kind, field), extensions))
}

/// The schema of a type as it is published.
pub(crate) fn definition(name: &str, mut schema: Value) -> Value {
    match name {
        // Readers of both versions of OpenAPI know these by their format.
        INT_OR_STRING => {
            return json!({"description": schema["description"], "type": "string", "format": "int-or-string"});
        }
        QUANTITY => return json!({"description": schema["description"], "type": "string"}),
        _ => {}
    }
    let kind = short(name);
    let mut objects = Vec::new();
    for (field, property) in schema.get_mut("properties").and_then(Value::as_object_mut).into_iter().flatten() {
        // The types always have metadata; who writes an object may leave it out.
        if is_metadata(property) {
            objects.push(field.clone());
        }
        let Some(extensions) = EXTENSIONS.get(&(kind.as_str(), field.as_str())) else { continue };
        if let Some(property) = property.as_object_mut() {
            property.extend(extensions.clone());
        }
    }
    if let Some(required) = schema.get_mut("required").and_then(Value::as_array_mut) {
        required.retain(|field| !objects.iter().any(|object| field == object));
        if required.is_empty()
            && let Some(schema) = schema.as_object_mut()
        {
            schema.remove("required");
        }
    }
    if let Some(extensions) = EXTENSIONS.get(&(kind.as_str(), WHOLE))
        && let Some(schema) = schema.as_object_mut()
    {
        schema.extend(extensions.clone());
    }
    schema
}

fn is_metadata(property: &Value) -> bool {
    let reference = property["$ref"].as_str().unwrap_or_default();
    reference.ends_with(".meta.v1.ObjectMeta") || reference.ends_with(".meta.v1.ListMeta")
}

/// `core.v1.Pod` of `io.k8s.api.core.v1.Pod`.
fn short(name: &str) -> String {
    let mut last: Vec<&str> = name.rsplit('.').take(3).collect();
    last.reverse();
    last.join(".")
}
