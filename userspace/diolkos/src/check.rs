//! `diolkos check`.

use std::ops::RangeInclusive;
use std::path::PathBuf;

use clap::Args;
use diolkos_agent::check;

use crate::look::print;
use crate::node::ports;

#[derive(Args)]
pub(crate) struct CheckArgs {
    /// The bpf file system the agent is to use.
    #[arg(long, default_value = "/sys/fs/bpf", value_name = "DIR")]
    bpffs: PathBuf,
    /// The cgroup2 directory the agent is to use. Default: the root of the mounted cgroup2 hierarchy.
    #[arg(long, value_name = "DIR")]
    cgroup_root: Option<PathBuf>,
    /// The source ports the agent is to translate to.
    #[arg(long, default_value = "61000-65535", value_parser = ports, value_name = "FIRST-LAST")]
    masquerade_ports: RangeInclusive<u16>,
    /// JSON instead of text.
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(args: &CheckArgs) -> anyhow::Result<()> {
    let probe = check::probe(&args.bpffs, args.cgroup_root.as_deref(), args.masquerade_ports.clone());
    let rows = check::table(&probe);
    let works = check::works(&rows);
    let text = match args.json {
        true => serde_json::to_string_pretty(&serde_json::json!({ "works": works, "rows": rows }))? + "\n",
        false => check::render(&rows),
    };
    print(&text)?;
    if !works {
        std::process::exit(1);
    }
    Ok(())
}
