//! ICMP errors about translated flows.

use std::net::SocketAddr;

use diolkos_abi::address::protocol;
use diolkos_abi::counter::{Hook, Verdict};

use super::Scenario;
use super::answers::{PORT, arrives, end, quote, sent};
use super::packets::{ACK, HOST_MAC, POD_MAC};
use super::wire::{BACKEND_PORT, FAMILIES, Family, SERVICE_PORT, Wire, backend_id, config, dual, flow};
use super::world::{
    BEFORE, CLIENT_IFINDEX, NODE_2_MAC, NOW, OVERLAY_MAC, SERVER_HOST_MAC, SERVER_IFINDEX, SERVER_MAC, World,
};

/// What happened to the quoted packet before somebody complained about it.
#[derive(Clone, Copy)]
struct Quoted {
    protocol: u8,
    /// Bytes of the quote; shorter than a TCP header, its checksum is not in it.
    length: usize,
}

pub fn all() -> Vec<Scenario> {
    FAMILIES
        .into_iter()
        .flat_map(|family| [about_forward(family), about_replies(family), untouched(family)].concat())
        .collect()
}

fn client(family: Family) -> SocketAddr {
    end(family.client, 40_000)
}

fn vip(family: Family) -> SocketAddr {
    end(family.vip, SERVICE_PORT)
}

fn backend(family: Family, far: bool) -> SocketAddr {
    end(if far { family.remote } else { family.server }, BACKEND_PORT)
}

/// The packet that is complained about.
fn packet(protocol: u8, from: SocketAddr, to: SocketAddr) -> Vec<u8> {
    let wire = Wire { hops: 63, ..Wire::new(from, to) };
    if protocol == protocol::TCP { wire.tcp(ACK, b"some data") } else { wire.udp(b"a datagram") }
}

/// An error as it stands on `wire` about a packet from one end to another.
fn error(wire: Wire, quoted: Quoted, from: SocketAddr, to: SocketAddr) -> Vec<u8> {
    wire.error(&PORT, &packet(quoted.protocol, from, to), quoted.length)
}

/// Tables in which the client's flow uses one backend, and the flow's entries once one of them was looked up.
fn flowing(
    family: Family,
    quoted: Quoted,
    far: bool,
    reply: bool,
) -> (World, Vec<(diolkos_abi::conntrack::Tuple, diolkos_abi::conntrack::Flow)>) {
    let id = backend_id(family, quoted.protocol, far);
    let entries = |seen| flow(family, client(family), quoted.protocol, far, seen);
    let (mut after, now) = (entries(BEFORE), entries(NOW));
    after[usize::from(reply)] = now[usize::from(reply)];
    (dual(&[id]).with_flows(&entries(BEFORE)), after.to_vec())
}

/// Whole headers in the quote, and the least that must be in it.
fn long(family: Family, protocol: u8) -> Quoted {
    Quoted { protocol, length: quote(family) + if protocol == protocol::TCP { 12 } else { 0 } }
}

/// Errors about what the client sent.
fn about_forward(family: Family) -> Vec<Scenario> {
    let afar = |from| Wire { to_mac: OVERLAY_MAC, from_mac: NODE_2_MAC, ..Wire::new(end(from, 0), client(family)) };
    let at_client =
        |from| Wire { to_mac: POD_MAC, from_mac: HOST_MAC, hops: 63, ..Wire::new(end(from, 0), client(family)) };
    let remote = |names, quoted, from, seen_from| {
        let (world, after) = flowing(family, quoted, true, true);
        let before = error(afar(from), quoted, client(family), backend(family, true));
        let becomes = error(at_client(seen_from), quoted, client(family), vip(family));
        arrives(family, names, world, before).reaches_pod(CLIENT_IFINDEX, becomes).leaves(&after)
    };
    let (tcp, udp) = (long(family, protocol::TCP), long(family, protocol::UDP));
    let short = Quoted { length: quote(family), ..tcp };
    let local = {
        let (world, after) = flowing(family, udp, false, true);
        let wire =
            Wire { to_mac: SERVER_HOST_MAC, from_mac: SERVER_MAC, ..Wire::new(end(family.server, 0), client(family)) };
        let before = error(wire, udp, client(family), backend(family, false));
        let becomes = error(at_client(family.vip), udp, client(family), vip(family));
        let name = family.name("a_local_backend_complains_v4", "a_local_backend_complains_v6");
        Scenario::new(name, Hook::FromContainer, SERVER_IFINDEX, world, before)
            .configured(|known| *known = config())
            .reaches_pod(CLIENT_IFINDEX, becomes)
            .leaves(&after)
    };
    let from_host = {
        let (world, after) = flowing(family, udp, true, true);
        let before = error(at_client(family.remote), udp, client(family), backend(family, true));
        let becomes = error(at_client(family.vip), udp, client(family), vip(family));
        let name = family.name("the_stack_brings_a_complaint_v4", "the_stack_brings_a_complaint_v6");
        Scenario::new(name, Hook::ToContainer, 0, world, before)
            .configured(|known| *known = config())
            .becomes(Verdict::Translated, becomes)
            .leaves(&after)
    };
    vec![
        remote(["a_backend_complains_of_udp_v4", "a_backend_complains_of_udp_v6"], udp, family.remote, family.vip),
        remote(["a_backend_complains_of_tcp_v4", "a_backend_complains_of_tcp_v6"], tcp, family.remote, family.vip),
        remote(["a_short_quote_of_tcp_v4", "a_short_quote_of_tcp_v6"], short, family.remote, family.vip),
        remote(
            ["a_router_complains_in_its_own_name_v4", "a_router_complains_in_its_own_name_v6"],
            tcp,
            family.remote_gateway,
            family.remote_gateway,
        ),
        local,
        from_host,
    ]
}

/// Errors about what came back to the client.
fn about_replies(family: Family) -> Vec<Scenario> {
    let to_service = |names, quoted| {
        let (world, after) = flowing(family, quoted, true, false);
        let before = error(Wire::new(end(family.client, 0), vip(family)), quoted, vip(family), client(family));
        let wire = Wire {
            to_mac: NODE_2_MAC,
            from_mac: OVERLAY_MAC,
            ..Wire::new(end(family.client, 0), backend(family, true))
        };
        let becomes = error(wire, quoted, backend(family, true), client(family));
        sent(family, names, world, before).reaches_node_2(becomes).leaves(&after)
    };
    vec![
        to_service(["a_client_complains_of_udp_v4", "a_client_complains_of_udp_v6"], long(family, protocol::UDP)),
        to_service(["a_client_complains_of_tcp_v4", "a_client_complains_of_tcp_v6"], long(family, protocol::TCP)),
    ]
}

/// Errors that are nobody's, or about direct traffic.
fn untouched(family: Family) -> Vec<Scenario> {
    let quoted = long(family, protocol::UDP);
    let direct = Wire { to_mac: OVERLAY_MAC, from_mac: NODE_2_MAC, ..Wire::new(end(family.remote, 0), client(family)) };
    let delivered = Wire { to_mac: POD_MAC, from_mac: HOST_MAC, hops: 63, ..direct };
    let (from, to) = (client(family), end(family.remote, 53));
    let (world, _) = flowing(family, quoted, true, true);
    // The quote tells of another client than the one the error goes to.
    let other = end(family.server, 40_000);
    let (crossed, _) = flowing(family, quoted, true, true);
    vec![
        arrives(
            family,
            ["an_error_about_direct_traffic_v4", "an_error_about_direct_traffic_v6"],
            world,
            error(direct, quoted, from, to),
        )
        .reaches_pod(CLIENT_IFINDEX, error(delivered, quoted, from, to)),
        arrives(
            family,
            ["an_error_to_the_wrong_one_v4", "an_error_to_the_wrong_one_v6"],
            crossed,
            error(direct, quoted, other, backend(family, true)),
        )
        .reaches_pod(CLIENT_IFINDEX, error(delivered, quoted, other, backend(family, true))),
    ]
}
