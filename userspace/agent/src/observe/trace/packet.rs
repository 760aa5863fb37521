//! The packet of a trace: bytes, and what the hooks ask for.

use std::net::IpAddr;

use diolkos_abi::address::protocol;
use diolkos_datapath::{Address, Change, Checksum, Packet, Tunnel};

use crate::observe::text::address;

/// Length of an Ethernet header without tags.
const ETHERNET: usize = 14;
const SYN: u8 = 2;

/// What a packet is made of.
#[derive(Clone, Copy, Debug)]
pub(super) struct Shape {
    pub(super) source: (IpAddr, u16),
    pub(super) destination: (IpAddr, u16),
    /// TCP or UDP.
    pub(super) protocol: u8,
    /// Of the sender.
    pub(super) mac: [u8; 6],
    /// The device it comes in through, or goes out of.
    pub(super) ifindex: u32,
    /// The host's own stack sends it.
    pub(super) is_from_host: bool,
    pub(super) tunnel: Option<Tunnel>,
}

/// A packet on its way through a hook.
#[derive(Clone, Debug)]
pub(super) struct TracePacket {
    pub(super) bytes: Vec<u8>,
    shape: Shape,
    mark: u32,
    note: u32,
    /// Where it goes, in words.
    pub(super) way: Option<String>,
}

impl TracePacket {
    /// The first packet of a connection, or a datagram without content.
    pub(super) fn new(shape: Shape) -> Self {
        Self { bytes: bytes(&shape), shape, mark: 0, note: 0, way: None }
    }
}

impl Packet for TracePacket {
    fn pull(&mut self, _length: usize) {}

    fn load<const W: usize>(&self, at: usize) -> Option<[u32; W]> {
        let bytes = self.bytes.get(at..at + W * 4)?;
        let (words, _) = bytes.as_chunks::<4>();
        let mut loaded = [0; W];
        loaded.iter_mut().zip(words).for_each(|(word, bytes)| *word = u32::from_ne_bytes(*bytes));
        Some(loaded)
    }

    fn store<const W: usize>(&mut self, at: usize, words: [u32; W]) -> Option<()> {
        let bytes = self.bytes.get_mut(at..at + W * 4)?;
        let (places, _) = bytes.as_chunks_mut::<4>();
        places.iter_mut().zip(words).for_each(|(place, word)| *place = word.to_ne_bytes());
        Some(())
    }

    fn length(&self) -> u32 {
        self.bytes.len() as u32
    }

    fn gso_size(&self) -> u32 {
        0
    }

    fn resize(&mut self, length: u32) -> Option<()> {
        self.bytes.resize(length as usize, 0);
        Some(())
    }

    fn make_room(&mut self, bytes: u32) -> Option<()> {
        self.bytes.splice(ETHERNET..ETHERNET, std::iter::repeat_n(0, bytes as usize));
        Some(())
    }

    fn checksum_pending(&mut self) -> bool {
        false
    }

    /// As for a packet whose checksum is complete: the new words are added, the old ones taken off.
    fn fix_checksum(&mut self, at: usize, addresses: Change, words: Change, checksum: Checksum) -> Option<()> {
        let field = self.bytes.get_mut(at..at + 2)?;
        if checksum.udp && !checksum.v6 && field == [0, 0] {
            return Some(());
        }
        let [high, low] = [!field[0], !field[1]];
        let changes = [addresses, words];
        let added = changes.iter().flat_map(|change| halves(change.to));
        let removed = changes.iter().flat_map(|change| halves(!change.from));
        let sum = folded(added.chain(removed).chain([u16::from_be_bytes([high, low])]));
        let value = if checksum.udp && sum == u16::MAX { u16::MAX } else { !sum };
        field.copy_from_slice(&value.to_be_bytes());
        Some(())
    }

    fn ifindex(&self) -> u32 {
        self.shape.ifindex
    }

    fn ingress_ifindex(&self) -> u32 {
        if self.shape.is_from_host { 0 } else { self.shape.ifindex }
    }

    fn tagged(&self) -> bool {
        false
    }

    fn mark(&self) -> u32 {
        self.mark
    }

    fn set_mark(&mut self, mark: u32) {
        self.mark = mark;
    }

    fn note(&mut self, value: u32) {
        self.note = value;
    }

    fn noted(&self) -> u32 {
        self.note
    }

    fn tunnel(&mut self) -> Option<Tunnel> {
        self.shape.tunnel
    }

    fn set_tunnel(&mut self, vni: u32, remote: &Address) -> Option<()> {
        self.way = Some(format!("through the tunnel to {}, VNI {vni}", address(remote)));
        Some(())
    }

    fn redirect_to_pod(&mut self, ifindex: u32) {
        self.way = Some(format!("into the pod behind {}", device(ifindex)));
    }

    fn redirect(&mut self, ifindex: u32) {
        let tunnel = self.way.take().map_or(String::new(), |way| format!(", {way}"));
        self.way = Some(format!("out of {}{tunnel}", device(ifindex)));
    }

    fn redirect_neighbour(&mut self, ifindex: u32, next_hop: &Address, _v6: bool) {
        self.way = Some(format!("to the neighbour {} on {}", address(next_hop), device(ifindex)));
    }

    fn redirect_routed(&mut self, ifindex: u32) {
        self.way = Some(format!("out of {}, to the next hop of the host's routes", device(ifindex)));
    }

    fn redirect_ingress(&mut self, ifindex: u32) {
        self.way = Some(format!("back in through {}", device(ifindex)));
    }

    fn accept(&mut self) {
        self.way = Some("to the host's own stack".into());
    }

    fn core(&self) -> u32 {
        0
    }
}

/// A device's name and index.
pub(super) fn device(ifindex: u32) -> String {
    let name = nix::net::if_::if_indextoname(ifindex).ok().and_then(|name| name.into_string().ok());
    name.map_or(format!("device {ifindex}"), |name| format!("device {name}"))
}

fn bytes(shape: &Shape) -> Vec<u8> {
    let transport = transport(shape);
    let length = transport.len() as u16;
    let mut bytes = vec![0; 6];
    bytes.extend(shape.mac);
    match (shape.source.0, shape.destination.0) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => {
            let [high, low] = (20 + length).to_be_bytes();
            let mut header = vec![0x45, 0, high, low, 0, 1, 0x40, 0, 64, shape.protocol, 0, 0];
            header.extend(source.octets());
            header.extend(destination.octets());
            let sum = !folded(words(&header));
            header[10..12].copy_from_slice(&sum.to_be_bytes());
            bytes.extend([0x08, 0x00]);
            bytes.extend(header);
        }
        (source, destination) => {
            let [high, low] = length.to_be_bytes();
            bytes.extend([0x86, 0xdd, 0x60, 0, 0, 0, high, low, shape.protocol, 64]);
            bytes.extend([source, destination].map(six).concat());
        }
    }
    bytes.extend(transport);
    bytes
}

/// The header of TCP or UDP, with its checksum.
fn transport(shape: &Shape) -> Vec<u8> {
    let ports = [shape.source.1.to_be_bytes(), shape.destination.1.to_be_bytes()].concat();
    let (mut header, checksum) = match shape.protocol {
        protocol::UDP => ([&ports[..], &[0, 8, 0, 0]].concat(), 6),
        _ => ([&ports[..], &[0, 0, 0, 1, 0, 0, 0, 0, 0x50, SYN, 0xff, 0xff, 0, 0, 0, 0]].concat(), 16),
    };
    let pseudo = match (shape.source.0, shape.destination.0) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => [source.octets(), destination.octets()].concat(),
        (source, destination) => [source, destination].map(six).concat(),
    };
    let sum = words(&pseudo).chain(words(&header)).chain([u16::from(shape.protocol), header.len() as u16]);
    let value = match !folded(sum.collect::<Vec<_>>().into_iter()) {
        // Zero says that there is no checksum (RFC 768).
        0 if shape.protocol == protocol::UDP => u16::MAX,
        value => value,
    };
    header[checksum..checksum + 2].copy_from_slice(&value.to_be_bytes());
    header
}

fn six(address: IpAddr) -> [u8; 16] {
    match address {
        IpAddr::V4(v4) => v4.to_ipv6_mapped().octets(),
        IpAddr::V6(v6) => v6.octets(),
    }
}

/// The 16-bit words of an even number of bytes.
fn words(bytes: &[u8]) -> impl Iterator<Item = u16> {
    bytes.as_chunks::<2>().0.iter().map(|pair| u16::from_be_bytes(*pair))
}

fn halves(word: u32) -> [u16; 2] {
    let [a, b, c, d] = word.to_ne_bytes();
    [u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d])]
}

/// The one's complement sum.
fn folded(words: impl Iterator<Item = u16>) -> u16 {
    let mut sum: u64 = words.map(u64::from).sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn shape(source: &str, destination: &str, protocol: u8) -> Shape {
        Shape {
            source: (source.parse().unwrap(), 40_000),
            destination: (destination.parse().unwrap(), 53),
            protocol,
            mac: [2; 6],
            ifindex: 7,
            is_from_host: false,
            tunnel: None,
        }
    }

    /// The sum over what the transport checksum covers: all ones when it is right.
    fn sum(packet: &TracePacket, addresses: std::ops::Range<usize>, transport: usize, protocol: u8) -> u16 {
        let segment = &packet.bytes[transport..];
        let rest = [u16::from(protocol), segment.len() as u16];
        folded(words(&packet.bytes[addresses]).chain(words(segment)).chain(rest))
    }

    #[test]
    fn its_checksums_are_right_before_and_after_a_change() {
        let mut v4 = TracePacket::new(shape("10.0.0.1", "10.96.0.10", protocol::TCP));
        assert_eq!(folded(words(&v4.bytes[14..34])), u16::MAX);
        assert_eq!(sum(&v4, 26..34, 34, protocol::TCP), u16::MAX);
        let (from, to) = (u32::from_ne_bytes([10, 96, 0, 10]), u32::from_ne_bytes([10, 244, 2, 9]));
        let checksum = Checksum { v6: false, udp: false };
        v4.fix_checksum(50, Change { from, to }, Change { from: 0, to: 0 }, checksum).unwrap();
        v4.store(30, [to]).unwrap();
        assert_eq!(sum(&v4, 26..34, 34, protocol::TCP), u16::MAX);
        let v6 = TracePacket::new(shape("fd00::1", "fd00::2", protocol::UDP));
        assert_eq!(sum(&v6, 22..54, 54, protocol::UDP), u16::MAX);
    }
}
