//! Two nodes with a pod each, joined by a wire and the overlay, and the loaded dataplane on both. No agent: the maps are
//! written here.

mod tables;

use std::cell::RefCell;
use std::fs::File;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::AsRawFd as _;
use std::path::Path;

use aya::programs::tc::qdisc_add_clsact;
use aya::programs::{CgroupAttachMode, CgroupSockAddr, SchedClassifier, TcAttachType};
use diolkos_abi::conntrack::{Flow, Tuple};
use diolkos_abi::counter::{DropReason, Hook, Verdict, drop_index, verdict_index};
use nix::sched::{CloneFlags, setns, unshare};

use crate::dataplane::Dataplane;
use crate::scenarios::world::World;
use crate::talk;
use crate::world::ip;

/// Ports of the services' addresses: without endpoints and not served, and those of one backend each: the second node's
/// pod, the first node's pod, the first node, the second node, and one that is no part of the cluster.
pub(crate) const EMPTY: u16 = 80;
pub(crate) const UNKNOWN: u16 = 82;
pub(crate) const SERVED: u16 = 81;
pub(crate) const OWN: u16 = 83;
pub(crate) const HOST: u16 = 84;
pub(crate) const OTHER_HOST: u16 = 85;
pub(crate) const FAR: u16 = 86;
/// Where all of them serve.
pub(crate) const BACKEND_PORT: u16 = 8080;
/// A service whose backends are two ports of the second node's pod.
pub(crate) const TWO: u16 = 87;
pub(crate) const TWO_BACKENDS: [u16; 2] = [9001, 9002];
/// A service's address, one that no service has, and one of the second node that no pod has; of each family.
pub(crate) const VIPS: [IpAddr; 2] = [v4(10, 96, 10), v6(0xfd96, 0x10)];
pub(crate) const HOOKED_VIPS: [IpAddr; 2] = [v4(10, 96, 20), v6(0xfd96, 0x20)];
pub(crate) const UNALLOCATED: [IpAddr; 2] = [v4(10, 96, 11), v6(0xfd96, 0x11)];
pub(crate) const GONE: [IpAddr; 2] = [pod(2, 77)[0], pod(2, 77)[1]];
/// What the way to the second node takes, when a test wants it to take less than the pods.
pub(crate) const NODE_MTU: u16 = 1300;
/// What the way takes that leads through the outside to [`BEYOND`].
pub(crate) const NARROW: u16 = 1280;
/// Addresses of the outside: one for all, one that knows pods by their own address, and one behind a narrow way.
pub(crate) const OUTSIDE: [IpAddr; 2] = [IpAddr::V4(Ipv4Addr::new(198, 51, 100, 9)), v6(0xfd51, 9)];
pub(crate) const NATIVE: [IpAddr; 2] = [IpAddr::V4(Ipv4Addr::new(198, 18, 0, 9)), v6(0xfd18, 9)];
pub(crate) const BEYOND: [IpAddr; 2] = [IpAddr::V4(Ipv4Addr::new(203, 0, 113, 9)), v6(0xfd03, 9)];
/// First port of translated sources, up to the last one there is.
pub(crate) const PORTS_FIRST: u16 = 61_000;

/// What is different about two nodes.
#[derive(Clone, Copy, Default)]
pub(crate) struct Setup {
    /// They reach each other's pods as neighbours, without an overlay.
    pub(crate) direct: bool,
    /// Behind the first node is an outside, which has no route to pods.
    pub(crate) outside: bool,
    /// The services have addresses of their own, so that hooks of the first node's sockets touch no other test's.
    pub(crate) hooked: bool,
    /// Refusals are left to the packet path, as where `bpf_set_retval` is not there.
    pub(crate) no_retval: bool,
    /// How many entries conntrack has for each core; enough for everything when it is not said.
    pub(crate) flows_of_a_core: Option<u32>,
}

const fn v4(a: u8, b: u8, d: u8) -> IpAddr {
    IpAddr::V4(Ipv4Addr::new(a, b, 0, d))
}

const fn v6(first: u16, last: u16) -> IpAddr {
    IpAddr::V6(Ipv6Addr::new(first, 0, 0, 0, 0, 0, 0, last))
}

/// Address `host` in the pod CIDRs of a node.
pub(crate) const fn pod(node: u8, host: u8) -> [IpAddr; 2] {
    let v6 = Ipv6Addr::new(0xfd00, 0x244, node as u16, 0, 0, 0, 0, host as u16);
    [IpAddr::V4(Ipv4Addr::new(10, 244, node, host)), IpAddr::V6(v6)]
}

/// The addresses of a node.
pub(crate) const fn node(number: u8) -> [IpAddr; 2] {
    [IpAddr::V4(Ipv4Addr::new(192, 0, 2, number)), v6(0xfd02, number as u16)]
}

const fn overlay_mac(node: u8) -> [u8; 6] {
    [0x0a, 0xd1, 192, 0, 2, node]
}

const fn pod_mac(node: u8) -> [u8; 6] {
    [0x02, 0xaa, 0, 0, 0, node]
}

const fn host_mac(node: u8) -> [u8; 6] {
    [0x02, 0xbb, 0, 0, 0, node]
}

fn written(mac: [u8; 6]) -> String {
    mac.map(|byte| format!("{byte:02x}")).join(":")
}

/// A network namespace, gone with its last process and this.
pub(crate) struct Namespace(File);

impl Namespace {
    pub(crate) fn new() -> Self {
        let file = std::thread::spawn(|| {
            unshare(CloneFlags::CLONE_NEWNET).expect("this test needs root: it makes network namespaces");
            File::open("/proc/thread-self/ns/net").unwrap()
        });
        Self(file.join().unwrap())
    }

    pub(crate) fn inside<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        std::thread::scope(|scope| {
            let thread = scope.spawn(|| {
                self.enter();
                work()
            });
            thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    /// Moves the calling thread into it.
    pub(crate) fn enter(&self) {
        setns(&self.0, CloneFlags::CLONE_NEWNET).unwrap();
    }

    /// For the `netns` argument of ip.
    pub(crate) fn path(&self) -> String {
        format!("/proc/{}/fd/{}", std::process::id(), self.0.as_raw_fd())
    }
}

/// One node and its pod.
pub(crate) struct Half {
    pub(crate) node: Namespace,
    pub(crate) pod: Namespace,
    dataplane: RefCell<Dataplane>,
    world: RefCell<World>,
}

/// The client's pod is on the first node, the server's on the second.
pub(crate) struct Pair {
    pub(crate) first: Half,
    pub(crate) second: Half,
    /// The outside, and what is beyond it.
    pub(crate) outside: [Namespace; 2],
    setup: Setup,
}

impl Setup {
    /// What pods' devices take.
    fn pods_mtu(self) -> u16 {
        if self.direct { 1500 } else { 1450 }
    }

    fn vips(self) -> [IpAddr; 2] {
        if self.hooked { HOOKED_VIPS } else { VIPS }
    }
}

impl Pair {
    pub(crate) fn new() -> Self {
        Self::with(Setup::default())
    }

    pub(crate) fn with(setup: Setup) -> Self {
        let [one, two, outside, beyond] = [(); 4].map(|()| Namespace::new());
        let other = two.path();
        one.inside(|| ip(&format!("link add wire type veth peer name wire netns {other}")));
        if setup.outside {
            one.inside(|| ip(&format!("link add uplink type veth peer name uplink netns {}", outside.path())));
            outside.inside(|| ip(&format!("link add narrow type veth peer name narrow netns {}", beyond.path())));
            outside.inside(prepare_outside);
            beyond.inside(prepare_beyond);
        }
        let [first, second] = [Half::new(1, one, setup), Half::new(2, two, setup)];
        Self { first, second, outside: [outside, beyond], setup }
    }

    /// Starts servers on both nodes, in their pods, and where there is an outside.
    pub(crate) fn serve(&self) {
        for (number, half) in [(1, &self.first), (2, &self.second)] {
            talk::serve(&half.node, &node(number));
            talk::serve(&half.pod, &pod(number, 10));
        }
        if self.setup.outside {
            talk::serve(&self.outside[0], &[OUTSIDE, NATIVE].concat());
            talk::serve(&self.outside[1], &BEYOND);
        }
    }

    pub(crate) fn at_client<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        self.first.pod.inside(work)
    }

    pub(crate) fn at_server<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        self.second.pod.inside(work)
    }

    pub(crate) fn server(&self, family: usize) -> IpAddr {
        pod(2, 10)[family]
    }

    /// The way to the second node takes `node` bytes, the server's pod `pod` bytes; 0 for any number.
    pub(crate) fn expect_mtu(&self, node: u16, pod: u16) {
        self.first.rewrite(|world| world.nodes[0].1.mtu = node);
        self.second.rewrite(|world| world.endpoints.iter_mut().for_each(|(_, endpoint)| endpoint.mtu = pod));
    }

    /// Everything as it was at first.
    pub(crate) fn restore(&self) {
        self.expect_mtu(0, 0);
        self.second.node.inside(|| ip("route replace 192.0.2.1/32 dev wire"));
        for cache in ["-4 route flush cache", "-6 route flush cache"] {
            self.at_client(|| ip(cache));
        }
    }

    /// What the client's kernel believes of the way to an address.
    pub(crate) fn learned_mtu(&self, to: IpAddr) -> Option<u16> {
        let route = self.at_client(|| ip(&format!("route get {to}")));
        let mut words = route.split_whitespace().skip_while(|word| *word != "mtu");
        words.nth(1)?.parse().ok()
    }

    /// The second node's outer packets are cut into fragments on their way to the first.
    pub(crate) fn cut_what_the_second_node_sends(&self) {
        self.second.node.inside(|| ip("route replace 192.0.2.1/32 dev wire mtu lock 72"));
    }

    /// How many packets the second node has cut.
    pub(crate) fn cut_packets(&self) -> u64 {
        let snmp = self.second.node.inside(|| std::fs::read_to_string("/proc/thread-self/net/snmp").unwrap());
        let mut lines = snmp.lines().filter_map(|line| line.strip_prefix("Ip: "));
        let (names, values) = (lines.next().unwrap(), lines.next().unwrap());
        let mut columns = names.split(' ').zip(values.split(' '));
        columns.find(|(name, _)| *name == "FragOKs").unwrap().1.parse().unwrap()
    }
}

impl Half {
    fn new(number: u8, node: Namespace, setup: Setup) -> Self {
        let pod = Namespace::new();
        node.inside(|| prepare_node(number, &pod, setup));
        pod.inside(|| prepare_pod(number));
        let (config, world) = node.inside(|| (tables::config(number, setup), tables::world(number, setup)));
        let cores: u32 = aya::util::nr_cpus().unwrap().try_into().unwrap();
        let mut dataplane = Dataplane::load(&config, setup.flows_of_a_core.map_or(1 << 14, |flows| flows * cores));
        dataplane.fill(&world, 0);
        node.inside(|| attach(&mut dataplane, number, setup));
        Self { node, pod, dataplane: RefCell::new(dataplane), world: RefCell::new(world) }
    }

    /// Whether conntrack has an entry with this port on either side.
    pub(crate) fn knows(&self, port: u16) -> bool {
        let port = port.to_be_bytes();
        self.dataplane.borrow().flows().keys().any(|key| key.source_port == port || key.destination_port == port)
    }

    /// Forgets every flow with this port on either side, as a full table may.
    pub(crate) fn forget(&self, port: u16) {
        let (port, mut dataplane) = (port.to_be_bytes(), self.dataplane.borrow_mut());
        let of =
            |(key, flow): &(Tuple, Flow)| [key.source_port, key.destination_port, flow.source_port].contains(&port);
        let forgotten: Vec<Tuple> = dataplane.flows().into_iter().filter(of).map(|(key, _)| key).collect();
        assert!(!forgotten.is_empty(), "there is something to forget");
        dataplane.forget(forgotten);
    }

    /// How often a hook came to a verdict.
    pub(crate) fn verdicts(&self, hook: Hook, verdict: Verdict) -> u64 {
        self.dataplane.borrow().counters()[verdict_index(hook, verdict) as usize]
    }

    /// All refusals so far, by hook and reason, for a failed test's words.
    pub(crate) fn all_drops(&self) -> Vec<(&'static str, &'static str, u64)> {
        let counters = self.dataplane.borrow().counters();
        let all = Hook::ALL.into_iter().flat_map(|hook| DropReason::ALL.map(|reason| (hook, reason)));
        let counted = all.map(|(hook, reason)| (hook, reason, counters[drop_index(hook, reason) as usize]));
        counted.filter(|(.., count)| *count > 0).map(|(hook, reason, n)| (hook.name(), reason.name(), n)).collect()
    }

    /// Puts the socket programs on a cgroup.
    pub(crate) fn hook_sockets(&self, cgroup: &Path) {
        let (directory, mut dataplane) = (File::open(cgroup).unwrap(), self.dataplane.borrow_mut());
        for name in ["connect", "sendmsg", "recvmsg", "getpeername"]
            .iter()
            .flat_map(|name| [format!("{name}4"), format!("{name}6")])
        {
            let program: &mut CgroupSockAddr = dataplane.ebpf.program_mut(&name).unwrap().try_into().unwrap();
            program.attach(&directory, CgroupAttachMode::Single).expect("a socket hook can be attached");
        }
    }

    /// How many directions of flows conntrack knows.
    pub(crate) fn flows(&self) -> usize {
        self.dataplane.borrow().flows().len()
    }

    /// How often a hook refused for a reason.
    pub(crate) fn drops(&self, hook: Hook, reason: DropReason) -> u64 {
        self.dataplane.borrow().counters()[drop_index(hook, reason) as usize]
    }

    /// Changes the tables.
    fn rewrite(&self, change: impl FnOnce(&mut World)) {
        let (mut dataplane, mut world) = (self.dataplane.borrow_mut(), self.world.borrow_mut());
        dataplane.clear(&world, 0);
        change(&mut world);
        dataplane.fill(&world, 0);
    }
}

/// The wire, the way to the other node's pods, the pod's veth pair and the routes of a node.
fn prepare_node(number: u8, of_pod: &Namespace, setup: Setup) {
    for path in ["ipv4/ip_forward", "ipv6/conf/all/forwarding"] {
        std::fs::write(format!("/proc/sys/net/{path}"), "1").unwrap();
    }
    std::fs::write("/proc/sys/net/ipv4/conf/all/rp_filter", "0").unwrap();
    ip("link set lo up");
    let [own_v4, own_v6] = node(number);
    ip(&format!("addr add {own_v4}/24 dev wire"));
    ip(&format!("addr add {own_v6}/64 dev wire nodad"));
    ip("link set wire up");
    let (host, peer) = (written(host_mac(number)), written(pod_mac(number)));
    let mtu = setup.pods_mtu();
    ip(&format!(
        "link add pod address {host} mtu {mtu} type veth peer name eth0 address {peer} mtu {mtu} netns {}",
        of_pod.path()
    ));
    ip("link set pod up");
    let [gateways, pods, others, sources] = [pod(number, 1), pod(number, 10), node(3 - number), node(number)];
    if !setup.direct {
        ip(&format!("link add overlay address {} type vxlan external dstport 4789", written(overlay_mac(number))));
        ip(&format!("link set overlay mtu {mtu} arp off up"));
    }
    for family in [0, 1] {
        let (other, length) = (pod(3 - number, 0)[family], [24, 64][family]);
        if setup.direct {
            ip(&format!("route add {other}/{length} via {} src {}", others[family], sources[family]));
        } else {
            ip(&format!("addr add {} dev overlay nodad", gateways[family]));
            ip(&format!("route add {other}/{length} dev overlay src {}", gateways[family]));
        }
        ip(&format!("route add {} dev pod", pods[family]));
        ip(&format!("neigh add {} lladdr {peer} nud permanent dev pod", pods[family]));
    }
    if setup.outside && number == 1 {
        prepare_uplink();
    } else {
        ip(&format!("route add default via {} src {own_v4}", others[0]));
        ip(&format!("-6 route add default via {} src {own_v6}", others[1]));
    }
}

pub(crate) const UPLINK_MAC: &str = "02:cc:00:00:00:01";
const OUTSIDE_MAC: &str = "02:cc:00:00:00:02";
const NARROW_MAC: &str = "02:cc:00:00:00:03";

/// The first node's way to the outside. It holds none of the node's addresses of its own.
fn prepare_uplink() {
    ip(&format!("link set uplink address {UPLINK_MAC} up"));
    for (family, to) in OUTSIDE.iter().enumerate() {
        ip(&format!("neigh add {to} lladdr {OUTSIDE_MAC} nud permanent dev uplink"));
        ip(&format!("route add {to} dev uplink src {}", node(1)[family]));
        ip(&format!("{} route add default via {to} src {}", ["-4", "-6"][family], node(1)[family]));
    }
}

/// The outside: it knows the first node, and the way beyond.
fn prepare_outside() {
    for path in ["ipv4/ip_forward", "ipv6/conf/all/forwarding"] {
        std::fs::write(format!("/proc/sys/net/{path}"), "1").unwrap();
    }
    ip("link set lo up");
    ip(&format!("link set uplink address {OUTSIDE_MAC} up"));
    ip(&format!("link set narrow address {NARROW_MAC} mtu {NARROW} up"));
    for family in [0, 1] {
        ip(&format!("addr add {} dev uplink nodad", OUTSIDE[family]));
        ip(&format!("addr add {} dev uplink nodad", NATIVE[family]));
        ip(&format!("neigh add {} lladdr {UPLINK_MAC} nud permanent dev uplink", node(1)[family]));
        ip(&format!("route add {} dev uplink src {}", node(1)[family], OUTSIDE[family]));
        ip(&format!("route add {} dev narrow", BEYOND[family]));
    }
}

fn prepare_beyond() {
    ip("link set lo up");
    ip(&format!("link set narrow mtu {NARROW} up"));
    for family in [0, 1] {
        ip(&format!("neigh add {} lladdr {NARROW_MAC} nud permanent dev narrow", OUTSIDE[family]));
        ip(&format!("addr add {} dev narrow nodad", BEYOND[family]));
        ip(&format!("route add {} dev narrow", OUTSIDE[family]));
        ip(&format!("route add {} via {} src {}", node(1)[family], OUTSIDE[family], BEYOND[family]));
    }
}

fn prepare_pod(number: u8) {
    let host = written(host_mac(number));
    ip("link set lo up");
    ip("link set eth0 up");
    for (address, router) in pod(number, 10).into_iter().zip(["169.254.1.1", "fe80::1"]) {
        ip(&format!("addr add {address} dev eth0 nodad"));
        ip(&format!("neigh add {router} lladdr {host} nud permanent dev eth0"));
    }
    ip("route add 169.254.1.1 dev eth0 scope link");
    ip("route add default via 169.254.1.1 dev eth0");
    ip("-6 route add default via fe80::1 dev eth0");
}

/// Puts the packet programs on the node's devices.
fn attach(dataplane: &mut Dataplane, number: u8, setup: Setup) {
    let overlay = if setup.direct { None } else { Some("overlay") };
    let uplink = if setup.outside && number == 1 { Some("uplink") } else { None };
    for (name, device) in
        [("container", Some("pod")), ("overlay", overlay), ("netdev", Some("wire")), ("netdev", uplink)]
    {
        let Some(device) = device else { continue };
        // Before 6.6 a program is a filter of a queue, which is there from the second time on.
        let _ = qdisc_add_clsact(device);
        for (way, side) in [("from", TcAttachType::Ingress), ("to", TcAttachType::Egress)] {
            let program = dataplane.ebpf.program_mut(&format!("{way}_{name}")).unwrap();
            let program: &mut SchedClassifier = program.try_into().unwrap();
            program.attach(device, side).unwrap_or_else(|error| panic!("{device}: {error}"));
        }
    }
}
