//! Ethernet, IP, TCP and UDP headers: where they are, and whether they can be believed.

use diolkos_abi::address::protocol;
use diolkos_abi::counter::DropReason;

use crate::extension::{self, Walked};
use crate::family::{Words, is_mapped, mapped, narrowed};
use crate::packet::Packet;

/// Length of an Ethernet header without tags.
pub(crate) const ETHERNET: usize = 14;
/// Length of an IPv6 header.
pub(crate) const IPV6: usize = 40;
/// Length of an IPv4 header without options.
pub(crate) const IPV4: usize = 20;
/// Length of a TCP header without options.
pub(crate) const TCP: usize = 20;
/// Length of a UDP header.
pub(crate) const UDP: usize = 8;

/// The offset of every transport header lies below it, behind as many extension headers as are looked through. It
/// bounds offsets for the verifier.
pub(crate) const OFFSETS: usize = 0x3fff;

/// What follows the Ethernet header.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    V4,
    V6,
    Arp,
    /// A VLAN tag in the packet or beside it.
    Tagged,
    Other,
}

/// Reads the type of the network protocol.
#[inline(always)]
pub(crate) fn kind<P: Packet>(packet: &mut P) -> Result<Kind, DropReason> {
    packet.pull(ETHERNET + IPV4 + TCP);
    if packet.tagged() {
        return Ok(Kind::Tagged);
    }
    let [word] = packet.load(ETHERNET - 2).ok_or(DropReason::Truncated)?;
    let [high, low, _, _] = word.to_ne_bytes();
    Ok(match u16::from_be_bytes([high, low]) {
        0x0800 => Kind::V4,
        0x86dd => Kind::V6,
        0x0806 => Kind::Arp,
        0x8100 | 0x88a8 => Kind::Tagged,
        _ => Kind::Other,
    })
}

/// The network header of a packet, and the transport header behind it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ip {
    pub(crate) source: Words,
    pub(crate) destination: Words,
    /// The word with the hop limit as it stands in the packet, at [`hop_word_at`]. Of IPv4 `hop limit, protocol, header
    /// checksum`; of IPv6 `payload length, next header, hop limit`.
    pub(crate) hop_word: u32,
    /// [`diolkos_abi::address::protocol`]; of IPv6 what follows the extension headers.
    pub(crate) protocol: u8,
    /// Offset of what follows the network header and its extensions.
    pub(crate) l4: usize,
    pub(crate) fragment: Fragment,
    /// [`Transport::NONE`] for other protocols than TCP and UDP, and for fragments but the first.
    pub(crate) transport: Transport,
}

/// The part of a packet in fragments.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Fragment {
    pub(crate) kind: Part,
    /// As it stands in the packet; of IPv4 in the low 16 bits.
    pub(crate) identification: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Part {
    Whole,
    /// It has the transport header.
    First,
    Later,
}

/// The ports of a packet, if it has any. An `Option` would leave registers without a value, which the verifier minds.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Transport {
    /// There are ports.
    pub(crate) known: bool,
    /// Offset of the header; 0 in a later fragment, whose header went ahead.
    pub(crate) at: usize,
    /// Source and destination port, as they stand in the packet.
    pub(crate) ports: u32,
    /// Of TCP, where the packet has the header; else 0.
    flags: u8,
}

/// Offset of [`Ip::hop_word`].
#[inline(always)]
pub(crate) const fn hop_word_at<const V6: bool>() -> usize {
    ETHERNET + if V6 { 4 } else { 8 }
}

/// Offset of the source address; the destination follows it.
#[inline(always)]
pub(crate) const fn source_at<const V6: bool>() -> usize {
    ETHERNET + if V6 { 8 } else { 12 }
}

/// Reads the headers of a packet of this family.
#[inline(always)]
pub(crate) fn parse<const V6: bool, P: Packet>(packet: &mut P) -> Result<Ip, DropReason> {
    if V6 { parse_v6(packet) } else { parse_v4(packet) }
}

#[inline(always)]
fn parse_v4<P: Packet>(packet: &mut P) -> Result<Ip, DropReason> {
    let [first, fragment, hop_word, source, destination] = packet.load(ETHERNET).ok_or(DropReason::Truncated)?;
    let [version_length, _, length_high, length_low] = first.to_ne_bytes();
    let header = (version_length & 0x0f) as usize * 4;
    let total = u16::from_be_bytes([length_high, length_low]) as usize;
    // A length of 0 is that of a segment above 64 KiB that the device will cut (BIG TCP).
    if version_length >> 4 != 4 || header < IPV4 || (total != 0 && total < header) {
        return Err(DropReason::Malformed);
    }
    let [id_high, id_low, fragment_high, fragment_low] = fragment.to_ne_bytes();
    let kind = match ((fragment_high & 0x1f) | fragment_low, fragment_high & 0x20) {
        (0, 0) => Part::Whole,
        (0, _) => Part::First,
        _ => Part::Later,
    };
    let [_, protocol, _, _] = hop_word.to_ne_bytes();
    let l4 = ETHERNET + header;
    if header != IPV4 {
        packet.pull(l4 + TCP);
    }
    let rest = if total == 0 { usize::MAX } else { total - header };
    Ok(Ip {
        source: mapped(source),
        destination: mapped(destination),
        hop_word,
        protocol,
        l4,
        fragment: Fragment { kind, identification: u16::from_ne_bytes([id_high, id_low]) as u32 },
        transport: if kind == Part::Later { Transport::NONE } else { transport(packet, l4, protocol, rest)? },
    })
}

#[inline(always)]
fn parse_v6<P: Packet>(packet: &mut P) -> Result<Ip, DropReason> {
    packet.pull(ETHERNET + IPV6 + TCP);
    let [first, hop_word] = packet.load(ETHERNET).ok_or(DropReason::Truncated)?;
    let [a, b, c, d, e, f, g, h] = packet.load(source_at::<true>()).ok_or(DropReason::Truncated)?;
    let (source, destination) = ([a, b, c, d], [e, f, g, h]);
    if first.to_ne_bytes()[0] >> 4 != 6 {
        return Err(DropReason::Malformed);
    }
    if is_mapped(&source) || is_mapped(&destination) {
        return Err(DropReason::MappedAddress);
    }
    let [length_high, length_low, next, _] = hop_word.to_ne_bytes();
    let mut walked =
        Walked { protocol: next, at: ETHERNET + IPV6, fragment: Fragment { kind: Part::Whole, identification: 0 } };
    if extension::is_one(next) {
        extension::walk(packet, &mut walked)?;
        packet.pull(walked.at + TCP);
    }
    let Walked { protocol, at: l4, fragment } = walked;
    // As for IPv4.
    let payload = u16::from_be_bytes([length_high, length_low]) as usize;
    let extensions = l4 - ETHERNET - IPV6;
    if payload != 0 && payload < extensions {
        return Err(DropReason::Malformed);
    }
    let rest = if payload == 0 { usize::MAX } else { payload - extensions };
    let later = fragment.kind == Part::Later;
    let transport = if later { Transport::NONE } else { transport(packet, l4, protocol, rest)? };
    Ok(Ip { source, destination, hop_word, protocol, l4, fragment, transport })
}

/// Reads a TCP or UDP header. `rest` is what the network header says is left.
#[inline(always)]
fn transport<P: Packet>(packet: &P, at: usize, protocol: u8, rest: usize) -> Result<Transport, DropReason> {
    let flags = match protocol {
        protocol::TCP => {
            if rest < TCP {
                return Err(DropReason::Truncated);
            }
            let [offset_flags, _] = packet.load(at + 12).ok_or(DropReason::Truncated)?;
            let [offset, flags, _, _] = offset_flags.to_ne_bytes();
            if (offset >> 4) as usize * 4 < TCP {
                return Err(DropReason::Malformed);
            }
            flags
        }
        protocol::UDP => {
            if rest < UDP {
                return Err(DropReason::Truncated);
            }
            0
        }
        _ => return Ok(Transport::NONE),
    };
    let [ports, _] = packet.load(at).ok_or(DropReason::Truncated)?;
    Ok(Transport { known: true, at, ports, flags })
}

impl Ip {
    /// See [`crate::tables::Scratch::soiled`].
    pub(crate) const SOILED: Self = Self {
        source: [9; 4],
        destination: [9; 4],
        hop_word: 9,
        protocol: 9,
        l4: 9,
        fragment: Fragment { kind: Part::Later, identification: 9 },
        transport: Transport { known: true, at: 9, ports: 9, flags: 9 },
    };

    /// The same, where the compiler lost sight of the words that all addresses of the family share.
    #[inline(always)]
    pub(crate) fn narrowed<const V6: bool>(&self) -> Self {
        let (source, destination) = (narrowed::<V6>(&self.source), narrowed::<V6>(&self.destination));
        Self { source, destination, ..*self }
    }

    #[inline(always)]
    pub(crate) fn hop_limit<const V6: bool>(&self) -> u8 {
        let [v4, _, _, v6] = self.hop_word.to_ne_bytes();
        if V6 { v6 } else { v4 }
    }
}

impl Transport {
    pub(crate) const NONE: Self = Self { known: false, at: 0, ports: 0, flags: 0 };

    const FIN: u8 = 1 << 0;
    const SYN: u8 = 1 << 1;
    const RST: u8 = 1 << 2;
    const ACK: u8 = 1 << 4;

    /// The ports of a later fragment.
    #[inline(always)]
    pub(crate) fn remembered(ports: u32) -> Self {
        Self { known: true, at: 0, ports, flags: 0 }
    }

    /// The same with other ports.
    #[inline(always)]
    pub(crate) fn with_ports(&self, ports: u32) -> Self {
        Self { ports, ..*self }
    }

    /// What has no connections: its two ends at `at`.
    #[inline(always)]
    pub(crate) fn of_datagram(at: usize, ports: u32) -> Self {
        Self { known: true, at, ports, flags: 0 }
    }

    /// The packet is a TCP segment that opens a connection.
    #[inline(always)]
    pub(crate) fn opens(&self) -> bool {
        self.flags & (Self::SYN | Self::ACK) == Self::SYN
    }

    /// The packet is the answer to a TCP segment that opens a connection, which it takes.
    #[inline(always)]
    pub(crate) fn accepts(&self) -> bool {
        self.flags & (Self::SYN | Self::ACK) == Self::SYN | Self::ACK
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
pub(crate) fn halves(word: u32) -> [[u8; 2]; 2] {
    match word.to_ne_bytes().as_chunks::<2>().0 {
        [first, second] => [*first, *second],
        _ => [[0; 2]; 2],
    }
}

/// The word of two ports.
#[inline(always)]
pub(crate) fn ports(source: [u8; 2], destination: [u8; 2]) -> u32 {
    u32::from_ne_bytes([source[0], source[1], destination[0], destination[1]])
}
