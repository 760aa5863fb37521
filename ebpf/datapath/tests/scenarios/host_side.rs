//! What the host's stack sends to pods.

use diolkos_abi::address::{protocol, v4_mapped};
use diolkos_abi::config::TRANSLATED_MARK;
use diolkos_abi::conntrack::{Flow, Tuple, flow_flags};
use diolkos_abi::counter::{DropReason, Hook, Verdict};

use super::Scenario;
use super::from_container::{FROM, at_overlay};
use super::packets::{ACK, End, Frame, HOST_MAC, POD_MAC, SYN, SYN_ACK, Transport, address, arp};
use super::world::{
    ASIDE, BEFORE, FAR, FAR_END, GATEWAY, HOST, HOST_END, HOST_NETWORK, LOCAL, LOCAL_END, NODE_2_TUNNEL, NOW, OUTSIDE,
    VIP, VNI, World, confirmed, connection, forward, reply,
};

/// A process of the node, and how pods know it.
const PROCESS: End = (HOST, 40_000);
const AS_GATEWAY: End = (GATEWAY, 40_000);

pub fn all() -> Vec<Scenario> {
    [answers(), of_node()].concat()
}

fn answers() -> Vec<Scenario> {
    let reaches = |name, world, frame: &Frame| Scenario::new(name, Hook::ToContainer, 0, world, frame.bytes());
    let to_pod = |frame: Frame| Frame { to_mac: POD_MAC, from_mac: HOST_MAC, ..frame };
    let known = connection(FROM, HOST_NETWORK, HOST_END, BEFORE);
    let answer = to_pod(Frame::tcp(HOST_END, FROM, SYN_ACK));
    let syn = to_pod(Frame::tcp(HOST_END, FROM, SYN));
    let direct = to_pod(Frame::tcp((OUTSIDE, 443), FROM, ACK));
    let udp = Frame { transport: Transport::Udp, ..direct.clone() };
    // An entry that translates the client's own packets says nothing about a packet to the client.
    let mirrored = to_pod(Frame::tcp(FROM, VIP, ACK));
    vec![
        reaches(
            "the_reply_of_a_backend_on_the_host_network_carries_the_cluster_ip",
            World::new().with_flows(&known),
            &answer,
        )
        .becomes(Verdict::Translated, Frame { source: VIP, ..answer.clone() }.bytes())
        .leaves(&[known[0], confirmed(connection(FROM, HOST_NETWORK, HOST_END, NOW)[1])]),
        reaches("a_syn_of_the_host_is_no_reply", World::new().with_flows(&known), &syn),
        reaches("direct_traffic_of_the_host_is_left_alone", World::new().with_flows(&known), &direct),
        reaches("udp_of_the_host_is_left_alone", World::new().with_flows(&known), &udp),
        reaches("a_forward_entry_is_no_reply", World::new().with_flows(&known), &mirrored)
            .leaves(&[confirmed(connection(FROM, HOST_NETWORK, HOST_END, NOW)[0]), known[1]]),
        Scenario::new("arp_of_the_host_is_left_alone", Hook::ToContainer, 0, World::new(), arp()),
        Scenario::new(
            "half_a_header_of_the_host_drops",
            Hook::ToContainer,
            0,
            World::new(),
            answer.bytes()[..40].to_vec(),
        )
        .drops(DropReason::Truncated),
    ]
}

/// Both entries of a flow of the node to the service, which the backend knows as the gateway's.
fn flow_of_node(protocol: u8, backend: u32, end: End, seen: u32) -> [(Tuple, Flow); 2] {
    let of = |(key, flow): (Tuple, Flow), flags, seen| {
        let key = Tuple { protocol, ..key };
        (key, Flow { tag: key.hash(), flags: flow.flags | flags, seen, ..flow })
    };
    let (there, back) = (forward(PROCESS, backend, seen), reply(AS_GATEWAY, VIP, backend, end, seen));
    let there = of(there, flow_flags::SOURCE, seen);
    let back = of(back, flow_flags::DESTINATION, seen);
    let (source, source_port) = (address(AS_GATEWAY.0), AS_GATEWAY.1.to_be_bytes());
    let (destination, destination_port) = (address(PROCESS.0), PROCESS.1.to_be_bytes());
    [(there.0, Flow { source, source_port, ..there.1 }), (back.0, Flow { destination, destination_port, ..back.1 })]
}

/// What the node sends to a pod under its own address, from the port of a flow to a service of that pod.
fn of_node() -> Vec<Scenario> {
    let to_pod = |frame: Frame| Frame { to_mac: POD_MAC, from_mac: HOST_MAC, ..frame };
    let datagram = |end| Frame { transport: Transport::Udp, ..to_pod(Frame::tcp(AS_GATEWAY, end, 0)) };
    let syn = |end| to_pod(Frame::tcp(AS_GATEWAY, end, SYN));
    let known = |protocol, backend, end| flow_of_node(protocol, backend, end, BEFORE);
    let aside = |flow: (Tuple, Flow)| (flow.0, Flow { seen: ASIDE, ..flow.1 });
    let ended = |flows: [(Tuple, Flow); 2]| {
        flows.map(|(key, flow)| (key, Flow { flags: flow.flags | flow_flags::FIN, ..flow }))
    };
    let now = |flow: (Tuple, Flow)| (flow.0, Flow { seen: NOW, ..flow.1 });
    let here = |name, flows: &[_], frame: &Frame| {
        Scenario::new(name, Hook::ToContainer, 0, World::new().with_flows(flows), frame.bytes())
    };
    let there = |name, flows: &[_], frame: &Frame| {
        let mut scenario = Scenario::new(name, Hook::ToOverlay, 0, World::new().with_flows(flows), frame.bytes())
            .becomes(Verdict::Encapsulated, at_overlay(frame));
        scenario.expect.tunnel = Some((VNI, v4_mapped(NODE_2_TUNNEL)));
        scenario
    };
    let (udp, tcp) = (known(protocol::UDP, LOCAL, LOCAL_END), known(protocol::TCP, LOCAL, LOCAL_END));
    let (far_udp, far_tcp) = (known(protocol::UDP, FAR, FAR_END), known(protocol::TCP, FAR, FAR_END));
    let mut translated = here("what_was_translated_for_the_node_is_in_nobodys_way", &udp, &datagram(LOCAL_END));
    translated.input.mark = TRANSLATED_MARK;
    vec![
        here("a_pod_that_the_node_asks_itself_answers_so", &udp, &datagram(LOCAL_END)).leaves(&[aside(udp[0])]),
        there("a_pod_elsewhere_that_the_node_asks_itself_answers_so", &far_udp, &datagram(FAR_END))
            .leaves(&[aside(far_udp[0])]),
        here("a_connection_of_the_node_takes_the_place_of_one_that_ended", &ended(tcp), &syn(LOCAL_END))
            .leaves(&[now(ended(tcp)[0])]),
        there("a_connection_of_the_node_elsewhere_takes_the_place_of_one_that_ended", &ended(far_tcp), &syn(FAR_END))
            .leaves(&[now(ended(far_tcp)[0])]),
        here("a_connection_of_the_node_beside_a_living_one_is_refused", &tcp, &syn(LOCAL_END))
            .drops(DropReason::FlowCollision)
            .leaves(&tcp.map(now)),
        there("a_connection_of_the_node_elsewhere_beside_a_living_one_is_refused", &far_tcp, &syn(FAR_END))
            .drops(DropReason::FlowCollision)
            .leaves(&far_tcp.map(now)),
        here("a_segment_of_the_node_to_a_pod_changes_nothing", &tcp, &to_pod(Frame::tcp(AS_GATEWAY, LOCAL_END, ACK))),
        translated.marked(0),
    ]
}
