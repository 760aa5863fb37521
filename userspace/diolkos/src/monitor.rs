//! `diolkos monitor`.

use std::collections::HashMap;
use std::net::IpAddr;
use std::time::Duration;

use clap::Args;
use diolkos_abi::counter::Hook;
use diolkos_agent::observe::monitor::{Filter, Monitor, Record, Seen, Wish};
use tokio::signal::unix::{SignalKind, signal};

use crate::look::{NodeArgs, print};

/// How often the ring is emptied: it holds 1700 events, so 85,000 a second are told without a loss.
const DRAIN: Duration = Duration::from_millis(20);
/// How often lost drops are looked for.
const LOOK: Duration = Duration::from_secs(1);

#[derive(Args)]
pub(crate) struct MonitorArgs {
    #[command(flatten)]
    node: NodeArgs,
    /// Drops and refusals only.
    #[arg(long, conflicts_with = "flows")]
    drops: bool,
    /// What goes on only.
    #[arg(long)]
    flows: bool,
    /// Of what goes on, show one in N; rounded up to a power of two.
    #[arg(long, value_name = "N", default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..=1 << 20))]
    sample: u32,
    /// Of one hook only, such as from_container or connect.
    #[arg(long, value_parser = hook)]
    hook: Option<Hook>,
    /// From or to this address only.
    #[arg(long, value_name = "IP")]
    address: Option<IpAddr>,
    /// From or to this port only.
    #[arg(long)]
    port: Option<u16>,
    /// End after so many lines.
    #[arg(long, value_name = "LINES")]
    count: Option<u64>,
    /// One JSON object a line.
    #[arg(long)]
    json: bool,
}

/// Runs until SIGINT, SIGTERM or `--count`. The watch ends with it.
pub(crate) async fn run(args: MonitorArgs) -> anyhow::Result<()> {
    let (mut interrupt, mut terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    let wish = Wish { drops: !args.flows, flows: !args.drops, sample: args.sample };
    let mut monitor = Monitor::start(&args.node.pins()?, wish)?;
    let mut output = Output::new(&args);
    let (mut drain, mut look) = (tokio::time::interval(DRAIN), tokio::time::interval(LOOK));
    while !output.is_full() {
        tokio::select! {
            _ = interrupt.recv() => break,
            _ = terminate.recv() => break,
            _ = drain.tick() => monitor.drain(|record| output.take(&record)),
            _ = look.tick() => {
                let lost = monitor.lost(|record| output.take(&record))?;
                output.say_lost(lost);
            }
        }
        output.flush()?;
    }
    let lost = monitor.lost(|record| output.take(&record))?;
    output.flush()?;
    let Seen { drops, flows } = monitor.seen();
    eprintln!("{drops} drops and {flows} others were told, {} lines shown, {lost} drops lost", output.shown);
    Ok(())
}

struct Output {
    filter: Filter,
    json: bool,
    left: Option<u64>,
    shown: u64,
    /// Lost drops that were said already.
    lost: u64,
    text: String,
    devices: HashMap<u32, String>,
}

impl Output {
    fn new(args: &MonitorArgs) -> Self {
        Self {
            filter: Filter { hook: args.hook, address: args.address, port: args.port },
            json: args.json,
            left: args.count,
            shown: 0,
            lost: 0,
            text: String::new(),
            devices: HashMap::new(),
        }
    }

    fn is_full(&self) -> bool {
        self.left == Some(0)
    }

    fn take(&mut self, record: &Record) {
        if self.is_full() || !self.filter.takes(record) {
            return;
        }
        self.left = self.left.map(|left| left - 1);
        self.shown += 1;
        let line = match self.json {
            // A record has no map with other keys than strings, which is all that can fail.
            true => serde_json::to_string(record).unwrap_or_default(),
            false => {
                let name = record.ifindex.map(|index| self.device(index)).unwrap_or_default();
                record.line(|_| name.clone())
            }
        };
        self.text.push_str(&line);
        self.text.push('\n');
    }

    fn device(&mut self, index: u32) -> String {
        let look = || nix::net::if_::if_indextoname(index).ok().and_then(|name| name.into_string().ok());
        self.devices.entry(index).or_insert_with(|| look().unwrap_or_else(|| format!("device {index}"))).clone()
    }

    fn say_lost(&mut self, lost: u64) {
        if lost > self.lost {
            eprintln!("{} drops were lost: they come faster than they are read", lost - self.lost);
            self.lost = lost;
        }
    }

    fn flush(&mut self) -> anyhow::Result<()> {
        print(&std::mem::take(&mut self.text))
    }
}

fn hook(name: &str) -> Result<Hook, String> {
    Hook::ALL.into_iter().find(|hook| hook.name() == name).ok_or_else(|| {
        let names = Hook::ALL.map(Hook::name).join(", ");
        format!("hooks are {names}")
    })
}
