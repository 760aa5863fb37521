//! Connections that reach their backend from another end than their own: a pod that is its own backend, and a client port
//! that is taken.

use diolkos_abi::conntrack::{Flow, Tuple, flow_flags};
use diolkos_abi::counter::{DropReason, Hook};
use diolkos_abi::service::slot_of;

use super::Scenario;
use super::from_container::{FROM, at_server, sent};
use super::packets::{ACK, End, Frame, HOST_MAC, POD_MAC, SYN, SYN_ACK, address};
use super::world::{
    BEFORE, CLIENT, CLIENT_IFINDEX, LOCAL, LOCAL_END, NOW, SERVER_IFINDEX, VIP, World, confirmed, forward, reply, tuple,
};

/// Where the client's pod serves.
const OWN_END: End = (CLIENT, 8080);
const PORTS: (u16, u16) = (61_000, 1000);

pub fn all() -> Vec<Scenario> {
    [hairpin(), other_ports()].concat()
}

/// Both entries of a connection that reaches `end` from `source`.
fn connection(end: End, source: End, seen: u32) -> [(Tuple, Flow); 2] {
    let (key, flow) = forward(FROM, LOCAL, seen);
    let there =
        Flow { flags: flow_flags::SOURCE, source: address(source.0), source_port: source.1.to_be_bytes(), ..flow };
    let (back_key, flow) = reply(source, VIP, LOCAL, end, seen);
    let back = Flow {
        flags: flow.flags | flow_flags::DESTINATION,
        destination: address(FROM.0),
        destination_port: FROM.1.to_be_bytes(),
        ..flow
    };
    [(key, there), (back_key, back)]
}

fn hairpin() -> Vec<Scenario> {
    let world = || {
        World::serving(&[LOCAL]).with_backend(LOCAL, |backend| {
            backend.address = address(OWN_END.0);
        })
    };
    let source = (VIP.0, FROM.1);
    let home = |frame: &Frame| Frame { to_mac: POD_MAC, from_mac: HOST_MAC, ttl: 63, ..frame.clone() }.bytes();
    let known = connection(OWN_END, source, BEFORE);
    let now = connection(OWN_END, source, NOW);
    let syn = Frame::tcp(FROM, VIP, SYN);
    let ack = Frame::tcp(FROM, VIP, ACK);
    let answer = Frame::tcp(OWN_END, source, SYN_ACK);
    vec![
        sent("a_pod_that_is_its_own_backend_meets_the_service_as_client", world(), syn.bytes())
            .reaches_pod(CLIENT_IFINDEX, home(&Frame { source, destination: OWN_END, ..syn }))
            .leaves(&now),
        sent("a_pod_goes_on_talking_to_itself", world().with_flows(&known), ack.bytes())
            .reaches_pod(CLIENT_IFINDEX, home(&Frame { source, destination: OWN_END, ..ack }))
            .leaves(&[confirmed(now[0]), now[1]]),
        sent("a_pod_answers_itself_as_the_service", world().with_flows(&known), answer.bytes())
            .reaches_pod(CLIENT_IFINDEX, home(&Frame { source: VIP, destination: FROM, ..answer }))
            .leaves(&[known[0], confirmed(now[1])]),
    ]
}

fn other_ports() -> Vec<Scenario> {
    let other_vip = ([10, 96, 0, 99], 443);
    let theirs = |port: u16, seen| reply((FROM.0, port), other_vip, LOCAL, LOCAL_END, seen);
    let tries =
        |hash: u32| (0..4).map(move |i| slot_of(hash.rotate_left(i * 8), PORTS.0.into(), PORTS.1.into()) as u16);
    let hash = tuple(FROM, VIP).hash();
    let port = tries(hash).next().unwrap();
    let source = (FROM.0, port);
    let syn = Frame::tcp(FROM, VIP, SYN);
    let there = Frame { source, destination: LOCAL_END, ..syn.clone() };
    let now = connection(LOCAL_END, source, NOW);
    let world = |flows: &[_]| World::serving(&[LOCAL]).with_flows(flows);
    let taken = |seen| [vec![theirs(FROM.1, seen)], tries(hash).map(|port| theirs(port, seen)).collect()].concat();
    let known = connection(LOCAL_END, source, BEFORE);
    let answer = Frame {
        from_mac: super::world::SERVER_MAC,
        to_mac: super::world::SERVER_HOST_MAC,
        ..Frame::tcp(LOCAL_END, source, SYN_ACK)
    };
    let at_client =
        Frame { source: VIP, destination: FROM, to_mac: POD_MAC, from_mac: HOST_MAC, ttl: 63, ..answer.clone() };
    let with_ports =
        |scenario: Scenario| scenario.configured(|config| (config.ports_first, config.ports_count) = PORTS);
    vec![
        with_ports(sent("a_taken_client_port_is_replaced", world(&[theirs(FROM.1, BEFORE)]), syn.bytes()))
            .reaches_pod(SERVER_IFINDEX, at_server(&there))
            .leaves(&[theirs(FROM.1, NOW), now[0], now[1]]),
        with_ports(sent("every_port_taken_refuses", world(&taken(BEFORE)), syn.bytes()))
            .drops(DropReason::PortsExhausted)
            .leaves(&taken(NOW)),
        Scenario::new(
            "the_reply_to_a_replaced_port_finds_its_client",
            Hook::FromContainer,
            SERVER_IFINDEX,
            world(&known),
            answer.bytes(),
        )
        .reaches_pod(CLIENT_IFINDEX, at_client.bytes())
        .leaves(&[known[0], confirmed(now[1])]),
    ]
}
