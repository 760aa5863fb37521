//! The socket scenarios: real connections in a private cgroup and network namespace.

use std::fs;
use std::io::ErrorKind;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, TcpListener, TcpStream, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::Command;

use aya::programs::{CgroupAttachMode, CgroupSockAddr};
use diolkos_abi::address::protocol;
use diolkos_abi::config::features;
use diolkos_abi::counter::{DropReason, Hook, Verdict, drop_index, verdict_index};
use diolkos_tests::cgroup::Hierarchies;
use nix::sched::{CloneFlags, unshare};
use nix::sys::socket::getsockopt;

use crate::dataplane::Dataplane;
use crate::scenarios::packets::End;
use crate::scenarios::sockets::{SocketScenario, all};
use crate::scenarios::world;

/// A cgroup of the unified hierarchy with this process in it, until it is dropped.
struct Cgroup {
    path: PathBuf,
    home: PathBuf,
}

impl Cgroup {
    fn enter() -> Self {
        let root = Hierarchies::find().expect("cgroup2 is mounted").unified;
        let own = fs::read_to_string("/proc/self/cgroup").expect("our cgroups");
        let home = own.lines().find_map(|line| line.strip_prefix("0::/")).expect("our place in cgroup2");
        let path = root.join(format!("diolkos-kernel-{}", std::process::id()));
        fs::create_dir(&path).expect("a cgroup can be made");
        let cgroup = Self { path, home: root.join(home) };
        move_here(&cgroup.path);
        cgroup
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        move_here(&self.home);
        fs::remove_dir(&self.path).expect("the cgroup is empty");
    }
}

fn move_here(cgroup: &Path) {
    fs::write(cgroup.join("cgroup.procs"), std::process::id().to_string()).expect("a process can be moved");
}

#[derive(Clone, Copy)]
struct NetnsCookie;
nix::getsockopt_impl!(
    NetnsCookie,
    libc::SOL_SOCKET,
    libc::SO_NETNS_COOKIE,
    u64,
    nix::sys::socket::sockopt::GetStruct<u64>
);

/// What a run needs beside the dataplane.
struct Scene {
    cgroup: Cgroup,
    /// The backend of the scenarios.
    backend: TcpListener,
    /// An address that is no service.
    direct: TcpListener,
    netns_cookie: u64,
}

/// A thread of its own, because its network namespace is one of its own.
#[test]
fn every_socket_scenario_holds_in_the_kernel() {
    std::thread::spawn(run_all).join().expect("the scenarios hold");
}

fn run_all() {
    unshare(CloneFlags::CLONE_NEWNET).expect("a network namespace can be made");
    let up = Command::new("ip").args(["link", "set", "lo", "up"]).status().expect("ip can be run");
    assert!(up.success(), "lo does not come up");
    let backend = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let direct = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let netns_cookie = getsockopt(&backend, NetnsCookie).expect("SO_NETNS_COOKIE (Linux 5.14)");
    let scenarios = all(v4(backend.local_addr().unwrap()), v4(direct.local_addr().unwrap()));
    let scene = Scene { cgroup: Cgroup::enter(), backend, direct, netns_cookie };
    for set_retval in [true, false] {
        let mut dataplane = attached(&scene.cgroup, set_retval);
        for scenario in scenarios.iter().filter(|scenario| scenario.set_retval == set_retval) {
            check(&scene, &mut dataplane, scenario);
        }
    }
}

/// A dataplane whose socket hooks see the cgroup's sockets, until it is dropped.
fn attached(cgroup: &Cgroup, set_retval: bool) -> Dataplane {
    let mut config = world::config();
    if !set_retval {
        config.features &= !features::SET_RETVAL;
    }
    let mut dataplane = Dataplane::load(&config, 1024);
    let directory = fs::File::open(&cgroup.path).unwrap();
    for name in ["connect4", "getpeername4"] {
        let program: &mut CgroupSockAddr = dataplane.ebpf.program_mut(name).unwrap().try_into().unwrap();
        program.attach(&directory, CgroupAttachMode::Single).expect("a socket hook can be attached");
    }
    dataplane
}

fn check(scene: &Scene, dataplane: &mut Dataplane, scenario: &SocketScenario) {
    let name = scenario.name;
    dataplane.fill(&scenario.world, scene.netns_cookie);
    let before = dataplane.counters();
    let connected = connect(scenario);
    expect_one_more(name, dataplane, &before, connect_counter(scenario.outcome));
    match (connected, scenario.outcome) {
        (Err(error), Err(_)) => assert_eq!(error, ErrorKind::ConnectionRefused, "{name}"),
        // Nobody lives at the service's address: the stack has no way there.
        (Err(error), Ok(_)) => {
            assert_eq!((error, scenario.reaches), (ErrorKind::NetworkUnreachable, world::VIP), "{name}")
        }
        (Ok(stream), _) => check_stream(scene, dataplane, scenario, &stream),
    }
    dataplane.clear(&scenario.world, scene.netns_cookie);
    assert_eq!(dataplane.left_over(), 0, "{name}: teardown");
}

fn connect(scenario: &SocketScenario) -> Result<TcpStream, ErrorKind> {
    let (address, port) = scenario.dials;
    let address = SocketAddrV4::new(address.into(), port);
    if scenario.protocol == protocol::UDP {
        let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).unwrap();
        return Err(socket.connect(address).expect_err("there is no way to the service's address").kind());
    }
    TcpStream::connect(address).map_err(|error| error.kind())
}

/// The connection is where it shall be, and says what it shall say.
fn check_stream(scene: &Scene, dataplane: &Dataplane, scenario: &SocketScenario, stream: &TcpStream) {
    let name = scenario.name;
    let backend = end(scene.backend.local_addr().unwrap());
    let listener = if scenario.reaches == backend { &scene.backend } else { &scene.direct };
    assert_eq!(end(listener.local_addr().unwrap()), scenario.reaches, "{name}: reaches");
    let (_, client) = listener.accept().unwrap();
    assert_eq!(client, stream.local_addr().unwrap(), "{name}: another connection was accepted");
    let before = dataplane.counters();
    assert_eq!(end(stream.peer_addr().unwrap()), scenario.peer, "{name}: getpeername");
    let verdict = if scenario.remembers.is_some() { Verdict::Translated } else { Verdict::Untouched };
    expect_one_more(name, dataplane, &before, verdict_index(Hook::GetPeerName, verdict));
    assert_eq!(dataplane.socket.get(stream, 0).ok(), scenario.remembers, "{name}: remembers");
}

fn connect_counter(outcome: Result<Verdict, DropReason>) -> u32 {
    match outcome {
        Ok(verdict) => verdict_index(Hook::Connect, verdict),
        Err(reason) => drop_index(Hook::Connect, reason),
    }
}

/// One counter moved, by one.
fn expect_one_more(name: &str, dataplane: &Dataplane, before: &[u64], counter: u32) {
    for (index, (after, before)) in dataplane.counters().iter().zip(before).enumerate() {
        assert_eq!(after - before, u64::from(index == counter as usize), "{name}: counter {index}, expected {counter}");
    }
}

fn v4(address: SocketAddr) -> SocketAddrV4 {
    match address {
        SocketAddr::V4(address) => address,
        SocketAddr::V6(address) => panic!("{address} is not IPv4"),
    }
}

fn end(address: SocketAddr) -> End {
    let address = v4(address);
    (address.ip().octets(), address.port())
}
