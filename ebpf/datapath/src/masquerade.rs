//! Pods talk to the outside under their node's address.
//!
//! A flow has a forward entry under the tuple the pod sends and a reverse entry under the tuple of the answers, both as
//! they are seen on the outside of the node ([`direction::OUTSIDE`]): the same packet has another entry at the pod's own
//! device. Source ports come from a range that nobody else binds, and each core tries its slice of
//! it first.

use diolkos_abi::address::{address_words, from_words, protocol};
use diolkos_abi::config::{Config, features};
use diolkos_abi::conntrack::{Flow, Tuple, direction, flow_flags};
use diolkos_abi::counter::{DropReason, Verdict};
use diolkos_abi::service::slot_of;

use crate::connection::{self, passing};
use crate::family::{self, Words, equal};
use crate::headers::{Ip, ports};
use crate::lookup;
use crate::rewrite::Ends;
use crate::tables::{Insert, InsertError, Scratch, Tables};

/// One of so many source ports is for the node's own packets to services, the last ones of the range: the entries of the
/// two stand under different tuples, so that neither would see that the other has a port.
const NODE_SHARE: u16 = 8;
/// How many source ports are tried for a new flow.
const PORT_TRIES: u32 = 16;
/// How many of them among the core's own ports, which no other core tries at the same time; the others are among all.
const OWN_TRIES: u32 = 4;
/// A step between tries that meets every port of a slice late (the golden ratio of 2^32).
const STEP: u32 = 0x9e37_79b9;
/// A flow without a packet for longer than this was idle, in the unit of [`Flow::seen`].
const IDLE: u32 = 1;

/// What the ends of a pod's packet become on its way out. It stays [`Verdict::Untouched`] in a connection that is not
/// masqueraded: somebody who knows the way to pods has opened it, and knows the pod by its own address. Such a flow has an entry
/// that changes nothing. So it does without an overlay on its way to another node, which has a route to every pod.
///
/// A segment of a connection without any entry is refused: under which port the other side knows it is forgotten.
#[inline(never)]
pub(crate) fn outgoing<const V6: bool, T: Tables>(
    config: &Config,
    tables: &mut T,
    scratch: &mut Scratch,
    core: u32,
) -> Result<(), DropReason> {
    let ip = scratch.ip.narrowed::<V6>();
    scratch.tuple = seen_outside(&ip);
    let tag = connection::hash(&scratch.tuple);
    let opens = ip.transport.opens();
    let known = lookup::flow(config, tables, &scratch.tuple, tag, passing(&ip));
    let port = match known.filter(|flow| !opens || flow.flags & flow_flags::SOURCE != 0) {
        Some(flow) if flow.flags & flow_flags::SOURCE == 0 => return Ok(()),
        Some(flow) => {
            if tables.now().wrapping_sub(flow.seen) > IDLE {
                keep::<V6, T>(config, tables, scratch, flow.source_port);
            }
            flow.source_port
        }
        None if ip.protocol == protocol::TCP && !opens => return unopened(config, tables, scratch, &ip.destination),
        None if is_echo_reply(&ip) => return Ok(()),
        None if is_direct(config) && lookup::node_at(tables, &ip.destination) != 0 => return Ok(()),
        None => open::<V6, T>(config, tables, scratch, core)?,
    };
    scratch.verdict = Verdict::Masqueraded;
    scratch.ends.source = family::node::<V6>(config);
    scratch.ends.ports = ports(port, ip.transport.destination_port());
    Ok(())
}

/// A segment without an entry that opens no connection. That of a pod that was reached under its own address is remembered from
/// the answer to the first one on. A RST says that there is none, and may be that answer.
#[inline(never)]
fn unopened<T: Tables>(
    config: &Config,
    tables: &mut T,
    scratch: &mut Scratch,
    destination: &Words,
) -> Result<(), DropReason> {
    let transport = &scratch.ip.transport;
    if transport.rst() || (is_direct(config) && lookup::node_at(tables, destination) != 0) {
        return Ok(());
    }
    if !transport.accepts() {
        return Err(DropReason::ConnectionUnknown);
    }
    scratch.key = scratch.tuple;
    leave_alone(tables, scratch)
}

/// The flow whose pod sends the tuple of the key, as it is seen outside, leaves under the pod's own address.
#[inline(always)]
fn leave_alone<T: Tables>(tables: &mut T, scratch: &mut Scratch) -> Result<(), DropReason> {
    scratch.flow = Flow { tag: connection::hash(&scratch.key), seen: tables.now(), ..Flow::default() };
    match tables.insert_flow(&scratch.key, &scratch.flow, Insert::Replace) {
        Ok(()) => Ok(()),
        Err(_) => Err(DropReason::ConntrackFull),
    }
}

/// A process of another node asks a pod by a datagram under the node's own address: the answer leaves under the pod's.
#[inline(never)]
pub(crate) fn expect_answer<T: Tables>(
    config: &Config,
    tables: &mut T,
    scratch: &mut Scratch,
) -> Result<(), DropReason> {
    scratch.key = seen_outside(&scratch.ip).reversed();
    if lookup::flow(config, tables, &scratch.key, connection::hash(&scratch.key), 0).is_some() {
        return Ok(());
    }
    leave_alone(tables, scratch)
}

/// An answer to a ping without an entry is one to somebody who has reached the pod under its own address.
#[inline(always)]
fn is_echo_reply(ip: &Ip) -> bool {
    let is_icmp = matches!(ip.protocol, protocol::ICMP | protocol::ICMPV6);
    is_icmp && ip.transport.source_port() == [0; 2] && ip.transport.destination_port() != [0; 2]
}

/// With an overlay the network between the nodes need not know pods, and may drop what comes from one.
#[inline(always)]
const fn is_direct(config: &Config) -> bool {
    config.features & features::DIRECT_ROUTING != 0
}

/// What the ends of an answer become on its way in; `false` when it answers no pod.
#[inline(always)]
pub(crate) fn incoming<T: Tables>(config: &Config, tables: &mut T, ip: &Ip, ends: &mut Ends) -> bool {
    let tuple = seen_outside(ip);
    match lookup::flow(config, tables, &tuple, connection::hash(&tuple), passing(ip)) {
        Some(flow) if flow.flags & flow_flags::REVERSE != 0 => {
            ends.destination = address_words(&flow.destination);
            ends.ports = ports(ip.transport.source_port(), flow.destination_port);
            true
        }
        _ => false,
    }
}

/// The port is one that only translated sources have.
#[inline(always)]
pub(crate) fn is_ours(config: &Config, port: [u8; 2]) -> bool {
    u16::from_be_bytes(port).wrapping_sub(config.ports_first) < config.ports_count
}

/// The first one, and how many.
#[inline(always)]
fn ports_of_pods(config: &Config) -> (u32, u32) {
    (config.ports_first.into(), (config.ports_count - config.ports_count / NODE_SHARE).into())
}

/// The source ports of what the node sends to services under its own address: the first one, and how many.
#[inline(always)]
pub(crate) fn ports_of_node(config: &Config) -> (u32, u32) {
    let count = config.ports_count / NODE_SHARE;
    (u32::from(config.ports_first) + u32::from(config.ports_count - count), count.into())
}

#[inline(always)]
fn seen_outside(ip: &Ip) -> Tuple {
    Tuple { direction: direction::OUTSIDE, ..connection::tuple(ip) }
}

/// Takes a source port for the flow in the scratch and records both directions, answers first.
///
/// A BPF subprogram: it is the path of a flow's first packet only.
#[inline(never)]
fn open<const V6: bool, T: Tables>(
    config: &Config,
    tables: &mut T,
    scratch: &mut Scratch,
    core: u32,
) -> Result<[u8; 2], DropReason> {
    let cores = if config.cores == 0 { 1 } else { config.cores };
    let all = ports_of_pods(config);
    let slice = all.1 / cores;
    if slice == 0 {
        return Err(DropReason::PortsExhausted);
    }
    let first = all.0 + slice * (core % cores);
    let mut hash = connection::hash(&scratch.tuple);
    let mut tries = 0;
    while tries < PORT_TRIES {
        let (from, count) = if tries < OWN_TRIES { (first, slice) } else { all };
        let port = (slot_of(hash, from, count) as u16).to_be_bytes();
        answer::<V6>(config, scratch, port, tables.now());
        if take(config, tables, scratch)? {
            return record::<V6, T>(config, tables, scratch, port);
        }
        hash = hash.wrapping_add(STEP);
        tries += 1;
    }
    Err(DropReason::PortsExhausted)
}

/// Records the pod's direction. Without it the next packet would take another port, and the other side would not know it.
#[inline(always)]
fn record<const V6: bool, T: Tables>(
    config: &Config,
    tables: &mut T,
    scratch: &mut Scratch,
    port: [u8; 2],
) -> Result<[u8; 2], DropReason> {
    let flow = &mut scratch.flow;
    flow.tag = connection::hash(&scratch.tuple);
    flow.flags = flow_flags::SOURCE | flow_flags::MASQUERADE;
    (flow.source, flow.source_port) = (from_words(family::node::<V6>(config)), port);
    (flow.destination, flow.destination_port) = ([0; 16], [0; 2]);
    match tables.insert_flow(&scratch.tuple, flow, Insert::Replace) {
        Ok(()) => Ok(port),
        Err(_) => Err(DropReason::ConntrackFull),
    }
}

/// Key and content of the entry for the answers that reach the node at `port`.
#[inline(always)]
fn answer<const V6: bool>(config: &Config, scratch: &mut Scratch, port: [u8; 2], now: u32) {
    let tuple = &scratch.tuple;
    scratch.key = Tuple {
        source: tuple.destination,
        source_port: tuple.destination_port,
        destination: from_words(family::node::<V6>(config)),
        destination_port: port,
        ..*tuple
    };
    scratch.flow = Flow {
        tag: connection::hash(&scratch.key),
        seen: now,
        flags: flow_flags::REVERSE | flow_flags::DESTINATION | flow_flags::MASQUERADE,
        destination: tuple.source,
        destination_port: tuple.source_port,
        ..Flow::default()
    };
}

/// Records how answers are translated; `false` when the port is taken by a flow that lives.
#[inline(always)]
fn take<T: Tables>(config: &Config, tables: &mut T, scratch: &Scratch) -> Result<bool, DropReason> {
    match tables.insert_flow(&scratch.key, &scratch.flow, Insert::IfAbsent) {
        Ok(()) => return Ok(true),
        Err(InsertError::Full) => return Err(DropReason::ConntrackFull),
        Err(InsertError::Exists) => {}
    }
    // An entry that has expired is not found.
    let own = &scratch.flow;
    let taken = lookup::flow(config, tables, &scratch.key, own.tag, 0).is_some_and(|other| {
        other.destination_port != own.destination_port
            || !equal(&address_words(&other.destination), &address_words(&own.destination))
    });
    if taken {
        return Ok(false);
    }
    match tables.insert_flow(&scratch.key, &scratch.flow, Insert::Replace) {
        Ok(()) => Ok(true),
        Err(_) => Err(DropReason::ConntrackFull),
    }
}

/// Sees to it that answers are translated as long as the flow is: a full table may have forgotten an idle one's.
#[inline(never)]
fn keep<const V6: bool, T: Tables>(config: &Config, tables: &mut T, scratch: &mut Scratch, port: [u8; 2]) {
    answer::<V6>(config, scratch, port, tables.now());
    if lookup::flow(config, tables, &scratch.key, scratch.flow.tag, 0).is_none() {
        // When another flow took the port meanwhile, or there is no room, the next packets try again.
        let _ = tables.insert_flow(&scratch.key, &scratch.flow, Insert::IfAbsent);
    }
}
