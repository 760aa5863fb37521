//! Finding out which cluster answers, as kubeadm does: `cluster-info` is read from a server that nobody vouches for yet,
//! and believed when it is signed with the token and its authority has the hash that the operator gave.

use std::sync::Arc;

use anyhow::{Context as _, bail, ensure};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use diolkos_api::bootstrap_token::{BootstrapToken, INFO_ENTRY, INFO_NAME, INFO_NAMESPACE};
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper::body::Bytes;
use hyper_util::rt::TokioIo;
use k8s_openapi::api::core::v1::ConfigMap;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{DigitallySignedStruct, SignatureScheme};
use serde_json::Value;
use tokio::net::TcpStream;

/// A server that answers later than this is taken for silent.
const PATIENCE: std::time::Duration = std::time::Duration::from_secs(15);
/// `cluster-info` has a few kilobytes.
const MOST: usize = 1 << 20;

/// A cluster that proved to be the one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Found {
    /// "https://host:port"
    pub(crate) server: String,
    pub(crate) ca_pem: String,
}

/// Which authorities are believed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Trust {
    /// Those with one of these hashes.
    Hashes(Vec<String>),
    /// Any that is signed with the token.
    AnySigned,
}

/// Asks `endpoint`, HOST:PORT.
pub(crate) async fn discover(endpoint: &str, token: &BootstrapToken, trust: &Trust) -> anyhow::Result<Found> {
    let read = read(endpoint);
    let info = tokio::time::timeout(PATIENCE, read)
        .await
        .unwrap_or_else(|_| bail!("it did not answer within {} s", PATIENCE.as_secs()));
    let info = info.with_context(|| format!("cannot ask {endpoint} which cluster it is"))?;
    believe(&info, token, trust).with_context(|| format!("the cluster at {endpoint} is not believed"))
}

/// What a cluster says of itself, if it may be believed.
fn believe(info: &ConfigMap, token: &BootstrapToken, trust: &Trust) -> anyhow::Result<Found> {
    let none = std::collections::BTreeMap::new();
    let data = info.data.as_ref().unwrap_or(&none);
    let text = data.get(INFO_ENTRY).context("it does not say how to reach it: cluster-info has no kubeconfig")?;
    token.check(text, data)?;
    let file: Value = serde_yaml_ng::from_str(text).context("the kubeconfig of cluster-info is no YAML")?;
    let cluster = &file["clusters"][0]["cluster"];
    let server = cluster["server"].as_str().filter(|server| server.starts_with("https://"));
    let server = server.context("the kubeconfig of cluster-info names no server")?.to_owned();
    let encoded = cluster["certificate-authority-data"].as_str().unwrap_or_default();
    let pem = STANDARD.decode(encoded).ok().and_then(|bytes| String::from_utf8(bytes).ok());
    let ca_pem = pem.context("the kubeconfig of cluster-info has no authority")?;
    let found = hash(&ca_pem)?;
    if let Trust::Hashes(hashes) = trust {
        ensure!(
            hashes.iter().any(|hash| hash.eq_ignore_ascii_case(&found)),
            "its authority has the hash {found}, and not {}: this is another cluster, or somebody is in between",
            hashes.join(" or ")
        );
    }
    Ok(Found { server, ca_pem })
}

/// The hash of an authority's public key, `sha256:HEX`, as kubeadm writes it.
pub(crate) fn hash(ca_pem: &str) -> anyhow::Result<String> {
    let (_, pem) = x509_parser::pem::parse_x509_pem(ca_pem.as_bytes()).context("the authority is no PEM")?;
    let certificate = pem.parse_x509().context("the authority is no certificate")?;
    let digest = ::ring::digest::digest(&::ring::digest::SHA256, certificate.public_key().raw);
    let hex: String = digest.as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
    Ok(format!("sha256:{hex}"))
}

/// `sha256:` and 64 hexadecimal digits.
pub(crate) fn parse_hash(text: &str) -> Result<String, String> {
    let digits = text.strip_prefix("sha256:").unwrap_or_default();
    let fits = digits.len() == 64 && digits.bytes().all(|digit| digit.is_ascii_hexdigit());
    if fits { Ok(text.to_owned()) } else { Err("it is sha256: and 64 hexadecimal digits".into()) }
}

async fn read(endpoint: &str) -> anyhow::Result<ConfigMap> {
    let stream = TcpStream::connect(endpoint).await?;
    let host = endpoint.rsplit_once(':').map_or(endpoint, |(host, _)| host).trim_matches(['[', ']']);
    let name = ServerName::try_from(host.to_owned()).with_context(|| format!("{host} is no name of a server"))?;
    let provider = Arc::new(ring::default_provider());
    let mut tls = rustls::ClientConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(AnyCertificate(provider)))
        .with_no_client_auth();
    tls.alpn_protocols = vec![b"http/1.1".to_vec()];
    let stream = tokio_rustls::TlsConnector::from(Arc::new(tls)).connect(name, stream).await?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    let request = hyper::Request::get(format!("/api/v1/namespaces/{INFO_NAMESPACE}/configmaps/{INFO_NAME}"))
        .header("host", endpoint)
        .header("accept", "application/json")
        .body(Empty::<Bytes>::new())?;
    let answer = async {
        let response = sender.send_request(request).await?;
        let status = response.status();
        let body = Limited::new(response.into_body(), MOST).collect().await;
        let body = body.map_err(|cause| anyhow::anyhow!("cannot read its answer: {cause}"))?.to_bytes();
        match status.as_u16() {
            200 => serde_json::from_slice(&body).context("its answer is no ConfigMap"),
            401 | 403 | 404 => bail!(
                "it shows no cluster-info ({status}): is a control plane of `diolkos up` or `diolkos init` there?"
            ),
            _ => bail!("it answered {status}: {}", String::from_utf8_lossy(&body)),
        }
    };
    tokio::pin!(connection);
    tokio::pin!(answer);
    tokio::select! {
        answer = &mut answer => answer,
        // The answer's body may still be on its way when the connection says that it is over.
        ended = &mut connection => {
            ended?;
            answer.await
        }
    }
}

/// Takes any certificate, because what is read over this connection proves itself by its signature.
#[derive(Debug)]
struct AnyCertificate(Arc<CryptoProvider>);

impl ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, certificate, signed, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signed, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use diolkos_apiserver::pki::Pki;

    use super::*;
    use crate::init::objects;

    fn signed(pki: &Pki, token: &BootstrapToken) -> ConfigMap {
        let mut info: ConfigMap =
            serde_json::from_value(objects::cluster_info("https://192.0.2.1:6443", pki.ca_pem())).unwrap();
        let data = info.data.as_mut().unwrap();
        let signature = token.sign(&data[INFO_ENTRY]);
        data.insert(format!("jws-kubeconfig-{}", token.id), signature);
        info
    }

    #[test]
    fn a_cluster_is_believed_by_its_signature_and_its_hash() {
        let dir = tempfile::tempdir().unwrap();
        let pki = Pki::open(dir.path(), &[]).unwrap();
        let token = BootstrapToken::generate().unwrap();
        let info = signed(&pki, &token);
        let hashes = vec![hash(pki.ca_pem()).unwrap()];
        assert_eq!(parse_hash(&hashes[0]), Ok(hashes[0].clone()));
        let found = believe(&info, &token, &Trust::Hashes(hashes.clone())).unwrap();
        assert_eq!(found, Found { server: "https://192.0.2.1:6443".into(), ca_pem: pki.ca_pem().into() });
        assert!(believe(&info, &token, &Trust::AnySigned).is_ok());
        let other = vec![format!("sha256:{}", "0".repeat(64))];
        let why = believe(&info, &token, &Trust::Hashes(other)).unwrap_err().to_string();
        assert!(why.contains(&hashes[0]) && why.contains("another cluster"), "{why}");
        let stranger = BootstrapToken::generate().unwrap();
        assert!(believe(&info, &stranger, &Trust::Hashes(hashes)).is_err());
    }

    #[test]
    fn another_authority_under_a_good_signature_is_not_believed() {
        let (own, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let (own, other) = (Pki::open(own.path(), &[]).unwrap(), Pki::open(other.path(), &[]).unwrap());
        let token = BootstrapToken::generate().unwrap();
        let mut info = signed(&own, &token);
        let theirs = objects::cluster_info("https://192.0.2.1:6443", other.ca_pem());
        let text = theirs["data"]["kubeconfig"].as_str().unwrap();
        info.data.as_mut().unwrap().insert(INFO_ENTRY.into(), text.into());
        let why = believe(&info, &token, &Trust::AnySigned).unwrap_err().to_string();
        assert!(why.contains("its signature"), "{why}");
    }

    #[test]
    fn a_hash_is_sha256_and_its_digits() {
        for wrong in ["", "sha256:", "sha1:00", &format!("sha256:{}", "g".repeat(64))] {
            assert!(parse_hash(wrong).is_err(), "{wrong}");
        }
    }
}
