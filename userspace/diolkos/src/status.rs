//! `diolkos status`.

use std::time::SystemTime;

use clap::Args;
use diolkos_agent::observe::status;

use crate::look::{NodeArgs, print};

#[derive(Args)]
pub(crate) struct StatusArgs {
    #[command(flatten)]
    node: NodeArgs,
    /// JSON instead of text.
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(args: StatusArgs) -> anyhow::Result<()> {
    let status = status::status(&args.node.pins()?, args.node.agent)?;
    let text = match args.json {
        true => serde_json::to_string_pretty(&status)? + "\n",
        false => status::render(&status, SystemTime::now()),
    };
    print(&text)?;
    if !status.healthy {
        std::process::exit(1);
    }
    Ok(())
}
