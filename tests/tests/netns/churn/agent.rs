//! The service side of an agent of both families, over the kernel: driver, closer of sockets, sweeper.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::{Duration, Instant};

use diolkos_abi::config::{Config, Lifetimes};
use diolkos_abi::counter::{DropReason, Hook, Verdict, drop_index, verdict_index};
use diolkos_agent::clock::Clock;
use diolkos_agent::dataplane::Shared;
use diolkos_agent::dataplane::kernel::Kernel;
use diolkos_agent::desired::{ThisNode, address};
use diolkos_agent::destroy::{Closed, Closer, KernelSockets, Space};
use diolkos_agent::driver::Driver;
use diolkos_agent::overlay::OnLink;
use diolkos_agent::plan::QUARANTINE;
use diolkos_agent::source::Change;
use diolkos_agent::sweep::Sweeper;
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use serde_json::json;

use super::model::{Endpoint, Model, SERVICES, port_of};
use super::pod::{Pod, addresses};
use super::server::FIRST_PORT;
use crate::world::World;

/// Of all services.
const PORT: u16 = 80;
/// In seconds, as the agent has them: TCP, opening and closing, datagrams.
const LIFETIMES: [u64; 4] = [24 * 3600, 60, 10, 120];

pub(super) struct Agent {
    pub(super) dataplane: Shared,
    driver: Driver,
    closer: Closer,
    sweeper: Sweeper,
    started: Instant,
}

impl Agent {
    /// Opens the dataplane; what ran before goes on until [`Agent::sync`].
    pub(super) fn open(world: &World, clients: Vec<Space>) -> Self {
        let clock = Clock::calibrate();
        let config = config(clock);
        let dataplane = Shared::new(Kernel::open(&world.options(config)).unwrap_or_else(|error| panic!("{error}")));
        let this = ThisNode {
            name: "n1".into(),
            node_v4: Some([192, 0, 2, 1].into()),
            node_v6: Some("fd02::1".parse().unwrap()),
            pod_cidr_v4: Some("10.244.1.0/24".parse().unwrap()),
            pod_cidr_v6: Some("fd00:244:1::/64".parse().unwrap()),
            service_cidrs: vec![],
            overlay_mtu: 1450,
            on_link: OnLink::default(),
            clock,
        };
        let driver = Driver::new(dataplane.clone(), this, QUARANTINE);
        let sockets = KernelSockets::open(&world.maps(), move || clients.clone()).unwrap();
        let closer = Closer::start(sockets).unwrap();
        Self { dataplane, driver, closer, sweeper: Sweeper::new(config.lifetimes), started: Instant::now() }
    }

    /// All objects come.
    pub(super) fn sync(&mut self, model: &Model) {
        let services = (0..SERVICES).map(service).collect();
        let slices = (0..SERVICES).flat_map(|service| slices(service, &model.endpoints(service))).collect();
        for change in [Change::Services(services), Change::Nodes(vec![]), Change::Slices(slices)] {
            self.driver.apply(change);
        }
        self.cycle();
        assert!(self.driver.has_synced());
    }

    /// Its programs take over.
    pub(super) fn put_in_place(&self) {
        self.dataplane.lock().put_in_place().unwrap();
    }

    /// The slices of some services say something else.
    pub(super) fn change(&mut self, services: &[(usize, Vec<Endpoint>)]) {
        for (service, endpoints) in services {
            slices(*service, endpoints).into_iter().for_each(|slice| self.driver.apply(Change::Slice(slice)));
        }
        self.cycle();
    }

    /// What the agent's loop does when it wakes.
    pub(super) fn cycle(&mut self) {
        let cycle = self.driver.cycle(self.started.elapsed());
        assert!(self.driver.refusals().is_empty(), "{:?}", self.driver.refusals());
        if cycle.died > 0 || cycle.compared {
            self.closer.look();
        }
        self.sweeper.step(&mut **self.dataplane.lock()).unwrap();
    }

    /// What the CNI server does for ADD.
    pub(super) fn add(&mut self, pod: &Pod) {
        let mut dataplane = self.dataplane.lock();
        for of_family in pod.addresses {
            dataplane.upsert_endpoint(address(of_family), pod.endpoint()).unwrap();
        }
        dataplane.attach_pod(&pod.host, pod.ifindex).unwrap();
    }

    /// Says whose the pod's sockets are.
    pub(super) fn know(&self, pod: &Pod, flags: u32) {
        self.dataplane.lock().set_netns(pod.cookie, pod.netns(flags)).unwrap();
    }

    /// What the CNI server does for DEL. The device stays, for the test to see what is sent to it.
    pub(super) fn del(&mut self, pod: &Pod) {
        for of_family in pod.addresses {
            assert!(self.dataplane.lock().remove_endpoint(&address(of_family)).unwrap(), "{of_family} was there");
        }
        self.driver.pod_gone();
    }

    pub(super) fn verdicts(&self, hook: Hook, verdict: Verdict) -> u64 {
        self.dataplane.lock().counters().unwrap()[verdict_index(hook, verdict) as usize]
    }

    /// All refusals so far, by hook and reason.
    pub(super) fn drops(&self) -> Vec<(String, u64)> {
        let counters = self.dataplane.lock().counters().unwrap();
        let all = Hook::ALL.into_iter().flat_map(|hook| DropReason::ALL.map(|reason| (hook, reason)));
        let named = all.map(|(hook, reason)| {
            (format!("{} {}", hook.name(), reason.name()), counters[drop_index(hook, reason) as usize])
        });
        named.filter(|(_, count)| *count > 0).collect()
    }

    /// Sockets closed by this agent.
    pub(super) fn closed(&self) -> Closed {
        self.closer.closed()
    }
}

/// Where clients dial a service in a family.
pub(super) fn address_of(service: usize, family: usize) -> SocketAddr {
    let last = service as u8 + 1;
    let v6 = Ipv6Addr::new(0xfd96, 0, 0, 0, 0, 0, 1, last.into());
    let of_family: [IpAddr; 2] = [Ipv4Addr::new(10, 96, 1, last).into(), v6.into()];
    (of_family[family], PORT).into()
}

fn config(clock: Clock) -> Config {
    let v6 = |text: &str| text.parse::<Ipv6Addr>().unwrap().octets();
    let [tcp, tcp_opening, tcp_closing, datagram] = LIFETIMES.map(|seconds| clock.units(Duration::from_secs(seconds)));
    Config {
        gateway_v4: [10, 244, 1, 1],
        pod_cidr_v4: [10, 244, 1, 0],
        route_mask_v4: [255, 255, 255, 0],
        service_cidr_v4: [10, 96, 0, 0],
        service_mask_v4: [255, 255, 0, 0],
        node_v4: [192, 0, 2, 1],
        gateway_v6: v6("fd00:244:1::1"),
        pod_cidr_v6: v6("fd00:244:1::"),
        route_mask_v6: v6("ffff:ffff:ffff:ffff::"),
        service_cidr_v6: v6("fd96::"),
        service_mask_v6: v6("ffff:ffff:ffff:ffff::"),
        node_v6: v6("fd02::1"),
        ports_first: 61_000,
        ports_count: 4_536,
        cores: aya::util::nr_cpus().unwrap() as u32,
        lifetimes: Lifetimes { tcp, tcp_opening, tcp_closing, datagram },
        ..Config::EMPTY
    }
}

fn name(service: usize) -> String {
    format!("s{service}")
}

fn service(number: usize) -> Service {
    let ips = [0, 1].map(|family| address_of(number, family).ip());
    serde_json::from_value(json!({
        "metadata": { "name": name(number), "namespace": "churn" },
        "spec": { "clusterIP": ips[0], "clusterIPs": ips, "ports": [
            { "name": "t", "protocol": "TCP", "port": PORT }, { "name": "u", "protocol": "UDP", "port": PORT },
        ] },
    }))
    .unwrap()
}

/// One of each family.
fn slices(service: usize, endpoints: &[Endpoint]) -> [EndpointSlice; 2] {
    let name = name(service);
    let port = FIRST_PORT + port_of(service) as u16;
    [("IPv4", 0), ("IPv6", 1)].map(|(kind, family)| {
        let endpoint = |(pod, ready, serving, terminating): &Endpoint| {
            json!({
                "addresses": [addresses(*pod)[family]],
                "conditions": { "ready": ready, "serving": serving, "terminating": terminating },
            })
        };
        let endpoints: Vec<_> = endpoints.iter().map(endpoint).collect();
        serde_json::from_value(json!({
            "metadata": {
                "name": format!("{name}-{kind}").to_lowercase(), "namespace": "churn",
                "labels": { "kubernetes.io/service-name": name },
            },
            "addressType": kind, "endpoints": endpoints, "ports": [
                { "name": "t", "protocol": "TCP", "port": port }, { "name": "u", "protocol": "UDP", "port": port },
            ],
        }))
        .unwrap()
    })
}
