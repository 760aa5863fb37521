//! The hooks of the devices that hold an address of the node: pods and the outside, pods of other nodes without a tunnel,
//! and services for the packets of the node itself.
//!
//! Most of what passes here is not ours, and costs no lookup. What cannot be read is the host's to judge.

use diolkos_abi::address::protocol;
use diolkos_abi::config::{Config, features};
use diolkos_abi::conntrack::direction;
use diolkos_abi::counter::{DropReason, Verdict};

use crate::connection;
use crate::deliver::{self, Way};
use crate::family::{self, equal, is_own, is_service, narrowed};
use crate::headers::{self, Ip, Kind, Part, Transport, ports};
use crate::host;
use crate::icmp;
use crate::lookup;
use crate::masquerade;
use crate::packet::Packet;
use crate::rewrite::{self, Ends};
use crate::tables::{Scratch, Step, Tables};

/// The network sends to the node (tc ingress of a device that holds an address of the node).
#[inline(always)]
pub fn from_netdev<P: Packet, T: Tables>(
    config: &Config,
    packet: &mut P,
    tables: &mut T,
) -> Result<Verdict, DropReason> {
    match headers::kind(packet) {
        Ok(Kind::V4) if icmp::is_next::<false, P>(packet) => told::<false, P, T>(config, packet, tables),
        Ok(Kind::V6) if icmp::is_next::<true, P>(packet) => told::<true, P, T>(config, packet, tables),
        Ok(Kind::V4) => received::<false, P, T>(config, packet, tables),
        Ok(Kind::V6) => received::<true, P, T>(config, packet, tables),
        Ok(Kind::Arp | Kind::Tagged | Kind::Other) | Err(_) => Ok(Verdict::Untouched),
    }
}

/// The node sends to the network (its tc egress), for itself or for its pods.
#[inline(always)]
pub fn to_netdev<P: Packet, T: Tables>(config: &Config, packet: &mut P, tables: &mut T) -> Result<Verdict, DropReason> {
    match headers::kind(packet) {
        Ok(Kind::V4) => leaving::<false, P, T>(config, packet, tables),
        Ok(Kind::V6) => leaving::<true, P, T>(config, packet, tables),
        Ok(Kind::Arp | Kind::Tagged | Kind::Other) | Err(_) => Ok(Verdict::Untouched),
    }
}

/// [`from_netdev`] of ICMP: an error about a flow under the node's address goes to the pod, or the process, behind it.
#[inline(always)]
fn told<const V6: bool, P: Packet, T: Tables>(
    config: &Config,
    packet: &mut P,
    tables: &mut T,
) -> Result<Verdict, DropReason> {
    let mut scratch = tables.scratch().ok_or(DropReason::ConntrackFull)?;
    if icmp::read::<V6, P>(packet, &mut scratch).is_err() {
        return Ok(Verdict::Untouched);
    }
    scratch.verdict = Verdict::Untouched;
    if equal(&scratch.ip.destination, &family::node::<V6>(config)) {
        icmp::translate::<V6, P, T>(config, packet, tables, &mut scratch, direction::OUTSIDE)?;
        // The pod may know who it talks to as a service, and the node's own packets to one left under its address too.
        icmp::translate::<V6, P, T>(config, packet, tables, &mut scratch, direction::WIRE)?;
        if scratch.verdict == Verdict::Untouched {
            return received::<V6, P, T>(config, packet, tables);
        }
    } else if config.features & features::DIRECT_ROUTING != 0 {
        icmp::translate::<V6, P, T>(config, packet, tables, &mut scratch, direction::WIRE)?;
        if scratch.verdict == Verdict::Untouched {
            return received::<V6, P, T>(config, packet, tables);
        }
    }
    if scratch.verdict == Verdict::Untouched || !is_own::<V6>(config, &scratch.ends.destination) {
        return Ok(scratch.verdict);
    }
    deliver::deliver::<V6, P, T>(config, packet, tables, &mut scratch)?;
    Ok(scratch.verdict)
}

/// [`from_netdev`] of one family.
#[inline(never)]
fn received<const V6: bool, P: Packet, T: Tables>(
    config: &Config,
    packet: &mut P,
    tables: &mut T,
) -> Result<Verdict, DropReason> {
    let Ok(mut ip) = headers::parse::<V6, P>(packet) else { return Ok(Verdict::Untouched) };
    let mut ends = Ends::of(&ip);
    let mut echo = Echo::NONE;
    if equal(&ip.destination, &family::node::<V6>(config)) {
        echo = as_flow(packet, &mut ip);
        ends = Ends::of(&ip);
        let ours = ip.transport.known && masquerade::is_ours(config, ip.transport.destination_port());
        if !ours || !returned(config, tables, &ip, &mut ends) {
            return Ok(Verdict::Untouched);
        }
    } else if config.features & features::DIRECT_ROUTING != 0 && is_own::<V6>(config, &ip.destination) {
        if ip.transport.known && !ip.transport.opens() {
            connection::find_reply(config, tables, &ip, &mut ends);
        }
    } else {
        return Ok(Verdict::Untouched);
    }
    if !is_own::<V6>(config, &ends.destination) {
        // The answer to a packet of the node itself.
        rewrite::ends::<V6, P>(packet, &mut ip, &ends)?;
        return Ok(Verdict::Translated);
    }
    if echo.known {
        deliver::exists::<V6, T>(config, tables, &ip, &ends.destination)?;
        echo.write::<V6, P>(packet, &mut ip, &ends)?;
    }
    deliver::to_own::<V6, P, T>(config, packet, tables, &mut ip, &ends)
}

/// Says what the ends of a packet to the node become, if it answers a pod that was masqueraded or a packet of the node to
/// a service. The answer to a pod may come from a service's backend outside.
#[inline(never)]
fn returned<T: Tables>(config: &Config, tables: &mut T, ip: &Ip, ends: &mut Ends) -> bool {
    if !masquerade::incoming(config, tables, ip, ends) {
        return connection::find_reply(config, tables, ip, ends);
    }
    let inside = Ip { destination: ends.destination, transport: ip.transport.with_ports(ends.ports), ..*ip };
    connection::find_reply(config, tables, &inside, ends);
    true
}

/// [`to_netdev`] of one family.
#[inline(always)]
fn leaving<const V6: bool, P: Packet, T: Tables>(
    config: &Config,
    packet: &mut P,
    tables: &mut T,
) -> Result<Verdict, DropReason> {
    match classify::<V6, P, T>(config, packet, tables) {
        Leaving::Other => Ok(Verdict::Untouched),
        Leaving::ToService => to_service::<V6, P, T>(config, packet, tables),
        Leaving::OfPod => hide::<V6, P, T>(config, packet, tables),
    }
}

/// What leaves the node.
enum Leaving {
    Other,
    /// To an address of the service CIDR.
    ToService,
    /// Of a pod, to something that is no pod.
    OfPod,
}

#[inline(never)]
fn classify<const V6: bool, P: Packet, T: Tables>(config: &Config, packet: &mut P, tables: &mut T) -> Leaving {
    let Ok(ip) = headers::parse::<V6, P>(packet) else { return Leaving::Other };
    if is_service::<V6>(config, &ip.destination) {
        return Leaving::ToService;
    }
    let of_pod = config.features & features::MASQUERADE != 0
        && is_own::<V6>(config, &ip.source)
        && !is_own::<V6>(config, &ip.destination)
        && !family::is_native::<V6>(config, &ip.destination)
        && lookup::route::<V6, T>(config, tables, &ip.destination) == 0;
    if of_pod { Leaving::OfPod } else { Leaving::Other }
}

/// Gives a pod's packet the address of the node.
#[inline(never)]
fn hide<const V6: bool, P: Packet, T: Tables>(
    config: &Config,
    packet: &mut P,
    tables: &mut T,
) -> Result<Verdict, DropReason> {
    let mut ip = headers::parse::<V6, P>(packet)?;
    let echo = as_flow(packet, &mut ip);
    let mut scratch = tables.scratch().ok_or(DropReason::ConntrackFull)?;
    if !ip.transport.known {
        return complain::<V6, P, T>(config, packet, tables, &mut scratch);
    }
    masquerade::outgoing::<V6, T>(config, tables, &ip, &mut scratch, packet.core())?;
    if echo.known {
        echo.write::<V6, P>(packet, &mut ip, &scratch.ends)?;
    } else {
        rewrite::ends::<V6, P>(packet, &mut ip, &scratch.ends)?;
    }
    Ok(Verdict::Masqueraded)
}

/// Gives a pod's ICMP error about a flow under the node's address that address too. What has no ports otherwise leaves as
/// it is.
#[inline(always)]
fn complain<const V6: bool, P: Packet, T: Tables>(
    config: &Config,
    packet: &mut P,
    tables: &mut T,
    scratch: &mut Scratch,
) -> Result<Verdict, DropReason> {
    icmp::read::<V6, P>(packet, scratch)?;
    scratch.verdict = Verdict::Untouched;
    icmp::translate::<V6, P, T>(config, packet, tables, scratch, direction::OUTSIDE)?;
    Ok(if scratch.verdict == Verdict::Translated { Verdict::Masqueraded } else { Verdict::Untouched })
}

/// Translates a packet that the node's stack sends to a service: its socket was not, or has been made where no hook sees
/// it. The stack has routed it by the service's address already, so it is sent on its way from here.
#[inline(always)]
fn to_service<const V6: bool, P: Packet, T: Tables>(
    config: &Config,
    packet: &mut P,
    tables: &mut T,
) -> Result<Verdict, DropReason> {
    let mut scratch = tables.scratch().ok_or(DropReason::ConntrackFull)?;
    if !choose::<V6, P, T>(config, packet, tables, &mut scratch)? {
        return Ok(Verdict::Untouched);
    }
    match scratch.step {
        Step::Open => host::open::<V6, T>(config, tables, &mut scratch)?,
        Step::KeepReply => connection::keep_reply(config, tables, &mut scratch),
        Step::Deliver | Step::MakeWay => {}
    }
    send::<V6, P, T>(config, packet, tables, &mut scratch)
}

/// Finds what a packet of the node to the service CIDR is for; `false` when it goes to no port.
#[inline(never)]
fn choose<const V6: bool, P: Packet, T: Tables>(
    config: &Config,
    packet: &mut P,
    tables: &mut T,
    scratch: &mut Scratch,
) -> Result<bool, DropReason> {
    let ip = headers::parse::<V6, P>(packet)?;
    if !ip.transport.known {
        return Ok(false);
    }
    scratch.ip = ip;
    scratch.ends = Ends::of(&ip);
    scratch.tuple = connection::tuple(&ip);
    scratch.way = Way::UNKNOWN;
    scratch.step = Step::Deliver;
    if !ip.transport.opens() && connection::find(config, tables, &ip, scratch)? {
        return Ok(true);
    }
    scratch.service = lookup::service_at(tables, &ip.destination, ip.transport.destination_port(), ip.protocol);
    if scratch.service == 0 {
        return Err(lookup::unserved(tables, &ip.destination));
    }
    scratch.step = Step::Open;
    Ok(true)
}

/// Sends the packet in the scratch, which is the node's own, to where its new ends say.
#[inline(never)]
fn send<const V6: bool, P: Packet, T: Tables>(
    config: &Config,
    packet: &mut P,
    tables: &mut T,
    scratch: &mut Scratch,
) -> Result<Verdict, DropReason> {
    let (destination, device) = (narrowed::<V6>(&scratch.ends.destination), packet.ifindex());
    if equal(&destination, &family::node::<V6>(config)) {
        // A backend of the node: both are behind the service's address.
        rewrite::ends::<V6, P>(packet, &mut scratch.ip, &scratch.ends)?;
        packet.accept();
        packet.redirect_ingress(device);
        return Ok(Verdict::Neighbour);
    }
    if is_own::<V6>(config, &destination) {
        let pod = lookup::endpoint(tables, &destination).ok_or(DropReason::NoSuchPod)?;
        rewrite::ends::<V6, P>(packet, &mut scratch.ip, &scratch.ends)?;
        rewrite::macs(packet, &pod.mac, &pod.host_mac)?;
        // Not into the pod at once: that is for packets that come in.
        packet.redirect(pod.ifindex);
        return Ok(Verdict::Pod);
    }
    match deliver::to_others::<V6, P, T>(config, packet, tables, scratch)? {
        Verdict::Stack => {
            packet.redirect_routed(device);
            Ok(Verdict::Neighbour)
        }
        sent => Ok(sent),
    }
}

/// An ICMP echo message, whose identifier stands for the port of who asks.
#[derive(Clone, Copy)]
struct Echo {
    /// It is one.
    known: bool,
    is_reply: bool,
    sequence: [u8; 2],
}

/// Gives an ICMP echo message ports, so that it is a flow like all others.
#[inline(always)]
fn as_flow<P: Packet>(packet: &P, ip: &mut Ip) -> Echo {
    let (request, reply) = match ip.protocol {
        protocol::ICMP => (8, 0),
        protocol::ICMPV6 => (128, 129),
        _ => return Echo::NONE,
    };
    let at = ip.l4 & headers::OFFSETS;
    let Some([first, second]) = packet.load(at) else { return Echo::NONE };
    let [kind, ..] = first.to_ne_bytes();
    if ip.fragment.kind != Part::Whole || (kind != request && kind != reply) {
        return Echo::NONE;
    }
    let (is_reply, [high, low, sequence @ ..]) = (kind == reply, second.to_ne_bytes());
    let ends = if is_reply { ports([0; 2], [high, low]) } else { ports([high, low], [0; 2]) };
    ip.transport = Transport::of_datagram(at + 4, ends);
    Echo { known: true, is_reply, sequence }
}

impl Echo {
    const NONE: Self = Self { known: false, is_reply: false, sequence: [0; 2] };

    /// Writes the new ends into the message; afterwards they are those of the packet.
    #[inline(always)]
    fn write<const V6: bool, P: Packet>(self, packet: &mut P, ip: &mut Ip, ends: &Ends) -> Result<(), DropReason> {
        let transport = ip.transport;
        let (from, to) = (self.identifier(&transport), self.identifier(&transport.with_ports(ends.ports)));
        ip.transport = transport.with_ports(ports(from, self.sequence));
        rewrite::echo::<V6, P>(packet, ip, &Ends { ports: ports(to, self.sequence), ..*ends })?;
        (ip.source, ip.destination) = (ends.source, ends.destination);
        ip.transport = Transport::remembered(ends.ports);
        Ok(())
    }

    #[inline(always)]
    fn identifier(self, transport: &Transport) -> [u8; 2] {
        if self.is_reply { transport.destination_port() } else { transport.source_port() }
    }
}
