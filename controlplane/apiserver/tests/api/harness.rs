//! A server for one test, and clients of it.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use diolkos_api::client::Client;
use diolkos_api::wire;
use diolkos_apiserver::pki::{Identity, Pki};
use diolkos_apiserver::{Running, Security, Settings, cache, serve_with};
use diolkos_store::{Model, Range, Store as _};
use http::{HeaderMap, Method, Request, StatusCode};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use rustls::RootCertStore;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use serde_json::Value;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

/// How long anything in these tests may take.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// What the server tells others; nothing connects there.
pub(crate) const ADVERTISED: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1));

pub(crate) struct Server {
    pub(crate) running: Running,
    pub(crate) pki: Pki,
    pub(crate) store: Model,
    _dir: tempfile::TempDir,
}

impl Server {
    pub(crate) async fn start() -> Server {
        Self::with_service_cidrs(&["10.96.0.0/16"]).await
    }

    pub(crate) async fn with_service_cidrs(service_cidrs: &[&str]) -> Server {
        Self::over(Model::new(), service_cidrs).await
    }

    /// A server over a store that holds something already.
    pub(crate) async fn over(store: Model, service_cidrs: &[&str]) -> Server {
        Self::with(store, service_cidrs, Security::default()).await
    }

    pub(crate) async fn secured(security: Security) -> Server {
        Self::with(Model::new(), &["10.96.0.0/16"], security).await
    }

    pub(crate) async fn with(store: Model, service_cidrs: &[&str], security: Security) -> Server {
        let dir = tempfile::tempdir().unwrap();
        let pki = Pki::open(dir.path(), &[]).unwrap();
        let settings = settings(service_cidrs, security);
        let running = serve_with(Arc::new(store.clone()), &pki, settings).await.unwrap();
        Server { running, pki, store, _dir: dir }
    }

    /// Those of another server over the same store.
    pub(crate) fn settings(&self, security: Security) -> Settings {
        settings(&["10.96.0.0/16"], security)
    }

    /// A gRPC client.
    pub(crate) fn grpc(&self, user: &str, groups: &[&str]) -> Client {
        let url = format!("https://{}", self.running.address());
        Client::connect(&self.pki.kubeconfig(&url, user, groups).unwrap()).unwrap()
    }

    pub(crate) fn admin(&self) -> Client {
        self.grpc("admin", &["system:masters"])
    }

    /// A REST client.
    pub(crate) fn rest(&self, user: &str, groups: &[&str]) -> Rest {
        self.rest_with(Some(self.pki.client(user, groups).unwrap()))
    }

    pub(crate) fn admin_rest(&self) -> Rest {
        self.rest("admin", &["system:masters"])
    }

    pub(crate) fn rest_with(&self, identity: Option<Identity>) -> Rest {
        Rest { address: self.running.address(), ca: self.pki.ca_pem().to_owned(), identity }
    }
}

fn settings(service_cidrs: &[&str], security: Security) -> Settings {
    Settings {
        listen: SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 0),
        advertise_address: ADVERTISED,
        service_cidrs: service_cidrs.iter().map(|cidr| cidr.parse().unwrap()).collect(),
        security,
        cache: cache::Limits { bookmark_every: Duration::from_millis(200), ..cache::Limits::default() },
    }
}

/// REST over HTTP/1.1, a connection for each request.
pub(crate) struct Rest {
    address: SocketAddr,
    ca: String,
    identity: Option<Identity>,
}

pub(crate) struct Answer {
    pub(crate) code: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

impl Answer {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|e| panic!("{e}: {}", String::from_utf8_lossy(&self.body)))
    }
}

impl Rest {
    /// The same client of another server.
    pub(crate) fn to(self, address: SocketAddr) -> Rest {
        Rest { address, ..self }
    }

    pub(crate) async fn get(&self, path: &str) -> Answer {
        self.send(Method::GET, path, &[], "").await
    }

    pub(crate) async fn post(&self, path: &str, body: &Value) -> Answer {
        self.send(Method::POST, path, &[("content-type", "application/json")], &body.to_string()).await
    }

    pub(crate) async fn put(&self, path: &str, body: &Value) -> Answer {
        self.send(Method::PUT, path, &[("content-type", "application/json")], &body.to_string()).await
    }

    /// `how` is "merge-patch", "json-patch" or "strategic-merge-patch".
    pub(crate) async fn patch(&self, how: &str, path: &str, body: &Value) -> Answer {
        let content_type = format!("application/{how}+json");
        self.send(Method::PATCH, path, &[("content-type", &content_type)], &body.to_string()).await
    }

    pub(crate) async fn delete(&self, path: &str, body: &Value) -> Answer {
        let body = if body.is_null() { String::new() } else { body.to_string() };
        self.send(Method::DELETE, path, &[("content-type", "application/json")], &body).await
    }

    pub(crate) async fn send(&self, method: Method, path: &str, headers: &[(&str, &str)], body: &str) -> Answer {
        self.send_bytes(method, path, headers, body.as_bytes()).await
    }

    pub(crate) async fn send_bytes(&self, method: Method, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Answer {
        let response = self.open_bytes(method, path, headers, body).await.unwrap();
        let (code, headers) = (response.status(), response.headers().clone());
        let body = response.into_body().collect().await.unwrap().to_bytes();
        Answer { code, headers, body }
    }

    /// The head of the answer; a refused handshake is an error.
    pub(crate) async fn open(
        &self,
        method: Method,
        path: &str,
        headers: &[(&str, &str)],
        body: &str,
    ) -> std::io::Result<http::Response<Incoming>> {
        self.open_bytes(method, path, headers, body.as_bytes()).await
    }

    async fn open_bytes(
        &self,
        method: Method,
        path: &str,
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> std::io::Result<http::Response<Incoming>> {
        let stream = TcpStream::connect(self.address).await?;
        let name = ServerName::from(self.address.ip());
        let stream = TlsConnector::from(Arc::new(self.tls())).connect(name, stream).await?;
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(std::io::Error::other)?;
        tokio::spawn(connection);
        let mut request = Request::builder().method(method).uri(path).header("host", "localhost");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.body(Full::new(Bytes::copy_from_slice(body))).unwrap();
        sender.send_request(request).await.map_err(std::io::Error::other)
    }

    fn tls(&self) -> rustls::ClientConfig {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(self.ca.as_bytes()).unwrap()).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots);
        match &self.identity {
            None => builder.with_no_client_auth(),
            Some(identity) => {
                let chain = vec![CertificateDer::from_pem_slice(identity.cert_pem.as_bytes()).unwrap()];
                let key = PrivateKeyDer::from_pem_slice(identity.key_pem.as_bytes()).unwrap();
                builder.with_client_auth_cert(chain, key).unwrap()
            }
        }
    }
}

/// The events of a REST watch, as they come.
pub(crate) struct Lines {
    body: Incoming,
    rest: Vec<u8>,
}

impl Lines {
    pub(crate) async fn open(rest: &Rest, path: &str, accept: &str) -> Lines {
        let response = rest.open(Method::GET, path, &[("accept", accept)], "").await.unwrap();
        assert_eq!(response.status(), StatusCode::OK);
        Lines { body: response.into_body(), rest: Vec::new() }
    }

    /// `None` when the watch ended.
    pub(crate) async fn next(&mut self) -> Option<Value> {
        loop {
            if let Some(end) = self.rest.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.rest.drain(..=end).collect();
                return Some(serde_json::from_slice(&line).unwrap());
            }
            let frame = tokio::time::timeout(PATIENCE, self.body.frame()).await.expect("an event in time")?;
            if let Some(data) = frame.unwrap().data_ref() {
                self.rest.extend_from_slice(data);
            }
        }
    }
}

/// Looks again until it is so.
pub(crate) async fn eventually(what: &str, mut is_so: impl AsyncFnMut() -> bool) {
    let looking = async {
        while !is_so().await {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(PATIENCE, looking).await.unwrap_or_else(|_| panic!("{what}: not in time"));
}

pub(crate) fn key(group: &str, plural: &str, namespace: &str, name: &str) -> Option<wire::Key> {
    Some(wire::Key {
        group: group.into(),
        version: "v1".into(),
        plural: plural.into(),
        namespace: namespace.into(),
        name: name.into(),
        subresource: String::new(),
    })
}

/// The keys of the store under a prefix.
pub(crate) async fn keys(store: &Model, prefix: &str) -> Vec<String> {
    let range = Range { prefix: prefix.to_owned(), ..Range::default() };
    store.range(range).await.unwrap().entries.into_iter().map(|entry| entry.key).collect()
}

pub(crate) fn fixture(name: &str) -> Value {
    let path = format!("{}/tests/fixtures/{name}.json", env!("CARGO_MANIFEST_DIR"));
    serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

/// A ConfigMap.
pub(crate) fn config_map(name: &str, key: &str, value: &str) -> Value {
    serde_json::json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": {key: value}})
}

/// A Service with one port.
pub(crate) fn service(name: &str) -> Value {
    serde_json::json!({
        "apiVersion": "v1", "kind": "Service", "metadata": {"name": name}, "spec": {"ports": [{"port": 80}]},
    })
}

/// A Pod, of a node unless that is "".
pub(crate) fn pod(name: &str, node: &str) -> Value {
    let mut pod = serde_json::json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "labels": {"app": name}},
        "spec": {"containers": [{"name": "main", "image": "registry.local/main:1"}]},
    });
    if !node.is_empty() {
        pod["spec"]["nodeName"] = node.into();
    }
    pod
}
