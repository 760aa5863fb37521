//! What every request passes before its handler, gRPC and REST alike: authentication, audit, limits, impersonation; and
//! the authorization that the handlers ask once they know what is wanted (gRPC says so in its messages only).

mod audit;
mod authentication;
pub(crate) mod authorization;
mod impersonation;
mod limits;

use axum::Router;
use axum::middleware::from_fn_with_state;
use axum::response::{IntoResponse, Response};
use diolkos_api::status::Failure;
use http::{HeaderValue, Request, StatusCode, header};

pub use audit::AuditOptions;
pub(crate) use audit::{Audit, Record};
pub(crate) use authentication::{AUTHENTICATED, Authenticator, UNAUTHENTICATED, User};
pub(crate) use authorization::{Attributes, Authorizer};
pub(crate) use impersonation::account_groups;
pub use limits::UserLimits;
pub(crate) use limits::{Limits, MAX_BODY_BYTES, Users, What};

/// What the layers need.
pub(crate) struct Layers {
    pub audit: Audit,
    pub authenticator: Authenticator,
    pub limits: Limits,
    pub authorizer: Authorizer,
}

/// Wraps the routes. Audit stands around authentication, so that its log has those who were not let in, too.
pub(crate) fn wrap(routes: Router, layers: Layers) -> Router {
    let Layers { audit, authenticator, limits, authorizer } = layers;
    routes
        .layer(from_fn_with_state(authorizer, impersonation::layer))
        .layer(from_fn_with_state(limits, limits::layer))
        .layer(from_fn_with_state(authenticator, authentication::layer))
        .layer(from_fn_with_state(audit, audit::layer))
}

/// Paths that tell how the server does; open to all.
pub(crate) fn is_health(path: &str) -> bool {
    ["/healthz", "/livez", "/readyz"]
        .iter()
        .any(|root| path.strip_prefix(root).is_some_and(|rest| rest.is_empty() || rest.starts_with('/')))
}

/// What a machine reads before it knows whom to trust. Open to be asked for; roles say whether it is answered.
const DISCOVERY: &str = "/api/v1/namespaces/kube-public/configmaps/cluster-info";

pub(crate) fn is_discovery(path: &str) -> bool {
    path == DISCOVERY
}

pub(crate) fn is_grpc<B>(request: &Request<B>) -> bool {
    request
        .headers()
        .get(header::CONTENT_TYPE)
        .and_then(|value| value.to_str().ok())
        .is_some_and(|value| value.starts_with("application/grpc"))
}

/// A failure in the form that the request's protocol has for it.
pub(crate) fn refusal(failure: Failure, grpc: bool) -> Response {
    if grpc { tonic::Status::from(failure).into_http() } else { failure_response(&failure) }
}

/// A failure as REST answers it: its `Status` as JSON.
pub(crate) fn failure_response(failure: &Failure) -> Response {
    let code = StatusCode::from_u16(failure.code()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let mut response = (code, failure.to_json()).into_response();
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    let retry_after = failure.status().details.as_ref().and_then(|details| details.retry_after_seconds);
    if let Some(seconds) = retry_after {
        response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(seconds));
    }
    response
}
