//! Approving: a node's own client certificate, to those who may have it. All else waits for an administrator.

use std::sync::Arc;

use k8s_openapi::api::certificates::v1::CertificateSigningRequest;
use k8s_openapi::jiff::Timestamp;

use super::{Asked, Signer, certificate, has};
use crate::object::{Action, Key};
use crate::view::View;

/// What a node may that renews its own certificate, and what a machine may that is to become a node.
const OWN: &str = "selfnodeclient";
const NEW: &str = "nodeclient";

/// Asks for the approval of what is recognized and not decided yet.
pub fn reconcile(view: &View, key: &Key, _: Timestamp) -> Vec<Action> {
    let Some(request) = view.certificate_requests.get("", &key.name) else { return Vec::new() };
    let decided = has(request, "Approved") || has(request, "Denied") || certificate(request).is_some();
    if decided || request.metadata.deletion_timestamp.is_some() {
        return Vec::new();
    }
    match recognized(request) {
        permissions if permissions.is_empty() => Vec::new(),
        permissions => vec![Action::Approve { request: Arc::clone(request), permissions }],
    }
}

/// The permissions of which one is enough; none for what is not ours to approve.
fn recognized(request: &CertificateSigningRequest) -> Vec<&'static str> {
    let signer = match Signer::of(request) {
        Some(signer @ (Signer::KubeletClient | Signer::AgentClient)) => signer,
        _ => return Vec::new(),
    };
    // What cannot be read is the signer's to refuse.
    let Ok(asked) = Asked::read(request) else { return Vec::new() };
    if signer.refusal(&asked, request.spec.usages.as_deref().unwrap_or_default()).is_some() {
        return Vec::new();
    }
    let user = request.spec.username.as_deref().unwrap_or_default();
    let own = asked.node().is_some_and(|node| user.strip_prefix("system:node:") == Some(node));
    match (signer, own) {
        (Signer::KubeletClient, true) => vec![OWN, NEW],
        (Signer::KubeletClient, false) => vec![NEW],
        // The certificate of an agent is for the node that it works on, and for nobody else.
        (_, true) => vec![OWN],
        (_, false) => Vec::new(),
    }
}
