//! From what the handlers answer to bytes and headers.

use std::convert::Infallible;

use axum::body::Body;
use axum::response::{IntoResponse, Response};
use bytes::{Bytes, BytesMut};
use diolkos_api::kind::Kind;
use diolkos_api::status::Failure;
use diolkos_api::wire;
use futures::stream;
use http::{HeaderValue, StatusCode, header};
use serde_json::{Value, json};

use super::negotiation::{Form, Representation};
use super::parameters::Parameters;
use super::table;
use crate::cache::CachedObject;
use crate::handlers::Listing;

/// Objects that go into one chunk of a list's body.
const CHUNK_OBJECTS: usize = 32;

/// One object, with its warnings as headers.
pub(super) fn object(
    code: StatusCode,
    kind: &Kind,
    object: wire::Object,
    form: &Form,
    parameters: &Parameters,
) -> Result<Response, Failure> {
    let json = if form.is_plain() {
        object.json
    } else {
        let value = parse(&object.json)?;
        // Answers of another kind than the one of the path (a Status, a Scale) have no rows.
        let shown = match form.representation {
            _ if value["kind"] != kind.kind.as_str() => value,
            Representation::Table => {
                let metadata = json!({"resourceVersion": value["metadata"]["resourceVersion"]});
                table::table(kind, &[value], metadata, parameters.include_object)
            }
            _ => table::partial(&value),
        };
        Bytes::from(shown.to_string())
    };
    let mut response = encoded(code, json, form)?;
    object.warnings.iter().for_each(|warning| warn(&mut response, warning));
    Ok(response)
}

/// Adds a warning for whoever reads the answer.
pub(super) fn warn(response: &mut Response, warning: &str) {
    if let Ok(value) = HeaderValue::from_str(&format!("299 - {}", Value::from(warning))) {
        response.headers_mut().append(header::WARNING, value);
    }
}

/// A list, sent in chunks: the objects are not copied into one buffer.
pub(super) fn listing(
    kind: &Kind,
    listing: Listing,
    form: &Form,
    parameters: &Parameters,
) -> Result<Response, Failure> {
    let mut metadata = json!({"resourceVersion": listing.revision.to_string()});
    if !listing.continue_token.is_empty() {
        metadata["continue"] = listing.continue_token.into();
        if let Some(remaining) = listing.remaining {
            metadata["remainingItemCount"] = remaining.into();
        }
    }
    if form.is_plain() && !form.yaml {
        return Ok(chunked(kind, &metadata, listing.items));
    }
    let objects: Vec<Value> = listing.items.iter().map(|object| parse(&object.bytes)).collect::<Result<_, _>>()?;
    let value = match form.representation {
        Representation::Table => table::table(kind, &objects, metadata, parameters.include_object),
        Representation::Partial => json!({
            "kind": "PartialObjectMetadataList",
            "apiVersion": "meta.k8s.io/v1",
            "metadata": metadata,
            "items": objects.iter().map(table::partial).collect::<Vec<_>>(),
        }),
        Representation::Object => json!({
            "kind": kind.list_kind,
            "apiVersion": kind.api_version(),
            "metadata": metadata,
            "items": objects,
        }),
    };
    encoded(StatusCode::OK, Bytes::from(value.to_string()), form)
}

/// A list of what a DeleteCollection deleted.
pub(super) fn objects(kind: &Kind, objects: &[wire::Object], form: &Form) -> Result<Response, Failure> {
    let items: Vec<Value> = objects.iter().map(|object| parse(&object.json)).collect::<Result<_, _>>()?;
    let list = json!({
        "kind": kind.list_kind,
        "apiVersion": kind.api_version(),
        "metadata": {},
        "items": items,
    });
    encoded(StatusCode::OK, Bytes::from(list.to_string()), form)
}

fn chunked(kind: &Kind, metadata: &Value, items: Vec<CachedObject>) -> Response {
    let head = format!(
        "{{\"kind\":{},\"apiVersion\":{},\"metadata\":{metadata},\"items\":[",
        Value::from(kind.list_kind.as_str()),
        Value::from(kind.api_version()),
    );
    let mut parts = vec![Bytes::from(head)];
    for (index, chunk) in items.chunks(CHUNK_OBJECTS).enumerate() {
        let size: usize = chunk.iter().map(|object| object.bytes.len() + 1).sum();
        let mut part = BytesMut::with_capacity(size);
        for (position, object) in chunk.iter().enumerate() {
            if index + position > 0 {
                part.extend_from_slice(b",");
            }
            part.extend_from_slice(&object.bytes);
        }
        parts.push(part.freeze());
    }
    parts.push(Bytes::from_static(b"]}"));
    let body = Body::from_stream(stream::iter(parts.into_iter().map(Ok::<_, Infallible>)));
    (StatusCode::OK, [(header::CONTENT_TYPE, "application/json")], body).into_response()
}

fn encoded(code: StatusCode, json: Bytes, form: &Form) -> Result<Response, Failure> {
    if !form.yaml {
        return Ok((code, [(header::CONTENT_TYPE, "application/json")], json).into_response());
    }
    let text = serde_yaml_ng::to_string(&parse(&json)?).map_err(Failure::internal)?;
    Ok((code, [(header::CONTENT_TYPE, "application/yaml")], text).into_response())
}

fn parse(json: &[u8]) -> Result<Value, Failure> {
    serde_json::from_slice(json).map_err(Failure::internal)
}
