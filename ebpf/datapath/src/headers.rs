//! Ethernet, IPv4 and TCP headers: where they are, and whether they can be believed.

use diolkos_abi::address::protocol;
use diolkos_abi::counter::DropReason;

use crate::packet::Packet;

/// Length of an Ethernet header without tags.
pub(crate) const ETHERNET: usize = 14;
/// Offset of the word `hop limit, protocol, header checksum`.
pub(crate) const HOP_WORD: usize = ETHERNET + 8;
/// Offset of the IPv4 source address.
pub(crate) const SOURCE: usize = ETHERNET + 12;
/// Offset of the IPv4 destination address.
pub(crate) const DESTINATION: usize = ETHERNET + 16;
/// Offset of the checksum in a TCP header.
pub(crate) const TCP_CHECKSUM: usize = 16;

const ETHERTYPE_IPV4: [u8; 2] = [0x08, 0x00];
/// Length of an IPv4 header without options, and of a TCP header without options.
const MIN_HEADER: usize = 20;

/// The IPv4 header of a packet.
#[derive(Clone, Copy)]
pub(crate) struct Ipv4 {
    pub(crate) source: [u8; 4],
    pub(crate) destination: [u8; 4],
    /// The word at [`HOP_WORD`], as it stands in the packet.
    pub(crate) hop_word: u32,
    /// `None` for other protocols, and for fragments but the first, which carry no TCP header.
    pub(crate) tcp: Option<Tcp>,
}

/// The TCP header of a packet.
#[derive(Clone, Copy)]
pub(crate) struct Tcp {
    /// Offset of the header.
    pub(crate) at: usize,
    /// Source and destination port, as they stand in the packet.
    pub(crate) ports: u32,
    flags: u8,
}

/// Reads the headers. `Ok(None)`: not IPv4.
#[inline(always)]
pub(crate) fn parse<P: Packet>(packet: &mut P) -> Result<Option<Ipv4>, DropReason> {
    packet.pull(ETHERNET + MIN_HEADER + MIN_HEADER);
    // The word also holds the first two bytes of the network header.
    let [kind] = packet.load(ETHERNET - 2).ok_or(DropReason::Truncated)?;
    let [type_high, type_low, version_length, _] = kind.to_ne_bytes();
    if [type_high, type_low] != ETHERTYPE_IPV4 {
        return Ok(None);
    }
    let [first, fragment, hop_word, source, destination] = packet.load(ETHERNET).ok_or(DropReason::Truncated)?;
    let header = (version_length & 0x0f) as usize * 4;
    let [_, _, length_high, length_low] = first.to_ne_bytes();
    let total = u16::from_be_bytes([length_high, length_low]) as usize;
    // A length of 0 is that of a segment above 64 KiB that the device will cut (BIG TCP).
    if version_length >> 4 != 4 || header < MIN_HEADER || (total != 0 && total < header) {
        return Err(DropReason::Malformed);
    }
    let [_, _, fragment_high, fragment_low] = fragment.to_ne_bytes();
    let first_fragment = (fragment_high & 0x1f) | fragment_low == 0;
    let [_, protocol, _, _] = hop_word.to_ne_bytes();
    let tcp = if protocol == protocol::TCP && first_fragment {
        if total != 0 && total < header + MIN_HEADER {
            return Err(DropReason::Truncated);
        }
        Some(parse_tcp(packet, header)?)
    } else {
        None
    };
    Ok(Some(Ipv4 { source: source.to_ne_bytes(), destination: destination.to_ne_bytes(), hop_word, tcp }))
}

/// Reads the TCP header behind an IPv4 header of `header` bytes.
#[inline(always)]
fn parse_tcp<P: Packet>(packet: &mut P, header: usize) -> Result<Tcp, DropReason> {
    let at = ETHERNET + header;
    if header != MIN_HEADER {
        packet.pull(at + MIN_HEADER);
    }
    let [ports, _, _, offset_flags, _] = packet.load(at).ok_or(DropReason::Truncated)?;
    let [offset, flags, _, _] = offset_flags.to_ne_bytes();
    if (offset >> 4) as usize * 4 < MIN_HEADER {
        return Err(DropReason::Malformed);
    }
    Ok(Tcp { at, ports, flags })
}

impl Tcp {
    const FIN: u8 = 1 << 0;
    const SYN: u8 = 1 << 1;
    const RST: u8 = 1 << 2;
    const ACK: u8 = 1 << 4;

    /// The segment opens a connection.
    #[inline(always)]
    pub(crate) fn opens(&self) -> bool {
        self.flags & (Self::SYN | Self::ACK) == Self::SYN
    }

    #[inline(always)]
    pub(crate) fn fin(&self) -> bool {
        self.flags & Self::FIN != 0
    }

    #[inline(always)]
    pub(crate) fn rst(&self) -> bool {
        self.flags & Self::RST != 0
    }

    #[inline(always)]
    pub(crate) fn source_port(&self) -> [u8; 2] {
        halves(self.ports)[0]
    }

    #[inline(always)]
    pub(crate) fn destination_port(&self) -> [u8; 2] {
        halves(self.ports)[1]
    }
}

/// Both halves of a word of the packet, in the packet's order. The compiler does not join single bytes.
#[inline(always)]
fn halves(word: u32) -> [[u8; 2]; 2] {
    match word.to_ne_bytes().as_chunks::<2>().0 {
        [first, second] => [*first, *second],
        _ => [[0; 2]; 2],
    }
}
