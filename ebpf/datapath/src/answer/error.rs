//! The ICMP error in answer to a packet (RFC 792, RFC 1812 4.3.2, RFC 4443).

use diolkos_abi::address::protocol;

use super::{header, pseudo_header, put_header};
use crate::checksum::{Sum, first_half, second_half, with_second_half};
use crate::family::Words;
use crate::headers::{ETHERNET, Ip, TCP, UDP};
use crate::packet::Packet;

/// Length of the header of an ICMP error.
const HEADER: usize = 8;
/// Longest quote, words: an IPv4 header with all its options, or an IPv6 header with a few extension headers.
const QUOTE_WORDS: usize = 32;

/// Type and code of an ICMP error, and the word behind its checksum.
#[derive(Clone, Copy)]
pub(super) struct Message {
    pub(super) kind: u8,
    pub(super) code: u8,
    pub(super) detail: u32,
}

/// Turns a packet into an ICMP error about it. What is quoted stays where it is: the packet is cut behind it, and the
/// headers come in front.
///
/// So a checksum that is left to the device stays within the quote. When the device computes it, over the quote and
/// into the quote, everything from the quoted transport header on sums up to the complement of what the field holds
/// now, and the checksum of the error is written for that. A receiver on this machine checks neither.
#[inline(always)]
pub(super) fn error<const V6: bool, P: Packet>(
    packet: &mut P,
    refused: &Ip,
    from: &Words,
    message: Message,
) -> Option<()> {
    // What is asked for is 8 bytes; a TCP checksum left to the device stands behind those.
    let behind = if refused.protocol == protocol::TCP { TCP } else { UDP };
    let quoted = refused.l4 - ETHERNET + behind;
    if packet.length() < (ETHERNET + quoted) as u32 {
        return None;
    }
    let quote = if packet.checksum_pending() {
        let pending = pending(packet, refused)?;
        sum(packet, (refused.l4 - ETHERNET) / 4)?.plus_half(!pending)
    } else {
        sum(packet, quoted / 4)?
    };
    let length = (HEADER + quoted) as u32;
    let number = if V6 { protocol::ICMPV6 } else { protocol::ICMP };
    let head = u32::from_ne_bytes([message.kind, message.code, 0, 0]);
    let mut total = quote.plus([head, message.detail]);
    if V6 {
        total = total.joined(pseudo_header::<V6>(from, &refused.source, number, length));
    }
    packet.resize((ETHERNET + quoted) as u32)?;
    packet.make_room((header::<V6>() + HEADER) as u32)?;
    let at = ETHERNET + header::<V6>();
    packet.store(at, [with_second_half(head, total.checksum()), message.detail])?;
    put_header::<V6, P>(packet, from, &refused.source, number, length)
}

/// The pending checksum field of the refused packet; `None` for a protocol whose field is no Internet checksum.
#[inline(always)]
fn pending<P: Packet>(packet: &P, refused: &Ip) -> Option<u16> {
    match refused.protocol {
        protocol::TCP => packet.load(refused.l4 + 16).map(|[word]| first_half(word)),
        protocol::UDP => packet.load(refused.l4 + 4).map(|[word]| second_half(word)),
        _ => None,
    }
}

/// The sum of the first words of the network packet; `None` when they are too many.
#[inline(always)]
fn sum<P: Packet>(packet: &mut P, words: usize) -> Option<Sum> {
    if words > QUOTE_WORDS {
        return None;
    }
    packet.pull(ETHERNET + words * 4);
    let mut sum = Sum::of([]);
    let mut i = 0;
    while i < QUOTE_WORDS {
        if i == words {
            break;
        }
        sum = sum.plus(packet.load::<1>(ETHERNET + i * 4)?);
        i += 1;
    }
    Some(sum)
}
