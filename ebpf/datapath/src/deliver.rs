//! The last step of a packet: to a pod of this node, into the overlay, or to the stack.

use diolkos_abi::address::{address_words, v4_mapped};
use diolkos_abi::config::{Config, ENCAPSULATED_MARK, features};
use diolkos_abi::counter::{DropReason, Verdict};
use diolkos_abi::pod::Node;

use crate::Address;
use crate::family::{self, Words, equal, is_own, narrowed};
use crate::headers::Ip;
use crate::lookup;
use crate::mtu;
use crate::packet::Packet;
use crate::rewrite::{self, Ends};
use crate::tables::{Scratch, Tables};

/// What is known of the way to a destination outside this node's pod CIDR: a node id, or one of these.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Way(pub(crate) u32);

impl Way {
    /// Nothing: look it up. Also the node id of a backend of which none is known ([`crate::balance::Choice::node`]).
    pub(crate) const UNKNOWN: Self = Self(0);
    /// No pod: the host's stack knows the way.
    pub(crate) const STACK: Self = Self(u32::MAX);
}

/// Sends the packet in the scratch to its new ends, or refuses it as it came. The verdict is left in the scratch.
#[inline(never)]
pub(crate) fn deliver<const V6: bool, P: Packet, T: Tables>(
    config: &Config,
    packet: &mut P,
    tables: &mut T,
    scratch: &mut Scratch,
) -> Result<(), DropReason> {
    send::<V6, P, T>(config, packet, tables, scratch)
}

/// [`deliver`] within its caller.
#[inline(always)]
pub(crate) fn send<const V6: bool, P: Packet, T: Tables>(
    config: &Config,
    packet: &mut P,
    tables: &mut T,
    scratch: &mut Scratch,
) -> Result<(), DropReason> {
    scratch.verdict = if is_own::<V6>(config, &narrowed::<V6>(&scratch.ends.destination)) {
        to_own::<V6, P, T>(config, packet, tables, &mut scratch.ip, &scratch.ends)?
    } else {
        to_others::<V6, P, T>(config, packet, tables, scratch)?
    };
    Ok(())
}

/// Sends a packet that came for this node's pod CIDR to its new ends: to a pod, or to the stack when it is for the node
/// itself. The one place where the pod network lowers the hop limit.
#[inline(always)]
pub(crate) fn to_own<const V6: bool, P: Packet, T: Tables>(
    config: &Config,
    packet: &mut P,
    tables: &mut T,
    ip: &mut Ip,
    ends: &Ends,
) -> Result<Verdict, DropReason> {
    let destination = narrowed::<V6>(&ends.destination);
    // The node itself, under the gateway's address, or behind it: replies to its packets to a service come for that.
    if equal(&destination, &family::gateway::<V6>(config)) || !is_own::<V6>(config, &destination) {
        return to_host::<V6, P>(packet, ip, ends);
    }
    let pod = lookup::endpoint(tables, &destination).ok_or(DropReason::NoSuchPod)?;
    if ip.hop_limit::<V6>() <= 1 {
        return Err(DropReason::HopLimit);
    }
    if !mtu::fits::<V6, P>(packet, ip, pod.mtu)? {
        return to_stack::<V6, P>(packet, ip, ends);
    }
    rewrite::ends_here::<V6, P>(packet, ip, ends)?;
    rewrite::decrement_hop_limit::<V6, P>(packet, ip)?;
    rewrite::macs(packet, &pod.mac, &pod.host_mac)?;
    packet.redirect_to_pod(pod.ifindex);
    Ok(Verdict::Pod)
}

/// Refuses the packet in the scratch, to this node's pod CIDR, as [`deliver`] would.
#[inline(never)]
pub(crate) fn exists<const V6: bool, T: Tables>(
    config: &Config,
    tables: &mut T,
    scratch: &Scratch,
) -> Result<(), DropReason> {
    let destination = narrowed::<V6>(&scratch.ends.destination);
    if equal(&destination, &family::gateway::<V6>(config)) {
        return Ok(());
    }
    lookup::endpoint(tables, &destination).ok_or(DropReason::NoSuchPod)?;
    if scratch.ip.hop_limit::<V6>() <= 1 { Err(DropReason::HopLimit) } else { Ok(()) }
}

/// Sends a packet of a pod to its new ends: by the overlay device, or by the stack when no tunnel leads there.
#[inline(always)]
pub(crate) fn to_others<const V6: bool, P: Packet, T: Tables>(
    config: &Config,
    packet: &mut P,
    tables: &mut T,
    scratch: &mut Scratch,
) -> Result<Verdict, DropReason> {
    let Scratch { ip, ends, way, .. } = scratch;
    let destination = narrowed::<V6>(&ends.destination);
    let direct = config.features & features::DIRECT_ROUTING != 0;
    if (config.overlay_ifindex == 0 && !direct) || *way == Way::STACK {
        return to_stack::<V6, P>(packet, ip, ends);
    }
    let id = match way.0 {
        0 => lookup::route::<V6, T>(config, tables, &destination),
        id => id,
    };
    if id == 0 {
        return to_stack::<V6, P>(packet, ip, ends);
    }
    if direct {
        scratch.way = Way(id);
        to_neighbour::<V6, P, T>(config, packet, tables, scratch)?;
        return Ok(scratch.verdict);
    }
    let node = tables.node(id).ok_or(DropReason::NoSuchNode)?;
    // A backend on the network of its host: it is no pod, and no tunnel leads to it.
    if equal(&tunnel_end::<V6>(&node), &destination) {
        return to_stack::<V6, P>(packet, ip, ends);
    }
    let mtu = if node.mtu == 0 { config.overlay_mtu } else { node.mtu };
    if !mtu::fits::<V6, P>(packet, ip, mtu)? {
        return to_stack::<V6, P>(packet, ip, ends);
    }
    set_tunnel(config, packet, &node)?;
    rewrite::ends_here::<V6, P>(packet, ip, ends)?;
    rewrite::macs(packet, &node.mac, &config.overlay_mac)?;
    packet.set_mark(ENCAPSULATED_MARK);
    packet.redirect(config.overlay_ifindex);
    Ok(Verdict::Overlay)
}

/// Sends the packet in the scratch to the node of its way as its next hop, or by the host's routing when the node is no
/// neighbour.
///
/// A BPF subprogram, because the next hop would fill the stack of those who have a tunnel.
#[inline(never)]
fn to_neighbour<const V6: bool, P: Packet, T: Tables>(
    config: &Config,
    packet: &mut P,
    tables: &mut T,
    scratch: &mut Scratch,
) -> Result<(), DropReason> {
    let Scratch { ip, ends, way, verdict, .. } = scratch;
    let node = tables.node(way.0).ok_or(DropReason::NoSuchNode)?;
    let (ifindex, own) = (node.ifindex, equal(&tunnel_end::<V6>(&node), &narrowed::<V6>(&ends.destination)));
    let next_hop = if V6 { node.next_hop_v6 } else { v4_mapped(node.next_hop_v4) };
    let mtu = if node.mtu == 0 { config.overlay_mtu } else { node.mtu };
    *verdict = Verdict::Stack;
    if ifindex == 0 || own || !mtu::fits::<V6, P>(packet, ip, mtu)? {
        return rewrite::ends::<V6, P>(packet, ip, ends);
    }
    rewrite::ends::<V6, P>(packet, ip, ends)?;
    packet.redirect_neighbour(ifindex, &next_hop, V6);
    *verdict = Verdict::Neighbour;
    Ok(())
}

/// Leaves a packet with its new ends to the host's routing.
#[inline(always)]
fn to_stack<const V6: bool, P: Packet>(packet: &mut P, ip: &mut Ip, ends: &Ends) -> Result<Verdict, DropReason> {
    rewrite::ends::<V6, P>(packet, ip, ends)?;
    Ok(Verdict::Stack)
}

/// Leaves a packet for the node itself to its stack.
#[inline(always)]
fn to_host<const V6: bool, P: Packet>(packet: &mut P, ip: &mut Ip, ends: &Ends) -> Result<Verdict, DropReason> {
    rewrite::ends::<V6, P>(packet, ip, ends)?;
    packet.accept();
    Ok(Verdict::Stack)
}

/// Addresses a packet to a node: tunnel key and inner MACs.
#[inline(always)]
pub(crate) fn encapsulate<P: Packet>(config: &Config, packet: &mut P, node: &Node) -> Result<(), DropReason> {
    set_tunnel(config, packet, node)?;
    rewrite::macs(packet, &node.mac, &config.overlay_mac)
}

/// Sets the tunnel key.
#[inline(always)]
fn set_tunnel<P: Packet>(config: &Config, packet: &mut P, node: &Node) -> Result<(), DropReason> {
    let remote = remote(node).ok_or(DropReason::NoSuchNode)?;
    packet.set_tunnel(config.vni, &remote).ok_or(DropReason::NoTunnel)
}

/// The end of a node's tunnel.
#[inline(always)]
pub(crate) fn remote(node: &Node) -> Option<Address> {
    if u32::from_ne_bytes(node.tunnel_v4) != 0 {
        Some(v4_mapped(node.tunnel_v4))
    } else if !equal(&address_words(&node.tunnel_v6), &[0; 4]) {
        Some(node.tunnel_v6)
    } else {
        None
    }
}

/// A node's own address of one family.
#[inline(always)]
fn tunnel_end<const V6: bool>(node: &Node) -> Words {
    if V6 { address_words(&node.tunnel_v6) } else { family::mapped(u32::from_ne_bytes(node.tunnel_v4)) }
}
