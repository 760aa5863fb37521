//! Two nodes with a pod each, joined by a wire and the overlay, and the loaded dataplane on both. No agent: the maps are
//! written here.

use std::cell::RefCell;
use std::fs::File;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::AsRawFd as _;

use aya::programs::{SchedClassifier, TcAttachType};
use diolkos_abi::address::{protocol, v4_mapped};
use diolkos_abi::config::{Config, features};
use diolkos_abi::pod::{Endpoint, Node, Route, RouteKey, address_tag};
use diolkos_abi::service::{
    Backend, FrontendKey, Service, backend_state, frontend_flags, frontend_word, row_word, scope,
};
use nix::sched::{CloneFlags, setns, unshare};

use crate::dataplane::Dataplane;
use crate::scenarios::world::World;
use crate::world::{ifindex, ip};

/// Ports of the services' addresses: without endpoints, not served, and served by the second node's pod.
pub(crate) const EMPTY: u16 = 80;
pub(crate) const UNKNOWN: u16 = 82;
pub(crate) const SERVED: u16 = 81;
/// Where the second node's pod serves.
const BACKEND_PORT: u16 = 8080;
/// A service's address, one that no service has, and one of the second node that no pod has; of each family.
pub(crate) const VIPS: [IpAddr; 2] = [v4(10, 96, 10), v6(0xfd96, 0x10)];
pub(crate) const UNALLOCATED: [IpAddr; 2] = [v4(10, 96, 11), v6(0xfd96, 0x11)];
pub(crate) const GONE: [IpAddr; 2] = [pod(2, 77)[0], pod(2, 77)[1]];
/// What the way to the second node takes, when a test wants it to take less than the pods.
pub(crate) const NODE_MTU: u16 = 1300;

const PODS_MTU: u16 = 1450;
const VNI: u32 = 1;
/// Number of the second node in the tables of the first, and the other way round.
const OTHER: u32 = 2;

const fn v4(a: u8, b: u8, d: u8) -> IpAddr {
    IpAddr::V4(Ipv4Addr::new(a, b, 0, d))
}

const fn v6(first: u16, last: u16) -> IpAddr {
    IpAddr::V6(Ipv6Addr::new(first, 0, 0, 0, 0, 0, 0, last))
}

/// Address `host` in the pod CIDRs of a node.
const fn pod(node: u8, host: u8) -> [IpAddr; 2] {
    let v6 = Ipv6Addr::new(0xfd00, 0x244, node as u16, 0, 0, 0, 0, host as u16);
    [IpAddr::V4(Ipv4Addr::new(10, 244, node, host)), IpAddr::V6(v6)]
}

/// The pod CIDRs of a node.
fn prefixes(node: u8) -> [[u8; 16]; 2] {
    pod(node, 0).map(mapped)
}

fn mapped(address: IpAddr) -> [u8; 16] {
    match address {
        IpAddr::V4(v4) => v4_mapped(v4.octets()),
        IpAddr::V6(v6) => v6.octets(),
    }
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
struct Namespace(File);

impl Namespace {
    fn new() -> Self {
        let file = std::thread::spawn(|| {
            unshare(CloneFlags::CLONE_NEWNET).expect("this test needs root: it makes network namespaces");
            File::open("/proc/thread-self/ns/net").unwrap()
        });
        Self(file.join().unwrap())
    }

    fn inside<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        std::thread::scope(|scope| {
            let thread = scope.spawn(|| {
                setns(&self.0, CloneFlags::CLONE_NEWNET).unwrap();
                work()
            });
            thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    /// For the `netns` argument of ip.
    fn path(&self) -> String {
        format!("/proc/{}/fd/{}", std::process::id(), self.0.as_raw_fd())
    }
}

/// One node and its pod.
struct Half {
    node: Namespace,
    pod: Namespace,
    dataplane: RefCell<Dataplane>,
    world: RefCell<World>,
}

/// The client's pod is on the first node, the server's on the second.
pub(crate) struct Pair {
    first: Half,
    second: Half,
}

impl Pair {
    pub(crate) fn new() -> Self {
        let nodes = [Namespace::new(), Namespace::new()];
        let other = nodes[1].path();
        nodes[0].inside(|| ip(&format!("link add wire type veth peer name wire netns {other}")));
        let [one, two] = nodes;
        Self { first: Half::new(1, one), second: Half::new(2, two) }
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

    pub(crate) fn served_port(&self) -> u16 {
        BACKEND_PORT
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
    fn new(number: u8, node: Namespace) -> Self {
        let pod = Namespace::new();
        node.inside(|| prepare_node(number, &pod));
        pod.inside(|| prepare_pod(number));
        let (config, world) = node.inside(|| (config(number), world(number)));
        let mut dataplane = Dataplane::load(&config, 1024);
        dataplane.fill(&world, 0);
        node.inside(|| attach(&mut dataplane));
        Self { node, pod, dataplane: RefCell::new(dataplane), world: RefCell::new(world) }
    }

    /// Changes the tables.
    fn rewrite(&self, change: impl FnOnce(&mut World)) {
        let (mut dataplane, mut world) = (self.dataplane.borrow_mut(), self.world.borrow_mut());
        dataplane.clear(&world, 0);
        change(&mut world);
        dataplane.fill(&world, 0);
    }
}

/// The wire, the overlay device, the pod's veth pair and the routes of a node.
fn prepare_node(number: u8, of_pod: &Namespace) {
    for path in ["ipv4/ip_forward", "ipv6/conf/all/forwarding"] {
        std::fs::write(format!("/proc/sys/net/{path}"), "1").unwrap();
    }
    std::fs::write("/proc/sys/net/ipv4/conf/all/rp_filter", "0").unwrap();
    ip("link set lo up");
    ip(&format!("addr add 192.0.2.{number}/24 dev wire"));
    ip("link set wire up");
    ip(&format!("link add overlay address {} type vxlan external dstport 4789", written(overlay_mac(number))));
    ip(&format!("link set overlay mtu {PODS_MTU} arp off up"));
    let (host, peer) = (written(host_mac(number)), written(pod_mac(number)));
    ip(&format!(
        "link add pod address {host} mtu {PODS_MTU} type veth peer name eth0 address {peer} mtu {PODS_MTU} netns {}",
        of_pod.path()
    ));
    ip("link set pod up");
    let [gateways, pods] = [pod(number, 1), pod(number, 10)];
    for (gateway, pod) in gateways.into_iter().zip(pods) {
        ip(&format!("addr add {gateway} dev overlay nodad"));
        ip(&format!("route add {pod} dev pod"));
        ip(&format!("neigh add {pod} lladdr {peer} nud permanent dev pod"));
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

/// The constants of a node, in its network namespace.
fn config(number: u8) -> Config {
    let [gateway_v4, gateway_v6] = pod(number, 1).map(mapped);
    let [pod_cidr_v4, pod_cidr_v6] = prefixes(number);
    let last = |address: [u8; 16]| [address[12], address[13], address[14], address[15]];
    let mut half = [0xff; 16];
    half[8..].fill(0);
    Config {
        overlay_ifindex: ifindex("overlay"),
        vni: VNI,
        overlay_mac: overlay_mac(number),
        gateway_v4: last(gateway_v4),
        gateway_v6,
        pod_cidr_v4: last(pod_cidr_v4),
        pod_cidr_v6,
        route_mask_v4: [255, 255, 255, 0],
        route_mask_v6: half,
        service_cidr_v4: [10, 96, 0, 0],
        service_mask_v4: [255, 255, 0, 0],
        service_cidr_v6: mapped(v6(0xfd96, 0)),
        service_mask_v6: half,
        node_v4: [192, 0, 2, number],
        features: features::SET_RETVAL | features::REDIRECT_PEER,
        ..Config::EMPTY
    }
}

/// The tables of a node, in its network namespace.
fn world(number: u8) -> World {
    let other = 3 - number;
    let [prefix_v4, prefix_v6] = prefixes(other);
    let mut world = World::default();
    for address in pod(number, 10).map(mapped) {
        let endpoint = Endpoint {
            tag: address_tag(&address),
            ifindex: ifindex("pod"),
            mac: pod_mac(number),
            host_mac: host_mac(number),
            ..Endpoint::default()
        };
        world.endpoints.push((address, endpoint));
    }
    let node = Node {
        tunnel_v4: [192, 0, 2, other],
        mac: overlay_mac(other),
        prefix_v4: [prefix_v4[12], prefix_v4[13], prefix_v4[14], prefix_v4[15]],
        prefix_v6,
        ..Node::default()
    };
    world.nodes.push((OTHER, node));
    for prefix in prefixes(other) {
        let route = Route { tag: address_tag(&prefix), node: OTHER, ..Route::default() };
        world.routes.push((RouteKey { prefix, zone: 0 }, route));
    }
    add_services(&mut world, if number == 1 { OTHER } else { 0 });
    world
}

/// For each family and protocol a service without endpoints, and one whose backend lives on `node`.
fn add_services(world: &mut World, node: u32) {
    for (family, vip) in VIPS.map(mapped).into_iter().enumerate() {
        let marker = FrontendKey::new(vip, [0; 2], 0, scope::CLUSTER);
        world.frontends.push((marker, frontend_word(0, marker.tag(), frontend_flags::ADDRESS)));
        for (kind, protocol) in [protocol::TCP, protocol::UDP].into_iter().enumerate() {
            let id = (family * 2 + kind + 1) as u32;
            let mut frontend = |port: u16, service| {
                let key = FrontendKey::new(vip, port.to_be_bytes(), protocol, scope::CLUSTER);
                world.frontends.push((key, frontend_word(service, key.tag(), 0)));
            };
            frontend(EMPTY, 10 + id);
            frontend(SERVED, id);
            world.services.push((id, Service { row: row_word(id, 1), ..Service::default() }));
            world.slots.push((id, id));
            let backend = Backend {
                address: mapped(pod(2, 10)[family]),
                port: BACKEND_PORT.to_be_bytes(),
                state: backend_state::ALIVE,
                generation: 1,
                node,
                protocol,
                ..Backend::default()
            };
            world.backends.push((id, backend));
        }
    }
}

/// Puts the packet programs on the node's devices.
fn attach(dataplane: &mut Dataplane) {
    for (program, device, side) in [
        ("from_container", "pod", TcAttachType::Ingress),
        ("to_container", "pod", TcAttachType::Egress),
        ("from_overlay", "overlay", TcAttachType::Ingress),
        ("to_overlay", "overlay", TcAttachType::Egress),
    ] {
        let program: &mut SchedClassifier = dataplane.ebpf.program_mut(program).unwrap().try_into().unwrap();
        program.attach(device, side).unwrap_or_else(|error| panic!("{device}: {error}"));
    }
}
