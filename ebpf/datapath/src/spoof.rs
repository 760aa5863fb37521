//! Who sends: a pod only from its own address and MAC, a node only for its own pods.

use diolkos_abi::address::{address_words, from_words, protocol};
use diolkos_abi::config::Config;
use diolkos_abi::counter::DropReason;
use diolkos_abi::pod::Source;

use crate::deliver;
use crate::family::{Words, equal, is_link_local_v6, mapped, narrowed};
use crate::headers::{ETHERNET, Ip, OFFSETS};
use crate::lookup;
use crate::packet::Packet;
use crate::tables::{Scratch, Step, Tables};

/// A MAC as the logic compares it: four bytes and two.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Mac(u32, u16);

impl Mac {
    const LENGTH: usize = 6;
    /// Offset of the sender's in a frame.
    const SENDER: usize = 6;

    #[inline(always)]
    fn of([a, b, c, d, e, f]: [u8; 6]) -> Self {
        Self(u32::from_ne_bytes([a, b, c, d]), u16::from_ne_bytes([e, f]))
    }

    /// The MAC at `at`, behind which the packet goes on for two bytes.
    #[inline(always)]
    fn load<P: Packet>(packet: &P, at: usize) -> Result<Self, DropReason> {
        let [first, second] = packet.load(at).ok_or(DropReason::Truncated)?;
        let [e, f, _, _] = second.to_ne_bytes();
        Ok(Self(first, u16::from_ne_bytes([e, f])))
    }
}

/// Compares the source of a pod's packet with what is remembered of its device, or with the pod itself.
#[inline(always)]
pub(crate) fn check<const V6: bool, P: Packet, T: Tables>(
    packet: &P,
    tables: &mut T,
    ip: &Ip,
) -> Result<(), DropReason> {
    let ifindex = packet.ingress_ifindex();
    let mac = Mac::load(packet, Mac::SENDER)?;
    if let Some(source) = tables.source(ifindex)
        && source.ifindex == ifindex
        && if V6 { equal(&address_words(&source.v6), &ip.source) } else { source.v4 == ip.source[3] }
        && Mac::of(source.mac) == mac
    {
        return Ok(());
    }
    // What a pod asks and says before it has an address, or where it needs none; [`neighbour`] looks at it.
    if V6 && ip.protocol == protocol::ICMPV6 && is_from_here(&ip.source) {
        return Ok(());
    }
    learn::<V6, T>(tables, ifindex, &ip.source, mac)
}

/// The unspecified address, or one that counts on this link only.
#[inline(always)]
fn is_from_here(source: &Words) -> bool {
    is_link_local_v6(source) || equal(source, &[0; 4])
}

/// Remembers what the pod of a device may send from.
///
/// A BPF subprogram: it is the path of a device's first packet only.
#[inline(never)]
fn learn<const V6: bool, T: Tables>(tables: &mut T, ifindex: u32, address: &Words, mac: Mac) -> Result<(), DropReason> {
    let address = narrowed::<V6>(address);
    belongs(tables, ifindex, &address, mac)?;
    let known = tables.source(ifindex).filter(|source| source.ifindex == ifindex).unwrap_or_default();
    let [a, b, c, d] = mac.0.to_ne_bytes();
    let [e, f] = mac.1.to_ne_bytes();
    let mac = [a, b, c, d, e, f];
    tables.remember_source(&if V6 {
        Source { ifindex, v6: from_words(address), mac, ..known }
    } else {
        Source { ifindex, v4: address[3], mac, ..known }
    });
    Ok(())
}

/// The address is that of the pod behind a device, and the MAC is too.
#[inline(always)]
fn belongs<T: Tables>(tables: &mut T, ifindex: u32, address: &Words, mac: Mac) -> Result<(), DropReason> {
    match lookup::endpoint(tables, address) {
        Some(pod) if pod.ifindex == ifindex => {
            if Mac::of(pod.mac) == mac {
                Ok(())
            } else {
                Err(DropReason::SpoofedMac)
            }
        }
        _ => Err(DropReason::SpoofedSource),
    }
}

/// A pod's ARP message speaks for the pod alone, or asks before it has an address (RFC 5227).
#[inline(never)]
pub(crate) fn arp<P: Packet, T: Tables>(packet: &mut P, tables: &mut T) -> Result<(), DropReason> {
    let sender = Mac::load(packet, Mac::SENDER)?;
    let spoken_for = Mac::load(packet, ETHERNET + 8)?;
    let [address] = packet.load(ETHERNET + 8 + Mac::LENGTH).ok_or(DropReason::Truncated)?;
    if spoken_for != sender {
        return Err(DropReason::SpoofedMac);
    }
    if address == 0 { Ok(()) } else { belongs(tables, packet.ingress_ifindex(), &mapped(address), sender) }
}

/// Types of ICMPv6 messages (RFC 4861, RFC 3810, RFC 2710).
mod kind {
    pub(super) const LISTENER_QUERY: u8 = 130;
    pub(super) const LISTENER_DONE: u8 = 132;
    pub(super) const ROUTER_SOLICITATION: u8 = 133;
    pub(super) const ROUTER_ADVERTISEMENT: u8 = 134;
    pub(super) const NEIGHBOUR_SOLICITATION: u8 = 135;
    pub(super) const NEIGHBOUR_ADVERTISEMENT: u8 = 136;
    pub(super) const REDIRECT: u8 = 137;
    pub(super) const LISTENER_REPORT_V2: u8 = 143;
}

/// Options of a message that are looked at; nothing sends more than two.
const OPTIONS: usize = 4;
/// Link-layer address of the source, and of the target.
const LINK_ADDRESSES: [u8; 2] = [1, 2];

/// What a pod says to its neighbour, the host: `true`, and it is the stack's. It speaks for the pod alone, and routers no
/// pod is. From an address that counts on this link only, nothing else is believed.
#[inline(never)]
pub(crate) fn neighbour<P: Packet, T: Tables>(
    packet: &mut P,
    tables: &mut T,
    scratch: &mut Scratch,
) -> Result<bool, DropReason> {
    let at = scratch.ip.l4 & OFFSETS;
    packet.pull(at + 8);
    let [head] = packet.load(at).ok_or(DropReason::Truncated)?;
    let (target, mut options) = match head.to_ne_bytes()[0] {
        kind::ROUTER_ADVERTISEMENT | kind::REDIRECT => return Err(DropReason::SpoofedSource),
        kind::LISTENER_QUERY..=kind::LISTENER_DONE | kind::LISTENER_REPORT_V2 => return Ok(true),
        kind::ROUTER_SOLICITATION => (false, at + 8),
        // What a pod asks about others is no claim, unless it has no address yet.
        kind::NEIGHBOUR_SOLICITATION => (equal(&scratch.ip.source, &[0; 4]), at + 24),
        kind::NEIGHBOUR_ADVERTISEMENT => (true, at + 24),
        _ if is_from_here(&scratch.ip.source) => return Err(DropReason::SpoofedSource),
        _ => return Ok(false),
    };
    let sender = Mac::load(packet, Mac::SENDER)?;
    if target {
        packet.pull(at + 24);
        let address: Words = packet.load(at + 8).ok_or(DropReason::Truncated)?;
        if !is_link_local_v6(&address) {
            belongs(tables, packet.ingress_ifindex(), &address, sender)?;
        }
    }
    let mut looked_at = 0;
    while looked_at < OPTIONS {
        packet.pull(options + 8);
        let Some([head, tail]) = packet.load(options) else { return Ok(true) };
        let [kind, length, a, b] = head.to_ne_bytes();
        let [c, d, e, f] = tail.to_ne_bytes();
        if LINK_ADDRESSES.contains(&kind) && Mac::of([a, b, c, d, e, f]) != sender {
            return Err(DropReason::SpoofedMac);
        }
        options = (options + length as usize * 8) & OFFSETS;
        looked_at += 1;
    }
    Ok(true)
}

/// The overlay packet is of this cluster, and came from the node on which its source lives, or whose own address that is.
#[inline(never)]
pub(crate) fn check_peer<const V6: bool, P: Packet, T: Tables>(
    config: &Config,
    packet: &mut P,
    tables: &mut T,
    scratch: &mut Scratch,
) -> Result<(), DropReason> {
    let tunnel = packet.tunnel().ok_or(DropReason::NoTunnel)?;
    if tunnel.vni != config.vni {
        return Err(DropReason::WrongVni);
    }
    let source = narrowed::<V6>(&scratch.ip.source);
    let remote = address_words(&tunnel.remote);
    let id = match lookup::route::<V6, T>(config, tables, &source) {
        0 => {
            scratch.step = Step::Expect;
            lookup::node_at(tables, &source)
        }
        id => id,
    };
    let node = tables.node(id).filter(|_| id != 0).ok_or(DropReason::UnknownPeer)?;
    match deliver::remote(&node) {
        Some(end) if equal(&address_words(&end), &remote) => Ok(()),
        _ => Err(DropReason::UnknownPeer),
    }
}
