//! Rows and columns instead of objects, as `kubectl get` prints them.

use diolkos_api::kind::Kind;
use k8s_openapi::jiff::Timestamp;
use serde_json::{Value, json};

use super::parameters::IncludeObject;

/// A Table of some objects. `metadata` is that of the list.
pub(super) fn table(kind: &Kind, objects: &[Value], metadata: Value, include: IncludeObject) -> Value {
    let now = diolkos_api::now();
    let rows: Vec<Value> = objects.iter().map(|object| row(kind, object, include, now)).collect();
    with_rows(definitions(kind), rows, metadata)
}

/// The Table of one event of a watch: only the first says what the columns are.
pub(super) fn event_table(kind: &Kind, object: &Value, include: IncludeObject, first: bool) -> Value {
    let columns = if first { definitions(kind) } else { Value::Null };
    let metadata = json!({"resourceVersion": object["metadata"]["resourceVersion"]});
    with_rows(columns, vec![row(kind, object, include, diolkos_api::now())], metadata)
}

/// Only the metadata of an object.
pub(super) fn partial(object: &Value) -> Value {
    json!({"kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": object["metadata"]})
}

fn with_rows(columns: Value, rows: Vec<Value>, metadata: Value) -> Value {
    json!({
        "kind": "Table",
        "apiVersion": "meta.k8s.io/v1",
        "metadata": metadata,
        "columnDefinitions": columns,
        "rows": rows,
    })
}

fn definitions(kind: &Kind) -> Value {
    kind.headers().into()
}

/// The row of one object.
pub(super) fn row(kind: &Kind, object: &Value, include: IncludeObject, now: Timestamp) -> Value {
    let cells = Value::Array(kind.cells(object, now));
    match include {
        IncludeObject::None => json!({"cells": cells}),
        IncludeObject::Metadata => json!({"cells": cells, "object": partial(object)}),
        IncludeObject::Object => json!({"cells": cells, "object": object}),
    }
}
