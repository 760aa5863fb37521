//! Client certificates that a node asks its cluster for.

use std::time::Duration;

use anyhow::{Context as _, bail};
use diolkos_api::client::{Client, Event, ListOptions, follow};
use futures::StreamExt as _;
use k8s_openapi::ByteString;
use k8s_openapi::api::certificates::v1::{CertificateSigningRequest, CertificateSigningRequestSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use rcgen::{CertificateParams, DistinguishedName, DnType, KeyPair};

/// Signs the certificates of kubelets.
pub const KUBELET_SIGNER: &str = "kubernetes.io/kube-apiserver-client-kubelet";
/// Signs the certificates of agents.
pub const AGENT_SIGNER: &str = "diolkos.io/agent-client";
/// How long an answer may take: the controllers may have to win their Lease first.
const PATIENCE: Duration = Duration::from_secs(60);

/// Who a certificate is for, and who signs it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wish {
    pub signer: &'static str,
    pub user: String,
    pub group: &'static str,
}

/// A certificate and its key, PEM.
#[derive(Clone)]
pub struct Granted {
    pub cert_pem: String,
    pub key_pem: String,
}

/// Asks for a certificate for a new key, and waits for it to be approved and signed.
pub async fn obtain(client: &Client, wish: &Wish) -> anyhow::Result<Granted> {
    let (key_pem, request) = request(wish)?;
    let created = client.api(None).create(&request).await.context("the request for a certificate was refused")?;
    let name = created.metadata.name.unwrap_or_default();
    tracing::info!(request = name, user = wish.user, "asked for a certificate");
    let asked = ListOptions::fields(format!("metadata.name={name}"));
    let mut events = follow::<CertificateSigningRequest>(client.clone(), None, asked);
    let answer = async {
        while let Some(event) = events.next().await {
            let states = match event {
                Event::Restarted(states) => states,
                Event::Applied(state) => vec![state],
                Event::Deleted(_) => bail!("the request {name} was deleted before it was signed"),
            };
            for state in &states {
                if let Some(cert_pem) = decided(state)? {
                    return Ok(cert_pem);
                }
            }
        }
        bail!("the server told nothing more of the request {name}")
    };
    match tokio::time::timeout(PATIENCE, answer).await {
        Ok(cert_pem) => Ok(Granted { cert_pem: cert_pem?, key_pem }),
        Err(_) => bail!(
            "the request {name} was not signed within {} s: does the controller manager run, and may {} have this \
             certificate? `kubectl certificate approve {name}` lets it",
            PATIENCE.as_secs(),
            wish.user
        ),
    }
}

/// A new key, and what to send for it.
fn request(wish: &Wish) -> anyhow::Result<(String, CertificateSigningRequest)> {
    let key = KeyPair::generate().context("cannot make a key")?;
    let mut params = CertificateParams::new(Vec::new())?;
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::OrganizationName, wish.group);
    params.distinguished_name.push(DnType::CommonName, wish.user.as_str());
    let pem = params.serialize_request(&key).and_then(|request| request.pem()).context("cannot make a request")?;
    let request = CertificateSigningRequest {
        metadata: ObjectMeta { generate_name: Some("csr-".into()), ..ObjectMeta::default() },
        spec: CertificateSigningRequestSpec {
            request: ByteString(pem.into_bytes()),
            signer_name: wish.signer.into(),
            usages: Some(vec!["digital signature".into(), "client auth".into()]),
            ..CertificateSigningRequestSpec::default()
        },
        status: None,
    };
    Ok((key.serialize_pem(), request))
}

/// The certificate, when there is one; an error when there will be none.
fn decided(state: &CertificateSigningRequest) -> anyhow::Result<Option<String>> {
    let Some(status) = &state.status else { return Ok(None) };
    for condition in status.conditions.iter().flatten() {
        if ["Denied", "Failed"].contains(&condition.type_.as_str()) {
            let why = condition.message.as_deref().or(condition.reason.as_deref()).unwrap_or("no reason is told");
            bail!("the request for a certificate was refused ({}): {why}", condition.type_);
        }
    }
    let pem = status.certificate.as_ref().filter(|bytes| !bytes.0.is_empty());
    pem.map(|bytes| String::from_utf8(bytes.0.clone()).context("the certificate is no text")).transpose()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use serde_json::json;

    use super::*;

    fn state(status: serde_json::Value) -> CertificateSigningRequest {
        let wish = Wish { signer: KUBELET_SIGNER, user: "system:node:n1".into(), group: "system:nodes" };
        let (_, request) = request(&wish).unwrap();
        CertificateSigningRequest { status: Some(serde_json::from_value(status).unwrap()), ..request }
    }

    #[test]
    fn a_request_says_who_it_is_for_and_a_key_is_used_once() {
        let wish = Wish { signer: KUBELET_SIGNER, user: "system:node:n1".into(), group: "system:nodes" };
        let ((key, first), (other, _)) = (request(&wish).unwrap(), request(&wish).unwrap());
        assert_ne!(key, other);
        assert_eq!(first.spec.signer_name, KUBELET_SIGNER);
        let pem = String::from_utf8(first.spec.request.0).unwrap();
        assert!(pem.starts_with("-----BEGIN CERTIFICATE REQUEST-----"), "{pem}");
    }

    #[test]
    fn a_request_is_waited_for_until_it_is_decided() {
        assert_eq!(decided(&state(json!({"conditions": [{"type": "Approved", "status": "True"}]}))).unwrap(), None);
        assert_eq!(decided(&state(json!({"certificate": "cGVt"}))).unwrap(), Some("pem".into()));
        let denied = json!({"conditions": [{"type": "Denied", "status": "True", "message": "not you"}]});
        let why = decided(&state(denied)).unwrap_err().to_string();
        assert!(why.contains("Denied") && why.contains("not you"), "{why}");
    }
}
