//! The control plane: how fast the apiserver answers and tells, beside the etcd it rests on, what it takes in memory,
//! and how soon it answers after its start. The apiserver is a process of the release binary, the etcd one of the
//! machine's, with TLS between all of them, and everything that is compared runs in one interleaved run.
#![allow(clippy::unwrap_used, unreachable_pub)]

#[allow(dead_code)]
#[path = "../tests/store/etcd.rs"]
mod etcd;
#[path = "control-plane/load.rs"]
mod load;
#[path = "control-plane/memory.rs"]
mod memory;
#[path = "control-plane/nodes.rs"]
mod nodes;
#[path = "control-plane/pods.rs"]
mod pods;
#[path = "control-plane/server.rs"]
mod server;
#[path = "control-plane/watched.rs"]
mod watched;

use std::time::Duration;

use anyhow::{Context as _, Result};
use clap::Parser;
use diolkos_tests::figures::{Figures, Output};

use load::Load;
use memory::Memory;
use nodes::Nodes;

pub(crate) const KIB: f64 = 1024.0;
pub(crate) const MB: f64 = 1024.0 * 1024.0;

#[derive(Parser)]
struct Options {
    /// Rounds of requests and watches, each with everything once.
    #[arg(long, default_value_t = 3)]
    rounds: u32,
    /// Rounds of starts, memory and node watchers, whose processes begin from nothing.
    #[arg(long, default_value_t = 2)]
    fresh_rounds: u32,
    /// How long one kind of request is measured, ms.
    #[arg(long, default_value_t = 1000)]
    time: u64,
    /// How many clients there are at once.
    #[arg(long, value_delimiter = ',', default_value = "1,64")]
    clients: Vec<usize>,
    /// How many pods memory is measured with.
    #[arg(long, default_value_t = 10_000)]
    pods: usize,
    /// How many nodes watch their pods.
    #[arg(long, default_value_t = 5000)]
    watchers: usize,
    #[command(flatten)]
    output: Output,
}

fn main() -> Result<()> {
    let options = Options::parse();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let figures = runtime.block_on(measure(&options))?;
    options.output.write_figures(&figures)
}

async fn measure(options: &Options) -> Result<Figures> {
    let (mut memory, mut nodes) = (Memory::new(), Nodes::new(options.watchers));
    for round in 0..options.fresh_rounds {
        eprintln!("memory and starts, round {} of {}: {} pods", round + 1, options.fresh_rounds, options.pods);
        memory.round(options.pods).await.context("memory and starts")?;
        eprintln!("nodes, round {} of {}: {} watchers", round + 1, options.fresh_rounds, options.watchers);
        nodes.round(options.watchers).await.context("watchers of nodes")?;
    }
    let mut load = Load::new().await.context("prepare the requests")?;
    for round in 0..options.rounds {
        eprintln!("requests and watches, round {} of {}", round + 1, options.rounds);
        load.round(&options.clients, Duration::from_millis(options.time)).await.context("requests and watches")?;
    }
    let mut figures = Figures::new("The control plane");
    figures.sections.extend(load.sections());
    figures.sections.extend(nodes.sections());
    figures.sections.extend(memory.sections());
    Ok(figures)
}
