//! Clears away connections that are over and clients that are long gone, a page at a time.
//!
//! The programs take no notice of what is over, and the kernel's LRU lists make room for what is new; the sweeper keeps
//! the tables as full as they have to be, and what is alive from being pushed out.

use std::collections::HashSet;
use std::time::Duration;

use diolkos_abi::address::protocol;
use diolkos_abi::config::{Lifetimes, is_over};
use diolkos_abi::conntrack::{Flow, Tuple, backend_parts, flow_flags};
use diolkos_abi::service::{Affinity, Backend, backend_state};

use crate::dataplane::{Dataplane, Partial, Place, Result};

/// From the end of a round to the next one.
pub const ROUND: Duration = Duration::from_secs(10);
/// Between two pages of a round: the agent's loop does its other work meanwhile.
pub const PAUSE: Duration = Duration::from_millis(5);

/// Goes round conntrack and the clients of services with affinity.
#[derive(Debug)]
pub struct Sweeper {
    lifetimes: Lifetimes,
    at: Stage,
    /// Connection entries of this round that stay, about: one met before its other direction may be gone since.
    left: u64,
}

/// Where the next page is.
#[derive(Clone, Copy, Debug)]
enum Stage {
    Flows(Option<Place>),
    Affinities(Option<Place>),
}

/// What one page brought.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Swept {
    /// Connection entries removed.
    pub flows: u64,
    /// Clients removed.
    pub clients: u64,
    /// With the last page of a round: the connection entries that are left, about.
    pub round: Option<u64>,
}

impl Sweeper {
    /// `lifetimes` are those the programs have.
    pub fn new(lifetimes: Lifetimes) -> Self {
        Self { lifetimes, at: Stage::Flows(None), left: 0 }
    }

    /// Sweeps one page. After an error the round begins anew.
    pub fn step(&mut self, dataplane: &mut dyn Dataplane) -> Result<Swept> {
        let at = std::mem::replace(&mut self.at, Stage::Flows(None));
        match at {
            Stage::Flows(place) => self.flows(dataplane, place),
            Stage::Affinities(place) => self.affinities(dataplane, place),
        }
    }

    fn flows(&mut self, dataplane: &mut dyn Dataplane, place: Option<Place>) -> Result<Swept> {
        if place.is_none() {
            self.left = 0;
        }
        let now = dataplane.now()?;
        let page = dataplane.flows(place)?;
        let mut over = HashSet::new();
        for (key, flow) in &page.entries {
            let backend = dataplane.read_backend(backend_parts(flow.backend).0)?;
            if !may_be_over(key, flow, &backend, &self.lifetimes, now) {
                continue;
            }
            let other_key = partner_key(key, flow, &backend);
            let other = other_key.map(|key| dataplane.flow(&key)).transpose()?.flatten();
            let other = other.filter(|other| is_partner(flow, other));
            if pair_is_over(key.protocol, flow, other.as_ref(), &backend, &self.lifetimes, now) {
                over.insert(*key);
                // Both go at once: half a pair would translate one direction only.
                over.extend(other_key.filter(|_| other.is_some()));
            }
        }
        self.left += page.entries.iter().filter(|(key, _)| !over.contains(key)).count() as u64;
        let over: Vec<Tuple> = over.into_iter().collect();
        dataplane.remove_flows(&over).map_err(error_of)?;
        self.at = page.next.map_or(Stage::Affinities(None), |next| Stage::Flows(Some(next)));
        Ok(Swept { flows: over.len() as u64, ..Swept::default() })
    }

    fn affinities(&mut self, dataplane: &mut dyn Dataplane, place: Option<Place>) -> Result<Swept> {
        let now = dataplane.now()?;
        let page = dataplane.affinities(place)?;
        let mut over = Vec::new();
        for (key, affinity) in &page.entries {
            let lifetime = dataplane.read_affinity(key.service)?;
            let backend = dataplane.read_backend(backend_parts(affinity.backend).0)?;
            if client_is_gone(affinity, lifetime, &backend, now) {
                over.push(*key);
            }
        }
        dataplane.remove_affinities(&over).map_err(error_of)?;
        let round = page.next.is_none().then_some(self.left);
        self.at = page.next.map_or(Stage::Flows(None), |next| Stage::Affinities(Some(next)));
        Ok(Swept { clients: over.len() as u64, round, ..Swept::default() })
    }
}

/// Whether a client's choice counts no more: it is too old, its service has no affinity, or its backend is gone.
fn client_is_gone(affinity: &Affinity, lifetime: u32, backend: &Backend, now: u32) -> bool {
    let (_, generation) = backend_parts(affinity.backend);
    let is_alive = backend.state == backend_state::ALIVE && backend.generation == generation;
    lifetime == 0 || !is_alive || is_over(lifetime, affinity.seen, now)
}

/// Whether an entry by itself gives a reason to look at its pair.
fn may_be_over(key: &Tuple, flow: &Flow, backend: &Backend, lifetimes: &Lifetimes, now: u32) -> bool {
    let is_old = is_over(lifetimes.of(key.protocol, flow.flags), flow.seen, now);
    is_old || flow.flags & (flow_flags::RST | flow_flags::FIN) != 0 || is_stale(flow, backend)
}

/// Whether both directions of a connection shall go:
/// - the programs take neither for alive any more;
/// - one side has reset it or both have closed it, and the last packet passed long enough ago;
/// - its backend's id is free or another's, and nobody uses the connection.
fn pair_is_over(
    protocol: u8,
    flow: &Flow,
    other: Option<&Flow>,
    backend: &Backend,
    lifetimes: &Lifetimes,
    now: u32,
) -> bool {
    let flows = || [Some(flow), other].into_iter().flatten();
    if flows().all(|flow| is_over(lifetimes.of(protocol, flow.flags), flow.seen, now)) {
        return true;
    }
    let is_idle = flows().all(|flow| is_over(lifetimes.tcp_closing, flow.seen, now));
    is_idle && (has_ended(protocol, flow, other) || is_stale(flow, backend))
}

fn has_ended(protocol: u8, flow: &Flow, other: Option<&Flow>) -> bool {
    let is_closed = other.is_some_and(|other| flow.flags & other.flags & flow_flags::FIN != 0);
    let is_reset = (flow.flags | other.map_or(0, |other| other.flags)) & flow_flags::RST != 0;
    protocol == protocol::TCP && (is_closed || is_reset)
}

/// Whether the entry is of a service, and of a backend that has no id any more.
fn is_stale(flow: &Flow, backend: &Backend) -> bool {
    let (_, generation) = backend_parts(flow.backend);
    flow.backend != 0 && (backend.state == backend_state::FREE || backend.generation != generation)
}

/// The key of a connection's other direction; nothing when only its backend could tell and that is gone.
fn partner_key(key: &Tuple, flow: &Flow, backend: &Backend) -> Option<Tuple> {
    let has = |flag| flow.flags & flag != 0;
    let reversed = key.reversed();
    if has(flow_flags::REVERSE) {
        // Towards the client: what stands in the entry undoes what the forward entry does.
        let mut forward = reversed;
        if has(flow_flags::DESTINATION) {
            (forward.source, forward.source_port) = (flow.destination, flow.destination_port);
        }
        if has(flow_flags::SOURCE) {
            (forward.destination, forward.destination_port) = (flow.source, flow.source_port);
        }
        return Some(forward);
    }
    let mut reply = reversed;
    if has(flow_flags::SOURCE) {
        (reply.destination, reply.destination_port) = (flow.source, flow.source_port);
    }
    if flow.backend == 0 {
        return Some(reply);
    }
    if is_stale(flow, backend) {
        return None;
    }
    (reply.source, reply.source_port) = (backend.address, backend.port);
    Some(reply)
}

/// Whether two entries are the directions of one connection, and not of two that met under one tuple.
fn is_partner(flow: &Flow, other: &Flow) -> bool {
    (flow.flags ^ other.flags) & flow_flags::REVERSE != 0 && flow.backend == other.backend
}

fn error_of(partial: Partial) -> crate::dataplane::Error {
    partial.error
}

#[cfg(test)]
mod tests;
