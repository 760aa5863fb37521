//! Refusals that tell the sender: a RST or an ICMP error takes the place of the packet and goes back where it came from.

mod error;
mod reset;

use diolkos_abi::address::protocol;
use diolkos_abi::config::{ANSWERED_MARK, Config, ENCAPSULATED_MARK};
use diolkos_abi::counter::{DropReason, Hook, Verdict};

use crate::checksum::{Sum, with_second_half};
use crate::family::{self, Words};
use crate::headers::{self, ETHERNET, IPV4, IPV6, Ip, Kind, Part};
use crate::icmp;
use crate::packet::Packet;
use crate::rewrite;
use crate::tables::Tables;
use error::Message;

/// Length of an IP header without options or extension headers.
const fn header<const V6: bool>() -> usize {
    if V6 { IPV6 } else { IPV4 }
}

/// Hop limit of an answer.
const HOPS: u8 = 64;

/// Answers a packet that `hook` refused for `reason` and left as it came. `None` when the refusal stays silent; then the
/// packet may have been cut, and must be dropped.
///
/// A function of its own, and so a BPF subprogram with a stack of its own.
#[inline(never)]
pub fn answer<P: Packet, T: Tables>(
    hook: Hook,
    reason: DropReason,
    config: &Config,
    packet: &mut P,
    tables: &mut T,
) -> Option<Verdict> {
    if !is_told(reason) {
        return None;
    }
    match headers::kind(packet).ok()? {
        Kind::V4 => turn::<false, P, T>(hook, reason, config, packet, tables)?,
        Kind::V6 => turn::<true, P, T>(hook, reason, config, packet, tables)?,
        Kind::Arp | Kind::Tagged | Kind::Other => return None,
    }
    send_back(hook, config, packet)?;
    Some(Verdict::Answered)
}

/// The sender can do something about it, or shall know soon that it waits in vain.
#[inline(always)]
const fn is_told(reason: DropReason) -> bool {
    matches!(
        reason,
        DropReason::NoEndpoints
            | DropReason::UnknownPort
            | DropReason::NoSuchPod
            | DropReason::BackendGone
            | DropReason::ConnectionUnknown
            | DropReason::TooBig
            | DropReason::HopLimit
    )
}

/// Puts the answer in the packet's place.
#[inline(always)]
fn turn<const V6: bool, P: Packet, T: Tables>(
    hook: Hook,
    reason: DropReason,
    config: &Config,
    packet: &mut P,
    tables: &mut T,
) -> Option<()> {
    let refused = headers::parse::<V6, P>(packet).ok()?;
    if !may_be_told::<V6, P>(packet, &refused) || !tables.answers() {
        return None;
    }
    // Behind options or extension headers a RST would have its place elsewhere than the segment had; ICMP says it too.
    let plain = refused.l4 == ETHERNET + header::<V6>();
    if refused.protocol == protocol::TCP && plain && !matches!(reason, DropReason::TooBig | DropReason::HopLimit) {
        return reset::reset::<V6, P>(packet, &refused);
    }
    let message = message::<V6>(reason, refused.protocol, packet.noted());
    let from = speaker::<V6>(hook, reason, config, &refused);
    error::error::<V6, P>(packet, &refused, &from, message)
}

/// Errors and what goes to many are not answered (RFC 1122 3.2.2, RFC 4443 2.4 e), nor what nobody can be reached by.
#[inline(always)]
fn may_be_told<const V6: bool, P: Packet>(packet: &P, refused: &Ip) -> bool {
    let is_icmp = matches!(refused.protocol, protocol::ICMP | protocol::ICMPV6);
    refused.fragment.kind != Part::Later
        && !(is_icmp && icmp::is_error(packet, refused))
        && is_one::<V6>(&refused.source)
        && is_one::<V6>(&refused.destination)
}

/// An address of one machine, as far as one can tell from the address.
#[inline(always)]
fn is_one<const V6: bool>(address: &Words) -> bool {
    let [a, b, c, d] = *address;
    if V6 {
        let [first, ..] = a.to_ne_bytes();
        first != 0xff && a | b | c | d != 0
    } else {
        let [first, ..] = d.to_ne_bytes();
        first != 0 && first != 127 && first < 224
    }
}

/// What is said about a reason.
#[inline(always)]
fn message<const V6: bool>(reason: DropReason, protocol: u8, mtu: u32) -> Message {
    let (kind, code, detail) = match (reason, V6) {
        (DropReason::TooBig, false) => (3, 4, (mtu & 0xffff).to_be()),
        (DropReason::TooBig, true) => (2, 0, mtu.to_be()),
        (DropReason::HopLimit, false) => (11, 0, 0),
        (DropReason::HopLimit, true) => (3, 0, 0),
        (DropReason::NoSuchPod, false) if !has_ports(protocol) => (3, 1, 0),
        (DropReason::NoSuchPod, true) if !has_ports(protocol) => (1, 3, 0),
        (_, false) => (3, 3, 0),
        (_, true) => (1, 4, 0),
    };
    Message { kind, code, detail }
}

#[inline(always)]
const fn has_ports(protocol: u8) -> bool {
    matches!(protocol, protocol::TCP | protocol::UDP)
}

/// Who says so: the address that was dialled, or the node where the network is to blame. The host's own stack takes
/// nothing from an address of its own, so to it the dialled address speaks always.
#[inline(always)]
fn speaker<const V6: bool>(hook: Hook, reason: DropReason, config: &Config, refused: &Ip) -> Words {
    let speaker = match (hook, reason) {
        (Hook::FromContainer | Hook::FromOverlay, DropReason::TooBig | DropReason::HopLimit) => {
            family::gateway::<V6>(config)
        }
        (Hook::FromNetdev, DropReason::TooBig | DropReason::HopLimit) => family::node::<V6>(config),
        _ => return refused.destination,
    };
    if is_one::<V6>(&speaker) { speaker } else { refused.destination }
}

/// The sum of the pseudo header (RFC 9293 3.1, RFC 8200 8.1).
#[inline(always)]
fn pseudo_header<const V6: bool>(from: &Words, to: &Words, protocol: u8, length: u32) -> Sum {
    let rest = (u32::from(protocol) << 16 | length).to_be();
    let [[a, b, c, d], [e, f, g, h]] = [*from, *to];
    if V6 { Sum::of([a, b, c, d, e, f, g, h, rest]) } else { Sum::of([d, h, rest]) }
}

/// Writes the IP header of an answer with `length` bytes behind it.
#[inline(always)]
fn put_header<const V6: bool, P: Packet>(
    packet: &mut P,
    from: &Words,
    to: &Words,
    protocol: u8,
    length: u32,
) -> Option<()> {
    let [[a, b, c, d], [e, f, g, h]] = [*from, *to];
    if V6 {
        let first = 0x6000_0000_u32.to_be();
        let hops = (length << 16 | u32::from(protocol) << 8 | u32::from(HOPS)).to_be();
        return packet.store(ETHERNET, [first, hops, a, b, c, d, e, f, g, h]);
    }
    let first = (0x4500_0000 | (header::<V6>() as u32 + length)).to_be();
    let unfragmented = 0x0000_4000_u32.to_be();
    let hops = (u32::from(HOPS) << 24 | u32::from(protocol) << 16).to_be();
    let checksum = Sum::of([first, unfragmented, hops, d, h]).checksum();
    packet.store(ETHERNET, [first, unfragmented, with_second_half(hops, checksum), d, h])
}

/// Sends the answer the way the packet came.
#[inline(always)]
fn send_back<P: Packet>(hook: Hook, config: &Config, packet: &mut P) -> Option<()> {
    rewrite::swap_macs(packet)?;
    let ifindex = packet.ifindex();
    match hook {
        Hook::FromContainer => packet.redirect_to_pod(ifindex),
        Hook::FromOverlay => {
            // The tunnel it came through: its remote end was checked against the packet's source.
            let remote = packet.tunnel()?.remote;
            packet.set_tunnel(config.vni, &remote)?;
            packet.set_mark(ENCAPSULATED_MARK);
            packet.redirect(ifindex);
        }
        Hook::FromNetdev => packet.redirect(ifindex),
        Hook::ToContainer | Hook::ToNetdev => packet.redirect_ingress(ifindex),
        Hook::ToOverlay => {
            packet.set_mark(ANSWERED_MARK);
            packet.redirect_ingress(ifindex);
        }
        Hook::Connect | Hook::GetPeerName | Hook::SendMsg | Hook::RecvMsg => return None,
    }
    Some(())
}
