//! The scheduler: filter, score, bind.

use std::path::PathBuf;

/// What the scheduler is told.
#[derive(Clone, Debug)]
pub struct Options {
    pub kubeconfig: PathBuf,
}

/// Runs until SIGTERM or SIGINT.
pub async fn run(options: Options) -> anyhow::Result<()> {
    anyhow::bail!("cannot schedule with {}", options.kubeconfig.display())
}
