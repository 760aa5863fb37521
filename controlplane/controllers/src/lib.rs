//! The controllers: one pure `reconcile(view, key, now) -> Vec<Action>` each, and one driver that feeds and executes
//! them.

pub mod deployment;
mod driver;
pub mod endpoint_slice;
mod execute;
pub mod garbage;
pub mod namespace;
pub mod node_ipam;
pub mod node_lifecycle;
pub mod object;
mod pod_state;
mod queue;
pub mod replica_set;
pub mod table;
pub mod view;

use std::path::PathBuf;

use anyhow::Context as _;
use diolkos_api::client::Client;
use diolkos_api::kubeconfig::Kubeconfig;
use diolkos_api::lease::{lead, told_to_stop};
use ipnetwork::IpNetwork;
use tracing::info;

use crate::view::Settings;

/// What the controllers are told.
#[derive(Clone, Debug)]
pub struct Options {
    pub kubeconfig: PathBuf,
    /// Where the podCIDRs of the nodes come from.
    pub cluster_cidr: IpNetwork,
    /// The length of a node's podCIDR.
    pub node_mask: u8,
}

/// The Lease that the acting controllers hold.
const LEASE: &str = "kube-controller-manager";

/// Runs until SIGTERM or SIGINT, acting only while it leads.
pub async fn run(options: Options) -> anyhow::Result<()> {
    let settings = settings(&options)?;
    let kubeconfig = Kubeconfig::load(&options.kubeconfig)?;
    let client = Client::connect(&kubeconfig).context("the controllers cannot begin")?;
    info!(server = client.server(), cluster_cidr = %settings.cluster_cidr, "controllers");
    lead(&client, LEASE, told_to_stop(), || driver::drive(client.clone(), settings)).await;
    Ok(())
}

fn settings(options: &Options) -> anyhow::Result<Settings> {
    let Options { cluster_cidr, node_mask, .. } = *options;
    let longest = if cluster_cidr.is_ipv4() { 30 } else { 126 };
    anyhow::ensure!(
        (cluster_cidr.prefix()..=longest).contains(&node_mask),
        "--node-cidr-mask-size {node_mask} does not fit into --cluster-cidr {cluster_cidr}: it must be between {} and \
         {longest}",
        cluster_cidr.prefix()
    );
    Ok(Settings { cluster_cidr, node_mask })
}
