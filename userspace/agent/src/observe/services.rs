//! `diolkos service list`: what the maps say about services.

use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use diolkos_abi::pod::Node;
use diolkos_abi::service::{
    Backend, FrontendKey, SLOTS_PER_LINE, Service, SlotLine, backend_state, frontend_flags, frontend_parts, row_parts,
};
use serde::Serialize;

use super::text::{address, columns, duration, end, protocol_name};
use super::{ObserveError, Pins, http};
use crate::clock::Clock;
use crate::dataplane::map;
use crate::health::{self, ServiceId};

/// Backends shown of one frontend, unless all are asked for.
const SHOWN: usize = 3;

/// The service maps at one moment.
#[derive(Clone, Debug, Default)]
pub struct ServiceMaps {
    pub frontends: Vec<(FrontendKey, u64)>,
    pub services: HashMap<u32, Service>,
    pub slots: HashMap<u32, SlotLine>,
    pub backends: HashMap<u32, Backend>,
    pub nodes: HashMap<u32, Node>,
}

/// What clients dial, and who answers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Frontend {
    /// `namespace/name`; nothing while the agent does not say.
    pub service: Option<String>,
    pub address: IpAddr,
    pub port: u16,
    pub protocol: String,
    pub service_id: u32,
    /// How long a client keeps its backend; nothing without session affinity.
    pub affinity_seconds: Option<u64>,
    /// In the order of their addresses.
    pub backends: Vec<RowBackend>,
}

/// A backend in a row.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct RowBackend {
    pub address: IpAddr,
    pub port: u16,
    /// `alive`, `dead` or `free`; in a row, all but the first pass within moments.
    pub state: &'static str,
    /// Its share: how many of the row's slots name it.
    pub slots: usize,
    pub id: u32,
    pub generation: u32,
    /// The node's tunnel address; nothing of this node's own and of unknown ones.
    pub node: Option<IpAddr>,
}

impl ServiceMaps {
    pub fn read(pins: &Pins) -> Result<Self, ObserveError> {
        Ok(Self {
            frontends: pins.dump(map::FRONTEND)?,
            services: pins
                .dump(map::SERVICE)?
                .into_iter()
                .filter(|(_, service)| *service != Service::default())
                .collect(),
            slots: pins.dump(map::SLOT)?.into_iter().filter(|(_, line)| *line != SlotLine::default()).collect(),
            backends: pins
                .dump(map::BACKEND)?
                .into_iter()
                .filter(|(_, backend)| *backend != Backend::default())
                .collect(),
            nodes: pins.dump(map::NODE)?.into_iter().filter(|(_, node)| *node != Node::default()).collect(),
        })
    }

    /// All frontends, sorted by name and address.
    pub fn list(&self, names: &[ServiceId], clock: Clock) -> Vec<Frontend> {
        let names: HashMap<u32, &ServiceId> = names.iter().map(|name| (name.id, name)).collect();
        let services = self.frontends.iter().filter(|(_, word)| frontend_parts(*word).2 & frontend_flags::ADDRESS == 0);
        let mut list: Vec<Frontend> = services.map(|(key, word)| self.frontend(key, *word, &names, clock)).collect();
        list.sort_by(|a, b| {
            let key = |f: &Frontend| (f.service.is_none(), f.service.clone(), f.address, f.port, f.protocol.clone());
            key(a).cmp(&key(b))
        });
        list
    }

    fn frontend(&self, key: &FrontendKey, word: u64, names: &HashMap<u32, &ServiceId>, clock: Clock) -> Frontend {
        let (id, _, _) = frontend_parts(word);
        let service = self.services.get(&id).copied().unwrap_or_default();
        Frontend {
            service: names.get(&id).map(|named| format!("{}/{}", named.namespace, named.name)),
            address: address(&key.address),
            port: u16::from_be_bytes(key.port),
            protocol: protocol_name(key.protocol),
            service_id: id,
            affinity_seconds: (service.affinity != 0).then(|| clock.duration(service.affinity).as_secs()),
            backends: self.row(service.row),
        }
    }

    /// The backends of a row.
    pub(crate) fn row(&self, word: u64) -> Vec<RowBackend> {
        let (base, count) = row_parts(word);
        let mut slots: BTreeMap<u32, usize> = BTreeMap::new();
        for slot in (0..count).map(|offset| base.wrapping_add(offset)) {
            if let Some(line) = self.slots.get(&(slot / SLOTS_PER_LINE)) {
                *slots.entry(line.0[(slot % SLOTS_PER_LINE) as usize]).or_default() += 1;
            }
        }
        let mut row: Vec<RowBackend> = slots.into_iter().map(|(id, slots)| self.backend(id, slots)).collect();
        row.sort_by_key(|backend| (backend.address, backend.port, backend.id));
        row
    }

    fn backend(&self, id: u32, slots: usize) -> RowBackend {
        let backend = self.backends.get(&id).copied().unwrap_or_default();
        RowBackend {
            address: address(&backend.address),
            port: u16::from_be_bytes(backend.port),
            state: state_name(backend.state),
            slots,
            id,
            generation: backend.generation,
            node: self.nodes.get(&backend.node).and_then(tunnel),
        }
    }
}

pub(crate) fn state_name(state: u8) -> &'static str {
    match state {
        backend_state::FREE => "free",
        backend_state::ALIVE => "alive",
        backend_state::DEAD => "dead",
        _ => "unknown",
    }
}

/// A node's tunnel address.
pub(crate) fn tunnel(node: &Node) -> Option<IpAddr> {
    match (node.tunnel_v4, node.tunnel_v6) {
        ([0, 0, 0, 0], v6) if v6 == [0; 16] => None,
        ([0, 0, 0, 0], v6) => Some(address(&v6)),
        (v4, _) => Some(v4.into()),
    }
}

/// The names of service ids; why there are none when the agent does not say.
pub fn names(agent: SocketAddr) -> Result<Vec<ServiceId>, String> {
    match http::get(agent, health::SERVICES)? {
        (200, body) => serde_json::from_str(&body).map_err(|error| format!("{agent} answers what is no list: {error}")),
        (status, body) => Err(format!("{agent} answers {status}: {}", body.trim())),
    }
}

/// The list as a table; `all` shows every backend, on a line of its own.
pub fn render(list: &[Frontend], all: bool) -> String {
    if list.is_empty() {
        return "no services\n".into();
    }
    let mut rows = vec![["SERVICE", "FRONTEND", "AFFINITY", "BACKENDS"].map(String::from).to_vec()];
    for frontend in list {
        let affinity = frontend.affinity_seconds.map_or("-".into(), |s| duration(Duration::from_secs(s)));
        let service = frontend.service.clone().unwrap_or_else(|| format!("#{}", frontend.service_id));
        let dialled = format!("{}/{}", end(frontend.address, frontend.port), frontend.protocol);
        let backends = if all { frontend.backends.len().to_string() } else { abbreviated(&frontend.backends) };
        rows.push(vec![service, dialled, affinity, backends]);
        if all {
            rows.extend(frontend.backends.iter().map(|b| vec![String::new(), String::new(), String::new(), whole(b)]));
        }
    }
    columns(&rows)
}

fn abbreviated(backends: &[RowBackend]) -> String {
    let mut text = backends.len().to_string();
    for (index, backend) in backends.iter().take(SHOWN).enumerate() {
        text.push_str(if index == 0 { ": " } else { " " });
        text.push_str(&end(backend.address, backend.port));
        if backend.state != "alive" {
            text.push_str(&format!("({})", backend.state));
        }
    }
    match backends.len().saturating_sub(SHOWN) {
        0 => text,
        more => format!("{text} +{more} more"),
    }
}

fn whole(backend: &RowBackend) -> String {
    let RowBackend { slots, id, generation, state, .. } = backend;
    let node = backend.node.map_or(String::new(), |node| format!(" node {node}"));
    let share = if *slots == 1 { String::new() } else { format!(" {slots} slots") };
    format!("{} {state} id {id} generation {generation}{node}{share}", end(backend.address, backend.port))
}

#[cfg(test)]
mod tests;
