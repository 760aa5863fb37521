//! Who asks: the subject of the client certificate.

use axum::extract::Request;
use axum::middleware::Next;
use axum::response::Response;
use diolkos_api::status::Failure;
use http::header;
use x509_parser::prelude::{FromDer, X509Certificate};

use super::{is_grpc, is_health, refusal};
use crate::pki::ADMIN_GROUP;
use crate::serve::Peer;

/// The group of everybody who showed who they are.
pub(crate) const AUTHENTICATED: &str = "system:authenticated";

/// The group of the kubelets.
pub(crate) const NODES: &str = "system:nodes";

/// Who asks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct User {
    pub name: String,
    pub groups: Vec<String>,
}

impl User {
    /// From a verified client certificate: CN is the name, each O a group.
    pub(crate) fn from_certificate(der: &[u8]) -> Result<User, String> {
        let (_, certificate) = X509Certificate::from_der(der).map_err(|cause| cause.to_string())?;
        let subject = certificate.subject();
        let name = subject.iter_common_name().next().and_then(|cn| cn.as_str().ok()).unwrap_or_default();
        if name.is_empty() {
            return Err("the client certificate has no CN".into());
        }
        let organizations = subject.iter_organization().filter_map(|o| o.as_str().ok());
        let groups = organizations.chain([AUTHENTICATED]).map(str::to_owned).collect();
        Ok(User { name: name.to_owned(), groups })
    }

    /// Whoever asks for the health endpoints without a certificate.
    fn anonymous() -> User {
        User { name: "system:anonymous".into(), groups: vec!["system:unauthenticated".into()] }
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

pub(super) async fn layer(mut request: Request, next: Next) -> Response {
    // A bearer token that nobody knows is a wrong answer to "who are you", whatever the certificate says.
    let token = request.headers().contains_key(header::AUTHORIZATION);
    let user = match request.extensions().get::<Peer>() {
        Some(Peer(Some(user))) if !token => user.clone(),
        _ if is_health(request.uri().path()) => User::anonymous(),
        _ => return refusal(Failure::unauthorized(), is_grpc(&request)),
    };
    request.extensions_mut().insert(user);
    next.run(request).await
}
