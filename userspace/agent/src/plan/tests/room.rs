//! Full maps.

use super::*;

fn change(world: &mut World, n: u8, desired: &DesiredService) -> Vec<NoRoom> {
    world.change(&[(&service_name(n), Some(desired))]).into_iter().map(|(_, error)| error).collect()
}

#[test]
fn a_service_that_does_not_fit_is_refused_whole_and_others_go_on() {
    // Each address takes an entry, too.
    let mut world = World::new(Capacities { frontends: 5, ..SMALL });
    let (a, b) = (service([port(0, 80, [1]), port(0, 443, [1])]), service([port(1, 80, [2]), port(1, 443, [3])]));
    let c = service([port(2, 80, [3])]);
    let names = [service_name(0), service_name(1), service_name(2)];
    let refused = world.change(&[(&names[0], Some(&a)), (&names[1], Some(&b)), (&names[2], Some(&c))]);
    let error = NoRoom::Full { map: "FRONTEND", capacity: 5 };
    assert_eq!(refused, vec![(names[1].clone(), error.clone())]);
    assert!(error.to_string().contains("FRONTEND (5 entries)"));
    let expected = [(names[0].clone(), a), (names[2].clone(), c)].into();
    assert_eq!(reachable(&mut world.model), wanted(&expected, &BTreeMap::new()));
    // Room is made, and the same service fits.
    world.change(&[(&names[0], None)]);
    assert_eq!(change(&mut world, 1, &b), vec![]);
}

#[test]
fn a_row_that_finds_no_slots_leaves_the_service_as_it_was() {
    let mut world = World::new(Capacities { slots: 5, ..SMALL });
    let old = service([port(0, 80, [1, 2, 3])]);
    assert_eq!(change(&mut world, 0, &old), vec![]);
    let before = reachable(&mut world.model);
    let new = service([port(0, 80, [1, 2, 3, 4])]);
    assert_eq!(change(&mut world, 0, &new), vec![NoRoom::Full { map: "SLOT", capacity: 5 }]);
    assert_eq!(reachable(&mut world.model), before);
    assert_eq!(change(&mut world, 0, &service([port(0, 80, [1, 4])])), vec![], "what fits is still taken");
    world.now += QUARANTINE;
    assert_eq!(change(&mut world, 0, &service([port(0, 80, [1, 2, 3])])), vec![], "slots come back after their rest");
}

#[test]
fn when_backend_ids_run_out_those_kept_for_old_connections_end_early() {
    let mut world = World::new(Capacities { backends: 3, ..SMALL });
    assert_eq!(change(&mut world, 0, &service([port(0, 80, [1, 2])])), vec![]);
    assert_eq!(change(&mut world, 0, &service([port(0, 80, [1])])), vec![]);
    let wanted = service([port(0, 80, [1, 3])]);
    let full = NoRoom::Full { map: "BACKEND", capacity: 3 };
    assert_eq!(change(&mut world, 0, &wanted), vec![full.clone()]);
    world.tidy();
    assert_eq!(change(&mut world, 0, &wanted), vec![full], "the ended one rests");
    world.now += QUARANTINE;
    world.tidy();
    assert_eq!(change(&mut world, 0, &wanted), vec![]);
}

#[test]
fn an_address_served_already_is_refused_by_name() {
    let mut world = World::new(SMALL);
    assert_eq!(change(&mut world, 0, &service([port(0, 80, [1])])), vec![]);
    let error = change(&mut world, 1, &service([port(0, 80, [2])])).pop().unwrap();
    assert!(error.to_string().contains("default/s0"), "{error}");
    // In one plan with the removal of the first, the second takes over without a gap.
    let (first, second) = (service_name(0), service_name(1));
    let taken = service([port(0, 80, [2])]);
    assert_eq!(world.change(&[(&first, None), (&second, Some(&taken))]), vec![]);
}

#[test]
fn an_insertion_that_fails_takes_the_services_other_insertions_back() {
    let mut world = World::new(SMALL);
    let wanted = service([port(0, 80, [1]), port(0, 443, [1])]);
    let name = service_name(0);
    let (steps, _) = world.planner.plan(&[(&name, Some(&wanted))], world.now);
    // The map is smaller than the planner believes: the second insertion fails.
    let mut smaller = Model::new(Capacities { frontends: 2, ..SMALL });
    let outcomes = execute(&mut smaller, &steps);
    let frontends = wanted.ports.values().flat_map(|port| port.frontends.clone());
    let keys: Vec<FrontendKey> = wanted.addresses.iter().map(|address| marker(*address)).chain(frontends).collect();
    let done: Vec<_> = keys.iter().filter(|key| smaller.frontend(key).is_some()).copied().collect();
    assert_eq!(done.len(), 2, "the marker and one of two frontends");
    assert_eq!(outcomes.iter().filter(|outcome| matches!(outcome, Outcome::Failed(_))).count(), 1);
    let back = world.planner.retract(&name, &keys, &done);
    execute(&mut smaller, &back);
    assert!(smaller.adopt().unwrap().frontends.is_empty());
    let (again, refused) = world.planner.plan(&[(&name, Some(&wanted))], world.now);
    assert_eq!(refused, vec![]);
    let inserts = again.iter().filter(|step| matches!(step.operation, Operation::InsertFrontend { .. })).count();
    assert_eq!((inserts, again.len()), (2, 3), "only the insertions are tried again");
}

#[test]
fn a_restart_without_room_for_a_change_leaves_all_ports_of_the_service_as_they_were() {
    let mut first = World::new(Capacities { backends: 3, ..SMALL });
    let old = service([port(0, 80, [1]), port(0, 443, [2])]);
    first.start(&[(service_name(0), old)].into(), &BTreeMap::new());
    let before = reachable(&mut first.model);
    let mut second = World::over(first.model);
    // The first port does not fit, so the second is never looked at.
    let refused = change(&mut second, 0, &service([port(0, 80, [1, 3]), port(0, 443, [2])]));
    assert_eq!(refused, vec![NoRoom::Full { map: "BACKEND", capacity: 3 }]);
    let steps = second.planner.finish_adoption(second.now);
    second.run(&steps);
    assert_eq!(reachable(&mut second.model), before);
}
