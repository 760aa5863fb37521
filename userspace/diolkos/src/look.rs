//! What the commands that look at a node share.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::Args;
use diolkos_agent::observe::{ObserveError, Pins};

#[derive(Args)]
pub(crate) struct NodeArgs {
    /// The bpf file system with the node's pins.
    #[arg(long, default_value = "/sys/fs/bpf", value_name = "DIR")]
    bpffs: PathBuf,
    /// The node, when several are pinned there.
    #[arg(long, env = "NODE_NAME")]
    node_name: Option<String>,
    /// Where the node's agent serves health and metrics.
    #[arg(long, default_value = "127.0.0.1:10256", value_name = "IP:PORT")]
    pub(crate) agent: SocketAddr,
}

impl NodeArgs {
    pub(crate) fn pins(&self) -> Result<Pins, ObserveError> {
        Pins::find(&self.bpffs, self.node_name.as_deref())
    }
}

/// Prints; a reader that has gone away, such as `head`, is no error.
pub(crate) fn print(text: &str) -> anyhow::Result<()> {
    use std::io::Write as _;
    match std::io::stdout().write_all(text.as_bytes()) {
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
        result => Ok(result?),
    }
}
