//! What a pod sends that is no service's: direct traffic, other protocols, and what cannot be believed.

use diolkos_abi::counter::{DropReason, Hook, Verdict};
use etherparse::IpNumber;

use super::packets::{ACK, End, Frame, POD_MAC, SYN, Transport};
use super::world::{
    CLIENT, CLIENT_IFINDEX, GATEWAY, LOST, NODE_2_MAC, OUTSIDE, OVERLAY_MAC, REMOTE, SERVER, SERVER_HOST_MAC,
    SERVER_IFINDEX, SERVER_MAC, VIP, World,
};
use super::{Fault, Scenario};

pub const FROM: End = (CLIENT, 40_000);

pub fn all() -> Vec<Scenario> {
    [direct(), refused(), tags()].concat()
}

/// What only IPv4 has.
pub fn only_v4() -> Vec<Scenario> {
    malformed()
}

pub fn sent(name: &'static str, world: World, bytes: Vec<u8>) -> Scenario {
    Scenario::new(name, Hook::FromContainer, CLIENT_IFINDEX, world, bytes)
}

/// The frame as the server's pod receives it.
pub fn at_server(frame: &Frame) -> Vec<u8> {
    let ttl = frame.ttl - 1;
    Frame { to_mac: SERVER_MAC, from_mac: SERVER_HOST_MAC, ttl, ..frame.clone() }.bytes()
}

/// The frame as it enters the overlay for node 2.
pub fn at_overlay(frame: &Frame) -> Vec<u8> {
    Frame { to_mac: NODE_2_MAC, from_mac: OVERLAY_MAC, ..frame.clone() }.bytes()
}

fn direct() -> Vec<Scenario> {
    let local = Frame::tcp(FROM, (SERVER, 8080), ACK);
    let opening = Frame::tcp(FROM, (SERVER, 8080), SYN);
    let remote = Frame::tcp(FROM, (REMOTE, 8080), ACK);
    let udp = Frame { transport: Transport::Udp, ..local.clone() };
    let remote_udp = Frame { transport: Transport::Udp, ..remote.clone() };
    let udp_to_service = Frame { transport: Transport::Udp, ..Frame::tcp(FROM, VIP, 0) };
    let ping = Frame { transport: Transport::Raw(IpNumber::ICMP), ..local.clone() };
    let ping_to_service = Frame { transport: Transport::Raw(IpNumber::ICMP), ..Frame::tcp(FROM, VIP, 0) };
    let gateway = Frame::tcp(FROM, (GATEWAY, 22), SYN);
    let outside = Frame::tcp(FROM, (OUTSIDE, 443), SYN);
    let world = World::new;
    vec![
        sent("a_pod_reaches_a_pod_of_its_node", world(), local.bytes()).reaches_pod(SERVER_IFINDEX, at_server(&local)),
        sent("a_pod_opens_a_connection_to_a_pod_of_its_node", world(), opening.bytes())
            .reaches_pod(SERVER_IFINDEX, at_server(&opening)),
        sent("a_pod_reaches_a_pod_of_another_node", world(), remote.bytes()).reaches_node_2(at_overlay(&remote)),
        sent("a_pod_reaches_itself", world(), Frame::tcp(FROM, (CLIENT, 80), ACK).bytes()).reaches_pod(
            CLIENT_IFINDEX,
            Frame {
                to_mac: POD_MAC,
                from_mac: super::packets::HOST_MAC,
                ttl: 63,
                ..Frame::tcp(FROM, (CLIENT, 80), ACK)
            }
            .bytes(),
        ),
        sent("udp_between_pods_is_delivered", world(), udp.bytes()).reaches_pod(SERVER_IFINDEX, at_server(&udp)),
        sent("udp_to_another_node_is_delivered", world(), remote_udp.bytes()).reaches_node_2(at_overlay(&remote_udp)),
        sent("a_ping_to_a_service_is_refused", world(), ping_to_service.bytes()).drops(DropReason::UnknownPort),
        sent("udp_to_a_tcp_service_is_refused", world(), udp_to_service.bytes()).drops(DropReason::UnknownPort),
        sent("a_ping_between_pods_is_delivered", world(), ping.bytes()).reaches_pod(SERVER_IFINDEX, at_server(&ping)),
        sent("the_gateway_address_is_the_host", world(), gateway.bytes()).verdict(Verdict::Stack),
        sent("the_outside_is_left_to_the_stack", world(), outside.bytes()).verdict(Verdict::Stack),
        sent("without_an_overlay_the_stack_knows_the_way", world(), remote.bytes())
            .configured(|config| config.overlay_ifindex = 0)
            .verdict(Verdict::Stack),
        sent("a_tunnel_key_that_cannot_be_set_drops", world(), remote.bytes())
            .drops(DropReason::NoTunnel)
            .faulty(Fault::Tunnel),
    ]
}

/// Destinations and hop limits that are refused.
fn refused() -> Vec<Scenario> {
    let local = Frame::tcp(FROM, (SERVER, 8080), ACK);
    vec![
        sent("no_such_pod_drops", World::new(), Frame::tcp(FROM, ([10, 244, 1, 77], 80), ACK).bytes())
            .drops(DropReason::NoSuchPod),
        sent("no_such_node_drops", World::new(), Frame::tcp(FROM, (LOST, 80), ACK).bytes())
            .drops(DropReason::NoSuchNode),
        sent("a_hop_limit_of_one_drops", World::new(), Frame { ttl: 1, ..local.clone() }.bytes())
            .drops(DropReason::HopLimit),
        sent("a_hop_limit_of_zero_drops", World::new(), Frame { ttl: 0, ..local.clone() }.bytes())
            .drops(DropReason::HopLimit),
        sent("a_hop_limit_of_two_is_the_last_to_arrive", World::new(), Frame { ttl: 2, ..local.clone() }.bytes())
            .reaches_pod(SERVER_IFINDEX, at_server(&Frame { ttl: 2, ..local })),
    ]
}

fn malformed() -> Vec<Scenario> {
    let bytes = Frame::tcp(FROM, VIP, SYN).bytes();
    let cut = |length: usize| bytes[..length].to_vec();
    let with = |at: usize, value: u8| {
        let mut bytes = bytes.clone();
        bytes[at] = value;
        bytes
    };
    let short_total = {
        // A total length that ends inside the TCP header, with the rest of the frame behind it.
        let mut bytes = with(16, 0);
        bytes[17] = 39;
        bytes
    };
    let drops = |name, bytes, reason| sent(name, World::new(), bytes).drops(reason);
    vec![
        drops("a_frame_without_a_network_header_drops", cut(15), DropReason::Truncated),
        drops("half_an_ip_header_drops", cut(33), DropReason::Truncated),
        drops("half_a_tcp_header_drops", cut(53), DropReason::Truncated),
        drops("a_tcp_header_beyond_the_total_length_drops", short_total, DropReason::Truncated),
        drops("ip_version_six_under_the_type_of_four_drops", with(14, 0x65), DropReason::Malformed),
        drops("an_ip_header_below_twenty_bytes_drops", with(14, 0x44), DropReason::Malformed),
        drops("a_header_longer_than_the_packet_drops", with(17, 19), DropReason::Malformed),
        drops("a_tcp_header_below_twenty_bytes_drops", with(14 + 20 + 12, 0x40), DropReason::Malformed),
        drops("options_that_reach_beyond_the_packet_drop", with(14, 0x4e), DropReason::Truncated),
    ]
}

/// Values that belong to another key.
fn tags() -> Vec<Scenario> {
    let mut stranger = World::new();
    stranger.endpoints[0].1.tag ^= 1;
    let mut detour = World::new();
    detour.routes[0].1.tag ^= 1;
    vec![
        sent("an_endpoint_with_a_strange_tag_is_a_miss", stranger, Frame::tcp(FROM, (SERVER, 80), ACK).bytes())
            .drops(DropReason::SpoofedSource),
        sent("a_route_with_a_strange_tag_is_a_miss", detour, Frame::tcp(FROM, (REMOTE, 80), ACK).bytes())
            .verdict(Verdict::Stack),
    ]
}
