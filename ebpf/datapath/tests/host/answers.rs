//! What scenarios cannot say of answers: checksums that a device is to complete, and how many are made.

use diolkos_abi::config::ANSWERED_MARK;
use diolkos_abi::counter::{DropReason, Hook, Verdict};
use diolkos_abi::event::ANSWERS_PER_TICK;
use etherparse::{SlicedPacket, TransportSlice};

use crate::model::{ModelPacket, ModelTables};
use crate::run;
use crate::scenarios::wire::FAMILIES;
use crate::scenarios::{Redirect, Scenario, Told, answers, mtu};

/// The fold of a one's complement sum of a packet's bytes, which begin at an even offset.
fn folded(bytes: &[u8], mut sum: u32) -> u16 {
    for pair in bytes.chunks(2) {
        sum += u32::from(u16::from_be_bytes([pair[0], pair.get(1).copied().unwrap_or(0)]));
    }
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}

/// Offset of the transport header of a frame without options or extension headers, and of the checksum in it.
fn transport(bytes: &[u8]) -> Option<(usize, usize)> {
    let (at, protocol) = if bytes[12] == 0x08 { (34, bytes[23]) } else { (54, bytes[20]) };
    match protocol {
        6 => Some((at, at + 16)),
        17 => Some((at, at + 6)),
        _ => None,
    }
}

/// The sum of the pseudo header, which a sender leaves in the field.
fn pseudo(bytes: &[u8]) -> u16 {
    let (at, _) = transport(bytes).unwrap();
    let length = (bytes.len() - at) as u32;
    if bytes[12] == 0x08 {
        folded(&bytes[26..34], u32::from(bytes[23]) + length)
    } else {
        folded(&bytes[22..54], u32::from(bytes[20]) + length)
    }
}

/// What a device does with a checksum that was left to it: from the start on, into the field.
fn complete(bytes: &mut [u8], start: usize, field: usize) {
    let checksum = !folded(&bytes[start..], 0);
    bytes[field..field + 2].copy_from_slice(&checksum.to_be_bytes());
}

/// The answer to a scenario's packet whose checksum is left to the device, once the device has completed it.
fn completed(scenario: &Scenario) -> Option<Vec<u8>> {
    let mut packet = ModelPacket::new(&scenario.input, usize::MAX, None);
    let (at, field) = transport(&packet.bytes)?;
    let left = pseudo(&packet.bytes);
    packet.bytes[field..field + 2].copy_from_slice(&left.to_be_bytes());
    packet.pending = true;
    let mut tables = ModelTables::new(&scenario.world, None, false);
    let reason = run(scenario, &mut packet, &mut tables).unwrap_err();
    let before = packet.bytes.len();
    diolkos_datapath::answer(scenario.hook, reason, &scenario.config, &mut packet, &mut tables).unwrap();
    // A RST stands where the segment stood; an error's quote comes behind the new headers.
    let is_segment = packet.bytes[if packet.bytes[12] == 0x08 { 23 } else { 20 }] == 6;
    let room = if is_segment { 0 } else { at - 14 + 8 };
    assert!(packet.bytes.len() <= before.max(at + 20) + room, "{}", scenario.name);
    complete(&mut packet.bytes, at + room, field + room);
    Some(packet.bytes)
}

#[test]
fn an_answer_is_right_once_a_device_has_completed_its_checksum() {
    let mut seen = 0;
    for scenario in answers::all().iter().chain(&mtu::all()).filter(|scenario| scenario.expect.told == Told::Answer) {
        let Some(bytes) = completed(scenario) else { continue };
        let sliced = SlicedPacket::from_ethernet(&bytes).unwrap();
        let (network, name) = (sliced.net.unwrap(), scenario.name);
        let payload = network.ip_payload_ref().unwrap().payload;
        match (sliced.transport.unwrap(), network.ipv6_ref()) {
            (TransportSlice::Icmpv4(_), _) => assert_eq!(folded(payload, 0), 0xffff, "{name}"),
            (TransportSlice::Icmpv6(slice), Some(ip)) => {
                let (from, to) = (ip.header().source(), ip.header().destination());
                assert!(slice.is_checksum_valid(from, to), "{name}");
            }
            (TransportSlice::Tcp(_), _) => {
                assert_eq!(bytes, scenario.expect.bytes, "{name}: a completed RST is the same as a computed one");
            }
            other => panic!("{name}: {other:?} is no answer"),
        }
        seen += 1;
    }
    assert!(seen > 20, "{seen} answers");
}

#[test]
fn a_core_makes_so_many_answers_and_no_more() {
    let names = FAMILIES.map(|family| family.name("syn_to_nobody_v4", "syn_to_nobody_v6"));
    let scenarios = answers::all();
    for scenario in scenarios.iter().filter(|scenario| names.contains(&scenario.name)) {
        let mut tables = ModelTables::new(&scenario.world, None, false);
        for made in 0..=ANSWERS_PER_TICK {
            let mut packet = ModelPacket::new(&scenario.input, usize::MAX, None);
            let reason = run(scenario, &mut packet, &mut tables).unwrap_err();
            let answer = diolkos_datapath::answer(scenario.hook, reason, &scenario.config, &mut packet, &mut tables);
            assert_eq!(answer.is_some(), made < ANSWERS_PER_TICK, "{}: answer {made}", scenario.name);
        }
    }
}

#[test]
fn every_hook_has_its_own_way_back() {
    let scenarios = answers::all();
    let refused = scenarios.iter().find(|scenario| scenario.name == "syn_to_nobody_v4").unwrap();
    let device = refused.input.ingress_ifindex;
    for (hook, redirect, mark) in [
        (Hook::FromContainer, Redirect::Pod(device), 0),
        (Hook::FromNetdev, Redirect::Device(device), 0),
        (Hook::ToContainer, Redirect::Ingress(device), 0),
        (Hook::ToNetdev, Redirect::Ingress(device), 0),
        (Hook::ToOverlay, Redirect::Ingress(device), ANSWERED_MARK),
    ] {
        let mut tables = ModelTables::new(&refused.world, None, false);
        let mut packet = ModelPacket::new(&refused.input, usize::MAX, None);
        let answer = diolkos_datapath::answer(hook, DropReason::NoEndpoints, &refused.config, &mut packet, &mut tables);
        assert_eq!(answer, Some(Verdict::Answered), "{}", hook.name());
        assert_eq!((packet.redirect, packet.mark), (Some(redirect), mark), "{}", hook.name());
        assert_eq!(packet.bytes, refused.expect.bytes, "{}", hook.name());
    }
}
