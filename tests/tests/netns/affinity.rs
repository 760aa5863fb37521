//! Clients that want one backend keep it, whichever way their connections are translated.

use std::collections::BTreeSet;
use std::io::Read as _;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream, UdpSocket};
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{Duration, Instant};

use anyhow::ensure;
use diolkos_abi::counter::{Hook, Verdict};
use diolkos_abi::pod::netns_flags;
use diolkos_tests::eventually;
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use serde_json::json;

use crate::fixture::{Agent, PORT, Pod, SERVERS, SERVICES_V6, address, address_v6};
use crate::world::{World, on_a_node};

const PATIENCE: Duration = Duration::from_secs(5);
/// Ports of the Service, each by TCP and by UDP: that all choose one of four servers by chance does not happen.
const PORTS: std::ops::Range<u16> = 1000..1012;
/// A day, and so little that a test can wait for its end.
const LONG: u32 = 86_400;
const SHORT: u32 = 1;
const ALL: u8 = 0b1111;

fn vips() -> [IpAddr; 2] {
    let mut v6 = SERVICES_V6.octets();
    v6[15] = 20;
    [Ipv4Addr::new(10, 96, 0, 20).into(), v6.into()]
}

fn service(timeout: u32) -> Service {
    let port = |number: u16, protocol: &str| {
        json!({ "name": format!("p{number}-{}", protocol.to_lowercase()), "port": number, "protocol": protocol,
            "targetPort": PORT })
    };
    let ports: Vec<_> = PORTS.flat_map(|number| ["TCP", "UDP"].map(|protocol| port(number, protocol))).collect();
    serde_json::from_value(json!({
        "metadata": { "name": "kept", "namespace": "default" },
        "spec": {
            "clusterIP": vips()[0], "clusterIPs": vips(), "ipFamilies": ["IPv4", "IPv6"], "ports": ports,
            "sessionAffinity": "ClientIP",
            "sessionAffinityConfig": { "clientIP": { "timeoutSeconds": timeout } },
        },
    }))
    .unwrap()
}

/// `serving` says which servers are endpoints, by bit.
fn slices(serving: u8) -> [EndpointSlice; 2] {
    let chosen = || (0..SERVERS).filter(move |n| serving & (1 << n) != 0);
    let v4: Vec<IpAddr> = chosen().map(|n| address(n).into()).collect();
    let v6: Vec<IpAddr> = chosen().map(|n| address_v6(n).into()).collect();
    let port = |number: u16, protocol: &str| json!({ "name": format!("p{number}-{}", protocol.to_lowercase()), "port": PORT, "protocol": protocol });
    let ports: Vec<_> = PORTS.flat_map(|number| ["TCP", "UDP"].map(|protocol| port(number, protocol))).collect();
    [("IPv4", v4), ("IPv6", v6)].map(|(family, addresses)| {
        let endpoints: Vec<_> = addresses.iter().map(|address| json!({ "addresses": [address] })).collect();
        let labels = json!({ "kubernetes.io/service-name": "kept" });
        serde_json::from_value(json!({
            "metadata": { "name": format!("kept-{family}"), "namespace": "default", "labels": labels },
            "addressType": family, "ports": ports, "endpoints": endpoints,
        }))
        .unwrap()
    })
}

/// A node with its servers, and two pods that are clients.
struct Site {
    agent: Agent,
    servers: Vec<Pod>,
    clients: [Pod; 2],
}

/// How a client's connections are translated.
#[derive(Clone, Copy, Debug)]
enum Way {
    Sockets,
    Packets,
}

impl Site {
    fn new(world: &World, timeout: u32) -> Self {
        std::fs::write("/proc/sys/net/ipv4/ip_forward", "1").unwrap();
        std::fs::write("/proc/sys/net/ipv6/conf/all/forwarding", "1").unwrap();
        let site = Self {
            agent: agent(world, timeout, ALL),
            servers: (0..SERVERS).map(Pod::new).collect(),
            clients: [SERVERS, SERVERS + 1].map(Pod::new),
        };
        site.servers.iter().chain(&site.clients).for_each(|pod| site.agent.attach(pod));
        site.servers.iter().for_each(Pod::serve);
        site
    }

    /// The servers that answer a client, one connection or socket after the other.
    fn heard(&self, client: usize, way: Way, how: Ask, port: u16, family: usize, times: usize) -> BTreeSet<u8> {
        let pod = &self.clients[client];
        let hooks = [(Hook::Connect, Verdict::Translated), (Hook::FromContainer, Verdict::Pod)];
        let counts = || hooks.map(|(hook, verdict)| self.agent.counter(hook, verdict));
        self.agent.know(pod, if matches!(way, Way::Packets) { netns_flags::OPT_OUT } else { 0 });
        let before = counts();
        let to = SocketAddr::new(vips()[family], port);
        let heard = pod.inside(move || (0..times).map(|_| how(to)).collect()).join().unwrap();
        let [sockets, packets] = [0, 1].map(|hook| counts()[hook] - before[hook]);
        match way {
            Way::Sockets => assert_eq!(sockets, times as u64, "connects that the hook translated"),
            Way::Packets => assert!(sockets == 0 && packets >= times as u64, "{sockets} connects, {packets} packets"),
        }
        heard
    }

    /// The one server that answers a client.
    fn only(&self, client: usize, way: Way, how: Ask, port: u16, family: usize) -> u8 {
        let heard = self.heard(client, way, how, port, family, 20);
        assert_eq!(heard.len(), 1, "client {client}, {way:?}, port {port}, family {family}: {heard:?}");
        heard.into_iter().next().unwrap()
    }
}

fn agent(world: &World, timeout: u32, serving: u8) -> Agent {
    let mut agent = Agent::open(world);
    agent.sync_with(vec![service(timeout)], slices(serving).into());
    agent
}

type Ask = fn(SocketAddr) -> u8;
const HOW: [Ask; 2] = [tcp, udp];

fn tcp(to: SocketAddr) -> u8 {
    let mut stream = TcpStream::connect_timeout(&to, PATIENCE).unwrap_or_else(|error| panic!("TCP {to}: {error}"));
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut greeting = [0; 4];
    stream.read_exact(&mut greeting).unwrap();
    server(greeting)
}

/// A few ports in turn for each of the Service's, so that by sockets and by packets the same ones are used.
fn udp(to: SocketAddr) -> u8 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let any: IpAddr = if to.is_ipv4() { [0; 4].into() } else { [0_u8; 16].into() };
    let port = 20_000 + (to.port() - PORTS.start) * 8 + NEXT.fetch_add(1, Ordering::Relaxed) % 8;
    let socket = UdpSocket::bind((any, port)).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    socket.connect(to).unwrap();
    socket.send(b"who").unwrap();
    let mut answer = [0; 4];
    socket.recv(&mut answer).unwrap_or_else(|error| panic!("UDP {to}: {error}"));
    server(answer)
}

fn server(greeting: [u8; 4]) -> u8 {
    (0..SERVERS)
        .find(|n| address(*n).octets() == greeting)
        .unwrap_or_else(|| panic!("a stranger answers: {greeting:?}"))
}

#[test]
fn a_client_keeps_its_backend_by_sockets_and_by_packets_over_restarts_until_it_goes() {
    on_a_node(|world| {
        let mut site = Site::new(world, LONG);
        let port = PORTS.start;
        for family in [0, 1] {
            for how in HOW {
                // Who comes first, sockets or packets, is remembered for the other.
                let first =
                    [site.only(0, Way::Sockets, how, port, family), site.only(1, Way::Packets, how, port, family)];
                assert_eq!(site.only(0, Way::Packets, how, port, family), first[0]);
                assert_eq!(site.only(1, Way::Sockets, how, port, family), first[1]);

                drop(std::mem::replace(&mut site.agent, agent(world, LONG, ALL)));
                for (client, way) in [(0, Way::Packets), (1, Way::Sockets), (0, Way::Sockets)] {
                    assert_eq!(site.only(client, way, how, port, family), first[client], "after a restart");
                }

                // Gone, the client has another one, and keeps that when the first one comes back.
                site.agent.change_slices(slices(ALL & !(1 << first[0])));
                let second = site.only(0, Way::Packets, how, port, family);
                assert_ne!(second, first[0]);
                assert_eq!(site.only(0, Way::Sockets, how, port, family), second);
                site.agent.change_slices(slices(ALL));
                assert_eq!(site.only(0, Way::Sockets, how, port, family), second);
                assert_eq!(site.only(0, Way::Packets, how, port, family), second);
            }
        }
    });
}

#[test]
fn each_port_of_a_service_has_choices_of_its_own() {
    on_a_node(|world| {
        let site = Site::new(world, LONG);
        for family in [0, 1] {
            for (how, way) in [(HOW[0], Way::Sockets), (HOW[1], Way::Packets)] {
                let chosen: BTreeSet<u8> = PORTS.map(|port| site.only(0, way, how, port, family)).collect();
                assert!(chosen.len() > 1, "every port has the same server: {chosen:?}");
            }
        }
    });
}

#[test]
fn a_client_chooses_again_once_its_time_is_over() {
    on_a_node(|world| {
        let site = Site::new(world, SHORT);
        let families = [(0, Way::Sockets), (1, Way::Packets)];
        let ask = || -> Vec<BTreeSet<u8>> {
            let ports = families.into_iter().flat_map(|(family, way)| PORTS.map(move |port| (family, way, port)));
            ports.map(|(family, way, port)| site.heard(0, way, tcp, port, family, 1)).collect()
        };
        let (before, start) = (ask(), Instant::now());
        // One more unit than the Service says at most, of 1.024 s at 250 Hz.
        let over = Duration::from_secs(u64::from(SHORT)) + Duration::from_millis(2100);
        eventually("the time is over", over * 2, || {
            ensure!(start.elapsed() > over, "not yet");
            Ok(())
        })
        .unwrap();
        let after = ask();
        for (family, _) in families {
            let ports = PORTS.len() * family..PORTS.len() * (family + 1);
            assert_ne!(before[ports.clone()], after[ports], "every port of family {family} has the server it had");
        }
    });
}
