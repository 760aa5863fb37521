//! The planner against the model: at no step does a client meet half a service.
#![allow(clippy::unwrap_used)]

mod adoption;
mod nodes;
mod random;
mod room;

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

use diolkos_abi::address::{protocol, v4_mapped};
use diolkos_abi::service::{FrontendKey, backend_state, frontend_parts, member_parts, row_parts, scope};

use super::*;
use crate::dataplane::Dataplane;
use crate::dataplane::execute::{Outcome, execute};
use crate::dataplane::model::Model;
use crate::desired::{DesiredNode, DesiredPort, Family, PortKey};

const SMALL: Capacities = Capacities {
    frontends: 32,
    services: 16,
    slots: 256,
    backends: 128,
    members: 64,
    nodes: 8,
    routes: 16,
    endpoints: 8,
    netnses: 8,
};

type Services = BTreeMap<ServiceName, DesiredService>;

fn service_name(n: u8) -> ServiceName {
    ServiceName { namespace: "default".into(), name: format!("s{n}").into() }
}

fn frontend(address: u8, port: u16) -> FrontendKey {
    FrontendKey::new(v4_mapped([10, 96, 0, address]), port.to_be_bytes(), protocol::TCP, scope::CLUSTER)
}

fn backend(n: u8) -> BackendKey {
    BackendKey { address: v4_mapped([10, 244, 0, n]), port: 8080, protocol: protocol::TCP }
}

/// A Service port with these backends; every third backend runs on node `n0`, every third on `n1`.
fn port(address: u8, port: u16, backends: impl IntoIterator<Item = u8>) -> (PortKey, DesiredPort) {
    let node = |n: u8| (n % 3 < 2).then(|| Arc::from(format!("n{}", n % 3)));
    let row = backends.into_iter().map(|n| (backend(n), node(n))).collect();
    let desired = DesiredPort { frontends: vec![frontend(address, port)], row, ..DesiredPort::default() };
    (port_key(port), desired)
}

fn port_key(port: u16) -> PortKey {
    PortKey { port, protocol: protocol::TCP, family: Family::V4 }
}

/// A Service with the addresses of its ports.
fn service(ports: impl IntoIterator<Item = (PortKey, DesiredPort)>) -> DesiredService {
    let mut service = DesiredService { ports: ports.into_iter().collect(), ..DesiredService::default() };
    service.addresses = service.ports.values().flat_map(|port| &port.frontends).map(|key| key.address).collect();
    service
}

fn node(n: u8) -> (Arc<str>, DesiredNode) {
    let node = Node { tunnel_v4: [192, 0, 2, n], mac: [2, 0, 0, 0, 0, n], mtu: 1450, ..Node::default() };
    let pod_cidrs = [format!("10.244.{n}.0/24"), format!("fd44:0:0:{n}::/64")].map(|cidr| cidr.parse().unwrap());
    let addresses = vec![v4_mapped([192, 0, 2, n]), own_v6(n)];
    (Arc::from(format!("n{n}")), DesiredNode { node, pod_cidrs: pod_cidrs.into(), addresses })
}

fn own_v6(n: u8) -> Address {
    let mut address = [0; 16];
    (address[0], address[1], address[15]) = (0xfd, 0x02, n);
    address
}

/// The nodes' own addresses, and the tunnel of the node that each leads to.
type Owned = BTreeMap<Address, [u8; 4]>;

fn owned(model: &mut Model) -> Owned {
    let found = model.adopt().unwrap();
    let nodes: BTreeMap<u32, Node> = found.nodes.iter().copied().collect();
    let own = found.routes.iter().filter(|(key, _)| key.zone == zone::NODES);
    own.map(|(key, route)| (key.prefix, nodes[&route.node].tunnel_v4)).collect()
}

fn wanted_owned(nodes: &BTreeMap<Arc<str>, DesiredNode>) -> Owned {
    nodes.values().flat_map(|node| node.addresses.iter().map(|address| (*address, node.node.tunnel_v4))).collect()
}

/// What clients reach, without ids: frontend to backends, each with the tunnel of its node.
type Reachable = BTreeMap<(Ipv4Addr, u16), BTreeSet<(BackendKey, [u8; 4])>>;

/// What a client meets at this moment. Fails when a frontend leads to anything but backends that are alive, when its
/// address has no marker, or when a backend of a service with affinity is no member.
fn reachable(model: &mut Model) -> Reachable {
    let found = model.adopt().unwrap();
    let nodes: BTreeMap<u32, Node> = found.nodes.iter().copied().collect();
    let members: BTreeMap<(u32, u32), u64> =
        found.members.iter().map(|(key, word)| ((key.service, key.backend), *word)).collect();
    let affinities: BTreeMap<u32, u32> = found.affinities.iter().copied().collect();
    let markers: BTreeSet<_> =
        found.frontends.iter().filter(|(key, word)| *word == marker_word(key)).map(|(key, _)| key.address).collect();
    let mut reachable = Reachable::new();
    for (key, word) in &found.frontends {
        if is_marker(key) {
            assert!(markers.contains(&key.address), "the marker {key:?} has a wrong word");
            continue;
        }
        assert!(markers.contains(&key.address), "{key:?} is served but its address has no marker");
        let (service, tag, flags) = frontend_parts(*word);
        assert_eq!((tag, flags), (key.tag(), 0), "{key:?} has the tag of another key");
        let word = model.row(service);
        assert_ne!(word, RETIRED_ROW, "{key:?} leads to the retired service {service}");
        let (base, count) = row_parts(word);
        let mut backends = BTreeSet::new();
        for slot in base..base + count {
            let id = model.slot(slot);
            let backend = model.backend(id);
            assert_eq!(
                backend.state,
                backend_state::ALIVE,
                "slot {slot} of {key:?} leads to backend {id}: {backend:?}"
            );
            if affinities.contains_key(&service) {
                let (generation, _) = member_parts(members.get(&(service, id)).copied().unwrap_or_default());
                assert_eq!(generation, backend.generation, "backend {id} of service {service} is no member");
            }
            let tunnel = nodes.get(&backend.node).map(|node| node.tunnel_v4).unwrap_or_default();
            let port = u16::from_be_bytes(backend.port);
            backends.insert((BackendKey { address: backend.address, port, protocol: backend.protocol }, tunnel));
        }
        assert_eq!(backends.len(), count as usize, "a row of {key:?} names a backend twice");
        let [.., a, b, c, d] = key.address;
        reachable.insert((Ipv4Addr::new(a, b, c, d), u16::from_be_bytes(key.port)), backends);
    }
    reachable
}

/// A planner and the model it fills, step by step.
struct World {
    model: Model,
    planner: Planner,
    now: Duration,
    /// What clients must be able to reach at every step: every frontend with backends before and after the plan.
    writes: usize,
}

impl World {
    fn new(capacities: Capacities) -> Self {
        Self::over(Model::new(capacities))
    }

    /// A new agent over an existing dataplane.
    fn over(mut model: Model) -> Self {
        let found = model.adopt().unwrap();
        let planner = Planner::adopt(model.capacities(), QUARANTINE, &found, Duration::ZERO);
        Self { model, planner, now: Duration::ZERO, writes: 0 }
    }

    /// The first plan of an agent: all that is desired, then the leftovers.
    fn start(&mut self, services: &Services, nodes: &BTreeMap<Arc<str>, DesiredNode>) {
        self.nodes(nodes);
        let all: Vec<_> = services.iter().map(|(name, service)| (name, Some(service))).collect();
        assert_eq!(self.change(&all), vec![]);
        let steps = self.planner.finish_adoption(self.now);
        self.run(&steps);
        self.tidy();
    }

    fn nodes(&mut self, nodes: &BTreeMap<Arc<str>, DesiredNode>) {
        let (steps, refused) = self.planner.plan_nodes(nodes, self.now);
        assert_eq!(refused, vec![]);
        self.run(&steps);
    }

    fn change(&mut self, changes: &[ServiceChange<'_>]) -> Vec<(ServiceName, NoRoom)> {
        let (steps, refused) = self.planner.plan(changes, self.now);
        self.run(&steps);
        refused
    }

    fn tidy(&mut self) {
        let steps = self.planner.housekeeping(self.now);
        self.run(&steps);
    }

    /// Carries out the steps one by one. After each, whoever could be reached before and after the whole plan can be
    /// reached, and nobody leads to a backend that is not alive.
    fn run(&mut self, steps: &[Step]) {
        assert!(steps.is_sorted_by_key(|step| step.operation.rank()), "the plan is out of order: {steps:?}");
        let before = reachable(&mut self.model);
        let mut after = self.model.clone();
        assert!(execute(&mut after, steps).iter().all(|outcome| matches!(outcome, Outcome::Done)));
        let after = reachable(&mut after);
        for step in steps {
            for outcome in execute(&mut self.model, std::slice::from_ref(step)) {
                assert!(matches!(outcome, Outcome::Done), "{step:?} gave {outcome:?}");
            }
            let now = reachable(&mut self.model);
            for (key, _) in
                before.iter().filter(|(key, row)| !row.is_empty() && after.get(key).is_some_and(|r| !r.is_empty()))
            {
                assert!(now.get(key).is_some_and(|row| !row.is_empty()), "after {step:?} nobody answers at {key:?}");
            }
        }
        self.writes += steps.len();
    }
}

/// The members and markers that shall be, beside what clients reach: nothing more may be left in the maps.
fn furniture(model: &mut Model) -> (usize, usize, BTreeSet<u32>) {
    let found = model.adopt().unwrap();
    let markers = found.frontends.iter().filter(|(key, _)| is_marker(key)).count();
    (found.members.len(), markers, found.affinities.iter().map(|(_, ticks)| *ticks).collect())
}

fn wanted_furniture(services: &Services) -> (usize, usize, BTreeSet<u32>) {
    let sticky = services.values().filter(|service| service.affinity != 0);
    let members = sticky.clone().flat_map(|service| service.ports.values()).map(|port| port.row.len()).sum();
    let markers = services.values().map(|service| service.addresses.len()).sum();
    let affinities = sticky.filter(|service| !service.ports.is_empty()).map(|service| service.affinity);
    (members, markers, affinities.collect())
}

/// What clients shall reach.
fn wanted(services: &Services, nodes: &BTreeMap<Arc<str>, DesiredNode>) -> Reachable {
    let tunnel = |name: &Option<Arc<str>>| {
        name.as_ref().and_then(|name| nodes.get(name)).map(|node| node.node.tunnel_v4).unwrap_or_default()
    };
    let mut reachable = Reachable::new();
    for port in services.values().flat_map(|service| service.ports.values()) {
        for key in &port.frontends {
            let [.., a, b, c, d] = key.address;
            let row = port.row.iter().map(|(key, node)| (*key, tunnel(node))).collect();
            reachable.insert((Ipv4Addr::new(a, b, c, d), u16::from_be_bytes(key.port)), row);
        }
    }
    reachable
}
