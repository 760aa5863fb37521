//! Packets of both families in a few words, for scenarios that say the same of each. Written by another library than the
//! one under test, every checksum over the whole packet.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use diolkos_abi::address::{Address, protocol, v4_mapped};
use diolkos_abi::config::Config;
use diolkos_abi::conntrack::{Flow, Tuple, backend_word, direction, flow_flags};
use diolkos_abi::pod::{Endpoint, Route, RouteKey, address_tag, zone};
use diolkos_abi::service::{
    Backend, FrontendKey, Service, backend_state, frontend_flags, frontend_word, row_word, scope,
};
use etherparse::{
    Icmpv4Type, Icmpv6Type, IpHeaders, IpNumber, Ipv4Header, Ipv6FlowLabel, Ipv6Header, PacketBuilder,
    PacketBuilderStep,
};

use super::packets::{HOST_MAC, POD_MAC};
use super::world::{self, World};

/// The addresses of one family.
#[derive(Clone, Copy, Debug)]
pub struct Family {
    pub v6: bool,
    pub client: IpAddr,
    pub server: IpAddr,
    pub gateway: IpAddr,
    /// Of this node's pod CIDR, and no pod's.
    pub stranger: IpAddr,
    /// A pod on node 2.
    pub remote: IpAddr,
    /// The gateway of node 2.
    pub remote_gateway: IpAddr,
    /// Node 2 itself.
    pub remote_node: IpAddr,
    pub vip: IpAddr,
    /// Of the service CIDR, and no service's.
    pub unallocated: IpAddr,
}

pub const V4: Family = Family {
    v6: false,
    client: v4([10, 244, 1, 10]),
    server: v4([10, 244, 1, 20]),
    gateway: v4([10, 244, 1, 1]),
    stranger: v4([10, 244, 1, 77]),
    remote: v4([10, 244, 2, 20]),
    remote_gateway: v4([10, 244, 2, 1]),
    remote_node: v4(world::NODE_2_TUNNEL),
    vip: v4([10, 96, 0, 10]),
    unallocated: v4([10, 96, 0, 99]),
};

pub const V6: Family = Family {
    v6: true,
    client: v6(0xfd44, 1, 0x10),
    server: v6(0xfd44, 1, 0x20),
    gateway: v6(0xfd44, 1, 1),
    stranger: v6(0xfd44, 1, 0x77),
    remote: v6(0xfd44, 2, 0x20),
    remote_gateway: v6(0xfd44, 2, 1),
    remote_node: v6(0xfd00, 0, 2),
    vip: v6(0xfd96, 0, 0x10),
    unallocated: v6(0xfd96, 0, 0x99),
};

pub const FAMILIES: [Family; 2] = [V4, V6];

const fn v4(address: [u8; 4]) -> IpAddr {
    IpAddr::V4(Ipv4Addr::new(address[0], address[1], address[2], address[3]))
}

const fn v6(first: u16, node: u16, host: u16) -> IpAddr {
    IpAddr::V6(Ipv6Addr::new(first, 0, 0, node, 0, 0, 0, host))
}

pub fn mapped(address: IpAddr) -> Address {
    match address {
        IpAddr::V4(v4) => v4_mapped(v4.octets()),
        IpAddr::V6(v6) => v6.octets(),
    }
}

impl Family {
    /// Chooses a scenario's name.
    pub fn name(self, v4: &'static str, v6: &'static str) -> &'static str {
        if self.v6 { v6 } else { v4 }
    }
}

/// Ports of the service's address in [`dual`].
pub const UNKNOWN_PORT: u16 = 99;
pub const SERVICE_PORT: u16 = 80;

/// [`World::new`] with the same for IPv6, and a service for each protocol: `backends` are ids of [`backend_id`].
pub fn dual(backends: &[u32]) -> World {
    let mut world = World::new();
    world.frontends.clear();
    world.backends.clear();
    let pods = [
        (V6.client, world::CLIENT_IFINDEX, POD_MAC, HOST_MAC),
        (V6.server, world::SERVER_IFINDEX, world::SERVER_MAC, world::SERVER_HOST_MAC),
    ];
    for (address, ifindex, mac, host_mac) in pods {
        let address = mapped(address);
        let tag = address_tag(&address);
        world.endpoints.push((address, Endpoint { tag, ifindex, mac, host_mac, ..Endpoint::default() }));
    }
    let prefix = mapped(v6(0xfd44, 2, 0));
    let route = Route { tag: address_tag(&prefix), node: world::NODE_2, ..Route::default() };
    world.routes.push((RouteKey { prefix, zone: zone::PODS }, route));
    world.own_address(mapped(V6.remote_node), world::NODE_2);
    for family in FAMILIES {
        let marker = FrontendKey::new(mapped(family.vip), [0; 2], 0, scope::CLUSTER);
        world.frontends.push((marker, frontend_word(0, marker.tag(), frontend_flags::ADDRESS)));
        for protocol in [protocol::TCP, protocol::UDP] {
            let key = FrontendKey::new(mapped(family.vip), SERVICE_PORT.to_be_bytes(), protocol, scope::CLUSTER);
            world.frontends.push((key, frontend_word(service_id(family, protocol), key.tag(), 0)));
        }
    }
    for id in backends {
        add_backend(&mut world, *id);
    }
    world
}

fn service_id(family: Family, protocol: u8) -> u32 {
    100 + u32::from(family.v6) * 32 + u32::from(protocol)
}

/// The id of the backend at [`Family::server`] or [`Family::remote`], which is alone behind its service.
pub fn backend_id(family: Family, protocol: u8, far: bool) -> u32 {
    service_id(family, protocol) + if far { 100 } else { 0 }
}

/// Port of every backend.
pub const BACKEND_PORT: u16 = 8080;

fn add_backend(world: &mut World, id: u32) {
    for family in FAMILIES {
        for protocol in [protocol::TCP, protocol::UDP] {
            for far in [false, true] {
                if backend_id(family, protocol, far) == id {
                    let address = mapped(if far { family.remote } else { family.server });
                    let backend = Backend {
                        address,
                        port: BACKEND_PORT.to_be_bytes(),
                        state: backend_state::ALIVE,
                        generation: world::GENERATION,
                        node: if far { world::NODE_2 } else { 0 },
                        protocol,
                        ..Backend::default()
                    };
                    world.backends.push((id, backend));
                    let service = service_id(family, protocol);
                    world.services.push((service, Service { row: row_word(id, 1), ..Service::default() }));
                    world.slots.push((id, id));
                }
            }
        }
    }
}

/// [`world::config`] with the same for IPv6.
pub fn config() -> Config {
    let mut mask = [0xff; 16];
    mask[8..].fill(0);
    Config {
        gateway_v6: mapped(V6.gateway),
        route_mask_v6: mask,
        pod_cidr_v6: mapped(v6(0xfd44, 1, 0)),
        service_cidr_v6: mapped(v6(0xfd96, 0, 0)),
        service_mask_v6: mask,
        ..world::config()
    }
}

/// Both entries of a flow from `client` through the family's service to its near or far backend, last seen at `seen`.
pub fn flow(family: Family, client: SocketAddr, protocol: u8, far: bool, seen: u32) -> [(Tuple, Flow); 2] {
    let vip = SocketAddr::new(family.vip, SERVICE_PORT);
    let end = SocketAddr::new(if far { family.remote } else { family.server }, BACKEND_PORT);
    let tuple = |source: SocketAddr, destination: SocketAddr| Tuple {
        source: mapped(source.ip()),
        destination: mapped(destination.ip()),
        source_port: source.port().to_be_bytes(),
        destination_port: destination.port().to_be_bytes(),
        protocol,
        direction: direction::WIRE,
        zone: 0,
    };
    let (forward, reverse) = (tuple(client, vip), tuple(end, client));
    let entry = |key: &Tuple| Flow {
        backend: backend_word(backend_id(family, protocol, far), world::GENERATION),
        tag: key.hash(),
        service: service_id(family, protocol),
        seen,
        ..Flow::default()
    };
    let reply = Flow {
        flags: flow_flags::REVERSE | flow_flags::SOURCE,
        source: mapped(vip.ip()),
        source_port: vip.port().to_be_bytes(),
        ..entry(&reverse)
    };
    [(forward, entry(&forward)), (reverse, reply)]
}

/// An ICMP error in both families.
pub type Complaint = (Icmpv4Type, Icmpv6Type);

/// The outer side of a packet.
#[derive(Clone, Copy, Debug)]
pub struct Wire {
    pub to_mac: [u8; 6],
    pub from_mac: [u8; 6],
    pub from: SocketAddr,
    pub to: SocketAddr,
    pub hops: u8,
}

/// The numbers of every segment.
pub const SEQUENCE: u32 = 0x0102_0304;
pub const ACKNOWLEDGED: u32 = 0x0a0b_0c0d;

impl Wire {
    /// As the client's pod hands it over.
    pub fn new(from: SocketAddr, to: SocketAddr) -> Self {
        Self { to_mac: HOST_MAC, from_mac: POD_MAC, from, to, hops: 64 }
    }

    /// The way back, as an answer travels.
    pub fn back(self) -> Self {
        Self { to_mac: self.from_mac, from_mac: self.to_mac, from: self.to, to: self.from, hops: 64 }
    }

    pub fn speaker(self, from: IpAddr) -> Self {
        Self { from: SocketAddr::new(from, 0), ..self }
    }

    fn ip(&self) -> PacketBuilderStep<IpHeaders> {
        let headers = match (self.from.ip(), self.to.ip()) {
            (IpAddr::V4(from), IpAddr::V4(to)) => {
                let ip = Ipv4Header::new(0, self.hops, IpNumber::TCP, from.octets(), to.octets()).unwrap();
                IpHeaders::Ipv4(ip, Default::default())
            }
            (IpAddr::V6(from), IpAddr::V6(to)) => {
                let ip = Ipv6Header {
                    flow_label: Ipv6FlowLabel::ZERO,
                    hop_limit: self.hops,
                    source: from.octets(),
                    destination: to.octets(),
                    ..Ipv6Header::default()
                };
                IpHeaders::Ipv6(ip, Default::default())
            }
            _ => panic!("{} and {} are of two families", self.from, self.to),
        };
        PacketBuilder::ethernet2(self.from_mac, self.to_mac).ip(headers)
    }

    /// A segment with these flags; an acknowledgment only with ACK.
    pub fn tcp(&self, flags: u8, payload: &[u8]) -> Vec<u8> {
        let acknowledged = if flags & 0x10 != 0 { ACKNOWLEDGED } else { 0 };
        self.segment(SEQUENCE, acknowledged, flags, 0xfff0, payload)
    }

    /// A RST.
    pub fn rst(&self, sequence: u32, acknowledged: Option<u32>) -> Vec<u8> {
        let flags = if acknowledged.is_some() { 0x14 } else { 0x04 };
        self.segment(sequence, acknowledged.unwrap_or(0), flags, 0, &[])
    }

    fn segment(&self, sequence: u32, acknowledged: u32, flags: u8, window: u16, payload: &[u8]) -> Vec<u8> {
        let mut step = self.ip().tcp(self.from.port(), self.to.port(), sequence, window);
        step = if flags & 0x01 != 0 { step.fin() } else { step };
        step = if flags & 0x02 != 0 { step.syn() } else { step };
        step = if flags & 0x04 != 0 { step.rst() } else { step };
        if flags & 0x10 != 0 {
            step = step.ack(acknowledged);
        }
        let mut bytes = Vec::new();
        step.write(&mut bytes, payload).unwrap();
        bytes
    }

    pub fn udp(&self, payload: &[u8]) -> Vec<u8> {
        let mut bytes = Vec::new();
        self.ip().udp(self.from.port(), self.to.port()).write(&mut bytes, payload).unwrap();
        bytes
    }

    /// An echo message whose identifier is the port.
    pub fn ping(&self, payload: &[u8]) -> Vec<u8> {
        let mut bytes = Vec::new();
        let (step, identifier) = (self.ip(), self.from.port());
        let written = if self.from.is_ipv4() {
            step.icmpv4_echo_request(identifier, 2).write(&mut bytes, payload)
        } else {
            step.icmpv6_echo_request(identifier, 2).write(&mut bytes, payload)
        };
        written.unwrap();
        bytes
    }

    /// The answer to an echo message whose identifier is `identifier`.
    pub fn pong(&self, identifier: u16) -> Vec<u8> {
        let mut bytes = Vec::new();
        let step = self.ip();
        let written = if self.from.is_ipv4() {
            step.icmpv4_echo_reply(identifier, 2).write(&mut bytes, b"odd")
        } else {
            step.icmpv6_echo_reply(identifier, 2).write(&mut bytes, b"odd")
        };
        written.unwrap();
        bytes
    }

    /// An ICMP error of this packet's family about a frame, of which it quotes `length` bytes from the network header on.
    pub fn error(&self, complaint: &Complaint, about: &[u8], length: usize) -> Vec<u8> {
        let mut bytes = Vec::new();
        let (quote, (v4, v6)) = (&about[14..14 + length], complaint.clone());
        let step = self.ip();
        let written = if self.from.is_ipv4() {
            step.icmpv4(v4).write(&mut bytes, quote)
        } else {
            step.icmpv6(v6).write(&mut bytes, quote)
        };
        written.unwrap();
        bytes
    }
}
