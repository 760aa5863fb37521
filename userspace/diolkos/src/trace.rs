//! `diolkos trace`.

use std::net::{IpAddr, SocketAddr};

use anyhow::ensure;
use clap::Args;
use diolkos_agent::observe::services;
use diolkos_agent::observe::trace::{self, Origin, Question, SOURCE_PORT};

use crate::look::{NodeArgs, print};

#[derive(Args)]
pub(crate) struct TraceArgs {
    #[command(flatten)]
    node: NodeArgs,
    /// Who connects.
    #[arg(value_name = "FROM")]
    from: IpAddr,
    /// To what: 10.96.0.1:443, [fd00::1]:443.
    #[arg(value_name = "TO:PORT")]
    to: SocketAddr,
    /// tcp or udp.
    #[arg(long, default_value = "tcp", value_parser = protocol)]
    protocol: u8,
    /// The port it connects from.
    #[arg(long, default_value_t = SOURCE_PORT)]
    source_port: u16,
    /// FROM is a pod of this node. Where FROM is, is found out when it is not said.
    #[arg(long, group = "origin")]
    from_pod: bool,
    /// FROM is this node.
    #[arg(long, group = "origin")]
    from_host: bool,
    /// FROM is a pod of another node.
    #[arg(long, group = "origin")]
    from_overlay: bool,
    /// JSON instead of text.
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(args: TraceArgs) -> anyhow::Result<()> {
    let (from, to) = (args.from, args.to.ip());
    ensure!(
        from.is_ipv4() == to.is_ipv4(),
        "{from} and {to} are of two families: no packet goes from one to the other"
    );
    let origins = [(args.from_pod, Origin::Pod), (args.from_host, Origin::Host), (args.from_overlay, Origin::Overlay)];
    let question = Question {
        from,
        source_port: args.source_port,
        to,
        port: args.to.port(),
        protocol: args.protocol,
        origin: origins.into_iter().find(|(is_set, _)| *is_set).map(|(_, origin)| origin),
    };
    // Names are a courtesy: without an agent, services have numbers.
    let names = services::names(args.node.agent).unwrap_or_default();
    let answer = trace::trace(&args.node.pins()?, &names, question)?;
    print(&match args.json {
        true => serde_json::to_string_pretty(&answer)? + "\n",
        false => trace::render(&answer),
    })
}

fn protocol(name: &str) -> Result<u8, String> {
    trace::protocol_of(name).ok_or_else(|| "tcp or udp".into())
}
