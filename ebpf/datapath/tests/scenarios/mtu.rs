//! Packets that are larger than their way takes.

use std::net::IpAddr;

use diolkos_abi::address::protocol;
use diolkos_abi::counter::{DropReason, Verdict};
use etherparse::{Icmpv4Type, Icmpv6Type, icmpv4};

use super::Scenario;
use super::answers::{arrives, end, quote, sent};
use super::packets::{ACK, HOST_MAC, POD_MAC};
use super::wire::{BACKEND_PORT, Complaint, FAMILIES, Family, SERVICE_PORT, Wire, backend_id, dual, flow};
use super::world::{CLIENT_IFINDEX, NODE_2_MAC, NOW, OVERLAY_MAC, SERVER_HOST_MAC, SERVER_IFINDEX, SERVER_MAC, World};

const NODE_MTU: u16 = 1400;
const POD_MTU: u16 = 1320;

pub fn all() -> Vec<Scenario> {
    FAMILIES.into_iter().flat_map(|family| [to_nodes(family), to_pods(family), in_pieces(family)].concat()).collect()
}

/// Tables in which the way to node 2 takes [`NODE_MTU`] and every pod [`POD_MTU`].
fn narrow(backends: &[u32]) -> World {
    let mut world = dual(backends);
    world.nodes.iter_mut().for_each(|(_, node)| node.mtu = NODE_MTU);
    world.endpoints.iter_mut().for_each(|(_, endpoint)| endpoint.mtu = POD_MTU);
    world
}

fn too_big(mtu: u16) -> Complaint {
    let v4 = icmpv4::DestUnreachableHeader::FragmentationNeeded { next_hop_mtu: mtu };
    (Icmpv4Type::DestinationUnreachable(v4), Icmpv6Type::PacketTooBig { mtu: mtu.into() })
}

/// A datagram of `length` bytes from the network header on.
fn datagram(family: Family, wire: Wire, length: u16) -> Vec<u8> {
    wire.udp(&vec![7; usize::from(length) - quote(family)])
}

fn from_client(family: Family, to: IpAddr, port: u16) -> Wire {
    Wire::new(end(family.client, 40_000), end(to, port))
}

fn to_nodes(family: Family) -> Vec<Scenario> {
    let direct = from_client(family, family.remote, BACKEND_PORT);
    let complaint = too_big(NODE_MTU);
    let told = |wire: Wire, about: &[u8]| wire.back().speaker(family.gateway).error(&complaint, about, quote(family));
    let (fits, large) = (datagram(family, direct, NODE_MTU), datagram(family, direct, NODE_MTU + 1));
    let service = from_client(family, family.vip, SERVICE_PORT);
    let to_service = datagram(family, service, NODE_MTU + 1);
    let id = backend_id(family, protocol::UDP, true);
    let encapsulated = Wire { to_mac: NODE_2_MAC, from_mac: OVERLAY_MAC, ..direct };
    let mut unknown = narrow(&[]);
    unknown.nodes.iter_mut().for_each(|(_, node)| node.mtu = 0);
    let mut list = vec![
        sent(family, ["what_just_fits_passes_v4", "what_just_fits_passes_v6"], narrow(&[]), fits)
            .reaches_node_2(datagram(family, encapsulated, NODE_MTU)),
        sent(family, ["what_a_node_does_not_take_v4", "what_a_node_does_not_take_v6"], narrow(&[]), large.clone())
            .answers_the_pod(DropReason::TooBig, told(direct, &large)),
        sent(family, ["the_overlay_has_a_limit_v4", "the_overlay_has_a_limit_v6"], unknown, large.clone())
            .answers_the_pod(DropReason::TooBig, told(direct, &large))
            .configured(|config| config.overlay_mtu = NODE_MTU),
    ];
    // The sender is told of the packet it sent, not of the one it was to become; the flow stays for its next packet.
    let mut through =
        sent(family, ["too_big_for_a_service_v4", "too_big_for_a_service_v6"], narrow(&[id]), to_service.clone())
            .answers_the_pod(DropReason::TooBig, told(service, &to_service));
    through.expect.flows = flow(family, service.from, protocol::UDP, true, NOW).to_vec();
    list.push(through);
    if !family.v6 {
        let mut may_be_cut = large;
        // Without "don't fragment", and the checksum that goes with it.
        may_be_cut[14 + 6] &= !0x40;
        let checksum = u32::from(u16::from_be_bytes([may_be_cut[24], may_be_cut[25]])) + 0x4000;
        may_be_cut[24..26].copy_from_slice(&((checksum & 0xffff) as u16 + (checksum >> 16) as u16).to_be_bytes());
        list.push(
            sent(family, ["the_stack_cuts_what_may_be_cut", ""], narrow(&[]), may_be_cut).verdict(Verdict::Stack),
        );
    }
    list
}

fn to_pods(family: Family) -> Vec<Scenario> {
    let local = from_client(family, family.server, BACKEND_PORT);
    let afar = Wire {
        to_mac: OVERLAY_MAC,
        from_mac: NODE_2_MAC,
        ..Wire::new(end(family.remote, 40_000), end(family.client, BACKEND_PORT))
    };
    let at_client = Wire { to_mac: POD_MAC, from_mac: HOST_MAC, hops: 63, ..afar };
    let complaint = too_big(POD_MTU);
    let told = |wire: Wire, about: &[u8]| wire.back().speaker(family.gateway).error(&complaint, about, quote(family));
    let (large, from_afar) = (datagram(family, local, POD_MTU + 1), datagram(family, afar, POD_MTU + 1));
    vec![
        sent(family, ["what_a_pod_does_not_take_v4", "what_a_pod_does_not_take_v6"], narrow(&[]), large.clone())
            .answers_the_pod(DropReason::TooBig, told(local, &large)),
        arrives(family, ["too_big_from_afar_v4", "too_big_from_afar_v6"], narrow(&[]), from_afar.clone())
            .answers_node_2(DropReason::TooBig, told(afar, &from_afar)),
        arrives(
            family,
            ["from_afar_what_just_fits_v4", "from_afar_what_just_fits_v6"],
            narrow(&[]),
            datagram(family, afar, POD_MTU),
        )
        .reaches_pod(CLIENT_IFINDEX, datagram(family, at_client, POD_MTU)),
    ]
}

/// Segments that a device cuts are judged by their pieces.
fn in_pieces(family: Family) -> Vec<Scenario> {
    let wire = from_client(family, family.server, BACKEND_PORT);
    let headers = quote(family) as u32 + 12;
    let bytes = wire.tcp(ACK, &[7; 3000]);
    let delivered = Wire { to_mac: SERVER_MAC, from_mac: SERVER_HOST_MAC, hops: 63, ..wire };
    let complaint = too_big(POD_MTU);
    let told = wire.back().speaker(family.gateway).error(&complaint, &bytes, headers as usize);
    let mut fits = sent(family, ["pieces_that_fit_v4", "pieces_that_fit_v6"], narrow(&[]), bytes.clone())
        .reaches_pod(SERVER_IFINDEX, delivered.tcp(ACK, &[7; 3000]));
    fits.input.gso_size = u32::from(POD_MTU) - headers;
    let mut large = sent(family, ["pieces_that_do_not_fit_v4", "pieces_that_do_not_fit_v6"], narrow(&[]), bytes)
        .answers_the_pod(DropReason::TooBig, told);
    large.input.gso_size = u32::from(POD_MTU) - headers + 1;
    vec![fits, large]
}
