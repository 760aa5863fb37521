//! Session affinity against a simple model: who opened a connection when, and where it went.

use std::collections::HashMap;

use proptest::collection::vec;
use proptest::prelude::*;

use diolkos_abi::address::{protocol, v4_mapped};
use diolkos_abi::config::Config;
use diolkos_abi::pod::{Endpoint, Netns, address_tag, netns_flags};
use diolkos_abi::service::{Backend, MemberKey, member_word};
use diolkos_datapath::Peer;

use crate::model::{ModelPacket, ModelTables};
use crate::scenarios::Input;
use crate::scenarios::packets::{End, Frame, POD_MAC, SYN};
use crate::scenarios::world::{self, BASE, FAR, GENERATION, HOST_NETWORK, LOCAL, SERVICE, VIP, World};

const LIFETIME: u32 = 100;
/// Pods of this node, and the first one's device.
const CLIENTS: [[u8; 4]; 3] = [[10, 244, 1, 31], [10, 244, 1, 32], [10, 244, 1, 33]];
const IFINDEX: u32 = 131;
const UPLINK: u32 = 3;
const BACKENDS: [u32; 3] = [LOCAL, FAR, HOST_NETWORK];

#[derive(Clone, Debug)]
enum Step {
    /// A socket of the client of this number connects.
    Connect(usize),
    /// A segment of it that opens a connection is met on the packet path.
    Packet(usize),
    Wait(u32),
    /// Turns the membership of a backend around.
    Toggle(usize),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (0..3_usize).prop_map(Step::Connect),
        6 => (0..3_usize).prop_map(Step::Packet),
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

/// Where a new connection of a client goes that no socket hook met.
fn open(tables: &mut ModelTables, client: usize, port: u16) -> u32 {
    let mut packet = syn((CLIENTS[client], port), IFINDEX + client as u32);
    diolkos_datapath::from_container(&world::config(), &mut packet, tables).unwrap();
    reached(tables, &packet)
}

/// The same of a process of the node.
fn open_from_node(tables: &mut ModelTables, port: u16) -> u32 {
    let mut packet = syn((world::HOST, port), UPLINK);
    diolkos_datapath::to_netdev(&node_config(), &mut packet, tables).unwrap();
    reached(tables, &packet)
}

fn node_config() -> Config {
    Config { node_v4: world::HOST, ..world::config() }
}

fn syn(from: End, ingress_ifindex: u32) -> ModelPacket {
    let bytes = Frame::tcp(from, VIP, SYN).bytes();
    let input = Input { bytes, ingress_ifindex, mark: 0, tunnel: None, tagged: false, gso_size: 0 };
    ModelPacket::new(&input, usize::MAX, None)
}

fn reached(tables: &ModelTables, packet: &ModelPacket) -> u32 {
    let reached: [u8; 4] = packet.bytes[30..34].try_into().unwrap();
    let is_reached = |backend: &Backend| backend.address == v4_mapped(reached);
    tables.world.backends.iter().find(|(_, backend)| is_reached(backend)).unwrap().0
}

proptest! {
    #[test]
    fn a_client_keeps_its_backend_while_it_may(steps in vec(step(), 1..80), stumbling in any::<bool>()) {
        let mut world = World::new();
        for (at, address) in CLIENTS.into_iter().enumerate() {
            let (address, ifindex) = (v4_mapped(address), IFINDEX + at as u32);
            let tag = address_tag(&address);
            world.endpoints.push((address, Endpoint { tag, ifindex, mac: POD_MAC, ..Endpoint::default() }));
        }
        let mut tables = ModelTables::new(&world, None, stumbling);
        let mut port = 1000;
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
                Step::Connect(client) | Step::Packet(client) => {
                    let address = CLIENTS[client];
                    port += 1;
                    let reached = match step {
                        Step::Packet(_) => open(&mut tables, client, port),
                        _ => connect(&mut tables, address),
                    };
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
    diolkos_datapath::connect(&node_config(), &mut peer, &mut tables).unwrap();
    assert!(tables.affinities.keys().all(|key| key.client == v4_mapped(world::HOST)));
    assert_eq!(tables.affinities.len(), 1);
}

#[test]
fn a_process_of_the_node_keeps_its_backend_by_sockets_and_by_packets() {
    let mut tables = ModelTables::new(&World::new(), None, false);
    serve(&mut tables.world, &BACKENDS);
    let first = open_from_node(&mut tables, 1000);
    tables.world.netns = Some(Netns { flags: netns_flags::HOST, ..Netns::default() });
    let mut peer = Peer { address: v4_mapped(VIP.0), port: VIP.1.to_be_bytes(), protocol: protocol::TCP };
    diolkos_datapath::connect(&node_config(), &mut peer, &mut tables).unwrap();
    let is_first = |backend: &&(u32, Backend)| backend.0 == first;
    assert_eq!(tables.world.backends.iter().find(is_first).unwrap().1.address, peer.address);
    for port in 1001..1100 {
        assert_eq!(open_from_node(&mut tables, port), first, "from port {port}");
    }
}
