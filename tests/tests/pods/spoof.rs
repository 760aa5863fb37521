//! What pods and strangers forge reaches nobody, and is counted.

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::os::fd::AsRawFd;
use std::time::Duration;

use diolkos_abi::counter::{DropReason, Hook};
use diolkos_agent::Routing;
use diolkos_agent::overlay::{OverlayConfig, overlay_mac};
use etherparse::{ArpHardwareId, ArpOperation, ArpPacket, EtherType, Icmpv6Type, PacketBuilder, icmpv6};
use nix::ifaddrs::getifaddrs;
use nix::sys::socket::{AddressFamily, LinkAddr, MsgFlags, SockFlag, SockType, sendto, socket};

use crate::hosts::{Host, VNI, node_v4, node_v6, pair};
use crate::world::Sandbox;

const PATIENCE: Duration = Duration::from_secs(10);
const PORT: u16 = 7000;
const STRANGER: [u8; 6] = [0x02, 0, 0, 0, 0, 0x66];

type Mac = [u8; 6];

/// A pod and what is needed to speak for it.
struct Pod {
    sandbox: Sandbox,
    addresses: Vec<IpAddr>,
    mac: Mac,
    next_hop: Mac,
}

impl Pod {
    fn new(host: &Host, id: &'static str) -> Self {
        let sandbox = Sandbox::new();
        let addresses = host.add(id, &sandbox);
        let mac = mac_after(&sandbox.ip("-o link show eth0"), "link/ether ");
        let next_hop = mac_after(&sandbox.ip("neigh show 169.254.1.1"), "lladdr ");
        Self { sandbox, addresses, mac, next_hop }
    }

    /// Puts frames on the pod's wire as they are.
    fn send(&self, frames: Vec<Vec<u8>>) {
        self.sandbox.inside(move || {
            let device = eth0();
            let raw = socket(AddressFamily::Packet, SockType::Raw, SockFlag::empty(), None).unwrap();
            for frame in frames {
                let sent = sendto(raw.as_raw_fd(), &frame, &device, MsgFlags::empty());
                assert_eq!(sent, Ok(frame.len()));
            }
        });
    }

    /// A socket of the pod for each of its addresses.
    fn listen(&self) -> Vec<UdpSocket> {
        let bind = |at: &IpAddr| {
            let at = *at;
            self.sandbox.inside(move || UdpSocket::bind((at, PORT)).unwrap())
        };
        self.addresses.iter().map(bind).collect()
    }
}

fn mac_after(text: &str, label: &str) -> Mac {
    let (_, rest) = text.split_once(label).unwrap_or_else(|| panic!("{label} in {text}"));
    let digits: Vec<u8> = rest[..17].split(':').map(|byte| u8::from_str_radix(byte, 16).unwrap()).collect();
    digits.try_into().unwrap()
}

fn eth0() -> LinkAddr {
    let all = getifaddrs().unwrap().filter(|entry| entry.interface_name == "eth0");
    all.filter_map(|entry| entry.address?.as_link_addr().copied()).next().unwrap()
}

fn udp(macs: (Mac, Mac), from: IpAddr, to: IpAddr) -> Vec<u8> {
    let ethernet = PacketBuilder::ethernet2(macs.0, macs.1);
    let ip = match (from, to) {
        (IpAddr::V4(from), IpAddr::V4(to)) => ethernet.ipv4(from.octets(), to.octets(), 64),
        (IpAddr::V6(from), IpAddr::V6(to)) => ethernet.ipv6(from.octets(), to.octets(), 64),
        _ => panic!("{from} and {to} are of two families"),
    };
    let mut frame = Vec::new();
    ip.udp(PORT, PORT).write(&mut frame, b"forged").unwrap();
    frame
}

/// An ARP message in which somebody says: this address is at this MAC.
fn arp(macs: (Mac, Mac), operation: ArpOperation, claimed: (Mac, [u8; 4]), asked: [u8; 4]) -> Vec<u8> {
    let (hardware, protocol) = (ArpHardwareId::ETHERNET, EtherType::IPV4);
    let packet = ArpPacket::new(hardware, protocol, operation, &claimed.0, &claimed.1, &[0; 6], &asked).unwrap();
    let mut frame = Vec::new();
    PacketBuilder::ethernet2(macs.0, macs.1).arp(packet).write(&mut frame).unwrap();
    frame
}

/// A neighbour advertisement: `target` is at `mac`.
fn advertisement(macs: (Mac, Mac), from: IpAddr, to: IpAddr, target: IpAddr, mac: Mac) -> Vec<u8> {
    let (IpAddr::V6(from), IpAddr::V6(to), IpAddr::V6(target)) = (from, to, target) else { panic!("IPv6 only") };
    let header = icmpv6::NeighborAdvertisementHeader { router: false, solicited: false, r#override: true };
    let mut payload = target.octets().to_vec();
    payload.extend([2, 1]);
    payload.extend(mac);
    let mut frame = Vec::new();
    let ip = PacketBuilder::ethernet2(macs.0, macs.1).ipv6(from.octets(), to.octets(), 255);
    ip.icmpv6(Icmpv6Type::NeighborAdvertisement(header)).write(&mut frame, &payload).unwrap();
    frame
}

/// The first datagram that a socket hears is the honest one.
fn hears_first(socket: &UdpSocket, from: IpAddr, say: impl FnOnce(SocketAddr)) {
    say(socket.local_addr().unwrap());
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut buffer = [0; 64];
    let (length, heard) = socket.recv_from(&mut buffer).unwrap();
    assert_eq!((&buffer[..length], heard.ip()), (b"honest".as_slice(), from));
}

fn honest(from: &Pod, at: usize) -> impl FnOnce(SocketAddr) {
    let (source, sandbox) = (from.addresses[at], &from.sandbox);
    move |to| {
        sandbox.inside(move || assert_eq!(UdpSocket::bind((source, 0)).unwrap().send_to(b"honest", to).unwrap(), 6));
    }
}

/// What a host has refused as forged by its pods.
fn forged(host: &Host) -> u64 {
    [DropReason::SpoofedSource, DropReason::SpoofedMac].map(|why| host.drops(Hook::FromContainer, why)).iter().sum()
}

#[test]
fn a_pod_cannot_send_under_the_address_or_mac_of_another() {
    let hosts = pair(Routing::Overlay, |config| config);
    let (liar, victim, far) = (Pod::new(&hosts[0], "liar"), Pod::new(&hosts[0], "victim"), Pod::new(&hosts[1], "far"));
    let outside: [[IpAddr; 3]; 2] = [
        [node_v4(1).into(), "10.244.1.1".parse().unwrap(), "198.51.100.1".parse().unwrap()],
        [node_v6(1).into(), "fd44:1::1".parse().unwrap(), "2001:db8:9::1".parse().unwrap()],
    ];
    let (sockets, far_sockets) = (victim.listen(), far.listen());
    for (family, outside) in outside.into_iter().enumerate() {
        let (own, at, far_at) = (liar.addresses[family], victim.addresses[family], far.addresses[family]);
        let macs = (liar.mac, liar.next_hop);
        let mut frames: Vec<Vec<u8>> =
            [at, far_at].into_iter().chain(outside).map(|from| udp(macs, from, at)).collect();
        frames.extend([at, outside[1]].map(|from| udp(macs, from, far_at)));
        frames.extend([victim.mac, STRANGER, liar.next_hop].map(|mac| udp((mac, liar.next_hop), own, at)));
        let (before, count) = (forged(&hosts[0]), frames.len() as u64);
        liar.send(frames);
        assert_eq!(forged(&hosts[0]) - before, count, "{:?}", hosts[0].all_drops());
        hears_first(&sockets[family], own, honest(&liar, family));
        hears_first(&far_sockets[family], own, honest(&liar, family));
    }
    assert_eq!(forged(&hosts[1]), 0);
}

#[test]
fn a_pod_cannot_claim_the_address_of_another_as_a_neighbour() {
    let hosts = pair(Routing::Overlay, |config| config);
    let (liar, victim) = (Pod::new(&hosts[0], "liar"), Pod::new(&hosts[0], "victim"));
    let v4 = |address: IpAddr| if let IpAddr::V4(address) = address { address.octets() } else { panic!("{address}") };
    let (own, at) = (v4(liar.addresses[0]), v4(victim.addresses[0]));
    let gateway = [10, 244, 1, 1];
    let everybody = (liar.mac, [0xff; 6]);
    let mut frames = Vec::new();
    for operation in [ArpOperation::REQUEST, ArpOperation::REPLY] {
        frames.push(arp(everybody, operation, (liar.mac, at), at));
        frames.push(arp(everybody, operation, (liar.mac, gateway), at));
        frames.push(arp(everybody, operation, (STRANGER, own), gateway));
        frames.push(arp((STRANGER, [0xff; 6]), operation, (liar.mac, own), gateway));
    }
    let (own, at, gateway) = (liar.addresses[1], victim.addresses[1], "fd44:1::1".parse().unwrap());
    let macs = (liar.mac, liar.next_hop);
    frames.push(advertisement(macs, own, gateway, at, liar.mac));
    frames.push(advertisement(macs, own, gateway, node_v6(1).into(), liar.mac));
    frames.push(advertisement(macs, own, gateway, own, STRANGER));
    let (before, count) = (forged(&hosts[0]), frames.len() as u64);
    let neighbours = hosts[0].ip("neigh");
    liar.send(frames);
    assert_eq!(forged(&hosts[0]) - before, count, "{:?}", hosts[0].all_drops());
    assert_eq!(hosts[0].ip("neigh"), neighbours, "the node believes nobody");
}

#[test]
fn overlay_packets_of_strangers_or_of_another_network_are_dropped_and_counted() {
    refuse_strangers(|config| config, node_v4(2).into(), "192.0.2.66".parse().unwrap());
}

#[test]
fn overlay_packets_of_strangers_over_ipv6_are_dropped_and_counted() {
    let only_v6 = |config| OverlayConfig { node_v4: None, ..config };
    refuse_strangers(only_v6, node_v6(2).into(), "2001:db8::66".parse().unwrap());
}

fn refuse_strangers(change: fn(OverlayConfig) -> OverlayConfig, peer: IpAddr, stranger: IpAddr) {
    let hosts = pair(Routing::Overlay, change);
    hosts[1].ip("addr add 192.0.2.66/32 dev uplink");
    hosts[1].ip("addr add 2001:db8::66/128 dev uplink nodad");
    let (victim, neighbour, far) =
        (Pod::new(&hosts[0], "victim"), Pod::new(&hosts[0], "near"), Pod::new(&hosts[1], "far"));
    let sockets = victim.listen();
    let to: IpAddr = if peer.is_ipv4() { node_v4(1).into() } else { node_v6(1).into() };
    let macs = (overlay_mac(peer), overlay_mac(to));
    let drops = |reason| hosts[0].drops(Hook::FromOverlay, reason);
    for family in 0..2 {
        let (at, near, far_at) = (victim.addresses[family], neighbour.addresses[family], far.addresses[family]);
        let inner = udp(macs, far_at, at);
        let wrong_vni = drops(DropReason::WrongVni);
        tunnel(&hosts[1], peer, to, vec![(VNI + 6, inner.clone()), (0, inner.clone())]);
        assert_eq!(drops(DropReason::WrongVni) - wrong_vni, 2, "{:?}", hosts[0].all_drops());

        let unknown = drops(DropReason::UnknownPeer);
        tunnel(&hosts[1], stranger, to, vec![(VNI, inner)]);
        // A node of the cluster speaks for a pod of another, for the node itself, and for nobody it knows.
        let outside: [IpAddr; 2] = ["10.244.77.2".parse().unwrap(), "fd44:77::2".parse().unwrap()];
        tunnel(&hosts[1], peer, to, [near, outside[family]].map(|from| (VNI, udp(macs, from, at))).into());
        assert_eq!(drops(DropReason::UnknownPeer) - unknown, 3, "{:?}", hosts[0].all_drops());
        hears_first(&sockets[family], far_at, honest(&far, family));
    }
}

/// Sends Ethernet frames through VXLAN with a VNI each, from an ordinary socket of a node.
fn tunnel(host: &Host, from: IpAddr, to: IpAddr, frames: Vec<(u32, Vec<u8>)>) {
    host.run(move |_| {
        let socket = UdpSocket::bind((from, 0)).unwrap();
        for (vni, frame) in frames {
            let header = [[0x08, 0, 0, 0], (vni << 8).to_be_bytes()].concat();
            socket.send_to(&[header, frame].concat(), (to, 4789)).unwrap();
        }
    });
}
