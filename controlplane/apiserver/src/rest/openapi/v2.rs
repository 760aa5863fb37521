//! OpenAPI version 2: one document of everything, for clients that read no newer one.

use diolkos_api::kind::Kind;
use serde_json::{Map, Value, json};

use super::operations::{OBJECTS, Operation, Parameter, paths};
use super::schemas::{REFERENCE, Schemas};

const DEFINITION: &str = "#/definitions/";

pub(super) fn document(kinds: &[&Kind], schemas: &Schemas) -> Value {
    let mut all = Map::new();
    for path in kinds.iter().flat_map(|kind| paths(kind)) {
        let mut item = Map::new();
        if !path.parameters.is_empty() {
            item.insert("parameters".into(), path.parameters.iter().map(parameter).collect());
        }
        for operation in &path.operations {
            item.insert(operation.method.into(), render(operation));
        }
        all.insert(path.path, item.into());
    }
    let definitions: Map<String, Value> = schemas
        .iter()
        .map(|(name, schema)| {
            let mut schema = schema.clone();
            rename_references(&mut schema);
            (name.clone(), schema)
        })
        .collect();
    json!({
        "swagger": "2.0",
        "info": {"title": "Kubernetes", "version": super::VERSION},
        "paths": all,
        "definitions": definitions,
    })
}

fn render(operation: &Operation) -> Value {
    let schema = |name: &str| json!({"$ref": format!("{DEFINITION}{name}")});
    let mut parameters: Vec<Value> = operation.parameters.iter().map(parameter).collect();
    if let Some((_, name)) = &operation.body {
        let required = operation.method != "delete";
        parameters.insert(0, json!({"name": "body", "in": "body", "required": required, "schema": schema(name)}));
    }
    let (codes, name) = &operation.answers;
    let answer = |code: &u16| {
        let text = match code {
            200 => "OK",
            201 => "Created",
            _ => "Accepted",
        };
        (code.to_string(), json!({"description": text, "schema": schema(name)}))
    };
    let mut answers: Map<String, Value> = codes.iter().map(answer).collect();
    answers.insert("401".into(), json!({"description": "Unauthorized"}));
    json!({
        "tags": [operation.tag],
        "description": operation.description,
        "operationId": operation.id,
        "consumes": operation.body.as_ref().map_or(&["*/*"][..], |(types, _)| types),
        "produces": OBJECTS,
        "schemes": ["https"],
        "parameters": parameters,
        "responses": answers,
        "x-kubernetes-action": operation.action,
        "x-kubernetes-group-version-kind": operation.about,
    })
}

fn parameter(parameter: &Parameter) -> Value {
    let mut rendered = json!({
        "name": parameter.name,
        "in": parameter.place,
        "description": parameter.description,
        "type": parameter.type_,
        "uniqueItems": true,
    });
    if parameter.place == "path" {
        rendered["required"] = true.into();
    }
    rendered
}

fn rename_references(schema: &mut Value) {
    match schema {
        Value::Object(fields) => {
            for (name, value) in fields {
                match value.as_str().and_then(|text| text.strip_prefix(REFERENCE)) {
                    Some(rest) if name == "$ref" => *value = format!("{DEFINITION}{rest}").into(),
                    _ => rename_references(value),
                }
            }
        }
        Value::Array(items) => items.iter_mut().for_each(rename_references),
        _ => {}
    }
}
