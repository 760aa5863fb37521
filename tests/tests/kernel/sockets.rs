//! The socket scenarios: real connections in a private cgroup and network namespace.

use std::cell::Cell;
use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use aya::programs::{CgroupAttachMode, CgroupSockAddr};
use diolkos_abi::address::{protocol, v4_mapped, v4_of};
use diolkos_abi::config::features;
use diolkos_abi::counter::{DropReason, Hook, Verdict, drop_index, verdict_index};
use diolkos_agent::dataplane::kernel::Facts;
use diolkos_tests::cgroup::Hierarchies;
use nix::errno::Errno;
use nix::sched::{CloneFlags, unshare};
use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockType, SockaddrStorage, connect, getpeername, getsockopt, recvfrom, send,
    sendto, setsockopt, socket, sockopt,
};
use nix::sys::time::{TimeVal, TimeValLike as _};

use crate::dataplane::{Dataplane, possible};
use crate::scenarios::sockets::{self, Family, Offered, Peer, SocketScenario, Step, all};

/// A cgroup of the unified hierarchy with this process in it, until it is dropped.
pub struct Cgroup {
    path: PathBuf,
    home: PathBuf,
    _turn: MutexGuard<'static, ()>,
}

/// One test at a time: the whole process is in the cgroup.
static TURN: Mutex<()> = Mutex::new(());

impl Cgroup {
    pub fn enter() -> Self {
        let turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
        let root = Hierarchies::find().expect("cgroup2 is mounted").unified;
        let own = fs::read_to_string("/proc/self/cgroup").expect("our cgroups");
        let home = own.lines().find_map(|line| line.strip_prefix("0::/")).expect("our place in cgroup2");
        let path = root.join(format!("diolkos-kernel-{}", std::process::id()));
        fs::create_dir(&path).expect("a cgroup can be made");
        let cgroup = Self { path, home: root.join(home), _turn: turn };
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
pub struct NetnsCookie;
nix::getsockopt_impl!(NetnsCookie, libc::SOL_SOCKET, libc::SO_NETNS_COOKIE, u64, sockopt::GetStruct<u64>);

#[derive(Clone, Copy)]
struct Cookie;
nix::getsockopt_impl!(Cookie, libc::SOL_SOCKET, libc::SO_COOKIE, u64, sockopt::GetStruct<u64>);

/// What a run needs beside the dataplane.
struct Scene {
    cgroup: Cgroup,
    v4: Vec<Server>,
    v6: Vec<Server>,
    netns_cookie: u64,
}

/// One address and port, for both protocols.
struct Server {
    address: SocketAddr,
    tcp: TcpListener,
    udp: UdpSocket,
    /// Who sent the last datagram.
    client: Cell<Option<SocketAddr>>,
}

impl Server {
    fn new(address: IpAddr) -> Self {
        let tcp = TcpListener::bind((address, 0)).unwrap();
        let address = tcp.local_addr().unwrap();
        let udp = UdpSocket::bind(address).unwrap();
        udp.set_read_timeout(Some(LIMIT)).unwrap();
        Self { address, tcp, udp, client: Cell::new(None) }
    }

    /// The next datagram is the one with this text.
    fn expect_datagram(&self, name: &str, text: &str) {
        let mut bytes = [0; 512];
        let (length, client) = self.udp.recv_from(&mut bytes).unwrap_or_else(|error| panic!("{name}: {error}"));
        assert_eq!(str::from_utf8(&bytes[..length]), Ok(text), "{name}: another datagram came");
        self.client.set(Some(client));
    }
}

pub const LIMIT: Duration = Duration::from_secs(5);

/// A thread of its own, because its network namespace is one of its own.
#[test]
fn every_socket_scenario_holds_in_the_kernel() {
    std::thread::spawn(run_all).join().expect("the scenarios hold");
}

fn run_all() {
    unshare(CloneFlags::CLONE_NEWNET).expect("a network namespace can be made");
    let up = Command::new("ip").args(["link", "set", "lo", "up"]).status().expect("ip can be run");
    assert!(up.success(), "lo does not come up");
    let servers = |address: IpAddr| -> Vec<Server> { (0..3).map(|_| Server::new(address)).collect() };
    let (v4, v6) = (servers(Ipv4Addr::LOCALHOST.into()), servers(Ipv6Addr::LOCALHOST.into()));
    let netns_cookie = getsockopt(&v4[0].udp, NetnsCookie).ok();
    assert_eq!(netns_cookie.is_some(), Facts::of_kernel().netns_cookie, "what `diolkos check` says of this kernel");
    let peers = |servers: &[Server]| -> [Peer; 3] { std::array::from_fn(|at| peer(servers[at].address)) };
    let scenarios = all(peers(&v4), peers(&v6));
    let scene = Scene { cgroup: Cgroup::enter(), v4, v6, netns_cookie: netns_cookie.unwrap_or_default() };
    // What this kernel lacks is done in another way, which every kernel can do.
    let offered = Offered { set_retval: possible() & features::SET_RETVAL != 0, netns_cookie: netns_cookie.is_some() };
    let kernels = Offered::ALL
        .into_iter()
        .filter(|kernel| (offered.set_retval || !kernel.set_retval) && (offered.netns_cookie || !kernel.netns_cookie));
    for kernel in kernels {
        let mut dataplane = attached(&scene.cgroup, kernel.set_retval);
        scenarios.iter().for_each(|scenario| check(&scene, &mut dataplane, &scenario.on(kernel)));
        println!("{} scenarios hold with {kernel:?}", scenarios.len());
    }
}

/// A dataplane whose socket hooks see the cgroup's sockets, until it is dropped.
pub fn attached(cgroup: &Cgroup, set_retval: bool) -> Dataplane {
    let mut dataplane = Dataplane::load(&sockets::config(set_retval), 1024);
    let directory = fs::File::open(&cgroup.path).unwrap();
    for name in ["connect", "sendmsg", "recvmsg", "getpeername"]
        .iter()
        .flat_map(|name| [format!("{name}4"), format!("{name}6")])
    {
        let program: &mut CgroupSockAddr = dataplane.ebpf.program_mut(&name).unwrap().try_into().unwrap();
        program.attach(&directory, CgroupAttachMode::Single).expect("a socket hook can be attached");
    }
    dataplane
}

/// A scenario on its way.
struct Run<'a> {
    scene: &'a Scene,
    scenario: &'a SocketScenario,
    socket: OwnedFd,
    /// Accepted connections, which would be reset if they were dropped.
    accepted: Vec<TcpStream>,
}

fn check(scene: &Scene, dataplane: &mut Dataplane, scenario: &SocketScenario) {
    let name = &scenario.name;
    dataplane.fill(&scenario.world, scene.netns_cookie);
    let mut run = Run { scene, scenario, socket: client(scenario), accepted: Vec::new() };
    let cookie = getsockopt(&run.socket, Cookie).unwrap();
    for (at, step) in scenario.steps.iter().enumerate() {
        run.step(&format!("{name}: step {at}: {step:?}"), dataplane, step);
    }
    assert_eq!(dataplane.socket.get(&run.socket, 0).ok(), scenario.remembers, "{name}: remembers");
    assert_eq!(dataplane.take_udp(cookie), scenario.connected_udp, "{name}: connected UDP");
    assert_eq!(dataplane.peer.keys().count(), scenario.peers, "{name}: peers");
    dataplane.clear(&scenario.world, scene.netns_cookie);
    assert_eq!(dataplane.left_over(), 0, "{name}: teardown");
}

fn client(scenario: &SocketScenario) -> OwnedFd {
    let family = if scenario.family == Family::V4 { AddressFamily::Inet } else { AddressFamily::Inet6 };
    let kind = if scenario.protocol == protocol::TCP { SockType::Stream } else { SockType::Datagram };
    let client = socket(family, kind, SockFlag::SOCK_CLOEXEC, None).unwrap();
    setsockopt(&client, sockopt::ReceiveTimeout, &TimeVal::seconds(LIMIT.as_secs() as i64)).unwrap();
    client
}

impl Run<'_> {
    fn step(&mut self, name: &str, dataplane: &mut Dataplane, step: &Step) {
        let before = dataplane.counters();
        match step {
            Step::Connect { to, outcome, reaches, peer } => {
                let result = connect(self.socket.as_raw_fd(), &self.address(*to));
                expect_one_more(name, dataplane, &before, counter(Hook::Connect, *outcome));
                self.expect_result(name, result, *outcome, *reaches);
                let Some(reaches) = reaches else { return };
                if self.scenario.protocol == protocol::TCP {
                    let (stream, _) = self.server(*reaches).tcp.accept().unwrap();
                    self.accepted.push(stream);
                }
                let before = dataplane.counters();
                let said: SockaddrStorage = getpeername(self.socket.as_raw_fd()).unwrap();
                expect_one_more(name, dataplane, &before, counter(Hook::GetPeerName, *outcome));
                assert_eq!(end(&said), *peer, "{name}: getpeername");
            }
            Step::Push { reaches } => {
                send(self.socket.as_raw_fd(), name.as_bytes(), MsgFlags::empty()).unwrap();
                if self.scenario.family == Family::Mapped {
                    // The kernel names the destination again when it hands the datagram to its IPv4 side.
                    expect_one_more(name, dataplane, &before, verdict_index(Hook::SendMsg, Verdict::Untouched));
                } else {
                    assert!(dataplane.counters() == before, "{name}: a connected socket met a hook again");
                }
                self.server(*reaches).expect_datagram(name, name);
            }
            Step::Send { to, outcome, reaches } => {
                let to = self.address(*to);
                let result = sendto(self.socket.as_raw_fd(), name.as_bytes(), &to, MsgFlags::empty());
                expect_one_more(name, dataplane, &before, counter(Hook::SendMsg, *outcome));
                self.expect_result(name, result.map(|_| ()), *outcome, *reaches);
                if let Some(reaches) = reaches {
                    self.server(*reaches).expect_datagram(name, name);
                }
            }
            Step::Answer { from, seems } => self.answer(name, dataplane, *from, *seems),
            Step::Disconnect => disconnect(&self.socket).unwrap_or_else(|error| panic!("{name}: {error}")),
            Step::Changes(world) => dataplane.fill(world, self.scene.netns_cookie),
        }
    }

    fn answer(&self, name: &str, dataplane: &Dataplane, from: usize, seems: Peer) {
        let server = self.server(from);
        server.udp.send_to(name.as_bytes(), server.client.get().expect("nobody to answer")).unwrap();
        let before = dataplane.counters();
        let mut bytes = [0; 512];
        let (length, source) = recvfrom::<SockaddrStorage>(self.socket.as_raw_fd(), &mut bytes)
            .unwrap_or_else(|error| panic!("{name}: {error}"));
        assert_eq!(str::from_utf8(&bytes[..length]), Ok(name), "{name}: another datagram came");
        assert_eq!(end(&source.unwrap()), seems, "{name}: its source");
        let translated = seems != self.scenario.servers[from];
        let verdict = if translated { Verdict::Translated } else { Verdict::Untouched };
        expect_one_more(name, dataplane, &before, counter(Hook::RecvMsg, Ok(verdict)));
    }

    /// The system call did what the program said. Nobody lives at a service's address: the stack has no way there.
    fn expect_result(
        &self,
        name: &str,
        result: nix::Result<()>,
        outcome: Result<Verdict, DropReason>,
        reaches: Option<usize>,
    ) {
        let expected = match (outcome, reaches) {
            (Err(_), _) => Err(Errno::ECONNREFUSED),
            (Ok(_), None) => Err(Errno::ENETUNREACH),
            (Ok(_), Some(_)) => Ok(()),
        };
        assert_eq!(result, expected, "{name}");
    }

    fn server(&self, index: usize) -> &Server {
        let servers = if self.scenario.family == Family::V6 { &self.scene.v6 } else { &self.scene.v4 };
        &servers[index]
    }

    /// As the socket's family names it.
    fn address(&self, (address, port): Peer) -> SockaddrStorage {
        match self.scenario.family {
            Family::V4 => SocketAddr::from((Ipv4Addr::from(v4_of(&address)), port)).into(),
            Family::V6 | Family::Mapped => SocketAddr::from((Ipv6Addr::from(address), port)).into(),
        }
    }
}

/// connect() to no family at all, for which nix has no address.
#[allow(unsafe_code)]
fn disconnect(socket: &OwnedFd) -> nix::Result<()> {
    let nobody = libc::sockaddr { sa_family: libc::AF_UNSPEC as u16, sa_data: [0; 14] };
    let length = size_of::<libc::sockaddr>() as libc::socklen_t;
    // SAFETY: the address is valid for its length during the call.
    Errno::result(unsafe { libc::connect(socket.as_raw_fd(), &raw const nobody, length) }).map(drop)
}

fn counter(hook: Hook, outcome: Result<Verdict, DropReason>) -> u32 {
    match outcome {
        Ok(verdict) => verdict_index(hook, verdict),
        Err(reason) => drop_index(hook, reason),
    }
}

/// One counter moved, by one.
fn expect_one_more(name: &str, dataplane: &Dataplane, before: &[u64], counter: u32) {
    for (index, (after, before)) in dataplane.counters().iter().zip(before).enumerate() {
        assert_eq!(after - before, u64::from(index == counter as usize), "{name}: counter {index}, expected {counter}");
    }
}

fn peer(address: SocketAddr) -> Peer {
    match address {
        SocketAddr::V4(v4) => (v4_mapped(v4.ip().octets()), v4.port()),
        SocketAddr::V6(v6) => (v6.ip().octets(), v6.port()),
    }
}

fn end(address: &SockaddrStorage) -> Peer {
    match (address.as_sockaddr_in(), address.as_sockaddr_in6()) {
        (Some(v4), _) => peer(SocketAddr::V4((*v4).into())),
        (_, Some(v6)) => peer(SocketAddr::V6((*v6).into())),
        _ => panic!("{address:?} is of no family of ours"),
    }
}
