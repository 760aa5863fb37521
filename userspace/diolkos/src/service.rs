//! `diolkos service list`.

use clap::{Args, Subcommand};
use diolkos_agent::clock::Clock;
use diolkos_agent::observe::services::{self, ServiceMaps};

use crate::look::{NodeArgs, print};

#[derive(Args)]
pub(crate) struct ServiceArgs {
    #[command(subcommand)]
    command: ServiceCommand,
}

#[derive(Subcommand)]
enum ServiceCommand {
    /// What clients dial and who answers. Names come from the agent; without it, services have numbers.
    List {
        #[command(flatten)]
        node: NodeArgs,
        /// Every backend, on a line of its own.
        #[arg(long)]
        backends: bool,
        /// JSON instead of text.
        #[arg(long)]
        json: bool,
    },
}

pub(crate) fn run(args: ServiceArgs) -> anyhow::Result<()> {
    let ServiceCommand::List { node, backends, json } = args.command;
    let maps = ServiceMaps::read(&node.pins()?)?;
    let names = services::names(node.agent).unwrap_or_else(|error| {
        tracing::warn!("services are shown without their names: {error}");
        Vec::new()
    });
    let list = maps.list(&names, Clock::calibrate());
    print(&match json {
        true => serde_json::to_string_pretty(&list)? + "\n",
        false => services::render(&list, backends),
    })
}
