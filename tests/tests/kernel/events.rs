//! What the monitor is told, by `BPF_PROG_TEST_RUN`.

use aya::maps::{Array, MapData, RingBuf};
use diolkos_abi::conntrack::FLOWS;
use diolkos_abi::counter::{DropReason, FIRST_DROP, Hook, Verdict};
use diolkos_abi::event::{Control, EVENT_PACKET, Event, watch};

use crate::dataplane::Dataplane;
use crate::packets::{posed, run};
use crate::scenarios::{self, Scenario};

struct Watcher {
    dataplane: Dataplane,
    control: Array<MapData, Control>,
    ring: RingBuf<MapData>,
}

impl Watcher {
    fn new() -> Self {
        let mut dataplane = Dataplane::load(&scenarios::world::config(), FLOWS);
        let control = dataplane.ebpf.take_map("CONTROL").unwrap().try_into().unwrap();
        let ring = dataplane.ebpf.take_map("EVENT").unwrap().try_into().unwrap();
        Self { dataplane, control, ring }
    }

    /// What is told of a scenario's packet while `watch` is asked for.
    fn told(&mut self, watch: u32, scenario: &Scenario) -> Vec<Vec<u8>> {
        self.control.set(0, Control { watch, sample: 0 }, 0).unwrap();
        self.dataplane.fill(&scenario.world, 0);
        run(self.dataplane.classifier(scenario.hook.name()), &scenario.input).unwrap();
        self.dataplane.clear(&scenario.world, 0);
        std::iter::from_fn(|| self.ring.next().map(|event| event.to_vec())).collect()
    }
}

#[test]
fn drops_and_flows_are_told_to_who_watches_them_and_to_nobody_else() {
    let all = scenarios::all();
    let named = |name: &str| posed(all.iter().find(|scenario| scenario.name == name).unwrap());
    let dropped = &named("the_source_of_another_pod_drops");
    let delivered = &named("a_pod_reaches_a_pod_of_its_node");
    let mut watcher = Watcher::new();
    assert!(watcher.told(0, dropped).is_empty() && watcher.told(0, delivered).is_empty());
    assert!(watcher.told(watch::FLOWS, dropped).is_empty() && watcher.told(watch::DROPS, delivered).is_empty());

    let told = watcher.told(watch::DROPS, dropped);
    let spoofed = (FIRST_DROP + DropReason::SpoofedSource as u32) as u8;
    assert_eq!(told.len(), 1);
    expect(&told[0], Hook::FromContainer, spoofed, &dropped.input.bytes);

    let told = watcher.told(watch::FLOWS, delivered);
    assert_eq!(told.len(), 1);
    expect(&told[0], Hook::FromContainer, Verdict::Pod as u8, &delivered.expect.bytes);
}

/// An event of a packet, zeroes behind it.
fn expect(event: &[u8], hook: Hook, outcome: u8, bytes: &[u8]) {
    assert_eq!(event.len(), size_of::<Event>());
    assert_ne!(event[..8], [0; 8], "time");
    assert_eq!(event[8..10], [hook as u8, outcome], "hook and outcome");
    assert_eq!(u16::from_ne_bytes([event[10], event[11]]), bytes.len() as u16, "length");
    let mut packet = [0; EVENT_PACKET];
    packet[..bytes.len()].copy_from_slice(bytes);
    assert_eq!(event[16..], packet, "packet");
}
