//! Who asks: whom the bearer token is of, or else the subject of the client certificate. Nobody else gets further than
//! the health endpoints, unless the server is told to let `system:anonymous` in.

use std::collections::BTreeMap;

use axum::extract::{Request, State};
use axum::middleware::Next;
use axum::response::Response;
use diolkos_api::status::Failure;
use http::{HeaderMap, header};
use serde_json::{Value, json};
use x509_parser::prelude::{FromDer, X509Certificate};

use super::{Record, is_discovery, is_grpc, is_health, refusal};
use crate::metrics::Metrics;
use crate::pki::ADMIN_GROUP;
use crate::serve::Peer;
use crate::tokens::Tokens;

/// The group of everybody who showed who they are.
pub(crate) const AUTHENTICATED: &str = "system:authenticated";

/// The group of everybody else.
pub(crate) const UNAUTHENTICATED: &str = "system:unauthenticated";

/// The user that nobody showed to be.
pub(crate) const ANONYMOUS: &str = "system:anonymous";

/// The group of the kubelets.
pub(crate) const NODES: &str = "system:nodes";

/// Who asks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct User {
    pub name: String,
    pub uid: String,
    pub groups: Vec<String>,
    pub extra: BTreeMap<String, Vec<String>>,
}

impl User {
    pub(crate) fn new<'a>(name: &str, groups: impl IntoIterator<Item = &'a str>) -> User {
        User {
            name: name.to_owned(),
            uid: String::new(),
            groups: groups.into_iter().map(str::to_owned).collect(),
            extra: BTreeMap::new(),
        }
    }

    /// As reviews show it.
    pub(crate) fn info(&self) -> Value {
        let mut info = json!({"username": self.name, "groups": self.groups});
        if !self.uid.is_empty() {
            info["uid"] = self.uid.clone().into();
        }
        if !self.extra.is_empty() {
            info["extra"] = json!(self.extra);
        }
        info
    }

    /// From a verified client certificate: CN is the name, each O a group.
    pub(crate) fn from_certificate(der: &[u8]) -> Result<User, String> {
        let (_, certificate) = X509Certificate::from_der(der).map_err(|cause| cause.to_string())?;
        let subject = certificate.subject();
        let name = subject.iter_common_name().next().and_then(|cn| cn.as_str().ok()).unwrap_or_default();
        if name.is_empty() {
            return Err("the client certificate has no CN".into());
        }
        let organizations = subject.iter_organization().filter_map(|o| o.as_str().ok());
        Ok(User::new(name, organizations.chain([AUTHENTICATED])))
    }

    /// Whoever asks for the health endpoints without a certificate.
    fn anonymous() -> User {
        User::new(ANONYMOUS, [UNAUTHENTICATED])
    }

    /// The node that this is, "" for a member of the nodes' group that does not say which.
    pub(crate) fn node(&self) -> Option<&str> {
        let limited = self.is_in(NODES) && !self.is_in(ADMIN_GROUP);
        limited.then(|| self.name.strip_prefix("system:node:").unwrap_or_default())
    }

    pub(crate) fn is_in(&self, group: &str) -> bool {
        self.groups.iter().any(|own| own == group)
    }
}

/// Decides who asks. Clones share everything.
#[derive(Clone)]
pub(crate) struct Authenticator {
    tokens: Tokens,
    /// Whether whoever shows nothing may ask, as `system:anonymous`.
    anonymous: bool,
    metrics: Metrics,
}

impl Authenticator {
    pub(crate) fn new(tokens: Tokens, anonymous: bool, metrics: Metrics) -> Authenticator {
        Authenticator { tokens, anonymous, metrics }
    }

    /// `shown`: the certificate's user.
    async fn user(&self, token: Option<String>, shown: Option<User>, path: &str) -> Option<User> {
        match (token, shown) {
            // A token that nobody knows is a wrong answer to "who are you", whatever the certificate says.
            (Some(token), _) => match self.tokens.check(&token, self.tokens.audiences()).await {
                Ok(bearer) => Some(bearer.user),
                Err(why) => {
                    tracing::info!(path, why, "a token was refused");
                    None
                }
            },
            (None, Some(user)) => Some(user),
            (None, None) if self.anonymous || is_health(path) || is_discovery(path) => Some(User::anonymous()),
            (None, None) => None,
        }
    }
}

/// The token of a request, if it has one: "" for what is no token.
fn bearer(headers: &HeaderMap) -> Option<String> {
    let value = headers.get(header::AUTHORIZATION)?;
    let parts = value.to_str().ok().and_then(|text| text.trim().split_once(' '));
    let token = parts.filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer")).map_or("", |(_, token)| token.trim());
    Some(token.to_owned())
}

pub(super) async fn layer(State(authenticator): State<Authenticator>, mut request: Request, next: Next) -> Response {
    let token = bearer(request.headers());
    let shown = request.extensions().get::<Peer>().and_then(|peer| peer.user.clone());
    let path = request.uri().path().to_owned();
    let Some(user) = authenticator.user(token, shown, &path).await else {
        authenticator.metrics.unauthenticated();
        return refusal(Failure::unauthorized(), is_grpc(&request));
    };
    // Nothing behind this needs it.
    request.headers_mut().remove(header::AUTHORIZATION);
    if let Some(record) = request.extensions().get::<Record>() {
        record.authenticated(&user);
    }
    request.extensions_mut().insert(user);
    next.run(request).await
}
