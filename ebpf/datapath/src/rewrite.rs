//! Changes of addresses, ports, hop limit and MACs, each with its checksums.

use diolkos_abi::address::protocol;
use diolkos_abi::counter::DropReason;

use crate::family::{Words, equal, narrowed};
use crate::headers::{Ip, OFFSETS, hop_word_at, source_at};
use crate::packet::{Change, Checksum, Packet};

/// Offset of the checksum in a TCP header, and in a UDP header.
const TCP_CHECKSUM: usize = 16;
const UDP_CHECKSUM: usize = 6;
/// Offset of the checksum in an ICMP echo message, and of its identifier and sequence number.
const ICMP_CHECKSUM: usize = 2;
const ICMP_IDENTIFIER: usize = 4;

/// The ends of a packet as they shall be.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ends {
    pub(crate) source: Words,
    pub(crate) destination: Words,
    /// Source and destination port, as they stand in a packet.
    pub(crate) ports: u32,
}

impl Ends {
    /// The ends of a packet as they are.
    #[inline(always)]
    pub(crate) fn of(ip: &Ip) -> Self {
        Self { source: ip.source, destination: ip.destination, ports: ip.transport.ports }
    }
}

/// Replaces addresses and ports, where they change. A later fragment has neither ports nor checksum.
#[inline(always)]
pub(crate) fn ends<const V6: bool, P: Packet>(packet: &mut P, ip: &mut Ip, to: &Ends) -> Result<(), DropReason> {
    if stay::<V6>(ip, to) { Ok(()) } else { replace_apart::<V6, P>(packet, ip, to) }
}

/// [`ends`] on the path that most translated packets take: of IPv4 a call would cost a tenth of what a service adds.
#[inline(always)]
pub(crate) fn ends_here<const V6: bool, P: Packet>(packet: &mut P, ip: &mut Ip, to: &Ends) -> Result<(), DropReason> {
    if stay::<V6>(ip, to) {
        Ok(())
    } else if V6 {
        replace_apart::<V6, P>(packet, ip, to)
    } else {
        replace::<V6, P>(packet, ip, to)
    }
}

/// The ends of a packet are what they shall be.
#[inline(always)]
fn stay<const V6: bool>(ip: &Ip, to: &Ends) -> bool {
    ip.transport.ports == to.ports
        && equal(&narrowed::<V6>(&ip.source), &narrowed::<V6>(&to.source))
        && equal(&narrowed::<V6>(&ip.destination), &narrowed::<V6>(&to.destination))
}

/// A BPF subprogram: direct traffic has no use for it.
#[inline(never)]
fn replace_apart<const V6: bool, P: Packet>(packet: &mut P, ip: &mut Ip, to: &Ends) -> Result<(), DropReason> {
    replace::<V6, P>(packet, ip, to)
}

#[inline(always)]
fn replace<const V6: bool, P: Packet>(packet: &mut P, ip: &mut Ip, to: &Ends) -> Result<(), DropReason> {
    let transport = ip.transport;
    let addresses =
        Change { from: both::<V6>(&ip.source, &ip.destination), to: both::<V6>(&to.source, &to.destination) };
    if transport.at != 0 {
        let udp = ip.protocol == protocol::UDP;
        // The bound is for the verifier, which has lost it when the offset comes from memory.
        let segment = transport.at & OFFSETS;
        let at = segment + if udp { UDP_CHECKSUM } else { TCP_CHECKSUM };
        let ports = Change { from: transport.ports, to: to.ports };
        packet.fix_checksum(at, addresses, ports, Checksum { v6: V6, udp }).ok_or(DropReason::RewriteFailed)?;
        packet.store(segment, [to.ports]).ok_or(DropReason::RewriteFailed)?;
    }
    self::addresses::<V6, P>(packet, ip, to, addresses)
}

/// Replaces the addresses of the IP header, and what its checksum has to do with them.
#[inline(always)]
pub(crate) fn addresses<const V6: bool, P: Packet>(
    packet: &mut P,
    ip: &mut Ip,
    to: &Ends,
    addresses: Change,
) -> Result<(), DropReason> {
    let [a, b, c, d] = to.source;
    let [e, f, g, h] = to.destination;
    if V6 {
        return packet.store(source_at::<V6>(), [a, b, c, d, e, f, g, h]).ok_or(DropReason::RewriteFailed);
    }
    let [hop, protocol, high, low] = ip.hop_word.to_ne_bytes();
    let [high, low] = adjust(u16::from_ne_bytes([high, low]), addresses.from, addresses.to).to_ne_bytes();
    ip.hop_word = u32::from_ne_bytes([hop, protocol, high, low]);
    packet.store(hop_word_at::<V6>(), [ip.hop_word, d, h]).ok_or(DropReason::RewriteFailed)
}

/// [`ends`] of an ICMP echo message, whose identifier and sequence number change as `message` says.
#[inline(always)]
pub(crate) fn echo<const V6: bool, P: Packet>(
    packet: &mut P,
    ip: &mut Ip,
    to: &Ends,
    message: Change,
) -> Result<(), DropReason> {
    let change = Change { from: both::<V6>(&ip.source, &ip.destination), to: both::<V6>(&to.source, &to.destination) };
    // The checksum of ICMP knows nothing of addresses, that of ICMPv6 does.
    let pseudo = if V6 { change } else { Change { from: 0, to: 0 } };
    let at = ip.l4 & OFFSETS;
    let rules = Checksum { v6: V6, udp: false };
    packet.fix_checksum(at + ICMP_CHECKSUM, pseudo, message, rules).ok_or(DropReason::RewriteFailed)?;
    packet.store(at + ICMP_IDENTIFIER, [message.to]).ok_or(DropReason::RewriteFailed)?;
    addresses::<V6, P>(packet, ip, to, change)
}

/// Takes one off the hop limit, which is above 1.
#[inline(always)]
pub(crate) fn decrement_hop_limit<const V6: bool, P: Packet>(packet: &mut P, ip: &Ip) -> Result<(), DropReason> {
    let [a, b, c, d] = ip.hop_word.to_ne_bytes();
    let after = if V6 {
        [a, b, c, d.wrapping_sub(1)]
    } else {
        let before = u32::from_ne_bytes([a, b, 0, 0]);
        let after = u32::from_ne_bytes([a.wrapping_sub(1), b, 0, 0]);
        let [high, low] = adjust(u16::from_ne_bytes([c, d]), before, after).to_ne_bytes();
        [a.wrapping_sub(1), b, high, low]
    };
    packet.store(hop_word_at::<V6>(), [u32::from_ne_bytes(after)]).ok_or(DropReason::RewriteFailed)
}

/// Writes both MACs.
#[inline(always)]
pub(crate) fn macs<P: Packet>(packet: &mut P, to: &[u8; 6], from: &[u8; 6]) -> Result<(), DropReason> {
    // Chunks of both, because the compiler does not join single bytes, of which it would load twelve.
    let (Some(head), Some(tail)) = (to.first_chunk::<4>(), from.last_chunk::<4>()) else {
        return Err(DropReason::RewriteFailed);
    };
    let (Some(end), Some(begin)) = (to.last_chunk::<2>(), from.first_chunk::<2>()) else {
        return Err(DropReason::RewriteFailed);
    };
    let middle = u32::from_le(u16::from_le_bytes(*end) as u32 | (u16::from_le_bytes(*begin) as u32) << 16);
    let words = [u32::from_ne_bytes(*head), middle, u32::from_ne_bytes(*tail)];
    packet.store(0, words).ok_or(DropReason::RewriteFailed)
}

/// Addresses the frame to the device that sent it.
#[inline(always)]
pub(crate) fn swap_macs<P: Packet>(packet: &mut P) -> Option<()> {
    let [a, b, c] = packet.load(0)?;
    let [[a0, a1, a2, a3], [b0, b1, b2, b3], [c0, c1, c2, c3]] = [a, b, c].map(u32::to_ne_bytes);
    let words = [[b2, b3, c0, c1], [c2, c3, a0, a1], [a2, a3, b0, b1]].map(u32::from_ne_bytes);
    packet.store(0, words)
}

/// The [`sum`] of two addresses. The constant words of v4-mapped ones cancel each other out.
#[inline(always)]
pub(crate) fn both<const V6: bool>(one: &Words, other: &Words) -> u32 {
    if V6 {
        let ([a, b, c, d], [e, f, g, h]) = (*one, *other);
        sum([a, b, c, d, e, f, g, h])
    } else {
        sum([one[3], other[3]])
    }
}

/// One word that changes a checksum as all of these do.
#[inline(always)]
#[must_use]
pub const fn sum<const N: usize>(words: [u32; N]) -> u32 {
    let mut sum = 0_u64;
    let mut i = 0;
    while i < N {
        sum += words[i] as u64;
        i += 1;
    }
    let sum = (sum & 0xffff_ffff) + (sum >> 32);
    ((sum & 0xffff_ffff) + (sum >> 32)) as u32
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
