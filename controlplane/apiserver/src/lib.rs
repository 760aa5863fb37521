//! The apiserver: authentication, audit, limits, authorization, and one set of verb handlers behind gRPC and REST.

mod addresses;
mod admission;
mod bootstrap;
pub mod cache;
mod definitions;
mod encryption;
mod grpc;
mod handlers;
mod managed;
mod metrics;
mod patch;
pub mod pki;
mod protobuf;
mod rest;
mod schema;
mod serve;
mod stack;
mod tokens;

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use diolkos_api::kind::Registry;
use diolkos_store::{Etcd, EtcdConfig, Local, Store};
use ipnetwork::IpNetwork;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::JoinHandle;

use addresses::ServiceAddresses;
use admission::Admission;
use cache::Cache;
use encryption::{Encrypted, EncryptionConfig};
use handlers::{Handlers, Turns};
use metrics::Metrics;
use pki::Pki;
use serve::{Served, Shutdown, Stop};
use stack::{Audit, Authenticator, Authorizer, Layers, Limits, Users};
use tokens::Tokens;

pub use admission::AdmissionOptions;
pub use stack::{AuditOptions, UserLimits};
pub use tokens::{DEFAULT_ISSUER, TokenOptions};

/// How long the first fill of the cache may take before the server gives up starting.
const FILL_TIMEOUT: Duration = Duration::from_secs(60);

/// How long the server waits for a store that is still starting.
const STORE_PATIENCE: Duration = Duration::from_secs(30);

/// How to run an apiserver.
pub struct Options {
    pub listen: SocketAddr,
    /// Under which the other machines reach this server: it goes into the certificate, the kubeconfig and the endpoints
    /// of the `kubernetes` service.
    pub advertise_address: IpAddr,
    /// Further DNS names and addresses of the server certificate.
    pub names: Vec<String>,
    /// Where the certificates are, or will be after the first start.
    pub cert_dir: PathBuf,
    pub store: StoreOptions,
    /// The ranges of ClusterIPs: one for each address family, the cluster's first family first.
    pub service_cidrs: Vec<IpNetwork>,
    pub security: Security,
    /// How long the certificates that it makes are valid; they are renewed in the last third of that.
    pub certificate_validity: Duration,
}

/// Whom a server lets in.
#[derive(Clone, Debug, Default)]
pub struct Security {
    /// What the tokens of service accounts say.
    pub tokens: TokenOptions,
    /// Further public keys whose tokens are taken: names and PEM.
    pub account_keys: Vec<(String, String)>,
    /// Requests without certificate and token are those of `system:anonymous` instead of nobody's.
    pub anonymous: bool,
    /// The audit log, if there is to be one.
    pub audit: Option<AuditOptions>,
    /// What one user may have.
    pub limits: UserLimits,
    /// What is asked of what is written.
    pub admission: AdmissionOptions,
    /// An EncryptionConfiguration: what rests encrypted, and with which keys.
    pub encryption_config: Option<PathBuf>,
}

/// Where the objects rest.
pub enum StoreOptions {
    /// Without certificates, those of the server's `cert_dir` are shown to etcd.
    Etcd(EtcdConfig),
    /// One file, of which this server is the only user.
    File(PathBuf),
}

/// What a server needs beside its store and its certificates.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Port 0 takes a free one.
    pub listen: SocketAddr,
    pub advertise_address: IpAddr,
    /// As in [`Options::service_cidrs`].
    pub service_cidrs: Vec<IpNetwork>,
    pub cache: cache::Limits,
    pub security: Security,
}

/// A server that serves; dropping it stops it.
pub struct Running {
    address: SocketAddr,
    stop: Stop,
    cache: Cache,
    tasks: Vec<JoinHandle<()>>,
}

impl Running {
    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Waits for a part of it to end by itself, which none should; why it did.
    pub async fn failed(&mut self) -> String {
        let (result, index, _) = futures::future::select_all(self.tasks.iter_mut()).await;
        drop(self.tasks.remove(index));
        result.err().map_or_else(|| "a task of it ended".into(), |cause| cause.to_string())
    }

    /// Ends watches, lets requests in flight finish for a bounded time, and closes the port.
    pub async fn stop(self) {
        self.stop.begin();
        self.cache.shutdown();
        for task in self.tasks {
            if let Err(cause) = task.await {
                tracing::error!(%cause, "a task of the apiserver failed");
            }
        }
    }
}

/// Runs until SIGTERM or SIGINT.
pub async fn run(options: Options) -> anyhow::Result<()> {
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    run_until(options, async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    })
    .await
}

/// Runs until `stop`, which may also come while the server still waits for its store.
async fn run_until(options: Options, stop: impl Future<Output = ()>) -> anyhow::Result<()> {
    tokio::pin!(stop);
    let running = tokio::select! {
        running = start(options) => running?,
        () = &mut stop => return Ok(()),
    };
    stop.await;
    tracing::info!("stopping");
    running.stop().await;
    Ok(())
}

/// Starts a server; returns when it serves.
pub async fn start(options: Options) -> anyhow::Result<Running> {
    let addresses = service_addresses(&options.service_cidrs, options.advertise_address)?;
    let mut names = vec![options.advertise_address.to_string(), addresses.first().to_string()];
    if !options.listen.ip().is_unspecified() {
        names.push(options.listen.ip().to_string());
    }
    names.extend(options.names);
    let validity = options.certificate_validity;
    let pki = Pki::open_for(&options.cert_dir, &names, validity).context("cannot use the certificates")?;
    let server = SocketAddr::new(options.advertise_address, options.listen.port());
    let kubeconfig = pki.ensure_admin_kubeconfig(&format!("https://{server}"))?;
    let store = open(options.store, &pki).await?;
    let settings = Settings {
        listen: options.listen,
        advertise_address: options.advertise_address,
        service_cidrs: options.service_cidrs,
        cache: cache::Limits::default(),
        security: options.security,
    };
    let mut running = serve_with(store, &pki, settings).await?;
    running.tasks.push(tokio::spawn(renew(options.cert_dir, validity, running.stop.shutdown())));
    tracing::info!(address = %running.address(), kubeconfig = %kubeconfig.display(), "serving");
    Ok(running)
}

/// Renews the certificates of a directory in time, until the shutdown.
async fn renew(dir: PathBuf, validity: Duration, shutdown: Shutdown) {
    let looks = async {
        loop {
            tokio::time::sleep(pki::look_every(validity)).await;
            let dir = dir.clone();
            // It waits for other processes that use the directory.
            match tokio::task::spawn_blocking(move || Pki::renew(&dir, validity)).await {
                Ok(Ok(())) => {}
                Ok(Err(cause)) => tracing::error!(%cause, "the certificates cannot be renewed; trying again"),
                Err(cause) => tracing::error!(%cause, "the renewal of the certificates failed; trying again"),
            }
        }
    };
    tokio::select! {
        () = looks => {}
        () = shutdown.begun() => {}
    }
}

/// Serves a store. Returns when the port is open, the cache filled and the cluster's own objects are there.
pub async fn serve_with(store: Arc<dyn Store>, pki: &Pki, settings: Settings) -> anyhow::Result<Running> {
    let addresses = service_addresses(&settings.service_cidrs, settings.advertise_address)?;
    let served = Served::new(pki.apiserver())?;
    let tls = serve::tls_config(pki.ca_pem(), served.clone())?;
    let listener =
        TcpListener::bind(settings.listen).await.with_context(|| format!("cannot listen on {}", settings.listen))?;
    let address = listener.local_addr()?;
    let advertised = SocketAddr::new(settings.advertise_address, address.port());
    let registry = Arc::new(Registry::builtin());
    let fields = {
        let registry = registry.clone();
        move |resource: &str| {
            let kind = registry.find_key(&format!("{}{resource}/", cache::ROOT));
            kind.map(|kind| kind.fields.clone()).unwrap_or_default()
        }
    };
    let encryption = settings.security.encryption_config.as_deref().map(EncryptionConfig::load).transpose()?;
    let store = Encrypted::new(store, encryption.unwrap_or_default());
    let (sealed, store) = (store.seen(), Arc::new(store) as Arc<dyn Store>);
    let cache = Cache::start(store.clone(), fields, settings.cache);
    if tokio::time::timeout(FILL_TIMEOUT, cache.ready()).await.is_err() {
        let why = cache.health().err().unwrap_or_else(|| "no reason is known".into());
        anyhow::bail!("the cache was not filled within {} s: {why}", FILL_TIMEOUT.as_secs());
    }
    let metrics = Metrics::default();
    let authorizer = Authorizer::new(metrics.clone());
    let mut keys = pki.account_keys().clone();
    keys.verify.extend(settings.security.account_keys);
    let tokens = Tokens::new(cache.clone(), &keys, &settings.security.tokens, metrics.clone())
        .context("cannot use the keys of the service accounts")?;
    let authenticator = Authenticator::new(tokens.clone(), settings.security.anonymous, metrics.clone());
    let audit = Audit::open(settings.security.audit, &metrics)?;
    let users = Users::new(settings.security.limits, metrics.clone());
    let admission = Admission::new(&settings.security.admission, cache.clone(), authorizer.clone(), metrics.clone())?;
    let handlers = Handlers {
        store,
        cache: cache.clone(),
        registry,
        addresses,
        turns: Turns::new(),
        authorizer: authorizer.clone(),
        admission,
        sealed,
        tokens,
        users: users.clone(),
        metrics: metrics.clone(),
        public_address: bootstrap::public_address(advertised),
    };
    bootstrap::begin(&handlers, advertised).await.context("cannot make the cluster's own objects")?;
    let follower = authorizer.follow(&cache).await.context("cannot read the roles")?;
    let definitions = definitions::start(&handlers).await.context("cannot read the CustomResourceDefinitions")?;
    let grpc = tonic::service::Routes::new(grpc::service(handlers.clone())).into_axum_router();
    let layers = Layers { audit, authenticator, limits: Limits::new(users, metrics), authorizer };
    let router = stack::wrap(grpc.fallback_service(rest::routes(handlers.clone())), layers);
    let (stop, shutdown) = Shutdown::new();
    let tasks = vec![
        tokio::spawn(serve::serve(listener, tls, router, shutdown.clone())),
        tokio::spawn(follower.run(shutdown.clone())),
        tokio::spawn(served.follow(
            pki.path("apiserver.crt"),
            pki.path("apiserver.key"),
            pki.apiserver().clone(),
            shutdown.clone(),
        )),
        tokio::spawn(definitions.run(shutdown.clone())),
        tokio::spawn(handlers.admission.clone().keep(handlers.clone(), shutdown.clone())),
        tokio::spawn(bootstrap::keep(handlers, advertised, shutdown)),
    ];
    Ok(Running { address, stop, cache, tasks })
}

/// The address of the `kubernetes` service, which the apiserver's certificate has to name.
pub fn kubernetes_address(service_cidrs: &[IpNetwork]) -> anyhow::Result<IpAddr> {
    Ok(ServiceAddresses::new(service_cidrs)?.first())
}

fn service_addresses(ranges: &[IpNetwork], advertised: IpAddr) -> anyhow::Result<ServiceAddresses> {
    let addresses = ServiceAddresses::new(ranges)?;
    anyhow::ensure!(
        addresses.first().is_ipv4() == advertised.is_ipv4(),
        "--advertise-address {advertised} is not of the first family of --service-cidr: the kubernetes service, which is \
         of that family, could not point at it"
    );
    Ok(addresses)
}

async fn open(store: StoreOptions, pki: &Pki) -> anyhow::Result<Arc<dyn Store>> {
    match store {
        StoreOptions::Etcd(config) => {
            let store = Etcd::connect(with_own_certificates(config, pki)).await.context("cannot use etcd")?;
            store.wait_ready(STORE_PATIENCE).await.context("etcd is not there")?;
            Ok(Arc::new(store))
        }
        StoreOptions::File(path) => Ok(Arc::new(Local::open(&path).await.context("cannot use the store's file")?)),
    }
}

fn with_own_certificates(mut etcd: EtcdConfig, pki: &Pki) -> EtcdConfig {
    if etcd.ca.is_none() && etcd.cert.is_none() && etcd.key.is_none() {
        etcd.ca = Some(pki.etcd_ca_pem().to_owned());
        etcd.cert = Some(pki.etcd_client().cert_pem.clone());
        etcd.key = Some(pki.etcd_client().key_pem.clone());
    }
    etcd
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[tokio::test]
    async fn a_server_that_waits_for_its_store_can_be_stopped() {
        let dir = tempfile::tempdir().unwrap();
        let options = Options {
            listen: "127.0.0.1:0".parse().unwrap(),
            advertise_address: "127.0.0.1".parse().unwrap(),
            names: Vec::new(),
            cert_dir: dir.path().to_owned(),
            // Nothing listens on the port of tcpmux here.
            store: StoreOptions::Etcd(EtcdConfig {
                endpoints: vec!["https://127.0.0.1:1".into()],
                ..EtcdConfig::default()
            }),
            service_cidrs: vec!["10.96.0.0/16".parse().unwrap()],
            security: Security::default(),
            certificate_validity: pki::LEAF_LIFETIME,
        };
        let stopped = run_until(options, tokio::time::sleep(Duration::from_millis(500)));
        tokio::time::timeout(STORE_PATIENCE / 2, stopped).await.expect("it stops at once").unwrap();
    }
}
