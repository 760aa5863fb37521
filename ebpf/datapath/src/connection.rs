//! Connections through a service on the packet path.

use diolkos_abi::address::{address_words, from_words, protocol};
use diolkos_abi::config::Config;
use diolkos_abi::conntrack::{Flow, Tuple, backend_word, direction, flow_flags};
use diolkos_abi::counter::DropReason;
use diolkos_abi::service::slot_of;

use crate::affinity;
use crate::balance::{self, Candidates, Choice};
use crate::deliver::Way;
use crate::family::{self, equal, narrowed};
use crate::headers::{Ip, Transport, ports};
use crate::lookup;
use crate::rewrite::Ends;
use crate::tables::{Insert, InsertError, Scratch, Step, Tables};

/// A connection without a packet for longer than this was idle, in the unit of [`Flow::seen`] (a second at 250 Hz).
const IDLE: u32 = 1;
/// How many source ports are tried for a client whose own port is taken on every backend.
const PORT_TRIES: u64 = 4;

/// The tuple of a packet as it stands on the wire.
#[inline(always)]
pub(crate) fn tuple(ip: &Ip) -> Tuple {
    Tuple {
        source: from_words(ip.source),
        destination: from_words(ip.destination),
        source_port: ip.transport.source_port(),
        destination_port: ip.transport.destination_port(),
        protocol: ip.protocol,
        direction: direction::WIRE,
        zone: 0,
    }
}

/// Looks a packet up that does not open a connection, and says what its ends become and what is known of the way there;
/// `false` for one that is not known. A datagram of a flow whose backend
/// is gone is not known any more, and finds another one; a TCP connection cannot move.
#[inline(always)]
pub(crate) fn find<T: Tables>(
    config: &Config,
    tables: &mut T,
    ip: &Ip,
    scratch: &mut Scratch,
) -> Result<bool, DropReason> {
    let transport = &ip.transport;
    let tag = scratch.tuple.hash();
    if !tables.may_have_flow(tag, &config.lifetimes) {
        return Ok(false);
    }
    let Some(flow) = lookup::flow(config, tables, &scratch.tuple, tag, passing(ip)) else { return Ok(false) };
    if flow.flags & flow_flags::REVERSE != 0 {
        replied(transport, &flow, &mut scratch.ends);
        return Ok(true);
    }
    let Some(choice) = balance::current(tables, flow.backend) else {
        return if ip.protocol == protocol::TCP { Err(DropReason::BackendGone) } else { Ok(false) };
    };
    if tables.now().wrapping_sub(flow.seen) > IDLE {
        scratch.step = Step::KeepReply;
    }
    let mut port = transport.source_port();
    if flow.flags & flow_flags::SOURCE != 0 {
        scratch.ends.source = address_words(&flow.source);
        port = flow.source_port;
    }
    scratch.ends.destination = choice.address;
    scratch.ends.ports = ports(port, choice.port);
    scratch.way = Way(choice.node);
    Ok(true)
}

/// Says what the ends of a service's reply become, for its client to know it; `false` for anything else.
#[inline(always)]
pub(crate) fn reply<T: Tables>(config: &Config, tables: &mut T, scratch: &mut Scratch) -> bool {
    let Scratch { ip, ends, .. } = scratch;
    ip.transport.known && !ip.transport.opens() && find_reply(config, tables, ip, ends)
}

/// [`find`] where only replies are translated; `false` for everything else.
#[inline(never)]
pub(crate) fn find_reply<T: Tables>(config: &Config, tables: &mut T, ip: &Ip, ends: &mut Ends) -> bool {
    let tuple = tuple(ip);
    let tag = tuple.hash();
    if !tables.may_have_flow(tag, &config.lifetimes) {
        return false;
    }
    match lookup::flow(config, tables, &tuple, tag, passing(ip)) {
        Some(flow) if flow.flags & flow_flags::REVERSE != 0 => {
            replied(&ip.transport, &flow, ends);
            true
        }
        _ => false,
    }
}

/// The ends of a backend's packet once it is on its way to the client.
#[inline(always)]
fn replied(transport: &Transport, flow: &Flow, ends: &mut Ends) {
    let mut port = transport.destination_port();
    if flow.flags & flow_flags::DESTINATION != 0 {
        ends.destination = address_words(&flow.destination);
        port = flow.destination_port;
    }
    ends.source = address_words(&flow.source);
    ends.ports = ports(flow.source_port, port);
}

/// Sees to it that replies are translated as long as the connection is: a full conntrack may have forgotten the reply
/// entry of a connection that was idle, and its client would reset it at the first reply. The entries of a busy one are
/// in use and stay, so its packets do not pay for this.
///
/// A subprogram for the same reason as [`open`].
#[inline(never)]
pub(crate) fn keep_reply<T: Tables>(config: &Config, tables: &mut T, scratch: &mut Scratch) {
    let Some(flow) = lookup::flow(config, tables, &scratch.tuple, hash(&scratch.tuple), 0) else { return };
    let Some(choice) = balance::current(tables, flow.backend) else { return };
    prepare(scratch, flow.service, &choice, scratch.tuple.source_port);
    if flow.flags & flow_flags::SOURCE != 0 {
        scratch.key.destination = flow.source;
        scratch.key.destination_port = flow.source_port;
        changed(scratch);
    }
    scratch.flow.tag = hash(&scratch.key);
    scratch.flow.seen = tables.now();
    if lookup::flow(config, tables, &scratch.key, scratch.flow.tag, 0).is_none() {
        // When another flow took the tuple meanwhile, or there is no room, the next packets try again.
        let _ = tables.insert_flow(&scratch.key, &scratch.flow, Insert::IfAbsent);
    }
}

/// Chooses a backend for a connection to the service in the scratch and records both directions. Says what the ends of
/// its first packet become, and what is known of the way there.
///
/// A function of its own, and so a BPF subprogram with a stack of its own: it is the path of a connection's first
/// packet only.
#[inline(never)]
pub(crate) fn open<T: Tables>(config: &Config, tables: &mut T, scratch: &mut Scratch) -> Result<(), DropReason> {
    let service = scratch.service;
    let kept = kept(tables, scratch);
    if let Some(choice) = balance::current(tables, kept) {
        prepare(scratch, service, &choice, scratch.tuple.source_port);
        record(config, tables, scratch)?;
        scratch.way = Way(choice.node);
        keep(tables, scratch);
        return Ok(());
    }
    let mut candidates = Candidates::of(tables, service, hash(&scratch.tuple))?;
    let mut refusal = DropReason::NoEndpoints;
    while let Some(choice) = candidates.next(tables)? {
        prepare(scratch, service, &choice, scratch.tuple.source_port);
        match record(config, tables, scratch) {
            Ok(()) => {
                scratch.way = Way(choice.node);
                keep(tables, scratch);
                return Ok(());
            }
            Err(DropReason::FlowCollision) => refusal = DropReason::FlowCollision,
            Err(reason) => return Err(reason),
        }
    }
    Err(refusal)
}

/// [`open`] where the client's own port is taken on every backend that was tried.
#[inline(never)]
pub(crate) fn open_from_another_port<T: Tables>(
    config: &Config,
    tables: &mut T,
    scratch: &mut Scratch,
) -> Result<(), DropReason> {
    let (hash, service) = (hash(&scratch.tuple), scratch.service);
    let kept = kept(tables, scratch);
    let choice = match balance::current(tables, kept) {
        Some(choice) => choice,
        None => Candidates::of(tables, service, hash)?.next(tables)?.ok_or(DropReason::NoEndpoints)?,
    };
    // Of 64 bits as `Candidates::tried`.
    let mut tries = 0_u64;
    while tries < PORT_TRIES {
        let port =
            slot_of(hash.rotate_left(tries as u32 * 8), config.ports_first.into(), config.ports_count.into()) as u16;
        prepare(scratch, service, &choice, port.to_be_bytes());
        match record(config, tables, scratch) {
            Ok(()) => {
                scratch.way = Way(choice.node);
                keep(tables, scratch);
                return Ok(());
            }
            Err(DropReason::FlowCollision) => tries += 1,
            Err(reason) => return Err(reason),
        }
    }
    Err(DropReason::PortsExhausted)
}

/// The word of the backend that the client of a service with session affinity keeps; 0 for none. A subprogram for the
/// same reason as [`open`].
#[inline(never)]
pub(crate) fn kept<T: Tables>(tables: &mut T, scratch: &mut Scratch) -> u64 {
    let lifetime = tables.affinity_lifetime(scratch.service);
    if lifetime == 0 {
        return 0;
    }
    match affinity::preferred(tables, scratch.service, lifetime, &scratch.tuple.source) {
        Some(choice) => backend_word(choice.id, choice.generation),
        None => 0,
    }
}

/// Lets the client of a service with session affinity keep the backend of the connection that was recorded.
#[inline(never)]
pub(crate) fn keep<T: Tables>(tables: &mut T, scratch: &mut Scratch) {
    if tables.affinity_lifetime(scratch.service) != 0 {
        affinity::remember(tables, scratch.service, &scratch.tuple.source, scratch.flow.backend);
    }
}

/// The entry for replies, but its tag and time, of a connection that reaches the backend from `port`.
#[inline(always)]
pub(crate) fn prepare(scratch: &mut Scratch, service: u32, choice: &Choice, port: [u8; 2]) {
    let tuple = &scratch.tuple;
    // A pod that is its own backend would answer itself, past the translation: it meets the service as its client.
    let hairpin = equal(&choice.address, &address_words(&tuple.source));
    scratch.key = Tuple {
        source: from_words(choice.address),
        source_port: choice.port,
        destination: if hairpin { tuple.destination } else { tuple.source },
        destination_port: port,
        ..*tuple
    };
    scratch.flow = Flow {
        backend: backend_word(choice.id, choice.generation),
        service,
        flags: flow_flags::REVERSE | flow_flags::SOURCE,
        source_port: tuple.destination_port,
        source: tuple.destination,
        ..Flow::default()
    };
    if hairpin || port != tuple.source_port {
        changed(scratch);
    }
}

/// The connection reaches the backend from another end than its own: replies get that back.
#[inline(always)]
pub(crate) fn changed(scratch: &mut Scratch) {
    scratch.flow.flags |= flow_flags::DESTINATION;
    scratch.flow.destination = scratch.tuple.source;
    scratch.flow.destination_port = scratch.tuple.source_port;
}

/// Whether something may stand under the tuple of the replies to a packet that is not translated, which has no entry of its
/// own: asked of what opens a connection, and of datagrams, which say nothing about that.
#[inline(always)]
pub(crate) fn may_be_in_the_way<T: Tables>(config: &Config, tables: &mut T, ip: &Ip, tuple: &Tuple) -> bool {
    (ip.transport.opens() || ip.protocol == protocol::UDP)
        && tables.may_have_flow(tuple.reversed_hash(), &config.lifetimes)
}

/// Makes way for a connection that is not translated: what one through a service left under the tuple of its replies
/// would translate them. Refused while that one lives, as the client could not tell the replies of the two apart. Datagrams
/// have no end that one could wait for: their answers seem to come from the one that was asked last.
///
/// A subprogram for the same reason as [`open`].
#[inline(never)]
pub(crate) fn make_way<T: Tables>(config: &Config, tables: &mut T, scratch: &mut Scratch) -> Result<(), DropReason> {
    scratch.key = scratch.tuple.reversed();
    let Some(reply) = lookup::flow(config, tables, &scratch.key, hash(&scratch.key), 0) else { return Ok(()) };
    if reply.flags & flow_flags::REVERSE == 0 {
        return Ok(());
    }
    if scratch.key.protocol == protocol::UDP {
        set_aside(config, tables, scratch, &reply);
    } else if is_live(config, tables, scratch, &reply) {
        return Err(DropReason::FlowCollision);
    }
    tables.remove_flow(&scratch.key);
    Ok(())
}

/// Makes the next datagram of the flow of `reply` one that comes after a long time: it finds its backend, and sees to it that
/// replies are translated ([`keep_reply`]).
#[inline(always)]
fn set_aside<T: Tables>(config: &Config, tables: &mut T, scratch: &mut Scratch, reply: &Flow) {
    let Some(forward) = forward(config, tables, scratch, reply) else { return };
    if forward.flags & flow_flags::REVERSE == 0 && forward.backend == reply.backend {
        scratch.flow = Flow { seen: tables.now().wrapping_sub(IDLE + 1), ..forward };
        // Without room for it the flow chooses a backend again, as a new one.
        let _ = tables.insert_flow(&scratch.other, &scratch.flow, Insert::Replace);
    }
}

/// Whether the node itself sends a packet to a pod that something may be in the way of. As a client of services it has the
/// address of the gateway there.
#[inline(always)]
pub(crate) fn begins_at_node<const V6: bool>(config: &Config, ip: &Ip) -> bool {
    ip.transport.known
        && (ip.transport.opens() || ip.protocol == protocol::UDP)
        && equal(&narrowed::<V6>(&ip.source), &family::gateway::<V6>(config))
}

/// [`make_way`] for the packet in the scratch where it is asked for the first time.
#[inline(never)]
pub(crate) fn make_way_of_node<T: Tables>(
    config: &Config,
    tables: &mut T,
    scratch: &mut Scratch,
) -> Result<(), DropReason> {
    scratch.tuple = tuple(&scratch.ip);
    if tables.may_have_flow(scratch.tuple.reversed_hash(), &config.lifetimes) {
        make_way(config, tables, scratch)?;
    }
    Ok(())
}

/// [`Tuple::hash`] as a subprogram: inlined several times over, its words would fill the stack.
#[inline(never)]
pub(crate) fn hash(tuple: &Tuple) -> u32 {
    tuple.hash()
}

/// Records a connection, replies first: a backend's answer never meets a table that does not know it. Another live
/// connection that owns the tuple of the replies is a [`DropReason::FlowCollision`].
#[inline(never)]
pub(crate) fn record<T: Tables>(config: &Config, tables: &mut T, scratch: &mut Scratch) -> Result<(), DropReason> {
    scratch.flow.tag = hash(&scratch.key);
    scratch.flow.seen = tables.now();
    record_reply(config, tables, scratch)?;
    // Without the forward entry the next packet chooses again, by the same hash from the same row.
    let (key, flow) = (&scratch.key, &mut scratch.flow);
    let changed = flow.flags & flow_flags::DESTINATION != 0;
    flow.tag = hash(&scratch.tuple);
    flow.flags = if changed { flow_flags::SOURCE } else { 0 };
    flow.source = if changed { key.destination } else { [0; 16] };
    flow.source_port = if changed { key.destination_port } else { [0; 2] };
    flow.destination = [0; 16];
    flow.destination_port = [0; 2];
    let _ = tables.insert_flow(&scratch.tuple, flow, Insert::Replace);
    // The ends of a client's packet on its way to the backend are those of the replies, reversed.
    scratch.ends = Ends {
        source: address_words(&key.destination),
        destination: address_words(&key.source),
        ports: ports(key.destination_port, key.source_port),
    };
    Ok(())
}

/// Records how replies are translated.
#[inline(always)]
fn record_reply<T: Tables>(config: &Config, tables: &mut T, scratch: &mut Scratch) -> Result<(), DropReason> {
    match tables.insert_flow(&scratch.key, &scratch.flow, Insert::IfAbsent) {
        Ok(()) => return Ok(()),
        Err(InsertError::Full) => return Err(DropReason::ConntrackFull),
        Err(InsertError::Exists) => {}
    }
    if belongs_to_another(config, tables, scratch) {
        return Err(DropReason::FlowCollision);
    }
    tables.insert_flow(&scratch.key, &scratch.flow, Insert::Replace).map_err(|_| DropReason::ConntrackFull)
}

/// Whether the entry under the key is that of a live connection other than the one at hand.
#[inline(always)]
fn belongs_to_another<T: Tables>(config: &Config, tables: &mut T, scratch: &mut Scratch) -> bool {
    let Some(other) = lookup::flow(config, tables, &scratch.key, scratch.flow.tag, 0) else { return false };
    let own = &scratch.flow;
    let same = equal(&address_words(&other.source), &address_words(&own.source))
        && other.source_port == own.source_port
        && equal(&address_words(&other.destination), &address_words(&own.destination))
        && other.destination_port == own.destination_port;
    !same && is_live(config, tables, scratch, &other)
}

/// Whether the connection of the entry for replies under the key can still carry data: its backend is the same, neither
/// side has reset it, and not both have closed it.
#[inline(always)]
fn is_live<T: Tables>(config: &Config, tables: &mut T, scratch: &mut Scratch, reply: &Flow) -> bool {
    if reply.flags & flow_flags::RST != 0 || balance::current(tables, reply.backend).is_none() {
        return false;
    }
    match forward(config, tables, scratch, reply) {
        Some(forward) => forward.flags & flow_flags::RST == 0 && forward.flags & reply.flags & flow_flags::FIN == 0,
        None => true,
    }
}

/// The client's direction of the connection whose entry for replies is under the key. Its own key is left in the scratch.
#[inline(always)]
fn forward<T: Tables>(config: &Config, tables: &mut T, scratch: &mut Scratch, reply: &Flow) -> Option<Flow> {
    let changed = reply.flags & flow_flags::DESTINATION != 0;
    scratch.other = Tuple {
        source: if changed { reply.destination } else { scratch.key.destination },
        source_port: if changed { reply.destination_port } else { scratch.key.destination_port },
        destination: reply.source,
        destination_port: reply.source_port,
        ..scratch.key
    };
    lookup::flow(config, tables, &scratch.other, hash(&scratch.other), 0)
}

/// What a packet says about its direction of a connection.
#[inline(always)]
pub(crate) fn passing(ip: &Ip) -> u16 {
    if ip.protocol != protocol::TCP {
        return 0;
    }
    let transport = &ip.transport;
    let fin = if transport.fin() { flow_flags::FIN } else { 0 };
    let rst = if transport.rst() { flow_flags::RST } else { 0 };
    let confirmed = if transport.opens() { 0 } else { flow_flags::CONFIRMED };
    fin | rst | confirmed
}
