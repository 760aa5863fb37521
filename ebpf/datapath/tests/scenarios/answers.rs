//! Refusals that tell the sender.

use std::net::SocketAddr;

use diolkos_abi::config::ENCAPSULATED_MARK;
use diolkos_abi::counter::{DropReason, Hook};
use etherparse::{Icmpv4Type, Icmpv6Type, icmpv4, icmpv6};

use super::packets::{ACK, FIN_ACK, RST, SYN};
use super::wire::{
    ACKNOWLEDGED, Complaint, FAMILIES, Family, SEQUENCE, SERVICE_PORT, UNKNOWN_PORT, Wire, config, dual, mapped,
};
use super::world::{CLIENT_IFINDEX, NODE_2_MAC, NODE_2_TUNNEL, OVERLAY_IFINDEX, OVERLAY_MAC, VNI, World};
use super::{Redirect, Scenario, Tunnel};

pub const PORT: Complaint = (
    Icmpv4Type::DestinationUnreachable(icmpv4::DestUnreachableHeader::Port),
    Icmpv6Type::DestinationUnreachable(icmpv6::DestUnreachableCode::Port),
);
const HOST: Complaint = (
    Icmpv4Type::DestinationUnreachable(icmpv4::DestUnreachableHeader::Host),
    Icmpv6Type::DestinationUnreachable(icmpv6::DestUnreachableCode::Address),
);
const HOPS: Complaint = (
    Icmpv4Type::TimeExceeded(icmpv4::TimeExceededCode::TtlExceededInTransit),
    Icmpv6Type::TimeExceeded(icmpv6::TimeExceededCode::HopLimitExceeded),
);

pub fn all() -> Vec<Scenario> {
    let mut list = Vec::new();
    for family in FAMILIES {
        list.extend(segments(family));
        list.extend(datagrams(family));
        list.extend(from_another_node(family));
        list.extend(silent(family));
    }
    list
}

/// A scenario of a frame that the client's pod sends.
pub fn sent(family: Family, names: [&'static str; 2], world: World, bytes: Vec<u8>) -> Scenario {
    let name = family.name(names[0], names[1]);
    Scenario::new(name, Hook::FromContainer, CLIENT_IFINDEX, world, bytes).configured(|known| *known = config())
}

/// A scenario of a frame that node 2 sends.
pub fn arrives(family: Family, names: [&'static str; 2], world: World, bytes: Vec<u8>) -> Scenario {
    let name = family.name(names[0], names[1]);
    let mut scenario = Scenario::new(name, Hook::FromOverlay, OVERLAY_IFINDEX, world, bytes);
    scenario.input.tunnel = Some(Tunnel { vni: VNI, remote: mapped(NODE_2_TUNNEL.into()) });
    scenario.configured(|known| *known = config())
}

impl Scenario {
    /// Refused, and these bytes go back into the client's pod.
    pub fn answers_the_pod(mut self, reason: DropReason, bytes: Vec<u8>) -> Self {
        self.expect.redirect = Some(Redirect::Pod(CLIENT_IFINDEX));
        self.answers(reason, bytes)
    }

    /// Refused, and these bytes go back through the tunnel.
    pub fn answers_node_2(mut self, reason: DropReason, bytes: Vec<u8>) -> Self {
        self.expect.mark = ENCAPSULATED_MARK;
        self.expect.redirect = Some(Redirect::Device(OVERLAY_IFINDEX));
        self.expect.tunnel = Some((VNI, mapped(NODE_2_TUNNEL.into())));
        self.answers(reason, bytes)
    }
}

pub fn end(address: std::net::IpAddr, port: u16) -> SocketAddr {
    SocketAddr::new(address, port)
}

fn client(family: Family) -> SocketAddr {
    end(family.client, 40_000)
}

/// Bytes of a UDP packet's IP header and ports.
pub fn quote(family: Family) -> usize {
    if family.v6 { 48 } else { 28 }
}

fn segments(family: Family) -> Vec<Scenario> {
    let to = |port| Wire::new(client(family), end(family.vip, port));
    let (empty, unknown) = (to(SERVICE_PORT), to(UNKNOWN_PORT));
    let stranger = Wire::new(client(family), end(family.stranger, 80));
    let opened = |length: u32| Some(SEQUENCE.wrapping_add(length));
    vec![
        sent(family, ["syn_to_nobody_v4", "syn_to_nobody_v6"], dual(&[]), empty.tcp(SYN, b""))
            .answers_the_pod(DropReason::NoEndpoints, empty.back().rst(0, opened(1))),
        sent(family, ["syn_with_data_to_nobody_v4", "syn_with_data_to_nobody_v6"], dual(&[]), empty.tcp(SYN, b"early"))
            .answers_the_pod(DropReason::NoEndpoints, empty.back().rst(0, opened(6))),
        sent(family, ["data_to_nobody_v4", "data_to_nobody_v6"], dual(&[]), empty.tcp(ACK, b"odd sized payload"))
            .answers_the_pod(DropReason::NoEndpoints, empty.back().rst(ACKNOWLEDGED, None)),
        sent(family, ["fin_to_nobody_v4", "fin_to_nobody_v6"], dual(&[]), empty.tcp(FIN_ACK, b""))
            .answers_the_pod(DropReason::NoEndpoints, empty.back().rst(ACKNOWLEDGED, None)),
        sent(family, ["syn_to_an_unknown_port_v4", "syn_to_an_unknown_port_v6"], dual(&[]), unknown.tcp(SYN, b""))
            .answers_the_pod(DropReason::UnknownPort, unknown.back().rst(0, opened(1))),
        sent(family, ["syn_to_no_pod_v4", "syn_to_no_pod_v6"], dual(&[]), stranger.tcp(SYN, b""))
            .answers_the_pod(DropReason::NoSuchPod, stranger.back().rst(0, opened(1))),
    ]
}

fn datagrams(family: Family) -> Vec<Scenario> {
    let to = |port| Wire::new(client(family), end(family.vip, port));
    let (empty, unknown) = (to(SERVICE_PORT), to(UNKNOWN_PORT));
    let stranger = Wire::new(client(family), end(family.stranger, 80));
    let last = Wire { hops: 1, ..Wire::new(client(family), end(family.server, 80)) };
    let told = |wire: Wire, complaint: &Complaint, about: &[u8]| wire.back().error(complaint, about, quote(family));
    let (udp, other_udp, lost_udp) = (empty.udp(b"odd"), unknown.udp(b""), stranger.udp(b"even"));
    let (ping, late) = (stranger.ping(b"are you there?"), last.udp(b"too far"));
    let late_syn = last.tcp(SYN, b"");
    let header = quote(family) + 12;
    vec![
        sent(family, ["udp_to_nobody_v4", "udp_to_nobody_v6"], dual(&[]), udp.clone())
            .answers_the_pod(DropReason::NoEndpoints, told(empty, &PORT, &udp)),
        sent(family, ["udp_to_an_unknown_port_v4", "udp_to_an_unknown_port_v6"], dual(&[]), other_udp.clone())
            .answers_the_pod(DropReason::UnknownPort, told(unknown, &PORT, &other_udp)),
        sent(family, ["udp_to_no_pod_v4", "udp_to_no_pod_v6"], dual(&[]), lost_udp.clone())
            .answers_the_pod(DropReason::NoSuchPod, told(stranger, &PORT, &lost_udp)),
        sent(family, ["ping_of_no_pod_v4", "ping_of_no_pod_v6"], dual(&[]), ping.clone())
            .answers_the_pod(DropReason::NoSuchPod, told(stranger, &HOST, &ping)),
        sent(family, ["the_last_hop_of_udp_v4", "the_last_hop_of_udp_v6"], dual(&[]), late.clone()).answers_the_pod(
            DropReason::HopLimit,
            last.back().speaker(family.gateway).error(&HOPS, &late, quote(family)),
        ),
        sent(family, ["the_last_hop_of_tcp_v4", "the_last_hop_of_tcp_v6"], dual(&[]), late_syn.clone())
            .answers_the_pod(DropReason::HopLimit, last.back().speaker(family.gateway).error(&HOPS, &late_syn, header)),
    ]
}

fn from_another_node(family: Family) -> Vec<Scenario> {
    let wire = Wire {
        to_mac: OVERLAY_MAC,
        from_mac: NODE_2_MAC,
        ..Wire::new(end(family.remote, 40_000), end(family.stranger, 80))
    };
    let (syn, udp) = (wire.tcp(SYN, b""), wire.udp(b"anybody"));
    let refused = wire.back().error(&PORT, &udp, quote(family));
    vec![
        arrives(family, ["tcp_from_afar_to_no_pod_v4", "tcp_from_afar_to_no_pod_v6"], dual(&[]), syn)
            .answers_node_2(DropReason::NoSuchPod, wire.back().rst(0, Some(SEQUENCE + 1))),
        arrives(family, ["udp_from_afar_to_no_pod_v4", "udp_from_afar_to_no_pod_v6"], dual(&[]), udp)
            .answers_node_2(DropReason::NoSuchPod, refused),
    ]
}

/// What is refused without a word.
fn silent(family: Family) -> Vec<Scenario> {
    let wire = Wire::new(client(family), end(family.vip, SERVICE_PORT));
    let stranger = Wire::new(client(family), end(family.stranger, 80));
    let nobody = Wire::new(client(family), end(family.unallocated, 80));
    let error = stranger.error(&PORT, &stranger.back().udp(b"about"), quote(family));
    let list = vec![
        sent(family, ["a_rst_is_not_answered_v4", "a_rst_is_not_answered_v6"], dual(&[]), wire.tcp(RST, b""))
            .drops(DropReason::NoEndpoints),
        sent(family, ["an_error_is_not_answered_v4", "an_error_is_not_answered_v6"], dual(&[]), error)
            .drops(DropReason::NoSuchPod),
        sent(family, ["no_vip_stays_silent_v4", "no_vip_stays_silent_v6"], dual(&[]), nobody.tcp(SYN, b""))
            .drops(DropReason::UnallocatedVip),
    ];
    list.into_iter().map(Scenario::silent).collect()
}
