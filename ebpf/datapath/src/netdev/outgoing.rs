//! What leaves the node: packets of pods to the outside, which get the node's address, and packets of the node itself to
//! services.

use diolkos_abi::config::{Config, TRANSLATED_MARK, features};
use diolkos_abi::conntrack::direction;
use diolkos_abi::counter::{DropReason, Verdict};

use super::echo;
use crate::connection;
use crate::deliver::{self, Way};
use crate::family::{self, equal, is_own, is_service, narrowed};
use crate::fragment;
use crate::headers::{self, Part};
use crate::host;
use crate::icmp;
use crate::lookup;
use crate::masquerade;
use crate::mtu;
use crate::packet::Packet;
use crate::rewrite::{self, Ends};
use crate::tables::{Scratch, Step, Tables};

/// What a packet is.
#[derive(PartialEq, Eq)]
enum Leaving {
    /// None of ours.
    Other,
    /// To an address of the service CIDR.
    ToService,
    /// Of a pod, to something that is no pod.
    OfPod,
}

/// [`super::to_netdev`] of one family.
#[inline(always)]
pub(super) fn leaving<const V6: bool, P: Packet, T: Tables>(
    config: &Config,
    packet: &mut P,
    tables: &mut T,
) -> Result<Verdict, DropReason> {
    let mut scratch = tables.scratch().ok_or(DropReason::ConntrackFull)?;
    scratch.verdict = Verdict::Untouched;
    let leaving = classify::<V6, P, T>(config, packet, tables, &mut scratch);
    if leaving == Leaving::Other {
        return Ok(Verdict::Untouched);
    }
    if scratch.ip.fragment.kind != Part::Whole {
        fragment::resolve::<V6, T>(config, tables, &mut scratch)?;
    }
    if leaving == Leaving::ToService {
        if scratch.ip.transport.known {
            to_service::<V6, P, T>(config, packet, tables, &mut scratch)?;
        }
        return Ok(scratch.verdict);
    }
    if !scratch.ip.transport.known {
        // It may be an ICMP error about a flow under the node's address. What has no ports otherwise leaves as it is.
        icmp::translate::<V6, P, T>(config, packet, tables, &mut scratch, direction::OUTSIDE)?;
        let hidden = scratch.verdict == Verdict::Translated;
        return Ok(if hidden { Verdict::Masqueraded } else { Verdict::Untouched });
    }
    masquerade::outgoing::<V6, T>(config, tables, &mut scratch, packet.core())?;
    if scratch.verdict == Verdict::Untouched {
        return Ok(Verdict::Untouched);
    }
    if echo::is_one(&scratch) {
        echo::replace::<V6, P>(packet, &mut scratch)?;
    } else {
        hide::<V6, P>(packet, &mut scratch)?;
    }
    Ok(Verdict::Masqueraded)
}

/// Reads a packet into the scratch.
#[inline(never)]
fn classify<const V6: bool, P: Packet, T: Tables>(
    config: &Config,
    packet: &mut P,
    tables: &mut T,
    scratch: &mut Scratch,
) -> Leaving {
    let Ok(mut ip) = headers::parse::<V6, P>(packet) else { return Leaving::Other };
    let to_service = is_service::<V6>(config, &ip.destination);
    let of_pod = !to_service
        && config.features & features::MASQUERADE != 0
        && is_own::<V6>(config, &ip.source)
        && !is_own::<V6>(config, &ip.destination)
        && !family::is_native::<V6>(config, &ip.destination)
        && lookup::route::<V6, T>(config, tables, &ip.destination) == 0;
    if !to_service && !of_pod {
        return Leaving::Other;
    }
    if of_pod {
        echo::as_flow(packet, &mut ip);
    }
    (scratch.ip, scratch.ends) = (ip, Ends::of(&ip));
    if to_service { Leaving::ToService } else { Leaving::OfPod }
}

/// Gives a pod's packet the ends in the scratch.
#[inline(never)]
fn hide<const V6: bool, P: Packet>(packet: &mut P, scratch: &mut Scratch) -> Result<(), DropReason> {
    rewrite::ends::<V6, P>(packet, &mut scratch.ip, &scratch.ends)
}

/// Translates a packet that the node's stack sends to a service: its socket was not, or has been made where no hook sees
/// it. The stack has routed it by the service's address already, so it is sent on its way from here.
#[inline(always)]
fn to_service<const V6: bool, P: Packet, T: Tables>(
    config: &Config,
    packet: &mut P,
    tables: &mut T,
    scratch: &mut Scratch,
) -> Result<(), DropReason> {
    choose::<V6, T>(config, tables, scratch)?;
    match scratch.step {
        Step::Open => host::open::<V6, T>(config, tables, scratch)?,
        Step::KeepReply => connection::keep_reply(config, tables, scratch),
        Step::Deliver | Step::MakeWay | Step::Expect | Step::LookUp | Step::Gone => {}
    }
    send::<V6, P, T>(config, packet, tables, scratch)
}

/// Finds what a packet of the node to the service CIDR is for.
#[inline(never)]
fn choose<const V6: bool, T: Tables>(config: &Config, tables: &mut T, scratch: &mut Scratch) -> Result<(), DropReason> {
    let ip = scratch.ip.narrowed::<V6>();
    scratch.tuple = connection::tuple(&ip);
    scratch.way = Way::UNKNOWN;
    scratch.step = Step::Deliver;
    if !ip.transport.opens() && connection::find(config, tables, &ip, scratch)? {
        return Ok(());
    }
    scratch.service = lookup::service_at(tables, &ip.destination, ip.transport.destination_port(), ip.protocol);
    if scratch.service == 0 {
        return Err(lookup::unserved(tables, &ip.destination));
    }
    scratch.step = Step::Open;
    Ok(())
}

/// Sends the packet in the scratch, which is the node's own, to where its new ends say.
#[inline(never)]
fn send<const V6: bool, P: Packet, T: Tables>(
    config: &Config,
    packet: &mut P,
    tables: &mut T,
    scratch: &mut Scratch,
) -> Result<(), DropReason> {
    let (destination, device) = (narrowed::<V6>(&scratch.ends.destination), packet.ifindex());
    if equal(&destination, &family::node::<V6>(config)) {
        // A backend of the node: both are behind the service's address.
        rewrite::ends::<V6, P>(packet, &mut scratch.ip, &scratch.ends)?;
        rewrite::swap_macs(packet).ok_or(DropReason::RewriteFailed)?;
        packet.redirect_ingress(device);
        scratch.verdict = Verdict::Neighbour;
        return Ok(());
    }
    if is_own::<V6>(config, &destination) {
        let pod = lookup::endpoint(tables, &destination).ok_or(DropReason::NoSuchPod)?;
        // The stack has cut by the MTU of the way to the service's address; it learns that of the pod.
        if !mtu::fits::<V6, P>(packet, &scratch.ip, pod.mtu)? {
            packet.note(pod.mtu.into());
            return Err(DropReason::TooBig);
        }
        rewrite::ends::<V6, P>(packet, &mut scratch.ip, &scratch.ends)?;
        rewrite::macs(packet, &pod.mac, &pod.host_mac)?;
        packet.set_mark(TRANSLATED_MARK);
        // Not into the pod at once: that is for packets that come in.
        packet.redirect(pod.ifindex);
        scratch.verdict = Verdict::Pod;
        return Ok(());
    }
    scratch.verdict = deliver::to_others::<V6, P, T>(config, packet, tables, scratch)?;
    if scratch.verdict == Verdict::Stack {
        packet.redirect_routed(device);
        scratch.verdict = Verdict::Neighbour;
    }
    Ok(())
}
