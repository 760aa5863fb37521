//! The scenarios and properties of the packet logic, without root and without a kernel.
#![allow(clippy::unwrap_used, unreachable_pub)]

#[path = "host/affinity.rs"]
mod affinity;
#[path = "host/answers.rs"]
mod answers;
#[path = "host/model.rs"]
mod model;
#[path = "host/ports.rs"]
mod ports;
#[path = "host/properties.rs"]
mod properties;
#[path = "host/sockets.rs"]
mod sockets;
mod scenarios;

use std::collections::{HashMap, HashSet};

use diolkos_abi::conntrack::{Flow, Tuple};
use diolkos_abi::counter::{DropReason, Hook, Verdict};

use model::{ModelPacket, ModelTables};
use scenarios::{Fault, Scenario, Told};

/// Runs a packet hook.
fn run(scenario: &Scenario, packet: &mut ModelPacket, tables: &mut ModelTables) -> Result<Verdict, DropReason> {
    match scenario.hook {
        Hook::FromContainer => diolkos_datapath::from_container(&scenario.config, packet, tables),
        Hook::ToContainer => diolkos_datapath::to_container(&scenario.config, packet, tables),
        Hook::FromOverlay => diolkos_datapath::from_overlay(&scenario.config, packet, tables),
        Hook::ToOverlay => diolkos_datapath::to_overlay(&scenario.config, packet, tables),
        Hook::FromNetdev => diolkos_datapath::from_netdev(&scenario.config, packet, tables),
        Hook::ToNetdev => diolkos_datapath::to_netdev(&scenario.config, packet, tables),
        Hook::Connect | Hook::GetPeerName | Hook::SendMsg | Hook::RecvMsg => {
            panic!("{}: no packet comes to this hook", scenario.name)
        }
    }
}

/// Runs a scenario and compares everything.
fn check(scenario: &Scenario, linear: usize, stumbling: bool) {
    let Scenario { name, world, input, expect, fault, .. } = scenario;
    let mut packet = ModelPacket::new(input, linear, *fault);
    let mut tables = ModelTables::new(world, *fault, stumbling);
    let outcome = run(scenario, &mut packet, &mut tables);
    assert_eq!(outcome, expect.outcome, "{name}: outcome");
    let flows: HashMap<Tuple, Flow> = expect.flows.iter().copied().collect();
    assert_eq!(tables.flows, flows, "{name}: conntrack");
    assert_eq!(tables.fragments, expect.fragments.iter().copied().collect(), "{name}: fragments");
    if outcome.is_err() && outcome != Err(DropReason::RewriteFailed) {
        assert_eq!(packet.bytes, input.bytes, "{name}: a refused packet stays as it came");
    }
    let answered = match outcome {
        Ok(_) => None,
        Err(reason) => diolkos_datapath::answer(scenario.hook, reason, &scenario.config, &mut packet, &mut tables),
    };
    match expect.told {
        Told::Whatever => {}
        Told::Nothing => assert_eq!(answered, None, "{name}: answer"),
        Told::Answer => assert_eq!(answered, Some(Verdict::Answered), "{name}: answer"),
    }
    if outcome.is_ok() || expect.told == Told::Answer {
        assert_eq!(packet.bytes, expect.bytes, "{name}: packet");
        assert_eq!(packet.mark, expect.mark, "{name}: mark");
        assert_eq!(packet.redirect, expect.redirect, "{name}: redirect");
        assert_eq!(packet.tunnel, expect.tunnel, "{name}: tunnel key");
    }
}

#[test]
fn every_scenario_holds() {
    scenarios::all().iter().for_each(|scenario| check(scenario, usize::MAX, false));
}

#[test]
fn every_scenario_holds_for_a_packet_in_pieces() {
    scenarios::all().iter().for_each(|scenario| check(scenario, 0, false));
}

#[test]
fn every_scenario_holds_when_elements_are_reused_under_the_reader() {
    scenarios::all().iter().for_each(|scenario| {
        // A tag that is wrong for good stays so when it is read twice.
        check(scenario, usize::MAX, !scenario.name.contains("strange_tag"));
    });
}

#[test]
fn every_scenario_has_a_name_of_its_own() {
    let mut names = HashSet::new();
    for scenario in scenarios::all() {
        assert!(names.insert(scenario.name), "two scenarios are called {}", scenario.name);
    }
}

#[test]
fn every_outcome_has_a_scenario() {
    let sockets = sockets::scenarios();
    let outcomes: Vec<_> =
        scenarios::all().iter().map(|s| s.expect.outcome).chain(sockets.iter().flat_map(|s| s.outcomes())).collect();
    for reason in DropReason::ALL {
        assert!(outcomes.contains(&Err(reason)), "no scenario drops for {}", reason.name());
    }
    // An answer is counted beside the reason of its refusal; no hook ends as one.
    for verdict in Verdict::ALL.into_iter().filter(|verdict| *verdict != Verdict::Answered) {
        assert!(outcomes.contains(&Ok(verdict)), "no scenario ends as {}", verdict.name());
    }
}

#[test]
fn only_refusals_of_the_kernel_run_on_the_host_alone() {
    for scenario in scenarios::all() {
        if let Some(fault) = scenario.fault {
            let reason = match fault {
                Fault::ConntrackFull => DropReason::ConntrackFull,
                Fault::Checksum => DropReason::RewriteFailed,
                Fault::Tunnel => DropReason::NoTunnel,
                Fault::Elsewhere => continue,
            };
            assert_eq!(scenario.expect.outcome, Err(reason), "{}", scenario.name);
        }
    }
}

#[test]
fn a_remembered_device_still_sends_only_from_its_own_address() {
    let scenarios = scenarios::all();
    let named = |name: &str| scenarios.iter().find(|scenario| scenario.name == name).unwrap();
    let (own, stolen) = (named("a_pod_reaches_a_pod_of_its_node"), named("the_source_of_another_pod_drops"));
    let mut tables = ModelTables::new(&own.world, None, false);
    for scenario in [own, stolen, own] {
        let mut packet = ModelPacket::new(&scenario.input, usize::MAX, None);
        assert_eq!(run(scenario, &mut packet, &mut tables), scenario.expect.outcome, "{}", scenario.name);
        assert_eq!(tables.sources.len(), 1, "{}", scenario.name);
    }
}
