//! One TLS port for gRPC (h2) and REST (h2 and http/1.1): handshake, peer identity, connections, and a shutdown that
//! lets watches end and requests finish.

mod served;

use std::convert::Infallible;
use std::io;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use http::{Request, Response};
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use rustls::RootCertStore;
use rustls::crypto::ring;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::server::WebPkiClientVerifier;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;
use tower::ServiceExt;

use crate::stack::User;

pub(crate) use served::Served;

/// Connections served at once; more wait in the kernel's backlog.
const MAX_CONNECTIONS: usize = 8192;
/// How long a client may take for the TLS handshake.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a client of http/1.1 may take to send the head of a request.
const HEADER_TIMEOUT: Duration = Duration::from_secs(30);
/// Idle h2 connections are asked for a sign of life this often, and closed when none comes within the timeout.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(30);
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(15);
/// Requests of one h2 connection at once: a component watches some ten kinds and has its writes in flight.
const MAX_STREAMS: u32 = 1024;
/// How long requests in flight may take to finish after the shutdown began.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(10);

/// Tells when the server is asked to stop. Watches end on it.
#[derive(Clone)]
pub(crate) struct Shutdown(watch::Receiver<bool>);

/// Begins the shutdown when told to, or when dropped.
pub(crate) struct Stop(watch::Sender<bool>);

impl Shutdown {
    /// A shutdown and the handle that begins it.
    pub(crate) fn new() -> (Stop, Shutdown) {
        let (sender, receiver) = watch::channel(false);
        (Stop(sender), Shutdown(receiver))
    }

    /// Waits until the shutdown begins.
    pub(crate) async fn begun(mut self) {
        // An error means that the handle is gone, which begins the shutdown as well.
        let _ = self.0.wait_for(|stopping| *stopping).await;
    }
}

impl Stop {
    /// One more that hears of it.
    pub(crate) fn shutdown(&self) -> Shutdown {
        Shutdown(self.0.subscribe())
    }

    pub(crate) fn begin(&self) {
        self.0.send_replace(true);
    }
}

/// Who is on the other side of a connection.
#[derive(Clone, Debug)]
pub(crate) struct Peer {
    /// The user of its client certificate, if it showed one.
    pub user: Option<User>,
    pub address: IpAddr,
}

/// TLS with the server's certificate. Client certificates are optional; one that another authority signed, or that
/// has expired, ends the handshake.
pub(crate) fn tls_config(ca_pem: &str, served: Arc<Served>) -> anyhow::Result<rustls::ServerConfig> {
    let provider = Arc::new(ring::default_provider());
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(ca_pem.as_bytes()) {
        roots.add(certificate?)?;
    }
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone())
        .allow_unauthenticated()
        .build()?;
    let mut config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_client_cert_verifier(verifier)
        .with_cert_resolver(served);
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(config)
}

/// Serves until the shutdown begins and requests in flight are done, or [`DRAIN_TIMEOUT`] later.
pub(crate) async fn serve(listener: TcpListener, tls: rustls::ServerConfig, router: Router, shutdown: Shutdown) {
    let acceptor = TlsAcceptor::from(Arc::new(tls));
    let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let mut connections = JoinSet::new();
    loop {
        let place = tokio::select! {
            () = shutdown.clone().begun() => break,
            place = places.clone().acquire_owned() => place,
        };
        let accepted = tokio::select! {
            () = shutdown.clone().begun() => break,
            accepted = listener.accept() => accepted,
            // Finished connections are collected as they end, so that the set does not grow.
            Some(_) = connections.join_next(), if !connections.is_empty() => continue,
        };
        match accepted {
            Ok((stream, address)) => {
                let connection = connection(stream, address.ip(), acceptor.clone(), router.clone(), shutdown.clone());
                connections.spawn(async move {
                    let _place = place;
                    if let Err(cause) = connection.await {
                        tracing::debug!(%address, %cause, "a connection ended");
                    }
                });
            }
            Err(cause) => {
                tracing::warn!(%cause, "cannot accept a connection");
                // Out of file descriptors, most likely: they come back when connections end.
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
    drop(listener);
    if tokio::time::timeout(DRAIN_TIMEOUT, async { while connections.join_next().await.is_some() {} }).await.is_err() {
        tracing::warn!(left = connections.len(), "connections did not finish in time and are closed");
    }
}

async fn connection(
    stream: TcpStream,
    address: IpAddr,
    acceptor: TlsAcceptor,
    router: Router,
    shutdown: Shutdown,
) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    stream.set_nodelay(true)?;
    let stream = tokio::time::timeout(HANDSHAKE_TIMEOUT, acceptor.accept(stream))
        .await
        .map_err(|_| io::Error::new(io::ErrorKind::TimedOut, "the TLS handshake took too long"))??;
    let user = match stream.get_ref().1.peer_certificates() {
        Some([certificate, ..]) => Some(User::from_certificate(certificate)?),
        _ => None,
    };
    let peer = Peer { user, address };
    let service = hyper::service::service_fn(move |mut request: Request<Incoming>| {
        request.extensions_mut().insert(peer.clone());
        answer(router.clone(), request.map(Body::new))
    });
    let builder = connection_builder();
    let connection = builder.serve_connection_with_upgrades(TokioIo::new(stream), service);
    tokio::pin!(connection);
    tokio::select! {
        result = connection.as_mut() => return result,
        () = shutdown.begun() => connection.as_mut().graceful_shutdown(),
    }
    connection.await
}

async fn answer(router: Router, request: Request<Body>) -> Result<Response<Body>, Infallible> {
    router.oneshot(request).await
}

fn connection_builder() -> auto::Builder<TokioExecutor> {
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder.http1().timer(TokioTimer::new()).header_read_timeout(HEADER_TIMEOUT);
    builder
        .http2()
        .timer(TokioTimer::new())
        .keep_alive_interval(KEEPALIVE_INTERVAL)
        .keep_alive_timeout(KEEPALIVE_TIMEOUT)
        .max_concurrent_streams(MAX_STREAMS)
        .adaptive_window(true);
    builder
}
