//! Connections through a service on the packet path.

use diolkos_abi::address::{protocol, v4_mapped, v4_of};
use diolkos_abi::conntrack::{Flow, Tuple, backend_word, direction, flow_flags};
use diolkos_abi::counter::DropReason;

use crate::balance::{self, Candidates, Choice};
use crate::headers::{Ipv4, Tcp};
use crate::lookup;
use crate::tables::{Insert, InsertError, Tables};

/// A connection without a packet for longer than this was idle, in the unit of [`Flow::seen`] (a second at 250 Hz).
const IDLE: u32 = 1;

/// What conntrack knows of a segment.
pub(crate) enum Known {
    /// Of a client to a service: to this backend.
    Forward(Choice),
    /// Of a backend to its client: from the address and port the client dialled.
    Reply { address: [u8; 4], port: [u8; 2] },
}

/// The tuple of a segment as it stands on the wire.
#[inline(always)]
pub(crate) fn tuple(ip: &Ipv4, tcp: Tcp) -> Tuple {
    Tuple {
        source: v4_mapped(ip.source),
        destination: v4_mapped(ip.destination),
        source_port: tcp.source_port(),
        destination_port: tcp.destination_port(),
        protocol: protocol::TCP,
        direction: direction::WIRE,
        zone: 0,
    }
}

/// Looks a segment up that does not open a connection. A flow whose backend is gone is not known any more.
#[inline(always)]
pub(crate) fn find<T: Tables>(tables: &mut T, tuple: &Tuple, tcp: Tcp) -> Option<Known> {
    let flow = lookup::flow(tables, tuple, tuple.hash(), closing(tcp))?;
    if flow.flags & flow_flags::REVERSE != 0 {
        return Some(Known::Reply { address: v4_of(&flow.source), port: flow.source_port });
    }
    let choice = balance::current(tables, flow.backend)?;
    if tables.now().wrapping_sub(flow.seen) > IDLE {
        keep_reply(tables, tuple, flow.backend, flow.service);
    }
    Some(Known::Forward(choice))
}

/// Sees to it that replies are translated as long as the connection is: a full conntrack may have forgotten the reply
/// entry of a connection that was idle, and its client would reset it at the first reply. The entries of a busy one are
/// in use and stay, so its packets do not pay for this.
///
/// A subprogram for the same reason as [`open`].
#[inline(never)]
fn keep_reply<T: Tables>(tables: &mut T, tuple: &Tuple, backend: u64, service: u32) {
    let Some(choice) = balance::current(tables, backend) else { return };
    let mut key = tuple.reversed();
    key.source = v4_mapped(choice.address);
    key.source_port = choice.port;
    let tag = hash(&key);
    if lookup::flow(tables, &key, tag, 0).is_some() {
        return;
    }
    let reply = Flow {
        backend,
        tag,
        service,
        flags: flow_flags::REVERSE | flow_flags::SOURCE,
        source_port: tuple.destination_port,
        seen: tables.now(),
        source: tuple.destination,
        ..Flow::default()
    };
    // When another flow took the tuple meanwhile, or there is no room, the next packets try again.
    let _ = tables.insert_flow(&key, &reply, Insert::IfAbsent);
}

/// [`find`] where only replies are translated.
#[inline(always)]
pub(crate) fn find_reply<T: Tables>(tables: &mut T, tuple: &Tuple, tcp: Tcp) -> Option<([u8; 4], [u8; 2])> {
    let flow = lookup::flow(tables, tuple, tuple.hash(), closing(tcp))?;
    (flow.flags & flow_flags::REVERSE != 0).then(|| (v4_of(&flow.source), flow.source_port))
}

/// Chooses a backend for a connection to `service` and records both directions, replies first: a backend's answer
/// never meets a table that does not know it.
///
/// A function of its own, and so a BPF subprogram with a stack of its own: it is the path of a connection's first
/// packet only.
#[inline(never)]
pub(crate) fn open<T: Tables>(tables: &mut T, tuple: &Tuple, service: u32) -> Result<Choice, DropReason> {
    let mut candidates = Candidates::of(tables, service, hash(tuple))?;
    let mut refusal = DropReason::NoEndpoints;
    let mut key = tuple.reversed();
    let mut reply = Flow {
        service,
        flags: flow_flags::REVERSE | flow_flags::SOURCE,
        source_port: tuple.destination_port,
        seen: tables.now(),
        source: tuple.destination,
        ..Flow::default()
    };
    while let Some(choice) = candidates.next(tables)? {
        key.source = v4_mapped(choice.address);
        key.source_port = choice.port;
        reply.tag = hash(&key);
        reply.backend = backend_word(choice.id, choice.generation);
        if record_reply(tables, tuple, &key, &reply)? {
            // The forward entry takes the place of the reply entry: the stack is small. Without it the next packet
            // chooses again, by the same hash from the same row.
            reply.tag = hash(tuple);
            reply.flags = 0;
            reply.source_port = [0; 2];
            reply.source = [0; 16];
            let _ = tables.insert_flow(tuple, &reply, Insert::Replace);
            return Ok(choice);
        }
        refusal = DropReason::FlowCollision;
    }
    Err(refusal)
}

/// Makes way for a connection that is not translated: what one through a service left under the tuple of its replies
/// would translate them. Refused while that one lives, as the client could not tell the replies of the two apart.
///
/// A subprogram for the same reason as [`open`].
#[inline(never)]
pub(crate) fn make_way<T: Tables>(tables: &mut T, tuple: &Tuple) -> Result<(), DropReason> {
    let key = tuple.reversed();
    let Some(reply) = lookup::flow(tables, &key, hash(&key), 0) else { return Ok(()) };
    if reply.flags & flow_flags::REVERSE == 0 {
        return Ok(());
    }
    if is_live(tables, tuple, &reply) {
        return Err(DropReason::FlowCollision);
    }
    tables.remove_flow(&key);
    Ok(())
}

/// [`Tuple::hash`] as a subprogram: inlined several times over, its words would fill the stack.
#[inline(never)]
fn hash(tuple: &Tuple) -> u32 {
    tuple.hash()
}

/// Records how replies are translated; `false` when another live connection owns their tuple.
#[inline(always)]
fn record_reply<T: Tables>(tables: &mut T, tuple: &Tuple, key: &Tuple, reply: &Flow) -> Result<bool, DropReason> {
    match tables.insert_flow(key, reply, Insert::IfAbsent) {
        Ok(()) => return Ok(true),
        Err(InsertError::Full) => return Err(DropReason::ConntrackFull),
        Err(InsertError::Exists) => {}
    }
    if belongs_to_another(tables, tuple, key, reply.tag) {
        return Ok(false);
    }
    match tables.insert_flow(key, reply, Insert::Replace) {
        Ok(()) => Ok(true),
        Err(_) => Err(DropReason::ConntrackFull),
    }
}

/// Whether the entry under the reply tuple `key` is that of a live connection other than `tuple`.
#[inline(always)]
fn belongs_to_another<T: Tables>(tables: &mut T, tuple: &Tuple, key: &Tuple, tag: u32) -> bool {
    match lookup::flow(tables, key, tag, 0) {
        Some(other) if other.source == tuple.destination && other.source_port == tuple.destination_port => false,
        Some(other) => is_live(tables, tuple, &other),
        None => false,
    }
}

/// Whether the connection of a reply entry can still carry data: its backend is the same, neither side has reset it,
/// and not both have closed it. `tuple` is a connection of the same client address and port.
#[inline(always)]
fn is_live<T: Tables>(tables: &mut T, tuple: &Tuple, reply: &Flow) -> bool {
    if reply.flags & flow_flags::RST != 0 || balance::current(tables, reply.backend).is_none() {
        return false;
    }
    let forward = Tuple { destination: reply.source, destination_port: reply.source_port, ..*tuple };
    match lookup::flow(tables, &forward, hash(&forward), 0) {
        Some(forward) => forward.flags & flow_flags::RST == 0 && forward.flags & reply.flags & flow_flags::FIN == 0,
        None => true,
    }
}

/// What a segment says about the end of its direction.
#[inline(always)]
fn closing(tcp: Tcp) -> u16 {
    let fin = if tcp.fin() { flow_flags::FIN } else { 0 };
    let rst = if tcp.rst() { flow_flags::RST } else { 0 };
    fin | rst
}
