//! The audit log: one line of JSON for each request, in the form of Kubernetes' `audit.k8s.io/v1` Event at the level
//! Metadata: who asked what of which object, and what came of it. Never a body, a token or a header beside the agent's.

mod file;

use std::net::IpAddr;
use std::sync::{Arc, OnceLock};
use std::time::Instant;

use axum::extract::{Request, State};
use axum::middleware::Next;
use axum::response::Response;
use http::{HeaderValue, header};
use k8s_openapi::jiff::Timestamp;
use serde_json::{Value, json};
use uuid::Uuid;

use super::authorization::Decision;
use super::{Attributes, User, is_grpc};
use crate::metrics::Metrics;
use crate::serve::Peer;

pub use file::AuditOptions;

/// Longest user agent that is kept, in bytes.
const MAX_AGENT: usize = 1024;
/// Longest path that is kept, in bytes.
const MAX_URI: usize = 4096;

/// Where the stack and the handlers note what was asked and decided, for the line.
#[derive(Clone, Default)]
pub(crate) struct Record(Arc<Notes>);

#[derive(Default)]
struct Notes {
    asked: OnceLock<Attributes>,
    user: OnceLock<User>,
    impersonated: OnceLock<User>,
    decision: OnceLock<Decision>,
}

impl Record {
    // A second note of one request would be about the same thing: the first one stays.
    pub(crate) fn note(&self, attributes: &Attributes) {
        let _ = self.0.asked.set(attributes.clone());
    }

    pub(super) fn authenticated(&self, user: &User) {
        let _ = self.0.user.set(user.clone());
    }

    /// The request goes on in the name of somebody else.
    pub(super) fn impersonated(&self, user: &User) {
        let _ = self.0.impersonated.set(user.clone());
    }

    pub(crate) fn decided(&self, decision: &Decision) {
        let _ = self.0.decision.set(decision.clone());
    }
}

/// The log, if the server keeps one.
#[derive(Clone)]
pub(crate) struct Audit {
    file: Option<file::Sender>,
}

impl Audit {
    /// Opens the file; an error says why it cannot be.
    pub(crate) fn open(options: Option<AuditOptions>, metrics: &Metrics) -> anyhow::Result<Audit> {
        let file = options.map(|options| file::open(options, metrics.clone())).transpose()?;
        Ok(Audit { file })
    }
}

pub(super) async fn layer(State(audit): State<Audit>, mut request: Request, next: Next) -> Response {
    let mut open = Open { line: Line::begin(&mut request), file: audit.file, is_told: false };
    let mut response = next.run(request).await;
    if let Ok(id) = HeaderValue::from_str(&open.line.id) {
        response.headers_mut().insert("audit-id", id);
    }
    open.tell(code_of(&response));
    response
}

/// The code of a request whose client went away before the answer: what it asked for may have been done.
const CLIENT_GONE: u16 = 499;

/// A request without an answer. Its line is written also when it never gets one.
struct Open {
    line: Line,
    file: Option<file::Sender>,
    is_told: bool,
}

impl Open {
    fn tell(&mut self, code: u16) {
        self.is_told = true;
        self.line.trace(code);
        if let Some(file) = &self.file
            && !self.line.is_health
        {
            file.send(self.line.event(code).to_string());
        }
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        if !self.is_told {
            self.tell(CLIENT_GONE);
        }
    }
}

/// What is known of a request before it is answered.
struct Line {
    id: String,
    record: Record,
    received: Timestamp,
    started: Instant,
    uri: String,
    method: String,
    agent: String,
    source: Option<IpAddr>,
    grpc: bool,
    is_health: bool,
}

impl Line {
    fn begin(request: &mut Request) -> Line {
        let record = Record::default();
        request.extensions_mut().insert(record.clone());
        let agent = request.headers().get(header::USER_AGENT).and_then(|value| value.to_str().ok()).unwrap_or_default();
        let uri = request.uri().path_and_query().map_or("", |uri| uri.as_str());
        Line {
            id: Uuid::new_v4().to_string(),
            record,
            received: diolkos_api::now(),
            started: Instant::now(),
            uri: uri[..uri.floor_char_boundary(MAX_URI)].to_owned(),
            method: request.method().as_str().to_ascii_lowercase(),
            agent: agent[..agent.floor_char_boundary(MAX_AGENT)].to_owned(),
            source: request.extensions().get::<Peer>().map(|peer| peer.address),
            grpc: is_grpc(request),
            is_health: super::is_health(request.uri().path()),
        }
    }

    /// For the log of the server: what changes something or was refused, the others at debug level.
    fn trace(&self, code: u16) {
        let Some(asked) = self.record.0.asked.get() else { return };
        let name = |user: &OnceLock<User>| user.get().map(|user| user.name.clone()).unwrap_or_default();
        let (user, impersonated) = (name(&self.record.0.user), name(&self.record.0.impersonated));
        let latency_us = u64::try_from(self.started.elapsed().as_micros()).unwrap_or(u64::MAX);
        let protocol = if self.grpc { "grpc" } else { "rest" };
        macro_rules! line {
            ($level:ident) => {
                tracing::$level!(
                    target: "audit", id = %self.id, user, impersonated, agent = self.agent, protocol,
                    verb = &*asked.verb, group = asked.group, resource = asked.resource,
                    subresource = asked.subresource, namespace = asked.namespace, name = asked.name,
                    path = asked.path, code, latency_us
                )
            };
        }
        if asked.is_read() && code < 400 { line!(debug) } else { line!(info) }
    }

    fn event(&self, code: u16) -> Value {
        let notes = &self.record.0;
        let asked = notes.asked.get();
        let verb = asked.map_or(self.method.as_str(), |asked| &asked.verb);
        // A watch goes on after this.
        let stage = if verb == "watch" { "ResponseStarted" } else { "ResponseComplete" };
        let mut event = json!({
            "kind": "Event",
            "apiVersion": "audit.k8s.io/v1",
            "level": "Metadata",
            "auditID": self.id,
            "stage": stage,
            "requestURI": self.uri,
            "verb": verb,
            "user": notes.user.get().map_or_else(|| json!({}), User::info),
            "sourceIPs": self.source.iter().map(IpAddr::to_string).collect::<Vec<_>>(),
            "userAgent": self.agent,
            "responseStatus": {"metadata": {}, "code": code},
            "requestReceivedTimestamp": micros(self.received),
            "stageTimestamp": micros(diolkos_api::now()),
        });
        if code >= 400 {
            event["responseStatus"]["status"] = "Failure".into();
        }
        if let Some(other) = notes.impersonated.get() {
            event["impersonatedUser"] = other.info();
        }
        if let Some(asked) = asked.filter(|asked| !asked.resource.is_empty()) {
            event["objectRef"] = reference(asked);
        }
        if let Some(decision) = notes.decision.get() {
            let word = if decision.is_allowed() { "allow" } else { "forbid" };
            event["annotations"] = json!({
                "authorization.k8s.io/decision": word,
                "authorization.k8s.io/reason": decision.reason(),
            });
        }
        event
    }
}

fn reference(asked: &Attributes) -> Value {
    let fields = [
        ("resource", &asked.resource),
        ("namespace", &asked.namespace),
        ("name", &asked.name),
        ("apiGroup", &asked.group),
        ("apiVersion", &asked.version),
        ("subresource", &asked.subresource),
    ];
    let set = fields.into_iter().filter(|(_, value)| !value.is_empty());
    Value::Object(set.map(|(name, value)| (name.to_owned(), value.clone().into())).collect())
}

fn micros(time: Timestamp) -> String {
    time.strftime("%Y-%m-%dT%H:%M:%S%.6fZ").to_string()
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
