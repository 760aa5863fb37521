//! A watch as lines of JSON, for as long as it lasts.

use std::convert::Infallible;
use std::sync::Arc;

use axum::body::Body;
use axum::response::{IntoResponse, Response};
use bytes::{Bytes, BytesMut};
use diolkos_api::kind::Kind;
use diolkos_api::wire::watch_event::Type;
use futures::StreamExt as _;
use http::{StatusCode, header};
use serde_json::Value;

use super::negotiation::{Form, Representation};
use super::parameters::Parameters;
use super::table;
use crate::handlers::{Event, Events, bookmark};

pub(super) fn response(kind: Arc<Kind>, events: Events, form: &Form, parameters: &Parameters) -> Response {
    let (representation, include) = (form.representation, parameters.include_object);
    let mut first = true;
    let lines = events.map(move |event| {
        let (name, object) = match event {
            Event::Change { what, object } => (name(what), object.bytes.clone()),
            Event::Bookmark { revision, initial_events_end } => {
                ("BOOKMARK", bookmark(&kind, revision, initial_events_end))
            }
            Event::Failed(failure) => return Ok::<_, Infallible>(line("ERROR", &failure.to_json())),
        };
        let shown = match representation {
            Representation::Object => object,
            _ => {
                let value: Value = serde_json::from_slice(&object).unwrap_or(Value::Null);
                let shown = match representation {
                    Representation::Table => table::event_table(&kind, &value, include, std::mem::take(&mut first)),
                    _ => table::partial(&value),
                };
                Bytes::from(shown.to_string())
            }
        };
        Ok(line(name, &shown))
    });
    (StatusCode::OK, [(header::CONTENT_TYPE, "application/json")], Body::from_stream(lines)).into_response()
}

fn name(what: Type) -> &'static str {
    match what {
        Type::Added => "ADDED",
        Type::Modified => "MODIFIED",
        Type::Deleted => "DELETED",
        Type::Bookmark => "BOOKMARK",
        Type::Error | Type::Unspecified => "ERROR",
    }
}

fn line(name: &str, object: &[u8]) -> Bytes {
    let mut line = BytesMut::with_capacity(object.len() + name.len() + 24);
    line.extend_from_slice(b"{\"type\":\"");
    line.extend_from_slice(name.as_bytes());
    line.extend_from_slice(b"\",\"object\":");
    line.extend_from_slice(object);
    line.extend_from_slice(b"}\n");
    line.freeze()
}
