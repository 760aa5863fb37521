//! How etcd is reached.

use std::fmt;
use std::time::Duration;

use etcd_client::{Certificate, ConnectOptions, Identity, TlsOptions};

use super::{KEEPALIVE_INTERVAL, KEEPALIVE_TIMEOUT};
use crate::StoreError;

/// Where etcd is and how it knows us.
#[derive(Clone)]
pub struct EtcdConfig {
    /// URLs of the members' client ports, `https://HOST:PORT` (or `http://`, which only tests should use).
    pub endpoints: Vec<String>,
    /// PEM of the authority that signed etcd's certificate; `None` for the system's authorities.
    pub ca: Option<String>,
    /// PEM of our certificate, for etcd's `--client-cert-auth`. Needs `key`.
    pub cert: Option<String>,
    /// PEM of its private key.
    pub key: Option<String>,
    /// Longest wait for a TCP and TLS connection.
    pub connect_timeout: Duration,
    /// Longest wait for the answer of one request.
    pub request_timeout: Duration,
}

impl Default for EtcdConfig {
    fn default() -> Self {
        Self {
            endpoints: vec!["https://127.0.0.1:2379".into()],
            ca: None,
            cert: None,
            key: None,
            connect_timeout: Duration::from_secs(2),
            request_timeout: Duration::from_secs(5),
        }
    }
}

impl fmt::Debug for EtcdConfig {
    /// Without the private key.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EtcdConfig")
            .field("endpoints", &self.endpoints)
            .field("ca", &self.ca.is_some())
            .field("cert", &self.cert.is_some())
            .field("key", &self.key.is_some())
            .field("connect_timeout", &self.connect_timeout)
            .field("request_timeout", &self.request_timeout)
            .finish()
    }
}

impl EtcdConfig {
    pub(super) fn options(&self) -> Result<ConnectOptions, StoreError> {
        if self.endpoints.is_empty() {
            return refused("no endpoints are given: name at least one as https://HOST:PORT");
        }
        let tls = self.ca.is_some() || self.cert.is_some() || self.key.is_some();
        if let Some(url) = self.endpoints.iter().find(|url| !url.starts_with("https://") && (tls || !is_plain(url))) {
            return refused(format!("endpoint {url} must be https://HOST:PORT"));
        }
        let options = ConnectOptions::new()
            .with_connect_timeout(self.connect_timeout)
            .with_keep_alive(KEEPALIVE_INTERVAL, KEEPALIVE_TIMEOUT)
            .with_keep_alive_while_idle(true)
            // A member cut off from its leader fails requests and ends watches, where it would serve old state.
            .with_require_leader(true);
        Ok(if tls { options.with_tls(self.tls()?) } else { options })
    }

    fn tls(&self) -> Result<TlsOptions, StoreError> {
        let mut tls = TlsOptions::new();
        if let Some(ca) = &self.ca {
            tls = tls.ca_certificate(Certificate::from_pem(pem("CA certificate", ca)?));
        }
        match (&self.cert, &self.key) {
            (Some(cert), Some(key)) => {
                Ok(tls.identity(Identity::from_pem(pem("certificate", cert)?, pem("private key", key)?)))
            }
            (None, None) => Ok(tls),
            (Some(_), None) => refused("a client certificate is given without its private key"),
            (None, Some(_)) => refused("a private key is given without its client certificate"),
        }
    }
}

fn is_plain(url: &str) -> bool {
    url.starts_with("http://")
}

fn pem<'a>(what: &str, text: &'a str) -> Result<&'a str, StoreError> {
    if text.contains("-----BEGIN ") {
        Ok(text)
    } else {
        refused(format!("the {what} for etcd is not PEM: it holds no -----BEGIN line"))
    }
}

fn refused<T>(cause: impl Into<String>) -> Result<T, StoreError> {
    Err(StoreError::Refused { operation: "connect", cause: cause.into() })
}
