//! Client certificates that a node asks its cluster for.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, bail};
use diolkos_api::client::{Client, Event, ListOptions, follow};
use diolkos_api::kubeconfig::Kubeconfig;
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

/// A renewal that failed is tried again after so long.
const TRY_AGAIN: Duration = Duration::from_secs(10);
/// The longest sleep before the clock is looked at again: it may be set meanwhile.
const LONGEST_SLEEP: Duration = Duration::from_secs(60);

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

impl Wish {
    /// The node's own.
    pub fn of_kubelet(node: &str) -> Self {
        Self { signer: KUBELET_SIGNER, user: format!("system:node:{node}"), group: "system:nodes" }
    }

    /// That of the node's agent.
    pub fn of_agent(node: &str) -> Self {
        Self { signer: AGENT_SIGNER, user: format!("system:diolkos:agent:{node}"), group: "system:diolkos-agents" }
    }
}

/// Renews the certificate of a kubeconfig before it ends, for ever. `client` is the node. Who uses the file follows it.
pub async fn keep(client: Client, path: PathBuf, wish: Wish) {
    loop {
        let pause = match look(&client, &path, &wish).await {
            Ok(Some(left)) => left.min(LONGEST_SLEEP),
            // Somebody else's credentials, such as a token.
            Ok(None) => return,
            Err(why) => {
                let (file, why) = (path.display(), format!("{why:#}"));
                tracing::warn!(kubeconfig = %file, why, "the certificate cannot be renewed; trying again");
                TRY_AGAIN
            }
        };
        tokio::time::sleep(pause).await;
    }
}

/// Renews what is due; how long until it is. `None` when there is no certificate to renew.
async fn look(client: &Client, path: &Path, wish: &Wish) -> anyhow::Result<Option<Duration>> {
    let mut kubeconfig = Kubeconfig::load(path)?;
    let Some(cert_pem) = &kubeconfig.client_cert_pem else { return Ok(None) };
    let (_, pem) = x509_parser::pem::parse_x509_pem(cert_pem.as_bytes()).context("the certificate is no PEM")?;
    let validity = pem.parse_x509().context("the certificate cannot be read")?.validity().clone();
    let due = due(validity.not_before.timestamp(), validity.not_after.timestamp(), &wish.user);
    let left = due.saturating_sub(diolkos_api::now().as_second());
    if let Some(left) = u64::try_from(left).ok().filter(|left| *left > 0) {
        return Ok(Some(Duration::from_secs(left)));
    }
    let granted = obtain(client, wish).await?;
    kubeconfig.client_cert_pem = Some(granted.cert_pem);
    kubeconfig.client_key_pem = Some(granted.key_pem);
    kubeconfig.save(path).with_context(|| format!("cannot write {}", path.display()))?;
    tracing::info!(kubeconfig = %path.display(), user = wish.user, "the certificate is renewed");
    Ok(Some(TRY_AGAIN))
}

/// The second of renewal: when between 70 and 90 percent of the life are over, as kubelets do it. Where in between is
/// a matter of the user's name, so that a cluster's nodes do not come all at once.
fn due(begins: i64, ends: i64, user: &str) -> i64 {
    let spread = user.bytes().fold(0_i64, |sum, byte| (sum * 31 + i64::from(byte)) % 201);
    begins.saturating_add(ends.saturating_sub(begins).max(0).saturating_mul(700 + spread) / 1000)
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
    fn a_certificate_is_renewed_between_seventy_and_ninety_percent_of_its_life() {
        let dues: Vec<i64> = (0..200).map(|node| due(1_000, 2_000, &format!("system:node:n{node}"))).collect();
        assert!(dues.iter().all(|due| (1_700..=1_900).contains(due)), "{dues:?}");
        assert!(dues.iter().collect::<std::collections::BTreeSet<_>>().len() > 20, "{dues:?}");
        assert_eq!(due(1_000, 1_000, "n"), 1_000);
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
