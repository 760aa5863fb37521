//! One line for each request that changes something or was refused (target "audit"), one at debug level for the
//! others. Never a body.

use std::sync::{Arc, OnceLock};
use std::time::Instant;

use axum::extract::Request;
use axum::middleware::Next;
use axum::response::Response;
use http::header;
use uuid::Uuid;

use super::{Attributes, User, is_grpc};

/// Where the handler notes what was asked, for the line.
#[derive(Clone, Default)]
pub(crate) struct Record(Arc<Notes>);

#[derive(Default)]
struct Notes {
    asked: OnceLock<Attributes>,
    impersonated: OnceLock<String>,
}

impl Record {
    pub(crate) fn note(&self, attributes: &Attributes) {
        // A second note of one request would be about the same thing.
        let _ = self.0.asked.set(attributes.clone());
    }

    /// The request goes on in the name of somebody else.
    pub(crate) fn impersonated(&self, user: &User) {
        let _ = self.0.impersonated.set(user.name.clone());
    }
}

pub(super) async fn layer(mut request: Request, next: Next) -> Response {
    let started = Instant::now();
    let record = Record::default();
    request.extensions_mut().insert(record.clone());
    let user = request.extensions().get::<User>().map(|user| user.name.clone()).unwrap_or_default();
    let agent = request.headers().get(header::USER_AGENT).and_then(|v| v.to_str().ok()).unwrap_or("").to_owned();
    let protocol = if is_grpc(&request) { "grpc" } else { "rest" };
    let id = Uuid::new_v4();
    let response = next.run(request).await;
    if let Some(asked) = record.0.asked.get() {
        let impersonated = record.0.impersonated.get().map_or("", String::as_str);
        let code = code_of(&response);
        let latency_us = u64::try_from(started.elapsed().as_micros()).unwrap_or(u64::MAX);
        macro_rules! line {
            ($level:ident) => {
                tracing::$level!(
                    target: "audit", %id, user, impersonated, agent, protocol, verb = &*asked.verb, group = asked.group,
                    resource = asked.resource, subresource = asked.subresource, namespace = asked.namespace,
                    name = asked.name, path = asked.path, code, latency_us
                )
            };
        }
        if asked.is_read() && code < 400 { line!(debug) } else { line!(info) }
    }
    response
}

/// The HTTP code, which gRPC has as its own number in a header when the call failed before its first message.
fn code_of(response: &Response) -> u16 {
    let grpc = response.headers().get("grpc-status").and_then(|value| value.to_str().ok());
    match grpc.map(|code| tonic::Code::from_bytes(code.as_bytes())) {
        None | Some(tonic::Code::Ok) => response.status().as_u16(),
        Some(tonic::Code::InvalidArgument) => 400,
        Some(tonic::Code::Unauthenticated) => 401,
        Some(tonic::Code::PermissionDenied) => 403,
        Some(tonic::Code::NotFound) => 404,
        Some(tonic::Code::AlreadyExists | tonic::Code::Aborted) => 409,
        Some(tonic::Code::OutOfRange) => 410,
        Some(tonic::Code::ResourceExhausted) => 429,
        Some(tonic::Code::Unimplemented) => 501,
        Some(tonic::Code::Unavailable) => 503,
        Some(tonic::Code::DeadlineExceeded) => 504,
        Some(_) => 500,
    }
}
