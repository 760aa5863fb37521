//! An agent of another layout is followed by one of this.

use std::collections::BTreeMap;
use std::fs;

use diolkos_abi::pod::netns_flags;
use diolkos_agent::dataplane::map;

use crate::fixture::{Agent, Client, Pod, SERVERS};
use crate::world::{World, assert_attached, link, names, on_a_node};

/// The links of a directory and the programs they run, by name.
fn links(directory: &std::path::Path) -> BTreeMap<String, (u32, u32)> {
    names(directory).into_iter().map(|name| (name.clone(), link(&directory.join(name)))).collect()
}

/// Makes what an agent left look like that of another layout: its links live and its maps are full.
fn as_of_another_layout(world: &World) -> std::path::PathBuf {
    let other = world.pins().with_file_name("v1");
    fs::rename(world.pins(), &other).unwrap();
    other
}

#[test]
fn another_layouts_links_are_taken_over_once_the_maps_are_filled_and_no_connect_fails() {
    on_a_node(|world| {
        fs::write("/proc/sys/net/ipv4/ip_forward", "1").unwrap();
        let old = Agent::start(world, 0b1111);
        let pods: Vec<Pod> = (0..SERVERS + 2).map(Pod::new).collect();
        pods.iter().for_each(|pod| old.attach(pod));
        pods[..usize::from(SERVERS)].iter().for_each(Pod::serve);
        let [.., sockets, packets] = &pods[..] else { panic!("two clients") };
        old.know(sockets, 0);
        old.know(packets, netns_flags::OPT_OUT);
        drop(old);
        let other = as_of_another_layout(world);
        let before = links(&other.join("links"));
        // What a socket was connected to is in the old maps, so a connection under way cannot be asked.
        let client = Client::start(sockets, false);
        client.wait_for_one_more();

        let mut new = Agent::open(world);
        pods.iter().for_each(|pod| new.attach(pod));
        client.wait_for_one_more();
        assert_eq!(links(&other.join("links")), before, "the old programs run while the new maps are empty");
        assert!(names(&world.links()).is_empty(), "nothing runs beside them");
        assert_eq!(new.dataplane.lock().attached_pods().unwrap().len(), pods.len());

        new.know(sockets, 0);
        new.know(packets, netns_flags::OPT_OUT);
        new.sync(0b1111);
        client.wait_for_one_more();
        let after = links(&world.links());
        assert!(before.keys().all(|name| after.contains_key(name)), "{before:?}\n{after:?}");
        for (name, (id, program)) in &before {
            assert_eq!(after[name].0, *id, "{name} is the same link");
            assert_ne!(after[name].1, *program, "{name} runs the new program");
        }
        for pod in &pods {
            // One a direction.
            assert_attached(&pod.host, 2);
        }
        assert!(!other.exists(), "the old maps are gone");
        assert_eq!(names(&world.maps()).len(), map::ALL.len());
        let (connections, failed) = client.stop();
        assert!(failed.is_empty(), "{} of {connections} failed: {:?}", failed.len(), failed.first());
        let client = Client::start(packets, true);
        client.wait_for_one_more();
        let (connections, failed) = client.stop();
        assert!(failed.is_empty(), "{} of {connections} failed: {:?}", failed.len(), failed.first());
    });
}

#[test]
fn a_pod_that_went_before_the_programs_were_in_place_leaves_no_link_of_another_layout() {
    on_a_node(|world| {
        let old = Agent::start(world, 0b1111);
        let pod = Pod::new(0);
        old.attach(&pod);
        drop(old);
        let other = as_of_another_layout(world);
        let mut new = Agent::open(world);
        new.attach(&pod);
        new.dataplane.lock().detach_pod(&pod.host).unwrap();
        assert_attached(&pod.host, 0);
        assert!(!names(&other.join("links")).iter().any(|name| name.starts_with(&pod.host)));
        new.sync(0b1111);
        assert_attached(&pod.host, 0);
        assert!(new.dataplane.lock().attached_pods().unwrap().is_empty());
    });
}
