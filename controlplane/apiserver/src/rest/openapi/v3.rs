//! OpenAPI version 3: a document for each version of each group.

use std::collections::BTreeSet;

use diolkos_api::kind::Kind;
use serde_json::{Map, Value, json};

use super::operations::{OBJECTS, Operation, Parameter, paths};
use super::schemas::{REFERENCE, Schemas, closure};

/// The document of the kinds of one version of a group.
pub(super) fn document(kinds: &[&Kind], schemas: &Schemas) -> Value {
    let mut all = Map::new();
    let mut roots = BTreeSet::new();
    for path in kinds.iter().flat_map(|kind| paths(kind)) {
        let mut item = Map::new();
        if !path.parameters.is_empty() {
            item.insert("parameters".into(), path.parameters.iter().map(parameter).collect());
        }
        for operation in &path.operations {
            roots.insert(operation.answers.1.clone());
            roots.extend(operation.body.iter().map(|(_, name)| name.clone()));
            item.insert(operation.method.into(), render(operation));
        }
        all.insert(path.path, item.into());
    }
    let schemas: Map<String, Value> = closure(schemas, roots)
        .into_iter()
        .map(|(name, mut schema)| {
            published(&name, &mut schema);
            (name, schema)
        })
        .collect();
    json!({
        "openapi": "3.0.0",
        "info": {"title": "Kubernetes", "version": super::VERSION},
        "paths": all,
        "components": {"schemas": schemas},
    })
}

fn render(operation: &Operation) -> Value {
    let content = |types: &[&str], name: &str| -> Map<String, Value> {
        let schema = json!({"schema": {"$ref": format!("{REFERENCE}{name}")}});
        types.iter().map(|name| ((*name).to_owned(), schema.clone())).collect()
    };
    let (codes, name) = &operation.answers;
    let answer = |code: &u16| {
        let text = match code {
            200 => "OK",
            201 => "Created",
            _ => "Accepted",
        };
        (code.to_string(), json!({"description": text, "content": content(OBJECTS, name)}))
    };
    let mut answers: Map<String, Value> = codes.iter().map(answer).collect();
    answers.insert("401".into(), json!({"description": "Unauthorized"}));
    let mut rendered = json!({
        "tags": [operation.tag],
        "description": operation.description,
        "operationId": operation.id,
        "parameters": operation.parameters.iter().map(parameter).collect::<Vec<_>>(),
        "responses": answers,
        "x-kubernetes-action": operation.action,
        "x-kubernetes-group-version-kind": operation.about,
    });
    if let Some((types, name)) = &operation.body {
        // Options of a deletion may be left out.
        let required = operation.method != "delete";
        rendered["requestBody"] = json!({"content": content(types, name), "required": required});
    }
    rendered
}

fn parameter(parameter: &Parameter) -> Value {
    let mut rendered = json!({
        "name": parameter.name,
        "in": parameter.place,
        "description": parameter.description,
        "schema": {"type": parameter.type_, "uniqueItems": true},
    });
    if parameter.place == "path" {
        rendered["required"] = true.into();
    }
    rendered
}

/// Version 3 has a word for what may be a number or a text, and ignores what stands beside a reference.
fn published(name: &str, schema: &mut Value) {
    if name.ends_with(".intstr.IntOrString") {
        *schema = json!({
            "description": schema["description"],
            "format": "int-or-string",
            "oneOf": [{"type": "integer"}, {"type": "string"}],
        });
    } else if name.ends_with(".resource.Quantity") {
        let description = schema["description"].take();
        *schema = json!({"description": description, "oneOf": [{"type": "string"}, {"type": "number"}]});
    } else {
        wrap_references(schema);
    }
}

fn wrap_references(schema: &mut Value) {
    match schema {
        Value::Object(fields) => {
            if fields.len() > 1
                && let Some(reference) = fields.get("$ref").filter(|reference| reference.is_string()).cloned()
            {
                fields.shift_remove("$ref");
                fields.insert("allOf".into(), json!([{"$ref": reference}]));
            }
            fields.values_mut().for_each(wrap_references);
        }
        Value::Array(items) => items.iter_mut().for_each(wrap_references),
        _ => {}
    }
}
