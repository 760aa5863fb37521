//! The server's own certificate, read again when its file changes: connections that are open stay, new ones get the new
//! certificate.

use std::path::PathBuf;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;

use super::Shutdown;
use crate::pki::Identity;

/// How often the files are looked at.
const LOOK_EVERY: Duration = Duration::from_secs(5);

/// What is shown to clients.
#[derive(Debug)]
pub(crate) struct Served(RwLock<Arc<CertifiedKey>>);

impl Served {
    pub(crate) fn new(identity: &Identity) -> anyhow::Result<Arc<Self>> {
        Ok(Arc::new(Self(RwLock::new(certified(identity)?))))
    }

    /// Shows what the files say, until the shutdown.
    pub(crate) async fn follow(self: Arc<Self>, cert: PathBuf, key: PathBuf, shown: Identity, shutdown: Shutdown) {
        let follow = async {
            let mut known = shown.cert_pem;
            loop {
                tokio::time::sleep(LOOK_EVERY).await;
                // Files that are away for a moment are no news.
                let (Ok(cert_pem), Ok(key_pem)) = (std::fs::read_to_string(&cert), std::fs::read_to_string(&key))
                else {
                    continue;
                };
                if cert_pem == known {
                    continue;
                }
                known.clone_from(&cert_pem);
                match certified(&Identity { cert_pem, key_pem }) {
                    Ok(next) => {
                        *self.0.write().unwrap_or_else(PoisonError::into_inner) = next;
                        tracing::info!(certificate = %cert.display(), "the certificate changed, and is shown from now on");
                    }
                    Err(cause) => {
                        tracing::warn!(certificate = %cert.display(), %cause, "the file is of no use; the old one goes on");
                    }
                }
            }
        };
        tokio::select! {
            () = follow => {}
            () = shutdown.begun() => {}
        }
    }
}

impl ResolvesServerCert for Served {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        // A certificate is whole whoever panicked beside it.
        Some(self.0.read().unwrap_or_else(PoisonError::into_inner).clone())
    }
}

fn certified(identity: &Identity) -> anyhow::Result<Arc<CertifiedKey>> {
    let chain = CertificateDer::pem_slice_iter(identity.cert_pem.as_bytes()).collect::<Result<Vec<_>, _>>()?;
    let key = PrivateKeyDer::from_pem_slice(identity.key_pem.as_bytes())?;
    Ok(Arc::new(CertifiedKey::from_der(chain, key, &ring::default_provider())?))
}
