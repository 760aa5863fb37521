//! The hooks of the packet path. Each is one sentence: parse, look up, decide, rewrite.

use diolkos_abi::address::{protocol, v4_mapped};
use diolkos_abi::config::{Config, ENCAPSULATED_MARK};
use diolkos_abi::conntrack::Tuple;
use diolkos_abi::counter::{DropReason, Verdict};
use diolkos_abi::pod::Source;
use diolkos_abi::service::{FrontendKey, scope};

use crate::connection::{self, Known};
use crate::deliver::{self, Way, is_own};
use crate::headers::{self, Ipv4, Tcp};
use crate::lookup::{self, masked};
use crate::packet::Packet;
use crate::rewrite;
use crate::tables::Tables;

/// A pod of this node sends (tc ingress of the host's end of its veth pair).
#[inline(always)]
pub fn from_container<P: Packet, T: Tables>(
    config: &Config,
    packet: &mut P,
    tables: &mut T,
) -> Result<Verdict, DropReason> {
    let Some(mut ip) = headers::parse(packet)? else { return Ok(Verdict::Untouched) };
    check_source(packet, tables, &ip)?;
    let way = match ip.tcp {
        Some(tcp) => translate(config, packet, tables, &mut ip, tcp)?,
        None => Way::Unknown,
    };
    if is_own(config, ip.destination) {
        deliver::to_own(config, packet, tables, &ip)
    } else {
        deliver::to_others(config, packet, tables, &ip, way)
    }
}

/// The host's stack sends to a pod of this node (tc egress of the host's end of its veth pair). Replies of backends
/// on the host network come this way.
#[inline(always)]
pub fn to_container<P: Packet, T: Tables>(
    _config: &Config,
    packet: &mut P,
    tables: &mut T,
) -> Result<Verdict, DropReason> {
    let Some(mut ip) = headers::parse(packet)? else { return Ok(Verdict::Untouched) };
    let Some(tcp) = ip.tcp else { return Ok(Verdict::Untouched) };
    if translate_reply(packet, tables, &mut ip, tcp)? { Ok(Verdict::Translated) } else { Ok(Verdict::Untouched) }
}

/// Another node sends (tc ingress of the overlay device).
#[inline(always)]
pub fn from_overlay<P: Packet, T: Tables>(
    config: &Config,
    packet: &mut P,
    tables: &mut T,
) -> Result<Verdict, DropReason> {
    let Some(mut ip) = headers::parse(packet)? else { return Ok(Verdict::Untouched) };
    if packet.tunnel_vni().ok_or(DropReason::NoTunnel)? != config.vni {
        return Err(DropReason::WrongVni);
    }
    if !is_own(config, ip.destination) {
        return Err(DropReason::NoSuchPod);
    }
    if let Some(tcp) = ip.tcp {
        translate_reply(packet, tables, &mut ip, tcp)?;
    }
    deliver::to_own(config, packet, tables, &ip)
}

/// The overlay device sends (its tc egress): what a pod's hook has addressed already, and what the host's own sockets
/// route to it.
#[inline(always)]
pub fn to_overlay<P: Packet, T: Tables>(
    config: &Config,
    packet: &mut P,
    tables: &mut T,
) -> Result<Verdict, DropReason> {
    if packet.mark() == ENCAPSULATED_MARK {
        packet.set_mark(0);
        return Ok(Verdict::Encapsulated);
    }
    let Some(ip) = headers::parse(packet)? else { return Ok(Verdict::Untouched) };
    let id = lookup::route(config, tables, ip.destination).ok_or(DropReason::NoSuchNode)?;
    let node = tables.node(id).ok_or(DropReason::NoSuchNode)?;
    deliver::encapsulate(config, packet, &node)?;
    Ok(Verdict::Encapsulated)
}

/// A pod sends only from its own address.
#[inline(always)]
fn check_source<P: Packet, T: Tables>(packet: &P, tables: &mut T, ip: &Ipv4) -> Result<(), DropReason> {
    let ifindex = packet.ingress_ifindex();
    let v4 = u32::from_ne_bytes(ip.source);
    if tables.source(ifindex).is_some_and(|source| source.ifindex == ifindex && source.v4 == v4) {
        return Ok(());
    }
    match lookup::endpoint(tables, ip.source) {
        Some(pod) if pod.ifindex == ifindex => {
            tables.remember_source(&Source { ifindex, v4, mac: pod.mac, ..Source::default() });
            Ok(())
        }
        _ => Err(DropReason::SpoofedSource),
    }
}

/// Translates a segment of a pod: known connections first, then services. Says what it learned of the way.
#[inline(always)]
fn translate<P: Packet, T: Tables>(
    config: &Config,
    packet: &mut P,
    tables: &mut T,
    ip: &mut Ipv4,
    tcp: Tcp,
) -> Result<Way, DropReason> {
    let tuple = connection::tuple(ip, tcp);
    // A segment that opens a connection selects anew, whatever an earlier connection of the same tuple left behind.
    let known = if tcp.opens() { None } else { connection::find(tables, &tuple, tcp) };
    let choice = match known {
        Some(Known::Reply { address, port }) => {
            rewrite::source(packet, ip, tcp, address, port)?;
            return Ok(Way::Unknown);
        }
        Some(Known::Forward(choice)) => choice,
        None => match service_of(config, tables, ip, &tuple)? {
            Destination::Service(service) => connection::open(tables, &tuple, service)?,
            Destination::Other(way) => {
                if tcp.opens() {
                    connection::make_way(tables, &tuple)?;
                }
                return Ok(way);
            }
        },
    };
    rewrite::destination(packet, ip, tcp, choice.address, choice.port)?;
    Ok(if choice.node == 0 { Way::Unknown } else { Way::Node(choice.node) })
}

/// What a destination is.
enum Destination {
    Service(u32),
    Other(Way),
}

/// Tells services from everything else. Pod addresses never are a frontend, so direct traffic between pods pays for
/// no lookup here but the one of its route, which it needs anyway. Only the segment that opens a connection pays for one
/// more ([`connection::make_way`]).
#[inline(always)]
fn service_of<T: Tables>(config: &Config, tables: &mut T, ip: &Ipv4, tuple: &Tuple) -> Result<Destination, DropReason> {
    if masked(ip.destination, config.service_mask_v4) != config.service_cidr_v4 {
        if is_own(config, ip.destination) {
            return Ok(Destination::Other(Way::Unknown));
        }
        if let Some(node) = lookup::route(config, tables, ip.destination) {
            return Ok(Destination::Other(Way::Node(node)));
        }
    }
    let key = FrontendKey::new(v4_mapped(ip.destination), tuple.destination_port, protocol::TCP, scope::CLUSTER);
    Ok(match lookup::service(tables, &key) {
        Some(service) => Destination::Service(service),
        None => Destination::Other(Way::Stack),
    })
}

/// Gives the reply of a service's backend the source its client dialled; `false` for anything else.
#[inline(always)]
fn translate_reply<P: Packet, T: Tables>(
    packet: &mut P,
    tables: &mut T,
    ip: &mut Ipv4,
    tcp: Tcp,
) -> Result<bool, DropReason> {
    if tcp.opens() {
        return Ok(false);
    }
    match connection::find_reply(tables, &connection::tuple(ip, tcp), tcp) {
        Some((address, port)) => rewrite::source(packet, ip, tcp, address, port).map(|()| true),
        None => Ok(false),
    }
}
