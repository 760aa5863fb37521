//! Pods and what is no part of the cluster: it has no route to them, and sees them under their node's address.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{IpAddr, SocketAddr, TcpStream, UdpSocket};

use diolkos_abi::counter::{DropReason, Hook, Verdict};
use diolkos_tests::eventually;
use nix::sys::socket::{AddressFamily, SockFlag, SockProtocol, SockType, socket};

use crate::pair::{
    BACKEND_PORT, BEYOND, FAR, HOST, NARROW, NATIVE, OTHER_HOST, OUTSIDE, PORTS_FIRST, Pair, Setup, UPLINK_MAC, VIPS,
    node, pod,
};
use crate::talk::{self, Place};
use crate::world::ip;

fn for_each_family(test: impl Fn(&Pair, usize)) {
    static PLACE: Place = Place::new();
    let make = || Pair::with(Setup { outside: true, ..Setup::default() });
    talk::for_each_family(&PLACE, make, test);
}

/// The node's address, with a port that only masqueraded packets have.
fn assert_masqueraded(seen: SocketAddr, family: usize) {
    assert_eq!(seen.ip(), node(1)[family]);
    assert!(seen.port() >= PORTS_FIRST, "{seen}");
}

#[test]
fn the_outside_sees_a_pod_under_its_nodes_address_and_answers_it() {
    for_each_family(|pair, family| {
        for to in [OUTSIDE, BEYOND].map(|addresses| SocketAddr::new(addresses[family], BACKEND_PORT)) {
            pair.at_client(|| {
                let (stream, seen) = talk::connect(to);
                assert_masqueraded(seen, family);
                talk::exchange(stream, 1 << 20);
                assert_masqueraded(talk::ask(to), family);
            });
        }
    });
}

/// Sees every segment that a namespace receives.
fn segments(family: usize) -> UdpSocket {
    let of = [AddressFamily::Inet, AddressFamily::Inet6][family];
    let socket: UdpSocket = socket(of, SockType::Raw, SockFlag::empty(), SockProtocol::Tcp).unwrap().into();
    socket.set_nonblocking(true).unwrap();
    socket
}

#[test]
fn a_connection_to_the_outside_that_was_forgotten_is_reset_and_shows_nobody_the_pods_address() {
    for_each_family(|pair, family| {
        let to = SocketAddr::new(OUTSIDE[family], BACKEND_PORT);
        let seen_outside = pair.outside[0].inside(|| segments(family));
        let (mut stream, seen) = pair.at_client(|| talk::connect(to));
        let before = pair.first.drops(Hook::ToNetdev, DropReason::ConnectionUnknown);
        pair.first.forget(seen.port());
        stream.write_all(b"anybody there?").unwrap();
        let error = stream.read(&mut [0; 64]).expect_err("nobody knows the connection");
        assert_eq!(error.kind(), ErrorKind::ConnectionReset, "{to}");
        assert!(pair.first.drops(Hook::ToNetdev, DropReason::ConnectionUnknown) > before);
        let mut senders = Vec::new();
        while let Ok((_, from)) = seen_outside.recv_from(&mut [0; 64]) {
            senders.push(from.ip());
        }
        assert!(senders.contains(&node(1)[family]), "the connection was seen: {senders:?}");
        assert!(!senders.contains(&pod(1, 10)[family]), "{senders:?}");
    });
}

#[test]
fn the_outside_that_knows_the_way_reaches_a_pod_under_its_own_address() {
    for_each_family(|pair, family| {
        let to = SocketAddr::new(pod(1, 10)[family], BACKEND_PORT);
        pair.outside[0].inside(|| {
            ip(&format!("route replace {} dev uplink src {}", to.ip(), OUTSIDE[family]));
            ip(&format!("neigh replace {} lladdr {UPLINK_MAC} nud permanent dev uplink", to.ip()));
            let (stream, seen) = talk::connect(to);
            assert_eq!(seen.ip(), OUTSIDE[family]);
            talk::exchange(stream, 1 << 20);
            let refused = TcpStream::connect_timeout(&SocketAddr::new(to.ip(), 9), talk::PATIENCE);
            assert_eq!(refused.expect_err("nobody serves there").kind(), ErrorKind::ConnectionRefused, "{to}");
            ip(&format!("route del {} dev uplink", to.ip()));
        });
    });
}

#[test]
fn a_process_of_another_node_under_the_nodes_own_address_is_answered_by_a_pod() {
    for_each_family(|pair, family| {
        let (own, to) = (node(2)[family], SocketAddr::new(pod(1, 10)[family], BACKEND_PORT));
        pair.second.node.inside(|| {
            let socket = UdpSocket::bind((own, 0)).unwrap();
            socket.set_read_timeout(Some(talk::PATIENCE)).unwrap();
            for _ in 0..3 {
                socket.send_to(talk::WHO, to).unwrap();
                let (_, from) = socket.recv_from(&mut [0; 128]).unwrap_or_else(|error| panic!("UDP {to}: {error}"));
                assert_eq!(from, to);
            }
        });
    });
}

#[test]
fn two_thousand_connections_in_a_row_reach_the_outside() {
    for_each_family(|pair, family| {
        let to = SocketAddr::new(OUTSIDE[family], BACKEND_PORT);
        pair.at_client(|| (0..2000).for_each(|_| assert_masqueraded(talk::connect(to).1, family)));
    });
}

#[test]
fn datagrams_in_fragments_reach_the_outside_and_come_back() {
    for_each_family(|pair, family| {
        for to in [OUTSIDE, BEYOND].map(|addresses| SocketAddr::new(addresses[family], BACKEND_PORT)) {
            let outcome = pair.at_client(|| talk::echoed(to, 5000));
            outcome.unwrap_or_else(|error| panic!("{to}: {error}"));
        }
    });
}

#[test]
fn a_pod_pings_the_outside() {
    for_each_family(|pair, family| {
        let before = pair.first.verdicts(Hook::ToNetdev, Verdict::Masqueraded);
        pair.at_client(|| ping(OUTSIDE[family]));
        assert!(pair.first.verdicts(Hook::ToNetdev, Verdict::Masqueraded) > before);
    });
}

/// A socket that pings an address.
fn pings(to: IpAddr) -> UdpSocket {
    std::fs::write("/proc/sys/net/ipv4/ping_group_range", "0 0").unwrap();
    let (family, protocol) = match to {
        IpAddr::V4(_) => (AddressFamily::Inet, SockProtocol::Icmp),
        IpAddr::V6(_) => (AddressFamily::Inet6, SockProtocol::IcmpV6),
    };
    let socket: UdpSocket = socket(family, SockType::Datagram, SockFlag::empty(), protocol).unwrap().into();
    socket.set_read_timeout(Some(talk::PATIENCE)).unwrap();
    socket.connect((to, 0)).unwrap();
    socket
}

fn echo_message(to: IpAddr, sequence: u8, payload: usize) -> Vec<u8> {
    let kind = if to.is_ipv4() { 8 } else { 128 };
    [&[kind, 0, 0, 0, 0, 0, 0, sequence][..], &vec![b'x'; payload]].concat()
}

/// Three echo messages, and their replies.
fn ping(to: IpAddr) {
    let socket = pings(to);
    for sequence in 1..4 {
        let message = echo_message(to, sequence, 56);
        socket.send(&message).unwrap();
        let mut reply = [0; 128];
        let length = socket.recv(&mut reply).unwrap_or_else(|error| panic!("ping {to}: {error}"));
        assert_eq!((length, reply[0]), (message.len(), if to.is_ipv4() { 0 } else { 129 }));
        assert_eq!(reply[6..length], message[6..]);
    }
}

#[test]
fn an_error_of_the_outside_reaches_the_pod() {
    const NOBODY: u16 = 9;
    for_each_family(|pair, family| {
        for to in [OUTSIDE, BEYOND].map(|addresses| SocketAddr::new(addresses[family], NOBODY)) {
            let told = pair.at_client(|| {
                let socket = talk::datagrams(to);
                socket.send(talk::WHO).unwrap();
                socket.recv(&mut [0; 8]).expect_err("nobody serves there").kind()
            });
            assert_eq!(told, ErrorKind::ConnectionRefused, "{to}");
        }
    });
}

#[test]
fn a_pod_learns_the_mtu_of_a_way_outside() {
    for_each_family(|pair, family| {
        let to = SocketAddr::new(BEYOND[family], BACKEND_PORT);
        // TCP would tell the other side's device at once. What comes first is lost, what comes then is cut here.
        let socket = pair.at_client(|| talk::datagrams(to));
        socket.send(&[0; 1400]).unwrap();
        eventually("the pod learns", talk::PATIENCE, || {
            anyhow::ensure!(pair.learned_mtu(BEYOND[family]) == Some(NARROW));
            Ok(())
        })
        .unwrap();
        pair.at_client(|| talk::echoed(to, 1400)).unwrap_or_else(|error| panic!("{to}: {error}"));
    });
}

#[test]
fn a_pod_learns_the_mtu_of_a_way_outside_by_ping() {
    for_each_family(|pair, family| {
        pair.restore();
        assert_ne!(pair.learned_mtu(BEYOND[family]), Some(NARROW));
        let socket = pair.at_client(|| pings(BEYOND[family]));
        socket.send(&echo_message(BEYOND[family], 1, 1400)).unwrap();
        eventually("the pod learns", talk::PATIENCE, || {
            anyhow::ensure!(pair.learned_mtu(BEYOND[family]) == Some(NARROW));
            Ok(())
        })
        .unwrap();
    });
}

#[test]
fn a_service_whose_backend_is_outside_answers_pods_and_the_node() {
    for_each_family(|pair, family| {
        let to = SocketAddr::new(VIPS[family], FAR);
        for from in [&pair.first.pod, &pair.first.node] {
            from.inside(|| {
                let (stream, seen) = talk::connect(to);
                assert_masqueraded(seen, family);
                talk::exchange(stream, 1 << 20);
                assert_masqueraded(talk::ask(to), family);
                talk::echoed(to, 5000).unwrap_or_else(|error| panic!("{to}: {error}"));
            });
        }
    });
}

#[test]
fn networks_that_know_pods_and_pods_of_other_nodes_see_a_pods_own_address() {
    for_each_family(|pair, family| {
        let own = pod(1, 10)[family];
        let other = SocketAddr::new(pair.server(family), BACKEND_PORT);
        let seen = pair.at_client(|| talk::connect(other).1);
        assert_eq!(seen.ip(), own);
        // It has no way back to the pod: what it sees is enough.
        let at = SocketAddr::new(NATIVE[family], BACKEND_PORT + 1);
        let socket = pair.outside[0].inside(|| UdpSocket::bind(at).unwrap());
        socket.set_read_timeout(Some(talk::PATIENCE)).unwrap();
        pair.at_client(|| talk::datagrams(at).send(talk::WHO).unwrap());
        assert_eq!(socket.recv_from(&mut [0; 8]).expect("a datagram").1.ip(), own);
    });
}

#[test]
fn beside_an_overlay_another_node_sees_a_pod_under_its_nodes_address() {
    for_each_family(|pair, family| {
        let to = SocketAddr::new(node(2)[family], BACKEND_PORT);
        let seen = pair.at_client(|| [talk::connect(to).1, talk::ask(to)]);
        seen.into_iter().for_each(|seen| assert_masqueraded(seen, family));
    });
}

#[test]
fn pods_reach_a_service_on_the_host_network_of_either_node() {
    for_each_family(|pair, family| {
        for port in [HOST, OTHER_HOST] {
            let to = SocketAddr::new(VIPS[family], port);
            pair.at_client(|| {
                talk::exchange(talk::connect(to).0, 1 << 20);
                talk::ask(to);
                talk::echoed(to, 5000).unwrap_or_else(|error| panic!("{to}: {error}"));
            });
        }
    });
}
