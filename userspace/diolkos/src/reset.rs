//! `diolkos reset`: removes from this machine what `up`, `init`, `join` and the node's parts made there, and nothing else.

mod found;

use std::io::{BufRead as _, IsTerminal as _, Write as _};
use std::path::PathBuf;

use anyhow::{Context as _, bail};
use clap::Args;

use crate::units;
use crate::up::DATA_DIR;
use found::{Thing, find};

#[derive(Args)]
pub(crate) struct ResetArgs {
    /// Certificates, kubeconfigs, objects and the node's state.
    #[arg(long, default_value = DATA_DIR, value_name = "DIR")]
    data_dir: PathBuf,
    /// Configuration files; those that we did not write stay.
    #[arg(long = "config-file", default_values = [units::CONFIG, units::NODE_CONFIG], value_name = "FILE")]
    config_files: Vec<PathBuf>,
    /// Where units were written; those that we did not write stay.
    #[arg(long, default_value = "/etc/systemd/system", value_name = "DIR")]
    systemd_units: PathBuf,
    /// Where programs and maps are pinned.
    #[arg(long, default_value = "/sys/fs/bpf", value_name = "DIR")]
    bpffs: PathBuf,
    /// Only the pins of this node; default: of all.
    #[arg(long, value_name = "NAME")]
    node_name: Option<String>,
    /// Where the CNI plugin was installed.
    #[arg(long, default_value = "/opt/cni/bin", value_name = "DIR")]
    cni_bin_dir: PathBuf,
    /// Where the CNI configuration was written.
    #[arg(long, default_value = "/etc/cni/net.d", value_name = "DIR")]
    cni_conf_dir: PathBuf,
    /// Sockets and what else lives until the next boot.
    #[arg(long, default_value = "/run/diolkos", value_name = "DIR")]
    run_dir: PathBuf,
    /// Do not ask.
    #[arg(long)]
    yes: bool,
}

pub(crate) async fn run(args: ResetArgs) -> anyhow::Result<()> {
    found::nobody_runs(&args.data_dir)?;
    let things = find(&args).await?;
    if things.is_empty() {
        println!("nothing of Diolkos is on this machine");
        return Ok(());
    }
    println!("This goes for good:");
    things.iter().for_each(|thing| println!("  {thing}"));
    if !args.yes && !confirmed()? {
        bail!("nothing was removed");
    }
    let mut failed = Vec::new();
    for thing in &things {
        if let Err(why) = thing.remove().await {
            eprintln!("{thing} stays: {why:#}");
            failed.push(thing.to_string());
        }
    }
    anyhow::ensure!(failed.is_empty(), "these could not be removed: {}", failed.join(", "));
    println!("{} removed", things.len());
    if things.iter().any(Thing::is_unit) {
        println!("the units are gone: systemctl daemon-reload");
    }
    Ok(())
}

fn confirmed() -> anyhow::Result<bool> {
    let input = std::io::stdin();
    anyhow::ensure!(input.is_terminal(), "nobody can be asked: say --yes");
    print!("Remove all of it? [y/N] ");
    std::io::stdout().flush().context("cannot ask")?;
    let mut answer = String::new();
    input.lock().read_line(&mut answer).context("cannot read the answer")?;
    Ok(matches!(answer.trim(), "y" | "Y" | "yes"))
}
