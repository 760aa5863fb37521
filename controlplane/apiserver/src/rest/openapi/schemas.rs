//! The schemas of the API's types: written ahead by `cargo xtask schema`, and completed by what the table of kinds knows.

use std::collections::BTreeMap;

use diolkos_api::kind::Kind;
use diolkos_api::status::Failure;
use serde_json::{Value, json};

/// One line a type, by names as `io.k8s.api.core.v1.Pod`. References begin with [`REFERENCE`].
const DEFINITIONS: &str = include_str!("definitions.json");

pub(super) const REFERENCE: &str = "#/components/schemas/";

pub(super) const DELETE_OPTIONS: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.DeleteOptions";
pub(super) const PATCH: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.Patch";
pub(super) const STATUS: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.Status";
const LIST_META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.ListMeta";
const OBJECT_META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta";

/// Any value, which the types of k8s-openapi call an object.
const JSON: &str = "io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.JSON";

pub(super) type Schemas = BTreeMap<String, Value>;

/// The name of a kind's type.
pub(super) fn name(kind: &Kind) -> String {
    name_of(&kind.group, &kind.version, &kind.kind)
}

pub(super) fn list_name(kind: &Kind) -> String {
    name_of(&kind.group, &kind.version, &kind.list_kind)
}

pub(super) fn name_of(group: &str, version: &str, kind: &str) -> String {
    match group {
        "" => format!("io.k8s.api.core.{version}.{kind}"),
        "apiextensions.k8s.io" => {
            format!("io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.{version}.{kind}")
        }
        group if group.ends_with(".k8s.io") || !group.contains('.') => {
            format!("io.k8s.api.{}.{version}.{kind}", group.split('.').next().unwrap_or(group))
        }
        group => format!("{}.{version}.{kind}", group.split('.').rev().collect::<Vec<_>>().join(".")),
    }
}

/// All types that these kinds and the operations on them need.
pub(super) fn all(kinds: &[&Kind]) -> Result<Schemas, Failure> {
    let mut schemas: Schemas = serde_json::from_str(DEFINITIONS).map_err(Failure::internal)?;
    if let Some(any) = schemas.get_mut(JSON).and_then(Value::as_object_mut) {
        any.shift_remove("type");
    }
    for kind in kinds {
        let about = json!([{"group": kind.group, "version": kind.version, "kind": kind.kind}]);
        let schema = schemas.entry(name(kind)).or_insert_with(|| unknown(kind));
        schema["x-kubernetes-group-version-kind"] = about;
        if kind.verbs.contains(&"list") {
            schemas.insert(list_name(kind), list(kind));
        }
    }
    for (group, version, kind) in [
        ("autoscaling", "v1", "Scale"),
        ("policy", "v1", "Eviction"),
        ("", "v1", "Binding"),
        ("authentication.k8s.io", "v1", "TokenRequest"),
    ] {
        if let Some(schema) = schemas.get_mut(&name_of(group, version, kind)) {
            schema["x-kubernetes-group-version-kind"] = json!([{"group": group, "version": version, "kind": kind}]);
        }
    }
    let mut groups: Vec<Value> = Vec::new();
    for kind in kinds {
        let about = json!({"group": kind.group, "version": kind.version, "kind": "DeleteOptions"});
        if !groups.contains(&about) {
            groups.push(about);
        }
    }
    if let Some(schema) = schemas.get_mut(DELETE_OPTIONS) {
        schema["x-kubernetes-group-version-kind"] = groups.into();
    }
    if let Some(schema) = schemas.get_mut(STATUS) {
        schema["x-kubernetes-group-version-kind"] = json!([{"group": "", "version": "v1", "kind": "Status"}]);
    }
    Ok(schemas)
}

/// A kind whose fields nobody wrote down.
fn unknown(kind: &Kind) -> Value {
    let mut schema = json!({
        "description": format!("{} of {}", kind.kind, kind.api_version()),
        "type": "object",
        "properties": names(),
        "x-kubernetes-preserve-unknown-fields": true,
    });
    schema["properties"]["metadata"] = json!({"$ref": format!("{REFERENCE}{OBJECT_META}")});
    schema
}

fn list(kind: &Kind) -> Value {
    let mut schema = json!({
        "description": format!("{} is a list of objects of kind {}.", kind.list_kind, kind.kind),
        "type": "object",
        "required": ["items"],
        "properties": names(),
        "x-kubernetes-group-version-kind":
            [{"group": kind.group, "version": kind.version, "kind": kind.list_kind}],
    });
    schema["properties"]["items"] = json!({
        "description": "The objects.",
        "type": "array",
        "items": {"$ref": format!("{REFERENCE}{}", name(kind))},
    });
    schema["properties"]["metadata"] = json!({
        "description": "Standard list metadata.",
        "$ref": format!("{REFERENCE}{LIST_META}"),
    });
    schema
}

fn names() -> Value {
    json!({
        "apiVersion": {
            "description": "APIVersion defines the versioned schema of this representation of an object.",
            "type": "string",
        },
        "kind": {
            "description": "Kind is a string value representing the REST resource this object represents.",
            "type": "string",
        },
    })
}

/// These types and all that they refer to.
pub(super) fn closure(schemas: &Schemas, roots: impl IntoIterator<Item = String>) -> Schemas {
    let mut found = Schemas::new();
    let mut next: Vec<String> = roots.into_iter().collect();
    while let Some(name) = next.pop() {
        if found.contains_key(&name) {
            continue;
        }
        let Some(schema) = schemas.get(&name) else { continue };
        references(schema, &mut next);
        found.insert(name, schema.clone());
    }
    found
}

fn references(schema: &Value, found: &mut Vec<String>) {
    match schema {
        Value::Object(fields) => {
            if let Some(name) = fields.get("$ref").and_then(Value::as_str) {
                found.extend(name.strip_prefix(REFERENCE).map(str::to_owned));
            }
            fields.values().for_each(|value| references(value, found));
        }
        Value::Array(items) => items.iter().for_each(|item| references(item, found)),
        _ => {}
    }
}
