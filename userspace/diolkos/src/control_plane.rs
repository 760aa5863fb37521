//! `diolkos apiserver | scheduler | controller-manager`.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use anyhow::Context as _;
use clap::Args;
use diolkos_apiserver::StoreOptions;
use diolkos_store::EtcdConfig;
use ipnetwork::IpNetwork;

#[derive(Args)]
pub(crate) struct ApiserverArgs {
    /// Where gRPC and REST are served, over TLS.
    #[arg(long, default_value = "0.0.0.0:6443", value_name = "IP:PORT")]
    listen: SocketAddr,
    /// The address the other components reach this apiserver at.
    #[arg(long, value_name = "IP")]
    advertise_address: IpAddr,
    /// A further name or address of the server certificate; may be repeated.
    #[arg(long = "san", value_name = "NAME|IP")]
    sans: Vec<String>,
    /// Certificates and keys; what is missing is made at the first start.
    #[arg(long, default_value = "/var/lib/diolkos/pki", value_name = "DIR")]
    cert_dir: PathBuf,
    /// ClusterIPs come from here: one network for each address family, the cluster's first family first.
    #[arg(
        long,
        alias = "service-cluster-ip-range",
        value_delimiter = ',',
        default_value = "10.96.0.0/16",
        value_name = "CIDR[,CIDR]"
    )]
    service_cidr: Vec<IpNetwork>,
    /// Where the objects rest: in etcd, or in a file that this apiserver alone uses.
    #[arg(long, default_value = "etcd", value_name = "etcd|file:PATH", value_parser = parse_store)]
    store: Rest,
    /// Who signs the tokens of service accounts: `iss`.
    #[arg(long, default_value = diolkos_apiserver::DEFAULT_ISSUER, value_name = "URL")]
    service_account_issuer: String,
    /// Whom tokens for this server are for: `aud`. Default: the issuer.
    #[arg(long, value_delimiter = ',', value_name = "NAME,..")]
    api_audiences: Vec<String>,
    /// A further public key whose tokens are taken, in PEM; may be repeated. Those in --cert-dir named sa*.pub are.
    #[arg(long, value_name = "FILE")]
    service_account_key_file: Vec<PathBuf>,
    /// Takes requests without certificate and token as those of system:anonymous.
    #[arg(long, default_value = "false", default_missing_value = "true", num_args = 0..=1, require_equals = true,
        action = clap::ArgAction::Set, value_name = "BOOL")]
    anonymous_auth: bool,
    /// Writes a line of JSON for each request, as Kubernetes' audit events at the level Metadata.
    #[arg(long, value_name = "FILE")]
    audit_log_path: Option<PathBuf>,
    /// The audit log is renamed when it has so many megabytes.
    #[arg(long, default_value_t = 100, value_name = "MB")]
    audit_log_maxsize: u64,
    /// So many renamed files of the audit log are kept.
    #[arg(long, default_value_t = 10, value_name = "COUNT")]
    audit_log_maxbackup: usize,
    /// Admission plugins that are on beside the usual ones.
    #[arg(long, value_delimiter = ',', value_name = "NAME,..")]
    enable_admission_plugins: Vec<String>,
    /// Admission plugins that are off.
    #[arg(long, value_delimiter = ',', value_name = "NAME,..")]
    disable_admission_plugins: Vec<String>,
    /// URLs of the etcd members.
    #[arg(long, value_delimiter = ',', default_value = "https://127.0.0.1:2379", value_name = "URL,..")]
    etcd_servers: Vec<String>,
    /// CA of etcd's certificate. Without it, the etcd certificates of --cert-dir are used.
    #[arg(long, value_name = "FILE")]
    etcd_cafile: Option<PathBuf>,
    /// Client certificate for etcd.
    #[arg(long, value_name = "FILE", requires = "etcd_keyfile")]
    etcd_certfile: Option<PathBuf>,
    /// Key of the client certificate for etcd.
    #[arg(long, value_name = "FILE", requires = "etcd_certfile")]
    etcd_keyfile: Option<PathBuf>,
}

#[derive(Clone)]
enum Rest {
    Etcd,
    File(PathBuf),
}

fn parse_store(text: &str) -> Result<Rest, String> {
    match text.strip_prefix("file:") {
        Some("") => Err("file: needs a path, as in file:/var/lib/diolkos/store.db".into()),
        Some(path) => Ok(Rest::File(path.into())),
        None if text == "etcd" => Ok(Rest::Etcd),
        None => Err("it is etcd, or file: and a path".into()),
    }
}

pub(crate) async fn apiserver(args: ApiserverArgs) -> anyhow::Result<()> {
    let store = match args.store {
        Rest::File(path) => StoreOptions::File(path),
        Rest::Etcd => StoreOptions::Etcd(EtcdConfig {
            endpoints: args.etcd_servers,
            ca: read(args.etcd_cafile)?,
            cert: read(args.etcd_certfile)?,
            key: read(args.etcd_keyfile)?,
            ..EtcdConfig::default()
        }),
    };
    let mut account_keys = Vec::new();
    for path in args.service_account_key_file {
        let name = path.display().to_string();
        account_keys.extend(read(Some(path))?.map(|pem| (name, pem)));
    }
    let security = diolkos_apiserver::Security {
        tokens: diolkos_apiserver::TokenOptions { issuer: args.service_account_issuer, audiences: args.api_audiences },
        account_keys,
        anonymous: args.anonymous_auth,
        audit: args.audit_log_path.map(|path| diolkos_apiserver::AuditOptions {
            path,
            max_bytes: args.audit_log_maxsize.max(1) << 20,
            max_backups: args.audit_log_maxbackup,
        }),
        limits: diolkos_apiserver::UserLimits::default(),
        admission: diolkos_apiserver::AdmissionOptions {
            enable: args.enable_admission_plugins,
            disable: args.disable_admission_plugins,
        },
    };
    diolkos_apiserver::run(diolkos_apiserver::Options {
        listen: args.listen,
        advertise_address: args.advertise_address,
        names: args.sans,
        cert_dir: args.cert_dir,
        service_cidrs: args.service_cidr,
        store,
        security,
    })
    .await
}

#[derive(Args)]
pub(crate) struct SchedulerArgs {
    /// How to reach the apiserver, and as whom.
    #[arg(long, value_name = "FILE")]
    kubeconfig: PathBuf,
}

pub(crate) async fn scheduler(args: SchedulerArgs) -> anyhow::Result<()> {
    diolkos_scheduler::run(diolkos_scheduler::Options { kubeconfig: args.kubeconfig }).await
}

#[derive(Args)]
pub(crate) struct ControllerManagerArgs {
    /// How to reach the apiserver, and as whom.
    #[arg(long, value_name = "FILE")]
    kubeconfig: PathBuf,
    /// Pod CIDRs of nodes come from here: one network for each address family, the cluster's first family first.
    #[arg(long, value_delimiter = ',', default_value = "10.244.0.0/16", value_name = "CIDR[,CIDR]")]
    cluster_cidr: Vec<IpNetwork>,
    /// Prefix length of one node's IPv4 pod CIDR.
    #[arg(long, alias = "node-cidr-mask-size", default_value_t = 24, value_name = "BITS")]
    node_cidr_mask_size_ipv4: u8,
    /// Prefix length of one node's IPv6 pod CIDR.
    #[arg(long, default_value_t = 64, value_name = "BITS")]
    node_cidr_mask_size_ipv6: u8,
}

pub(crate) async fn controller_manager(args: ControllerManagerArgs) -> anyhow::Result<()> {
    diolkos_controllers::run(diolkos_controllers::Options {
        kubeconfig: args.kubeconfig,
        cluster_cidrs: args.cluster_cidr,
        node_mask_v4: args.node_cidr_mask_size_ipv4,
        node_mask_v6: args.node_cidr_mask_size_ipv6,
    })
    .await
}

fn read(path: Option<PathBuf>) -> anyhow::Result<Option<String>> {
    let Some(path) = path else { return Ok(None) };
    std::fs::read_to_string(&path).map(Some).with_context(|| format!("cannot read {}", path.display()))
}
