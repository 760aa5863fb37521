//! Closing the sockets of clients of backends that are gone: real sockets in two network namespaces.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::path::PathBuf;
use std::process::Command;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;

use anyhow::bail;
use diolkos_abi::address::{Address, protocol, v4_mapped};
use diolkos_abi::service::{Backend, FrontendKey, Service, backend_state, frontend_word, row_word, scope};
use diolkos_agent::dataplane::kernel::Facts;
use diolkos_agent::destroy::{Closed, Closer, KernelSockets, Space, close_dead};
use diolkos_tests::eventually;
use nix::sched::{CloneFlags, unshare};
use nix::sys::socket::getsockopt;

use crate::dataplane::Dataplane;
use crate::scenarios::world::{BASE, GENERATION, LOCAL, World};
use crate::sockets::{Cgroup, LIMIT, NetnsCookie, attached};

const PORT: u16 = 80;
/// Of the backends, which are in each namespace anew.
const BACKEND_PORT: u16 = 18_080;
/// The address of the services in each family, and that of the backends.
const V4: (IpAddr, IpAddr) = (IpAddr::V4(Ipv4Addr::new(10, 96, 0, 10)), IpAddr::V4(Ipv4Addr::LOCALHOST));
const V6: (IpAddr, IpAddr) =
    (IpAddr::V6(Ipv6Addr::new(0xfd10, 0x96, 0, 0, 0, 0, 0, 0x10)), IpAddr::V6(Ipv6Addr::LOCALHOST));

/// A TCP and a UDP service of each family, each with one backend.
fn world(state: u8) -> World {
    let mut world = World::default();
    let ports = [(V4, protocol::TCP), (V4, protocol::UDP), (V6, protocol::TCP), (V6, protocol::UDP)];
    for (at, ((vip, backend), protocol)) in ports.into_iter().enumerate() {
        let (service, base, id) = (5 + at as u32, BASE + at as u32, LOCAL + at as u32);
        let key = FrontendKey::new(address(vip), PORT.to_be_bytes(), protocol, scope::CLUSTER);
        world.frontends.push((key, frontend_word(service, key.tag(), 0)));
        world.services.push((service, Service { row: row_word(base, 1), ..Service::default() }));
        world.slots.push((base, id));
        let (address, port) = (address(backend), BACKEND_PORT.to_be_bytes());
        world
            .backends
            .push((id, Backend { address, port, state, generation: GENERATION, protocol, ..Backend::default() }));
    }
    world
}

fn address(address: IpAddr) -> Address {
    match address {
        IpAddr::V4(v4) => v4_mapped(v4.octets()),
        IpAddr::V6(v6) => v6.octets(),
    }
}

/// Clients and servers of one network namespace.
struct Clients {
    space: Space,
    /// Through the service, and directly.
    tcp: TcpStream,
    direct_tcp: TcpStream,
    udp: UdpSocket,
    direct_udp: UdpSocket,
    server: UdpSocket,
    accepted: Vec<TcpStream>,
}

impl Clients {
    /// In a new network namespace, which lives as long as the thread.
    fn new((vip, backend): (IpAddr, IpAddr)) -> Self {
        unshare(CloneFlags::CLONE_NEWNET).expect("a network namespace can be made");
        let up = Command::new("ip").args(["link", "set", "lo", "up"]).status().expect("ip can be run");
        assert!(up.success(), "lo does not come up");
        let (service, pod) = (SocketAddr::new(vip, PORT), SocketAddr::new(backend, BACKEND_PORT));
        let listener = TcpListener::bind(pod).unwrap();
        let server = UdpSocket::bind(pod).unwrap();
        let connect = |to: SocketAddr| {
            let stream = TcpStream::connect(to).unwrap();
            stream.set_read_timeout(Some(LIMIT)).unwrap();
            assert_eq!(stream.peer_addr().unwrap(), to);
            stream
        };
        let datagrams = |to: SocketAddr| {
            let socket = UdpSocket::bind((backend, 0)).unwrap();
            socket.set_read_timeout(Some(LIMIT)).unwrap();
            socket.connect(to).unwrap();
            socket
        };
        let (tcp, direct_tcp) = (connect(service), connect(pod));
        let (udp, direct_udp) = (datagrams(service), datagrams(pod));
        let accepted = (0..2).map(|_| listener.accept().unwrap().0).collect();
        let cookie = getsockopt(&udp, NetnsCookie).ok();
        let tid = nix::unistd::gettid();
        let path = Some(PathBuf::from(format!("/proc/{}/task/{tid}/ns/net", std::process::id())));
        Self { space: Space { path, cookie }, tcp, direct_tcp, udp, direct_udp, server, accepted }
    }

    /// The clients of the service are told at once, those of the pod go on.
    fn expect_closed(&mut self) {
        let error = self.tcp.read(&mut [0; 8]).expect_err("the backend is gone");
        assert_eq!(error.kind(), ErrorKind::ConnectionAborted, "{error}");
        let error = self.udp.recv(&mut [0; 8]).expect_err("the backend is gone");
        assert_eq!(error.kind(), ErrorKind::ConnectionAborted, "{error}");
        self.expect_direct();
    }

    fn expect_direct(&mut self) {
        let (mut text, mine) = ([0; 4], self.direct_tcp.local_addr().unwrap());
        let server = self.accepted.iter_mut().find(|stream| stream.peer_addr().ok() == Some(mine)).unwrap();
        server.write_all(b"more").unwrap();
        self.direct_tcp.read_exact(&mut text).unwrap();
        assert_eq!(&text, b"more");
        self.server.send_to(b"most", self.direct_udp.local_addr().unwrap()).unwrap();
        assert_eq!(self.direct_udp.recv(&mut text).unwrap(), 4);
        assert_eq!(&text, b"most");
    }
}

/// Clients in a thread of their own, which waits for the word to go on.
struct Pod {
    space: Space,
    go_on: Sender<()>,
    thread: JoinHandle<()>,
}

impl Pod {
    fn start(family: (IpAddr, IpAddr), work: impl FnOnce(Clients, Receiver<()>) + Send + 'static) -> Self {
        let (ready, is_ready) = channel();
        let (go_on, told) = channel();
        let thread = std::thread::spawn(move || {
            let clients = Clients::new(family);
            ready.send(clients.space.clone()).unwrap();
            work(clients, told);
        });
        let space = is_ready.recv_timeout(LIMIT).expect("the pod's clients connect");
        Self { space, go_on, thread }
    }
}

/// Runs a test with two pods full of clients, one of each family, in the dataplane's cgroup.
fn with_pods(work: fn(Clients, Receiver<()>), test: impl FnOnce(&mut Dataplane, KernelSockets<Spaces>)) {
    let cgroup = Cgroup::enter();
    let mut dataplane = attached(&cgroup, true);
    dataplane.fill(&world(backend_state::ALIVE), 0);
    let pods = [Pod::start(V4, work), Pod::start(V6, work)];
    let spaces: Vec<Space> = pods.iter().map(|pod| pod.space.clone()).collect();
    let spaces: Spaces = Box::new(move || spaces.clone());
    let sockets =
        KernelSockets::new(dataplane.map("SOCKET"), dataplane.map("BACKEND"), dataplane.map("UDP"), spaces).unwrap();
    test(&mut dataplane, sockets);
    for pod in pods {
        // One that has seen what it waited for has ended.
        let _ = pod.go_on.send(());
        pod.thread.join().expect("the pod's clients met what they expected");
    }
}

type Spaces = Box<dyn FnMut() -> Vec<Space> + Send>;

#[test]
fn sockets_of_living_backends_are_left_alone() {
    fn live_on(mut clients: Clients, told: Receiver<()>) {
        told.recv_timeout(LIMIT).unwrap();
        clients.expect_direct();
        assert!(clients.tcp.take_error().unwrap().is_none());
        assert!(clients.udp.take_error().unwrap().is_none());
    }
    with_pods(live_on, |_, mut sockets| {
        let (closed, errors) = close_dead(&mut sockets);
        assert!(errors.is_empty(), "{errors:?}");
        assert_eq!(closed, Closed::default());
    });
}

#[test]
fn clients_of_a_deleted_backend_are_told_at_once_and_direct_connections_live_on() {
    with_pods(
        |mut clients, told| {
            told.recv_timeout(LIMIT).unwrap();
            clients.expect_closed();
        },
        |dataplane, mut sockets| {
            assert_eq!(dataplane.connected_udps().len(), 2);
            dataplane.fill(&world(backend_state::DEAD), 0);
            let (closed, errors) = close_dead(&mut sockets);
            assert!(errors.is_empty(), "{errors:?}");
            assert_eq!(closed, Closed { tcp: 2, udp: 2, ..Closed::default() });
            // Where nobody knows whose a socket is (before Linux 5.14), the place's next owner forgets it.
            let forgotten = if Facts::of_kernel().netns_cookie { 0 } else { 2 };
            assert_eq!(dataplane.connected_udps().len(), forgotten, "closed sockets are forgotten");
            assert_eq!(close_dead(&mut sockets).0, Closed::default());
        },
    );
}

#[test]
fn a_client_that_waits_is_woken_when_its_backend_is_deleted() {
    with_pods(
        |mut clients, _| clients.expect_closed(),
        |dataplane, sockets| {
            let closer = Closer::start(sockets).unwrap();
            dataplane.fill(&world(backend_state::DEAD), 0);
            closer.look();
            let all = Closed { tcp: 2, udp: 2, ..Closed::default() };
            eventually("all clients are told", LIMIT, || {
                let closed = closer.closed();
                if closed == all { Ok(()) } else { bail!("{closed:?}") }
            })
            .unwrap();
        },
    );
}
