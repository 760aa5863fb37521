//! The sweeper over the kernel's own tables.

use std::time::{Duration, Instant};

use aya::maps::{HashMap, Map, MapData};
use diolkos_abi::address::{protocol, v4_mapped};
use diolkos_abi::config::Lifetimes;
use diolkos_abi::conntrack::{FLOWS, Flow, TIME_SHIFT, Tuple, direction, flow_flags};
use diolkos_abi::service::{Affinity, AffinityKey};
use diolkos_agent::dataplane::{Dataplane, map};
use diolkos_agent::sweep::Sweeper;

use crate::world::{World, on_a_node};

const LIFETIMES: Lifetimes = Lifetimes { tcp: 1000, tcp_opening: 60, tcp_closing: 10, datagram: 120 };
/// Masqueraded connections, two entries each.
const CONNECTIONS: u32 = FLOWS / 64;

#[test]
fn the_agents_clock_is_that_of_the_programs() {
    on_a_node(|world| {
        let kernel = world.open();
        let timers = std::fs::read_to_string("/proc/timer_list").unwrap();
        let jiffies = timers.lines().filter_map(|line| line.trim().strip_prefix("jiffies: ")?.trim().parse().ok());
        let jiffies: u64 = jiffies.max().expect("/proc/timer_list says the jiffies");
        let unit = (jiffies >> TIME_SHIFT) as u32;
        let now = kernel.now().unwrap();
        assert!(now.wrapping_sub(unit) <= 1, "the kernel is at {unit}, the agent at {now}");
    });
}

#[test]
fn a_round_clears_conntrack_of_what_is_over_and_of_nothing_else() {
    on_a_node(|world| {
        let mut kernel = world.open();
        let now = kernel.now().unwrap();
        let mut table = pinned::<Tuple, Flow>(world, map::CONNTRACK);
        for n in 0..CONNECTIONS {
            // Every other one is over in both directions.
            let age = if n % 2 == 0 { 121 } else { 3 };
            for (key, flow) in masqueraded(n) {
                table.insert(key, Flow { seen: now.wrapping_sub(age), ..flow }, 0).unwrap();
            }
        }
        let client = AffinityKey { client: v4_mapped([10, 244, 0, 9]), service: 1 };
        let mut clients = pinned::<AffinityKey, Affinity>(world, map::AFFINITY);
        clients.insert(client, Affinity { tag: client.tag(), seen: now, ..Affinity::default() }, 0).unwrap();

        let mut sweeper = Sweeper::new(LIFETIMES);
        let (mut flows, mut clients_gone, mut pages, mut longest) = (0, 0, 0, Duration::ZERO);
        let left = loop {
            let start = Instant::now();
            let swept = sweeper.step(&mut kernel).unwrap();
            longest = longest.max(start.elapsed());
            (flows, clients_gone, pages) = (flows + swept.flows, clients_gone + swept.clients, pages + 1);
            if let Some(left) = swept.round {
                break left;
            }
        };
        println!("{flows} of {} entries removed, {left} left, {pages} pages, longest {longest:.2?}", CONNECTIONS * 2);
        assert_eq!(u64::from(CONNECTIONS), flows, "entries that are over");
        assert_eq!(clients_gone, 1, "its service has no affinity");
        for n in 0..CONNECTIONS {
            for (key, _) in masqueraded(n) {
                assert_eq!(kernel.flow(&key).unwrap().is_some(), n % 2 == 1, "connection {n}");
            }
        }
    });
}

fn masqueraded(n: u32) -> [(Tuple, Flow); 2] {
    let pod = v4_mapped((0x0af4_0000 + n).to_be_bytes());
    let (node, outside) = (v4_mapped([192, 0, 2, 1]), v4_mapped((0xcb00_7100 + n % 64).to_be_bytes()));
    let (port, node_port) = ([0x10, n as u8], [(n >> 8) as u8, n as u8]);
    let key = |source, source_port, destination, destination_port| Tuple {
        source,
        destination,
        source_port,
        destination_port,
        protocol: protocol::UDP,
        direction: direction::WIRE,
        zone: 0,
    };
    let forward = key(pod, port, outside, [0, 53]);
    let reverse = key(outside, [0, 53], node, node_port);
    let flags = flow_flags::MASQUERADE | flow_flags::SOURCE;
    let there = Flow { tag: forward.hash(), flags, source: node, source_port: node_port, ..Flow::default() };
    let flags = flow_flags::MASQUERADE | flow_flags::REVERSE | flow_flags::DESTINATION;
    let back = Flow { tag: reverse.hash(), flags, destination: pod, destination_port: port, ..Flow::default() };
    [(forward, there), (reverse, back)]
}

fn pinned<K: aya::Pod, V: aya::Pod>(world: &World, name: &str) -> HashMap<MapData, K, V> {
    let data = MapData::from_pin(world.maps().join(name)).unwrap();
    HashMap::try_from(Map::LruHashMap(data)).unwrap()
}
