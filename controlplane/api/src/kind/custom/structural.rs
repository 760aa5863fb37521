//! The rules of structural schemas: each field has one type, which the combinations inside a schema only narrow.

use serde_json::Value;

use crate::kind::Causes;
use crate::kind::rule::{items, text};

/// What a schema may not use at all.
const UNSUPPORTED: [&str; 7] =
    ["$ref", "definitions", "dependencies", "deprecated", "id", "patternProperties", "additionalItems"];

/// What says which type a field has, and so may not stand inside a combination.
const TYPING: [&str; 10] = [
    "additionalProperties",
    "default",
    "description",
    "nullable",
    "title",
    "type",
    "x-kubernetes-embedded-resource",
    "x-kubernetes-list-type",
    "x-kubernetes-map-type",
    "x-kubernetes-preserve-unknown-fields",
];

const TYPES: [&str; 6] = ["array", "boolean", "integer", "number", "object", "string"];
const COMBINATIONS: [&str; 3] = ["allOf", "anyOf", "oneOf"];
/// Levels that a schema may have.
const MAX_DEPTH: usize = 64;

/// Says what is wrong with the schema of a whole object.
pub(super) fn check(schema: &Value, path: &str, causes: &mut Causes) {
    if schema["type"] != "object" {
        match text(&schema["type"]) {
            "" => causes.required(format!("{path}.type"), "must not be empty at the root"),
            other => causes.invalid(format!("{path}.type"), other, "must be object at the root"),
        }
    }
    let metadata = schema["properties"]["metadata"].as_object();
    let narrows = |name: &String| matches!(name.as_str(), "type" | "properties" | "description");
    if metadata.is_some_and(|fields| !fields.keys().all(narrows)) {
        causes.forbidden(
            format!("{path}.properties[metadata]"),
            "must not specify anything other than name and generateName, but metadata is implicitly specified",
        );
    }
    node(schema, path, 0, causes);
}

fn node(schema: &Value, path: &str, depth: usize, causes: &mut Causes) {
    if depth > MAX_DEPTH {
        causes.forbidden(path, "the schema nests too deeply: make it flatter");
        return;
    }
    own_type(schema, path, causes);
    for field in UNSUPPORTED.iter().filter(|field| schema.get(**field).is_some()) {
        causes.forbidden(format!("{path}.{field}"), &format!("{field} is not supported"));
    }
    if schema["uniqueItems"] == true {
        causes.forbidden(
            format!("{path}.uniqueItems"),
            "uniqueItems cannot be set to true since the runtime complexity becomes quadratic",
        );
    }
    if let Some(pattern) = schema["pattern"].as_str()
        && let Err(why) = regex::Regex::new(pattern)
    {
        causes.invalid(format!("{path}.pattern"), pattern, format!("must be a valid regular expression: {why}"));
    }
    let additional = &schema["additionalProperties"];
    let properties = schema["properties"].as_object();
    if properties.is_some_and(|own| !own.is_empty()) && *additional != false && !additional.is_null() {
        causes.forbidden(
            format!("{path}.additionalProperties"),
            "additionalProperties and properties are mutual exclusive",
        );
    }
    for (name, below) in properties.into_iter().flatten() {
        node(below, &format!("{path}.properties[{name}]"), depth + 1, causes);
    }
    if additional.is_object() {
        node(additional, &format!("{path}.additionalProperties"), depth + 1, causes);
    }
    list(schema, path, depth, causes);
    for field in COMBINATIONS {
        for (index, inside) in items(&schema[field]).iter().enumerate() {
            combined(inside, &format!("{path}.{field}[{index}]"), depth + 1, is_int_or_string(schema), causes);
        }
    }
    if schema["not"].is_object() {
        combined(&schema["not"], &format!("{path}.not"), depth + 1, false, causes);
    }
}

fn is_int_or_string(schema: &Value) -> bool {
    schema["x-kubernetes-int-or-string"] == true
}

fn own_type(schema: &Value, path: &str, causes: &mut Causes) {
    let own = text(&schema["type"]);
    let field = format!("{path}.type");
    if is_int_or_string(schema) {
        if !own.is_empty() {
            causes.forbidden(field, "must be empty if x-kubernetes-int-or-string is true");
        }
    } else if own.is_empty() {
        if schema["x-kubernetes-preserve-unknown-fields"] != true {
            causes.required(field, "must not be empty for specified object fields");
        }
    } else if !TYPES.contains(&own) {
        causes.unsupported(field, own, &TYPES);
    }
    if schema["x-kubernetes-embedded-resource"] == true {
        if own != "object" {
            causes.invalid(format!("{path}.type"), own, "must be object if x-kubernetes-embedded-resource is true");
        }
        let empty = schema["properties"].as_object().is_none_or(serde_json::Map::is_empty);
        if empty && schema["x-kubernetes-preserve-unknown-fields"] != true {
            causes.required(format!("{path}.properties"), "must not be empty if x-kubernetes-embedded-resource is true without x-kubernetes-preserve-unknown-fields");
        }
    }
    if schema["x-kubernetes-preserve-unknown-fields"] == false {
        causes.invalid(format!("{path}.x-kubernetes-preserve-unknown-fields"), false, "must be true or undefined");
    }
}

fn list(schema: &Value, path: &str, depth: usize, causes: &mut Causes) {
    let below = &schema["items"];
    if schema["type"] == "array" && below.is_null() {
        causes.required(format!("{path}.items"), "must be specified");
    }
    if below.is_array() {
        causes.forbidden(format!("{path}.items"), "items must be a schema object and not an array");
    }
    if below.is_object() {
        node(below, &format!("{path}.items"), depth + 1, causes);
    }
    let keys = items(&schema["x-kubernetes-list-map-keys"]);
    let keys_path = format!("{path}.x-kubernetes-list-map-keys");
    match text(&schema["x-kubernetes-list-type"]) {
        "" | "atomic" | "set" if !keys.is_empty() => {
            causes.forbidden(keys_path, "must not be set if x-kubernetes-list-type is not map");
        }
        "" | "atomic" | "set" => {}
        "map" if keys.is_empty() => causes.required(keys_path, "must not be empty if x-kubernetes-list-type is map"),
        "map" => {
            if below["type"] != "object" {
                causes.invalid(
                    format!("{path}.items.type"),
                    below["type"].clone(),
                    "must be object if parent array's x-kubernetes-list-type is map",
                );
            }
            for (index, key) in keys.iter().enumerate() {
                let declared = &below["properties"][text(key)];
                if declared.is_null() {
                    causes.invalid(
                        format!("{keys_path}[{index}]"),
                        key.clone(),
                        "entries must all be names of item properties",
                    );
                } else if declared.get("default").is_none() && !items(&below["required"]).contains(key) {
                    causes.required(format!("{path}.items.properties[{}].default", text(key)), "this property is in x-kubernetes-list-map-keys, so it must have a default or be a required property");
                }
            }
        }
        other => causes.unsupported(format!("{path}.x-kubernetes-list-type"), other, &["atomic", "map", "set"]),
    }
    if !matches!(text(&schema["x-kubernetes-map-type"]), "" | "atomic" | "granular") {
        let other = schema["x-kubernetes-map-type"].clone();
        causes.unsupported(format!("{path}.x-kubernetes-map-type"), other, &["atomic", "granular"]);
    }
}

/// A schema inside a combination: it says no types, but for the two of int-or-string.
fn combined(schema: &Value, path: &str, depth: usize, may_type: bool, causes: &mut Causes) {
    if depth > MAX_DEPTH {
        causes.forbidden(path, "the schema nests too deeply: make it flatter");
        return;
    }
    for field in TYPING.iter().filter(|field| schema.get(**field).is_some()) {
        if !(may_type && *field == "type") {
            causes.forbidden(format!("{path}.{field}"), "must be empty to be structural");
        }
    }
    for (name, below) in schema["properties"].as_object().into_iter().flatten() {
        combined(below, &format!("{path}.properties[{name}]"), depth + 1, false, causes);
    }
    if schema["items"].is_object() {
        combined(&schema["items"], &format!("{path}.items"), depth + 1, false, causes);
    }
    for field in COMBINATIONS {
        for (index, inside) in items(&schema[field]).iter().enumerate() {
            combined(inside, &format!("{path}.{field}[{index}]"), depth + 1, may_type, causes);
        }
    }
    if schema["not"].is_object() {
        combined(&schema["not"], &format!("{path}.not"), depth + 1, false, causes);
    }
}
