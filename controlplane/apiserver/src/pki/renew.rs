//! Renewal: a certificate in the last third of its life is replaced by one with the same subject, names and key. With the
//! key kept, the file of the certificate is all that changes, and no crash can leave a certificate without its key.

use std::path::Path;

use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

use super::{Authority, Identity, Leaf, PkiError, files, issue};

/// The life of a certificate, in seconds since 1970.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Life {
    pub begins: i64,
    pub ends: i64,
}

impl Life {
    /// Of the first certificate of a PEM text.
    pub fn of(cert_pem: &str) -> Result<Life, String> {
        let (_, pem) = x509_parser::pem::parse_x509_pem(cert_pem.as_bytes()).map_err(|cause| cause.to_string())?;
        let (_, cert) = X509Certificate::from_der(&pem.contents).map_err(|cause| cause.to_string())?;
        let validity = cert.validity();
        Ok(Life { begins: validity.not_before.timestamp(), ends: validity.not_after.timestamp() })
    }

    /// Whether it is time for the next one.
    pub fn is_due(&self, now: i64) -> bool {
        now >= self.begins.saturating_add(self.ends.saturating_sub(self.begins).saturating_mul(2) / 3)
    }
}

/// The next certificate, where the present one is due and this authority has signed it; written to its file.
pub(super) fn renewed(
    dir: &Path,
    name: &str,
    authority: &Authority,
    present: &Identity,
    leaf: &Leaf<'_>,
    now: i64,
) -> Result<Option<Identity>, PkiError> {
    let path = dir.join(format!("{name}.crt"));
    let invalid = |cause: String| PkiError::Invalid { path: path.clone(), cause };
    if !Life::of(&present.cert_pem).map_err(invalid)?.is_due(now) || !is_signed_by(authority, &present.cert_pem) {
        return Ok(None);
    }
    let names = names(&present.cert_pem).map_err(invalid)?;
    let identity = issue(authority, &Leaf { names: &names, ..*leaf }, Some(&present.key_pem))?;
    files::write_private(&path, identity.cert_pem.as_bytes())?;
    tracing::info!(certificate = %path.display(), "renewed");
    Ok(Some(identity))
}

fn is_signed_by(authority: &Authority, cert_pem: &str) -> bool {
    let issuer = |pem: &str, subject: bool| -> Option<Vec<u8>> {
        let (_, pem) = x509_parser::pem::parse_x509_pem(pem.as_bytes()).ok()?;
        let (_, cert) = X509Certificate::from_der(&pem.contents).ok()?;
        Some(if subject { cert.subject().as_raw().to_vec() } else { cert.issuer().as_raw().to_vec() })
    };
    issuer(cert_pem, false).is_some_and(|name| Some(name) == issuer(&authority.cert_pem, true))
}

/// The names and addresses that a certificate holds.
fn names(cert_pem: &str) -> Result<Vec<String>, String> {
    let (_, pem) = x509_parser::pem::parse_x509_pem(cert_pem.as_bytes()).map_err(|cause| cause.to_string())?;
    let (_, cert) = X509Certificate::from_der(&pem.contents).map_err(|cause| cause.to_string())?;
    let held = cert.subject_alternative_name().map_err(|cause| cause.to_string())?;
    let held = held.map(|extension| extension.value.general_names.as_slice()).unwrap_or_default();
    Ok(held.iter().filter_map(text).collect())
}

fn text(name: &GeneralName<'_>) -> Option<String> {
    match name {
        GeneralName::DNSName(dns) => Some((*dns).to_owned()),
        GeneralName::IPAddress(octets) => match octets.len() {
            4 => <[u8; 4]>::try_from(*octets).ok().map(|octets| std::net::Ipv4Addr::from(octets).to_string()),
            _ => <[u8; 16]>::try_from(*octets).ok().map(|octets| std::net::Ipv6Addr::from(octets).to_string()),
        },
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_certificate_is_due_in_the_last_third_of_its_life() {
        let life = Life { begins: 1_000, ends: 4_000 };
        assert!(!life.is_due(0) && !life.is_due(2_999));
        assert!(life.is_due(3_000) && life.is_due(4_000) && life.is_due(9_000));
    }
}
