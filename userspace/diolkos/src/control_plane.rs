//! `diolkos apiserver | scheduler | controller-manager`.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context as _;
use clap::Args;
use diolkos_apiserver::StoreOptions;
use diolkos_store::EtcdConfig;
use ipnetwork::IpNetwork;

use crate::host;

#[derive(Args)]
pub(crate) struct ApiserverArgs {
    /// Where gRPC and REST are served, over TLS.
    #[arg(long, default_value = "0.0.0.0:6443", value_name = "IP:PORT")]
    pub(crate) listen: SocketAddr,
    /// The address the other components reach this apiserver at. Default: that of the default route.
    #[arg(long, value_name = "IP")]
    pub(crate) advertise_address: Option<IpAddr>,
    /// A further name or address of the server certificate; may be repeated.
    #[arg(long = "san", value_name = "NAME|IP")]
    sans: Vec<String>,
    /// Certificates and keys; what is missing is made at the first start. Default: /var/lib/diolkos/pki; of `up` and
    /// `init`, `pki` below --data-dir.
    #[arg(long, value_name = "DIR")]
    pub(crate) cert_dir: Option<PathBuf>,
    /// ClusterIPs come from here: one network for each address family, the cluster's first family first.
    #[arg(
        long,
        alias = "service-cluster-ip-range",
        value_delimiter = ',',
        default_value = "10.96.0.0/16",
        value_name = "CIDR[,CIDR]"
    )]
    pub(crate) service_cidr: Vec<IpNetwork>,
    /// How long the certificates that are made here are valid; they are renewed in the last third of it.
    #[arg(long, default_value = "26280h", value_parser = crate::duration::parse, value_name = "DURATION")]
    certificate_validity_period: Duration,
    /// Where the objects rest: in etcd, or in a file that this apiserver alone uses. Default: etcd; of `up` and `init`,
    /// `store.db` below --data-dir, unless --etcd-servers is given.
    #[arg(long, value_name = "etcd|file:PATH", value_parser = parse_store)]
    pub(crate) store: Option<Rest>,
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
    /// What rests encrypted, and with which keys: Kubernetes' EncryptionConfiguration with aesgcm and identity.
    #[arg(long, value_name = "FILE")]
    encryption_provider_config: Option<PathBuf>,
    /// URLs of the etcd members. Default: https://127.0.0.1:2379.
    #[arg(long, value_delimiter = ',', value_name = "URL,..")]
    pub(crate) etcd_servers: Vec<String>,
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

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Rest {
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

const CERT_DIR: &str = "/var/lib/diolkos/pki";
const ETCD: &str = "https://127.0.0.1:2379";

pub(crate) async fn apiserver(args: ApiserverArgs) -> anyhow::Result<()> {
    diolkos_apiserver::run(apiserver_options(args)?).await
}

/// What the flags say. Addresses, directory and store are this machine's when no flag names them.
pub(crate) fn apiserver_options(mut args: ApiserverArgs) -> anyhow::Result<diolkos_apiserver::Options> {
    if args.etcd_servers.is_empty() {
        args.etcd_servers.push(ETCD.into());
    }
    let advertise_address = match args.advertise_address {
        Some(address) => address,
        None => host::address(args.service_cidr.first().is_none_or(IpNetwork::is_ipv4))
            .context("--advertise-address is not given, and this machine does not tell")?,
    };
    let store = match args.store.unwrap_or(Rest::Etcd) {
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
        encryption_config: args.encryption_provider_config,
    };
    Ok(diolkos_apiserver::Options {
        listen: args.listen,
        advertise_address,
        names: args.sans,
        cert_dir: args.cert_dir.unwrap_or_else(|| CERT_DIR.into()),
        service_cidrs: args.service_cidr,
        store,
        security,
        certificate_validity: args.certificate_validity_period,
    })
}

#[derive(Args)]
pub(crate) struct SchedulerArgs {
    /// How to reach the apiserver, and as whom.
    #[arg(long, value_name = "FILE")]
    kubeconfig: PathBuf,
    /// Act only while holding the Lease; `=false` where no other scheduler can be.
    #[arg(long, default_value = "true", default_missing_value = "true", num_args = 0..=1, require_equals = true,
        action = clap::ArgAction::Set, value_name = "BOOL")]
    leader_elect: bool,
}

pub(crate) async fn scheduler(args: SchedulerArgs) -> anyhow::Result<()> {
    let (kubeconfig, leader_elect) = (args.kubeconfig, args.leader_elect);
    diolkos_scheduler::run(diolkos_scheduler::Options { kubeconfig, leader_elect }).await
}

#[derive(Args)]
pub(crate) struct ControllerManagerArgs {
    /// How to reach the apiserver, and as whom.
    #[arg(long, value_name = "FILE")]
    kubeconfig: PathBuf,
    /// Act only while holding the Lease; `=false` where no other controller manager can be.
    #[arg(long, default_value = "true", default_missing_value = "true", num_args = 0..=1, require_equals = true,
        action = clap::ArgAction::Set, value_name = "BOOL")]
    leader_elect: bool,
    #[command(flatten)]
    controllers: ControllerArgs,
}

/// What the controllers decide by, wherever they run.
#[derive(Args)]
pub(crate) struct ControllerArgs {
    /// Pod CIDRs of nodes come from here: one network for each address family, the cluster's first family first.
    #[arg(long, value_delimiter = ',', default_value = "10.244.0.0/16", value_name = "CIDR[,CIDR]")]
    pub(crate) cluster_cidr: Vec<IpNetwork>,
    /// Prefix length of one node's IPv4 pod CIDR.
    #[arg(long, alias = "node-cidr-mask-size", default_value_t = 24, value_name = "BITS")]
    node_cidr_mask_size_ipv4: u8,
    /// Prefix length of one node's IPv6 pod CIDR.
    #[arg(long, default_value_t = 64, value_name = "BITS")]
    node_cidr_mask_size_ipv6: u8,
    /// Certificate of the authority that signs what nodes and others ask for. Of `up`, the cluster's own.
    #[arg(long, requires = "cluster_signing_key_file", value_name = "FILE")]
    pub(crate) cluster_signing_cert_file: Option<PathBuf>,
    /// Key of that authority.
    #[arg(long, requires = "cluster_signing_cert_file", value_name = "FILE")]
    pub(crate) cluster_signing_key_file: Option<PathBuf>,
    /// How long certificates that are asked for are valid at most, such as `8760h`.
    #[arg(long, default_value = "8760h", value_parser = crate::duration::parse, value_name = "DURATION")]
    cluster_signing_duration: Duration,
}

pub(crate) async fn controller_manager(args: ControllerManagerArgs) -> anyhow::Result<()> {
    diolkos_controllers::run(args.controllers.options(args.kubeconfig, args.leader_elect)).await
}

impl ControllerArgs {
    pub(crate) fn options(self, kubeconfig: PathBuf, leader_elect: bool) -> diolkos_controllers::Options {
        diolkos_controllers::Options {
            kubeconfig,
            cluster_cidrs: self.cluster_cidr,
            node_mask_v4: self.node_cidr_mask_size_ipv4,
            node_mask_v6: self.node_cidr_mask_size_ipv6,
            leader_elect,
            authority: self.cluster_signing_cert_file.zip(self.cluster_signing_key_file).map(|(certificate, key)| {
                diolkos_controllers::certificates::AuthorityFiles {
                    certificate,
                    key,
                    duration: self.cluster_signing_duration,
                }
            }),
        }
    }
}

fn read(path: Option<PathBuf>) -> anyhow::Result<Option<String>> {
    let Some(path) = path else { return Ok(None) };
    std::fs::read_to_string(&path).map(Some).with_context(|| format!("cannot read {}", path.display()))
}
