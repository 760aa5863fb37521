//! From what the handlers answer to bytes and headers.

use std::sync::Arc;

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

/// A list, sent in chunks that are made one after the other: neither its objects nor their rows are all in memory twice.
pub(super) fn listing(
    kind: Arc<Kind>,
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
    let include = parameters.include_object;
    let representation = form.representation;
    let head = match representation {
        Representation::Table => table::table(&kind, &[], metadata, include),
        Representation::Partial => list("PartialObjectMetadataList", "meta.k8s.io/v1".into(), metadata),
        Representation::Object => list(&kind.list_kind, kind.api_version(), metadata),
    };
    let now = diolkos_api::now();
    let item = move |object: &CachedObject| -> Result<Bytes, Failure> {
        let shown = match representation {
            Representation::Object => return Ok(object.bytes.clone()),
            Representation::Table => table::row(&kind, &parse(&object.bytes)?, include, now),
            Representation::Partial => table::partial(&parse(&object.bytes)?),
        };
        Ok(Bytes::from(shown.to_string()))
    };
    if form.yaml {
        // YAML is for people, who ask for little.
        let mut body = Vec::new();
        for part in parts(head, listing.items, item) {
            body.extend_from_slice(&part?);
        }
        return encoded(StatusCode::OK, body.into(), form);
    }
    let body = Body::from_stream(stream::iter(parts(head, listing.items, item)));
    Ok((StatusCode::OK, [(header::CONTENT_TYPE, "application/json")], body).into_response())
}

/// A list without its items, which come last.
fn list(kind: &str, api_version: String, metadata: Value) -> Value {
    json!({"kind": kind, "apiVersion": api_version, "metadata": metadata, "items": []})
}

/// The bytes of a list whose `head` ends with an empty array, and the items that go into it.
fn parts(
    head: Value,
    items: Vec<CachedObject>,
    item: impl Fn(&CachedObject) -> Result<Bytes, Failure> + Send,
) -> impl Iterator<Item = Result<Bytes, Failure>> + Send {
    let mut head = head.to_string();
    head.truncate(head.len() - "]}".len());
    let mut items = items.into_iter().peekable();
    let mut first = true;
    let chunks = std::iter::from_fn(move || {
        items.peek()?;
        let mut chunk = BytesMut::new();
        for object in items.by_ref().take(CHUNK_OBJECTS) {
            match item(&object) {
                Ok(bytes) => {
                    chunk.extend_from_slice(if first { b"" } else { b"," });
                    chunk.extend_from_slice(&bytes);
                    first = false;
                }
                // The body breaks off, which no client takes for a whole list.
                Err(failure) => return Some(Err(failure)),
            }
        }
        Some(Ok(chunk.freeze()))
    });
    let end = std::iter::once(Ok(Bytes::from_static(b"]}")));
    std::iter::once(Ok(Bytes::from(head))).chain(chunks).chain(end)
}

/// What Kubernetes answers instead of an object of most kinds when it is gone; `None` where the object is the answer:
/// it stays for a while, or is of a few kinds for which Kubernetes has it so.
pub(super) fn deleted(kind: &Kind, object: &wire::Object) -> Result<Option<wire::Object>, Failure> {
    const RETURNED: [&str; 8] = [
        "persistentvolumeclaims",
        "persistentvolumes",
        "pods",
        "podtemplates",
        "resourcequotas",
        "serviceaccounts",
        "services",
        "storageclasses",
    ];
    if RETURNED.contains(&kind.plural.as_str()) {
        return Ok(None);
    }
    let value = parse(&object.json)?;
    if kind.has_finalizers(&value) {
        return Ok(None);
    }
    let metadata = &value["metadata"];
    let mut details = json!({"name": metadata["name"]});
    if !kind.group.is_empty() {
        details["group"] = kind.group.as_str().into();
    }
    details["kind"] = kind.plural.as_str().into();
    details["uid"] = metadata["uid"].clone();
    let status = json!({
        "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "details": details,
    });
    let json = Bytes::from(status.to_string());
    Ok(Some(wire::Object { json, resource_version: 0, warnings: object.warnings.clone() }))
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
