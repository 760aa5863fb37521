//! What the operator sees of packets: the monitor, and the trace beside what real packets do.

use std::net::Ipv4Addr;
use std::process::Command;
use std::time::Duration;

use diolkos_abi::address::{protocol, v4_mapped};
use diolkos_abi::config::Config;
use diolkos_abi::counter::{DropReason, Hook, Verdict, drop_index, verdict_index};
use diolkos_abi::pod::{Endpoint, Node, Route, RouteKey};
use diolkos_abi::service::{Backend, FrontendKey, backend_state, frontend_word, row_word, scope};
use diolkos_agent::dataplane::Dataplane;
use diolkos_agent::dataplane::kernel::Kernel;
use diolkos_agent::health::ServiceId;
use diolkos_agent::observe::Pins;
use diolkos_agent::observe::monitor::{self, Filter, Monitor, Record, Wish};
use diolkos_agent::observe::trace::{self, Origin, Question, SOURCE_PORT, Trace};
use diolkos_tests::eventually;

use crate::world::{NODE, World, ifindex, ip, on_a_node};

const POD: Ipv4Addr = Ipv4Addr::new(10, 244, 1, 10);
const REMOTE: Ipv4Addr = Ipv4Addr::new(10, 244, 2, 20);
/// Of a service with one backend, on another node.
const SERVED: Ipv4Addr = Ipv4Addr::new(10, 96, 0, 10);
/// Of a service without endpoints.
const EMPTY: Ipv4Addr = Ipv4Addr::new(10, 96, 0, 20);
const PATIENCE: Duration = Duration::from_secs(10);

/// A pod whose packets really come in through its device.
fn node_with_a_pod(world: &World) -> Kernel {
    for command in [
        "link add overlay type bridge",
        "link set overlay up",
        "link add dif00 type veth peer name eth0",
        "link set dif00 up",
        "link set eth0 up",
        "address add 10.244.1.10/32 dev eth0",
        "route add 10.96.0.0/16 dev eth0 src 10.244.1.10",
    ] {
        ip(command);
    }
    for address in [SERVED, EMPTY] {
        ip(&format!("neighbour add {address} lladdr 02:00:00:00:00:01 nud permanent dev eth0"));
    }
    let config = Config {
        overlay_ifindex: ifindex("overlay"),
        vni: 1,
        gateway_v4: [10, 244, 1, 1],
        route_mask_v4: [255, 255, 255, 0],
        pod_cidr_v4: [10, 244, 1, 0],
        service_cidr_v4: [10, 96, 0, 0],
        service_mask_v4: [255, 255, 0, 0],
        ..Config::default()
    };
    let mut kernel = Kernel::open(&world.options(config)).unwrap();
    let pod = Endpoint { ifindex: ifindex("dif00"), mac: mac("eth0"), host_mac: mac("dif00"), ..Endpoint::default() };
    kernel.upsert_endpoint(v4_mapped(POD.octets()), pod).unwrap();
    let prefix = v4_mapped([10, 244, 2, 0]);
    let node = Node { tunnel_v4: [192, 168, 0, 2], mtu: 1450, prefix_v4: [10, 244, 2, 0], ..Node::default() };
    kernel.upsert_node(2, &node).unwrap();
    kernel.upsert_route(RouteKey { prefix, zone: 0 }, Route { node: 2, ..Route::default() }).unwrap();
    let backend = Backend {
        address: v4_mapped(REMOTE.octets()),
        port: 8080_u16.to_be_bytes(),
        state: backend_state::ALIVE,
        generation: 1,
        node: 2,
        protocol: protocol::TCP,
        ..Backend::default()
    };
    kernel.set_backend(11, &backend).unwrap();
    kernel.write_slots(64, &[11]).unwrap();
    kernel.set_row(5, row_word(64, 1)).unwrap();
    for (address, id) in [(SERVED, 5), (EMPTY, 6)] {
        let key = FrontendKey::new(v4_mapped(address.octets()), 80_u16.to_be_bytes(), protocol::TCP, scope::CLUSTER);
        kernel.insert_frontends(&[(key, frontend_word(id, key.tag(), 0))]).unwrap();
    }
    kernel.attach_pod("dif00", ifindex("dif00")).unwrap();
    kernel
}

fn mac(device: &str) -> [u8; 6] {
    // sysfs would show the namespace it was mounted in.
    let text = ip(&format!("-o link show {device}"));
    let text = text.split("link/ether ").last().unwrap();
    let bytes: Vec<u8> = text.trim().split([':', ' ']).take(6).map(|b| u8::from_str_radix(b, 16).unwrap()).collect();
    bytes.try_into().unwrap()
}

fn pins(world: &World) -> Pins {
    Pins::find(&world.bpffs, Some(NODE)).unwrap()
}

/// The pod's SYN; nobody answers it. The process leaves the node's cgroup first: no hook at its socket translates.
fn knock(world: &World, address: Ipv4Addr) {
    let leave = format!("echo $$ > {}/cgroup.procs", world.home.display());
    let script = format!("{leave} && exec timeout 0.2 bash -c '> /dev/tcp/{address}/80' 2> /dev/null");
    let status = Command::new("bash").args(["-c", &script]).status().unwrap();
    assert!(!status.success(), "nobody serves here");
}

fn ask(world: &World, to: Ipv4Addr, port: u16, origin: Option<Origin>) -> Trace {
    let names =
        [ServiceId { id: 5, namespace: "default".into(), name: "web".into(), port: 80, protocol: protocol::TCP }];
    let from = if origin == Some(Origin::Overlay) { REMOTE } else { POD };
    let question =
        Question { from: from.into(), source_port: SOURCE_PORT, to: to.into(), port, protocol: protocol::TCP, origin };
    trace::trace(&pins(world), &names, question).unwrap()
}

#[test]
fn a_trace_says_what_a_real_packet_does_and_writes_nothing() {
    on_a_node(|world| {
        let kernel = node_with_a_pod(world);
        let served = ask(world, SERVED, 80, None);
        assert_eq!(served.origin, Origin::Pod, "{served:?}");
        let text = trace::render(&served);
        for part in [
            "connect: connect() to 10.96.0.10:80",
            "frontend 10.96.0.10:80/TCP is service 5 (default/web)",
            "has a row of 1 from slot 64 on",
            "slot 64 names backend 11",
            "backend 11 is 10.244.2.20:8080, alive",
            "=> translated: connects to 10.244.2.20:8080",
            "from_container: TCP 10.244.1.10:40000 > 10.96.0.10:80, of a socket without the hook",
            "=> overlay: 10.244.1.10:40000 > 10.244.2.20:8080 TCP SYN, out of device overlay, through the tunnel to 192.168.0.2, VNI 1",
        ] {
            assert!(text.contains(part), "{part} is not in\n{text}");
        }
        let empty = ask(world, EMPTY, 80, Some(Origin::Pod));
        let packets =
            |trace: &Trace| trace.stages.iter().filter(|s| s.hook == "from_container").cloned().collect::<Vec<_>>();
        for stage in packets(&served).into_iter().chain(packets(&empty)) {
            assert!(stage.differs.is_none() && stage.unchecked.is_none(), "{stage:?}");
        }
        let flows = kernel.flows(None).unwrap().entries;
        assert!(flows.is_empty(), "a trace writes nothing: {flows:?}");

        let count = |index: u32| kernel.counters().unwrap()[index as usize];
        let overlay = verdict_index(Hook::FromContainer, Verdict::Overlay);
        let refused = drop_index(Hook::FromContainer, DropReason::NoEndpoints);
        assert_eq!((count(overlay), count(refused)), (0, 0), "a trace counts nothing");
        knock(world, SERVED);
        knock(world, EMPTY);
        let all: Vec<_> = kernel.counters().unwrap().into_iter().enumerate().filter(|(_, count)| *count > 0).collect();
        assert!(count(overlay) > 0 && count(refused) > 0, "the packets do what the trace said: {all:?}");
        assert_eq!(packets(&served).last().unwrap().verdict, Some("overlay"));
        let refused: Vec<_> = empty.stages.iter().map(|stage| (stage.hook, stage.drop)).collect();
        assert_eq!(refused, [("connect", Some("no_endpoints")), ("from_container", Some("no_endpoints"))]);
    });
}

#[test]
fn a_trace_of_what_comes_through_the_tunnel_says_that_it_is_not_checked() {
    on_a_node(|world| {
        let _kernel = node_with_a_pod(world);
        let arrived = ask(world, POD, 8080, Some(Origin::Overlay));
        let [stage] = &arrived.stages[..] else { panic!("{arrived:?}") };
        assert_eq!((stage.hook, stage.verdict), ("from_overlay", Some("pod")), "{stage:?}");
        assert!(stage.unchecked.as_ref().unwrap().contains("no tunnel"), "{stage:?}");
        assert!(stage.output.contains("into the pod behind device dif00"), "{stage:?}");
    });
}

#[test]
fn the_monitor_shows_drops_with_their_reason_and_what_goes_on() {
    on_a_node(|world| {
        let kernel = node_with_a_pod(world);
        let wish = Wish { drops: true, flows: true, sample: 1 };
        let mut monitor = Monitor::start(&pins(world), wish).unwrap();
        let second = Monitor::start(&pins(world), wish).err().expect("a ring has one reader");
        assert!(second.to_string().contains("another monitor"), "{second}");
        let filter = Filter { hook: Some(Hook::FromContainer), address: Some(POD.into()), port: None };
        let mut records: Vec<Record> = Vec::new();
        knock(world, EMPTY);
        knock(world, SERVED);
        eventually("both packets are told", PATIENCE, || {
            monitor.drain(|record| records.extend(filter.takes(&record).then_some(record)));
            let has = |outcome: Option<&str>| records.iter().any(|r| r.drop == outcome || r.verdict == outcome);
            anyhow::ensure!(has(Some("no_endpoints")) && has(Some("overlay")), "{records:?}");
            Ok(())
        })
        .unwrap();
        let refused = records.iter().find(|record| record.drop == Some("no_endpoints")).unwrap();
        assert_eq!((refused.destination, refused.destination_port), (Some(EMPTY.into()), Some(80)));
        assert_eq!((refused.protocol.as_str(), refused.detail.as_str()), ("TCP", "SYN"));
        assert_eq!(refused.ifindex, Some(ifindex("dif00")));
        // What goes on is told as the hook left it.
        let went = records.iter().find(|record| record.verdict == Some("overlay")).unwrap();
        assert_eq!((went.destination, went.destination_port), (Some(REMOTE.into()), Some(8080)));
        assert_eq!(monitor.lost(|_| {}).unwrap(), 0);
        drop((monitor, kernel));
    });
}

#[test]
fn the_watch_of_a_monitor_that_was_killed_is_turned_off() {
    on_a_node(|world| {
        let _kernel = node_with_a_pod(world);
        let wish = Wish { drops: true, flows: false, sample: 1 };
        let monitor = Monitor::start(&pins(world), wish).unwrap();
        assert!(!monitor::heal(&pins(world)).unwrap(), "its monitor lives");
        monitor.abandon();
        assert!(monitor::heal(&pins(world)).unwrap());
        assert!(!monitor::heal(&pins(world)).unwrap(), "once is enough");
        drop(Monitor::start(&pins(world), wish).unwrap());
        assert!(!monitor::heal(&pins(world)).unwrap(), "a monitor that ends turns its watch off");
    });
}
