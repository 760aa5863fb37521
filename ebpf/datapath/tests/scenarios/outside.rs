//! Masquerade in both families, and ICMP errors about it.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use diolkos_abi::address::protocol;
use diolkos_abi::config::{Config, features};
use diolkos_abi::conntrack::{Flow, Tuple, direction};
use diolkos_abi::counter::{DropReason, Hook, Verdict};
use diolkos_abi::service::slot_of;

use super::answers::{PORT, arrives, quote};
use super::packets::{ACK, HOST_MAC, POD_MAC, RST, SYN, SYN_ACK};
use super::wire::{ACKNOWLEDGED, FAMILIES, Family, Wire, config, dual, mapped};
use super::world::{self, BEFORE, CLIENT_IFINDEX, NODE_2_MAC, NOW, OVERLAY_MAC, confirmed};
use super::{Redirect, Scenario};

const UPLINK: u32 = 2;
const ROUTER_MAC: [u8; 6] = [0x02, 0xcc, 0, 0, 0, 1];
const UPLINK_MAC: [u8; 6] = [0x02, 0xcc, 0, 0, 0, 2];
const PORTS: (u16, u16) = (61_000, 1000);
const NODE_V6: IpAddr = IpAddr::V6(Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 1));

pub fn all() -> Vec<Scenario> {
    FAMILIES
        .into_iter()
        .flat_map(|family| [packets(family), unopened(family), nodes(family), errors(family)].concat())
        .collect()
}

fn node(family: Family) -> IpAddr {
    if family.v6 { NODE_V6 } else { IpAddr::V4(Ipv4Addr::from(world::HOST)) }
}

fn web(family: Family) -> SocketAddr {
    let address = if family.v6 {
        IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 9))
    } else {
        IpAddr::V4(Ipv4Addr::from(world::OUTSIDE))
    };
    SocketAddr::new(address, 443)
}

fn pod(family: Family) -> SocketAddr {
    SocketAddr::new(family.client, 40_000)
}

fn uplink(known: &mut Config) {
    *known = config();
    known.node_v4 = world::HOST;
    known.node_v6 = mapped(NODE_V6);
    known.features |= features::MASQUERADE;
    (known.ports_first, known.ports_count) = PORTS;
}

fn leaves(family: Family, names: [&'static str; 2], flows: &[(Tuple, Flow)], bytes: Vec<u8>) -> Scenario {
    let name = family.name(names[0], names[1]);
    Scenario::new(name, Hook::ToNetdev, UPLINK, dual(&[]).with_flows(flows), bytes).configured(uplink)
}

fn comes(family: Family, names: [&'static str; 2], flows: &[(Tuple, Flow)], bytes: Vec<u8>) -> Scenario {
    let name = family.name(names[0], names[1]);
    Scenario::new(name, Hook::FromNetdev, UPLINK, dual(&[]).with_flows(flows), bytes).configured(uplink)
}

/// Both entries of the pod's flow of this protocol to the web, and the node's port it leaves from.
fn flow(family: Family, protocol: u8) -> ([(Tuple, Flow); 2], SocketAddr) {
    flow_to(family, protocol, web(family))
}

fn flow_to(family: Family, protocol: u8, to: SocketAddr) -> ([(Tuple, Flow); 2], SocketAddr) {
    let pod = pod(family);
    let key = Tuple {
        source: mapped(pod.ip()),
        destination: mapped(to.ip()),
        source_port: pod.port().to_be_bytes(),
        destination_port: to.port().to_be_bytes(),
        protocol,
        direction: direction::OUTSIDE,
        zone: 0,
    };
    let port = slot_of(key.hash(), PORTS.0.into(), (PORTS.1 - PORTS.1 / 8).into()) as u16;
    (world::masqueraded(key, mapped(node(family)), port), SocketAddr::new(node(family), port))
}

/// On the way out, and on the way in.
fn out(from: SocketAddr, to: SocketAddr) -> Wire {
    Wire { to_mac: ROUTER_MAC, from_mac: UPLINK_MAC, ..Wire::new(from, to) }
}

fn inwards(from: SocketAddr, to: SocketAddr) -> Wire {
    Wire { to_mac: UPLINK_MAC, from_mac: ROUTER_MAC, ..Wire::new(from, to) }
}

fn at_pod(from: SocketAddr, to: SocketAddr) -> Wire {
    Wire { to_mac: POD_MAC, from_mac: HOST_MAC, hops: 63, ..Wire::new(from, to) }
}

/// The entry of a flow that leaves under the pod's own address.
fn own((key, _): (Tuple, Flow), seen: u32) -> (Tuple, Flow) {
    (key, Flow { tag: key.hash(), seen, ..Flow::default() })
}

/// Connections of which the pod is the server, and such as are forgotten.
fn unopened(family: Family) -> Vec<Scenario> {
    let (pod, web) = (pod(family), web(family));
    let (flows, turned) = flow(family, protocol::TCP);
    let segment = |flags| out(pod, web).tcp(flags, b"");
    let there = SocketAddr::new(family.remote_node, 53);
    let asked = flow_to(family, protocol::UDP, there).0[0];
    let from_node = Wire { to_mac: OVERLAY_MAC, from_mac: NODE_2_MAC, ..Wire::new(there, pod) };
    vec![
        leaves(
            family,
            ["a_connection_that_the_outside_opened_goes_on_as_it_is", "such_a_connection_goes_on_over_ipv6"],
            &[own(flows[0], BEFORE)],
            segment(ACK),
        )
        .leaves(&[confirmed(own(flows[0], NOW))]),
        leaves(
            family,
            ["a_pods_connection_takes_the_place_of_one_to_it", "a_pods_connection_takes_the_place_of_one_to_it_v6"],
            &[own(flows[0], BEFORE)],
            segment(SYN),
        )
        .becomes(Verdict::Masqueraded, out(turned, web).tcp(SYN, b""))
        .leaves(&flows),
        leaves(
            family,
            ["a_segment_of_a_forgotten_connection_is_refused", "a_segment_of_a_forgotten_connection_is_refused_v6"],
            &[],
            segment(ACK),
        )
        .redirected(Verdict::Untouched, Redirect::Ingress(UPLINK), Vec::new())
        .answers(DropReason::ConnectionUnknown, out(pod, web).back().rst(ACKNOWLEDGED, None)),
        leaves(
            family,
            ["a_reset_without_a_connection_leaves_as_it_is", "a_reset_without_a_connection_leaves_as_it_is_v6"],
            &[],
            segment(RST),
        ),
        leaves(
            family,
            ["a_pods_answer_to_a_ping_keeps_its_address", "a_pods_answer_to_a_ping_keeps_its_address_v6"],
            &[],
            out(pod, web).pong(77),
        ),
        leaves(
            family,
            ["a_pods_answer_to_a_node_keeps_its_address", "a_pods_answer_to_a_node_keeps_its_address_v6"],
            &[own(asked, BEFORE)],
            out(pod, there).udp(b"odd"),
        )
        .leaves(&[own(asked, NOW)]),
        arrives(
            family,
            ["a_datagram_from_a_nodes_own_address_is_answered", "a_datagram_from_a_nodes_own_address_is_answered_v6"],
            dual(&[]),
            from_node.udp(b"odd"),
        )
        .configured(uplink)
        .reaches_pod(CLIENT_IFINDEX, at_pod(there, pod).udp(b"odd"))
        .leaves(&[own(asked, NOW)]),
    ]
}

fn packets(family: Family) -> Vec<Scenario> {
    let (pod, web) = (pod(family), web(family));
    let (segments, tcp_end) = flow(family, protocol::TCP);
    let (datagrams, udp_end) = flow(family, protocol::UDP);
    vec![
        leaves(
            family,
            ["a_syn_leaves_under_the_node", "a_syn_leaves_under_the_node_v6"],
            &[],
            out(pod, web).tcp(SYN, b"odd"),
        )
        .becomes(Verdict::Masqueraded, out(tcp_end, web).tcp(SYN, b"odd"))
        .leaves(&segments),
        leaves(
            family,
            ["a_datagram_leaves_under_the_node", "a_datagram_leaves_under_the_node_v6"],
            &[],
            out(pod, web).udp(b"odd"),
        )
        .becomes(Verdict::Masqueraded, out(udp_end, web).udp(b"odd"))
        .leaves(&datagrams),
        leaves(
            family,
            ["a_pods_answer_to_a_connection_of_the_outside_keeps_its_address", "the_same_answer_over_ipv6"],
            &[],
            out(pod, web).tcp(SYN_ACK, b""),
        )
        .leaves(&[own(segments[0], NOW)]),
        comes(
            family,
            ["a_datagram_comes_back_to_the_pod", "a_datagram_comes_back_to_the_pod_v6"],
            &datagrams,
            inwards(web, udp_end).udp(b"answer"),
        )
        .reaches_pod(CLIENT_IFINDEX, at_pod(web, pod).udp(b"answer"))
        .leaves(&datagrams),
    ]
}

/// A pod and another node.
fn nodes(family: Family) -> Vec<Scenario> {
    let (pod, there) = (pod(family), SocketAddr::new(family.remote_node, 53));
    let (datagrams, end) = flow_to(family, protocol::UDP, there);
    let datagram = || out(pod, there).udp(b"odd");
    let direct = |config: &mut Config| {
        config.features |= features::DIRECT_ROUTING;
        config.overlay_ifindex = 0;
    };
    let name = family.name("nothing_is_known_of_a_node_but_its_pods", "nothing_is_known_of_a_node_but_its_pods_v6");
    vec![
        leaves(
            family,
            [
                "a_node_sees_a_pods_datagram_under_its_own_address",
                "a_node_sees_a_pods_datagram_under_its_own_address_v6",
            ],
            &[],
            datagram(),
        )
        .configured(direct),
        leaves(
            family,
            ["a_node_sees_a_pods_connection_under_its_own_address", "a_node_sees_the_same_connection_over_ipv6"],
            &[],
            out(pod, there).tcp(SYN, b""),
        )
        .configured(direct),
        leaves(family, ["a_node_sees_who_pings_it", "a_node_sees_who_pings_it_v6"], &[], out(pod, there).ping(b"odd"))
            .configured(direct),
        leaves(
            family,
            ["what_was_masqueraded_to_a_node_stays_so", "what_was_masqueraded_to_a_node_stays_so_v6"],
            &datagrams,
            datagram(),
        )
        .configured(direct)
        .becomes(Verdict::Masqueraded, out(end, there).udp(b"odd"))
        .leaves(&datagrams),
        Scenario::new(name, Hook::ToNetdev, UPLINK, dual(&[]).without_own_addresses(), datagram())
            .configured(uplink)
            .configured(direct)
            .becomes(Verdict::Masqueraded, out(end, there).udp(b"odd"))
            .leaves(&datagrams),
        leaves(
            family,
            ["beside_an_overlay_a_node_sees_a_pods_node", "beside_an_overlay_a_node_sees_a_pods_node_v6"],
            &[],
            datagram(),
        )
        .becomes(Verdict::Masqueraded, out(end, there).udp(b"odd"))
        .leaves(&datagrams),
    ]
}

fn errors(family: Family) -> Vec<Scenario> {
    let (pod, web) = (pod(family), web(family));
    let (flows, end) = flow(family, protocol::UDP);
    let router = SocketAddr::new(web.ip(), 0);
    let nowhere = SocketAddr::new(web.ip(), 0);
    let (asked, asker) = flow_to(family, if family.v6 { protocol::ICMPV6 } else { protocol::ICMP }, nowhere);
    let ping = |from| out(from, web).ping(b"odd");
    let sent = |from| out(from, web).udp(b"a datagram");
    let received = |to| inwards(web, to).udp(b"a datagram");
    let length = quote(family);
    vec![
        comes(
            family,
            ["an_error_about_a_pods_packet_reaches_it", "an_error_about_a_pods_packet_reaches_it_v6"],
            &flows,
            inwards(router, SocketAddr::new(end.ip(), 0)).error(&PORT, &sent(end), length),
        )
        .reaches_pod(CLIENT_IFINDEX, at_pod(router, SocketAddr::new(pod.ip(), 0)).error(&PORT, &sent(pod), length))
        .leaves(&flows),
        comes(
            family,
            ["an_error_about_a_pods_ping_reaches_it", "an_error_about_a_pods_ping_reaches_it_v6"],
            &asked,
            inwards(router, SocketAddr::new(end.ip(), 0)).error(&PORT, &ping(asker), length),
        )
        .reaches_pod(CLIENT_IFINDEX, at_pod(router, SocketAddr::new(pod.ip(), 0)).error(&PORT, &ping(pod), length))
        .leaves(&asked),
        comes(
            family,
            ["an_error_about_the_nodes_own_ping_is_its", "an_error_about_the_nodes_own_ping_is_its_v6"],
            &asked,
            inwards(router, SocketAddr::new(end.ip(), 0)).error(&PORT, &ping(SocketAddr::new(end.ip(), 5000)), length),
        ),
        leaves(
            family,
            ["an_error_of_a_pod_leaves_under_the_node", "an_error_of_a_pod_leaves_under_the_node_v6"],
            &flows,
            out(SocketAddr::new(pod.ip(), 0), router).error(&PORT, &received(pod), length),
        )
        .becomes(Verdict::Masqueraded, out(SocketAddr::new(end.ip(), 0), router).error(&PORT, &received(end), length))
        .leaves(&flows),
        comes(
            family,
            ["an_error_about_the_nodes_own_packet_is_its", "an_error_about_the_nodes_own_packet_is_its_v6"],
            &flows,
            inwards(router, SocketAddr::new(end.ip(), 0)).error(&PORT, &sent(SocketAddr::new(end.ip(), 5000)), length),
        ),
    ]
}
