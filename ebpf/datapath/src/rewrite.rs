//! Changes of addresses, ports, hop limit and MACs, each with its checksums.

use diolkos_abi::counter::DropReason;

use crate::headers::{DESTINATION, HOP_WORD, Ipv4, SOURCE, TCP_CHECKSUM, Tcp};
use crate::packet::{Change, Packet};

/// Replaces destination address and port.
#[inline(always)]
pub(crate) fn destination<P: Packet>(
    packet: &mut P,
    ip: &mut Ipv4,
    tcp: Tcp,
    address: [u8; 4],
    port: [u8; 2],
) -> Result<(), DropReason> {
    let [high, low] = tcp.source_port();
    let ports = u32::from_ne_bytes([high, low, port[0], port[1]]);
    replace(packet, ip, tcp, DESTINATION, ip.destination, address, ports)?;
    ip.destination = address;
    Ok(())
}

/// Replaces source address and port.
#[inline(always)]
pub(crate) fn source<P: Packet>(
    packet: &mut P,
    ip: &mut Ipv4,
    tcp: Tcp,
    address: [u8; 4],
    port: [u8; 2],
) -> Result<(), DropReason> {
    let [high, low] = tcp.destination_port();
    let ports = u32::from_ne_bytes([port[0], port[1], high, low]);
    replace(packet, ip, tcp, SOURCE, ip.source, address, ports)?;
    ip.source = address;
    Ok(())
}

/// Replaces the address at `at` and the ports.
#[inline(always)]
fn replace<P: Packet>(
    packet: &mut P,
    ip: &mut Ipv4,
    tcp: Tcp,
    at: usize,
    from: [u8; 4],
    to: [u8; 4],
    ports: u32,
) -> Result<(), DropReason> {
    let (from, to) = (u32::from_ne_bytes(from), u32::from_ne_bytes(to));
    let change = Change { from: tcp.ports, to: ports };
    packet.fix_checksum(tcp.at + TCP_CHECKSUM, Change { from, to }, change).ok_or(DropReason::RewriteFailed)?;
    let [hop, protocol, high, low] = ip.hop_word.to_ne_bytes();
    let [high, low] = adjust(u16::from_ne_bytes([high, low]), from, to).to_ne_bytes();
    ip.hop_word = u32::from_ne_bytes([hop, protocol, high, low]);
    packet.store(HOP_WORD, [ip.hop_word]).ok_or(DropReason::RewriteFailed)?;
    packet.store(at, [to]).ok_or(DropReason::RewriteFailed)?;
    packet.store(tcp.at, [ports]).ok_or(DropReason::RewriteFailed)
}

/// Takes one off the hop limit, or refuses when none would be left.
#[inline(always)]
pub(crate) fn decrement_hop_limit<P: Packet>(packet: &mut P, ip: &Ipv4) -> Result<(), DropReason> {
    let [hop, protocol, high, low] = ip.hop_word.to_ne_bytes();
    if hop <= 1 {
        return Err(DropReason::HopLimit);
    }
    let before = u32::from_ne_bytes([hop, protocol, 0, 0]);
    let after = u32::from_ne_bytes([hop - 1, protocol, 0, 0]);
    let [high, low] = adjust(u16::from_ne_bytes([high, low]), before, after).to_ne_bytes();
    packet.store(HOP_WORD, [u32::from_ne_bytes([hop - 1, protocol, high, low])]).ok_or(DropReason::RewriteFailed)
}

/// Writes both MACs.
#[inline(always)]
pub(crate) fn macs<P: Packet>(packet: &mut P, to: &[u8; 6], from: &[u8; 6]) -> Result<(), DropReason> {
    let words = [
        u32::from_ne_bytes([to[0], to[1], to[2], to[3]]),
        u32::from_ne_bytes([to[4], to[5], from[0], from[1]]),
        u32::from_ne_bytes([from[2], from[3], from[4], from[5]]),
    ];
    packet.store(0, words).ok_or(DropReason::RewriteFailed)
}

/// The Internet checksum after one aligned word of its data changed (RFC 1624, equation 3). One's complement sums do
/// not depend on the byte order, so all three are taken as they stand in the packet.
#[inline(always)]
#[must_use]
pub const fn adjust(checksum: u16, from: u32, to: u32) -> u16 {
    let removed = !from;
    let sum = (!checksum) as u32 + (removed & 0xffff) + (removed >> 16) + (to & 0xffff) + (to >> 16);
    let sum = (sum & 0xffff) + (sum >> 16);
    let sum = (sum & 0xffff) + (sum >> 16);
    !(sum as u16)
}
