//! Random histories.

use diolkos_abi::service::MemberKey;
use proptest::prelude::*;

use super::*;

/// Enough for all that rests during one history.
const ROOMY: Capacities = Capacities { services: 256, slots: 2048, backends: 1024, ..SMALL };

/// What happens to the cluster.
#[derive(Clone, Debug)]
enum Event {
    /// A Service is there with these ports; some backends drain, of those some terminate.
    Set {
        service: u8,
        affinity: u32,
        ports: Vec<(u16, BTreeSet<u8>, BTreeSet<u8>)>,
    },
    Remove {
        service: u8,
    },
    /// Two Services swap their addresses in one plan.
    Swap {
        one: u8,
        other: u8,
    },
    /// These nodes are there, each with the own addresses of the next but so many.
    Nodes {
        present: BTreeSet<u8>,
        shift: u8,
    },
    Pass {
        seconds: u64,
    },
    /// The agent is killed in the middle of its next plan and started again.
    Crash {
        after: usize,
    },
    /// Someone else writes into the maps, then the resync runs.
    Drift {
        frontend: u8,
        backend: u8,
    },
}

fn event() -> impl Strategy<Value = Event> {
    let backends = || prop::collection::btree_set(0u8..12, 0..6);
    let ports = prop::collection::vec((prop::sample::select(vec![80u16, 443]), backends(), backends()), 1..3);
    prop_oneof![
        8 => (0u8..5, prop::sample::select(vec![0, 0, 7, 9]), ports)
            .prop_map(|(service, affinity, ports)| Event::Set { service, affinity, ports }),
        2 => (0u8..5).prop_map(|service| Event::Remove { service }),
        1 => (0u8..5, 0u8..5).prop_map(|(one, other)| Event::Swap { one, other }),
        1 => (prop::collection::btree_set(0u8..3, 0..3), 0u8..3)
            .prop_map(|(present, shift)| Event::Nodes { present, shift }),
        2 => (1u64..5000).prop_map(|seconds| Event::Pass { seconds }),
        1 => (0usize..20).prop_map(|after| Event::Crash { after }),
        1 => (0u8..5, 1u8..20).prop_map(|(frontend, backend)| Event::Drift { frontend, backend }),
    ]
}

/// The cluster as it should be, and the addresses Services have.
#[derive(Default)]
struct Cluster {
    services: Services,
    nodes: BTreeMap<Arc<str>, DesiredNode>,
    addresses: BTreeMap<u8, u8>,
}

impl Cluster {
    /// Takes an event in and says which Services it concerns.
    fn apply(&mut self, event: &Event) -> Vec<u8> {
        match event {
            Event::Set { service: n, affinity, ports } => {
                let address = *self.addresses.entry(*n).or_insert(*n);
                let ports = ports.iter().map(|(number, row, draining)| {
                    let (key, mut desired) = port(address, *number, row.iter().copied());
                    desired.draining = draining.difference(row).map(|n| (backend(*n), n % 2 == 0)).collect();
                    (key, desired)
                });
                self.services.insert(service_name(*n), DesiredService { affinity: *affinity, ..service(ports) });
                vec![*n]
            }
            Event::Remove { service } => {
                self.services.remove(&service_name(*service));
                vec![*service]
            }
            Event::Swap { one, other } => {
                let a = self.addresses.get(one).copied().unwrap_or(*one);
                let b = self.addresses.get(other).copied().unwrap_or(*other);
                self.addresses.extend([(*one, b), (*other, a)]);
                for (n, address) in [(one, b), (other, a)] {
                    let Some(service) = self.services.get_mut(&service_name(*n)) else { continue };
                    for (key, port) in &mut service.ports {
                        port.frontends = vec![frontend(address, key.port)];
                    }
                    service.addresses = [frontend(address, 0).address].into();
                }
                vec![*one, *other]
            }
            Event::Nodes { present, shift } => {
                let with_addresses = |n: &u8| {
                    let (name, desired) = node(*n);
                    (name, DesiredNode { addresses: node((n + shift) % 3).1.addresses, ..desired })
                };
                self.nodes = present.iter().map(with_addresses).collect();
                vec![]
            }
            Event::Pass { .. } | Event::Crash { .. } | Event::Drift { .. } => vec![],
        }
    }
}

fn play(events: &[Event]) {
    let mut cluster = Cluster::default();
    let mut world = World::new(ROOMY);
    world.start(&cluster.services, &cluster.nodes);
    let mut crash = None;
    for event in events {
        let concerned: BTreeSet<ServiceName> = cluster.apply(event).into_iter().map(service_name).collect();
        let changes: Vec<_> = concerned.iter().map(|name| (name, cluster.services.get(name))).collect();
        match event {
            Event::Pass { seconds } => world.now += Duration::from_secs(*seconds),
            Event::Crash { after } => crash = Some(*after),
            Event::Nodes { .. } => world.nodes(&cluster.nodes),
            Event::Drift { frontend: n, backend } => drift(&mut world, *n, *backend),
            Event::Set { .. } | Event::Remove { .. } | Event::Swap { .. } => {}
        }
        if let Some(after) = crash.take_if(|_| !changes.is_empty()) {
            // The killed agent got no further than this.
            let (steps, _) = world.planner.plan(&changes, world.now);
            world.run(&steps[..after.min(steps.len())]);
            world = World::over(world.model);
            world.start(&cluster.services, &cluster.nodes);
        } else {
            assert_eq!(world.change(&changes), vec![]);
        }
        world.tidy();
        assert_eq!(reachable(&mut world.model), wanted(&cluster.services, &cluster.nodes));
        assert_eq!(furniture(&mut world.model), wanted_furniture(&cluster.services));
        assert_eq!(owned(&mut world.model), wanted_owned(&cluster.nodes));
    }
    compare_with_a_fresh_agent(&mut world, &cluster);
    tear_down(world, &cluster);
}

/// A frontend and a backend are overwritten behind the planner's back. The resync must put both right.
fn drift(world: &mut World, n: u8, id: u8) {
    let found = world.model.adopt().unwrap();
    world.model.remove_frontends(&[frontend(n, 80)]).unwrap();
    world.model.insert_frontends(&[(frontend(200 + n, 1), 99)]).unwrap();
    world.model.set_backend(u32::from(id), &Backend::default()).unwrap();
    let member = MemberKey { service: u32::from(id), backend: u32::from(id) };
    world.model.insert_members(&[(member, 7)]).unwrap();
    world.model.remove_frontends(&[marker(frontend(n, 0).address)]).unwrap();
    world.model.set_affinity(u32::from(id), 3).unwrap();
    let (own, stray) = ([v4_mapped([192, 0, 2, n % 3]), own_v6(9)], Route { node: 7, ..Route::default() });
    let [own, foreign] = own.map(|prefix| RouteKey { prefix, zone: zone::NODES });
    world.model.remove_route(&own).unwrap();
    world.model.upsert_route(foreign, stray).unwrap();
    let drifted = world.model.adopt().unwrap();
    // Clients do meet what someone else broke, so these steps are not checked one by one.
    let steps = world.planner.repair(&drifted, world.now);
    assert!(execute(&mut world.model, &steps).iter().all(|outcome| matches!(outcome, Outcome::Done)));
    let repaired = world.model.adopt().unwrap();
    assert_eq!((repaired.frontends.len(), repaired.routes.len()), (found.frontends.len(), found.routes.len()));
    assert_eq!(world.planner.repair(&repaired, world.now), vec![], "a repaired dataplane needs no repair");
}

/// A fresh agent that has seen nothing of the history arrives at the same place, and one that restarts writes nothing.
fn compare_with_a_fresh_agent(world: &mut World, cluster: &Cluster) {
    let mut fresh = World::new(ROOMY);
    fresh.start(&cluster.services, &cluster.nodes);
    assert_eq!(reachable(&mut fresh.model), reachable(&mut world.model));
    let found = world.model.adopt().unwrap();
    assert_eq!(world.planner.repair(&found, world.now), vec![], "the mirror differs from the maps");
    let mut restarted = World::over(world.model.clone());
    restarted.start(&cluster.services, &cluster.nodes);
    assert_eq!(restarted.writes, 0, "a restart over equal maps writes nothing");
}

/// Everything goes; after all rests nothing is left in use.
fn tear_down(mut world: World, cluster: &Cluster) {
    let changes: Vec<_> = cluster.services.keys().map(|name| (name, None)).collect();
    world.change(&changes);
    world.nodes(&BTreeMap::new());
    world.tidy();
    for _ in 0..2 {
        world.now += ORPHAN_LIFE + QUARANTINE;
        world.tidy();
    }
    let left = world.model.adopt().unwrap();
    assert_eq!((left.frontends, left.nodes, left.routes), (vec![], vec![], vec![]));
    assert_eq!((left.members, left.affinities), (vec![], vec![]));
    assert_eq!(world.planner.members, 0);
    assert!(left.backends.iter().all(|(_, backend)| backend.state == backend_state::FREE), "{:?}", left.backends);
    assert!(left.rows.iter().all(|(_, word)| *word == RETIRED_ROW), "{:?}", left.rows);
    // All ids and slots can be had again.
    let row = world.planner.fresh_row(vec![1; ROOMY.slots as usize], world.now);
    assert!(row.is_ok(), "slots are lost");
    let ids = (0..).map_while(|_| world.planner.service_ids.take(world.now)).count();
    assert_eq!(ids, ROOMY.services as usize - 1, "service ids are lost");
    let ids = (0..).map_while(|_| world.planner.backends.ids.take(world.now)).count();
    assert_eq!(ids, ROOMY.backends as usize - 1, "backend ids are lost");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn after_every_single_write_of_any_history_each_service_is_whole(
        events in prop::collection::vec(event(), 1..40)
    ) {
        play(&events);
    }
}
