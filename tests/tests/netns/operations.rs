//! What the operator sees of a node: status, services, metrics.

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};

use diolkos_abi::address::{protocol, v4_mapped};
use diolkos_abi::config::Config;
use diolkos_abi::service::{Backend, FrontendKey, backend_state, frontend_word, row_word, scope};
use diolkos_agent::clock::Clock;
use diolkos_agent::dataplane::Dataplane;
use diolkos_agent::dataplane::kernel::Kernel;
use diolkos_agent::desired::{Family, PortKey, ServiceName};
use diolkos_agent::health::{self, ServiceId};
use diolkos_agent::observe::services::{self, ServiceMaps};
use diolkos_agent::observe::{Pins, programs, status};
use diolkos_agent::state::{self, Census, NamedService, Question, Readiness};

use crate::world::{NODE, World, ifindex, ip, on_a_node};

/// Nothing is missing.
const READY: Readiness =
    Readiness { programs: true, services: true, endpoint_slices: true, nodes: true, maps: true, cni: true };
const VIP: [u8; 4] = [10, 96, 0, 10];

/// A service with two backends, of which one is gone.
fn serve(kernel: &mut Kernel) {
    for (id, state) in [(11, backend_state::ALIVE), (12, backend_state::DEAD)] {
        let backend = Backend {
            address: v4_mapped([10, 244, 2, id]),
            port: 8080_u16.to_be_bytes(),
            state,
            generation: 1,
            protocol: protocol::TCP,
            ..Backend::default()
        };
        kernel.set_backend(id.into(), &backend).unwrap();
    }
    kernel.write_slots(64, &[11, 12]).unwrap();
    kernel.set_row(5, row_word(64, 2)).unwrap();
    kernel.set_affinity(5, Clock::calibrate().units(std::time::Duration::from_secs(7200))).unwrap();
    let key = FrontendKey::new(v4_mapped(VIP), 80_u16.to_be_bytes(), protocol::TCP, scope::CLUSTER);
    kernel.insert_frontends(&[(key, frontend_word(5, key.tag(), 0))]).unwrap();
}

fn pins(world: &World) -> Pins {
    Pins::find(&world.bpffs, Some(NODE)).unwrap()
}

/// The operator's endpoint of an agent whose loop answers questions and does nothing else.
struct Agent {
    address: SocketAddr,
    handle: state::Handle,
    endpoint: tokio::runtime::Runtime,
}

impl Agent {
    fn start(world: &World) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let (handle, mut questions) = state::channel();
        let listener = runtime.block_on(health::listen("127.0.0.1:0".parse().unwrap())).unwrap();
        let address = listener.local_addr().unwrap();
        runtime.spawn(health::serve(listener, handle.clone(), Pins::of(&world.bpffs, NODE)));
        runtime.spawn(async move {
            loop {
                let name = ServiceName { namespace: "default".into(), name: "web".into() };
                let port = PortKey { port: 80, protocol: protocol::TCP, family: Family::V4 };
                match questions.next().await {
                    Question::Names(reply) => drop(reply.send(vec![NamedService { id: 5, name, port }])),
                    Question::Census(reply) => drop(reply.send(Census { services: 1, ..Census::default() })),
                }
            }
        });
        Self { address, handle, endpoint: runtime }
    }

    /// Status and body of an answer.
    fn get(&self, path: &str) -> (u16, String) {
        let mut stream = TcpStream::connect(self.address).unwrap();
        write!(stream, "GET {path} HTTP/1.0\r\n\r\n").unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        (head.split(' ').nth(1).unwrap().parse().unwrap(), body.to_owned())
    }
}

#[test]
fn services_are_listed_from_the_maps_and_named_by_the_agent() {
    on_a_node(|world| {
        let mut kernel = world.open();
        serve(&mut kernel);
        let maps = ServiceMaps::read(&pins(world)).unwrap();
        let unnamed = services::render(&maps.list(&[], Clock::calibrate()), false);
        let expected = "\
SERVICE  FRONTEND          AFFINITY  BACKENDS
#5       10.96.0.10:80/TCP  2h0m      2: 10.244.2.11:8080 10.244.2.12:8080(dead)
";
        assert_eq!(squeezed(&unnamed), squeezed(expected));
        let id =
            ServiceId { id: 5, namespace: "default".into(), name: "web".into(), port: 80, protocol: protocol::TCP };
        let list = maps.list(&[id], Clock::calibrate());
        assert_eq!(list[0].service.as_deref(), Some("default/web"));
        assert_eq!(list[0].backends.iter().map(|backend| backend.state).collect::<Vec<_>>(), ["alive", "dead"]);
    });
}

#[test]
fn a_node_is_healthy_while_its_agent_is_ready_and_its_programs_run() {
    on_a_node(|world| {
        ip("link add overlay type bridge");
        let config = Config { overlay_ifindex: ifindex("overlay"), ..Config::default() };
        let mut kernel = Kernel::open(&world.options(config)).unwrap();
        serve(&mut kernel);
        kernel.put_in_place().unwrap();
        let agent = Agent::start(world);
        let look = || status::status(&pins(world), agent.address).unwrap();
        let starting = look();
        assert!(starting.agent.alive && !starting.agent.ready && !starting.healthy, "{starting:?}");
        assert!(starting.agent.lacks.iter().any(|lack| lack.starts_with("cni failed")), "{starting:?}");
        agent.handle.update(|state| state.readiness = READY);
        let running = look();
        assert!(running.healthy && running.problems.is_empty(), "{running:?}");
        assert_eq!((running.counts.services, running.counts.frontends, running.counts.backends), (1, 1, 1));
        let text = status::render(&running, std::time::SystemTime::now());
        for part in
            ["n1_example", "healthy", "alive, ready", "program from_overlay", "1 with 1 frontends", "redirect_peer"]
        {
            assert!(text.contains(part), "{text}");
        }
        assert_eq!(programs::config(&pins(world)).unwrap().unwrap().overlay_ifindex, config.overlay_ifindex);
        drop(agent.endpoint);
        let alone = status::status(&pins(world), agent.address).unwrap();
        assert!(!alone.agent.alive && !alone.healthy, "{alone:?}");
        assert!(alone.problems[0].contains("the agent is away"), "{alone:?}");
    });
}

#[test]
fn metrics_count_what_the_programs_refuse_and_readyz_turns_with_the_agent() {
    on_a_node(|world| {
        let mut kernel = world.open();
        let key = FrontendKey::new(v4_mapped(VIP), 80_u16.to_be_bytes(), protocol::TCP, scope::CLUSTER);
        kernel.insert_frontends(&[(key, frontend_word(6, key.tag(), 0))]).unwrap();
        kernel.put_in_place().unwrap();
        let agent = Agent::start(world);
        let refused = "diolkos_drops_total{hook=\"connect\",reason=\"no_endpoints\"} 3\n";
        let (status, before) = agent.get("/metrics");
        assert!(status == 200 && !before.contains("diolkos_drops_total{"), "{before}");
        for _ in 0..3 {
            let error = TcpStream::connect((Ipv4Addr::from(VIP), 80)).unwrap_err();
            assert_eq!(error.kind(), std::io::ErrorKind::ConnectionRefused);
        }
        let (_, after) = agent.get("/metrics");
        assert!(after.contains(refused) && after.contains("\ndiolkos_services 1\n"), "{after}");

        let (status, text) = agent.get("/readyz");
        assert!(status == 503 && text.contains("[-]programs failed") && text.contains("[-]cni failed"), "{text}");
        agent.handle.update(|state| state.readiness = READY);
        let (status, text) = agent.get("/readyz");
        assert!(status == 200 && text.contains("[+]cni ok") && text.ends_with("readyz check passed\n"), "{text}");
        assert_eq!(agent.get("/healthz"), (200, "ok\n".into()));
        assert_eq!(agent.get("/debug/services").0, 200);
        assert_eq!(agent.get("/nothing").0, 404);
    });
}

fn squeezed(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}
