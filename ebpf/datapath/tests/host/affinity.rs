//! Session affinity against a simple model: who opened a connection when, and where it went.

use std::collections::HashMap;

use proptest::collection::vec;
use proptest::prelude::*;

use diolkos_abi::address::{protocol, v4_mapped};
use diolkos_abi::pod::{Netns, netns_flags};
use diolkos_abi::service::{MemberKey, member_word};
use diolkos_datapath::Peer;

use crate::model::ModelTables;
use crate::scenarios::world::{self, BASE, FAR, GENERATION, HOST_NETWORK, LOCAL, SERVICE, VIP, World};

const LIFETIME: u32 = 100;
const BACKENDS: [u32; 3] = [LOCAL, FAR, HOST_NETWORK];

#[derive(Clone, Debug)]
enum Step {
    /// A client of this number connects.
    Connect(usize),
    Wait(u32),
    /// Turns the membership of a backend around.
    Toggle(usize),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (0..3_usize).prop_map(Step::Connect),
        2 => prop_oneof![Just(1), Just(LIFETIME / 2), Just(LIFETIME), Just(LIFETIME + 1)].prop_map(Step::Wait),
        1 => (0..3_usize).prop_map(Step::Toggle),
    ]
}

/// Gives the service a row of these backends, and as many members.
fn serve(world: &mut World, members: &[u32]) {
    world.slots.clear();
    world.row(BASE, members);
    world.services.iter_mut().for_each(|(_, service)| service.affinity = LIFETIME);
    world.members = members
        .iter()
        .map(|backend| {
            let key = MemberKey { service: SERVICE, backend: *backend };
            (key, member_word(GENERATION, key.tag()))
        })
        .collect();
}

/// Where a socket of a client is connected to.
fn connect(tables: &mut ModelTables, client: [u8; 4]) -> u32 {
    tables.world.netns = Some(Netns { v4: client, ..Netns::default() });
    let mut peer = Peer { address: v4_mapped(VIP.0), port: VIP.1.to_be_bytes(), protocol: protocol::TCP };
    diolkos_datapath::connect(&world::config(), &mut peer, tables).unwrap();
    tables.world.backends.iter().find(|(_, backend)| backend.address == peer.address).unwrap().0
}

proptest! {
    #[test]
    fn a_client_keeps_its_backend_while_it_may(steps in vec(step(), 1..80), stumbling in any::<bool>()) {
        let mut tables = ModelTables::new(&World::new(), None, stumbling);
        let mut members = BACKENDS.to_vec();
        serve(&mut tables.world, &members);
        let mut last: HashMap<usize, (u32, u32)> = HashMap::new();
        for step in steps {
            match step {
                Step::Wait(ticks) => tables.now = tables.now.wrapping_add(ticks),
                Step::Toggle(index) => {
                    match members.iter().position(|id| *id == BACKENDS[index]) {
                        Some(at) if members.len() > 1 => drop(members.remove(at)),
                        Some(_) => {}
                        None => members.push(BACKENDS[index]),
                    }
                    serve(&mut tables.world, &members);
                }
                Step::Connect(client) => {
                    let reached = connect(&mut tables, [10, 244, 1, client as u8 + 1]);
                    prop_assert!(members.contains(&reached), "{reached} is not behind the service: {members:?}");
                    if let Some((before, seen)) = last.get(&client)
                        && members.contains(before)
                        && tables.now.wrapping_sub(*seen) <= LIFETIME
                    {
                        prop_assert_eq!(*before, reached);
                    }
                    last.insert(client, (reached, tables.now));
                }
            }
        }
    }
}

#[test]
fn a_socket_of_an_unknown_namespace_leaves_no_affinity() {
    let mut tables = ModelTables::new(&World::new(), None, false);
    serve(&mut tables.world, &BACKENDS);
    tables.world.netns = None;
    let mut peer = Peer { address: v4_mapped(VIP.0), port: VIP.1.to_be_bytes(), protocol: protocol::TCP };
    diolkos_datapath::connect(&world::config(), &mut peer, &mut tables).unwrap();
    assert!(tables.affinities.is_empty());
}

#[test]
fn a_process_of_the_node_is_known_by_the_nodes_address() {
    let mut tables = ModelTables::new(&World::new(), None, false);
    serve(&mut tables.world, &BACKENDS);
    tables.world.netns = Some(Netns { flags: netns_flags::HOST, ..Netns::default() });
    let mut peer = Peer { address: v4_mapped(VIP.0), port: VIP.1.to_be_bytes(), protocol: protocol::TCP };
    let mut config = world::config();
    config.node_v4 = world::HOST;
    diolkos_datapath::connect(&config, &mut peer, &mut tables).unwrap();
    assert!(tables.affinities.keys().all(|key| key.client == v4_mapped(world::HOST)));
    assert_eq!(tables.affinities.len(), 1);
}
