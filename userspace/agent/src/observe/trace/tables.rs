//! The pinned maps as the logic sees them: each lookup is said, and nothing is ever written.

use std::collections::HashMap as Names;
use std::net::IpAddr;
use std::time::Duration;

use aya::Pod;
use aya::maps::{Array, HashMap, MapData, MapError};
use diolkos_abi::config::Lifetimes;
use diolkos_abi::conntrack::{
    ConnectedUdp, Flow, Fragment, FragmentKey, Peer, PeerKey, SocketFlow, Tuple, backend_parts, flow_flags,
};
use diolkos_abi::pod::{Endpoint, Netns, Node, Route, RouteKey, Source, netns_flags, zone};
use diolkos_abi::service::{
    Affinity, AffinityKey, Backend, FrontendKey, MemberKey, SLOTS_PER_LINE, Service, SlotLine, frontend_flags,
    frontend_parts, row_parts,
};
use diolkos_datapath::{Address, Insert, InsertError, Scratch, Tables, expired};

use super::packet::device;
use crate::clock::Clock;
use crate::dataplane::map;
use crate::health::ServiceId;
use crate::observe::pins::unreadable;
use crate::observe::services::{state_name, tunnel};
use crate::observe::text::{address, duration, end, protocol_name};
use crate::observe::{ObserveError, Pins};

/// The maps of a node, for one question.
pub(super) struct Live {
    frontend: HashMap<MapData, FrontendKey, u64>,
    service: Array<MapData, Service>,
    slot: Array<MapData, SlotLine>,
    backend: Array<MapData, Backend>,
    member: HashMap<MapData, MemberKey, u64>,
    affinity: HashMap<MapData, AffinityKey, Affinity>,
    conntrack: HashMap<MapData, Tuple, Flow>,
    endpoint: HashMap<MapData, Address, Endpoint>,
    node: Array<MapData, Node>,
    route: HashMap<MapData, RouteKey, Route>,
    netns: HashMap<MapData, u64, Netns>,
    names: Names<u32, String>,
    clock: Clock,
    /// The network namespace of the socket at hand; 0 for none.
    pub(super) cookie: u64,
    /// What was looked up, in words.
    pub(super) said: Vec<String>,
    /// The first map that could not be read.
    pub(super) failed: Option<ObserveError>,
}

impl Live {
    pub(super) fn open(pins: &Pins, names: &[ServiceId]) -> Result<Self, ObserveError> {
        let name = |named: &ServiceId| (named.id, format!("{}/{}", named.namespace, named.name));
        Ok(Self {
            frontend: pins.typed(map::FRONTEND)?,
            service: pins.typed(map::SERVICE)?,
            slot: pins.typed(map::SLOT)?,
            backend: pins.typed(map::BACKEND)?,
            member: pins.typed(map::MEMBER)?,
            affinity: pins.typed(map::AFFINITY)?,
            conntrack: pins.typed(map::CONNTRACK)?,
            endpoint: pins.typed(map::ENDPOINT)?,
            node: pins.typed(map::NODE)?,
            route: pins.typed(map::ROUTE)?,
            netns: pins.typed(map::NETNS)?,
            names: names.iter().map(name).collect(),
            clock: Clock::calibrate(),
            cookie: 0,
            said: Vec::new(),
            failed: None,
        })
    }

    fn say(&mut self, text: String) {
        // The logic looks once more where an element may have changed under it.
        if self.said.last() != Some(&text) {
            self.said.push(text);
        }
    }

    fn found<V>(&mut self, map: &'static str, result: Result<V, MapError>) -> Option<V> {
        match result {
            Ok(value) => Some(value),
            Err(MapError::KeyNotFound | MapError::ElementNotFound | MapError::OutOfBounds { .. }) => None,
            Err(error) => {
                self.failed.get_or_insert(unreadable(map, &error));
                None
            }
        }
    }

    fn service_name(&self, id: u32) -> String {
        self.names.get(&id).map_or(format!("service {id}"), |name| format!("service {id} ({name})"))
    }

    fn element<V: Pod>(&mut self, map: &'static str, pick: fn(&Self) -> &Array<MapData, V>, index: u32) -> Option<V> {
        let result = pick(self).get(&index, 0);
        self.found(map, result)
    }
}

/// A port as it stands in a packet.
fn port(bytes: [u8; 2]) -> u16 {
    u16::from_be_bytes(bytes)
}

fn tuple(key: &Tuple) -> String {
    let (from, to) =
        (end(address(&key.source), port(key.source_port)), end(address(&key.destination), port(key.destination_port)));
    format!("{} {from} > {to}", protocol_name(key.protocol))
}

impl Tables for Live {
    fn frontend(&mut self, key: &FrontendKey) -> Option<u64> {
        let result = self.frontend.get(key, 0);
        let word = self.found(map::FRONTEND, result);
        let dialled = address(&key.address);
        let is_marker = key.protocol == 0 && key.port == [0; 2];
        let text = match word {
            Some(word) if frontend_parts(word).2 & frontend_flags::ADDRESS != 0 => {
                format!("{dialled} is a service's address, but not at this port")
            }
            None if is_marker => format!("{dialled} is no service's address"),
            Some(word) => format!(
                "frontend {}/{} is {}",
                end(dialled, port(key.port)),
                protocol_name(key.protocol),
                self.service_name(frontend_parts(word).0)
            ),
            None => format!("no frontend {}/{}", end(dialled, port(key.port)), protocol_name(key.protocol)),
        };
        self.say(text);
        word
    }

    fn affinity_lifetime(&mut self, service: u32) -> u32 {
        let lifetime = self.element(map::SERVICE, |live| &live.service, service).map_or(0, |service| service.affinity);
        if lifetime != 0 {
            self.say(format!("its clients keep their backend for {}", duration(self.clock.duration(lifetime))));
        }
        lifetime
    }

    fn affinity(&mut self, key: &AffinityKey) -> Option<Affinity> {
        let result = self.affinity.get(key, 0);
        let entry = self.found(map::AFFINITY, result);
        let client = address(&key.client);
        self.say(match entry {
            Some(entry) => format!("client {client} used backend {} last", backend_parts(entry.backend).0),
            None => format!("client {client} is new to it"),
        });
        entry
    }

    fn remember_affinity(&mut self, _key: &AffinityKey, _affinity: &Affinity) {}

    fn member(&mut self, key: &MemberKey) -> Option<u64> {
        let result = self.member.get(key, 0);
        let word = self.found(map::MEMBER, result);
        self.say(format!("backend {} is {}behind it", key.backend, if word.is_some() { "" } else { "no longer " }));
        word
    }

    fn row(&mut self, service: u32) -> Option<u64> {
        let row = self.element(map::SERVICE, |live| &live.service, service)?.row;
        let (base, count) = row_parts(row);
        let name = self.service_name(service);
        self.say(match count {
            0 => format!("{name} has no endpoints"),
            _ => format!("{name} has a row of {count} from slot {base} on"),
        });
        Some(row)
    }

    fn slot(&mut self, index: u32) -> Option<u32> {
        let line = self.element(map::SLOT, |live| &live.slot, index / SLOTS_PER_LINE)?;
        let id = line.0[(index % SLOTS_PER_LINE) as usize];
        self.say(format!("slot {index} names backend {id}"));
        Some(id)
    }

    fn backend(&mut self, id: u32) -> Option<Backend> {
        let backend = self.element(map::BACKEND, |live| &live.backend, id)?;
        let place = end(address(&backend.address), port(backend.port));
        let node = if backend.node == 0 { String::new() } else { format!(", on node {}", backend.node) };
        self.say(format!(
            "backend {id} is {place}, {}, generation {}{node}",
            state_name(backend.state),
            backend.generation
        ));
        Some(backend)
    }

    fn flow(&mut self, key: &Tuple, tag: u32, _flags: u16, lifetimes: &Lifetimes) -> Option<Flow> {
        let result = self.conntrack.get(key, 0);
        let entry = self.found(map::CONNTRACK, result).filter(|flow| flow.tag == tag);
        let now = self.now();
        let (text, live) = match entry {
            None => (format!("conntrack does not know {}", tuple(key)), None),
            Some(flow) if expired(lifetimes, key.protocol, flow.flags, flow.seen, now) => {
                (format!("conntrack knows {}, but it has expired", tuple(key)), None)
            }
            Some(flow) => {
                let way = if flow.flags & flow_flags::REVERSE != 0 { "replies of" } else { "requests to" };
                let kind = if flow.service == 0 { "masquerade".into() } else { self.service_name(flow.service) };
                (
                    format!("conntrack knows {}: {way} {kind}, backend {}", tuple(key), backend_parts(flow.backend).0),
                    Some(flow),
                )
            }
        };
        self.say(text);
        live
    }

    /// The lookup tells more than what spares it.
    fn may_have_flow(&mut self, _tag: u32, _lifetimes: &Lifetimes) -> bool {
        true
    }

    type Scratch = Box<Scratch>;

    fn scratch(&mut self) -> Option<Box<Scratch>> {
        Some(Box::new(Scratch::soiled()))
    }

    /// What the kernel would say.
    fn insert_flow(&mut self, key: &Tuple, _flow: &Flow, insert: Insert) -> Result<(), InsertError> {
        let is_there = self.conntrack.get(key, 0).is_ok();
        if is_there && insert == Insert::IfAbsent {
            self.say(format!("conntrack holds {} already", tuple(key)));
            return Err(InsertError::Exists);
        }
        self.say(format!("conntrack would be given {}", tuple(key)));
        Ok(())
    }

    fn remove_flow(&mut self, key: &Tuple) {
        self.say(format!("conntrack would forget {}", tuple(key)));
    }

    fn now(&mut self) -> u32 {
        self.clock.now()
    }

    fn fragment(&mut self, _key: &FragmentKey) -> Option<Fragment> {
        None
    }

    fn remember_fragment(&mut self, _key: &FragmentKey, _fragment: &Fragment) {}

    fn endpoint(&mut self, key: &Address, tag: u32) -> Option<Endpoint> {
        let result = self.endpoint.get(key, 0);
        let pod = self.found(map::ENDPOINT, result).filter(|pod| pod.tag == tag);
        self.say(match pod {
            Some(pod) => format!("{} is a pod of this node, behind {}", address(key), device(pod.ifindex)),
            None => format!("{} is no pod of this node", address(key)),
        });
        pod
    }

    /// The programs' own memory of devices is a shortcut to [`Tables::endpoint`].
    fn source(&mut self, _ifindex: u32) -> Option<Source> {
        Some(Source::default())
    }

    fn remember_source(&mut self, _source: &Source) {}

    fn route(&mut self, key: &RouteKey) -> Option<Route> {
        let result = self.route.get(key, 0);
        let route = self.found(map::ROUTE, result);
        let prefix = address(&key.prefix);
        let what = if key.zone == zone::NODES { "own address" } else { "pod CIDR" };
        self.say(match route {
            Some(route) => format!("{what} {prefix} is node {}'s", route.node),
            None => format!("{prefix} is no other node's {what}"),
        });
        route
    }

    /// The programs' own memory of routes is a shortcut to [`Tables::route`].
    fn hint(&mut self, _index: u32) -> u32 {
        0
    }

    fn remember_hint(&mut self, _index: u32, _node: u32) {}

    fn node(&mut self, id: u32) -> Option<Node> {
        let node = self.element(map::NODE, |live| &live.node, id)?;
        let place = tunnel(&node).map_or("without a tunnel address".into(), |ip: IpAddr| format!("at {ip}"));
        self.say(format!("node {id} is {place}"));
        Some(node)
    }

    fn netns_cookie(&mut self) -> u64 {
        self.cookie
    }

    fn netns(&mut self, cookie: u64) -> Option<Netns> {
        let result = self.netns.get(&cookie, 0);
        let netns = self.found(map::NETNS, result)?;
        if netns.flags & netns_flags::OPT_OUT != 0 {
            self.say("its sockets are left alone: the packet path translates".into());
        }
        Some(netns)
    }

    fn socket(&mut self) -> Option<SocketFlow> {
        None
    }

    fn remember_socket(&mut self, _flow: &SocketFlow) -> Option<()> {
        Some(())
    }

    fn forget_socket(&mut self) {}

    fn socket_cookie(&mut self) -> u64 {
        0
    }

    fn peer(&mut self, _key: &PeerKey) -> Option<Peer> {
        None
    }

    fn remember_peer(&mut self, _key: &PeerKey, _peer: &Peer) -> Option<()> {
        Some(())
    }

    fn remember_udp(&mut self, _udp: &ConnectedUdp) {}

    fn forget_udp(&mut self, _cookie: u64) {}

    fn answers(&mut self) -> bool {
        true
    }

    /// The programs draw a number here; this is one of those they may draw.
    fn random(&mut self) -> u32 {
        self.say("a slot is drawn at random".into());
        let now = nix::time::clock_gettime(nix::time::ClockId::CLOCK_MONOTONIC).map(Duration::from);
        now.map_or(0, |now| now.subsec_nanos()).wrapping_mul(0x9e37_79b1)
    }
}
