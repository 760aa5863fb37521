//! `diolkos join`: makes this machine a node of a cluster that it proves to belong to, and that proves to be the one.

pub(crate) mod discovery;

use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use clap::Args;
use diolkos_api::bootstrap_token::BootstrapToken;
use diolkos_api::client::Client;
use diolkos_api::kubeconfig::Kubeconfig;
use diolkos_api::lease::told_to_stop;
use diolkos_apiserver::pki::{make_private_dir, write_private};
use diolkos_kubelet::certificate::{Wish, obtain};
use ipnetwork::IpNetwork;
use k8s_openapi::api::core::v1::ConfigMap;
use serde_json::{Value, json};

use crate::init::objects;
use crate::node_side::{NodeArgs, NodeSide};
use crate::progress::step;
use crate::up::DATA_DIR;
use crate::up::parts::Parts;
use crate::{config, units};
use discovery::{Found, Trust, discover, parse_hash};

#[derive(Args)]
pub(crate) struct JoinArgs {
    /// Where the apiserver is.
    #[arg(value_name = "HOST:PORT")]
    endpoint: String,
    /// The bootstrap token, as `diolkos init` and `diolkos token create` print it.
    #[arg(long, value_name = "ID.SECRET")]
    token: BootstrapToken,
    /// The hash of the cluster's authority; may be repeated.
    #[arg(long = "discovery-token-ca-cert-hash", value_parser = parse_hash, value_name = "sha256:HEX",
        required_unless_present = "discovery_token_unsafe_skip_ca_verification")]
    hashes: Vec<String>,
    /// Believe any authority that is signed with the token: whoever knows the token could be the cluster.
    #[arg(long)]
    discovery_token_unsafe_skip_ca_verification: bool,
    /// Certificates and state of the node.
    #[arg(long, default_value = DATA_DIR, value_name = "DIR")]
    data_dir: PathBuf,
    /// The configuration of the node is written here.
    #[arg(long, default_value = units::NODE_CONFIG, value_name = "FILE")]
    config_file: PathBuf,
    /// Write a systemd unit there, as to /etc/systemd/system, and end instead of running the node.
    #[arg(long, value_name = "DIR")]
    systemd_units: Option<PathBuf>,
    #[command(flatten)]
    node: NodeArgs,
}

/// `diolkos node`: what `join` leaves behind, at work.
#[derive(Args)]
pub(crate) struct RunArgs {
    /// What `diolkos join` wrote: flags from a YAML file, by their names.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Certificates and state of the node.
    #[arg(long, default_value = DATA_DIR, value_name = "DIR")]
    data_dir: PathBuf,
    /// ClusterIPs come from here, as the apiserver's flag says.
    #[arg(long, value_delimiter = ',', required = true, value_name = "CIDR[,CIDR]")]
    service_cidr: Vec<IpNetwork>,
    #[command(flatten)]
    node: NodeArgs,
}

pub(crate) async fn run(args: JoinArgs) -> anyhow::Result<()> {
    let stop = told_to_stop();
    tokio::pin!(stop);
    let units = args.systemd_units.clone();
    let (node, config_file) = tokio::select! {
        () = &mut stop => return Ok(()),
        joined = join(args) => joined?,
    };
    if let Some(directory) = units {
        let unit = units::write_node(&directory, &config_file)?;
        println!("{} has joined; start it with\n  systemctl daemon-reload; systemctl enable --now {unit}", node.name);
        return Ok(());
    }
    println!("{} has joined, and runs; later `diolkos node --config {}` does", node.name, config_file.display());
    serve(&node, stop).await
}

pub(crate) async fn run_node(args: RunArgs) -> anyhow::Result<()> {
    let _ = args.config;
    let node = args.node.settle(None, &args.service_cidr, &args.data_dir)?;
    for (_, _, path) in node.identities() {
        anyhow::ensure!(path.exists(), "{} is not there: this machine has not joined a cluster", path.display());
    }
    serve(&node, told_to_stop()).await
}

async fn serve(node: &NodeSide, stop: impl Future<Output = ()>) -> anyhow::Result<()> {
    let mut parts = Parts::new(None);
    node.add_to(&mut parts)?;
    crate::up::ready::tell();
    parts.run(stop).await
}

async fn join(args: JoinArgs) -> anyhow::Result<(NodeSide, PathBuf)> {
    let trust =
        if args.discovery_token_unsafe_skip_ca_verification { Trust::AnySigned } else { Trust::Hashes(args.hashes) };
    let found = discover(&args.endpoint, &args.token, &trust).await?;
    step("discovery", &format!("{} is the cluster", found.server));
    let with_token = connect(&found, None, Some(args.token.to_string()))?;
    let service_cidrs = service_cidrs(&with_token).await?;
    let node = args.node.clone().settle(None, &service_cidrs, &args.data_dir)?;
    let [(_, _, kubelet), (_, _, agent)] = node.identities();
    if kubelet.exists() {
        bail!(
            "{} is there: this machine has joined a cluster. `diolkos node --config {}` runs it, `diolkos reset` undoes it",
            kubelet.display(),
            args.config_file.display()
        );
    }
    make_private_dir(&args.data_dir)?;
    let wish = Wish::of_kubelet(&node.name);
    let granted = obtain(&with_token, &wish).await.context("no certificate for the kubelet")?;
    let own = kubeconfig(&found, Some((granted.cert_pem, granted.key_pem)), None);
    let as_node = Client::connect(&own)?;
    step("kubelet", &format!("is {}", wish.user));
    let wish = Wish::of_agent(&node.name);
    let granted = obtain(&as_node, &wish).await.context("no certificate for the agent")?;
    step("agent", &format!("is {}", wish.user));
    let of_agent = kubeconfig(&found, Some((granted.cert_pem, granted.key_pem)), None);
    write_private(&agent, of_agent.to_yaml().as_bytes())?;
    write_config(&args.config_file, &args.data_dir, &service_cidrs, &args.node)?;
    // Last: that it is there says that all is.
    write_private(&kubelet, own.to_yaml().as_bytes())?;
    Ok((node, args.config_file))
}

fn kubeconfig(found: &Found, identity: Option<(String, String)>, token: Option<String>) -> Kubeconfig {
    let (client_cert_pem, client_key_pem) = identity.unzip();
    let (server, ca_pem) = (found.server.clone(), found.ca_pem.clone());
    Kubeconfig { server, ca_pem, client_cert_pem, client_key_pem, token }
}

fn connect(found: &Found, identity: Option<(String, String)>, token: Option<String>) -> anyhow::Result<Client> {
    Ok(Client::connect(&kubeconfig(found, identity, token))?)
}

/// What all nodes have to agree on.
async fn service_cidrs(client: &Client) -> anyhow::Result<Vec<IpNetwork>> {
    let api = client.api::<ConfigMap>(Some(objects::CONFIG_NAMESPACE));
    let config = api.get(objects::CONFIG_NAME).await.context("the cluster does not say its configuration")?;
    let text = config.data.as_ref().and_then(|data| data.get("service-cidr")).cloned().unwrap_or_default();
    let cidrs: Result<Vec<IpNetwork>, _> = text.split(',').map(str::parse).collect();
    cidrs.with_context(|| format!("the cluster's service-cidr {text:?} is no list of networks"))
}

fn write_config(path: &Path, data_dir: &Path, service_cidrs: &[IpNetwork], node: &NodeArgs) -> anyhow::Result<()> {
    let texts = |values: &[String]| Value::from(values.to_vec());
    let cidrs: Vec<String> = service_cidrs.iter().map(ToString::to_string).collect();
    let mut entries = vec![("data-dir", json!(data_dir)), ("service-cidr", texts(&cidrs))];
    if let Some(name) = &node.node_name {
        entries.push(("node-name", json!(name)));
    }
    let ips: Vec<String> = node.node_ip.iter().map(ToString::to_string).collect();
    let given = [("node-ip", ips), ("kubelet-arg", node.kubelet_args.clone()), ("agent-arg", node.agent_args.clone())];
    entries.extend(
        given.into_iter().filter(|(_, values)| !values.is_empty()).map(|(name, values)| (name, texts(&values))),
    );
    if let Some(url) = &node.container_runtime_endpoint {
        entries.push(("container-runtime-endpoint", json!(url)));
    }
    config::write_file(path, "Written by `diolkos join`: flags of `diolkos node`.", &entries)
}
