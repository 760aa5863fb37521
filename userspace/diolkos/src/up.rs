//! `diolkos up`: the control plane, and on request the node side, in one process. The parts are those of the separate
//! commands, and speak to each other as those do: over TLS, each under its own name.

pub(crate) mod parts;
pub(crate) mod ready;

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use clap::Args;
use diolkos_api::client::{Client, connect_file};
use diolkos_api::lease::told_to_stop;
use diolkos_apiserver::pki::{ADMIN_GROUP, ADMIN_USER, Pki, look_every, make_private_dir};
use ipnetwork::IpNetwork;

use crate::control_plane::{ApiserverArgs, ControllerArgs, Rest, apiserver_options};
use crate::init::objects;
use crate::node_side::NodeArgs;
use crate::progress::step;
use parts::Parts;

/// Where everything is that `up` keeps, unless the command line says otherwise.
pub(crate) const DATA_DIR: &str = "/var/lib/diolkos";
/// The users of the parts, and the files of their kubeconfigs below the data directory.
pub(crate) const COMPONENTS: [(&str, &str); 2] = [
    ("system:kube-scheduler", "scheduler.kubeconfig"),
    ("system:kube-controller-manager", "controller-manager.kubeconfig"),
];

#[derive(Args)]
pub(crate) struct UpArgs {
    /// Flags from a YAML file, by their names: `service-cidr: 10.96.0.0/16`. What the command line says counts more.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    #[command(flatten)]
    control_plane: ControlPlaneArgs,
    /// Makes this machine a node, too: kubelet and agent run in the same process.
    #[arg(long, default_value = "false", default_missing_value = "true", num_args = 0..=1, require_equals = true,
        action = clap::ArgAction::Set, value_name = "BOOL")]
    node: bool,
    #[command(flatten)]
    node_args: NodeArgs,
}

/// What `up` and `init` agree on.
#[derive(Args)]
pub(crate) struct ControlPlaneArgs {
    /// Certificates, kubeconfigs and objects.
    #[arg(long, default_value = DATA_DIR, value_name = "DIR")]
    pub(crate) data_dir: PathBuf,
    /// Where the administrator's kubeconfig is. Default: `pki/admin.kubeconfig` below --data-dir.
    #[arg(long, value_name = "FILE")]
    write_kubeconfig: Option<PathBuf>,
    #[command(flatten)]
    apiserver: ApiserverArgs,
    #[command(flatten)]
    controllers: ControllerArgs,
}

impl ControlPlaneArgs {
    /// Fills in what depends on the data directory. Whether this process alone uses the store.
    fn settle(&mut self) -> bool {
        let server = &mut self.apiserver;
        let store = match server.store.take() {
            Some(store) => store,
            None if server.etcd_servers.is_empty() => Rest::File(self.data_dir.join("store.db")),
            None => Rest::Etcd,
        };
        let alone = matches!(store, Rest::File(_));
        server.store = Some(store);
        server.cert_dir.get_or_insert_with(|| self.data_dir.join("pki"));
        alone
    }
}

/// A control plane that serves.
pub(crate) struct ControlPlane {
    pub(crate) parts: Parts,
    /// The administrator.
    pub(crate) client: Client,
    /// The administrator's kubeconfig.
    pub(crate) admin: PathBuf,
    pub(crate) ca_pem: String,
    /// HOST:PORT, as other machines reach it.
    pub(crate) endpoint: String,
    pub(crate) address: IpAddr,
    service_cidrs: Vec<IpNetwork>,
    data_dir: PathBuf,
    pki: Pki,
}

/// Runs until SIGTERM or SIGINT, or until a part ends by itself.
pub(crate) async fn run(args: UpArgs) -> anyhow::Result<()> {
    let begun = Instant::now();
    let stop = told_to_stop();
    tokio::pin!(stop);
    let parts = tokio::select! {
        () = &mut stop => return Ok(()),
        parts = start(args, begun) => parts?,
    };
    parts.run(stop).await
}

async fn start(args: UpArgs, begun: Instant) -> anyhow::Result<Parts> {
    if let Some(file) = &args.config {
        step("configuration", &file.display().to_string());
    }
    let mut plane = start_control_plane(args.control_plane).await?;
    let url = format!("https://{}", plane.endpoint);
    if args.node {
        let node = args.node_args.settle(Some(plane.address), &plane.service_cidrs, &plane.data_dir)?;
        node.issue(&plane.pki, &url)?;
        node.add_to(&mut plane.parts)?;
        step("node", &format!("{} with the runtime at {}", node.name, node.runtime));
    }
    ready::tell();
    let took = Duration::from_millis(u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX));
    println!("ready in {took:?}: {url}\n  export KUBECONFIG={}; kubectl get nodes", plane.admin.display());
    Ok(plane.parts)
}

/// Returns when it serves.
pub(crate) async fn start_control_plane(mut args: ControlPlaneArgs) -> anyhow::Result<ControlPlane> {
    let alone = args.settle();
    let ControlPlaneArgs { data_dir, write_kubeconfig, apiserver, mut controllers } = args;
    let options = apiserver_options(apiserver)?;
    let (cert_dir, address, service_cidrs) =
        (options.cert_dir.clone(), options.advertise_address, options.service_cidrs.clone());
    let validity = options.certificate_validity;
    make_private_dir(&data_dir)?;
    step("certificates", &format!("in {}", cert_dir.display()));
    step("store", &store_text(&options.store));
    let server = diolkos_apiserver::start(options).await.context("the apiserver cannot start")?;
    let endpoint = SocketAddr::new(address, server.address().port()).to_string();
    let url = format!("https://{endpoint}");
    step("apiserver", &format!("serves {url}"));
    // The server has made what was missing.
    let pki = Pki::open_for(&cert_dir, &[], validity).context("cannot use the certificates")?;
    let admin = write_kubeconfig.unwrap_or_else(|| pki.path("admin.kubeconfig"));
    pki.ensure_kubeconfig(&url, ADMIN_USER, &[ADMIN_GROUP], &admin)?;
    let client = connect_file(&admin)?;
    let cidrs = [("service-cidr", joined(&service_cidrs)), ("cluster-cidr", joined(&controllers.cluster_cidr))];
    objects::ensure(&client, &url, pki.ca_pem(), &cidrs)
        .await
        .context("cannot make the objects of machines that join")?;
    let [scheduler, manager] = COMPONENTS.map(|(_, file)| data_dir.join(file));
    let kubeconfigs = Kubeconfigs { url, admin: admin.clone(), data_dir: data_dir.clone() };
    kubeconfigs.ensure(&pki)?;
    let mut parts = Parts::new(server);
    let keep = kubeconfigs.keep(cert_dir, validity);
    parts.add("certificates", |stop| async move {
        tokio::select! {
            () = stop => Ok(()),
            never = keep => never,
        }
    });
    controllers.cluster_signing_cert_file.get_or_insert_with(|| pki.path("ca.crt"));
    controllers.cluster_signing_key_file.get_or_insert_with(|| pki.path("ca.key"));
    // With a store of its own there can be no second scheduler or controller manager to agree with.
    let (leader_elect, options) = (!alone, controllers.options(manager, !alone));
    let options_of_scheduler = diolkos_scheduler::Options { kubeconfig: scheduler, leader_elect };
    parts.add("scheduler", |stop| diolkos_scheduler::run_until(options_of_scheduler, stop));
    step("scheduler", "runs");
    parts.add("controller manager", |stop| diolkos_controllers::run_until(options, stop));
    step("controllers", "run");
    let ca_pem = pki.ca_pem().to_owned();
    Ok(ControlPlane { parts, client, admin, ca_pem, endpoint, address, service_cidrs, data_dir, pki })
}

/// The kubeconfigs of the administrator and of the parts, renewed before they end. Who uses them follows the files.
struct Kubeconfigs {
    url: String,
    admin: PathBuf,
    data_dir: PathBuf,
}

impl Kubeconfigs {
    fn ensure(&self, pki: &Pki) -> anyhow::Result<()> {
        pki.ensure_kubeconfig(&self.url, ADMIN_USER, &[ADMIN_GROUP], &self.admin)?;
        for (user, file) in COMPONENTS {
            pki.ensure_kubeconfig(&self.url, user, &[], &self.data_dir.join(file))?;
        }
        Ok(())
    }

    async fn keep(self, cert_dir: PathBuf, validity: Duration) -> anyhow::Result<()> {
        loop {
            tokio::time::sleep(look_every(validity)).await;
            if let Err(why) =
                Pki::open_for(&cert_dir, &[], validity).map_err(Into::into).and_then(|pki| self.ensure(&pki))
            {
                tracing::error!(why = format!("{why:#}"), "the kubeconfigs cannot be renewed; trying again");
            }
        }
    }
}

fn joined(networks: &[IpNetwork]) -> String {
    networks.iter().map(ToString::to_string).collect::<Vec<_>>().join(",")
}

fn store_text(store: &diolkos_apiserver::StoreOptions) -> String {
    match store {
        diolkos_apiserver::StoreOptions::File(path) => format!("the file {}", path.display()),
        diolkos_apiserver::StoreOptions::Etcd(etcd) => format!("etcd at {}", etcd.endpoints.join(", ")),
    }
}
