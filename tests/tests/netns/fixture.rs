//! A service of the kernel dataplane with its servers and clients, each in a network namespace behind a veth pair.

use std::io::Read;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use diolkos_abi::config::Config;
use diolkos_abi::counter::{Hook, Verdict, verdict_index};
use diolkos_abi::pod::Netns;
use diolkos_agent::clock::Clock;
use diolkos_agent::dataplane::Shared;
use diolkos_agent::dataplane::kernel::Kernel;
use diolkos_agent::desired::ThisNode;
use diolkos_agent::driver::Driver;
use diolkos_agent::overlay::OnLink;
use diolkos_agent::plan::QUARANTINE;
use diolkos_agent::source::Change;
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use nix::sched::{CloneFlags, unshare};
use serde_json::json;

use crate::world::{World, ifindex, ip};

const SERVICE: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::new(10, 96, 0, 10)), 80);
/// Where servers answer.
pub(crate) const PORT: u16 = 8080;
pub(crate) const SERVERS: u8 = 4;
/// The gateway's MAC, so that pods need not ask.
const HOST_MAC: &str = "02:00:00:00:00:01";

/// The service side of an agent, over the kernel.
pub(crate) struct Agent {
    pub(crate) dataplane: Shared,
    driver: Driver,
    started: Instant,
}

impl Agent {
    /// Opens the dataplane, syncs and puts the programs in place; `serving` says which servers are endpoints, by bit.
    pub(crate) fn start(world: &World, serving: u8) -> Self {
        let mut agent = Self::open(world);
        agent.sync(serving);
        agent
    }

    /// Opens the dataplane: what ran before goes on.
    pub(crate) fn open(world: &World) -> Self {
        let config = Config {
            gateway_v4: [10, 244, 1, 1],
            pod_cidr_v4: [10, 244, 1, 0],
            route_mask_v4: [255, 255, 255, 0],
            service_cidr_v4: [10, 96, 0, 0],
            service_mask_v4: [255, 255, 0, 0],
            gateway_v6: in_pod_cidr(1).octets(),
            pod_cidr_v6: in_pod_cidr(0).octets(),
            route_mask_v6: HALF,
            service_cidr_v6: SERVICES_V6.octets(),
            service_mask_v6: HALF,
            ..Config::default()
        };
        let dataplane = Shared::new(Kernel::open(&world.options(config)).unwrap_or_else(|error| panic!("{error}")));
        let this = ThisNode {
            name: "n1".into(),
            node_v4: Some([192, 0, 2, 1].into()),
            node_v6: Some("fd02::1".parse().unwrap()),
            pod_cidr_v4: Some("10.244.1.0/24".parse().unwrap()),
            pod_cidr_v6: Some(format!("{}/64", in_pod_cidr(0)).parse().unwrap()),
            service_cidrs: vec![],
            overlay_mtu: 1450,
            on_link: OnLink::default(),
            clock: Clock::calibrate(),
        };
        let driver = Driver::new(dataplane.clone(), this, QUARANTINE);
        Self { dataplane, driver, started: Instant::now() }
    }

    pub(crate) fn sync(&mut self, serving: u8) {
        self.sync_with(vec![service()], vec![slice(serving)]);
    }

    /// All there is, and the programs in place.
    pub(crate) fn sync_with(&mut self, services: Vec<Service>, slices: Vec<EndpointSlice>) {
        for change in [Change::Services(services), Change::Nodes(vec![]), Change::Slices(slices)] {
            self.driver.apply(change);
        }
        self.driver.cycle(Duration::ZERO);
        assert!(self.driver.has_synced());
        self.dataplane.lock().put_in_place().unwrap();
    }

    pub(crate) fn change(&mut self, serving: u8) {
        self.change_slices([slice(serving)]);
    }

    pub(crate) fn change_slices(&mut self, slices: impl IntoIterator<Item = EndpointSlice>) {
        slices.into_iter().for_each(|slice| self.driver.apply(Change::Slice(slice)));
        self.driver.cycle(self.started.elapsed());
        assert!(self.driver.refusals().is_empty(), "{:?}", self.driver.refusals());
    }

    pub(crate) fn attach(&self, pod: &Pod) {
        let endpoint = diolkos_abi::pod::Endpoint {
            ifindex: ifindex(&pod.host),
            mac: pod.mac,
            host_mac: [2, 0, 0, 0, 0, 1],
            ..Default::default()
        };
        let mut dataplane = self.dataplane.lock();
        for address in [diolkos_abi::address::v4_mapped(pod.address.octets()), pod.address_v6.octets()] {
            dataplane.upsert_endpoint(address, endpoint).unwrap();
        }
        dataplane.attach_pod(&pod.host, ifindex(&pod.host)).unwrap();
    }

    /// Says whose the pod's sockets are.
    pub(crate) fn know(&self, pod: &Pod, flags: u32) {
        let netns = Netns { v4: pod.address.octets(), v6: pod.address_v6.octets(), flags, ..Netns::default() };
        self.dataplane.lock().set_netns(pod.cookie, netns).unwrap();
    }

    pub(crate) fn counter(&self, hook: Hook, verdict: Verdict) -> u64 {
        self.dataplane.lock().counters().unwrap()[verdict_index(hook, verdict) as usize]
    }
}

fn service() -> Service {
    serde_json::from_value(json!({
        "metadata": { "name": "web", "namespace": "default" },
        "spec": { "clusterIP": SERVICE.ip(), "clusterIPs": [SERVICE.ip()], "ports": [{ "port": SERVICE.port() }] },
    }))
    .unwrap()
}

fn slice(serving: u8) -> EndpointSlice {
    let chosen = (0..SERVERS).filter(|n| serving & (1 << n) != 0);
    let endpoints: Vec<_> = chosen.map(|n| json!({ "addresses": [address(n)] })).collect();
    serde_json::from_value(json!({
        "metadata": { "name": "web-1", "namespace": "default", "labels": { "kubernetes.io/service-name": "web" } },
        "addressType": "IPv4", "ports": [{ "port": PORT }], "endpoints": endpoints,
    }))
    .unwrap()
}

pub(crate) fn address(n: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 244, 1, 2 + n)
}

pub(crate) fn address_v6(n: u8) -> Ipv6Addr {
    in_pod_cidr(2 + u16::from(n))
}

const fn in_pod_cidr(host: u16) -> Ipv6Addr {
    Ipv6Addr::new(0xfd00, 0x244, 1, 0, 0, 0, 0, host)
}

/// The mask of a /64.
const HALF: [u8; 16] = [255, 255, 255, 255, 255, 255, 255, 255, 0, 0, 0, 0, 0, 0, 0, 0];
pub(crate) const SERVICES_V6: Ipv6Addr = Ipv6Addr::new(0xfd96, 0, 0, 0, 0, 0, 0, 0);

/// A network namespace behind a veth pair, as the CNI server makes it. Lives as long as its last thread.
pub(crate) struct Pod {
    pub(crate) host: String,
    address: Ipv4Addr,
    address_v6: Ipv6Addr,
    mac: [u8; 6],
    cookie: u64,
    path: String,
    _end: std::sync::mpsc::Sender<()>,
}

nix::getsockopt_impl!(
    NetnsCookie,
    libc::SOL_SOCKET,
    libc::SO_NETNS_COOKIE,
    u64,
    nix::sys::socket::sockopt::GetStruct<u64>
);

#[derive(Clone, Copy)]
struct NetnsCookie;

/// That of the caller's network namespace; 0, which none has, before Linux 5.14.
pub(crate) fn netns_cookie() -> u64 {
    let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
    nix::sys::socket::getsockopt(&socket, NetnsCookie).unwrap_or_default()
}

impl Pod {
    pub(crate) fn new(n: u8) -> Self {
        let (host, address, mac) = (format!("dit{n}"), address(n), [2, 0, 0, 0, 1, n]);
        let (send, receive) = std::sync::mpsc::channel();
        let (end, ended) = std::sync::mpsc::channel::<()>();
        std::thread::spawn(move || {
            unshare(CloneFlags::CLONE_NEWNET).unwrap();
            send.send((nix::unistd::gettid(), netns_cookie())).unwrap();
            let _ended = ended.recv();
        });
        let (thread, cookie) = receive.recv().unwrap();
        let path = format!("/proc/{}/task/{thread}/ns/net", std::process::id());
        let pod_mac = format!("02:00:00:00:01:{n:02x}");
        ip(&format!("link add {host} address {HOST_MAC} type veth peer name eth0 address {pod_mac} netns {path}"));
        ip(&format!("link set {host} up"));
        ip(&format!("route add {address}/32 dev {host}"));
        ip(&format!("neigh replace {address} lladdr {pod_mac} dev {host} nud permanent"));
        let address_v6 = address_v6(n);
        ip(&format!("route add {address_v6}/128 dev {host}"));
        ip(&format!("neigh replace {address_v6} lladdr {pod_mac} dev {host} nud permanent"));
        let pod = Self { host, address, address_v6, mac, cookie, path, _end: end };
        pod.inside(move || {
            ip("link set lo up");
            ip("link set eth0 up");
            ip(&format!("addr add {address}/32 dev eth0"));
            ip(&format!("neigh replace 169.254.1.1 lladdr {HOST_MAC} dev eth0 nud permanent"));
            ip("route add default via 169.254.1.1 dev eth0 onlink");
            ip(&format!("addr add {address_v6}/128 dev eth0 nodad"));
            ip(&format!("neigh replace fe80::1 lladdr {HOST_MAC} dev eth0 nud permanent"));
            ip("-6 route add default via fe80::1 dev eth0");
        })
        .join()
        .unwrap();
        pod
    }

    /// Runs something in the pod, in a thread of its own.
    pub(crate) fn inside<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> JoinHandle<T> {
        let namespace = std::fs::File::open(&self.path).unwrap();
        std::thread::spawn(move || {
            nix::sched::setns(&namespace, CloneFlags::CLONE_NEWNET).unwrap();
            work()
        })
    }

    /// Accepts connections until the process ends, and greets each with its address; answers datagrams with it.
    pub(crate) fn serve(&self) {
        let address = self.address;
        let (send, ready) = std::sync::mpsc::channel();
        drop(self.inside(move || {
            let listener = TcpListener::bind((Ipv6Addr::UNSPECIFIED, PORT)).unwrap();
            let socket = UdpSocket::bind((Ipv6Addr::UNSPECIFIED, PORT)).unwrap();
            std::thread::spawn(move || {
                loop {
                    // An error is about an earlier answer.
                    let Ok((_, from)) = socket.recv_from(&mut [0; 16]) else { continue };
                    let _ = socket.send_to(&address.octets(), from);
                }
            });
            send.send(()).unwrap();
            for stream in listener.incoming().flatten() {
                // A client that gave up counts the failure itself.
                let _ = std::io::Write::write_all(&mut &stream, &address.octets());
            }
        }));
        ready.recv().unwrap();
    }
}

impl Pod {
    /// Keeps connections until the process ends, and answers each byte with its address.
    pub(crate) fn answer(&self) {
        let address = self.address;
        let (send, ready) = std::sync::mpsc::channel();
        drop(self.inside(move || {
            let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, PORT)).unwrap();
            send.send(()).unwrap();
            for mut stream in listener.incoming().flatten() {
                std::thread::spawn(move || {
                    while stream.read_exact(&mut [0]).is_ok() {
                        if std::io::Write::write_all(&mut stream, &address.octets()).is_err() {
                            break;
                        }
                    }
                });
            }
        }));
        ready.recv().unwrap();
    }
}

/// One long connection of a client to the service.
pub(crate) struct Talk(TcpStream);

impl Talk {
    pub(crate) fn start(pod: &Pod) -> Self {
        let connect = || TcpStream::connect_timeout(&SERVICE, Duration::from_secs(5));
        let stream = pod.inside(connect).join().unwrap().unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        Self(stream)
    }

    /// Says something, and hears which server answers.
    pub(crate) fn say(&mut self) -> std::io::Result<u8> {
        let mut answer = [0; 4];
        std::io::Write::write_all(&mut self.0, &[1])?;
        self.0.read_exact(&mut answer)?;
        (0..SERVERS).find(|n| address(*n).octets() == answer).ok_or_else(|| std::io::Error::other("a stranger answers"))
    }
}

/// Connects to the service again and again.
pub(crate) struct Client {
    stop: Arc<AtomicBool>,
    connections: Arc<AtomicU64>,
    thread: JoinHandle<Vec<String>>,
}

impl Client {
    /// `asks` whom it is connected to, and takes another answer than the service for a failure.
    pub(crate) fn start(pod: &Pod, asks: bool) -> Self {
        let (stop, connections) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let (stopped, count) = (stop.clone(), connections.clone());
        let thread = pod.inside(move || {
            let mut failed = Vec::new();
            while !stopped.load(Ordering::Relaxed) {
                failed.extend(connect(asks).err().map(|error| error.to_string()));
                count.fetch_add(1, Ordering::Relaxed);
            }
            failed
        });
        Self { stop, connections, thread }
    }

    /// At least one connection began and ended after now: the one that may be under way does not count.
    pub(crate) fn wait_for_one_more(&self) {
        let from = self.connections.load(Ordering::Relaxed);
        let deadline = Instant::now() + Duration::from_secs(30);
        while self.connections.load(Ordering::Relaxed) < from + 2 {
            assert!(Instant::now() < deadline, "the client is stuck");
            std::thread::yield_now();
        }
    }

    /// All connections, and why those that failed did.
    pub(crate) fn stop(self) -> (u64, Vec<String>) {
        self.stop.store(true, Ordering::Relaxed);
        let failed = self.thread.join().unwrap();
        (self.connections.load(Ordering::Relaxed), failed)
    }
}

/// One connection: a server greets, and the client believes that it talks to the service.
fn connect(asks: bool) -> std::io::Result<()> {
    let mut stream = TcpStream::connect_timeout(&SERVICE, Duration::from_secs(5))?;
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    let mut greeting = [0; 4];
    stream.read_exact(&mut greeting)?;
    let is_server = (0..SERVERS).any(|n| address(n).octets() == greeting);
    if is_server && (!asks || stream.peer_addr()? == SERVICE) {
        return Ok(());
    }
    Err(std::io::Error::other(format!("greeted by {greeting:?} as {:?}", stream.peer_addr())))
}
