//! Whom a pod may speak for.

use diolkos_abi::counter::{DropReason, Hook, Verdict};
use etherparse::IpNumber;

use super::Scenario;
use super::from_container::{FROM, at_server, sent};
use super::packets::{ACK, Frame, POD_MAC, Transport, address, arp_of, icmpv6};
use super::world::{CLIENT, REMOTE, SERVER, SERVER_IFINDEX, SERVER_MAC, World};

const GATEWAY: [u8; 4] = super::world::GATEWAY;
/// An address that counts on one link.
const LINK_LOCAL: [u8; 16] = [0xfe, 0x80, 0, 0, 0, 0, 0, 0, 0, 0xaa, 0, 0xff, 0xfe, 0, 0, 0x10];

const SOLICITATION: u8 = 135;
const ADVERTISEMENT: u8 = 136;

pub fn all() -> Vec<Scenario> {
    let from_another = Frame::tcp((SERVER, 40_000), (REMOTE, 8080), ACK);
    let from_nowhere = Frame::tcp(([10, 244, 1, 99], 40_000), (REMOTE, 8080), ACK);
    let with_another_mac = Frame { from_mac: SERVER_MAC, ..Frame::tcp(FROM, (REMOTE, 8080), ACK) };
    let mut tagged = sent("a_vlan_tag_beside_a_pods_packet_drops", World::new(), with_another_mac.bytes());
    tagged.input.tagged = true;
    vec![
        sent("the_source_of_another_pod_drops", World::new(), from_another.bytes()).drops(DropReason::SpoofedSource),
        sent("a_source_that_is_no_pod_drops", World::new(), from_nowhere.bytes()).drops(DropReason::SpoofedSource),
        sent("the_mac_of_another_pod_drops", World::new(), with_another_mac.bytes()).drops(DropReason::SpoofedMac),
        tagged.drops(DropReason::Tagged).on_the_host_alone(),
        sent("a_vlan_tag_in_a_pods_packet_drops", World::new(), in_vlan(&with_another_mac)).drops(DropReason::Tagged),
        Scenario::new(
            "a_vlan_tag_of_the_host_is_left_alone",
            Hook::ToContainer,
            0,
            World::new(),
            in_vlan(&from_another),
        ),
    ]
}

pub fn only_v4() -> Vec<Scenario> {
    let neither = [&[0xff; 6][..], &POD_MAC, &[0x88, 0xcc], &[0; 46]].concat();
    let speaks = |name, mac, address| sent(name, World::new(), arp_of(mac, address, GATEWAY));
    vec![
        speaks("a_pod_asks_for_its_gateway", POD_MAC, CLIENT),
        speaks("a_pod_asks_before_it_has_an_address", POD_MAC, [0; 4]),
        speaks("arp_for_another_address_drops", POD_MAC, SERVER).drops(DropReason::SpoofedSource),
        speaks("arp_for_another_mac_drops", SERVER_MAC, CLIENT).drops(DropReason::SpoofedMac),
        sent("half_an_arp_message_drops", World::new(), arp_of(POD_MAC, CLIENT, GATEWAY)[..30].to_vec())
            .drops(DropReason::Truncated)
            .on_the_host_alone(),
        sent("what_is_neither_ip_nor_arp_drops", World::new(), neither).drops(DropReason::NotIp),
    ]
}

pub fn only_v6() -> Vec<Scenario> {
    [neighbours(), headers()].concat()
}

/// A link-layer address option.
fn option(kind: u8, mac: [u8; 6]) -> Vec<u8> {
    [&[kind, 1][..], &mac].concat()
}

fn neighbours() -> Vec<Scenario> {
    let says =
        |name, source, kind, body: &[u8], options: &[u8]| sent(name, World::new(), icmpv6(source, kind, body, options));
    let (own, other, gateway) = (address(CLIENT), address(SERVER), address(GATEWAY));
    let stack = |scenario: Scenario| scenario.verdict(Verdict::Stack);
    vec![
        stack(says("a_pod_looks_for_its_neighbour", own, SOLICITATION, &gateway, &option(1, POD_MAC))),
        stack(says("a_pod_looks_from_its_link", LINK_LOCAL, SOLICITATION, &gateway, &option(1, POD_MAC))),
        stack(says("a_pod_asks_whether_its_address_is_taken", [0; 16], SOLICITATION, &own, &[])),
        stack(says("a_pod_asks_whether_its_link_address_is_taken", [0; 16], SOLICITATION, &LINK_LOCAL, &[])),
        stack(says("a_pod_says_where_it_is", own, ADVERTISEMENT, &own, &option(2, POD_MAC))),
        stack(says("a_pod_looks_for_routers", LINK_LOCAL, 133, &[], &option(1, POD_MAC))),
        stack(says("a_pod_joins_a_group", LINK_LOCAL, 143, &[], &[])),
        says("a_solicitation_with_another_mac_drops", own, SOLICITATION, &gateway, &option(1, SERVER_MAC))
            .drops(DropReason::SpoofedMac),
        says("an_advertisement_of_another_address_drops", own, ADVERTISEMENT, &other, &option(2, POD_MAC))
            .drops(DropReason::SpoofedSource),
        says("an_advertisement_with_another_mac_drops", own, ADVERTISEMENT, &own, &option(2, SERVER_MAC))
            .drops(DropReason::SpoofedMac),
        says("a_claim_on_another_address_drops", [0; 16], SOLICITATION, &other, &[]).drops(DropReason::SpoofedSource),
        says("a_pod_is_no_router", LINK_LOCAL, 134, &[0; 8], &[]).drops(DropReason::SpoofedSource),
        says("a_redirect_of_a_pod_drops", LINK_LOCAL, 137, &[0; 32], &[]).drops(DropReason::SpoofedSource),
        says("a_ping_from_a_link_drops", LINK_LOCAL, 128, &[], &[]).drops(DropReason::SpoofedSource),
    ]
}

/// Extension headers: each of a type, then the type of what follows.
fn headers() -> Vec<Scenario> {
    let plain = Frame::tcp(FROM, (SERVER, 8080), ACK);
    let chain = |types: &[u8]| {
        let mut bytes = plain.bytes();
        let mut inserted = Vec::new();
        for (i, _) in types.iter().enumerate() {
            let next = types.get(i + 1).copied().unwrap_or(6);
            inserted.extend_from_slice(&[next, 0, 1, 4, 0, 0, 0, 0]);
        }
        bytes[20] = types[0];
        let length = u16::from_be_bytes([bytes[18], bytes[19]]) + inserted.len() as u16;
        bytes[18..20].copy_from_slice(&length.to_be_bytes());
        bytes.splice(54..54, inserted);
        bytes
    };
    let delivered = |bytes: &[u8]| {
        let head = at_server(&plain);
        [&head[..12], &bytes[12..21], &[bytes[21] - 1], &bytes[22..]].concat()
    };
    let mapped = {
        let mut bytes = plain.bytes();
        bytes[38..54].copy_from_slice(&diolkos_abi::address::v4_mapped(SERVER));
        bytes
    };
    let routed = {
        let mut bytes = chain(&[43]);
        bytes[57] = 1;
        bytes
    };
    let six = chain(&[0, 60, 60, 60, 60, 60]);
    let nothing = Frame { transport: Transport::Raw(IpNumber::IPV6_NO_NEXT_HEADER), ..plain.clone() };
    vec![
        sent("six_extension_headers_are_stepped_over", World::new(), six.clone())
            .reaches_pod(SERVER_IFINDEX, delivered(&six)),
        sent("seven_extension_headers_drop", World::new(), chain(&[0, 60, 60, 60, 60, 60, 60]))
            .drops(DropReason::TooManyHeaders),
        sent("a_routing_header_with_hops_left_drops", World::new(), routed).drops(DropReason::TooManyHeaders),
        sent("an_extension_header_beyond_the_packet_drops", World::new(), chain(&[60])[..60].to_vec())
            .drops(DropReason::Truncated),
        sent("a_packet_of_headers_only_is_delivered", World::new(), nothing.bytes())
            .reaches_pod(SERVER_IFINDEX, at_server(&nothing)),
        sent("a_mapped_address_on_the_wire_drops", World::new(), mapped).drops(DropReason::MappedAddress),
        sent("ip_version_four_under_the_type_of_six_drops", World::new(), {
            let mut bytes = plain.bytes();
            bytes[14] = 0x45;
            bytes
        })
        .drops(DropReason::Malformed),
    ]
}

/// The frame with a VLAN tag.
fn in_vlan(frame: &Frame) -> Vec<u8> {
    let mut bytes = frame.bytes();
    bytes.splice(12..12, [0x81, 0x00, 0x00, 0x2a]);
    bytes
}
