//! Refusals and ICMP errors as real sockets meet them, on the packet path alone: no socket hook is attached.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use crate::pair::{BACKEND_PORT, EMPTY, GONE, NODE_MTU, Pair, SERVED, UNALLOCATED, UNKNOWN, VIPS};

/// Longer than any refusal takes, shorter than any retransmission.
const SOON: Duration = Duration::from_millis(900);
const SILENCE: Duration = Duration::from_millis(300);

/// Runs a test for each family. All share one pair of nodes, one after the other: loading takes longer than testing.
fn for_each_family(test: impl Fn(&Pair, usize)) {
    static PAIR: Mutex<Option<Pair>> = Mutex::new(None);
    let mut pair = PAIR.lock().unwrap_or_else(PoisonError::into_inner);
    let pair = pair.get_or_insert_with(Pair::new);
    for family in [0, 1] {
        pair.restore();
        test(pair, family);
    }
}

/// How a TCP connection from the client's pod fails.
fn connect(pair: &Pair, to: SocketAddr, patience: Duration) -> ErrorKind {
    let outcome = pair.at_client(|| TcpStream::connect_timeout(&to, patience));
    outcome.expect_err("nobody serves there").kind()
}

/// What a connected UDP socket of the client's pod is told after it sent a datagram.
fn send(pair: &Pair, to: SocketAddr, patience: Duration) -> ErrorKind {
    pair.at_client(|| {
        let any: IpAddr = if to.is_ipv4() { [0; 4].into() } else { [0_u8; 16].into() };
        let socket = UdpSocket::bind((any, 0)).unwrap();
        socket.set_read_timeout(Some(patience)).unwrap();
        socket.connect(to).unwrap();
        socket.send(b"anybody there?").unwrap();
        socket.recv(&mut [0; 64]).expect_err("nobody serves there").kind()
    })
}

#[test]
fn a_service_without_endpoints_refuses_at_once() {
    for_each_family(|pair, family| {
        let to = SocketAddr::new(VIPS[family], EMPTY);
        assert_eq!(connect(pair, to, SOON), ErrorKind::ConnectionRefused, "TCP {to}");
        assert_eq!(send(pair, to, SOON), ErrorKind::ConnectionRefused, "UDP {to}");
    });
}

#[test]
fn an_unknown_port_of_a_service_refuses_at_once() {
    for_each_family(|pair, family| {
        let to = SocketAddr::new(VIPS[family], UNKNOWN);
        assert_eq!(connect(pair, to, SOON), ErrorKind::ConnectionRefused, "TCP {to}");
        assert_eq!(send(pair, to, SOON), ErrorKind::ConnectionRefused, "UDP {to}");
    });
}

#[test]
fn an_address_that_no_service_has_stays_silent() {
    for_each_family(|pair, family| {
        let to = SocketAddr::new(UNALLOCATED[family], EMPTY);
        assert_eq!(connect(pair, to, SILENCE), ErrorKind::TimedOut, "TCP {to}");
        assert_eq!(send(pair, to, SILENCE), ErrorKind::WouldBlock, "UDP {to}");
    });
}

#[test]
fn a_pod_that_is_gone_is_refused_by_its_node() {
    for_each_family(|pair, family| {
        let to = SocketAddr::new(GONE[family], 80);
        assert_eq!(connect(pair, to, SOON), ErrorKind::ConnectionRefused, "TCP {to}");
        assert_eq!(send(pair, to, SOON), ErrorKind::ConnectionRefused, "UDP {to}");
    });
}

#[test]
fn an_answer_survives_a_device_that_completes_its_checksum() {
    for_each_family(|pair, family| {
        // The outer packets are cut, and what is cut cannot leave its checksum to a device.
        pair.cut_what_the_second_node_sends();
        let to = SocketAddr::new(GONE[family], 80);
        let before = pair.cut_packets();
        assert_eq!(connect(pair, to, SOON), ErrorKind::ConnectionRefused, "TCP {to}");
        assert_eq!(send(pair, to, SOON), ErrorKind::ConnectionRefused, "UDP {to}");
        assert!(pair.cut_packets() >= before + 2, "nothing was cut");
    });
}

#[test]
fn an_error_about_a_translated_datagram_reaches_its_sender() {
    // The server's pod listens to no UDP port: its kernel says so, about a packet the client never sent.
    for_each_family(|pair, family| {
        let to = SocketAddr::new(VIPS[family], SERVED);
        assert_eq!(send(pair, to, SOON), ErrorKind::ConnectionRefused, "UDP {to}");
    });
}

#[test]
fn a_client_learns_the_path_mtu_through_a_service() {
    for_each_family(|pair, family| {
        pair.expect_mtu(NODE_MTU, 0);
        transfer(pair, family);
        assert_eq!(pair.learned_mtu(VIPS[family]), Some(NODE_MTU));
    });
}

#[test]
fn a_client_learns_the_mtu_of_the_servers_pod_through_service_and_overlay() {
    const POD_MTU: u16 = 1320;
    for_each_family(|pair, family| {
        pair.expect_mtu(0, POD_MTU);
        transfer(pair, family);
        assert_eq!(pair.learned_mtu(VIPS[family]), Some(POD_MTU));
    });
}

/// Sends more than a few full segments from the client's pod through the service, and sees them arrive.
fn transfer(pair: &Pair, family: usize) {
    const BYTES: usize = 200_000;
    let address = SocketAddr::new(pair.server(family), BACKEND_PORT);
    let listener = pair.at_server(|| TcpListener::bind(address).unwrap());
    let reader = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        let mut all = Vec::new();
        stream.read_to_end(&mut all).map(|_| all.len())
    });
    let to = SocketAddr::new(VIPS[family], SERVED);
    let mut stream = pair.at_client(|| TcpStream::connect_timeout(&to, SOON)).expect("the service is there");
    stream.set_write_timeout(Some(Duration::from_secs(10))).unwrap();
    stream.write_all(&vec![7; BYTES]).unwrap();
    drop(stream);
    assert_eq!(reader.join().unwrap().expect("everything arrives"), BYTES);
}
