//! The socket scenarios, without a socket.

use std::collections::HashSet;

use diolkos_abi::address::v4_mapped;
use diolkos_abi::config::Config;
use diolkos_abi::counter::Verdict;
use diolkos_datapath::{Address, Peer};

use crate::model::ModelTables;
use crate::scenarios::sockets::{self, Offered, SocketScenario, Step, all};

/// Their servers.
const V4: [sockets::Peer; 3] = {
    let address = v4_mapped([127, 0, 0, 1]);
    [(address, 8080), (address, 8081), (address, 8082)]
};
const V6: [sockets::Peer; 3] = {
    let mut address = [0; 16];
    address[15] = 1;
    [(address, 8080), (address, 8081), (address, 8082)]
};

pub fn scenarios() -> Vec<SocketScenario> {
    all(V4, V6)
}

#[test]
fn every_socket_scenario_holds() {
    scenarios().iter().for_each(|scenario| check(scenario, false));
}

#[test]
fn every_socket_scenario_holds_on_kernels_that_lack_something() {
    for kernel in Offered::ALL {
        scenarios().iter().for_each(|scenario| check_on(kernel, &scenario.on(kernel), false));
    }
}

#[test]
fn every_socket_scenario_holds_when_elements_are_reused_under_the_reader() {
    scenarios().iter().for_each(|scenario| check(scenario, true));
}

#[test]
fn every_socket_scenario_has_a_name_of_its_own() {
    let mut names = HashSet::new();
    for scenario in scenarios() {
        assert!(names.insert(scenario.name.clone()), "two scenarios are called {}", scenario.name);
    }
}

fn check(scenario: &SocketScenario, stumbling: bool) {
    check_on(Offered::ALL[0], scenario, stumbling);
}

fn check_on(kernel: Offered, scenario: &SocketScenario, stumbling: bool) {
    let name = format!("{}, {kernel:?}", scenario.name);
    let config = sockets::config(kernel.set_retval);
    let mut tables = ModelTables::new(&scenario.world, None, stumbling);
    for step in &scenario.steps {
        run(scenario, step, &config, &mut tables);
    }
    assert_eq!(tables.socket, scenario.remembers, "{name}: remembers");
    assert_eq!(tables.udp.values().map(|udp| udp.backend).next(), scenario.connected_udp, "{name}: connected UDP");
    assert_eq!(tables.peers.len(), scenario.peers, "{name}: {:?}", tables.peers);
}

fn run(scenario: &SocketScenario, step: &Step, config: &Config, tables: &mut ModelTables) {
    let name = format!("{}: {step:?}", scenario.name);
    let servers = scenario.servers;
    let named =
        |(address, port): (Address, u16)| Peer { address, port: port.to_be_bytes(), protocol: scenario.protocol };
    match step {
        Step::Connect { to, outcome, reaches, peer } => {
            let mut there = named(*to);
            assert_eq!(diolkos_datapath::connect(config, &mut there, tables), *outcome, "{name}");
            assert_eq!(there, named(reaches.map_or(*to, |server| servers[server])), "{name}");
            let said = diolkos_datapath::getpeername(config, &mut there, tables);
            let translated = reaches.is_some() && *outcome == Ok(Verdict::Translated);
            assert_eq!(said, Ok(if translated { Verdict::Translated } else { Verdict::Untouched }), "{name}");
            assert_eq!(there, named(*peer), "{name}: getpeername");
        }
        Step::Send { to, outcome, reaches } => {
            let mut there = named(*to);
            assert_eq!(diolkos_datapath::sendmsg(config, &mut there, tables), *outcome, "{name}");
            assert_eq!(there, named(reaches.map_or(*to, |server| servers[server])), "{name}");
        }
        Step::Answer { from, seems } => {
            let mut source = named(servers[*from]);
            let translated = *seems != servers[*from];
            let said = diolkos_datapath::recvmsg(config, &mut source, tables);
            assert_eq!(said, Ok(if translated { Verdict::Translated } else { Verdict::Untouched }), "{name}");
            assert_eq!(source, named(*seems), "{name}");
        }
        Step::Push { .. } | Step::Disconnect => {}
        Step::Changes(world) => tables.world = (**world).clone(),
    }
}
