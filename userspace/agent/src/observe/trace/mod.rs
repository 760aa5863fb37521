//! `diolkos trace`: what would become of a connection, by the logic that the programs run, over the maps they read.
//!
//! Nothing is sent and nothing is written. Each decision on packets is checked against the programs themselves, in a
//! test run of a copy of them that writes nothing either.

mod check;
mod packet;
mod tables;

use std::net::IpAddr;

use diolkos_abi::address::{Address, protocol};
use diolkos_abi::config::Config;
use diolkos_abi::counter::{DropReason, Hook, Verdict};
use diolkos_abi::pod::{Endpoint, Netns, Node, Route, RouteKey, netns_flags, zone};
use diolkos_datapath::{Peer, Tunnel};
use serde::Serialize;

use super::text::{address, end, protocol_name};
use super::{ObserveError, Pins, programs};
use crate::dataplane::map;
use crate::health::ServiceId;
use packet::{Shape, TracePacket};
use tables::Live;

/// The sender's port, unless another is asked for.
pub const SOURCE_PORT: u16 = 40_000;

/// Who wants to talk to whom.
#[derive(Clone, Copy, Debug)]
pub struct Question {
    pub from: IpAddr,
    pub source_port: u16,
    pub to: IpAddr,
    pub port: u16,
    /// TCP or UDP.
    pub protocol: u8,
    /// Where the sender is; found out from its address when it is not said.
    pub origin: Option<Origin>,
}

/// Where a packet comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Origin {
    /// A pod of this node.
    Pod,
    /// A process of this node.
    Host,
    /// A pod of another node, through the tunnel.
    Overlay,
}

/// The answer.
#[derive(Clone, Debug, Serialize)]
pub struct Trace {
    pub origin: Origin,
    pub stages: Vec<Stage>,
}

/// One hook's part.
#[derive(Clone, Debug, Serialize)]
pub struct Stage {
    pub hook: &'static str,
    /// What arrives at it.
    pub input: String,
    /// Each lookup and what it gave.
    pub steps: Vec<String>,
    /// The verdict; or why it is refused.
    pub verdict: Option<&'static str>,
    pub drop: Option<&'static str>,
    /// What leaves, and where to.
    pub output: String,
    /// What the program itself does with it: nothing when it is the same.
    pub differs: Option<String>,
    /// Why the program itself was not asked.
    pub unchecked: Option<String>,
}

/// Follows a connection's first packet through this node.
pub fn trace(pins: &Pins, names: &[ServiceId], question: Question) -> Result<Trace, ObserveError> {
    let no_programs = || ObserveError::Kernel {
        operation: "trace".into(),
        reason: "no program is attached on this node: diolkos status says more".into(),
    };
    let config = programs::config(pins)?.ok_or_else(no_programs)?;
    let mut asked = Asked { config, pins, question, live: Live::open(pins, names)? };
    let origin = question.origin.map_or_else(|| asked.origin(), Ok)?;
    let dialled = (question.to, question.port);
    let mut stages = Vec::new();
    if origin == Origin::Overlay {
        stages.push(asked.packet(origin, dialled, "")?);
    } else {
        let mut destination = dialled;
        let socket = asked.socket(origin, &mut destination)?;
        let is_seen = socket.drop.is_some() || destination != dialled;
        let is_sent = socket.drop.is_none();
        stages.push(socket);
        if is_sent {
            stages.push(asked.packet(origin, destination, "")?);
        }
        if is_seen {
            stages.push(asked.packet(origin, dialled, ", of a socket without the hook")?);
        }
    }
    match asked.live.failed {
        Some(error) => Err(error),
        None => Ok(Trace { origin, stages }),
    }
}

struct Asked<'a> {
    config: Config,
    pins: &'a Pins,
    question: Question,
    live: Live,
}

impl Asked<'_> {
    fn origin(&self) -> Result<Origin, ObserveError> {
        let from = key(self.question.from);
        if self.pins.dump::<Address, Endpoint>(map::ENDPOINT)?.iter().any(|(pod, _)| *pod == from) {
            return Ok(Origin::Pod);
        }
        Ok(if self.node_of(self.question.from)?.is_some() { Origin::Overlay } else { Origin::Host })
    }

    /// The other node whose pod CIDR holds an address, or whose own it is.
    fn node_of(&self, ip: IpAddr) -> Result<Option<Node>, ObserveError> {
        let prefix = match ip {
            IpAddr::V4(v4) => key((v4 & std::net::Ipv4Addr::from(self.config.route_mask_v4)).into()),
            IpAddr::V6(v6) => key((v6 & std::net::Ipv6Addr::from(self.config.route_mask_v6)).into()),
        };
        let keys = [RouteKey { prefix, zone: zone::PODS }, RouteKey { prefix: key(ip), zone: zone::NODES }];
        let routes = self.pins.dump::<RouteKey, Route>(map::ROUTE)?;
        let Some((_, route)) = routes.iter().find(|(key, _)| keys.contains(key)) else { return Ok(None) };
        let nodes = self.pins.dump::<u32, Node>(map::NODE)?;
        Ok(nodes.into_iter().find(|(id, _)| *id == route.node).map(|(_, node)| node))
    }

    /// connect(), in the network namespace of the sender. The destination becomes the one it is changed to.
    fn socket(&mut self, origin: Origin, destination: &mut (IpAddr, u16)) -> Result<Stage, ObserveError> {
        let from = self.question.from;
        let netnses = self.pins.dump::<u64, Netns>(map::NETNS)?;
        let is_own = |netns: &Netns| match origin {
            Origin::Host => netns.flags & netns_flags::HOST != 0,
            Origin::Pod | Origin::Overlay => match from {
                IpAddr::V4(v4) => netns.v4 == v4.octets(),
                IpAddr::V6(v6) => netns.v6 == v6.octets(),
            },
        };
        self.live.cookie = netnses.iter().find(|(_, netns)| is_own(netns)).map_or(0, |(cookie, _)| *cookie);
        let (to, port) = *destination;
        let mut peer = Peer { address: key(to), port: port.to_be_bytes(), protocol: self.question.protocol };
        let outcome = diolkos_datapath::connect(&self.config, &mut peer, &mut self.live);
        self.live.cookie = 0;
        *destination = (address(&peer.address), u16::from_be_bytes(peer.port));
        let changed = format!("connects to {}", end(destination.0, destination.1));
        let stage = self.stage(Hook::Connect, format!("connect() to {}", end(to, port)), outcome);
        let output = if outcome.is_ok() { changed } else { "connect() fails: ECONNREFUSED".into() };
        Ok(Stage { output, unchecked: Some("system calls cannot be run for a test".into()), ..stage })
    }

    /// The first packet, at the hook it meets.
    fn packet(&mut self, origin: Origin, destination: (IpAddr, u16), note: &str) -> Result<Stage, ObserveError> {
        let (hook, shape) = self.shape(origin, destination)?;
        let original = TracePacket::new(shape);
        let mut packet = original.clone();
        let (config, live) = (&self.config, &mut self.live);
        let outcome = match hook {
            Hook::FromContainer => diolkos_datapath::from_container(config, &mut packet, live),
            Hook::ToContainer => diolkos_datapath::to_container(config, &mut packet, live),
            Hook::FromOverlay => diolkos_datapath::from_overlay(config, &mut packet, live),
            Hook::ToOverlay => diolkos_datapath::to_overlay(config, &mut packet, live),
            Hook::ToNetdev => diolkos_datapath::to_netdev(config, &mut packet, live),
            Hook::FromNetdev | Hook::Connect | Hook::GetPeerName | Hook::SendMsg | Hook::RecvMsg => {
                Ok(Verdict::Untouched)
            }
        };
        let mut output = left(&packet);
        if let Err(reason) = outcome {
            output = match diolkos_datapath::answer(hook, reason, &self.config, &mut packet, &mut self.live) {
                Some(_) => format!("its sender is told: {}", left(&packet)),
                None => "dropped in silence".into(),
            };
        }
        let input = format!(
            "{} {} > {}{note}",
            protocol_name(shape.protocol),
            end(shape.source.0, shape.source.1),
            end(destination.0, destination.1)
        );
        let stage = self.stage(hook, input, outcome);
        let checked = check::run(self.pins, &self.config, hook, &original, shape.tunnel.is_some());
        let (differs, unchecked) = match checked {
            Ok(run) => (run.differs(outcome, &packet), None),
            Err(why) => (None, Some(why)),
        };
        Ok(Stage { output, differs, unchecked, ..stage })
    }

    /// The hook that sees the packet, and what the packet looks like there.
    fn shape(&self, origin: Origin, destination: (IpAddr, u16)) -> Result<(Hook, Shape), ObserveError> {
        let Question { from, source_port, protocol, .. } = self.question;
        let shape = Shape {
            source: (from, source_port),
            destination,
            protocol,
            mac: [0; 6],
            ifindex: 0,
            is_from_host: false,
            tunnel: None,
        };
        let pods = self.pins.dump::<Address, Endpoint>(map::ENDPOINT)?;
        let pod = |ip: IpAddr| pods.iter().find(|(pod, _)| *pod == key(ip)).map(|(_, pod)| *pod);
        let overlay = self.config.overlay_ifindex;
        Ok(match origin {
            Origin::Pod => {
                let pod = pod(from).unwrap_or_default();
                (Hook::FromContainer, Shape { mac: pod.mac, ifindex: pod.ifindex, ..shape })
            }
            Origin::Overlay => {
                let remote = self.node_of(from)?.map_or([0; 16], |node| match node.tunnel_v4 {
                    [0, 0, 0, 0] => node.tunnel_v6,
                    v4 => key(v4.into()),
                });
                let tunnel = Some(Tunnel { vni: self.config.vni, remote });
                (Hook::FromOverlay, Shape { ifindex: overlay, tunnel, ..shape })
            }
            Origin::Host => {
                let shape = Shape { is_from_host: true, ..shape };
                match (pod(destination.0), self.node_of(destination.0)?) {
                    (Some(pod), _) => (Hook::ToContainer, Shape { ifindex: pod.ifindex, ..shape }),
                    (None, Some(_)) if overlay != 0 => (Hook::ToOverlay, Shape { ifindex: overlay, ..shape }),
                    (None, _) => (Hook::ToNetdev, shape),
                }
            }
        })
    }

    fn stage(&mut self, hook: Hook, input: String, outcome: Result<Verdict, DropReason>) -> Stage {
        Stage {
            hook: hook.name(),
            input,
            steps: std::mem::take(&mut self.live.said),
            verdict: outcome.ok().map(Verdict::name),
            drop: outcome.err().map(DropReason::name),
            output: String::new(),
            differs: None,
            unchecked: None,
        }
    }
}

/// What a packet has become, and where it goes.
fn left(packet: &TracePacket) -> String {
    let what = super::monitor::describe(&packet.bytes);
    packet.way.as_ref().map_or_else(|| format!("{what}, the way it was going"), |way| format!("{what}, {way}"))
}

fn key(ip: IpAddr) -> Address {
    match ip {
        IpAddr::V4(v4) => v4.to_ipv6_mapped().octets(),
        IpAddr::V6(v6) => v6.octets(),
    }
}

/// The answer as people read it.
pub fn render(trace: &Trace) -> String {
    let mut text = String::new();
    for stage in &trace.stages {
        text.push_str(&format!("{}: {}\n", stage.hook, stage.input));
        stage.steps.iter().for_each(|step| text.push_str(&format!("  {step}\n")));
        let outcome = stage.drop.map(|reason| format!("REFUSED {reason}")).or(stage.verdict.map(str::to_owned));
        text.push_str(&format!("  => {}: {}\n", outcome.unwrap_or_default(), stage.output));
        if let Some(differs) = &stage.differs {
            text.push_str(&format!("  !! the loaded program decides otherwise: {differs}\n"));
        }
        if let Some(why) = &stage.unchecked {
            text.push_str(&format!("  (not checked against the loaded program: {why})\n"));
        }
    }
    text
}

/// The protocol of this name.
pub fn protocol_of(name: &str) -> Option<u8> {
    match name {
        "tcp" => Some(protocol::TCP),
        "udp" => Some(protocol::UDP),
        _ => None,
    }
}
