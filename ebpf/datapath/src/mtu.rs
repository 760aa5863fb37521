//! Whether a packet fits its way.

use diolkos_abi::address::protocol;
use diolkos_abi::counter::DropReason;

use crate::headers::{ETHERNET, Ip, OFFSETS, UDP};
use crate::packet::Packet;

/// Whether a packet is small enough for a way that takes `mtu` bytes from the network header on; 0 for any size.
/// `false`: it may be cut, which the host's stack does. Refused when it may not; the MTU is noted for the answer.
#[inline(always)]
pub(crate) fn fits<const V6: bool, P: Packet>(packet: &mut P, ip: &Ip, mtu: u16) -> Result<bool, DropReason> {
    if mtu == 0 || packet.length() <= ETHERNET as u32 + mtu as u32 {
        return Ok(true);
    }
    match judge::<V6, P>(packet, ip, mtu) {
        Size::Fits => Ok(true),
        Size::MayBeCut => Ok(false),
        Size::TooBig => Err(DropReason::TooBig),
    }
}

/// What is to be done with a packet larger than its way takes.
#[derive(Clone, Copy)]
enum Size {
    /// A device cuts it into pieces that fit.
    Fits,
    MayBeCut,
    TooBig,
}

/// A BPF subprogram: most of such packets carry many segments, so that it costs little for each.
#[inline(never)]
fn judge<const V6: bool, P: Packet>(packet: &mut P, ip: &Ip, mtu: u16) -> Size {
    let piece = packet.gso_size();
    if piece != 0 {
        // The bound is for the verifier, which has lost it when the offset comes from memory.
        let l4 = ip.l4 & OFFSETS;
        let end = l4 + transport_header(packet, ip.protocol, l4);
        if end as u32 + piece <= ETHERNET as u32 + mtu as u32 {
            return Size::Fits;
        }
    }
    if !V6 && may_be_cut(packet) {
        return Size::MayBeCut;
    }
    packet.note(mtu as u32);
    Size::TooBig
}

/// Length of the transport header that each piece gets.
#[inline(always)]
fn transport_header<P: Packet>(packet: &P, protocol: u8, l4: usize) -> usize {
    if protocol != protocol::TCP {
        return UDP;
    }
    let Some([word]) = packet.load(l4 + 12) else { return 0 };
    let [offset, ..] = u32::to_ne_bytes(word);
    (offset >> 4) as usize * 4
}

/// An IPv4 packet without "don't fragment".
#[inline(always)]
fn may_be_cut<P: Packet>(packet: &P) -> bool {
    let Some([word]) = packet.load(ETHERNET + 4) else { return false };
    let [_, _, flags, _] = u32::to_ne_bytes(word);
    flags & 0x40 == 0
}
