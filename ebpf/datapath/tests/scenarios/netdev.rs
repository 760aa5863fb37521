//! What passes the devices that hold an address of the node.

use diolkos_abi::address::v4_mapped;
use diolkos_abi::config::{Config, TRANSLATED_MARK, features};
use diolkos_abi::conntrack::{Flow, Tuple, direction, flow_flags};
use diolkos_abi::counter::{DropReason, Hook, Verdict};
use diolkos_abi::service::slot_of;
use etherparse::IpNumber;

use super::from_container::FROM;
use super::packets::{ACK, End, Frame, HOST_MAC, POD_MAC, SYN, SYN_ACK, Transport};
use super::world::{
    CLIENT_IFINDEX, FAR, FAR_END, GATEWAY, HOST, HOST_END, HOST_NETWORK, LOCAL, LOCAL_END, NODE_2_TUNNEL, NOW, OUTSIDE,
    REMOTE, SERVER_HOST_MAC, SERVER_IFINDEX, SERVER_MAC, SERVICE, VIP, World, confirmed, reply, tuple,
};
use super::{Fault, Redirect, Scenario, world};

/// Of the device that holds the node's address.
const UPLINK: u32 = 2;
const ROUTER_MAC: [u8; 6] = [0x02, 0xcc, 0, 0, 0, 1];
const UPLINK_MAC: [u8; 6] = [0x02, 0xcc, 0, 0, 0, 2];
const PORTS_FIRST: u16 = 61_000;
const PORTS_COUNT: u16 = 1000;
/// Of them for pods; the others are for the node's own packets.
const OF_PODS: u16 = PORTS_COUNT - PORTS_COUNT / 8;
const WEB: End = (OUTSIDE, 443);
/// A process of the node.
const PROCESS: End = (HOST, 40_000);

pub fn all() -> Vec<Scenario> {
    [outgoing(), exhausted(), incoming(), echoes(), services(), another_host(), narrow_pod(), unserved(), direct()]
        .concat()
}

/// Of what the node sends to a service under its own address.
fn port_of_node(hash: u32) -> u16 {
    slot_of(hash, (PORTS_FIRST + OF_PODS).into(), (PORTS_COUNT - OF_PODS).into()) as u16
}

fn uplink(config: &mut Config) {
    config.node_v4 = HOST;
    config.features |= features::MASQUERADE;
    (config.ports_first, config.ports_count) = (PORTS_FIRST, PORTS_COUNT);
}

fn leaves(name: &'static str, world: World, frame: &Frame) -> Scenario {
    let frame = Frame { to_mac: ROUTER_MAC, from_mac: UPLINK_MAC, ..frame.clone() };
    Scenario::new(name, Hook::ToNetdev, UPLINK, world, frame.bytes()).configured(uplink)
}

fn comes(name: &'static str, world: World, frame: &Frame) -> Scenario {
    let frame = Frame { to_mac: UPLINK_MAC, from_mac: ROUTER_MAC, ..frame.clone() };
    Scenario::new(name, Hook::FromNetdev, UPLINK, world, frame.bytes()).configured(uplink)
}

fn out(frame: &Frame) -> Vec<u8> {
    Frame { to_mac: ROUTER_MAC, from_mac: UPLINK_MAC, ..frame.clone() }.bytes()
}

fn udp(source: End, destination: End) -> Frame {
    Frame { transport: Transport::Udp, ..Frame::tcp(source, destination, ACK) }
}

/// An echo message: kind 8 asks, 0 answers.
fn echo(source: [u8; 4], destination: [u8; 4], kind: u8, identifier: u16) -> Frame {
    let mut message = vec![kind, 0, 0, 0];
    message.extend_from_slice(&identifier.to_be_bytes());
    message.extend_from_slice(&[0, 7]);
    message.extend_from_slice(b"odd");
    let checksum = etherparse::checksum::Sum16BitWords::new().add_slice(&message).ones_complement();
    message[2..4].copy_from_slice(&checksum.to_be().to_be_bytes());
    let transport = Transport::Raw(IpNumber::ICMP);
    Frame { transport, payload: message, ..Frame::tcp((source, 0), (destination, 0), 0) }
}

/// The tuple of a flow on the outside.
fn outside(source: End, destination: End, protocol: u8) -> Tuple {
    Tuple { direction: direction::OUTSIDE, protocol, ..tuple(source, destination) }
}

/// The port the `n`th try takes.
fn port(key: &Tuple, n: u32) -> u16 {
    slot_of(key.hash().wrapping_add(n.wrapping_mul(0x9e37_79b9)), PORTS_FIRST.into(), OF_PODS.into()) as u16
}

/// Both entries of a masqueraded flow that leaves from `port`.
fn masqueraded(key: Tuple, port: u16) -> [(Tuple, Flow); 2] {
    world::masqueraded(key, v4_mapped(HOST), port)
}

fn outgoing() -> Vec<Scenario> {
    let (syn, key) = (Frame::tcp(FROM, WEB, SYN), outside(FROM, WEB, 6));
    let first = port(&key, 0);
    let known = masqueraded(key, first);
    let ack = Frame::tcp(FROM, WEB, ACK);
    let (datagram, udp_key) = (udp(FROM, (OUTSIDE, 53)), outside(FROM, (OUTSIDE, 53), 17));
    let sctp = Frame { transport: Transport::Raw(IpNumber::SCTP), payload: vec![0; 24], ..syn.clone() };
    let hidden = |frame: &Frame, port| out(&Frame { source: (HOST, port), ..frame.clone() });
    vec![
        leaves("a_pod_meets_the_outside_under_its_nodes_address", World::new(), &syn)
            .becomes(Verdict::Masqueraded, hidden(&syn, first))
            .leaves(&known),
        leaves("a_datagram_to_the_outside_is_masqueraded", World::new(), &datagram)
            .becomes(Verdict::Masqueraded, hidden(&datagram, port(&udp_key, 0)))
            .leaves(&masqueraded(udp_key, port(&udp_key, 0))),
        leaves("a_masqueraded_connection_keeps_its_port", World::new().with_flows(&known), &ack)
            .becomes(Verdict::Masqueraded, hidden(&ack, first))
            .leaves(&[confirmed(known[0]), known[1]]),
        leaves("a_masqueraded_connection_gets_its_lost_answers_back", World::new().with_flows(&[idle(known[0])]), &ack)
            .becomes(Verdict::Masqueraded, hidden(&ack, first))
            .leaves(&[confirmed(known[0]), known[1]]),
        leaves("what_has_no_ports_leaves_as_it_is", World::new(), &sctp),
        leaves("a_native_destination_sees_the_pod_itself", World::new(), &syn).configured(|config| {
            (config.native_cidr_v4, config.native_mask_v4) = ([203, 0, 113, 0], [255, 255, 255, 0]);
        }),
        leaves("pods_of_other_nodes_see_the_pod_itself", World::new(), &Frame::tcp(FROM, FAR_END, SYN)),
        leaves("without_masquerade_pods_leave_as_they_are", World::new(), &syn)
            .configured(|config| config.features &= !features::MASQUERADE),
        leaves("packets_of_the_node_leave_as_they_are", World::new(), &Frame::tcp(PROCESS, WEB, SYN)),
        leaves("tunnel_packets_leave_as_they_are", World::new(), &udp((HOST, 5000), (NODE_2_TUNNEL, 4789))),
    ]
}

fn idle((key, flow): (Tuple, Flow)) -> (Tuple, Flow) {
    (key, Flow { seen: world::BEFORE, ..flow })
}

/// Other flows to the same place own the first `count` ports that are tried.
fn taken(key: &Tuple, count: u32) -> Vec<(Tuple, Flow)> {
    (0..count).map(|n| masqueraded(outside(([10, 244, 1, 99], 1000), WEB, 6), port(key, n))[1]).collect()
}

fn exhausted() -> Vec<Scenario> {
    let (syn, key) = (Frame::tcp(FROM, WEB, SYN), outside(FROM, WEB, 6));
    let third = masqueraded(key, port(&key, 2));
    // Two ports a core, and all of the cores that this may run on are taken.
    const CORES: u32 = OF_PODS as u32 / 2;
    let other = outside(([10, 244, 1, 99], 1000), WEB, 6);
    let own: Vec<_> = (PORTS_FIRST..PORTS_FIRST + 200).map(|port| masqueraded(other, port)[1]).collect();
    vec![
        leaves("a_port_that_is_taken_is_passed_over", World::new().with_flows(&taken(&key, 2)), &syn)
            .becomes(Verdict::Masqueraded, out(&Frame { source: (HOST, port(&key, 2)), ..syn.clone() }))
            .leaves(&[taken(&key, 2), third.to_vec()].concat()),
        leaves("when_every_port_is_taken_the_packet_drops", World::new().with_flows(&taken(&key, 16)), &syn)
            .drops(DropReason::PortsExhausted)
            .leaves(&taken(&key, 16)),
        leaves("a_core_without_a_port_takes_one_of_another_core", World::new().with_flows(&own), &syn)
            .configured(|config| config.cores = CORES)
            .becomes(Verdict::Masqueraded, out(&Frame { source: (HOST, port(&key, 4)), ..syn.clone() }))
            .leaves(&[own.clone(), masqueraded(key, port(&key, 4)).to_vec()].concat()),
        leaves("without_ports_nothing_is_masqueraded", World::new(), &syn)
            .configured(|config| config.ports_count = 0)
            .drops(DropReason::PortsExhausted),
        leaves("a_full_conntrack_masquerades_nothing_new", World::new(), &syn)
            .faulty(Fault::ConntrackFull)
            .drops(DropReason::ConntrackFull),
    ]
}

fn incoming() -> Vec<Scenario> {
    let known = masqueraded(outside(FROM, WEB, 6), 61_500);
    let answer = Frame::tcp(WEB, (HOST, 61_500), SYN_ACK);
    let to_pod = |frame: Frame| Frame { to_mac: POD_MAC, from_mac: HOST_MAC, ttl: 63, ..frame }.bytes();
    let mut served = known.to_vec();
    served.push(reply(FROM, VIP, HOST_NETWORK, WEB, NOW));
    let seen = |flows: &[(Tuple, Flow)]| [&[flows[0], confirmed(flows[1])][..], &flows[2..]].concat();
    let ours = Frame::tcp(WEB, (HOST, 61_501), ACK);
    vec![
        comes("an_answer_reaches_the_pod_behind_the_nodes_address", World::new().with_flows(&known), &answer)
            .reaches_pod(CLIENT_IFINDEX, to_pod(Frame { destination: FROM, ..answer.clone() }))
            .leaves(&seen(&known)),
        comes("an_answer_of_a_service_outside_carries_the_cluster_ip", World::new().with_flows(&served), &answer)
            .reaches_pod(CLIENT_IFINDEX, to_pod(Frame { source: VIP, destination: FROM, ..answer.clone() }))
            .leaves(&[&seen(&known)[..], &[confirmed(served[2])]].concat()),
        comes("an_answer_nobody_waits_for_is_the_hosts", World::new(), &ours),
        comes("other_ports_are_the_hosts", World::new().with_flows(&known), &Frame::tcp(WEB, (HOST, 22), SYN)),
        comes("other_addresses_are_the_hosts", World::new(), &Frame::tcp(WEB, LOCAL_END, SYN)),
        comes("half_a_packet_is_the_hosts_to_judge", World::new(), &answer).cut(40),
    ]
}

fn echoes() -> Vec<Scenario> {
    let ask = echo(FROM.0, OUTSIDE, 8, 77);
    let key = outside((FROM.0, 77), (OUTSIDE, 0), 1);
    let identifier = port(&key, 0);
    let known = masqueraded(key, identifier);
    let answer = echo(OUTSIDE, HOST, 0, identifier);
    let back = Frame { to_mac: POD_MAC, from_mac: HOST_MAC, ttl: 63, ..echo(OUTSIDE, FROM.0, 0, 77) };
    vec![
        leaves("a_pods_ping_of_the_outside_is_masqueraded", World::new(), &ask)
            .becomes(Verdict::Masqueraded, out(&echo(HOST, OUTSIDE, 8, identifier)))
            .leaves(&known),
        comes("the_answer_to_a_pods_ping_reaches_it", World::new().with_flows(&known), &answer)
            .reaches_pod(CLIENT_IFINDEX, back.bytes())
            .leaves(&known),
        comes("a_ping_of_the_node_is_the_hosts", World::new(), &echo(OUTSIDE, HOST, 8, 61_500)),
    ]
}

/// The reply entry of a connection of the node that a backend knows as one from `seen_as`.
fn hidden(backend: u32, end: End, seen_as: End) -> [(Tuple, Flow); 2] {
    let (key, flow) = reply(seen_as, VIP, backend, end, NOW);
    let flow = Flow {
        flags: flow.flags | flow_flags::DESTINATION,
        destination: v4_mapped(PROCESS.0),
        destination_port: PROCESS.1.to_be_bytes(),
        ..flow
    };
    let forward = tuple(PROCESS, VIP);
    let entry = Flow {
        backend: flow.backend,
        tag: forward.hash(),
        service: SERVICE,
        seen: NOW,
        flags: flow_flags::SOURCE,
        source: v4_mapped(seen_as.0),
        source_port: seen_as.1.to_be_bytes(),
        ..Flow::default()
    };
    [(forward, entry), (key, flow)]
}

fn services() -> Vec<Scenario> {
    let syn = Frame::tcp(PROCESS, VIP, SYN);
    let as_gateway = (GATEWAY, PROCESS.1);
    let local = hidden(LOCAL, LOCAL_END, as_gateway);
    let far = hidden(FAR, FAR_END, as_gateway);
    let itself = hidden(HOST_NETWORK, HOST_END, (VIP.0, PROCESS.1));
    let to_pod = Frame {
        to_mac: SERVER_MAC,
        from_mac: SERVER_HOST_MAC,
        source: as_gateway,
        destination: LOCAL_END,
        ..syn.clone()
    };
    let to_far = super::from_container::at_overlay(&Frame { source: as_gateway, destination: FAR_END, ..syn.clone() });
    vec![
        leaves("a_packet_of_the_node_to_a_service_reaches_a_pod_here", World::serving(&[LOCAL]), &syn)
            .redirected(Verdict::Pod, Redirect::Device(SERVER_IFINDEX), to_pod.bytes())
            .marked(TRANSLATED_MARK)
            .leaves(&local),
        leaves("a_packet_of_the_node_to_a_service_reaches_a_pod_elsewhere", World::serving(&[FAR]), &syn)
            .reaches_node_2(to_far)
            .leaves(&far),
        leaves(
            "a_packet_of_the_node_to_its_own_service_meets_it_as_the_service",
            World::serving(&[HOST_NETWORK]),
            &syn,
        )
        .redirected(
            Verdict::Neighbour,
            Redirect::Ingress(UPLINK),
            // To the device it would have left by: a frame for another one is not taken.
            Frame {
                to_mac: UPLINK_MAC,
                from_mac: ROUTER_MAC,
                source: (VIP.0, PROCESS.1),
                destination: HOST_END,
                ..syn.clone()
            }
            .bytes(),
        )
        .leaves(&itself),
        leaves(
            "an_established_connection_of_the_node_keeps_its_pod",
            World::serving(&[LOCAL]).with_flows(&far),
            &Frame::tcp(PROCESS, VIP, ACK),
        )
        .reaches_node_2(super::from_container::at_overlay(&Frame {
            source: as_gateway,
            destination: FAR_END,
            ..Frame::tcp(PROCESS, VIP, ACK)
        }))
        .leaves(&[confirmed(far[0]), far[1]]),
    ]
}

/// A backend on the network of another host.
fn another_host() -> Vec<Scenario> {
    let syn = Frame::tcp(PROCESS, VIP, SYN);
    let other_end: End = (NODE_2_TUNNEL, 9090);
    let other = World::serving(&[FAR]).with_backend(FAR, |backend| {
        (backend.address, backend.port) = (v4_mapped(other_end.0), other_end.1.to_be_bytes());
    });
    let turned = port_of_node(tuple(PROCESS, VIP).hash());
    let answer = Frame::tcp(other_end, (HOST, turned), SYN_ACK);
    let hidden_other = hidden(FAR, other_end, (HOST, turned));
    vec![
        leaves("a_packet_of_the_node_to_a_service_reaches_another_host", other, &syn)
            .redirected(
                Verdict::Neighbour,
                Redirect::Routed(UPLINK),
                out(&Frame { source: (HOST, turned), destination: other_end, ..syn.clone() }),
            )
            .leaves(&hidden_other),
        comes(
            "the_reply_of_another_host_reaches_the_node_as_the_service",
            World::new().with_flows(&hidden_other),
            &answer,
        )
        .becomes(
            Verdict::Translated,
            Frame { to_mac: UPLINK_MAC, from_mac: ROUTER_MAC, source: VIP, destination: PROCESS, ..answer.clone() }
                .bytes(),
        )
        .leaves(&[hidden_other[0], confirmed(hidden_other[1])]),
    ]
}

/// A pod that takes less than the device by which the service's address is routed.
fn narrow_pod() -> Vec<Scenario> {
    let syn = Frame::tcp(PROCESS, VIP, SYN);
    let mut world = World::serving(&[LOCAL]);
    world.endpoints.iter_mut().for_each(|(_, endpoint)| endpoint.mtu = syn.bytes().len() as u16 - 15);
    vec![
        leaves("the_node_is_told_what_a_pod_behind_a_service_does_not_take", world, &syn)
            .drops(DropReason::TooBig)
            .leaves(&hidden(LOCAL, LOCAL_END, (GATEWAY, PROCESS.1))),
    ]
}

fn unserved() -> Vec<Scenario> {
    let to = |port| Frame::tcp(PROCESS, (VIP.0, port), SYN);
    let nobody = Frame::tcp(PROCESS, ([10, 96, 9, 9], 80), SYN);
    vec![
        leaves("the_node_is_refused_by_a_service_without_endpoints", World::serving(&[]), &to(80))
            .drops(DropReason::NoEndpoints),
        leaves("the_node_is_refused_by_an_unknown_port_of_a_service", World::serving(&[LOCAL]), &to(81))
            .drops(DropReason::UnknownPort),
        leaves("the_node_finds_nothing_at_an_address_nobody_has", World::serving(&[LOCAL]), &nobody)
            .drops(DropReason::UnallocatedVip),
    ]
}

fn routed(config: &mut Config) {
    config.features |= features::DIRECT_ROUTING;
    config.overlay_ifindex = 0;
}

fn direct() -> Vec<Scenario> {
    let sent = Frame::tcp(FROM, FAR_END, ACK);
    let mut neighbour = World::new();
    for (_, node) in &mut neighbour.nodes {
        (node.ifindex, node.next_hop_v4) = (UPLINK, NODE_2_TUNNEL);
    }
    let next_hop = Redirect::Neighbour(UPLINK, v4_mapped(NODE_2_TUNNEL));
    let from_far = Frame::tcp((REMOTE, 5000), LOCAL_END, ACK);
    let at_server = Frame { to_mac: SERVER_MAC, from_mac: SERVER_HOST_MAC, ttl: 63, ..from_far.clone() };
    let lost = Frame { destination: ([10, 244, 1, 250], 80), ..from_far.clone() };
    let dialled = Frame::tcp(PROCESS, VIP, SYN);
    let turned = port_of_node(tuple(PROCESS, VIP).hash());
    let at_backend = Frame {
        to_mac: SERVER_MAC,
        from_mac: SERVER_HOST_MAC,
        source: (HOST, turned),
        destination: LOCAL_END,
        ..dialled.clone()
    };
    vec![
        leaves("a_pod_sees_the_nodes_own_address_where_it_has_none_among_pods", World::serving(&[LOCAL]), &dialled)
            .configured(|config| {
                routed(config);
                (config.gateway_v4, config.gateway_v6) = ([0; 4], [0; 16]);
            })
            .redirected(Verdict::Pod, Redirect::Device(SERVER_IFINDEX), at_backend.bytes())
            .marked(TRANSLATED_MARK)
            .leaves(&hidden(LOCAL, LOCAL_END, (HOST, turned))),
        Scenario::new(
            "direct_routing_sends_to_the_neighbour",
            Hook::FromContainer,
            CLIENT_IFINDEX,
            neighbour,
            sent.bytes(),
        )
        .configured(routed)
        .redirected(Verdict::Neighbour, next_hop, sent.bytes()),
        Scenario::new(
            "a_node_that_is_no_neighbour_is_routed",
            Hook::FromContainer,
            CLIENT_IFINDEX,
            World::new(),
            sent.bytes(),
        )
        .configured(routed)
        .verdict(Verdict::Stack),
        comes("direct_routing_hands_over_to_the_pod", World::new(), &from_far)
            .configured(routed)
            .reaches_pod(SERVER_IFINDEX, at_server.bytes()),
        comes("direct_routing_refuses_for_a_pod_that_is_not_here", World::new(), &lost)
            .configured(routed)
            .drops(DropReason::NoSuchPod),
    ]
}
