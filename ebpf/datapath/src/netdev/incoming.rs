//! What the network sends to the node: answers to masqueraded pods and to the node's packets to services, and, without an
//! overlay, packets of other nodes' pods.

use diolkos_abi::config::{Config, features};
use diolkos_abi::conntrack::direction;
use diolkos_abi::counter::{DropReason, Verdict};

use super::echo;
use crate::connection;
use crate::deliver::{self, Way};
use crate::family::{self, equal, is_own, narrowed};
use crate::fragment;
use crate::headers::{self, Ip, Part};
use crate::icmp;
use crate::masquerade;
use crate::packet::Packet;
use crate::rewrite::{self, Ends};
use crate::tables::{Scratch, Tables};

/// What a packet is.
#[derive(PartialEq, Eq)]
enum Found {
    /// The host's.
    Other,
    /// An ICMP error, which may be about one of ours.
    Error,
    /// For this node's address, with a port that may be one of ours.
    Node,
    /// For a pod, from another node.
    Pod,
}

/// [`super::from_netdev`] of one family.
#[inline(always)]
pub(super) fn received<const V6: bool, P: Packet, T: Tables>(
    config: &Config,
    packet: &mut P,
    tables: &mut T,
) -> Result<Verdict, DropReason> {
    let mut scratch = tables.scratch().ok_or(DropReason::ConntrackFull)?;
    scratch.verdict = Verdict::Untouched;
    let found = recognise::<V6, P>(config, packet, &mut scratch);
    if found == Found::Other {
        return Ok(Verdict::Untouched);
    }
    if scratch.ip.fragment.kind != Part::Whole {
        fragment::resolve::<V6, T>(config, tables, &mut scratch)?;
    }
    match found {
        Found::Error => {
            // The pod may know who it talks to as a service, and the node's own packets to one left under its address.
            icmp::translate::<V6, P, T>(config, packet, tables, &mut scratch, direction::OUTSIDE)?;
            icmp::translate::<V6, P, T>(config, packet, tables, &mut scratch, direction::WIRE)?;
            let for_pod = is_own::<V6>(config, &narrowed::<V6>(&scratch.ends.destination));
            let direct = config.features & features::DIRECT_ROUTING != 0;
            if !for_pod || (scratch.verdict == Verdict::Untouched && !direct) {
                return Ok(scratch.verdict);
            }
        }
        Found::Pod => {
            connection::reply(config, tables, &mut scratch);
        }
        Found::Node | Found::Other => {
            if !returned(config, tables, &mut scratch) {
                return Ok(Verdict::Untouched);
            }
        }
    }
    if !is_own::<V6>(config, &narrowed::<V6>(&scratch.ends.destination)) {
        // The answer to a packet of the node itself.
        restore::<V6, P>(packet, &mut scratch)?;
        return Ok(Verdict::Translated);
    }
    if found == Found::Node && echo::is_one(&scratch) {
        deliver::exists::<V6, T>(config, tables, &scratch)?;
        echo::replace::<V6, P>(packet, &mut scratch)?;
    }
    deliver::deliver::<V6, P, T>(config, packet, tables, &mut scratch)?;
    Ok(scratch.verdict)
}

/// Reads a packet into the scratch.
#[inline(never)]
fn recognise<const V6: bool, P: Packet>(config: &Config, packet: &mut P, scratch: &mut Scratch) -> Found {
    let Ok(mut ip) = headers::parse::<V6, P>(packet) else { return Found::Other };
    let for_node = equal(&ip.destination, &family::node::<V6>(config));
    let direct = config.features & features::DIRECT_ROUTING != 0 && is_own::<V6>(config, &ip.destination);
    if !for_node && !direct {
        return Found::Other;
    }
    let is_error = icmp::is_error(packet, &ip);
    if for_node {
        echo::as_flow(packet, &mut ip);
        // A fragment without ports may be of a packet that has one of ours.
        let known = ip.transport.known || ip.fragment.kind == Part::Later;
        let ours = ip.fragment.kind == Part::Later || masquerade::is_ours(config, ip.transport.destination_port());
        if !(is_error || known && ours) {
            return Found::Other;
        }
    }
    (scratch.ip, scratch.ends, scratch.way) = (ip, Ends::of(&ip), Way::UNKNOWN);
    match (is_error, for_node) {
        (true, _) => Found::Error,
        (false, true) => Found::Node,
        (false, false) => Found::Pod,
    }
}

/// Says what the ends of a packet to the node become, if it answers a pod that was masqueraded or a packet of the node to
/// a service. The answer to a pod may come from a service's backend outside.
#[inline(never)]
fn returned<T: Tables>(config: &Config, tables: &mut T, scratch: &mut Scratch) -> bool {
    let Scratch { ip, ends, .. } = scratch;
    if !ip.transport.known {
        return false;
    }
    if !masquerade::incoming(config, tables, ip, ends) {
        return connection::find_reply(config, tables, ip, ends);
    }
    let inside = Ip { destination: ends.destination, transport: ip.transport.with_ports(ends.ports), ..*ip };
    connection::find_reply(config, tables, &inside, ends);
    true
}

/// Gives a packet to the node the ends that its process knows.
#[inline(never)]
fn restore<const V6: bool, P: Packet>(packet: &mut P, scratch: &mut Scratch) -> Result<(), DropReason> {
    rewrite::ends::<V6, P>(packet, &mut scratch.ip, &scratch.ends)
}
