//! A cluster on this machine, a Service, and what iperf3 measures through it.

use std::path::PathBuf;
use std::process::Command;

use clap::Args;

use crate::Result;
use crate::build;
use crate::workspace::{cargo_target, pass_through, privileged};

#[derive(Args)]
pub(crate) struct Arguments {
    /// Nodes, each with its own namespaces, containerd, kubelet and agent
    #[arg(long, default_value_t = 3)]
    nodes: u32,
    /// Seconds of each iperf3 run
    #[arg(long, default_value_t = 1)]
    seconds: u32,
    /// Interleaved rounds over the paths
    #[arg(long, default_value_t = 9)]
    rounds: u32,
    /// Write the measurements here
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Leave the cluster running until Ctrl-C
    #[arg(long)]
    keep: bool,
    /// Bring what is missing without asking
    #[arg(long)]
    yes: bool,
}

pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    build::everything(arguments.yes)?;
    pass_through(&mut command(arguments)?)
}

fn command(arguments: &Arguments) -> Result<Command> {
    let mut command = privileged(cargo_target().join("release/demo"))?;
    for (flag, value) in
        [("--nodes", arguments.nodes), ("--seconds", arguments.seconds), ("--rounds", arguments.rounds)]
    {
        command.arg(flag).arg(value.to_string());
    }
    if let Some(file) = &arguments.json {
        command.arg("--json").arg(std::path::absolute(file).map_err(|e| format!("{}: {e}", file.display()))?);
    }
    if arguments.keep {
        command.arg("--keep");
    }
    command.current_dir(crate::workspace::root());
    Ok(command)
}
