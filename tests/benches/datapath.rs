//! What a packet costs in each program, beside the least any program costs, in one interleaved run.
//!
//! Every program runs by `BPF_PROG_TEST_RUN` behind the same wrapper, which puts the packet's headers back before each
//! repeat, gives it the source port of the next flow, and tail-calls the program. Times are CPU time of this thread
//! over the system call, divided by the repeats; the loop of the kernel and the wrapper are in all of them. In each
//! round the programs run in another order, and the ratios are those within a round.
#![allow(clippy::unwrap_used, unreachable_pub)]

#[path = "../tests/kernel/dataplane.rs"]
mod dataplane;
#[path = "datapath/report.rs"]
mod report;
#[path = "datapath/rows.rs"]
mod rows;
#[path = "datapath/sizes.rs"]
mod sizes;
#[path = "../../ebpf/datapath/tests/scenarios/mod.rs"]
mod scenarios;

use clap::Parser;
use diolkos_tests::figures::Output;

use report::Report;
use rows::Rows;
use sizes::Sizes;

#[derive(Parser)]
struct Options {
    /// Rounds, each with every program once.
    #[arg(long, default_value_t = 9)]
    rounds: u32,
    /// Only rows whose names contain one of these, and what they are compared with.
    #[arg(long)]
    filter: Vec<String>,
    /// Repeats of a program within a round.
    #[arg(long, default_value_t = 250_000)]
    repeat: u32,
    #[command(flatten)]
    output: Output,
}

fn main() -> anyhow::Result<()> {
    let options = Options::parse();
    let mut rows = Rows::load();
    let names = rows.names();
    let wanted = |name: &str| {
        options.filter.is_empty()
            || report::BASELINES.contains(&name)
            || options.filter.iter().any(|part| name.contains(part.as_str()))
    };
    let chosen: Vec<usize> = (0..names.len()).filter(|index| wanted(names[*index])).collect();
    let mut report = Report::new(chosen.iter().map(|index| names[*index]).collect());
    let mut sizes = Sizes::new();
    for round in 0..options.rounds {
        eprintln!("round {} of {}", round + 1, options.rounds);
        for place in shuffled(chosen.len(), round) {
            report.add(place, rows.run(chosen[place], options.repeat));
        }
        sizes.add_load();
    }
    options.output.write(report.json(&sizes), report.markdown(&sizes), report.svg())
}

/// The numbers below `length` in an order that differs from round to round (Fisher and Yates, fed by a hash).
fn shuffled(length: usize, round: u32) -> Vec<usize> {
    let mut order: Vec<usize> = (0..length).collect();
    for last in (1..length).rev() {
        let dice = diolkos_abi::address::hash([round, last as u32]) as usize;
        order.swap(last, dice % (last + 1));
    }
    order
}
