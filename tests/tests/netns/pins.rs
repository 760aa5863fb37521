//! What outlives an agent, and what the next one does with it.

use std::fs;

use diolkos_abi::config::Config;
use diolkos_abi::pod::{Netns, Node, Route, RouteKey, cookie_tag};
use diolkos_abi::service::{Backend, FrontendKey, backend_state, row_word};
use diolkos_agent::dataplane::kernel::Kernel;
use diolkos_agent::dataplane::{Dataplane, Error, map};

use crate::world::{assert_attached, has_tcx, ifindex, ip, link, names, on_a_node};

/// Names of pins, and those of the socket hooks.
fn with_hooks(others: &[&str]) -> Vec<String> {
    let hooks = ["connect", "getpeername", "recvmsg", "sendmsg"];
    let hooks = hooks.iter().flat_map(|hook| [4, 6].map(|family| format!("{hook}{family}")));
    let mut names: Vec<String> = hooks.chain(others.iter().map(|name| (*name).to_owned())).collect();
    names.sort();
    names
}

#[test]
fn maps_stay_and_programs_are_replaced_in_their_links_by_the_next_agent() {
    on_a_node(|world| {
        for name in ["dif00", "overlay"] {
            ip(&format!("link add {name} type bridge"));
        }
        let config = Config { overlay_ifindex: ifindex("overlay"), ..Config::default() };
        let mut first = world.open_with(config);
        first.attach_pod("dif00", ifindex("dif00")).unwrap();
        fill(&mut first);
        let before = first.adopt().unwrap();
        drop(first);

        let pins = with_hooks(&["dif00_from", "dif00_to", "from_overlay", "to_overlay"]);
        assert_eq!(names(&world.links()), pins);
        let mut maps = map::ALL.to_vec();
        maps.sort_unstable();
        assert_eq!(names(&world.maps()), maps);
        let links: Vec<_> = pins.iter().map(|name| link(&world.links().join(name))).collect();

        let mut second = Kernel::open(&world.options(config)).unwrap();
        assert_eq!(second.adopt().unwrap(), before);
        assert_eq!(second.netnses().unwrap(), [(7, Netns { tag: cookie_tag(7), ..Netns::default() })]);
        assert_eq!(second.attached_pods().unwrap(), ["dif00"]);
        for (name, (id, program)) in pins.iter().zip(links) {
            let (new_id, new_program) = link(&world.links().join(name));
            assert_eq!(new_id, id, "{name} is the same link");
            assert_ne!(new_program, program, "{name} runs the new program");
        }
        second.attach_pod("dif00", ifindex("dif00")).unwrap();
        assert_eq!(names(&world.links()), pins);
        second.detach_pod("dif00").unwrap();
        assert_eq!(names(&world.links()), with_hooks(&["from_overlay", "to_overlay"]));
    });
}

fn fill(kernel: &mut Kernel) {
    kernel.set_backend(3, &Backend { state: backend_state::ALIVE, generation: 2, ..Backend::default() }).unwrap();
    kernel.write_slots(17, &[3, 3]).unwrap();
    kernel.set_row(5, row_word(17, 2)).unwrap();
    kernel.insert_frontends(&[(FrontendKey::new([1; 16], [0, 80], 6, 0), 5)]).unwrap();
    kernel.upsert_node(2, &Node { mtu: 1450, ..Node::default() }).unwrap();
    kernel.upsert_route(RouteKey { prefix: [2; 16], zone: 0 }, Route { node: 2, ..Route::default() }).unwrap();
    kernel.set_netns(7, Netns::default()).unwrap();
}

#[test]
fn a_device_made_again_under_its_old_name_gets_links_of_its_own() {
    on_a_node(|world| {
        let mut kernel = world.open();
        for _ in 0..2 {
            ip("link add dif00 type bridge");
            kernel.attach_pod("dif00", ifindex("dif00")).unwrap();
            assert_attached("dif00", 2);
            ip("link del dif00");
        }
        drop(kernel);
        // The device is gone, and with it its links: the next agent removes the pins.
        assert!(world.open().attached_pods().unwrap().is_empty());
    });
}

#[test]
fn a_pinned_map_of_another_shape_is_named_and_left_alone() {
    on_a_node(|world| {
        fs::create_dir_all(world.maps()).unwrap();
        let path = world.maps().join(map::ROUTE);
        let other = aya::maps::Array::<_, u32>::create(7, 0).unwrap();
        other.pin(&path).unwrap();
        let error = Kernel::open(&world.options(Config::default())).err().expect("the map has another shape");
        let text = error.to_string();
        assert!(matches!(error, Error::Shape { .. }), "{text}");
        for part in ["ROUTE", "4 B values", "7 entries", "16 B values", "16384 entries"] {
            assert!(text.contains(part), "{text}");
        }
        assert!(names(&world.links()).is_empty(), "nothing is attached");
        assert_eq!(names(&world.maps()), [map::ROUTE], "nothing is created");
    });
}

#[test]
fn what_the_machine_lacks_is_said() {
    on_a_node(|world| {
        let plain = tempfile::tempdir().unwrap();
        let mut options = world.options(Config::default());
        options.bpffs = plain.path().into();
        let text = Kernel::open(&options).err().unwrap().to_string();
        assert!(text.contains("is not a bpf file system") && text.contains("mount -t bpf"), "{text}");
        assert_eq!(fs::read_dir(plain.path()).unwrap().count(), 0);
        options = world.options(Config::default());
        options.cgroup = plain.path().into();
        let text = Kernel::open(&options).err().unwrap().to_string();
        assert!(text.contains("is not a cgroup2 directory") && text.contains("--cgroup-root"), "{text}");
        options.cgroup = "/nonexistent".into();
        let text = Kernel::open(&options).err().unwrap().to_string();
        assert!(text.contains("/nonexistent"), "{text}");
        assert!(!world.maps().exists(), "nothing is created");
    });
}

#[test]
fn an_overlay_device_made_again_is_attached_by_the_next_agent() {
    on_a_node(|world| {
        let mut last = 0;
        for _ in 0..2 {
            ip("link add overlay type bridge");
            let config = Config { overlay_ifindex: ifindex("overlay"), ..Config::default() };
            drop(world.open_with(config));
            let (id, _) = link(&world.links().join("from_overlay"));
            assert!(id != last || !has_tcx(), "a link of its own");
            last = id;
            ip("link del overlay");
        }
        assert_eq!(names(&world.links()), with_hooks(&["from_overlay", "to_overlay"]));
    });
}
