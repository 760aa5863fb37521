//! The last step of a packet: to a pod of this node, into the overlay, or to the stack.

use diolkos_abi::config::Config;
use diolkos_abi::counter::{DropReason, Verdict};
use diolkos_abi::pod::Node;

use crate::headers::Ipv4;
use crate::lookup::{self, masked};
use crate::packet::Packet;
use crate::rewrite;
use crate::tables::Tables;

/// What is known of the way to a destination outside this node's pod CIDR.
#[derive(Clone, Copy)]
pub(crate) enum Way {
    /// Nothing: look it up.
    Unknown,
    /// Through the tunnel of this node id.
    Node(u32),
    /// No pod: the host's stack knows the way.
    Stack,
}

/// The address lies in this node's pod CIDR.
#[inline(always)]
pub(crate) fn is_own(config: &Config, v4: [u8; 4]) -> bool {
    masked(v4, config.route_mask_v4) == config.pod_cidr_v4
}

/// Hands a packet to a pod of this node, or to the stack when it is for the node itself. `ip.destination` lies in
/// this node's pod CIDR. The one place where the pod network lowers the hop limit.
#[inline(always)]
pub(crate) fn to_own<P: Packet, T: Tables>(
    config: &Config,
    packet: &mut P,
    tables: &mut T,
    ip: &Ipv4,
) -> Result<Verdict, DropReason> {
    if ip.destination == config.gateway_v4 {
        packet.accept();
        return Ok(Verdict::Stack);
    }
    let pod = lookup::endpoint(tables, ip.destination).ok_or(DropReason::NoSuchPod)?;
    rewrite::decrement_hop_limit(packet, ip)?;
    rewrite::macs(packet, &pod.mac, &pod.host_mac)?;
    packet.redirect_to_pod(pod.ifindex);
    Ok(Verdict::Pod)
}

/// Hands a packet of a pod to the overlay device, or to the stack when no tunnel leads to its destination.
#[inline(always)]
pub(crate) fn to_others<P: Packet, T: Tables>(
    config: &Config,
    packet: &mut P,
    tables: &mut T,
    ip: &Ipv4,
    way: Way,
) -> Result<Verdict, DropReason> {
    if config.overlay_ifindex == 0 {
        return Ok(Verdict::Stack);
    }
    let id = match way {
        Way::Node(id) => id,
        Way::Stack => return Ok(Verdict::Stack),
        Way::Unknown => match lookup::route(config, tables, ip.destination) {
            Some(id) => id,
            None => return Ok(Verdict::Stack),
        },
    };
    let node = tables.node(id).ok_or(DropReason::NoSuchNode)?;
    // A backend on the network of its host: it is no pod, and no tunnel leads to it.
    if node.tunnel_v4 == ip.destination {
        return Ok(Verdict::Stack);
    }
    encapsulate(config, packet, &node)?;
    packet.set_mark(diolkos_abi::config::ENCAPSULATED_MARK);
    packet.redirect(config.overlay_ifindex);
    Ok(Verdict::Overlay)
}

/// Addresses a packet to a node: inner MACs and tunnel key.
#[inline(always)]
pub(crate) fn encapsulate<P: Packet>(config: &Config, packet: &mut P, node: &Node) -> Result<(), DropReason> {
    if node.tunnel_v4 == [0; 4] {
        return Err(DropReason::NoSuchNode);
    }
    rewrite::macs(packet, &node.mac, &config.overlay_mac)?;
    packet.set_tunnel(config.vni, node.tunnel_v4).ok_or(DropReason::NoTunnel)
}
