//! What the maps of the two nodes hold.

use std::net::IpAddr;

use diolkos_abi::address::{protocol, v4_mapped};
use diolkos_abi::config::{Config, Lifetimes, features};
use diolkos_abi::pod::{Endpoint, Node, Route, RouteKey, address_tag, zone};
use diolkos_abi::service::{
    Backend, FrontendKey, Service, backend_state, frontend_flags, frontend_word, row_word, scope,
};

use super::{
    BACKEND_PORT, EMPTY, FAR, HOST, NATIVE, OTHER_HOST, OUTSIDE, OWN, PORTS_FIRST, SERVED, Setup, TWO, TWO_BACKENDS,
    host_mac, node, overlay_mac, pod, pod_mac, v6,
};
use crate::scenarios::world::World;
use crate::world::ifindex;

const VNI: u32 = 1;
/// Number of the second node in the tables of the first, and the other way round.
const OTHER: u32 = 2;
/// Long enough for every test, in the unit of the entries.
const LIFETIMES: Lifetimes = Lifetimes { tcp: 600, tcp_opening: 60, tcp_closing: 10, datagram: 60 };

/// The pod CIDRs of a node.
fn prefixes(node: u8) -> [[u8; 16]; 2] {
    pod(node, 0).map(mapped)
}

fn mapped(address: IpAddr) -> [u8; 16] {
    match address {
        IpAddr::V4(v4) => v4_mapped(v4.octets()),
        IpAddr::V6(v6) => v6.octets(),
    }
}

/// The IPv4 address in a mapped one.
fn last(address: [u8; 16]) -> [u8; 4] {
    [address[12], address[13], address[14], address[15]]
}

/// The constants of a node, in its network namespace.
pub(super) fn config(number: u8, setup: Setup) -> Config {
    let [gateway_v4, gateway_v6] = if setup.direct { [[0; 16]; 2] } else { pod(number, 1).map(mapped) };
    let [pod_cidr_v4, pod_cidr_v6] = prefixes(number);
    let [node_v4, node_v6] = node(number).map(mapped);
    let mut half = [0xff; 16];
    half[8..].fill(0);
    let chosen =
        if setup.direct { features::DIRECT_ROUTING } else { 0 } | if setup.outside { features::MASQUERADE } else { 0 };
    Config {
        overlay_ifindex: if setup.direct { 0 } else { ifindex("overlay") },
        vni: VNI,
        overlay_mac: overlay_mac(number),
        gateway_v4: last(gateway_v4),
        gateway_v6,
        pod_cidr_v4: last(pod_cidr_v4),
        pod_cidr_v6,
        route_mask_v4: [255, 255, 255, 0],
        route_mask_v6: half,
        service_cidr_v4: [10, 96, 0, 0],
        service_mask_v4: [255, 255, 0, 0],
        service_cidr_v6: mapped(v6(0xfd96, 0)),
        service_mask_v6: half,
        node_v4: last(node_v4),
        node_v6,
        native_cidr_v4: last(mapped(NATIVE[0])),
        native_mask_v4: [255; 4],
        native_cidr_v6: mapped(NATIVE[1]),
        native_mask_v6: [255; 16],
        ports_first: PORTS_FIRST,
        ports_count: u16::MAX - PORTS_FIRST + 1,
        cores: aya::util::nr_cpus().unwrap().try_into().unwrap(),
        lifetimes: LIFETIMES,
        features: features::REDIRECT_PEER | chosen | if setup.no_retval { 0 } else { features::SET_RETVAL },
        ..Config::EMPTY
    }
}

/// The tables of a node, in its network namespace.
pub(super) fn world(number: u8, setup: Setup) -> World {
    let other = 3 - number;
    let [prefix_v4, prefix_v6] = prefixes(other);
    let [node_v4, node_v6] = node(other).map(mapped);
    let mut world = World::default();
    for address in pod(number, 10).map(mapped) {
        let endpoint = Endpoint {
            tag: address_tag(&address),
            ifindex: ifindex("pod"),
            mac: pod_mac(number),
            host_mac: host_mac(number),
            ..Endpoint::default()
        };
        world.endpoints.push((address, endpoint));
    }
    let entry = Node {
        tunnel_v4: last(node_v4),
        tunnel_v6: node_v6,
        mac: overlay_mac(other),
        prefix_v4: last(prefix_v4),
        prefix_v6,
        ifindex: if setup.direct { ifindex("wire") } else { 0 },
        next_hop_v4: last(node_v4),
        next_hop_v6: node_v6,
        ..Node::default()
    };
    world.nodes.push((OTHER, entry));
    let pods = prefixes(other).map(|prefix| RouteKey { prefix, zone: zone::PODS });
    let own = [node_v4, node_v6].map(|prefix| RouteKey { prefix, zone: zone::NODES });
    for key in [pods, own].concat() {
        let route = Route { tag: address_tag(&key.prefix), node: OTHER, ..Route::default() };
        world.routes.push((key, route));
    }
    add_services(&mut world, number, setup);
    world
}

/// The services of a family: the port, the backend, and the node it lives on.
fn services(family: usize) -> [(u16, Option<IpAddr>, u8); 7] {
    [
        (EMPTY, None, 0),
        (SERVED, Some(pod(2, 10)[family]), 2),
        (OWN, Some(pod(1, 10)[family]), 1),
        (HOST, Some(node(1)[family]), 1),
        (OTHER_HOST, Some(node(2)[family]), 2),
        (FAR, Some(OUTSIDE[family]), 0),
        (TWO, Some(pod(2, 10)[family]), 2),
    ]
}

/// Each service of each family, over TCP and over UDP.
fn add_services(world: &mut World, number: u8, setup: Setup) {
    let mut id = 0;
    for family in [0, 1] {
        let vip = mapped(setup.vips()[family]);
        let marker = FrontendKey::new(vip, [0; 2], 0, scope::CLUSTER);
        world.frontends.push((marker, frontend_word(0, marker.tag(), frontend_flags::ADDRESS)));
        for (protocol, (port, backend, lives_on)) in
            [protocol::TCP, protocol::UDP].into_iter().flat_map(|p| services(family).map(|service| (p, service)))
        {
            id += 1;
            let key = FrontendKey::new(vip, port.to_be_bytes(), protocol, scope::CLUSTER);
            world.frontends.push((key, frontend_word(id, key.tag(), 0)));
            let Some(address) = backend else { continue };
            let node = if lives_on == 3 - number { OTHER } else { 0 };
            let ports = if port == TWO { &TWO_BACKENDS[..] } else { &[BACKEND_PORT] };
            // Far enough apart for the rows.
            let base = id * 2;
            world.services.push((id, Service { row: row_word(base, ports.len() as u32), ..Service::default() }));
            for (slot, port) in (base..).zip(ports) {
                world.slots.push((slot, slot));
                world.backends.push((slot, backend_at(address, *port, node, protocol)));
            }
        }
    }
}

fn backend_at(address: IpAddr, port: u16, node: u32, protocol: u8) -> Backend {
    Backend {
        address: mapped(address),
        port: port.to_be_bytes(),
        state: backend_state::ALIVE,
        generation: 1,
        node,
        protocol,
        ..Backend::default()
    }
}
