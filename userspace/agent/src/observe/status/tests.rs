#![allow(clippy::unwrap_used)]
use diolkos_abi::counter::COUNTERS;

use super::*;

fn status() -> Status {
    let mut counters = vec![0; COUNTERS as usize];
    counters[drop_index(Hook::FromContainer, DropReason::NoEndpoints) as usize] = 7;
    counters[drop_index(Hook::FromOverlay, DropReason::WrongVni) as usize] = 12;
    Status {
        node: "n1".into(),
        healthy: true,
        problems: Vec::new(),
        agent: Agent {
            endpoint: "127.0.0.1:10256".parse().unwrap(),
            alive: true,
            ready: true,
            lacks: Vec::new(),
            last_full_sync: Some(1000),
        },
        kernel: "6.18.0".into(),
        layout: 2,
        pins: "/sys/fs/bpf/diolkos/n1/v2".into(),
        features: vec!["set_retval", "redirect_peer"],
        programs: by_program(vec![
            attached("connect4", "connect4"),
            attached("di1_from", "from_container"),
            attached("di2_from", "from_container"),
        ]),
        counts: Counts {
            services: 2,
            frontends: 3,
            backends: 5,
            endpoints: 1,
            nodes: 1,
            conntrack: 40,
            conntrack_capacity: 131_072,
        },
        counting_since: 500,
        drops: drops(&counters),
    }
}

fn attached(pin: &str, program: &str) -> Attached {
    Attached { pin: pin.into(), program: program.into(), program_id: 1, loaded: None }
}

#[test]
fn a_healthy_node_is_described_on_one_page() {
    let expected = "\
node                    n1
status                  healthy
agent                   alive, ready
last full sync          12s ago
kernel                  6.18.0
layout                  2 in /sys/fs/bpf/diolkos/n1/v2
features                set_retval redirect_peer
program connect4        attached
program from_container  2 devices
services                2 with 3 frontends
backends                5
pods here               1
other nodes             1
conntrack               40 of 131072 entries

drops and refusals since 8m32s ago:
12  wrong_vni     from_overlay
7   no_endpoints  from_container
";
    assert_eq!(render(&status(), UNIX_EPOCH + Duration::from_secs(1012)), expected);
}

#[test]
fn an_agent_that_is_away_and_a_program_that_is_missing_are_problems() {
    let mut agent = status().agent;
    let all = [attached("connect4", "connect4"), attached("getpeername4", "getpeername4")];
    assert!(problems(&agent, &all, None).is_empty());
    assert_eq!(problems(&agent, &all[..1], None), ["program getpeername4 is not attached"]);
    let overlay = Config { overlay_ifindex: 3, ..Config::default() };
    assert_eq!(problems(&agent, &all, Some(&overlay)).len(), 2);
    agent.ready = false;
    assert_eq!(problems(&agent, &all, None), ["the agent is not ready"]);
    agent.alive = false;
    assert!(problems(&agent, &all, None)[0].contains("goes on to be served"));
}
