//! A client that asks a service and, from the same port, the service's backend itself: each answer comes from whom it asked.

use std::net::{IpAddr, SocketAddr, TcpStream, UdpSocket};
use std::os::fd::{AsRawFd as _, OwnedFd};

use nix::sys::socket::{
    AddressFamily, SockFlag, SockType, SockaddrStorage, bind, connect, setsockopt, socket, sockopt,
};
use nix::sys::time::{TimeVal, TimeValLike as _};

use crate::pair::{BACKEND_PORT, HOOKED_VIPS, HOST, Namespace, OTHER_HOST, OWN, Pair, SERVED, Setup, VIPS, node, pod};
use crate::talk::{self, Place};
use crate::world::on_a_node;

/// Of clients; outside the range from which the kernel chooses.
const PORT: u16 = 20_000;

fn for_each_family(test: impl Fn(&Pair, usize)) {
    static PLACE: Place = Place::new();
    talk::for_each_family(&PLACE, Pair::new, test);
}

/// A service's port and its backend, whose place the namespace reaches.
struct Served {
    from: fn(&Pair) -> &Namespace,
    port: u16,
    backend: fn(usize) -> IpAddr,
    /// Where the client has to stand for both; anywhere when it is nothing.
    at: fn(usize) -> Option<IpAddr>,
}

const SERVICES: [Served; 5] = [
    Served { from: |pair| &pair.first.pod, port: SERVED, backend: |family| pod(2, 10)[family], at: |_| None },
    Served { from: |pair| &pair.first.pod, port: HOST, backend: |family| node(1)[family], at: |_| None },
    Served { from: |pair| &pair.first.pod, port: OTHER_HOST, backend: |family| node(2)[family], at: |_| None },
    Served { from: |pair| &pair.first.node, port: SERVED, backend: |family| pod(2, 10)[family], at: |_| None },
    Served {
        from: |pair| &pair.first.node,
        port: OWN,
        backend: |family| pod(1, 10)[family],
        at: |family| Some(pod(1, 1)[family]),
    },
];

fn any(family: usize) -> IpAddr {
    [IpAddr::from([0; 4]), IpAddr::from([0_u8; 16])][family]
}

/// A socket that is not connected.
fn open(at: IpAddr, port: u16) -> UdpSocket {
    let socket = UdpSocket::bind((at, port)).unwrap();
    socket.set_read_timeout(Some(talk::PATIENCE)).unwrap();
    socket
}

/// Asks, and is answered by whom it asked.
fn ask(socket: &UdpSocket, to: SocketAddr) {
    socket.send_to(talk::WHO, to).unwrap();
    let (_, from) = socket.recv_from(&mut [0; 128]).unwrap_or_else(|error| panic!("UDP {to}: {error}"));
    assert_eq!(from, to, "{to} was asked");
}

/// In every order: `true` asks the backend itself.
const ORDERS: [&[bool]; 3] =
    [&[false, true, true, false, false, true], &[true, false, true, false], &[true, true, false, false, true]];

#[test]
fn one_socket_asks_a_service_and_its_backend_packet_by_packet_in_turn() {
    for_each_family(|pair, family| {
        for (place, order) in SERVICES.iter().flat_map(|place| ORDERS.map(|order| (place, order))) {
            let ends = [(VIPS[family], place.port), ((place.backend)(family), BACKEND_PORT)].map(SocketAddr::from);
            (place.from)(pair).inside(|| {
                let socket = open((place.at)(family).unwrap_or(any(family)), 0);
                order.iter().for_each(|directly| ask(&socket, ends[usize::from(*directly)]));
            });
        }
    });
}

#[test]
fn a_socket_with_the_port_of_a_flow_through_a_service_asks_its_backend() {
    for_each_family(|pair, family| {
        for (at, place) in SERVICES.iter().enumerate() {
            let ends = [(VIPS[family], place.port), ((place.backend)(family), BACKEND_PORT)].map(SocketAddr::from);
            (place.from)(pair).inside(|| {
                let port = PORT + at as u16;
                ask(&open(any(family), port), ends[0]);
                let own = (place.at)(family).unwrap_or(any(family));
                ask(&open(own, port), ends[1]);
                ask(&open(any(family), port), ends[0]);
            });
        }
    });
}

#[test]
fn a_connection_from_the_port_of_one_that_ended_through_a_service_reaches_its_backend() {
    for_each_family(|pair, family| {
        for (at, place) in SERVICES.iter().enumerate() {
            let ends = [(VIPS[family], place.port), ((place.backend)(family), BACKEND_PORT)].map(SocketAddr::from);
            (place.from)(pair).inside(|| {
                let port = PORT + 100 + at as u16;
                dial(any(family), port, ends[0]);
                dial((place.at)(family).unwrap_or(any(family)), port, ends[1]);
            });
        }
    });
}

/// Opens a connection from a port that may have been used a moment ago, and is answered.
fn dial(at: IpAddr, port: u16, to: SocketAddr) {
    let family = if to.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    let socket: OwnedFd = socket(family, SockType::Stream, SockFlag::SOCK_CLOEXEC, None).unwrap();
    setsockopt(&socket, sockopt::ReuseAddr, &true).unwrap();
    // Sooner than an entry that ended is forgotten.
    setsockopt(&socket, sockopt::SendTimeout, &TimeVal::seconds(talk::PATIENCE.as_secs() as i64)).unwrap();
    bind(socket.as_raw_fd(), &SockaddrStorage::from(SocketAddr::new(at, port))).unwrap();
    connect(socket.as_raw_fd(), &SockaddrStorage::from(to)).unwrap_or_else(|error| panic!("TCP {to}: {error}"));
    talk::exchange_greeted(TcpStream::from(socket), 10_000);
}

#[test]
fn one_socket_with_the_hooks_asks_a_service_and_its_backend_in_turn() {
    on_a_node(|world| {
        let pair = Pair::with(Setup { hooked: true, ..Setup::default() });
        pair.serve();
        pair.first.hook_sockets(&world.cgroup);
        for family in [0, 1] {
            let ends = [(HOOKED_VIPS[family], SERVED), (pod(2, 10)[family], BACKEND_PORT)].map(SocketAddr::from);
            for order in ORDERS {
                pair.at_client(|| {
                    let socket = open(any(family), 0);
                    order.iter().for_each(|directly| ask(&socket, ends[usize::from(*directly)]));
                });
            }
        }
        assert_eq!(pair.first.flows(), 0, "the packet path had nothing to translate");
    });
}
