//! The hooks of the packet path. Each is one sentence: parse, look up, decide, rewrite. Nothing is rewritten before the
//! last refusal.
//!
//! A hook tells the families apart; what follows are BPF subprograms for each, with stacks of their own. They return one
//! number, and no variant without content beside one that has some: the compiler would fill the gap with whatever stands
//! in a register, and the verifier minds what that is.

use diolkos_abi::address::protocol;
use diolkos_abi::config::{ANSWERED_MARK, Config, ENCAPSULATED_MARK, TRANSLATED_MARK, features};
use diolkos_abi::conntrack::direction;
use diolkos_abi::counter::{DropReason, Verdict};

use crate::connection;
use crate::deliver::{self, Way};
use crate::family::{is_own, is_service, narrowed};
use crate::fragment;
use crate::headers::{self, Ip, Kind, Part};
use crate::icmp;
use crate::lookup;
use crate::masquerade;
use crate::packet::Packet;
use crate::rewrite;
use crate::spoof;
use crate::tables::{Scratch, Step, Tables};

/// A pod of this node sends (tc ingress of the host's end of its veth pair).
#[inline(always)]
pub fn from_container<P: Packet, T: Tables>(
    config: &Config,
    packet: &mut P,
    tables: &mut T,
) -> Result<Verdict, DropReason> {
    match headers::kind(packet)? {
        Kind::V4 => sent::<false, P, T>(config, packet, tables),
        Kind::V6 => sent::<true, P, T>(config, packet, tables),
        Kind::Arp => spoof::arp(packet, tables).map(|()| Verdict::Untouched),
        Kind::Tagged => Err(DropReason::Tagged),
        Kind::Other => Err(DropReason::NotIp),
    }
}

/// The host's stack sends to a pod of this node (tc egress of the host's end of its veth pair). Replies of backends
/// on the host network come this way.
#[inline(always)]
pub fn to_container<P: Packet, T: Tables>(
    config: &Config,
    packet: &mut P,
    tables: &mut T,
) -> Result<Verdict, DropReason> {
    if packet.mark() == TRANSLATED_MARK {
        packet.set_mark(0);
        return Ok(Verdict::Untouched);
    }
    match headers::kind(packet)? {
        Kind::V4 if icmp::is_next::<false, P>(packet) => icmp::answered::<false, P, T>(config, packet, tables),
        Kind::V6 if icmp::is_next::<true, P>(packet) => icmp::answered::<true, P, T>(config, packet, tables),
        Kind::V4 => answered::<false, P, T>(config, packet, tables),
        Kind::V6 => answered::<true, P, T>(config, packet, tables),
        Kind::Arp | Kind::Tagged | Kind::Other => Ok(Verdict::Untouched),
    }
}

/// Another node sends (tc ingress of the overlay device).
#[inline(always)]
pub fn from_overlay<P: Packet, T: Tables>(
    config: &Config,
    packet: &mut P,
    tables: &mut T,
) -> Result<Verdict, DropReason> {
    match headers::kind(packet)? {
        Kind::V4 => arrived::<false, P, T>(config, packet, tables),
        Kind::V6 => arrived::<true, P, T>(config, packet, tables),
        Kind::Arp | Kind::Tagged | Kind::Other => Ok(Verdict::Untouched),
    }
}

/// The overlay device sends (its tc egress): what a pod's hook has addressed already, and what the host's own sockets
/// route to it.
#[inline(always)]
pub fn to_overlay<P: Packet, T: Tables>(
    config: &Config,
    packet: &mut P,
    tables: &mut T,
) -> Result<Verdict, DropReason> {
    if packet.mark() == ENCAPSULATED_MARK {
        packet.set_mark(0);
        return Ok(Verdict::Encapsulated);
    }
    match headers::kind(packet)? {
        Kind::V4 => routed::<false, P, T>(config, packet, tables),
        Kind::V6 => routed::<true, P, T>(config, packet, tables),
        Kind::Arp | Kind::Tagged | Kind::Other => Ok(Verdict::Untouched),
    }
}

/// [`from_container`] of one family.
#[inline(always)]
fn sent<const V6: bool, P: Packet, T: Tables>(
    config: &Config,
    packet: &mut P,
    tables: &mut T,
) -> Result<Verdict, DropReason> {
    let mut scratch = tables.scratch().ok_or(DropReason::ConntrackFull)?;
    pass::<V6, P, T>(config, packet, tables, &mut scratch)?;
    if scratch.step == Step::Gone {
        return Ok(scratch.verdict);
    }
    if scratch.step == Step::LookUp {
        if V6 && scratch.ip.protocol == protocol::ICMPV6 && spoof::neighbour(packet, tables, &mut scratch)? {
            return Ok(Verdict::Stack);
        }
        if !scratch.ip.transport.known {
            icmp::translate::<V6, P, T>(config, packet, tables, &mut scratch, direction::WIRE)?;
        }
        if scratch.ip.fragment.kind != Part::Whole {
            fragment::resolve::<V6, T>(config, tables, &mut scratch)?;
        }
        look_up::<V6, T>(config, tables, &mut scratch)?;
    }
    match scratch.step {
        Step::Open => open(config, tables, &mut scratch)?,
        Step::MakeWay => connection::make_way(config, tables, &mut scratch)?,
        Step::KeepReply => connection::keep_reply(config, tables, &mut scratch),
        Step::Deliver | Step::Expect | Step::LookUp | Step::Gone => {}
    }
    deliver::deliver::<V6, P, T>(config, packet, tables, &mut scratch)?;
    Ok(scratch.verdict)
}

/// Reads a pod's packet, believes it, and sends it where nothing but its headers and what is known already is needed for
/// that. What else there is to do is left in the scratch.
///
/// One subprogram for all of it: a call costs as much as a helper's, and most packets pay for this one alone.
#[inline(never)]
fn pass<const V6: bool, P: Packet, T: Tables>(
    config: &Config,
    packet: &mut P,
    tables: &mut T,
    scratch: &mut Scratch,
) -> Result<(), DropReason> {
    let ip = headers::parse::<V6, P>(packet)?;
    spoof::check::<V6, P, T>(packet, tables, &ip)?;
    scratch.begin(&ip);
    if !ip.transport.known || ip.fragment.kind != Part::Whole {
        scratch.step = Step::LookUp;
        return Ok(());
    }
    translate::<V6, T>(config, tables, &ip, scratch)?;
    // With IPv6's next hops the stack does not hold all of it.
    let fits = !V6 || config.features & features::DIRECT_ROUTING == 0;
    if fits && scratch.step == Step::Deliver {
        deliver::send::<V6, P, T>(config, packet, tables, scratch)?;
        scratch.step = Step::Gone;
    }
    Ok(())
}

/// [`translate`] of what [`pass`] left.
#[inline(never)]
fn look_up<const V6: bool, T: Tables>(
    config: &Config,
    tables: &mut T,
    scratch: &mut Scratch,
) -> Result<(), DropReason> {
    let ip = scratch.ip.narrowed::<V6>();
    scratch.step = Step::Deliver;
    translate::<V6, T>(config, tables, &ip, scratch)
}

/// [`to_container`] of one family.
#[inline(always)]
fn answered<const V6: bool, P: Packet, T: Tables>(
    config: &Config,
    packet: &mut P,
    tables: &mut T,
) -> Result<Verdict, DropReason> {
    let mut scratch = tables.scratch().ok_or(DropReason::ConntrackFull)?;
    read::<V6, P>(packet, &mut scratch)?;
    if scratch.ip.fragment.kind != Part::Whole {
        fragment::resolve::<V6, T>(config, tables, &mut scratch)?;
    }
    if !connection::reply::<T>(config, tables, &mut scratch) {
        if connection::begins_at_node::<V6>(config, &scratch.ip) {
            connection::make_way_of_node(config, tables, &mut scratch)?;
        }
        return Ok(Verdict::Untouched);
    }
    let Scratch { ip, ends, .. } = &mut *scratch;
    rewrite::ends::<V6, P>(packet, ip, ends)?;
    Ok(Verdict::Translated)
}

/// Reads a packet that needs no belief.
#[inline(never)]
pub(crate) fn read<const V6: bool, P: Packet>(packet: &mut P, scratch: &mut Scratch) -> Result<(), DropReason> {
    scratch.begin(&headers::parse::<V6, P>(packet)?);
    Ok(())
}

/// [`from_overlay`] of one family.
#[inline(always)]
fn arrived<const V6: bool, P: Packet, T: Tables>(
    config: &Config,
    packet: &mut P,
    tables: &mut T,
) -> Result<Verdict, DropReason> {
    let mut scratch = tables.scratch().ok_or(DropReason::ConntrackFull)?;
    read::<V6, P>(packet, &mut scratch)?;
    match spoof::check_peer::<V6, P, T>(config, packet, tables, &mut scratch) {
        // The answer to a packet of the host's own that the device did not take.
        Err(DropReason::NoTunnel) if packet.mark() == ANSWERED_MARK => {
            packet.set_mark(0);
            packet.accept();
            return Ok(Verdict::Stack);
        }
        checked => checked?,
    }
    if !is_own::<V6>(config, &narrowed::<V6>(&scratch.ip.destination)) {
        return Err(DropReason::NoSuchPod);
    }
    if scratch.ip.fragment.kind != Part::Whole {
        fragment::resolve::<V6, T>(config, tables, &mut scratch)?;
    }
    if scratch.ip.transport.known {
        connection::reply::<T>(config, tables, &mut scratch);
        let masquerades = config.features & features::MASQUERADE != 0;
        if masquerades && scratch.step == Step::Expect && scratch.ip.protocol == protocol::UDP {
            masquerade::expect_answer(config, tables, &mut scratch)?;
        }
    } else {
        icmp::translate::<V6, P, T>(config, packet, tables, &mut scratch, direction::WIRE)?;
    }
    // The overlay leads to this node alone: a reply that is not for a pod is for the node itself.
    scratch.way = Way::STACK;
    deliver::deliver::<V6, P, T>(config, packet, tables, &mut scratch)?;
    Ok(scratch.verdict)
}

/// [`to_overlay`] of one family.
#[inline(never)]
fn routed<const V6: bool, P: Packet, T: Tables>(
    config: &Config,
    packet: &mut P,
    tables: &mut T,
) -> Result<Verdict, DropReason> {
    let ip = headers::parse::<V6, P>(packet)?;
    if connection::begins_at_node::<V6>(config, &ip) {
        let mut scratch = tables.scratch().ok_or(DropReason::ConntrackFull)?;
        scratch.ip = ip;
        connection::make_way_of_node(config, tables, &mut scratch)?;
    }
    let id = lookup::route::<V6, T>(config, tables, &ip.destination);
    let node = tables.node(id).filter(|_| id != 0).ok_or(DropReason::NoSuchNode)?;
    deliver::encapsulate(config, packet, &node)?;
    Ok(Verdict::Encapsulated)
}

/// Says what becomes of the ends of a pod's packet: known connections first, then services. Leaves in the scratch what is
/// to be done before it goes.
#[inline(always)]
fn translate<const V6: bool, T: Tables>(
    config: &Config,
    tables: &mut T,
    ip: &Ip,
    scratch: &mut Scratch,
) -> Result<(), DropReason> {
    if !ip.transport.known {
        // The ports of a service are unknown to a protocol without any.
        return if is_service::<V6>(config, &ip.destination) {
            Err(lookup::unserved(tables, &scratch.ip.destination))
        } else {
            Ok(())
        };
    }
    scratch.tuple = connection::tuple(ip);
    // A segment that opens a connection selects anew, whatever an earlier connection of the same tuple left behind.
    if !ip.transport.opens() && connection::find(config, tables, ip, scratch)? {
        return Ok(());
    }
    if connection::may_be_in_the_way(config, tables, ip, &scratch.tuple) {
        scratch.step = Step::MakeWay;
    }
    classify::<V6, T>(config, tables, ip, scratch)
}

/// Opens a connection to a service, from another port where there are any and the client's own will not do.
#[inline(always)]
fn open<T: Tables>(config: &Config, tables: &mut T, scratch: &mut Scratch) -> Result<(), DropReason> {
    match connection::open(config, tables, scratch) {
        Err(DropReason::FlowCollision) if config.ports_count != 0 => {
            connection::open_from_another_port(config, tables, scratch)
        }
        outcome => outcome,
    }
}

/// Tells services from everything else, and says what it learned of the way. Pod addresses never are a frontend, so
/// direct traffic between pods pays for no lookup here but the one of its route, which it needs anyway.
#[inline(always)]
fn classify<const V6: bool, T: Tables>(
    config: &Config,
    tables: &mut T,
    ip: &Ip,
    scratch: &mut Scratch,
) -> Result<(), DropReason> {
    let in_service_cidr = is_service::<V6>(config, &ip.destination);
    if !in_service_cidr {
        if is_own::<V6>(config, &ip.destination) {
            return Ok(());
        }
        scratch.way = Way(lookup::route::<V6, T>(config, tables, &ip.destination));
        if scratch.way != Way::UNKNOWN {
            return Ok(());
        }
    }
    scratch.service = lookup::service_at(tables, &scratch.ip.destination, ip.transport.destination_port(), ip.protocol);
    scratch.way = Way::STACK;
    match scratch.service {
        0 if in_service_cidr => return Err(lookup::unserved(tables, &scratch.ip.destination)),
        0 => {}
        _ => scratch.step = Step::Open,
    }
    Ok(())
}
