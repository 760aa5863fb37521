//! What a request asks for, and what each signer lets it ask for.

use k8s_openapi::api::certificates::v1::CertificateSigningRequest;
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::extensions::{GeneralName, ParsedExtension};
use x509_parser::prelude::FromDer;

use super::{AGENT_CLIENT, CLIENT, KUBELET_CLIENT, KUBELET_SERVING};

const NODES: &str = "system:nodes";
const NODE_PREFIX: &str = "system:node:";
const AGENTS: &str = "system:diolkos-agents";
const AGENT_PREFIX: &str = "system:diolkos:agent:";

const CLIENT_AUTH: &str = "client auth";
const SERVER_AUTH: &str = "server auth";
const SIGNATURE: &str = "digital signature";
const ENCIPHERMENT: &str = "key encipherment";

/// The signers that our controller manager is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Signer {
    KubeletClient,
    KubeletServing,
    Client,
    AgentClient,
}

/// The subject and the names that a request wants in its certificate.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Asked {
    pub common_name: String,
    pub organizations: Vec<String>,
    pub dns_names: usize,
    pub addresses: usize,
    /// Mail addresses, URIs and whatever else a certificate can be for.
    pub other_names: usize,
}

impl Signer {
    /// Nothing for a signer that somebody else is.
    pub fn of(request: &CertificateSigningRequest) -> Option<Self> {
        match request.spec.signer_name.as_str() {
            KUBELET_CLIENT => Some(Self::KubeletClient),
            KUBELET_SERVING => Some(Self::KubeletServing),
            CLIENT => Some(Self::Client),
            AGENT_CLIENT => Some(Self::AgentClient),
            _ => None,
        }
    }

    /// Why this signer does not sign such a request, in the words of Kubernetes.
    pub fn refusal(self, asked: &Asked, usages: &[String]) -> Option<&'static str> {
        match self {
            Self::KubeletClient => node_client(asked, usages, NODES, NODE_PREFIX),
            Self::AgentClient => node_client(asked, usages, AGENTS, AGENT_PREFIX),
            Self::KubeletServing => serving(asked, usages),
            Self::Client => client(usages),
        }
    }
}

impl Asked {
    /// Reads the PEM of a request, and proves that the asker has the key.
    pub fn read(request: &CertificateSigningRequest) -> Result<Self, String> {
        let (_, pem) = x509_parser::pem::parse_x509_pem(&request.spec.request.0)
            .map_err(|cause| format!("spec.request is no PEM: {cause}"))?;
        let wrong = |cause: String| format!("spec.request is no request for a certificate: {cause}");
        let (_, parsed) =
            X509CertificationRequest::from_der(&pem.contents).map_err(|cause| wrong(cause.to_string()))?;
        parsed.verify_signature().map_err(|_| wrong("it is not signed by its own key".into()))?;
        let subject = &parsed.certification_request_info.subject;
        let text = |value: &x509_parser::x509::AttributeTypeAndValue<'_>| {
            value.as_str().map(str::to_owned).map_err(|cause| wrong(cause.to_string()))
        };
        let mut asked = Self {
            common_name: subject.iter_common_name().next().map(text).transpose()?.unwrap_or_default(),
            organizations: subject.iter_organization().map(text).collect::<Result<_, _>>()?,
            ..Self::default()
        };
        for extension in parsed.requested_extensions().into_iter().flatten() {
            if let ParsedExtension::SubjectAlternativeName(names) = extension {
                names.general_names.iter().for_each(|name| asked.count(name));
            }
        }
        Ok(asked)
    }

    /// The node of a kubelet's or an agent's name.
    pub fn node(&self) -> Option<&str> {
        let name = self.common_name.as_str();
        name.strip_prefix(NODE_PREFIX).or_else(|| name.strip_prefix(AGENT_PREFIX))
    }

    fn count(&mut self, name: &GeneralName<'_>) {
        match name {
            GeneralName::DNSName(_) => self.dns_names += 1,
            GeneralName::IPAddress(_) => self.addresses += 1,
            _ => self.other_names += 1,
        }
    }
}

fn node_client(asked: &Asked, usages: &[String], group: &str, prefix: &str) -> Option<&'static str> {
    if asked.organizations != [group] {
        return Some("subject organization is not system:nodes");
    }
    if asked.dns_names > 0 {
        return Some("DNS subjectAltNames are not allowed");
    }
    if asked.addresses > 0 {
        return Some("IP subjectAltNames are not allowed");
    }
    if asked.other_names > 0 {
        return Some("Email and URI subjectAltNames are not allowed");
    }
    if asked.common_name.strip_prefix(prefix).is_none_or(str::is_empty) {
        return Some("subject common name does not begin with system:node:");
    }
    let fits = are(usages, &[SIGNATURE, CLIENT_AUTH]) || are(usages, &[SIGNATURE, ENCIPHERMENT, CLIENT_AUTH]);
    (!fits).then_some("usages did not match [key encipherment, digital signature, client auth]")
}

fn serving(asked: &Asked, usages: &[String]) -> Option<&'static str> {
    if asked.organizations != [NODES] {
        return Some("subject organization is not system:nodes");
    }
    if asked.dns_names + asked.addresses == 0 {
        return Some("DNS or IP subjectAltName is required");
    }
    if asked.other_names > 0 {
        return Some("Email and URI subjectAltNames are not allowed");
    }
    if asked.common_name.strip_prefix(NODE_PREFIX).is_none_or(str::is_empty) {
        return Some("subject common name does not begin with system:node:");
    }
    let fits = are(usages, &[SIGNATURE, SERVER_AUTH]) || are(usages, &[SIGNATURE, ENCIPHERMENT, SERVER_AUTH]);
    (!fits).then_some("usages did not match [key encipherment, digital signature, server auth]")
}

fn client(usages: &[String]) -> Option<&'static str> {
    let allowed = |usage: &String| [SIGNATURE, ENCIPHERMENT, CLIENT_AUTH].contains(&usage.as_str());
    let fits = usages.iter().all(allowed) && usages.iter().any(|usage| usage == CLIENT_AUTH);
    (!fits).then_some("usages did not match [key encipherment, digital signature, client auth]")
}

/// The same, in any order.
fn are(usages: &[String], wanted: &[&str]) -> bool {
    usages.len() == wanted.len() && wanted.iter().all(|usage| usages.iter().any(|own| own == usage))
}
