//! The tables of the scenarios: one small cluster, seen from node 1.

use diolkos_abi::address::protocol;
use diolkos_abi::config::{Config, features};
use diolkos_abi::conntrack::{Flow, Fragment, FragmentKey, Tuple, backend_word, direction, flow_flags};
use diolkos_abi::pod::{Endpoint, Netns, Node, Route, RouteKey, address_tag, zone};
use diolkos_abi::service::{
    Backend, FrontendKey, MemberKey, Service, backend_state, frontend_flags, frontend_word, row_word, scope,
};

use super::packets::{End, HOST_MAC, POD_MAC, address, is_v6, over_ipv6};

pub const CLIENT: [u8; 4] = [10, 244, 1, 10];
pub const CLIENT_IFINDEX: u32 = 110;
pub const SERVER: [u8; 4] = [10, 244, 1, 20];
pub const SERVER_IFINDEX: u32 = 120;
pub const SERVER_MAC: [u8; 6] = [0x02, 0xaa, 0, 0, 0, 0x20];
pub const SERVER_HOST_MAC: [u8; 6] = [0x02, 0xbb, 0, 0, 0, 0x20];
pub const GATEWAY: [u8; 4] = [10, 244, 1, 1];
/// A pod on node 2.
pub const REMOTE: [u8; 4] = [10, 244, 2, 20];
/// An address in the pod CIDR of a node that has a route and no entry in the node table.
pub const LOST: [u8; 4] = [10, 244, 3, 20];
pub const HOST: [u8; 4] = [192, 168, 0, 1];
pub const OUTSIDE: [u8; 4] = [203, 0, 113, 9];

pub const NODE_2: u32 = 2;
pub const NODE_2_TUNNEL: [u8; 4] = [192, 168, 0, 2];
pub const NODE_2_MAC: [u8; 6] = [0x0a, 0xd1, 192, 168, 0, 2];
pub const OVERLAY_MAC: [u8; 6] = [0x0a, 0xd1, 192, 168, 0, 1];
pub const OVERLAY_IFINDEX: u32 = 9;
pub const VNI: u32 = 1;

pub const VIP: End = ([10, 96, 0, 10], 80);
pub const SERVICE: u32 = 5;
/// First slot of the service's row; not a multiple of a line, so that rows cross lines.
pub const BASE: u32 = 30;

/// Backend ids.
pub const LOCAL: u32 = 11;
pub const FAR: u32 = 12;
pub const HOST_NETWORK: u32 = 13;
pub const LOCAL_END: End = (SERVER, 8080);
pub const FAR_END: End = (REMOTE, 8080);
pub const HOST_END: End = (HOST, 9090);
pub const GENERATION: u32 = 7;

/// The time of the model's clock, and the mark of "stamped just now" in an expectation.
pub const NOW: u32 = 0x00c0_ffee;
/// When the flows of the scenarios were last seen.
pub const BEFORE: u32 = 3;

/// When a flow that was set aside pretends to have been seen last: its next datagram comes after a long time.
pub const ASIDE: u32 = NOW - 2;

/// The content of the maps. A list may not name a key twice.
#[derive(Clone, Debug, Default)]
pub struct World {
    pub frontends: Vec<(FrontendKey, u64)>,
    pub services: Vec<(u32, Service)>,
    /// Slot index and backend id.
    pub slots: Vec<(u32, u32)>,
    pub backends: Vec<(u32, Backend)>,
    pub members: Vec<(MemberKey, u64)>,
    pub flows: Vec<(Tuple, Flow)>,
    pub fragments: Vec<(FragmentKey, Fragment)>,
    pub endpoints: Vec<([u8; 16], Endpoint)>,
    pub nodes: Vec<(u32, Node)>,
    pub routes: Vec<(RouteKey, Route)>,
    pub netns: Option<Netns>,
}

impl World {
    /// Two pods, another node, a service without endpoints at [`VIP`], and three backends nobody uses yet.
    pub fn new() -> Self {
        let mut world = Self::default();
        world.pod(CLIENT, CLIENT_IFINDEX, POD_MAC, HOST_MAC);
        world.pod(SERVER, SERVER_IFINDEX, SERVER_MAC, SERVER_HOST_MAC);
        world.nodes.push((
            NODE_2,
            Node {
                tunnel_v4: NODE_2_TUNNEL,
                mac: NODE_2_MAC,
                mtu: 1450,
                tunnel_v6: if is_v6() { address(NODE_2_TUNNEL) } else { [0; 16] },
                prefix_v4: [10, 244, 2, 0],
                prefix_v6: over_ipv6(|| address([10, 244, 2, 0])),
                ..Node::default()
            },
        ));
        world.route([10, 244, 2, 0], NODE_2);
        world.route([10, 244, 3, 0], 3);
        world.own_address(address(NODE_2_TUNNEL), NODE_2);
        world.frontend(VIP, SERVICE);
        world.backend(LOCAL, LOCAL_END, 0);
        world.backend(FAR, FAR_END, NODE_2);
        world.backend(HOST_NETWORK, HOST_END, 0);
        world
    }

    /// [`World::new`] with these backends behind the service.
    pub fn serving(backends: &[u32]) -> Self {
        let mut world = Self::new();
        world.row(BASE, backends);
        world
    }

    pub fn frontend(&mut self, (ip, port): End, service: u32) {
        let key = FrontendKey::new(address(ip), port.to_be_bytes(), protocol::TCP, scope::CLUSTER);
        self.frontends.push((key, frontend_word(service, key.tag(), 0)));
        let marker = FrontendKey::new(address(ip), [0; 2], 0, scope::CLUSTER);
        if !self.frontends.iter().any(|(key, _)| *key == marker) {
            self.frontends.push((marker, frontend_word(0, marker.tag(), frontend_flags::ADDRESS)));
        }
    }

    /// [`SERVICE`] is reached by datagrams too.
    pub fn also_udp(&mut self) {
        let key = FrontendKey::new(address(VIP.0), VIP.1.to_be_bytes(), protocol::UDP, scope::CLUSTER);
        self.frontends.push((key, frontend_word(SERVICE, key.tag(), 0)));
    }

    /// Gives [`SERVICE`] a row.
    pub fn row(&mut self, base: u32, backends: &[u32]) {
        let row = row_word(base, backends.len() as u32);
        self.services.retain(|(id, _)| *id != SERVICE);
        self.services.push((SERVICE, Service { row, ..Service::default() }));
        self.slots.extend(backends.iter().enumerate().map(|(i, id)| (base + i as u32, *id)));
    }

    fn backend(&mut self, id: u32, (ip, port): End, node: u32) {
        let backend = Backend {
            address: address(ip),
            port: port.to_be_bytes(),
            state: backend_state::ALIVE,
            generation: GENERATION,
            node,
            ..Backend::default()
        };
        self.backends.push((id, backend));
    }

    /// Changes one backend.
    pub fn with_backend(mut self, id: u32, change: impl FnOnce(&mut Backend)) -> Self {
        change(&mut self.backends.iter_mut().find(|(known, _)| *known == id).unwrap().1);
        self
    }

    pub fn with_flows(mut self, flows: &[(Tuple, Flow)]) -> Self {
        self.flows = flows.to_vec();
        self
    }

    fn pod(&mut self, v4: [u8; 4], ifindex: u32, mac: [u8; 6], host_mac: [u8; 6]) {
        let tag = address_tag(&address(v4));
        self.endpoints.push((address(v4), Endpoint { tag, ifindex, mac, host_mac, ..Endpoint::default() }));
    }

    fn route(&mut self, prefix: [u8; 4], node: u32) {
        let prefix = address(prefix);
        let key = RouteKey { prefix, zone: zone::PODS };
        self.routes.push((key, Route { tag: address_tag(&prefix), node, ..Route::default() }));
    }

    /// A node has an address itself.
    pub fn own_address(&mut self, address: [u8; 16], node: u32) {
        let key = RouteKey { prefix: address, zone: zone::NODES };
        self.routes.push((key, Route { tag: address_tag(&address), node, ..Route::default() }));
    }

    /// Nothing is known of nodes but their pod CIDRs.
    pub fn without_own_addresses(mut self) -> Self {
        self.routes.retain(|(key, _)| key.zone == zone::PODS);
        self
    }
}

/// Node 1 of the cluster, on a kernel that has everything.
pub fn config() -> Config {
    Config {
        overlay_ifindex: OVERLAY_IFINDEX,
        vni: VNI,
        overlay_mac: OVERLAY_MAC,
        gateway_v4: GATEWAY,
        route_mask_v4: [255, 255, 255, 0],
        pod_cidr_v4: [10, 244, 1, 0],
        service_cidr_v4: [10, 96, 0, 0],
        service_mask_v4: [255, 255, 0, 0],
        gateway_v6: over_ipv6(|| address(GATEWAY)),
        route_mask_v6: [255, 255, 255, 255, 255, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
        pod_cidr_v6: over_ipv6(|| address([10, 244, 1, 0])),
        service_cidr_v6: over_ipv6(|| address([10, 96, 0, 0])),
        service_mask_v6: [255, 255, 255, 255, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
        features: features::SET_RETVAL | features::REDIRECT_PEER,
        ..Config::EMPTY
    }
}

pub fn tuple(source: End, destination: End) -> Tuple {
    Tuple {
        source: address(source.0),
        destination: address(destination.0),
        source_port: source.1.to_be_bytes(),
        destination_port: destination.1.to_be_bytes(),
        protocol: protocol::TCP,
        direction: direction::WIRE,
        zone: 0,
    }
}

/// Both entries of a connection from `client` to [`VIP`] that uses `backend` at `end`, last seen at `seen`.
pub fn connection(client: End, backend: u32, end: End, seen: u32) -> [(Tuple, Flow); 2] {
    [forward(client, backend, seen), reply(client, VIP, backend, end, seen)]
}

pub fn forward(client: End, backend: u32, seen: u32) -> (Tuple, Flow) {
    let key = tuple(client, VIP);
    (key, Flow { flags: 0, ..entry(&key, backend, seen) })
}

/// The reply entry of a connection to `dialled`.
pub fn reply(client: End, dialled: End, backend: u32, end: End, seen: u32) -> (Tuple, Flow) {
    let key = tuple(end, client);
    let flow = Flow {
        flags: flow_flags::REVERSE | flow_flags::SOURCE,
        source_port: dialled.1.to_be_bytes(),
        source: address(dialled.0),
        ..entry(&key, backend, seen)
    };
    (key, flow)
}

/// A flow as a packet that does not open the connection leaves it.
pub fn confirmed((key, flow): (Tuple, Flow)) -> (Tuple, Flow) {
    (key, Flow { flags: flow.flags | flow_flags::CONFIRMED, ..flow })
}

fn entry(key: &Tuple, backend: u32, seen: u32) -> Flow {
    let backend = backend_word(backend, GENERATION);
    Flow { backend, tag: key.hash(), service: SERVICE, seen, ..Flow::default() }
}

/// Both entries of a flow, as seen outside, that leaves under the address of the node and `port`.
pub fn masqueraded(key: Tuple, node: [u8; 16], port: u16) -> [(Tuple, Flow); 2] {
    let forward = Flow {
        tag: key.hash(),
        seen: NOW,
        flags: flow_flags::SOURCE | flow_flags::MASQUERADE,
        source: node,
        source_port: port.to_be_bytes(),
        ..Flow::default()
    };
    let back = Tuple { destination: node, destination_port: port.to_be_bytes(), ..key.reversed() };
    let reverse = Flow {
        tag: back.hash(),
        seen: NOW,
        flags: flow_flags::REVERSE | flow_flags::DESTINATION | flow_flags::MASQUERADE,
        destination: key.source,
        destination_port: key.source_port,
        ..Flow::default()
    };
    [(key, forward), (back, reverse)]
}
