//! A second agent over the maps of the first.

use diolkos_abi::service::row_word;

use super::*;

fn cluster() -> (Services, BTreeMap<Arc<str>, DesiredNode>) {
    let services = [
        (service_name(0), service([port(0, 80, [1, 2, 3]), port(0, 443, [1])])),
        (service_name(1), service([port(1, 80, [])])),
        (service_name(2), DesiredService { affinity: 9, ..service([port(2, 80, [1, 4])]) }),
    ];
    (services.into(), [node(0), node(1)].into())
}

#[test]
fn a_restart_over_equal_maps_writes_nothing() {
    let (services, nodes) = cluster();
    let mut first = World::new(SMALL);
    first.start(&services, &nodes);
    assert!(first.writes > 0);
    let mut second = World::over(first.model.clone());
    second.start(&services, &nodes);
    assert_eq!(second.writes, 0);
    assert_eq!(second.model.adopt().unwrap().rows, first.model.adopt().unwrap().rows);
}

#[test]
fn a_plan_interrupted_anywhere_is_completed_by_the_next_agent() {
    let (services, nodes) = cluster();
    let all: Vec<_> = services.iter().map(|(name, service)| (name, Some(service))).collect();
    for after in 0.. {
        let mut first = World::new(SMALL);
        first.nodes(&nodes);
        let (steps, _) = first.planner.plan(&all, first.now);
        if after > steps.len() {
            break;
        }
        first.run(&steps[..after]);
        let mut second = World::over(first.model);
        second.start(&services, &nodes);
        assert_eq!(reachable(&mut second.model), wanted(&services, &nodes));
    }
}

#[test]
fn what_no_object_wants_is_removed_after_a_restart() {
    let (mut services, mut nodes) = cluster();
    let mut first = World::new(SMALL);
    first.start(&services, &nodes);
    services.remove(&service_name(0));
    nodes.remove("n1");
    let mut second = World::over(first.model);
    second.start(&services, &nodes);
    assert_eq!(reachable(&mut second.model), wanted(&services, &nodes));
    assert_eq!(second.model.adopt().unwrap().nodes.len(), 1);
}

#[test]
fn rows_that_contradict_each_other_are_written_anew() {
    let (services, nodes) = cluster();
    let mut first = World::new(SMALL);
    first.start(&services, &nodes);
    let rows = first.model.adopt().unwrap().rows;
    let longest = rows.iter().map(|(_, word)| row_parts(*word)).max_by_key(|(_, count)| *count).unwrap();
    for (id, _) in &rows {
        // Every row claims the same slots, and one runs past the end of the map.
        first.model.set_row(*id, row_word(longest.0, longest.1)).unwrap();
    }
    first.model.set_row(rows[0].0, row_word(u32::MAX - 1, 7)).unwrap();
    let found = first.model.adopt().unwrap();
    let mut second = Planner::adopt(SMALL, QUARANTINE, &found, Duration::ZERO);
    let mut steps = second.plan_nodes(&nodes, Duration::ZERO).0;
    let all: Vec<_> = services.iter().map(|(name, service)| (name, Some(service))).collect();
    steps.extend(second.plan(&all, Duration::ZERO).0);
    steps.extend(second.finish_adoption(Duration::ZERO));
    assert!(execute(&mut first.model, &steps).iter().all(|outcome| matches!(outcome, Outcome::Done)));
    assert_eq!(reachable(&mut first.model), wanted(&services, &nodes));
}

#[test]
fn a_freed_backend_id_comes_back_with_a_higher_generation_even_after_a_restart() {
    let one = SMALL_BACKENDS;
    let services = |n| Services::from([(service_name(0), service([port(0, 80, [n])]))]);
    let mut world = World::new(one);
    world.start(&services(1), &BTreeMap::new());
    let mut name = service([port(0, 80, [])]);
    name.ports.get_mut(&port_key(80)).unwrap().draining.insert(backend(1), true);
    world.change(&[(&service_name(0), Some(&name))]);
    assert_eq!(world.model.backend(1).state, backend_state::ALIVE, "a draining backend stays alive");
    let none = service([port(0, 80, [])]);
    world.change(&[(&service_name(0), Some(&none))]);
    world.tidy();
    assert_eq!(world.model.backend(1).state, backend_state::DEAD, "a terminated pod's backend is dead");
    world.now += QUARANTINE;
    world.tidy();
    assert_eq!(world.model.backend(1).state, backend_state::FREE);
    let mut world = World::over(world.model);
    assert_eq!(world.change(&[(&service_name(0), services(2).get(&service_name(0)))]).len(), 1, "the id still rests");
    world.now += QUARANTINE;
    assert_eq!(world.change(&[(&service_name(0), services(2).get(&service_name(0)))]), vec![]);
    assert_eq!(world.model.backend(1).generation, 2);
}

#[test]
fn datagrams_leave_a_backend_that_no_slice_names_though_no_agent_saw_it_go() {
    let of = |protocol, number| {
        let (key, desired) = port(0, 80, [number]);
        let row = desired.row.into_iter().map(|(key, node)| (BackendKey { protocol, ..key }, node)).collect();
        (PortKey { protocol, ..key }, DesiredPort { frontends: Vec::new(), row, ..DesiredPort::default() })
    };
    let both = || [of(protocol::TCP, 1), of(protocol::UDP, 1)];
    let draining = both().map(|(key, desired)| {
        let draining = desired.row.into_keys().map(|key| (key, false)).collect();
        (key, DesiredPort { draining, ..DesiredPort::default() })
    });
    let mut world = World::new(SMALL);
    for ports in [both(), draining.clone()] {
        world.start(&[(service_name(0), service(ports))].into(), &BTreeMap::new());
    }
    let states = |world: &World| {
        let of = |protocol| (1..4).map(|id| world.model.backend(id)).find(|backend| backend.protocol == protocol);
        [protocol::TCP, protocol::UDP].map(|protocol| of(protocol).unwrap().state)
    };
    let mut world = World::over(world.model);
    world.start(&[(service_name(0), service(draining))].into(), &BTreeMap::new());
    assert_eq!(states(&world), [backend_state::ALIVE; 2], "both drain");
    let none = both().map(|(key, _)| (key, DesiredPort::default()));
    let mut world = World::over(world.model);
    world.start(&[(service_name(0), service(none))].into(), &BTreeMap::new());
    assert_eq!(states(&world), [backend_state::ALIVE, backend_state::DEAD], "connections stay, datagrams move");
}

/// One backend only: id 0 is never given out.
const SMALL_BACKENDS: Capacities = Capacities { backends: 2, ..SMALL };
