//! Nodes with the real programs, one link between them: each is a thread in namespaces of its own, and is told what to
//! do there.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;

use diolkos_abi::address::v4_mapped;
use diolkos_abi::config::{Config, features};
use diolkos_abi::counter::{DropReason, Hook, drop_index};
use diolkos_abi::pod::{self, Route, RouteKey, zone};
use diolkos_agent::Routing;
use diolkos_agent::dataplane::Shared;
use diolkos_agent::dataplane::kernel::{Kernel, KernelOptions};
use diolkos_agent::overlay::{Overlay, OverlayConfig, RemoteCidr, overlay_mac};
use diolkos_agent::pods::{Pods, REST};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};

use crate::world::{Node, Sandbox, addresses, ip, network};

pub(crate) const VNI: u32 = 1;

/// What is said of nodes 1, 2 and so on: each has its own digit.
pub(crate) fn node_v4(n: u8) -> Ipv4Addr {
    Ipv4Addr::new(192, 0, 2, n)
}

pub(crate) fn node_v6(n: u8) -> Ipv6Addr {
    Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, n.into())
}

pub(crate) fn config(n: u8, routing: Routing) -> OverlayConfig {
    OverlayConfig {
        node_v4: Some(node_v4(n)),
        node_v6: Some(node_v6(n)),
        pod_cidr_v4: Some(format!("10.244.{n}.0/24").parse().unwrap()),
        pod_cidr_v6: Some(format!("fd44:{n}::/64").parse().unwrap()),
        port: 4789,
        routing,
    }
}

/// The load-time constants of a node.
pub(crate) fn constants(config: &OverlayConfig, overlay: &Overlay) -> Config {
    let (v4, v6) = (config.pod_cidr_v4.unwrap(), config.pod_cidr_v6.unwrap());
    Config {
        overlay_ifindex: overlay.ifindex,
        vni: VNI,
        overlay_mac: overlay.mac,
        overlay_mtu: overlay.mtu.try_into().unwrap(),
        gateway_v4: overlay.gateway_v4.map_or([0; 4], |address| address.octets()),
        route_mask_v4: v4.mask().octets(),
        pod_cidr_v4: v4.network().octets(),
        service_cidr_v4: [10, 96, 0, 0],
        service_mask_v4: [255, 255, 0, 0],
        node_v4: config.node_v4.map_or([0; 4], |address| address.octets()),
        gateway_v6: overlay.gateway_v6.map_or([0; 16], |address| address.octets()),
        route_mask_v6: v6.mask().octets(),
        pod_cidr_v6: v6.network().octets(),
        service_cidr_v6: "fd96::".parse::<Ipv6Addr>().unwrap().octets(),
        service_mask_v6: "ffff:ffff:ffff:ffff:ffff:ffff:ffff:0".parse::<Ipv6Addr>().unwrap().octets(),
        node_v6: config.node_v6.map_or([0; 16], |address| address.octets()),
        features: if config.routing == Routing::Direct { features::DIRECT_ROUTING } else { 0 },
        ..Config::EMPTY
    }
}

type Job = Box<dyn FnOnce(&mut Live) + Send>;

/// A node. Ends with its namespaces when dropped.
pub(crate) struct Host {
    n: u8,
    netns: String,
    jobs: Option<Sender<Job>>,
    thread: Option<JoinHandle<()>>,
}

/// What a node's thread holds.
pub(crate) struct Live {
    runtime: tokio::runtime::Runtime,
    machine: Machine,
    agent: Option<(Overlay, OverlayConfig, Node)>,
}

impl Host {
    fn new(n: u8) -> Self {
        let (send_path, path) = channel();
        let (jobs, queue): (Sender<Job>, Receiver<Job>) = channel();
        let thread = std::thread::spawn(move || {
            unshare(CloneFlags::CLONE_NEWNET).expect("this test needs root: it makes network namespaces");
            let machine = Machine::new();
            ip("link set lo up");
            send_path.send(format!("/proc/{}/task/{}/ns/net", std::process::id(), nix::unistd::gettid())).unwrap();
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            let mut live = Live { runtime, machine, agent: None };
            queue.iter().for_each(|job| job(&mut live));
        });
        Self { n, netns: path.recv().unwrap(), jobs: Some(jobs), thread: Some(thread) }
    }

    /// Runs a closure on the node; a panic there is one here.
    pub(crate) fn run<T: Send + 'static>(&self, work: impl FnOnce(&mut Live) -> T + Send + 'static) -> T {
        let (send, result) = channel();
        let job = move |live: &mut Live| drop(send.send(catch_unwind(AssertUnwindSafe(|| work(live)))));
        self.jobs.as_ref().unwrap().send(Box::new(job)).unwrap();
        result.recv().unwrap().unwrap_or_else(|panic| resume_unwind(panic))
    }

    /// Overlay, programs and the pods' side of the agent.
    fn start(&self, config: OverlayConfig) {
        self.run(move |live| live.start(config));
    }

    /// Tells it of another node.
    fn meet(&self, other: u8) {
        self.run(move |live| live.meet(other));
    }

    /// Adds a pod and returns its addresses, IPv4 first.
    pub(crate) fn add(&self, id: &'static str, sandbox: &Sandbox) -> Vec<IpAddr> {
        let path = sandbox.path.clone();
        self.run(move |live| {
            let (_, _, node) = live.agent.as_ref().unwrap();
            let added = live.runtime.block_on(node.call(crate::world::request("ADD", id, &path)));
            addresses(&added.unwrap())
        })
    }

    /// How often a hook has refused for a reason.
    pub(crate) fn drops(&self, hook: Hook, reason: DropReason) -> u64 {
        self.run(move |live| live.dataplane().lock().counters().unwrap()[drop_index(hook, reason) as usize])
    }

    /// All refusals so far, by hook and reason, for a failed test's words.
    pub(crate) fn all_drops(&self) -> Vec<(&'static str, &'static str, u64)> {
        self.run(|live| {
            let counters = live.dataplane().lock().counters().unwrap();
            let of =
                |hook: Hook| DropReason::ALL.map(|reason| (hook, reason, counters[drop_index(hook, reason) as usize]));
            let all = Hook::ALL.into_iter().flat_map(of).filter(|(_, _, count)| *count > 0);
            all.map(|(hook, reason, count)| (hook.name(), reason.name(), count)).collect()
        })
    }

    pub(crate) fn ip(&self, arguments: &'static str) -> String {
        self.run(move |_| ip(arguments))
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        drop(self.jobs.take());
        if let Some(thread) = self.thread.take() {
            drop(thread.join());
        }
    }
}

/// Two nodes on one link, `uplink` on both. `change` is applied to the configuration of each.
pub(crate) fn pair(routing: Routing, change: fn(OverlayConfig) -> OverlayConfig) -> [Host; 2] {
    let hosts = [Host::new(1), Host::new(2)];
    let first = hosts[0].netns.clone();
    hosts[1].run(move |_| {
        let made = std::process::Command::new("ip")
            .args(["link", "add", "uplink", "type", "veth", "peer", "name", "uplink", "netns", &first])
            .status();
        assert!(made.unwrap().success());
    });
    for host in &hosts {
        let n = host.n;
        host.run(move |_| {
            ip(&format!("addr add {}/24 dev uplink", node_v4(n)));
            ip(&format!("addr add {}/64 dev uplink nodad", node_v6(n)));
            ip("link set uplink up");
        });
    }
    for host in &hosts {
        host.start(change(config(host.n, routing)));
    }
    for (host, other) in [(&hosts[0], 2), (&hosts[1], 1)] {
        host.meet(other);
    }
    hosts
}

impl Live {
    pub(crate) fn dataplane(&self) -> &Shared {
        &self.agent.as_ref().unwrap().2.dataplane
    }

    fn start(&mut self, config: OverlayConfig) {
        let overlay = self.runtime.block_on(Overlay::ensure(&config)).unwrap();
        let options = self.machine.options(constants(&config, &overlay));
        let dataplane = Shared::new(Kernel::open(&options).unwrap());
        dataplane.lock().put_in_place().unwrap();
        let state = tempfile::tempdir().unwrap();
        let pods = Pods::open(state.path(), dataplane.clone(), REST).unwrap();
        let network = network(&config, &overlay);
        pods.set_network(network);
        if config.routing == Routing::Direct {
            let uplink = nix::net::if_::if_nametoindex("uplink").unwrap();
            dataplane.lock().attach_netdev("uplink", uplink).unwrap();
        }
        self.agent = Some((overlay, config, Node { pods, dataplane, network, state }));
    }

    fn meet(&mut self, n: u8) {
        let (overlay, own, node) = self.agent.as_ref().unwrap();
        let other = config(n, own.routing);
        // Both are of one kind: without IPv4 addresses, the other has none either.
        let node_v4 = other.node_v4.filter(|_| own.node_v4.is_some());
        let tunnel = node_v4.map(IpAddr::V4).unwrap_or(node_v6(n).into());
        let direct = own.routing == Routing::Direct;
        let (v4, v6) = (other.pod_cidr_v4.unwrap(), other.pod_cidr_v6.unwrap());
        let entry = pod::Node {
            tunnel_v4: node_v4.map_or([0; 4], |address| address.octets()),
            tunnel_v6: node_v6(n).octets(),
            mac: overlay_mac(tunnel),
            mtu: overlay.mtu.try_into().unwrap(),
            prefix_v4: v4.network().octets(),
            prefix_v6: v6.network().octets(),
            ifindex: if direct { overlay.on_link.device(tunnel).unwrap() } else { 0 },
            next_hop_v4: if direct { crate::hosts::node_v4(n).octets() } else { [0; 4] },
            next_hop_v6: if direct { node_v6(n).octets() } else { [0; 16] },
            ..pod::Node::default()
        };
        let mut dataplane = node.dataplane.lock();
        dataplane.upsert_node(n.into(), &entry).unwrap();
        let prefixes = [v4_mapped(v4.network().octets()), v6.network().octets()];
        let own = [node_v4.map(|address| v4_mapped(address.octets())), Some(node_v6(n).octets())];
        let pods = prefixes.map(|prefix| RouteKey { prefix, zone: zone::PODS });
        let own = own.into_iter().flatten().map(|prefix| RouteKey { prefix, zone: zone::NODES });
        for key in pods.into_iter().chain(own) {
            dataplane.upsert_route(key, Route { node: n.into(), ..Route::default() }).unwrap();
        }
        drop(dataplane);
        let cidr = |cidr| RemoteCidr { cidr, node_v4, node_v6: Some(node_v6(n)) };
        let remote = [cidr(v4.into()), cidr(v6.into())].into();
        self.runtime.block_on(overlay.sync_routes(&remote)).unwrap();
    }
}

/// A bpf file system in a mount namespace of the thread's own, gone with it, and a cgroup for the socket programs.
pub(crate) struct Machine {
    bpffs: tempfile::TempDir,
    cgroup: PathBuf,
}

/// Tells the machines of one process apart.
static MACHINES: AtomicU32 = AtomicU32::new(0);

impl Machine {
    pub(crate) fn new() -> Self {
        unshare(CloneFlags::CLONE_NEWNS).unwrap();
        mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None::<&str>).unwrap();
        let bpffs = tempfile::tempdir().unwrap();
        mount(Some("bpf"), bpffs.path(), Some("bpf"), MsFlags::empty(), None::<&str>).unwrap();
        let root = ["/sys/fs/cgroup/unified", "/sys/fs/cgroup"].map(Path::new);
        let root = root.into_iter().find(|root| root.join("cgroup.procs").exists());
        let name = format!("diolkos-pods-{}-{}", std::process::id(), MACHINES.fetch_add(1, Ordering::Relaxed));
        let cgroup = root.expect("a cgroup2 hierarchy is mounted").join(name);
        std::fs::create_dir(&cgroup).unwrap();
        Self { bpffs, cgroup }
    }

    pub(crate) fn options(&self, config: Config) -> KernelOptions {
        KernelOptions { bpffs: self.bpffs.path().to_owned(), node: "node".into(), cgroup: self.cgroup.clone(), config }
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        // The pins hold the programs, which hold the cgroup.
        let _gone_already = umount2(self.bpffs.path(), MntFlags::MNT_DETACH);
        drop(std::fs::remove_dir(&self.cgroup));
    }
}
