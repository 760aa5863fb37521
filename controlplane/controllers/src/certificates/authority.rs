//! The cluster's authority at work.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use k8s_openapi::api::certificates::v1::CertificateSigningRequest;
use rcgen::{
    CertificateSigningRequestParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    PublicKeyData as _,
};
use x509_parser::pem::parse_x509_pem;

/// Certificates are valid from a little earlier, for machines whose clocks are behind.
const BACKDATE: Duration = Duration::from_secs(5 * 60);

/// Where an authority is, and how long what it signs is valid at most.
#[derive(Clone, Debug)]
pub struct AuthorityFiles {
    pub certificate: PathBuf,
    pub key: PathBuf,
    pub duration: Duration,
}

/// Signs requests. The files are read for each: they may be replaced at any time.
#[derive(Clone, Debug)]
pub struct Authority {
    files: Arc<AuthorityFiles>,
}

impl Authority {
    pub fn new(files: AuthorityFiles) -> Self {
        Self { files: Arc::new(files) }
    }

    /// The certificate of a request, PEM. What it may say was checked before.
    pub fn sign(&self, request: &CertificateSigningRequest, now: SystemTime) -> Result<String, String> {
        let read = |path: &PathBuf| {
            std::fs::read_to_string(path).map_err(|cause| format!("cannot read {}: {cause}", path.display()))
        };
        let (cert_pem, key_pem) = (read(&self.files.certificate)?, read(&self.files.key)?);
        let wrong = |cause: rcgen::Error| format!("cannot sign with {}: {cause}", self.files.certificate.display());
        let ends = ends(&cert_pem)?;
        let issuer = Issuer::from_ca_cert_pem(&cert_pem, KeyPair::from_pem(&key_pem).map_err(wrong)?).map_err(wrong)?;
        let text = std::str::from_utf8(&request.spec.request.0).map_err(|cause| cause.to_string())?;
        let mut asked = CertificateSigningRequestParams::from_pem(text).map_err(wrong)?;
        let wanted = request.spec.expiration_seconds.and_then(|seconds| u64::try_from(seconds).ok());
        let duration =
            wanted.map_or(self.files.duration, |seconds| Duration::from_secs(seconds).min(self.files.duration));
        let params = &mut asked.params;
        params.is_ca = IsCa::ExplicitNoCa;
        params.use_authority_key_identifier_extension = true;
        (params.key_usages, params.extended_key_usages) = usages(request.spec.usages.as_deref().unwrap_or_default());
        // A tenth at most, or a short life would be half over when it begins.
        params.not_before = (now - BACKDATE.min(duration / 10)).into();
        params.not_after = (now + duration).min(ends).into();
        params.serial_number = None;
        // Nothing of the key but its presence matters here: it says that the request is whole.
        debug_assert!(!asked.public_key.der_bytes().is_empty());
        Ok(asked.signed_by(&issuer).map_err(wrong)?.pem())
    }
}

/// A certificate is no longer valid than its authority.
fn ends(cert_pem: &str) -> Result<SystemTime, String> {
    let (_, pem) = parse_x509_pem(cert_pem.as_bytes()).map_err(|cause| format!("the authority: {cause}"))?;
    let certificate = pem.parse_x509().map_err(|cause| format!("the authority: {cause}"))?;
    let seconds = u64::try_from(certificate.validity().not_after.timestamp()).unwrap_or_default();
    Ok(SystemTime::UNIX_EPOCH + Duration::from_secs(seconds))
}

fn usages(names: &[String]) -> (Vec<KeyUsagePurpose>, Vec<ExtendedKeyUsagePurpose>) {
    let (mut plain, mut extended) = (Vec::new(), Vec::new());
    for name in names {
        match name.as_str() {
            "digital signature" => plain.push(KeyUsagePurpose::DigitalSignature),
            "key encipherment" => plain.push(KeyUsagePurpose::KeyEncipherment),
            "client auth" => extended.push(ExtendedKeyUsagePurpose::ClientAuth),
            "server auth" => extended.push(ExtendedKeyUsagePurpose::ServerAuth),
            // The signers let no other through.
            _ => {}
        }
    }
    (plain, extended)
}
