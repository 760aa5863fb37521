//! Certificates on request: who may have one is approved, what is approved is signed, and old requests are removed. The
//! signers are Kubernetes' own, and one for the agents of our nodes.

pub mod approve;
mod authority;
pub mod clean;
mod execute;
mod request;
pub mod sign;

use k8s_openapi::api::certificates::v1::{CertificateSigningRequest, CertificateSigningRequestCondition};

pub use authority::{Authority, AuthorityFiles};
pub(crate) use execute::{approve, sign};
pub use request::{Asked, Signer};

/// The node's own client certificate.
pub const KUBELET_CLIENT: &str = "kubernetes.io/kube-apiserver-client-kubelet";
/// The certificate with which a kubelet serves.
pub const KUBELET_SERVING: &str = "kubernetes.io/kubelet-serving";
/// Any client of the apiserver.
pub const CLIENT: &str = "kubernetes.io/kube-apiserver-client";
/// The client certificate of a node's agent, which the node itself asks for.
pub const AGENT_CLIENT: &str = "diolkos.io/agent-client";

fn conditions(request: &CertificateSigningRequest) -> &[CertificateSigningRequestCondition] {
    let status = request.status.as_ref();
    status.and_then(|status| status.conditions.as_deref()).unwrap_or_default()
}

fn has(request: &CertificateSigningRequest, condition: &str) -> bool {
    conditions(request).iter().any(|own| own.type_ == condition)
}

fn certificate(request: &CertificateSigningRequest) -> Option<&[u8]> {
    let bytes = &request.status.as_ref()?.certificate.as_ref()?.0;
    (!bytes.is_empty()).then_some(bytes)
}
