//! Connections between namespaces: through the project's dataplane, and through what it replaces, in one interleaved
//! run. Every way has two nodes and four pods of its own, and all of them exist at the same time.
#![allow(clippy::unwrap_used, unreachable_pub)]

#[path = "netns/diolkos.rs"]
mod diolkos;
#[path = "netns/kubeproxy.rs"]
mod kubeproxy;
#[path = "netns/load.rs"]
mod load;
#[path = "netns/world.rs"]
mod world;

use std::net::{Ipv4Addr, SocketAddr};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, ensure};
use clap::Parser;
use diolkos_tests::figures::{Figures, Output, Section};
use diolkos_tests::guard::Guard;
use diolkos_tests::space::Spaces;
use diolkos_tests::tools;

use diolkos::{Network, Node};
use kubeproxy::Service;
use load::{Kind, Role};
use world::{LOCAL, PORT, REMOTE, STREAM_PORT, World};

/// Where streams are dialled.
const STREAM_SERVICE: Ipv4Addr = Ipv4Addr::new(10, 96, 0, 11);

#[derive(Parser)]
struct Options {
    /// Rounds, each with everything once.
    #[arg(long, default_value_t = 5)]
    rounds: u32,
    /// How long one figure is measured, ms.
    #[arg(long, default_value_t = 300)]
    time: u64,
    /// How many Services there are.
    #[arg(long, value_delimiter = ',', default_value = "1,100,1000,10000")]
    services: Vec<u32>,
    #[command(flatten)]
    output: Output,
    #[command(flatten)]
    role: Role,
}

fn main() -> Result<()> {
    let options = Options::parse();
    if let Some(result) = options.role.run() {
        return result;
    }
    let guard = Guard::new()?;
    let mut spaces = Spaces::new(guard.make_cgroup("control")?)?;
    let mut figures = Figures::new("Connections between pods");
    let worlds = Worlds::new(&guard, &mut spaces)?;
    worlds.network(&options, &mut figures)?;
    for count in &options.services {
        worlds.services(*count, &options, &mut figures)?;
    }
    options.output.write_figures(&figures)
}

/// All ways side by side.
struct Worlds {
    route: World,
    vxlan: World,
    iptables: World,
    nftables: World,
    overlay: World,
    direct: World,
    overlay_nodes: [Node; 2],
    direct_nodes: [Node; 2],
}

/// One cell of a table: where from, where to, and how.
struct Cell<'a> {
    name: &'a str,
    baseline: &'a str,
    world: &'a World,
    /// Dialled with requests, and with a stream.
    to: [SocketAddr; 2],
    hooked: bool,
}

impl Worlds {
    fn new(guard: &Guard, spaces: &mut Spaces) -> Result<Self> {
        eprintln!("making six pairs of nodes");
        let mut world = |name| World::new(name, guard, spaces);
        let (route, vxlan) = (world("route")?, world("vxlan")?);
        let (iptables, nftables) = (world("iptables")?, world("nftables")?);
        let (overlay, direct) = (world("overlay")?, world("direct")?);
        for routed in [&route, &iptables, &nftables] {
            routed.route()?;
        }
        vxlan.vxlan()?;
        overlay.pod_mtu(1450)?;
        let overlay_nodes = Node::both(&overlay, Network::Overlay)?;
        let direct_nodes = Node::both(&direct, Network::Direct)?;
        Ok(Self { route, vxlan, iptables, nftables, overlay, direct, overlay_nodes, direct_nodes })
    }

    /// Pods dial pods: nodes apart and on one node.
    fn network(&self, options: &Options, figures: &mut Figures) -> Result<()> {
        let cell = |name, baseline, world, to| Cell { name, baseline, world, to: end(to), hooked: true };
        let apart = [
            cell("kernel VXLAN + FDB", "kernel VXLAN + FDB", &self.vxlan, REMOTE),
            cell("diolkos overlay", "kernel VXLAN + FDB", &self.overlay, REMOTE),
            cell("kernel routing", "kernel VXLAN + FDB", &self.route, REMOTE),
            cell("diolkos direct routing", "kernel routing", &self.direct, REMOTE),
        ];
        let one_node = [
            cell("kernel veth routing", "kernel veth routing", &self.route, LOCAL),
            cell("diolkos", "kernel veth routing", &self.overlay, LOCAL),
        ];
        for (place, cells) in [("nodes apart", &apart[..]), ("one node", &one_node[..])] {
            for kind in [Kind::Requests, Kind::Connections, Kind::Stream] {
                measure(&format!("Pods, {place}"), kind, cells, options, figures)?;
            }
        }
        Ok(())
    }

    /// Pods dial a Service of one endpoint on their node, the last of `count` Services.
    fn services(&self, count: u32, options: &Options, figures: &mut Figures) -> Result<()> {
        eprintln!("programming {count} Services");
        let services = services(count);
        for node in self.overlay_nodes.iter().chain(&self.direct_nodes) {
            node.set_services(&services)?;
        }
        load_rules(&self.iptables, &["iptables-nft-restore"], &kubeproxy::iptables(&services))?;
        let flush = "delete table ip kube-proxy\n";
        let clean = self.nftables.nodes[0].run(&["nft", "list", "table", "ip", "kube-proxy"]).is_err();
        let rules = format!("{}{}", if clean { "" } else { flush }, kubeproxy::nftables(&services));
        load_rules(&self.nftables, &["nft", "-f", "-"], &rules)?;
        let last = services.last().context("no Services")?;
        let service = [(last.address, last.port), (STREAM_SERVICE, STREAM_PORT)].map(SocketAddr::from);
        let cell = |name, world, to, hooked| Cell { name, baseline: "direct", world, to, hooked };
        let cells = [
            cell("direct", &self.overlay, end(LOCAL), true),
            cell("diolkos socket", &self.overlay, service, true),
            cell("diolkos tc", &self.overlay, service, false),
            cell("nftables", &self.nftables, service, true),
            cell("iptables", &self.iptables, service, true),
        ];
        for kind in [Kind::Connections, Kind::Requests, Kind::Stream] {
            measure(&format!("{count} Services"), kind, &cells, options, figures)?;
        }
        Ok(())
    }
}

fn measure(title: &str, kind: Kind, cells: &[Cell<'_>], options: &Options, figures: &mut Figures) -> Result<()> {
    let parts: &[(&str, &'static str)] = match kind {
        Kind::Connections => &[
            ("connect, request, answer, close", "1/s"),
            ("median of connect()", "us"),
            ("CPU of client and server a connection", "us"),
        ],
        Kind::Requests => &[("request and answer", "1/s")],
        Kind::Stream => &[("one stream", "Gbit/s")],
    };
    let mut sections: Vec<Section> =
        parts.iter().map(|(what, unit)| Section::new(format!("{title}: {what}"), unit)).collect();
    for round in 0..options.rounds {
        eprintln!("{title}, {}: round {} of {}", kind.name(), round + 1, options.rounds);
        let mut taken: Vec<Vec<f64>> = vec![Vec::new(); cells.len()];
        for offset in 0..cells.len() {
            let index = (offset + round as usize) % cells.len();
            let Cell { world, to: [to, stream_to], hooked, .. } = &cells[index];
            let to = if kind == Kind::Stream { stream_to } else { to };
            taken[index] = world.measure(*to, kind, *hooked, options.time)?;
        }
        for (cell, values) in cells.iter().zip(taken) {
            for (section, value) in sections.iter_mut().zip(values) {
                section.add(cell.name, Some(cell.baseline), value);
            }
        }
    }
    figures.sections.extend(sections);
    Ok(())
}

/// `count` Services, and one for the streams; all but the last and that one have two endpoints that nobody dials.
fn services(count: u32) -> Vec<Service> {
    let address = |base: [u8; 2], index: u32| {
        let [_, _, high, low] = index.to_be_bytes();
        Ipv4Addr::new(base[0], base[1], high, low)
    };
    let idle = (1..count).map(|index| Service {
        name: format!("svc-{index}"),
        address: address([10, 97], index),
        port: 80,
        endpoints: vec![(address([10, 245], index), PORT), (address([10, 246], index), PORT)],
    });
    let dialled =
        |name: &str, address, port, to| Service { name: name.into(), address, port, endpoints: vec![(LOCAL, to)] };
    let stream = dialled("stream", STREAM_SERVICE, STREAM_PORT, STREAM_PORT);
    let last = dialled("last", Ipv4Addr::new(10, 96, 0, 10), 80, PORT);
    idle.chain([stream, last]).collect()
}

/// Feeds rules to a program on the client's node.
fn load_rules(world: &World, program: &[&str], rules: &str) -> Result<()> {
    let path = tools::find(program[0])?;
    let mut command: Command = world.nodes[0].command(path);
    // iptables looks for its extensions where it would be installed.
    if let Some(directory) = tools::libraries().iter().map(|path| path.join("xtables")).find(|path| path.is_dir()) {
        command.env("XTABLES_LIBDIR", directory);
    }
    let mut child = command.args(&program[1..]).stdin(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
    std::io::Write::write_all(&mut child.stdin.take().context("its input")?, rules.as_bytes())?;
    let output = child.wait_with_output()?;
    ensure!(output.status.success(), "{}: {}", program.join(" "), String::from_utf8_lossy(&output.stderr));
    Ok(())
}

fn end(address: Ipv4Addr) -> [SocketAddr; 2] {
    [PORT, STREAM_PORT].map(|port| SocketAddr::from((address, port)))
}
