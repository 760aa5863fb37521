//! The cluster's own certificates: two authorities (the cluster's, and one only for etcd), what they sign, and the
//! kubeconfig files that carry it.
//!
//! Identity is the subject of a client certificate, as in Kubernetes: CN is the user, each O a group. What is missing
//! in the directory is made, what is there is checked and used. What the authorities have signed is renewed in time, and the
//! log says so; the authorities themselves are not.

mod files;
mod renew;

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use diolkos_api::kubeconfig::Kubeconfig;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose,
};
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

pub use files::{make_private_dir, write_private};
pub use renew::Life;

/// How long an authority is valid.
const AUTHORITY_LIFETIME: Duration = Duration::from_secs(10 * 365 * 24 * 3600);
/// How long what it signs is valid, unless somebody says otherwise.
pub const LEAF_LIFETIME: Duration = Duration::from_secs(3 * 365 * 24 * 3600);
/// Certificates are valid from a little earlier, for machines whose clocks are behind.
const CLOCK_SKEW: Duration = Duration::from_secs(3600);

/// Names under which pods and this machine reach the apiserver, besides the address of the `kubernetes` service.
const SERVER_NAMES: [&str; 6] = [
    "localhost",
    "127.0.0.1",
    "kubernetes",
    "kubernetes.default",
    "kubernetes.default.svc",
    "kubernetes.default.svc.cluster.local",
];

/// The group that may do everything.
pub const ADMIN_GROUP: &str = "system:masters";
/// The user of admin.kubeconfig.
pub const ADMIN_USER: &str = "kubernetes-admin";

/// The keys of the service accounts' tokens. To change them, put another pair in place of `sa.key` and `sa.pub`, and
/// leave the old public key beside it as `sa-*.pub` until the last token of the old key has ended.
#[derive(Clone, Debug)]
pub struct AccountKeys {
    /// Where the key that signs is, for messages.
    pub signing_name: String,
    /// PKCS #8, ECDSA over P-256.
    pub signing_pem: String,
    /// Names and PEM of further keys whose signatures are taken.
    pub verify: Vec<(String, String)>,
}

/// What may go wrong with certificates and their files.
#[derive(Debug, thiserror::Error)]
pub enum PkiError {
    #[error("cannot {operation} {}: {cause}", path.display())]
    File { operation: &'static str, path: PathBuf, cause: std::io::Error },
    #[error("{} is there without {}: put the key back, or remove the certificate to have both made anew", cert.display(), key.display())]
    KeyMissing { cert: PathBuf, key: PathBuf },
    #[error("{}: {cause}", path.display())]
    Invalid { path: PathBuf, cause: String },
    #[error("{} has expired or is not valid yet: remove it and its key to have them made anew", path.display())]
    NotValidNow { path: PathBuf },
    #[error("{} lacks the name {name:?}: remove it and its key to have them made anew", path.display())]
    NameMissing { path: PathBuf, name: String },
    #[error("cannot make a certificate for {subject:?}: {cause}")]
    Make { subject: String, cause: rcgen::Error },
}

/// A certificate with its private key, both PEM.
#[derive(Clone)]
pub struct Identity {
    pub cert_pem: String,
    pub key_pem: String,
}

/// The certificates of one cluster, in one directory:
///
/// | file | what |
/// |---|---|
/// | `ca.crt`, `ca.key` | the cluster's authority |
/// | `apiserver.crt`, `.key` | the apiserver's server certificate |
/// | `etcd/ca.crt`, `.key` | etcd's authority |
/// | `etcd/server.crt`, `.key` | etcd's server and peer certificate |
/// | `etcd/client.crt`, `.key` | the apiserver as etcd's client |
pub struct Pki {
    dir: PathBuf,
    cluster: Authority,
    etcd: Authority,
    apiserver: Identity,
    etcd_server: Identity,
    etcd_client: Identity,
    accounts: AccountKeys,
}

struct Authority {
    /// How long what it signs is valid.
    lifetime: Duration,
    cert_pem: String,
    issuer: Issuer<'static, KeyPair>,
}

impl Pki {
    /// Opens `dir` and makes what is missing there. `names` are the DNS names and addresses of the apiserver and of
    /// etcd, besides the well-known ones.
    pub fn open(dir: &Path, names: &[String]) -> Result<Pki, PkiError> {
        Self::open_for(dir, names, LEAF_LIFETIME)
    }

    /// The same, with another lifetime of what is signed from now on. What is due is renewed.
    pub fn open_for(dir: &Path, names: &[String], lifetime: Duration) -> Result<Pki, PkiError> {
        make_private_dir(&dir.join("etcd"))?;
        let _lock = files::lock(dir)?;
        let all_names: Vec<String> =
            SERVER_NAMES.iter().map(|n| (*n).to_owned()).chain(names.iter().cloned()).collect();
        let cluster = authority(dir, "ca", "diolkos-ca", lifetime)?;
        let etcd = authority(dir, "etcd/ca", "diolkos-etcd-ca", lifetime)?;
        let server = Leaf { user: "kube-apiserver", groups: &[], names: &all_names };
        let etcd_server = Leaf { user: "etcd", groups: &[], names: &all_names };
        let etcd_client = Leaf { user: "kube-apiserver-etcd-client", groups: &[], names: &[] };
        let accounts = account_keys(dir)?;
        Ok(Pki {
            accounts,
            apiserver: leaf_file(dir, "apiserver", &cluster, &server)?,
            etcd_server: leaf_file(dir, "etcd/server", &etcd, &etcd_server)?,
            etcd_client: leaf_file(dir, "etcd/client", &etcd, &etcd_client)?,
            dir: dir.to_owned(),
            cluster,
            etcd,
        })
    }

    /// Renews what is due of the directory: a server shows the next certificate once it is there.
    pub fn renew(dir: &Path, lifetime: Duration) -> Result<(), PkiError> {
        Self::open_for(dir, &[], lifetime).map(drop)
    }

    /// Opens a directory whose authority is there already: a mistyped path does not become a new cluster.
    pub fn load(dir: &Path) -> Result<Pki, PkiError> {
        let path = dir.join("ca.crt");
        match std::fs::metadata(&path) {
            Ok(_) => Self::open(dir, &[]),
            Err(cause) => Err(PkiError::File { operation: "find", path, cause }),
        }
    }

    /// The certificate of the cluster's authority, PEM.
    pub fn ca_pem(&self) -> &str {
        &self.cluster.cert_pem
    }

    /// The certificate of etcd's authority, PEM.
    pub fn etcd_ca_pem(&self) -> &str {
        &self.etcd.cert_pem
    }

    /// The keys of the service accounts' tokens.
    pub fn account_keys(&self) -> &AccountKeys {
        &self.accounts
    }

    /// The apiserver's server certificate.
    pub fn apiserver(&self) -> &Identity {
        &self.apiserver
    }

    /// etcd's server certificate.
    pub fn etcd_server(&self) -> &Identity {
        &self.etcd_server
    }

    /// What the apiserver shows to etcd.
    pub fn etcd_client(&self) -> &Identity {
        &self.etcd_client
    }

    /// A file of the directory, as `pki.path("etcd/server.crt")` for a command line.
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    /// A new client certificate of the cluster's authority, kept nowhere.
    pub fn client(&self, user: &str, groups: &[&str]) -> Result<Identity, PkiError> {
        issue(&self.cluster, &Leaf { user, groups, names: &[] }, None)
    }

    /// A kubeconfig with a new client certificate. `server` is the URL of the apiserver.
    pub fn kubeconfig(&self, server: &str, user: &str, groups: &[&str]) -> Result<Kubeconfig, PkiError> {
        let identity = self.client(user, groups)?;
        Ok(Kubeconfig {
            server: server.to_owned(),
            ca_pem: self.cluster.cert_pem.clone(),
            client_cert_pem: Some(identity.cert_pem),
            client_key_pem: Some(identity.key_pem),
            token: None,
        })
    }

    /// Writes [`Pki::kubeconfig`] to a file of mode 0600, replacing what is there in one step.
    pub fn write_kubeconfig(&self, server: &str, user: &str, groups: &[&str], path: &Path) -> Result<(), PkiError> {
        let text = self.kubeconfig(server, user, groups)?.to_yaml();
        write_private(path, text.as_bytes())
    }

    /// Writes a kubeconfig unless the one that is there leads to this server and its authority, and is not due to be
    /// renewed.
    pub fn ensure_kubeconfig(&self, server: &str, user: &str, groups: &[&str], path: &Path) -> Result<(), PkiError> {
        let _lock = files::lock(&self.dir)?;
        let now = diolkos_api::now().as_second();
        let lasts = |there: &Kubeconfig| {
            let life = there.client_cert_pem.as_deref().map(Life::of);
            life.is_none_or(|life| life.is_ok_and(|life| !life.is_due(now)))
        };
        let leads =
            |there: Kubeconfig| there.server == server && there.ca_pem == self.cluster.cert_pem && lasts(&there);
        if Kubeconfig::load(path).is_ok_and(leads) {
            return Ok(());
        }
        self.write_kubeconfig(server, user, groups, path)
    }

    /// Writes `admin.kubeconfig` unless it is there; the path of the file.
    pub fn ensure_admin_kubeconfig(&self, server: &str) -> Result<PathBuf, PkiError> {
        let _lock = files::lock(&self.dir)?;
        let path = self.dir.join("admin.kubeconfig");
        if !path.exists() {
            self.write_kubeconfig(server, ADMIN_USER, &[ADMIN_GROUP], &path)?;
        }
        Ok(path)
    }
}

/// How often to look whether certificates of this lifetime are due: at least twenty times in it.
pub fn look_every(lifetime: Duration) -> Duration {
    (lifetime / 20).clamp(Duration::from_secs(1), Duration::from_secs(60))
}

fn account_keys(dir: &Path) -> Result<AccountKeys, PkiError> {
    let (key, public) = (dir.join("sa.key"), dir.join("sa.pub"));
    let signing_pem = match files::read(&key)? {
        Some(pem) => pem,
        None => {
            let make = |cause| PkiError::Make { subject: "service accounts".to_owned(), cause };
            let pair = KeyPair::generate().map_err(make)?;
            write_private(&key, pair.serialize_pem().as_bytes())?;
            write_private(&public, pair.public_key_pem().as_bytes())?;
            pair.serialize_pem()
        }
    };
    let mut verify = Vec::new();
    for path in files::named(dir, "sa", ".pub")? {
        if let Some(pem) = files::read(&path)? {
            verify.push((path.display().to_string(), pem));
        }
    }
    Ok(AccountKeys { signing_name: key.display().to_string(), signing_pem, verify })
}

/// What a signed certificate says.
struct Leaf<'a> {
    user: &'a str,
    groups: &'a [&'a str],
    /// DNS names and addresses; with any the certificate also serves.
    names: &'a [String],
}

fn authority(dir: &Path, name: &str, subject: &str, lifetime: Duration) -> Result<Authority, PkiError> {
    let make = |cause| PkiError::Make { subject: subject.to_owned(), cause };
    let pair = files::load_pair(dir, name)?;
    let (key_pem, cert_pem) = match pair {
        files::Pair::Whole { key_pem, cert_pem } => (key_pem, cert_pem),
        files::Pair::None | files::Pair::Key { .. } => {
            let key = pair.key().map_or_else(KeyPair::generate, KeyPair::from_pem).map_err(make)?;
            let cert = authority_params(subject).map_err(make)?.self_signed(&key).map_err(make)?;
            files::save_pair(dir, name, &key.serialize_pem(), &cert.pem())?;
            (key.serialize_pem(), cert.pem())
        }
    };
    let path = dir.join(format!("{name}.crt"));
    check(&path, &cert_pem, &[])?;
    let invalid = |cause: rcgen::Error| PkiError::Invalid { path: path.clone(), cause: cause.to_string() };
    let key = KeyPair::from_pem(&key_pem).map_err(invalid)?;
    let issuer = Issuer::from_ca_cert_pem(&cert_pem, key).map_err(invalid)?;
    Ok(Authority { lifetime, cert_pem, issuer })
}

fn authority_params(subject: &str) -> Result<CertificateParams, rcgen::Error> {
    let mut params = CertificateParams::new(Vec::new())?;
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, subject);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    set_lifetime(&mut params, AUTHORITY_LIFETIME);
    Ok(params)
}

fn leaf_file(dir: &Path, name: &str, authority: &Authority, leaf: &Leaf<'_>) -> Result<Identity, PkiError> {
    let identity = match files::load_pair(dir, name)? {
        files::Pair::Whole { key_pem, cert_pem } => {
            let present = Identity { cert_pem, key_pem };
            let now = diolkos_api::now().as_second();
            renew::renewed(dir, name, authority, &present, leaf, now)?.unwrap_or(present)
        }
        pair => {
            let identity = issue(authority, leaf, pair.key())?;
            files::save_pair(dir, name, &identity.key_pem, &identity.cert_pem)?;
            identity
        }
    };
    check(&dir.join(format!("{name}.crt")), &identity.cert_pem, leaf.names)?;
    Ok(identity)
}

fn issue(authority: &Authority, leaf: &Leaf<'_>, key_pem: Option<&str>) -> Result<Identity, PkiError> {
    let make = |cause| PkiError::Make { subject: leaf.user.to_owned(), cause };
    let mut params = CertificateParams::new(leaf.names).map_err(make)?;
    params.distinguished_name = DistinguishedName::new();
    for group in leaf.groups {
        params.distinguished_name.push(DnType::OrganizationName, *group);
    }
    params.distinguished_name.push(DnType::CommonName, leaf.user);
    params.use_authority_key_identifier_extension = true;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    if !leaf.names.is_empty() {
        params.extended_key_usages.push(ExtendedKeyUsagePurpose::ServerAuth);
    }
    set_lifetime(&mut params, authority.lifetime);
    let key = key_pem.map_or_else(KeyPair::generate, KeyPair::from_pem).map_err(make)?;
    let cert = params.signed_by(&key, &authority.issuer).map_err(make)?;
    Ok(Identity { cert_pem: cert.pem(), key_pem: key.serialize_pem() })
}

fn set_lifetime(params: &mut CertificateParams, lifetime: Duration) {
    let now = SystemTime::now();
    params.not_before = (now - CLOCK_SKEW.min(lifetime / 10)).into();
    params.not_after = (now + lifetime).into();
}

/// Refuses a certificate that clients would refuse.
fn check(path: &Path, cert_pem: &str, names: &[String]) -> Result<(), PkiError> {
    let invalid = |cause: String| PkiError::Invalid { path: path.to_owned(), cause };
    let (_, pem) = x509_parser::pem::parse_x509_pem(cert_pem.as_bytes()).map_err(|e| invalid(e.to_string()))?;
    let (_, cert) = X509Certificate::from_der(&pem.contents).map_err(|e| invalid(e.to_string()))?;
    if !cert.validity().is_valid() {
        return Err(PkiError::NotValidNow { path: path.to_owned() });
    }
    let alternative = cert.subject_alternative_name().map_err(|e| invalid(e.to_string()))?;
    let held = alternative.map(|extension| extension.value.general_names.as_slice()).unwrap_or_default();
    match names.iter().find(|name| !held.iter().any(|general| is_name(general, name))) {
        Some(name) => Err(PkiError::NameMissing { path: path.to_owned(), name: name.clone() }),
        None => Ok(()),
    }
}

fn is_name(general: &GeneralName<'_>, name: &str) -> bool {
    match (general, name.parse::<IpAddr>()) {
        (GeneralName::IPAddress(octets), Ok(IpAddr::V4(ip))) => *octets == ip.octets(),
        (GeneralName::IPAddress(octets), Ok(IpAddr::V6(ip))) => *octets == ip.octets(),
        (GeneralName::DNSName(dns), Err(_)) => dns.eq_ignore_ascii_case(name),
        _ => false,
    }
}

#[cfg(test)]
#[path = "pki/tests.rs"]
mod tests;
