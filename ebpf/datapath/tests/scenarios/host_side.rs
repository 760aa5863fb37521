//! What the host's stack sends to a pod.

use diolkos_abi::counter::{DropReason, Hook, Verdict};

use super::Scenario;
use super::from_container::FROM;
use super::packets::{ACK, Frame, HOST_MAC, POD_MAC, SYN, SYN_ACK, Transport, arp};
use super::world::{BEFORE, HOST_END, HOST_NETWORK, NOW, OUTSIDE, VIP, World, confirmed, connection};

pub fn all() -> Vec<Scenario> {
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
