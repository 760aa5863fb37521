//! Packets in fragments.

use diolkos_abi::conntrack::{Fragment, FragmentKey};
use diolkos_abi::counter::DropReason;
use etherparse::IpNumber;

use super::Scenario;
use super::from_container::{FROM, at_server, sent};
use super::packets::{ACK, End, Frame, IDENTIFICATION, SYN, Transport, address, is_v6};
use super::world::{BEFORE, LOCAL, LOCAL_END, NOW, SERVER, SERVER_IFINDEX, VIP, World, confirmed, connection};

/// The ports of the packet of the scenarios from one end to another, as the first fragment shows them.
pub fn known(source: End, destination: End) -> (FragmentKey, Fragment) {
    let identification: u32 = IDENTIFICATION.into();
    let key = FragmentKey {
        source: address(source.0),
        destination: address(destination.0),
        identification: if is_v6() { identification.to_be() } else { IDENTIFICATION.to_be().into() },
        protocol: 6,
        pad: 0,
        zone: 0,
    };
    let [a, b] = source.1.to_be_bytes();
    let [c, d] = destination.1.to_be_bytes();
    (key, Fragment { tag: key.tag(), ports: u32::from_ne_bytes([a, b, c, d]) })
}

pub fn all() -> Vec<Scenario> {
    let raw = |frame: &Frame| Frame { transport: Transport::Raw(IpNumber::TCP), ..frame.clone() };
    let first = Frame { fragment: (0, true), ..Frame::tcp(FROM, VIP, ACK) };
    let opening = Frame { fragment: (0, true), ..Frame::tcp(FROM, VIP, SYN) };
    let later = Frame { fragment: (100, false), ..raw(&first) };
    let direct = Frame { fragment: (100, true), ..raw(&Frame::tcp(FROM, (SERVER, 8080), SYN)) };
    let tiny = Frame { fragment: (1, false), payload: vec![1, 2, 3], ..direct.clone() };
    let established = connection(FROM, LOCAL, LOCAL_END, BEFORE);
    let met = [confirmed(connection(FROM, LOCAL, LOCAL_END, NOW)[0]), connection(FROM, LOCAL, LOCAL_END, NOW)[1]];
    // A later fragment says nothing about its connection but that it goes on.
    let to_local = |frame: &Frame| at_server(&Frame { destination: LOCAL_END, ..frame.clone() });
    let with = |flows: &[_], fragments: &[_]| World {
        fragments: fragments.to_vec(),
        ..World::serving(&[LOCAL]).with_flows(flows)
    };
    let mut strange = known(FROM, VIP);
    strange.1.tag ^= 1;
    vec![
        sent("a_first_fragment_opens_a_connection", World::serving(&[LOCAL]), opening.bytes())
            .reaches_pod(SERVER_IFINDEX, to_local(&opening))
            .leaves(&connection(FROM, LOCAL, LOCAL_END, NOW))
            .remembers(&[known(FROM, VIP)]),
        sent("a_first_fragment_leaves_its_ports", with(&established, &[]), first.bytes())
            .reaches_pod(SERVER_IFINDEX, to_local(&first))
            .leaves(&met)
            .remembers(&[known(FROM, VIP)]),
        sent("a_later_fragment_follows_the_first", with(&established, &[known(FROM, VIP)]), later.bytes())
            .reaches_pod(SERVER_IFINDEX, to_local(&later))
            .leaves(&met),
        sent("a_later_fragment_to_a_service_without_the_first_drops", with(&[], &[]), later.bytes())
            .drops(DropReason::FragmentUnknown),
        sent("ports_with_a_strange_tag_are_unknown", with(&[], &[strange]), later.bytes())
            .drops(DropReason::FragmentUnknown),
        sent("a_later_fragment_to_a_pod_is_delivered", World::new(), direct.bytes())
            .reaches_pod(SERVER_IFINDEX, at_server(&direct)),
        sent("a_last_fragment_shorter_than_a_tcp_header_is_delivered", World::new(), tiny.bytes())
            .reaches_pod(SERVER_IFINDEX, at_server(&tiny)),
    ]
}
