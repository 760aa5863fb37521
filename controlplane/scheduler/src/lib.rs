//! The scheduler: filters and scores are rows of tables of pure functions, and one driver watches, decides and binds.

pub mod cluster;
pub mod decision;
mod driver;
pub mod filter;
pub mod score;
mod waiting;

use std::path::PathBuf;

use anyhow::Context as _;
use diolkos_api::client::connect_file;
use diolkos_api::lease::{told_to_stop, work};
use tracing::info;

/// What the scheduler is told.
#[derive(Clone, Debug)]
pub struct Options {
    pub kubeconfig: PathBuf,
    /// Act only with the Lease; without, no other scheduler may be there.
    pub leader_elect: bool,
}

/// The Lease that the acting scheduler holds.
const LEASE: &str = "kube-scheduler";

/// Runs until SIGTERM or SIGINT, acting only while it leads.
pub async fn run(options: Options) -> anyhow::Result<()> {
    run_until(options, told_to_stop()).await
}

/// The same, until `stop`.
pub async fn run_until(options: Options, stop: impl Future<Output = ()>) -> anyhow::Result<()> {
    let client = connect_file(&options.kubeconfig).context("the scheduler cannot begin")?;
    info!(server = client.server(), "scheduler");
    work(&client, LEASE, options.leader_elect, stop, || driver::drive(client.clone())).await;
    Ok(())
}
