//! Failures, as Kubernetes says them: one `Status` object with reason, code and causes, the same over gRPC and REST.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ListMeta, Status, StatusDetails};
use tonic::Code;

use crate::kind::Kind;

pub use k8s_openapi::apimachinery::pkg::apis::meta::v1::StatusCause;

/// Why a request was not fulfilled: a Kubernetes `Status` with `status: Failure`. It crosses gRPC unchanged.
#[derive(Clone, PartialEq)]
pub struct Failure(Box<Status>);

/// A group and the plural of one of its kinds (or, where Kubernetes does so, the kind itself), as messages name it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct GroupResource<'a> {
    /// "" for the core group.
    pub group: &'a str,
    pub resource: &'a str,
}

/// Longest `Status` JSON that travels in the trailers of a gRPC call, in bytes: receivers refuse headers beyond 16 KiB,
/// and base64 adds a third.
const MAX_STATUS_BYTES: usize = 8 << 10;

impl Failure {
    /// 400: the request cannot be understood.
    pub fn bad_request(message: impl Into<String>) -> Self {
        Self::new(400, "BadRequest", message.into(), None)
    }

    /// 401: nobody known sent this.
    pub fn unauthorized() -> Self {
        Self::new(401, "Unauthorized", "Unauthorized".into(), None)
    }

    /// 403: `user` may not do this. `subresource`, `namespace` and `name` may be "".
    pub fn forbidden(
        user: &str,
        verb: &str,
        resource: GroupResource<'_>,
        subresource: &str,
        namespace: &str,
        name: &str,
    ) -> Self {
        let what = if subresource.is_empty() {
            resource.resource.to_owned()
        } else {
            format!("{}/{subresource}", resource.resource)
        };
        let place = if namespace.is_empty() {
            "at the cluster scope".to_owned()
        } else {
            format!("in the namespace \"{namespace}\"")
        };
        let subject = if name.is_empty() { resource.to_string() } else { format!("{resource} \"{name}\"") };
        let group = resource.group;
        let message = format!(
            "{subject} is forbidden: User \"{user}\" cannot {verb} resource \"{what}\" in API group \"{group}\" {place}"
        );
        Self::new(403, "Forbidden", message, Some(details(resource, name)))
    }

    /// With a further reason after the message.
    pub fn because(mut self, reason: &str) -> Self {
        let message = self.0.message.take().unwrap_or_default();
        self.0.message = Some(format!("{message}: {reason}"));
        self
    }

    /// 403: `user` may not use this path, which is not one of a resource.
    pub fn forbidden_path(user: &str, verb: &str, path: &str) -> Self {
        let message = format!("forbidden: User \"{user}\" cannot {verb} path \"{path}\"");
        Self::new(403, "Forbidden", message, Some(StatusDetails::default()))
    }

    /// 403: allowed in general, but not this: `why` says what stands against it.
    pub fn refused(resource: GroupResource<'_>, name: &str, why: &str) -> Self {
        let message = format!("{resource} \"{name}\" is forbidden: {why}");
        Self::new(403, "Forbidden", message, Some(details(resource, name)))
    }

    /// 404: there is no such object.
    pub fn not_found(resource: GroupResource<'_>, name: &str) -> Self {
        let message = format!("{resource} \"{name}\" not found");
        Self::new(404, "NotFound", message, Some(details(resource, name)))
    }

    /// 404: there is no such resource or subresource.
    pub fn no_such_resource() -> Self {
        let message = "the server could not find the requested resource";
        Self::new(404, "NotFound", message.into(), Some(StatusDetails::default()))
    }

    /// 405: the resource has no such verb.
    pub fn method_not_allowed() -> Self {
        let message = "the server does not allow this method on the requested resource";
        Self::new(405, "MethodNotAllowed", message.into(), Some(StatusDetails::default()))
    }

    /// 406: no representation the client accepts.
    pub fn not_acceptable(available: &[&str]) -> Self {
        let message = format!("406: Not Acceptable\n\nAvailable representations: {}", available.join(", "));
        Self::new(406, "NotAcceptable", message, Some(StatusDetails::default()))
    }

    /// 406, as discovery says it.
    pub fn not_accepted(available: &[&str]) -> Self {
        let message = format!("only the following media types are accepted: {}", available.join(", "));
        Self::new(406, "NotAcceptable", message, None)
    }

    /// 409: the name is taken.
    pub fn already_exists(resource: GroupResource<'_>, name: &str) -> Self {
        let message = format!("{resource} \"{name}\" already exists");
        Self::new(409, "AlreadyExists", message, Some(details(resource, name)))
    }

    /// 409: the present state stands against it; `why` ends the sentence.
    pub fn conflict(resource: GroupResource<'_>, name: &str, why: &str) -> Self {
        let message = format!("Operation cannot be fulfilled on {resource} \"{name}\": {why}");
        Self::new(409, "Conflict", message, Some(details(resource, name)))
    }

    /// 409: somebody else wrote the object since it was read.
    pub fn modified(resource: GroupResource<'_>, name: &str) -> Self {
        let why = "the object has been modified; please apply your changes to the latest version and try again";
        Self::conflict(resource, name, why)
    }

    /// 410: the version asked for is no longer in the history.
    pub fn expired(message: impl Into<String>) -> Self {
        Self::new(410, "Expired", message.into(), None)
    }

    /// 410: a watch from a version before the first that is still known.
    pub fn too_old_resource_version(asked: i64, oldest: i64) -> Self {
        Self::expired(format!("too old resource version: {asked} ({oldest})"))
    }

    /// 413: more than the server takes in one request, in bytes.
    pub fn payload_too_large(limit: usize) -> Self {
        let message = format!("Request entity too large: limit is {limit}");
        Self::new(413, "RequestEntityTooLarge", message, Some(StatusDetails::default()))
    }

    /// 415: a body in a format the server does not read.
    pub fn unsupported_media_type(accepted: &[&str]) -> Self {
        let message = format!(
            "the body of the request was in an unknown format - accepted media types include: {}",
            accepted.join(", ")
        );
        Self::new(415, "UnsupportedMediaType", message, None)
    }

    /// 422: the object breaks the rules of its kind; a cause for each field.
    pub fn invalid(kind: &Kind, name: &str, causes: Vec<StatusCause>) -> Self {
        Self::invalid_object(GroupResource { group: &kind.group, resource: &kind.kind }, name, causes)
    }

    /// 422: the options of a request ("ListOptions", "DeleteOptions") contradict each other.
    pub fn invalid_options(kind: &str, causes: Vec<StatusCause>) -> Self {
        Self::invalid_object(GroupResource { group: "meta.k8s.io", resource: kind }, "", causes)
    }

    fn invalid_object(kind: GroupResource<'_>, name: &str, causes: Vec<StatusCause>) -> Self {
        let messages: Vec<String> = causes.iter().map(cause_text).collect();
        let list = match messages.as_slice() {
            [one] => one.clone(),
            many => format!("[{}]", many.join(", ")),
        };
        let message = format!("{kind} \"{name}\" is invalid: {list}");
        let details = StatusDetails { causes: Some(causes), ..details(kind, name) };
        Self::new(422, "Invalid", message, Some(details))
    }

    /// 409: an applied configuration would change fields of other managers; a cause for each field.
    pub fn apply_conflict(message: String, causes: Vec<StatusCause>) -> Self {
        let details = StatusDetails { causes: Some(causes), ..StatusDetails::default() };
        Self::new(409, "Conflict", message, Some(details))
    }

    /// 429: the caller asks too often; try again after so many seconds.
    pub fn too_many_requests(message: impl Into<String>, retry_after_seconds: i32) -> Self {
        let details = StatusDetails { retry_after_seconds: Some(retry_after_seconds), ..Default::default() };
        Self::new(429, "TooManyRequests", message.into(), Some(details))
    }

    /// 500: a fault of the server.
    pub fn internal(message: impl fmt::Display) -> Self {
        let text = message.to_string();
        let causes = Some(vec![StatusCause { message: Some(text.clone()), ..Default::default() }]);
        let details = StatusDetails { causes, ..Default::default() };
        Self::new(500, "InternalError", format!("Internal error occurred: {text}"), Some(details))
    }

    /// 501: part of the API that this server does not have.
    pub fn unimplemented(message: impl Into<String>) -> Self {
        Self::new(501, "NotImplemented", message.into(), None)
    }

    /// 503: the server or what it needs is away; worth another try.
    pub fn unavailable(message: impl Into<String>) -> Self {
        Self::new(503, "ServiceUnavailable", message.into(), None)
    }

    /// 504: it took too long; whether it happened is not known.
    pub fn timeout(message: impl Into<String>) -> Self {
        Self::new(504, "Timeout", format!("Timeout: {}", message.into()), Some(StatusDetails::default()))
    }

    /// 504: a version from the future was asked for.
    pub fn too_large_resource_version(asked: i64, current: i64) -> Self {
        let cause = StatusCause {
            reason: Some("ResourceVersionTooLarge".into()),
            message: Some("Too large resource version".into()),
            field: None,
        };
        let details =
            StatusDetails { causes: Some(vec![cause]), retry_after_seconds: Some(1), ..StatusDetails::default() };
        let message = format!("Timeout: Too large resource version: {asked}, current: {current}");
        Self::new(504, "Timeout", message, Some(details))
    }

    /// The whole `Status`.
    pub fn status(&self) -> &Status {
        &self.0
    }

    /// The HTTP code.
    pub fn code(&self) -> u16 {
        self.0.code.and_then(|code| u16::try_from(code).ok()).unwrap_or(500)
    }

    /// The reason in one word, as "NotFound"; "" when there is none.
    pub fn reason(&self) -> &str {
        self.0.reason.as_deref().unwrap_or_default()
    }

    /// The causes, one for each field that is wrong.
    pub fn causes(&self) -> &[StatusCause] {
        self.0.details.as_ref().and_then(|details| details.causes.as_deref()).unwrap_or_default()
    }

    pub fn is_not_found(&self) -> bool {
        self.code() == 404
    }

    pub fn is_already_exists(&self) -> bool {
        self.reason() == "AlreadyExists"
    }

    pub fn is_conflict(&self) -> bool {
        self.reason() == "Conflict"
    }

    pub fn is_expired(&self) -> bool {
        self.code() == 410
    }

    /// Nothing was wrong with the request itself: the same one may succeed later.
    pub fn is_retriable(&self) -> bool {
        matches!(self.code(), 429 | 500 | 503 | 504)
    }

    /// With a cause beside the message.
    pub fn with_cause(mut self, cause: StatusCause) -> Self {
        self.0.details.get_or_insert_default().causes.get_or_insert_default().push(cause);
        self
    }

    /// With a token from which a list goes on, at another version than it began.
    pub fn with_continue(mut self, token: String) -> Self {
        self.0.metadata = ListMeta { continue_: Some(token), ..ListMeta::default() };
        self
    }

    /// The `Status` as JSON, as a body of REST and the object of an ERROR event.
    pub fn to_json(&self) -> Vec<u8> {
        // Strings and numbers always serialize.
        serde_json::to_vec(&*self.0).unwrap_or_default()
    }

    /// Reads what [`Failure::to_json`] wrote.
    pub fn from_json(json: &[u8]) -> Result<Self, serde_json::Error> {
        serde_json::from_slice(json).map(|status| Self(Box::new(status)))
    }

    /// What a call failed with: the `Status` of the server, or for a failure of the transport 503 ServiceUnavailable
    /// with the whole chain of reasons.
    pub fn from_grpc(status: tonic::Status) -> Self {
        if let Ok(failure) = Self::from_json(status.details()) {
            return failure;
        }
        let mut message = status.message().to_owned();
        let mut source = std::error::Error::source(&status);
        while let Some(reason) = source {
            let text = reason.to_string();
            if !message.contains(&text) {
                message = format!("{message}: {text}");
            }
            source = reason.source();
        }
        match status.code() {
            Code::Unauthenticated => Self::unauthorized(),
            Code::Unimplemented => Self::unimplemented(message),
            Code::DeadlineExceeded => Self::timeout(message),
            Code::Internal | Code::DataLoss => Self::internal(message),
            Code::InvalidArgument | Code::OutOfRange => Self::bad_request(message),
            Code::ResourceExhausted => Self::too_many_requests(message, 1),
            _ => Self::unavailable(message),
        }
    }

    fn new(code: i32, reason: &str, message: String, details: Option<StatusDetails>) -> Self {
        Self(Box::new(Status {
            code: Some(code),
            details,
            message: Some(message),
            metadata: ListMeta::default(),
            reason: Some(reason.into()),
            status: Some("Failure".into()),
        }))
    }

    fn grpc_code(&self) -> Code {
        match self.code() {
            400 | 406 | 415 | 422 => Code::InvalidArgument,
            401 => Code::Unauthenticated,
            403 => Code::PermissionDenied,
            404 => Code::NotFound,
            405 | 501 => Code::Unimplemented,
            409 if self.is_already_exists() => Code::AlreadyExists,
            409 => Code::Aborted,
            410 => Code::OutOfRange,
            413 | 429 => Code::ResourceExhausted,
            503 => Code::Unavailable,
            504 => Code::DeadlineExceeded,
            _ => Code::Internal,
        }
    }
}

impl From<Failure> for tonic::Status {
    fn from(mut failure: Failure) -> Self {
        let mut json = failure.to_json();
        while json.len() > MAX_STATUS_BYTES {
            shorten(&mut failure.0);
            json = failure.to_json();
        }
        let message = failure.0.message.clone().unwrap_or_default();
        tonic::Status::with_details(failure.grpc_code(), message, json.into())
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.0.message.as_deref().unwrap_or_default())
    }
}

impl fmt::Debug for Failure {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{} {}: {self}", self.code(), self.reason())
    }
}

impl std::error::Error for Failure {}

impl fmt::Display for GroupResource<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.resource)?;
        if self.group.is_empty() { Ok(()) } else { write!(formatter, ".{}", self.group) }
    }
}

/// The token with which a list goes on: after `start` (a key relative to the collection's prefix), at version `rv`
/// (-1 for the newest).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Continue {
    pub resource_version: i64,
    /// The first key of the rest, relative to the collection: "namespace/name\0".
    pub start: String,
}

impl Continue {
    /// As Kubernetes writes it: base64url of JSON.
    pub fn encode(&self) -> String {
        let json = serde_json::json!({"v": "meta.k8s.io/v1", "rv": self.resource_version, "start": self.start});
        URL_SAFE_NO_PAD.encode(json.to_string().replace('\0', "\\u0000"))
    }

    /// Fails with 400 for a token that is not one of ours, or whose key would leave its collection. Kubernetes' tokens
    /// of kinds without namespaces have a slash first.
    pub fn decode(token: &str) -> Result<Self, Failure> {
        let wrong =
            |why: &str| Failure::bad_request(format!("invalid continue token: continue key is not valid: {why}"));
        let bytes = URL_SAFE_NO_PAD.decode(token.trim_end_matches('=')).map_err(|error| wrong(&error.to_string()))?;
        let json: serde_json::Value = serde_json::from_slice(&bytes).map_err(|error| wrong(&error.to_string()))?;
        if json["v"] != "meta.k8s.io/v1" {
            let version = json["v"].as_str().unwrap_or_default();
            return Err(wrong(&format!("server does not recognize this encoded version {version}")));
        }
        let resource_version = json["rv"].as_i64().unwrap_or(0);
        let start = json["start"].as_str().unwrap_or_default();
        if resource_version == 0 {
            return Err(wrong("incorrect encoded start resourceVersion (version meta.k8s.io/v1)"));
        }
        if start.is_empty() {
            return Err(wrong("encoded start key empty (version meta.k8s.io/v1)"));
        }
        let within = start.strip_prefix('/').unwrap_or(start);
        if within.split('/').any(|part| matches!(part, "" | "." | "..")) {
            return Err(wrong(start));
        }
        Ok(Self { resource_version, start: within.to_owned() })
    }
}

fn details(resource: GroupResource<'_>, name: &str) -> StatusDetails {
    let text = |value: &str| Some(value.to_owned()).filter(|value| !value.is_empty());
    StatusDetails { name: text(name), group: text(resource.group), kind: text(resource.resource), ..Default::default() }
}

fn cause_text(cause: &StatusCause) -> String {
    let message = cause.message.as_deref().unwrap_or_default();
    match cause.field.as_deref() {
        None | Some("") => message.to_owned(),
        Some(field) => format!("{field}: {message}"),
    }
}

/// Drops the last causes first, then halves the longest text.
fn shorten(status: &mut Status) {
    if let Some(causes) = status.details.as_mut().and_then(|details| details.causes.as_mut())
        && causes.len() > 8
    {
        causes.truncate(causes.len() / 2);
        return;
    }
    let causes = status.details.iter_mut().flat_map(|details| details.causes.iter_mut().flatten());
    let texts = causes.filter_map(|cause| cause.message.as_mut()).chain(status.message.as_mut());
    if let Some(longest) = texts.max_by_key(|text| text.len()) {
        let half = longest.floor_char_boundary(longest.len() / 2);
        longest.truncate(half);
        longest.push_str("...");
    }
}
