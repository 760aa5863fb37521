//! The controllers: one pure `reconcile(view, key, now) -> Vec<Action>` each, and one driver that feeds and executes
//! them.

pub mod bootstrap;
pub mod certificates;
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
pub mod root_ca;
pub mod service_account;
pub mod table;
pub mod view;

use std::path::PathBuf;

use anyhow::Context as _;
use diolkos_api::client::connect_file;
use diolkos_api::kubeconfig::Kubeconfig;
use diolkos_api::lease::{told_to_stop, work};
use ipnetwork::IpNetwork;
use tracing::info;

use crate::certificates::{Authority, AuthorityFiles};
use crate::view::{PodNetwork, Settings};

/// What the controllers are told.
#[derive(Clone, Debug)]
pub struct Options {
    pub kubeconfig: PathBuf,
    /// Where the podCIDRs of the nodes come from: one for each address family, the cluster's first family first.
    pub cluster_cidrs: Vec<IpNetwork>,
    /// The length of a node's IPv4 podCIDR.
    pub node_mask_v4: u8,
    /// The length of a node's IPv6 podCIDR.
    pub node_mask_v6: u8,
    /// Act only with the Lease; without, no other controller manager may be there.
    pub leader_elect: bool,
    /// The authority that signs certificates on request; without one, nobody here does.
    pub authority: Option<AuthorityFiles>,
}

/// The Lease that the acting controllers hold.
const LEASE: &str = "kube-controller-manager";

/// Runs until SIGTERM or SIGINT, acting only while it leads.
pub async fn run(options: Options) -> anyhow::Result<()> {
    run_until(options, told_to_stop()).await
}

/// The same, until `stop`.
pub async fn run_until(options: Options, stop: impl Future<Output = ()>) -> anyhow::Result<()> {
    let mut settings = settings(&options)?;
    settings.root_ca = Kubeconfig::load(&options.kubeconfig)?.ca_pem;
    let client = connect_file(&options.kubeconfig).context("the controllers cannot begin")?;
    info!(server = client.server(), cluster_cidrs = ?options.cluster_cidrs, "controllers");
    let authority = options.authority.map(Authority::new);
    let drive = || driver::drive(client.clone(), settings.clone(), authority.clone());
    work(&client, LEASE, options.leader_elect, stop, drive).await;
    Ok(())
}

fn settings(options: &Options) -> anyhow::Result<Settings> {
    let cidrs = &options.cluster_cidrs;
    let same_family = cidrs.len() == 2 && cidrs[0].is_ipv4() == cidrs[1].is_ipv4();
    anyhow::ensure!(
        (1..=2).contains(&cidrs.len()) && !same_family,
        "--cluster-cidr takes one network for each address family, such as 10.244.0.0/16,fd00:10:244::/56"
    );
    let pod_networks = cidrs.iter().map(|cidr| {
        let (flag, node_mask, longest) = match cidr {
            IpNetwork::V4(_) => ("--node-cidr-mask-size-ipv4", options.node_mask_v4, 30),
            IpNetwork::V6(_) => ("--node-cidr-mask-size-ipv6", options.node_mask_v6, 126),
        };
        anyhow::ensure!(
            (cidr.prefix()..=longest).contains(&node_mask),
            "{flag} {node_mask} does not fit into --cluster-cidr {cidr}: it must be between {} and {longest}",
            cidr.prefix()
        );
        Ok(PodNetwork { cidr: *cidr, node_mask })
    });
    let pod_networks = pod_networks.collect::<anyhow::Result<_>>()?;
    Ok(Settings { pod_networks, signs: options.authority.is_some(), root_ca: String::new() })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(cidrs: &[&str]) -> Result<Settings, String> {
        let cluster_cidrs = cidrs.iter().filter_map(|cidr| cidr.parse().ok()).collect();
        let options = Options {
            kubeconfig: PathBuf::new(),
            cluster_cidrs,
            node_mask_v4: 24,
            node_mask_v6: 64,
            leader_elect: true,
            authority: None,
        };
        settings(&options).map_err(|error| error.to_string())
    }

    #[test]
    fn a_cluster_has_one_pod_network_for_each_family() {
        let both = with(&["fd00:10:244::/56", "10.244.0.0/16"]).map(|settings| settings.pod_networks);
        let masks = both.map(|networks| networks.iter().map(|network| network.node_mask).collect::<Vec<_>>());
        assert_eq!(masks, Ok(vec![64, 24]));
        for wrong in [&[][..], &["10.244.0.0/16", "10.245.0.0/16"], &["fd00::/56", "10.0.0.0/8", "fd01::/56"]] {
            assert!(with(wrong).is_err_and(|why| why.contains("one network for each address family")), "{wrong:?}");
        }
        assert!(with(&["fd00::/80"]).is_err_and(|why| why.contains("--node-cidr-mask-size-ipv6 64 does not fit")));
    }
}
