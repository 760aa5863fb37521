//! Pods of two nodes, through the real programs.

use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::time::Duration;

use diolkos_abi::counter::{Hook, Verdict, verdict_index};
use diolkos_agent::Routing;
use diolkos_agent::overlay::{DEVICE, OverlayConfig};

use crate::hosts::{Host, node_v4, node_v6, pair};
use crate::world::Sandbox;

const PATIENCE: Duration = Duration::from_secs(10);
/// More than a socket buffer holds, so that segments of all sizes pass.
const BULK: usize = 4 << 20;

#[test]
fn pods_of_two_nodes_talk_in_both_families_through_tunnels_over_ipv4() {
    let hosts = pair(Routing::Overlay, |config| config);
    converse(&hosts);
    assert!(hosts[0].ip("route show proto 209 10.244.2.0/24").contains(DEVICE));
    assert!(verdicts(&hosts[0], Hook::ToOverlay, Verdict::Encapsulated) > 0);
}

#[test]
fn pods_of_two_nodes_talk_in_both_families_through_tunnels_over_ipv6() {
    converse(&pair(Routing::Overlay, |config| OverlayConfig { node_v4: None, ..config }));
}

#[test]
fn pods_of_two_nodes_talk_in_both_families_without_a_tunnel() {
    let hosts = pair(Routing::Direct, |config| config);
    converse(&hosts);
    assert!(!hosts[0].ip("-o link").contains(DEVICE));
    // Past the host's routing, both ways.
    assert!(verdicts(&hosts[0], Hook::FromContainer, Verdict::Neighbour) > 0);
    assert!(verdicts(&hosts[0], Hook::FromNetdev, Verdict::Pod) > 0);
}

/// A pod, and the node of another pod, talk to it in both families: TCP in bulk, and datagrams.
fn converse(hosts: &[Host; 2]) {
    let (server, client, neighbour) = (Sandbox::new(), Sandbox::new(), Sandbox::new());
    let servers = hosts[0].add("server", &server);
    let clients = hosts[1].add("client", &client);
    let neighbours = hosts[0].add("neighbour", &neighbour);
    for (at, others) in servers.into_iter().zip(clients.into_iter().zip(neighbours)) {
        let (client_at, neighbour_at) = others;
        let listener = server.inside(move || TcpListener::bind((at, 7000)).unwrap());
        let echo = std::thread::spawn(move || {
            for _ in 0..4 {
                answer(&listener)
            }
        });
        let at = SocketAddr::from((at, 7000));
        assert_eq!(client.inside(move || ask(at)), client_at, "from the other node's pod");
        assert_eq!(neighbour.inside(move || ask(at)), neighbour_at, "from a pod of the same node");
        for host in hosts {
            host.run(move |_| ask(at));
        }
        echo.join().unwrap();
        datagrams(&server, &client, at.ip());
    }
    for host in hosts {
        let drops = host.all_drops();
        assert!(drops.is_empty(), "{drops:?}");
    }
}

/// Sends and expects the same amount back; its own address.
fn ask(at: SocketAddr) -> IpAddr {
    let mut stream = TcpStream::connect_timeout(&at, PATIENCE).unwrap_or_else(|error| panic!("{at}: {error}"));
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.set_write_timeout(Some(PATIENCE)).unwrap();
    stream.write_all(&vec![7; BULK]).unwrap();
    let mut answer = vec![0; BULK];
    stream.read_exact(&mut answer).unwrap();
    assert!(answer.iter().all(|byte| *byte == 7));
    stream.local_addr().unwrap().ip()
}

fn answer(listener: &TcpListener) {
    let (mut stream, _) = listener.accept().unwrap();
    let mut all = vec![0; BULK];
    stream.read_exact(&mut all).unwrap();
    stream.write_all(&all).unwrap();
}

/// Datagrams of a few sizes, up to one in fragments, there and back.
fn datagrams(server: &Sandbox, client: &Sandbox, at: IpAddr) {
    let socket = server.inside(move || UdpSocket::bind((at, 7001)).unwrap());
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    let echo = std::thread::spawn(move || {
        for _ in 0..3 {
            let mut buffer = vec![0; 1 << 16];
            let (length, from) = socket.recv_from(&mut buffer).unwrap();
            socket.send_to(&buffer[..length], from).unwrap();
        }
    });
    client.inside(move || {
        let any: IpAddr = if at.is_ipv4() { [0; 4].into() } else { [0; 16].into() };
        let socket = UdpSocket::bind((any, 0)).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        for size in [1, 1300, 4000] {
            socket.send_to(&vec![9; size], (at, 7001)).unwrap();
            let mut buffer = vec![0; 1 << 16];
            let (length, from) = socket.recv_from(&mut buffer).unwrap_or_else(|error| panic!("{at} {size}: {error}"));
            assert_eq!((length, from), (size, SocketAddr::from((at, 7001))));
        }
    });
    echo.join().unwrap();
}

#[test]
fn the_nodes_talk_to_pods_under_their_gateway_addresses() {
    let gateways: [IpAddr; 2] = ["10.244.2.1".parse().unwrap(), "fd44:2::1".parse().unwrap()];
    talk_from_the_node(Routing::Overlay, gateways);
}

#[test]
fn without_tunnels_the_nodes_talk_to_pods_under_their_own_addresses() {
    talk_from_the_node(Routing::Direct, [node_v4(2).into(), node_v6(2).into()]);
}

fn talk_from_the_node(routing: Routing, sources: [IpAddr; 2]) {
    let hosts = pair(routing, |config| config);
    let server = Sandbox::new();
    for (at, source) in hosts[0].add("server", &server).into_iter().zip(sources) {
        let listener = server.inside(move || TcpListener::bind((at, 7000)).unwrap());
        let stream = hosts[1].run(move |_| TcpStream::connect_timeout(&(at, 7000).into(), PATIENCE).unwrap());
        assert_eq!(stream.local_addr().unwrap().ip(), source);
        assert_eq!(listener.accept().unwrap().1.ip(), source);
    }
}

fn verdicts(host: &Host, hook: Hook, verdict: Verdict) -> u64 {
    host.run(move |live| live.dataplane().lock().counters().unwrap()[verdict_index(hook, verdict) as usize])
}
