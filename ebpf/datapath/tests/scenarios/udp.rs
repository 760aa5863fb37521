//! Datagrams to services and their answers.

use diolkos_abi::address::protocol;
use diolkos_abi::conntrack::{Flow, Tuple};
use diolkos_abi::counter::{DropReason, Hook};
use diolkos_abi::service::backend_state;

use super::Scenario;
use super::from_container::{FROM, at_overlay, at_server, sent};
use super::packets::{Frame, HOST_MAC, POD_MAC, Transport, is_v6};
use super::world::{
    ASIDE, BEFORE, CLIENT_IFINDEX, FAR, FAR_END, LOCAL, LOCAL_END, NOW, SERVER_HOST_MAC, SERVER_IFINDEX, SERVER_MAC,
    VIP, World, connection,
};

/// [`connection`] of datagrams.
pub fn exchange(backend: u32, end: super::packets::End, seen: u32) -> [(Tuple, Flow); 2] {
    connection(FROM, backend, end, seen).map(|(key, flow)| {
        let key = Tuple { protocol: protocol::UDP, ..key };
        (key, Flow { tag: key.hash(), ..flow })
    })
}

/// A world whose service takes datagrams.
fn serving(backends: &[u32]) -> World {
    let mut world = World::serving(backends);
    world.also_udp();
    world
}

pub fn all() -> Vec<Scenario> {
    let ask = Frame { transport: Transport::Udp, ..Frame::tcp(FROM, VIP, 0) };
    let to_local = at_server(&Frame { destination: LOCAL_END, ..ask.clone() });
    let known = exchange(FAR, FAR_END, BEFORE);
    let moved = |name, world: World| {
        sent(name, world.with_flows(&known), ask.bytes()).reaches_pod(SERVER_IFINDEX, to_local.clone()).leaves(&[
            exchange(LOCAL, LOCAL_END, NOW)[0],
            exchange(LOCAL, LOCAL_END, NOW)[1],
            known[1],
        ])
    };
    let mut list = vec![
        sent("a_datagram_to_a_cluster_ip_reaches_the_local_backend", serving(&[LOCAL]), ask.bytes())
            .reaches_pod(SERVER_IFINDEX, to_local.clone())
            .leaves(&exchange(LOCAL, LOCAL_END, NOW)),
        sent("a_datagram_to_a_cluster_ip_reaches_the_remote_backend", serving(&[FAR]), ask.bytes())
            .reaches_node_2(at_overlay(&Frame { destination: FAR_END, ..ask.clone() }))
            .leaves(&exchange(FAR, FAR_END, NOW)),
        sent("the_next_datagram_stays_with_its_backend", serving(&[LOCAL]).with_flows(&known), ask.bytes())
            .reaches_node_2(at_overlay(&Frame { destination: FAR_END, ..ask.clone() }))
            .leaves(&exchange(FAR, FAR_END, NOW)),
        moved(
            "udp_to_a_deleted_backend_moves_on_its_next_packet",
            serving(&[LOCAL]).with_backend(FAR, |backend| backend.state = backend_state::DEAD),
        ),
        moved(
            "udp_of_a_stale_generation_heals_on_the_next_packet",
            serving(&[LOCAL]).with_backend(FAR, |backend| backend.generation += 1),
        ),
        moved("udp_moves_once_its_flow_has_expired", serving(&[LOCAL]))
            .configured(|config| config.lifetimes.datagram = 120),
        sent("a_datagram_to_a_service_without_endpoints_is_refused", serving(&[]), ask.bytes())
            .drops(DropReason::NoEndpoints),
        answered(),
    ];
    list.extend(without_checksum(&ask));
    list.extend(asked_directly(&ask));
    list
}

/// The backend of a service, asked under its own address from the port of a flow to the service: answers carry the address
/// that was asked last.
fn asked_directly(ask: &Frame) -> Vec<Scenario> {
    let at = |flow: (Tuple, Flow), seen| (flow.0, Flow { seen, ..flow.1 });
    let [there, back] = exchange(LOCAL, LOCAL_END, BEFORE);
    let direct = Frame { destination: LOCAL_END, ..ask.clone() };
    let far = Frame { destination: FAR_END, ..ask.clone() };
    let [far_there, far_back] = exchange(FAR, FAR_END, BEFORE);
    let other = exchange(FAR, LOCAL_END, BEFORE)[0];
    let asks = |name, flows: &[_], frame: &Frame| sent(name, serving(&[LOCAL]).with_flows(flows), frame.bytes());
    vec![
        asks("a_backend_that_is_asked_itself_answers_so", &[there, back], &direct)
            .reaches_pod(SERVER_IFINDEX, at_server(&direct))
            .leaves(&[at(there, ASIDE)]),
        asks("a_backend_of_another_node_that_is_asked_itself_answers_so", &[far_there, far_back], &far)
            .reaches_node_2(at_overlay(&far))
            .leaves(&[at(far_there, ASIDE)]),
        asks("a_service_asked_after_its_backend_answers_again", &[at(there, ASIDE)], ask)
            .reaches_pod(SERVER_IFINDEX, at_server(&direct))
            .leaves(&exchange(LOCAL, LOCAL_END, NOW)),
        asks("what_is_left_of_a_flow_alone_gives_way", &[back], &direct)
            .reaches_pod(SERVER_IFINDEX, at_server(&direct))
            .leaves(&[]),
        asks("a_flow_that_went_to_another_backend_stays", &[other, back], &direct)
            .reaches_pod(SERVER_IFINDEX, at_server(&direct))
            .leaves(&[at(other, NOW)]),
        asks("a_datagram_to_another_server_leaves_a_flow_alone", &[there, back], &far)
            .reaches_node_2(at_overlay(&far))
            .leaves(&[there, back]),
    ]
}

fn answered() -> Scenario {
    let answer = Frame {
        from_mac: SERVER_MAC,
        to_mac: SERVER_HOST_MAC,
        transport: Transport::Udp,
        ..Frame::tcp(LOCAL_END, FROM, 0)
    };
    let at_client = Frame { source: VIP, to_mac: POD_MAC, from_mac: HOST_MAC, ttl: 63, ..answer.clone() };
    let known = exchange(LOCAL, LOCAL_END, BEFORE);
    let world = serving(&[LOCAL]).with_flows(&known);
    Scenario::new(
        "the_answer_to_a_datagram_carries_the_cluster_ip",
        Hook::FromContainer,
        SERVER_IFINDEX,
        world,
        answer.bytes(),
    )
    .reaches_pod(CLIENT_IFINDEX, at_client.bytes())
    .leaves(&[known[0], exchange(LOCAL, LOCAL_END, NOW)[1]])
}

/// Only IPv4 allows that.
fn without_checksum(ask: &Frame) -> Option<Scenario> {
    let bare = |mut bytes: Vec<u8>| {
        bytes[40..42].fill(0);
        bytes
    };
    let there = bare(at_server(&Frame { destination: LOCAL_END, ..ask.clone() }));
    (!is_v6()).then(|| {
        sent("a_datagram_without_checksum_stays_without", serving(&[LOCAL]), bare(ask.bytes()))
            .reaches_pod(SERVER_IFINDEX, there)
            .leaves(&exchange(LOCAL, LOCAL_END, NOW))
    })
}
