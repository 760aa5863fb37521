//! What a pod sends to a service, and what a service's backend answers.

use diolkos_abi::conntrack::flow_flags::{FIN, RST as RESET};
use diolkos_abi::conntrack::{Flow, Tuple};
use diolkos_abi::counter::{DropReason, Hook, Verdict};
use diolkos_abi::service::{SLOTS, SLOTS_PER_SERVICE, backend_state, slot_of};

use super::from_container::{FROM, at_overlay, at_server, sent};
use super::packets::{ACK, FIN_ACK, Frame, HOST_MAC, POD_MAC, RST, SYN, SYN_ACK};
use super::world::{
    BASE, BEFORE, CLIENT_IFINDEX, FAR, FAR_END, HOST_END, HOST_NETWORK, LOCAL, LOCAL_END, NODE_2_TUNNEL, NOW, OUTSIDE,
    SERVER_HOST_MAC, SERVER_IFINDEX, SERVER_MAC, SERVICE, VIP, World, confirmed, connection, forward, reply, tuple,
};
use super::{Fault, Scenario};

pub fn all() -> Vec<Scenario> {
    [opening(), refused(), established(), healing(), replies(), collisions(), direct()].concat()
}

fn syn() -> Frame {
    Frame::tcp(FROM, VIP, SYN)
}

fn to_local(frame: &Frame) -> Vec<u8> {
    at_server(&Frame { destination: LOCAL_END, ..frame.clone() })
}

fn to_far(frame: &Frame) -> Vec<u8> {
    at_overlay(&Frame { destination: FAR_END, ..frame.clone() })
}

/// A SYN to the service, with one outcome or another.
fn opens(name: &'static str, world: World) -> Scenario {
    sent(name, world, syn().bytes())
}

fn local_now() -> [(Tuple, Flow); 2] {
    connection(FROM, LOCAL, LOCAL_END, NOW)
}

fn far_now() -> [(Tuple, Flow); 2] {
    connection(FROM, FAR, FAR_END, NOW)
}

/// As a client's packet finds and leaves it.
fn local_met() -> [(Tuple, Flow); 2] {
    [confirmed(local_now()[0]), local_now()[1]]
}

fn far_met() -> [(Tuple, Flow); 2] {
    [confirmed(far_now()[0]), far_now()[1]]
}

fn opening() -> Vec<Scenario> {
    let options = Frame { options: vec![1; 12], ..syn() };
    let far_host_end = (NODE_2_TUNNEL, 9090_u16);
    let far_host = World::serving(&[FAR]).with_backend(FAR, |backend| {
        backend.address = super::packets::address(far_host_end.0);
        backend.port = far_host_end.1.to_be_bytes();
    });
    let mut elsewhere = World::serving(&[LOCAL]);
    elsewhere.frontends.clear();
    elsewhere.frontend((OUTSIDE, 80), SERVICE);
    let external = Frame::tcp(FROM, (OUTSIDE, 80), SYN);
    let mut external_flows = connection(FROM, LOCAL, LOCAL_END, NOW);
    external_flows[0].0 = tuple(FROM, (OUTSIDE, 80));
    external_flows[0].1.tag = external_flows[0].0.hash();
    external_flows[1] = reply(FROM, (OUTSIDE, 80), LOCAL, LOCAL_END, NOW);
    vec![
        opens("a_syn_to_a_cluster_ip_reaches_the_local_backend", World::serving(&[LOCAL]))
            .reaches_pod(SERVER_IFINDEX, to_local(&syn()))
            .leaves(&local_now()),
        opens("a_syn_to_a_cluster_ip_reaches_the_remote_backend", World::serving(&[FAR]))
            .reaches_node_2(to_far(&syn()))
            .leaves(&far_now()),
        opens("a_remote_backend_of_unknown_node_is_routed", World::serving(&[FAR]).with_backend(FAR, |b| b.node = 0))
            .reaches_node_2(to_far(&syn()))
            .leaves(&far_now()),
        opens("a_backend_on_the_host_network_is_left_to_the_stack", World::serving(&[HOST_NETWORK]))
            .becomes(Verdict::Stack, Frame { destination: HOST_END, ..syn() }.bytes())
            .leaves(&connection(FROM, HOST_NETWORK, HOST_END, NOW)),
        opens("a_backend_on_the_network_of_another_host_is_left_to_the_stack", far_host)
            .becomes(Verdict::Stack, Frame { destination: far_host_end, ..syn() }.bytes())
            .leaves(&connection(FROM, FAR, far_host_end, NOW)),
        sent("ip_options_are_stepped_over", World::serving(&[LOCAL]), options.bytes())
            .reaches_pod(SERVER_IFINDEX, to_local(&options))
            .leaves(&local_now()),
        sent("a_service_outside_the_service_cidr_is_found", elsewhere, external.bytes())
            .reaches_pod(SERVER_IFINDEX, to_local(&external))
            .leaves(&external_flows),
        opens(
            "a_syn_selects_anew_whatever_conntrack_holds",
            World::serving(&[LOCAL]).with_flows(&connection(FROM, FAR, FAR_END, BEFORE)),
        )
        .reaches_pod(SERVER_IFINDEX, to_local(&syn()))
        .leaves(&[local_now()[0], local_now()[1], reply(FROM, VIP, FAR, FAR_END, BEFORE)]),
        opens(
            "a_repeated_syn_keeps_its_backend",
            World::serving(&[LOCAL]).with_flows(&connection(FROM, LOCAL, LOCAL_END, BEFORE)),
        )
        .reaches_pod(SERVER_IFINDEX, to_local(&syn()))
        .leaves(&local_now()),
    ]
}

fn refused() -> Vec<Scenario> {
    let dead = |world: World, id| world.with_backend(id, |backend| backend.state = backend_state::DEAD);
    let mut long = World::serving(&[LOCAL]);
    long.services[0].1.row = diolkos_abi::service::row_word(BASE, SLOTS_PER_SERVICE + 1);
    let mut beyond = World::new();
    beyond.services.push((SERVICE, diolkos_abi::service::Service::default()));
    beyond.services[0].1.row = diolkos_abi::service::row_word(SLOTS, 1);
    let mut unknown_service = World::new();
    unknown_service.frontends.clear();
    unknown_service.frontend(VIP, u32::MAX);
    let mut strange = World::serving(&[LOCAL]);
    strange.frontends[0].1 ^= 1 << 32;
    let other_port = Frame::tcp(FROM, (VIP.0, 81), SYN);
    let unallocated = Frame::tcp(FROM, ([10, 96, 0, 77], VIP.1), SYN);
    vec![
        opens("a_service_without_endpoints_refuses", World::new()).drops(DropReason::NoEndpoints),
        opens("a_service_whose_backends_all_died_refuses", dead(World::serving(&[LOCAL]), LOCAL))
            .drops(DropReason::NoEndpoints),
        opens("a_row_beyond_the_table_refuses", beyond).drops(DropReason::BadBackend),
        opens("a_row_longer_than_any_refuses", long).drops(DropReason::BadBackend),
        opens("a_backend_beyond_the_table_refuses", World::serving(&[u32::MAX])).drops(DropReason::BadBackend),
        opens("a_service_beyond_the_table_refuses", unknown_service).drops(DropReason::BadBackend),
        opens("a_frontend_with_a_strange_tag_is_a_miss", strange).drops(DropReason::UnknownPort),
        sent("an_unknown_port_is_refused", World::serving(&[LOCAL]), other_port.bytes()).drops(DropReason::UnknownPort),
        sent("an_address_that_is_no_services_drops", World::serving(&[LOCAL]), unallocated.bytes())
            .drops(DropReason::UnallocatedVip),
        opens("a_full_conntrack_refuses_a_new_connection", World::serving(&[LOCAL]))
            .drops(DropReason::ConntrackFull)
            .faulty(Fault::ConntrackFull),
        opens("a_checksum_that_cannot_be_updated_drops", World::serving(&[LOCAL]))
            .drops(DropReason::RewriteFailed)
            .leaves(&local_now())
            .faulty(Fault::Checksum),
    ]
}

fn established() -> Vec<Scenario> {
    let data = Frame::tcp(FROM, VIP, ACK);
    let fin = Frame::tcp(FROM, VIP, FIN_ACK);
    let rst = Frame::tcp(FROM, VIP, RST);
    let known = |backend, end| connection(FROM, backend, end, BEFORE);
    let flagged = |flags| {
        let (key, flow) = forward(FROM, LOCAL, NOW);
        [confirmed((key, Flow { flags, ..flow })), local_now()[1]]
    };
    vec![
        // The service has lost its row: an established connection does not ask.
        sent(
            "an_established_connection_stays_with_its_backend",
            World::new().with_flows(&known(LOCAL, LOCAL_END)),
            data.bytes(),
        )
        .reaches_pod(SERVER_IFINDEX, to_local(&data))
        .leaves(&local_met()),
        sent(
            "an_established_connection_stays_with_its_remote_backend",
            World::serving(&[LOCAL]).with_flows(&known(FAR, FAR_END)),
            data.bytes(),
        )
        .reaches_node_2(to_far(&data))
        .leaves(&far_met()),
        sent(
            "a_reply_entry_that_is_gone_comes_back_with_the_next_packet",
            World::serving(&[FAR]).with_flows(&[known(LOCAL, LOCAL_END)[0]]),
            data.bytes(),
        )
        .reaches_pod(SERVER_IFINDEX, to_local(&data))
        .leaves(&local_met()),
        sent("a_fin_is_remembered", World::new().with_flows(&known(LOCAL, LOCAL_END)), fin.bytes())
            .reaches_pod(SERVER_IFINDEX, to_local(&fin))
            .leaves(&flagged(FIN)),
        sent("a_reset_is_remembered", World::new().with_flows(&known(LOCAL, LOCAL_END)), rst.bytes())
            .reaches_pod(SERVER_IFINDEX, to_local(&rst))
            .leaves(&flagged(RESET)),
        sent("an_unknown_connection_is_balanced_by_its_tuple", World::serving(&[FAR, FAR, FAR]), data.bytes())
            .reaches_node_2(to_far(&data))
            .leaves(&far_now()),
    ]
}

fn healing() -> Vec<Scenario> {
    let data = Frame::tcp(FROM, VIP, ACK);
    let old = connection(FROM, FAR, FAR_END, BEFORE);
    let mut strange = World::serving(&[LOCAL]).with_flows(&old);
    strange.flows[0].1.tag ^= 1;
    let base = slot_of(tuple(FROM, VIP).hash(), BASE, 2);
    let mut half_dead = World::serving(&[LOCAL, LOCAL]);
    half_dead.slots.retain(|(index, _)| *index != base);
    half_dead.slots.push((base, FAR));
    let half_dead = half_dead.with_backend(FAR, |backend| backend.state = backend_state::DEAD);
    let refused = |name, world| {
        sent(name, world, data.bytes()).drops(DropReason::BackendGone).leaves(&[confirmed(far_now()[0]), old[1]])
    };
    vec![
        refused(
            "a_tcp_connection_of_a_stale_generation_is_refused",
            World::serving(&[LOCAL]).with_flows(&old).with_backend(FAR, |backend| backend.generation += 1),
        ),
        refused(
            "a_tcp_connection_to_a_dead_backend_is_refused",
            World::serving(&[LOCAL]).with_flows(&old).with_backend(FAR, |b| b.state = backend_state::DEAD),
        ),
        sent("a_flow_with_a_strange_tag_is_a_miss", strange, data.bytes())
            .reaches_pod(SERVER_IFINDEX, to_local(&data))
            .leaves(&[local_now()[0], local_now()[1], old[1]]),
        opens("a_dead_backend_in_the_row_is_passed_over", half_dead)
            .reaches_pod(SERVER_IFINDEX, to_local(&syn()))
            .leaves(&local_now()),
    ]
}

/// What the local backend of a service answers to a pod of this node.
fn replies() -> Vec<Scenario> {
    let known = connection(FROM, LOCAL, LOCAL_END, BEFORE);
    let from_server =
        |flags| Frame { from_mac: SERVER_MAC, to_mac: SERVER_HOST_MAC, ..Frame::tcp(LOCAL_END, FROM, flags) };
    let answer = from_server(SYN_ACK);
    let at_client = |frame: &Frame| {
        Frame { source: VIP, to_mac: POD_MAC, from_mac: HOST_MAC, ttl: frame.ttl - 1, ..frame.clone() }.bytes()
    };
    let sent =
        |name, world, frame: &Frame| Scenario::new(name, Hook::FromContainer, SERVER_IFINDEX, world, frame.bytes());
    let fin = from_server(FIN_ACK);
    let (key, flow) = local_now()[1];
    vec![
        sent("the_reply_of_a_local_backend_carries_the_cluster_ip", World::new().with_flows(&known), &answer)
            .reaches_pod(CLIENT_IFINDEX, at_client(&answer))
            .leaves(&[known[0], confirmed(local_now()[1])]),
        sent("the_fin_of_a_backend_is_remembered", World::new().with_flows(&known), &fin)
            .reaches_pod(CLIENT_IFINDEX, at_client(&fin))
            .leaves(&[known[0], confirmed((key, Flow { flags: flow.flags | FIN, ..flow }))]),
    ]
}

/// Two services, one client port, one backend: the backend's answers would be the same for both.
fn collisions() -> Vec<Scenario> {
    let other_vip = ([10, 96, 0, 99], 443);
    let theirs = reply(FROM, other_vip, LOCAL, LOCAL_END, BEFORE);
    let mut their_forward = forward(FROM, LOCAL, BEFORE);
    their_forward.0 = tuple(FROM, other_vip);
    their_forward.1.tag = their_forward.0.hash();
    let first = slot_of(tuple(FROM, VIP).hash(), 0, 2);
    let row = if first == 0 { [LOCAL, FAR] } else { [FAR, LOCAL] };
    let replaced = |name, world| opens(name, world).reaches_pod(SERVER_IFINDEX, to_local(&syn()));
    vec![
        opens(
            "a_taken_reply_tuple_moves_the_connection_to_another_backend",
            World::serving(&row).with_flows(&[theirs, their_forward]),
        )
        .reaches_node_2(to_far(&syn()))
        .leaves(&[seen(theirs, 0), seen(their_forward, 0), far_now()[0], far_now()[1]]),
        opens(
            "a_reply_tuple_taken_on_every_backend_refuses",
            World::serving(&[LOCAL]).with_flows(&[theirs, their_forward]),
        )
        .drops(DropReason::FlowCollision)
        .leaves(&[seen(theirs, 0), seen(their_forward, 0)]),
        opens("a_reply_tuple_without_its_other_half_is_taken", World::serving(&[LOCAL]).with_flows(&[theirs]))
            .drops(DropReason::FlowCollision)
            .leaves(&[seen(theirs, 0)]),
        replaced(
            "a_connection_that_was_reset_gives_its_tuple_away",
            World::serving(&[LOCAL]).with_flows(&flagged(&[theirs], RESET)),
        )
        .leaves(&local_now()),
        replaced(
            "a_connection_closed_by_both_sides_gives_its_tuple_away",
            World::serving(&[LOCAL]).with_flows(&flagged(&[theirs, their_forward], FIN)),
        )
        .leaves(&[seen(their_forward, FIN), local_now()[0], local_now()[1]]),
        replaced("a_connection_reset_by_its_client_gives_its_tuple_away", {
            let reset = flagged(&[their_forward], RESET)[0];
            World::serving(&[LOCAL]).with_flows(&[theirs, reset])
        })
        .leaves(&[seen(their_forward, RESET), local_now()[0], local_now()[1]]),
        replaced("a_connection_whose_backend_changed_gives_its_tuple_away", {
            let (key, flow) = theirs;
            let backend = diolkos_abi::conntrack::backend_word(LOCAL, super::world::GENERATION - 1);
            World::serving(&[LOCAL]).with_flows(&[(key, Flow { backend, ..flow })])
        })
        .leaves(&local_now()),
    ]
}

/// The replies of a direct connection would be taken for those of one through the service.
fn direct() -> Vec<Scenario> {
    let near = Frame::tcp(FROM, LOCAL_END, SYN);
    let far = Frame::tcp(FROM, FAR_END, SYN);
    let [forward_local, reply_local] = connection(FROM, LOCAL, LOCAL_END, BEFORE);
    vec![
        sent(
            "a_direct_connection_clears_what_an_ended_one_left",
            World::new().with_flows(&flagged(&[forward_local, reply_local], FIN)),
            near.bytes(),
        )
        .reaches_pod(SERVER_IFINDEX, at_server(&near))
        .leaves(&[seen(forward_local, FIN)]),
        sent(
            "a_direct_connection_to_another_node_clears_what_a_reset_one_left",
            World::new().with_flows(&flagged(&[reply(FROM, VIP, FAR, FAR_END, BEFORE)], RESET)),
            far.bytes(),
        )
        .reaches_node_2(at_overlay(&far))
        .leaves(&[]),
        sent(
            "a_direct_connection_with_the_tuple_of_a_live_one_is_refused",
            World::new().with_flows(&[forward_local, reply_local]),
            near.bytes(),
        )
        .drops(DropReason::FlowCollision)
        .leaves(&[seen(forward_local, 0), seen(reply_local, 0)]),
    ]
}

/// A flow as a lookup just now leaves it.
fn seen((key, flow): (Tuple, Flow), flags: u16) -> (Tuple, Flow) {
    (key, Flow { seen: NOW, flags: flow.flags | flags, ..flow })
}

fn flagged(flows: &[(Tuple, Flow)], flags: u16) -> Vec<(Tuple, Flow)> {
    flows.iter().map(|(key, flow)| (*key, Flow { flags: flow.flags | flags, ..*flow })).collect()
}
