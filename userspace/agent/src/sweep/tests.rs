//! What is over goes, in pairs; what is alive stays.
#![allow(clippy::unwrap_used)]

use diolkos_abi::address::v4_mapped;
use diolkos_abi::conntrack::{backend_word, direction};
use diolkos_abi::service::AffinityKey;
use proptest::prelude::*;

use super::*;
use crate::dataplane::Capacities;
use crate::dataplane::model::Model;

const LIFETIMES: Lifetimes = Lifetimes { tcp: 1000, tcp_opening: 60, tcp_closing: 10, datagram: 120 };
const NOW: u32 = 100_000;
const VIP: [u8; 4] = [10, 96, 0, 1];

fn tuple(protocol: u8, source: [u8; 4], source_port: u16, destination: [u8; 4], destination_port: u16) -> Tuple {
    Tuple {
        source: v4_mapped(source),
        destination: v4_mapped(destination),
        source_port: source_port.to_be_bytes(),
        destination_port: destination_port.to_be_bytes(),
        protocol,
        direction: direction::WIRE,
        zone: 0,
    }
}

/// The two entries of a connection of client `port` through the VIP to backend 1.
fn service(protocol: u8, port: u16) -> [(Tuple, Flow); 2] {
    let client = [10, 244, 1, 5];
    let flow = Flow { backend: backend_word(1, 7), seen: NOW, ..Flow::default() };
    let reverse = Flow {
        flags: flow_flags::REVERSE | flow_flags::SOURCE,
        source: v4_mapped(VIP),
        source_port: 80u16.to_be_bytes(),
        ..flow
    };
    let backend = [10, 244, 2, 9];
    [(tuple(protocol, client, port, VIP, 80), flow), (tuple(protocol, backend, 8080, client, port), reverse)]
}

/// The same of a pod that is its own backend: its replies are brought back under the VIP.
fn hairpin(port: u16) -> [(Tuple, Flow); 2] {
    let pod = [10, 244, 2, 9];
    let flow = Flow { backend: backend_word(1, 7), seen: NOW, ..Flow::default() };
    let to = |flags, source| Flow { flags, source: v4_mapped(source), ..flow };
    let forward = Flow { source_port: port.to_be_bytes(), ..to(flow_flags::SOURCE, VIP) };
    let reverse = Flow {
        source_port: 80u16.to_be_bytes(),
        destination: v4_mapped(pod),
        destination_port: port.to_be_bytes(),
        ..to(flow_flags::REVERSE | flow_flags::SOURCE | flow_flags::DESTINATION, VIP)
    };
    [(tuple(protocol::TCP, pod, port, VIP, 80), forward), (tuple(protocol::TCP, pod, 8080, VIP, port), reverse)]
}

/// A pod that talks to the outside under its node's address.
fn masqueraded(protocol: u8, port: u16) -> [(Tuple, Flow); 2] {
    let (pod, node, outside) = ([10, 244, 1, 5], [192, 0, 2, 1], [203, 0, 113, 9]);
    let flow = Flow { seen: NOW, ..Flow::default() };
    let forward = Flow {
        flags: flow_flags::MASQUERADE | flow_flags::SOURCE,
        source: v4_mapped(node),
        source_port: (port + 10_000).to_be_bytes(),
        ..flow
    };
    let reverse = Flow {
        flags: flow_flags::MASQUERADE | flow_flags::REVERSE | flow_flags::DESTINATION,
        destination: v4_mapped(pod),
        destination_port: port.to_be_bytes(),
        ..flow
    };
    [(tuple(protocol, pod, port, outside, 53), forward), (tuple(protocol, outside, 53, node, port + 10_000), reverse)]
}

/// Backend 1 in generation 7 at its address, and a clock.
fn model() -> Model {
    let mut model = Model::new(Capacities::ABI);
    let address = v4_mapped([10, 244, 2, 9]);
    let state = backend_state::ALIVE;
    let backend = Backend { address, port: 8080u16.to_be_bytes(), state, generation: 7, ..Backend::default() };
    model.set_backend(1, &backend).unwrap();
    model.set_now(NOW);
    model
}

/// One round: what it removed, and what it says is left.
fn round(model: &mut Model) -> (Swept, u64) {
    let mut sweeper = Sweeper::new(LIFETIMES);
    let mut all = Swept::default();
    loop {
        let swept = sweeper.step(model).unwrap();
        all.flows += swept.flows;
        all.clients += swept.clients;
        if let Some(left) = swept.round {
            return (all, left);
        }
    }
}

/// How many of a pair are left when each direction has this age and these flags besides its own.
fn left(pair: [(Tuple, Flow); 2], marks: [(u32, u16); 2]) -> usize {
    let mut model = model();
    for ((key, flow), (age, flags)) in pair.iter().zip(marks) {
        model.insert_flow(*key, Flow { seen: NOW.wrapping_sub(age), flags: flow.flags | flags, ..*flow });
    }
    round(&mut model);
    pair.iter().filter(|(key, _)| model.flow(key).unwrap().is_some()).count()
}

#[test]
fn a_connection_goes_with_both_directions_once_neither_is_alive() {
    use flow_flags::{CONFIRMED, FIN, RST};
    let tcp = || service(protocol::TCP, 5000);
    assert_eq!(left(tcp(), [(60, 0), (60, 0)]), 2, "it may still be opened");
    assert_eq!(left(tcp(), [(61, 0), (61, 0)]), 0);
    assert_eq!(left(tcp(), [(1000, CONFIRMED), (1000, CONFIRMED)]), 2);
    assert_eq!(left(tcp(), [(1001, CONFIRMED), (1001, CONFIRMED)]), 0);
    assert_eq!(left(tcp(), [(5000, CONFIRMED), (3, CONFIRMED)]), 2, "only one side talks");
    assert_eq!(left(tcp(), [(11, CONFIRMED | RST), (11, CONFIRMED)]), 0, "a reset ends both");
    assert_eq!(left(tcp(), [(11, CONFIRMED | FIN), (11, CONFIRMED)]), 2, "the other side may still send");
    assert_eq!(left(tcp(), [(11, CONFIRMED | FIN), (11, CONFIRMED | FIN)]), 0);
    assert_eq!(left(tcp(), [(11, CONFIRMED | FIN), (9, CONFIRMED | FIN)]), 2, "the last segments may be under way");
}

#[test]
fn datagrams_hairpins_and_masquerade_go_in_pairs_too() {
    for pair in [service(protocol::UDP, 5000), masqueraded(protocol::UDP, 5000), masqueraded(protocol::ICMP, 5000)] {
        assert_eq!(left(pair, [(120, 0), (500, 0)]), 2, "{pair:?}");
        assert_eq!(left(pair, [(500, 0), (120, 0)]), 2, "{pair:?}");
        assert_eq!(left(pair, [(121, 0), (500, 0)]), 0, "{pair:?}");
    }
    assert_eq!(left(hairpin(5000), [(500, flow_flags::CONFIRMED), (3, flow_flags::CONFIRMED)]), 2);
    assert_eq!(left(hairpin(5000), [(61, 0), (61, 0)]), 0);
    assert_eq!(left(hairpin(5000), [(11, flow_flags::RST), (11, flow_flags::CONFIRMED)]), 0);
}

#[test]
fn a_stamp_a_moment_ahead_is_not_old_and_time_may_wrap_around() {
    let ahead = u32::MAX;
    assert_eq!(left(service(protocol::UDP, 5000), [(ahead, 0), (ahead, 0)]), 2);
    let mut model = model();
    model.set_now(5);
    for (key, flow) in service(protocol::UDP, 5000) {
        model.insert_flow(key, Flow { seen: u32::MAX - 200, ..flow });
    }
    assert_eq!(round(&mut model).0.flows, 2);
}

#[test]
fn what_a_backend_without_an_id_left_behind_goes_once_it_is_idle() {
    let confirmed = flow_flags::CONFIRMED;
    for (age, state, generation, stays) in [
        (11, backend_state::ALIVE, 7, true),
        (11, backend_state::DEAD, 7, true),
        (9, backend_state::FREE, 7, true),
        (11, backend_state::FREE, 7, false),
        (11, backend_state::ALIVE, 8, false),
    ] {
        let mut model = model();
        let backend = Backend { state, generation, ..model.backend(1) };
        model.set_backend(1, &backend).unwrap();
        for (key, flow) in service(protocol::TCP, 5000) {
            model.insert_flow(key, Flow { seen: NOW - age, flags: flow.flags | confirmed, ..flow });
        }
        let (_, left) = round(&mut model);
        assert_eq!(left == 2, stays, "age {age}, state {state}, generation {generation}");
    }
}

#[test]
fn an_entry_whose_other_direction_was_forgotten_goes_alone() {
    let mut model = model();
    let [(key, flow), _] = service(protocol::TCP, 5000);
    model.insert_flow(key, Flow { seen: NOW - 61, ..flow });
    assert_eq!(round(&mut model), (Swept { flows: 1, ..Swept::default() }, 0));
}

#[test]
fn clients_go_when_their_time_their_service_or_their_backend_is_gone() {
    let mut model = model();
    model.set_affinity(1, 30).unwrap();
    let mut client = |n: u8, service, age, generation| {
        let key = AffinityKey { client: v4_mapped([10, 244, 1, n]), service };
        let backend = backend_word(1, generation);
        model.insert_affinity(key, Affinity { backend, tag: key.tag(), seen: NOW - age });
    };
    client(1, 1, 30, 7);
    client(2, 1, 31, 7);
    client(3, 2, 0, 7);
    client(4, 1, 0, 6);
    assert_eq!(round(&mut model).0.clients, 3);
    let mut place = None;
    let mut left = Vec::new();
    loop {
        let page = model.affinities(place).unwrap();
        left.extend(page.entries.into_iter().map(|(key, _)| key.client[15]));
        place = page.next;
        if place.is_none() {
            break;
        }
    }
    assert_eq!(left, [1]);
}

proptest! {
    /// Whatever a page boundary parts, a round takes a connection whole or leaves it whole, and never one the programs
    /// still take for alive in both directions.
    #[test]
    fn a_round_takes_connections_whole_or_not_at_all(
        marks in prop::collection::vec((0u32..200, 0u32..200, any::<bool>(), any::<bool>(), 0u8..3), 1..60)
    ) {
        let mut model = model();
        let mut pairs = Vec::new();
        for (n, (age, other_age, confirmed, reset, kind)) in marks.into_iter().enumerate() {
            let port = 2000 + n as u16;
            let pair = match kind {
                0 => service(protocol::TCP, port),
                1 => service(protocol::UDP, port),
                _ => masqueraded(protocol::TCP, port),
            };
            let flags = if confirmed { flow_flags::CONFIRMED } else { 0 } | if reset { flow_flags::RST } else { 0 };
            let mut alive = 0;
            for ((key, flow), (age, flags)) in pair.iter().zip([(age, flags), (other_age, flags & !flow_flags::RST)]) {
                let flow = Flow { seen: NOW - age, flags: flow.flags | flags, ..*flow };
                alive += usize::from(!is_over(LIFETIMES.of(key.protocol, flow.flags), flow.seen, NOW));
                model.insert_flow(*key, flow);
            }
            pairs.push((pair.map(|(key, _)| key), alive));
        }
        let (swept, left) = round(&mut model);
        prop_assert!(swept.flows + left >= 2 * pairs.len() as u64);
        for (keys, alive) in pairs {
            let left = keys.iter().filter(|key| model.flow(key).unwrap().is_some()).count();
            prop_assert!(left != 1, "half of {keys:?} is left");
            prop_assert!(alive < 2 || left == 2, "{keys:?} is alive");
            prop_assert!(alive > 0 || left == 0, "{keys:?} is over");
        }
        prop_assert_eq!(round(&mut model).0.flows, 0, "a second round finds nothing");
    }
}
