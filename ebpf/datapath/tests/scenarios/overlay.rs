//! What arrives through the overlay, and what leaves by it.

use diolkos_abi::address::v4_mapped;
use diolkos_abi::config::ENCAPSULATED_MARK;
use diolkos_abi::counter::{DropReason, Hook, Verdict};
use diolkos_abi::pod::Node;
use diolkos_datapath::Tunnel;

use super::from_container::{FROM, at_overlay, at_server};
use super::packets::{ACK, Frame, HOST_MAC, POD_MAC, SYN, SYN_ACK, Transport, address, over_ipv6};
use super::world::{
    BEFORE, CLIENT, CLIENT_IFINDEX, FAR, FAR_END, GATEWAY, LOST, NODE_2_MAC, NODE_2_TUNNEL, NOW, OUTSIDE,
    OVERLAY_IFINDEX, OVERLAY_MAC, REMOTE, SERVER, SERVER_IFINDEX, VIP, VNI, World, confirmed, connection,
};
use super::{Fault, Scenario};

pub fn all() -> Vec<Scenario> {
    [arriving(), refused(), leaving()].concat()
}

/// A frame as node 2 sends it.
fn from_node_2(frame: Frame) -> Frame {
    Frame { to_mac: OVERLAY_MAC, from_mac: NODE_2_MAC, ..frame }
}

fn arrives(name: &'static str, world: World, bytes: Vec<u8>) -> Scenario {
    let mut scenario = Scenario::new(name, Hook::FromOverlay, OVERLAY_IFINDEX, world, bytes);
    scenario.input.tunnel = Some(Tunnel { vni: VNI, remote: v4_mapped(NODE_2_TUNNEL) });
    scenario
}

fn arriving() -> Vec<Scenario> {
    let data = from_node_2(Frame::tcp((REMOTE, 40_000), (SERVER, 8080), ACK));
    let syn = from_node_2(Frame::tcp((REMOTE, 40_000), (SERVER, 8080), SYN));
    let udp = Frame { transport: Transport::Udp, ..data.clone() };
    let gateway = from_node_2(Frame::tcp((REMOTE, 8080), (GATEWAY, 40_000), SYN_ACK));
    let answer = from_node_2(Frame::tcp(FAR_END, FROM, SYN_ACK));
    let known = connection(FROM, FAR, FAR_END, BEFORE);
    let at_client =
        |source, frame: &Frame| Frame { source, to_mac: POD_MAC, from_mac: HOST_MAC, ttl: 63, ..frame.clone() }.bytes();
    let opening = from_node_2(Frame::tcp(FAR_END, FROM, SYN));
    let of_node = from_node_2(Frame::tcp((NODE_2_TUNNEL, 40_000), (SERVER, 8080), SYN));
    vec![
        arrives("a_process_of_another_node_speaks_under_the_nodes_address", World::new(), of_node.bytes())
            .reaches_pod(SERVER_IFINDEX, at_server(&of_node)),
        arrives("a_pod_is_reached_from_another_node", World::new(), data.bytes())
            .reaches_pod(SERVER_IFINDEX, at_server(&data)),
        arrives("a_connection_from_another_node_opens", World::new(), syn.bytes())
            .reaches_pod(SERVER_IFINDEX, at_server(&syn)),
        arrives("udp_from_another_node_is_delivered", World::new(), udp.bytes())
            .reaches_pod(SERVER_IFINDEX, at_server(&udp)),
        arrives(
            "the_reply_of_a_remote_backend_carries_the_cluster_ip",
            World::new().with_flows(&known),
            answer.bytes(),
        )
        .reaches_pod(CLIENT_IFINDEX, at_client(VIP, &answer))
        .leaves(&[known[0], confirmed(connection(FROM, FAR, FAR_END, NOW)[1])]),
        arrives("a_syn_is_no_reply", World::new().with_flows(&known), opening.bytes())
            .reaches_pod(CLIENT_IFINDEX, at_client(FAR_END, &opening)),
        through_ipv6(&data),
        arrives("the_gateway_address_takes_replies_to_the_host", World::new(), gateway.bytes()).verdict(Verdict::Stack),
    ]
}

/// From a node whose tunnel has no IPv4 end.
fn through_ipv6(data: &Frame) -> Scenario {
    let remote = over_ipv6(|| address(NODE_2_TUNNEL));
    let mut world = World::new();
    (world.nodes[0].1.tunnel_v4, world.nodes[0].1.tunnel_v6) = ([0; 4], remote);
    let mut scenario = arrives("a_pod_is_reached_through_a_tunnel_over_ipv6", world, data.bytes())
        .reaches_pod(SERVER_IFINDEX, at_server(data));
    scenario.input.tunnel = Some(Tunnel { vni: VNI, remote });
    scenario.on_the_host_alone()
}

fn refused() -> Vec<Scenario> {
    let data = from_node_2(Frame::tcp((REMOTE, 40_000), (SERVER, 8080), ACK));
    let stranger = from_node_2(Frame::tcp((REMOTE, 40_000), ([10, 244, 1, 77], 8080), ACK));
    let elsewhere = from_node_2(Frame::tcp((REMOTE, 40_000), (OUTSIDE, 8080), ACK));
    let last_hop = Frame { ttl: 1, ..data.clone() };
    let mut wrong = arrives("another_network_identifier_drops", World::new(), data.bytes());
    wrong.input.tunnel = Some(Tunnel { vni: VNI + 1, remote: v4_mapped(NODE_2_TUNNEL) });
    let mut naked = arrives("a_packet_that_came_through_no_tunnel_drops", World::new(), data.bytes());
    naked.input.tunnel = None;
    let from = |name, frame: &Frame, remote: [u8; 4]| {
        let mut scenario = arrives(name, World::new(), frame.bytes());
        scenario.input.tunnel = Some(Tunnel { vni: VNI, remote: v4_mapped(remote) });
        scenario.drops(DropReason::UnknownPeer)
    };
    let from_own_pod = from_node_2(Frame::tcp((CLIENT, 40_000), (SERVER, 8080), ACK));
    let from_lost = from_node_2(Frame::tcp((LOST, 40_000), (SERVER, 8080), ACK));
    let of_node = from_node_2(Frame::tcp((NODE_2_TUNNEL, 40_000), (SERVER, 8080), ACK));
    let mut other = World::new();
    other.nodes.push((3, Node { tunnel_v4: [192, 168, 0, 3], ..Node::default() }));
    other.own_address(address([192, 168, 0, 3]), 3);
    let of_other = from_node_2(Frame::tcp(([192, 168, 0, 3], 40_000), (SERVER, 8080), ACK));
    let from_outside = from_node_2(Frame::tcp((OUTSIDE, 40_000), (SERVER, 8080), ACK));
    vec![
        from("a_peer_that_is_no_node_drops", &data, [192, 168, 0, 99]),
        from("a_node_speaks_for_no_pod_of_this_node", &from_own_pod, NODE_2_TUNNEL),
        from("a_node_speaks_for_no_unknown_nodes_pod", &from_lost, NODE_2_TUNNEL),
        from("a_node_speaks_for_nobody_outside", &from_outside, NODE_2_TUNNEL),
        from("a_peer_that_is_no_node_speaks_under_no_nodes_address", &of_node, [192, 168, 0, 99]),
        arrives("a_node_speaks_under_no_other_nodes_address", other, of_other.bytes()).drops(DropReason::UnknownPeer),
        arrives(
            "a_node_speaks_under_no_address_that_is_not_known_for_its_own",
            World::new().without_own_addresses(),
            of_node.bytes(),
        )
        .drops(DropReason::UnknownPeer),
        wrong.drops(DropReason::WrongVni),
        naked.drops(DropReason::NoTunnel),
        arrives("no_such_pod_behind_the_overlay_drops", World::new(), stranger.bytes()).drops(DropReason::NoSuchPod),
        arrives("the_overlay_does_not_lead_outside", World::new(), elsewhere.bytes()).drops(DropReason::NoSuchPod),
        arrives("the_last_hop_was_the_overlay", World::new(), last_hop.bytes()).drops(DropReason::HopLimit),
        arrives("half_a_header_from_the_overlay_drops", World::new(), data.bytes()[..30].to_vec())
            .drops(DropReason::Truncated),
    ]
}

fn leaving() -> Vec<Scenario> {
    let leaves = |name, bytes| Scenario::new(name, Hook::ToOverlay, 0, World::new(), bytes);
    let data = Frame::tcp((GATEWAY, 40_000), (REMOTE, 8080), SYN);
    let mut marked = leaves("a_packet_with_its_tunnel_key_passes", data.bytes()).verdict(Verdict::Encapsulated);
    marked.input.mark = ENCAPSULATED_MARK;
    let mut other_mark =
        leaves("a_mark_of_the_host_is_kept", data.bytes()).becomes(Verdict::Encapsulated, at_overlay(&data));
    other_mark.input.mark = 0x40;
    other_mark.expect.mark = 0x40;
    other_mark.expect.tunnel = Some((VNI, v4_mapped(NODE_2_TUNNEL)));
    let mut host = leaves("a_socket_of_the_host_reaches_a_pod_of_another_node", data.bytes())
        .becomes(Verdict::Encapsulated, at_overlay(&data));
    host.expect.tunnel = Some((VNI, v4_mapped(NODE_2_TUNNEL)));
    let outside = Frame::tcp((GATEWAY, 40_000), (OUTSIDE, 80), SYN);
    let lost = Frame::tcp((GATEWAY, 40_000), (LOST, 80), SYN);
    vec![
        marked,
        other_mark,
        host,
        leaves("the_overlay_knows_pod_cidrs_only", outside.bytes()).drops(DropReason::NoSuchNode),
        leaves("the_overlay_knows_no_such_node", lost.bytes()).drops(DropReason::NoSuchNode),
        leaves("a_tunnel_key_that_cannot_be_set_drops_on_the_device", data.bytes())
            .drops(DropReason::NoTunnel)
            .faulty(Fault::Tunnel),
    ]
}
