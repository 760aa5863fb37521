//! Nodes' own addresses beside their pod CIDRs.

use super::*;

fn nodes(numbers: &[u8]) -> BTreeMap<Arc<str>, DesiredNode> {
    numbers.iter().map(|n| node(*n)).collect()
}

#[test]
fn the_addresses_of_a_node_come_change_and_go_with_it() {
    let mut world = World::new(SMALL);
    let mut desired = nodes(&[1, 2]);
    world.nodes(&desired);
    assert_eq!(owned(&mut world.model), wanted_owned(&desired));
    assert_eq!(owned(&mut world.model).len(), 4);
    let changed = Arc::<str>::from("n2");
    desired.get_mut(&changed).unwrap().addresses = vec![v4_mapped([192, 0, 2, 22])];
    let before = world.writes;
    world.nodes(&desired);
    assert_eq!(owned(&mut world.model), wanted_owned(&desired));
    assert_eq!(world.writes - before, 3, "one comes, two go");
    desired.remove(&changed);
    world.nodes(&desired);
    assert_eq!(owned(&mut world.model), wanted_owned(&desired));
}

#[test]
fn an_address_that_moves_to_another_node_leads_there_without_a_gap() {
    let mut world = World::new(SMALL);
    world.nodes(&nodes(&[1, 2]));
    let mut swapped = nodes(&[1, 2]);
    let [one, two] = ["n1", "n2"].map(|name| swapped[name].addresses.clone());
    swapped.get_mut("n1").unwrap().addresses = two;
    swapped.get_mut("n2").unwrap().addresses = one;
    let (steps, refused) = world.planner.plan_nodes(&swapped, world.now);
    assert_eq!(refused, vec![]);
    assert!(steps.iter().all(|step| matches!(step.operation, Operation::SetRoute { .. })), "{steps:?}");
    world.run(&steps);
    assert_eq!(owned(&mut world.model), wanted_owned(&swapped));
}

#[test]
fn pod_cidrs_come_before_addresses_and_take_their_room() {
    let mut world = World::new(Capacities { routes: 4, ..SMALL });
    world.nodes(&nodes(&[1]));
    assert_eq!(owned(&mut world.model).len(), 2);
    let both = nodes(&[1, 2]);
    let (steps, refused) = world.planner.plan_nodes(&both, world.now);
    let full = NoRoom::Full { map: "ROUTE", capacity: 4 };
    assert_eq!(refused, [("n1".into(), full.clone()), ("n2".into(), full)]);
    world.run(&steps);
    assert!(owned(&mut world.model).is_empty(), "the pod CIDRs fill the map");
    assert_eq!(world.model.adopt().unwrap().routes.len(), 4);
    // What goes leaves its room to the next plan.
    let one = nodes(&[2]);
    let refused = {
        let (steps, refused) = world.planner.plan_nodes(&one, world.now);
        world.run(&steps);
        refused
    };
    assert_eq!(refused.len(), 1);
    world.nodes(&one);
    assert_eq!(owned(&mut world.model), wanted_owned(&one));
}
