//! What holds for every packet.

use proptest::collection::vec;
use proptest::prelude::*;

use diolkos_abi::address::{protocol, v4_mapped};
use diolkos_abi::config::Lifetimes;
use diolkos_abi::conntrack::{mark, may_live};
use diolkos_abi::counter::Hook;
use diolkos_datapath::rewrite::adjust;
use diolkos_datapath::{Tunnel, expired};

use crate::model::{ModelPacket, ModelTables};
use crate::scenarios::packets::{ACK, End, Frame, SYN, SYN_ACK, Transport, over_ipv6};
use crate::scenarios::world::{
    self, CLIENT, CLIENT_IFINDEX, FAR, LOCAL, LOCAL_END, NODE_2_TUNNEL, OVERLAY_IFINDEX, SERVER_IFINDEX, SERVER_MAC,
    VIP, VNI, World,
};
use crate::scenarios::{Input, Scenario};

const HOOKS: [Hook; 4] = [Hook::FromContainer, Hook::ToContainer, Hook::FromOverlay, Hook::ToOverlay];

fn input(bytes: Vec<u8>, ingress_ifindex: u32) -> Input {
    let tunnel = Some(Tunnel { vni: VNI, remote: v4_mapped(NODE_2_TUNNEL) });
    Input { bytes, ingress_ifindex, mark: 0, tunnel, tagged: false, gso_size: 0 }
}

/// Runs a hook over bytes; returns the outcome and the packet.
fn run(hook: Hook, tables: &mut ModelTables, input: &Input) -> (bool, ModelPacket) {
    let scenario = Scenario::new("property", hook, input.ingress_ifindex, World::new(), Vec::new());
    let mut packet = ModelPacket::new(input, usize::MAX, None);
    let outcome = crate::run(&scenario, &mut packet, tables);
    (outcome.is_ok(), packet)
}

/// The frame made for one family or the other.
fn made(v6: bool, frame: &Frame) -> Vec<u8> {
    if v6 { over_ipv6(|| frame.bytes()) } else { frame.bytes() }
}

/// A world of one family, whose service takes segments and datagrams.
fn world_of(v6: bool, backends: &[u32]) -> World {
    let make = || {
        let mut world = World::serving(backends);
        world.also_udp();
        world
    };
    if v6 { over_ipv6(make) } else { make() }
}

proptest! {
    #[test]
    fn no_mark_says_that_a_living_flow_is_unknown(
        (seen, age, early) in (any::<u32>(), 0..2_000_000_u32, 0..2_u32),
        lives in [0..200_000_u32, 0..200_000_u32, 0..200_000_u32, 0..200_000_u32],
        (kind, flags) in (any::<u8>(), any::<u16>()),
    ) {
        let [tcp, tcp_opening, tcp_closing, datagram] = lives;
        let lifetimes = Lifetimes { tcp, tcp_opening, tcp_closing, datagram };
        let now = seen.wrapping_add(age);
        let kind = if kind % 2 == 0 { protocol::TCP } else { protocol::UDP };
        if !expired(&lifetimes, kind, flags, seen, now) {
            // Another core marks a moment earlier than this one stamps the entry, or looks.
            prop_assert!(may_live(mark(seen.wrapping_sub(early)), now, &lifetimes));
            prop_assert!(may_live(mark(seen), now.wrapping_sub(early), &lifetimes));
        }
    }

    #[test]
    fn what_nobody_marked_is_unknown_and_a_mark_is_once_too_old(now in any::<u32>(), longest in 1..100_000_u32) {
        let lifetimes = Lifetimes { tcp: longest, tcp_opening: 1, tcp_closing: 1, datagram: 1 };
        prop_assert!(!may_live(0, now, &lifetimes));
        prop_assert!(!may_live(mark(now.wrapping_sub(longest + 5000)), now, &lifetimes));
        let for_ever = Lifetimes { tcp: 0, ..lifetimes };
        prop_assert!(may_live(mark(now.wrapping_sub(longest + 5000)), now, &for_ever));
    }

    #[test]
    fn no_bytes_make_a_hook_panic(bytes in vec(any::<u8>(), 0..120), hook in 0..4_usize) {
        let mut tables = ModelTables::new(&world_of(false, &[LOCAL, FAR]), None, false);
        let (passed, packet) = run(HOOKS[hook], &mut tables, &input(bytes.clone(), CLIENT_IFINDEX));
        prop_assert!(passed || packet.bytes == bytes, "a refused packet was rewritten");
    }

    #[test]
    fn no_damage_to_a_packet_makes_a_hook_panic_or_rewrite_what_it_refuses(
        damage in vec((0..100_usize, any::<u8>()), 0..6),
        cut in 0..80_usize,
        hook in 0..4_usize,
        options in 0..10_usize,
        v6 in any::<bool>(),
        udp in any::<bool>(),
        fragment in prop_oneof![Just((0, false)), Just((0, true)), Just((9, true))],
    ) {
        let transport = if udp { Transport::Udp } else { Transport::Tcp(ACK) };
        let frame = Frame { options: vec![1; options * 4], transport, fragment, ..Frame::tcp((CLIENT, 1), VIP, ACK) };
        let mut bytes = made(v6, &frame);
        let length = bytes.len();
        for (at, value) in damage {
            bytes[at % length] = value;
        }
        bytes.truncate(length.saturating_sub(cut));
        let mut tables = ModelTables::new(&world_of(v6, &[LOCAL, FAR]), None, false);
        let (passed, packet) = run(HOOKS[hook], &mut tables, &input(bytes.clone(), CLIENT_IFINDEX));
        prop_assert_eq!(packet.bytes.len(), bytes.len());
        prop_assert!(passed || packet.bytes == bytes, "a refused packet was rewritten");
    }

    #[test]
    fn forward_then_reverse_translation_restores_the_ends(
        port in 1..u16::MAX,
        options in 0..10_usize,
        payload in vec(any::<u8>(), 0..64),
        remote in any::<bool>(),
        v6 in any::<bool>(),
        udp in any::<bool>(),
    ) {
        let client: End = (CLIENT, port);
        let frame = |source, destination, flags| Frame {
            options: vec![1; options * 4],
            payload: payload.clone(),
            transport: if udp { Transport::Udp } else { Transport::Tcp(flags) },
            ..Frame::tcp(source, destination, flags)
        };
        let (backend, end) = if remote { (FAR, world::FAR_END) } else { (LOCAL, LOCAL_END) };
        let mut tables = ModelTables::new(&world_of(v6, &[backend]), None, false);
        let bytes = made(v6, &frame(client, VIP, SYN));
        let (passed, there) = run(Hook::FromContainer, &mut tables, &input(bytes, CLIENT_IFINDEX));
        prop_assert!(passed);
        let ttl = if remote { 64 } else { 63 };
        prop_assert_eq!(&there.bytes[14..], &made(v6, &Frame { ttl, ..frame(client, end, SYN) })[14..]);

        let back = made(v6, &Frame { from_mac: SERVER_MAC, ..frame(end, client, SYN_ACK) });
        let (hook, ifindex) =
            if remote { (Hook::FromOverlay, OVERLAY_IFINDEX) } else { (Hook::FromContainer, SERVER_IFINDEX) };
        let (passed, answered) = run(hook, &mut tables, &input(back, ifindex));
        prop_assert!(passed);
        prop_assert_eq!(&answered.bytes[14..], &made(v6, &Frame { ttl: 63, ..frame(VIP, client, SYN_ACK) })[14..]);

        // The next packet of the client meets the entry and the same backend.
        let bytes = made(v6, &frame(client, VIP, ACK));
        let (passed, again) = run(Hook::FromContainer, &mut tables, &input(bytes, CLIENT_IFINDEX));
        prop_assert!(passed);
        prop_assert_eq!(&again.bytes[14..], &made(v6, &Frame { ttl, ..frame(client, end, ACK) })[14..]);
    }

    #[test]
    fn an_adjusted_checksum_equals_a_computed_one(words in vec(any::<[u8; 4]>(), 1..10), to in any::<[u8; 4]>()) {
        // A version nibble keeps the sum from being zero, as in every real header.
        let mut data = vec![[0x45, 0, 0, 0]];
        data.extend(words);
        let before = checksum(&data);
        let from = data[1];
        data[1] = to;
        let adjusted = adjust(u16::from_ne_bytes(before.to_be_bytes()), u32::from_ne_bytes(from), u32::from_ne_bytes(to));
        prop_assert_eq!(adjusted.to_ne_bytes(), checksum(&data).to_be_bytes());
    }

    #[test]
    fn a_row_is_used_evenly(seed in any::<u32>(), count in 1..16_u32) {
        let mut hits = vec![0_u32; count as usize];
        for port in 0..4096_u16 {
            let client = (CLIENT, port ^ seed as u16);
            hits[diolkos_abi::service::slot_of(world::tuple(client, VIP).hash(), 0, count) as usize] += 1;
        }
        let fair = 4096 / count;
        prop_assert!(hits.iter().all(|hits| *hits > fair / 2 && *hits < fair * 2), "{hits:?}");
    }
}

/// The Internet checksum over the whole data (RFC 1071).
fn checksum(data: &[[u8; 4]]) -> u16 {
    let mut sum: u32 =
        data.iter().flat_map(|word| word.chunks(2)).map(|pair| u32::from(pair[0]) << 8 | u32::from(pair[1])).sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}
