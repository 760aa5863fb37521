//! The RST in answer to a segment (RFC 9293, 3.5.2 and 3.10.7.1).

use diolkos_abi::address::protocol;

use super::{pseudo_header, put_header};
use crate::checksum::{first_half, second_half, with_first_half};
use crate::headers::{ETHERNET, IPV6, Ip, TCP};
use crate::packet::Packet;

const FIN: u8 = 1 << 0;
const SYN: u8 = 1 << 1;
const RST: u8 = 1 << 2;
const ACK: u8 = 1 << 4;

/// Turns a segment into the RST of its receiver; `None` when it is a RST itself.
#[inline(always)]
pub(super) fn reset<const V6: bool, P: Packet>(packet: &mut P, refused: &Ip) -> Option<()> {
    let l4 = refused.l4;
    let [ports, sequence, acknowledged, word] = packet.load(l4)?;
    let [offset, flags, _, _] = word.to_ne_bytes();
    if flags & RST != 0 {
        return None;
    }
    let (sequence, acknowledged, flags) = if flags & ACK != 0 {
        (acknowledged, 0, RST)
    } else {
        let header = (offset >> 4) as usize * 4;
        let payload = end::<V6, P>(packet)?.saturating_sub(l4 + header) as u32;
        let length = payload + u32::from(flags & SYN != 0) + u32::from(flags & FIN != 0);
        (0, u32::from_be(sequence).wrapping_add(length).to_be(), RST | ACK)
    };
    let pending = packet.checksum_pending();
    packet.resize((l4 + TCP) as u32)?;
    let word = u32::from_ne_bytes([(TCP as u8 / 4) << 4, flags, 0, 0]);
    let ports = ports.rotate_left(16);
    let pseudo = pseudo_header::<V6>(&refused.destination, &refused.source, protocol::TCP, TCP as u32);
    let checksum =
        if pending { pseudo.folded() } else { pseudo.plus([ports, sequence, acknowledged, word]).checksum() };
    packet.store(l4, [ports, sequence, acknowledged, word, with_first_half(0, checksum)])?;
    put_header::<V6, P>(packet, &refused.destination, &refused.source, protocol::TCP, TCP as u32)
}

/// Where the segment ends by its IP header: what follows is padding. A segment above 64 KiB has no length.
#[inline(always)]
fn end<const V6: bool, P: Packet>(packet: &P) -> Option<usize> {
    let length = if V6 {
        packet.load(ETHERNET + 4).map(|[word]| first_half(word))
    } else {
        packet.load(ETHERNET).map(|[word]| second_half(word))
    }?;
    let length = u16::from_be(length) as usize;
    Some(if length == 0 { packet.length() as usize } else { ETHERNET + length + if V6 { IPV6 } else { 0 } })
}
