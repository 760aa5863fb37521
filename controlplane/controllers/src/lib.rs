//! The controllers: one pure reconcile each, and one driver.

use std::path::PathBuf;

use ipnetwork::IpNetwork;

/// What the controllers are told.
#[derive(Clone, Debug)]
pub struct Options {
    pub kubeconfig: PathBuf,
    /// Where the podCIDRs of the nodes come from.
    pub cluster_cidr: IpNetwork,
    /// The length of a node's podCIDR.
    pub node_mask: u8,
}

/// Runs until SIGTERM or SIGINT.
pub async fn run(options: Options) -> anyhow::Result<()> {
    anyhow::bail!("cannot control with {}", options.kubeconfig.display())
}
