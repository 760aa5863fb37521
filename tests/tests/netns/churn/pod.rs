//! Pods of both families, each a network namespace behind a veth pair, as the CNI server makes them.

use std::io::Write as _;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::process::{Command, Stdio};

use diolkos_abi::pod::{Endpoint, Netns};
use diolkos_agent::desired::address;
use diolkos_agent::destroy::Space;

use crate::fixture::netns_cookie;
use crate::pair::Namespace;
use crate::world::ifindex;

const HOST_MAC: &str = "02:00:00:00:00:01";
const ROUTERS: [&str; 2] = ["169.254.1.1", "fe80::1"];

pub(super) struct Pod {
    pub(super) host: String,
    pub(super) ifindex: u32,
    pub(super) addresses: [IpAddr; 2],
    pub(super) namespace: Namespace,
    pub(super) cookie: u64,
    mac: [u8; 6],
}

/// The addresses of pod `n`.
pub(super) fn addresses(n: usize) -> [IpAddr; 2] {
    let last = 2 + n as u8;
    let v6 = Ipv6Addr::new(0xfd00, 0x244, 1, 0, 0, 0, 0, last.into());
    [Ipv4Addr::new(10, 244, 1, last).into(), v6.into()]
}

impl Pod {
    pub(super) fn new(n: usize) -> Self {
        let (host, addresses, mac) = (format!("dic{n}"), addresses(n), [2, 0, 0, 0, 1, n as u8]);
        let namespace = Namespace::new();
        let [v4, v6] = addresses;
        let pod_mac = format!("02:00:00:00:01:{n:02x}");
        let peer = format!("peer name eth0 address {pod_mac} netns {}", namespace.path());
        batch(&format!(
            "link add {host} address {HOST_MAC} type veth {peer}\nlink set {host} up\n\
             route add {v4}/32 dev {host}\nroute add {v6}/128 dev {host}\n\
             neigh replace {v4} lladdr {pod_mac} dev {host} nud permanent\n\
             neigh replace {v6} lladdr {pod_mac} dev {host} nud permanent\n"
        ));
        let cookie = namespace.inside(|| {
            let [router_v4, router_v6] = ROUTERS;
            batch(&format!(
                "link set lo up\nlink set eth0 up\naddr add {v4}/32 dev eth0\naddr add {v6}/128 dev eth0 nodad\n\
                 neigh replace {router_v4} lladdr {HOST_MAC} dev eth0 nud permanent\n\
                 neigh replace {router_v6} lladdr {HOST_MAC} dev eth0 nud permanent\n"
            ));
            netns_cookie()
        });
        let pod = Self { ifindex: ifindex(&host), host, addresses, namespace, cookie, mac };
        pod.speak();
        pod
    }

    /// What the map says of it.
    pub(super) fn endpoint(&self) -> Endpoint {
        let (mac, host_mac) = (self.mac, [2, 0, 0, 0, 0, 1]);
        Endpoint { ifindex: self.ifindex, mac, host_mac, ..Endpoint::default() }
    }

    /// Whose its sockets are.
    pub(super) fn netns(&self, flags: u32) -> Netns {
        let [v4, v6] = self.addresses.map(address);
        Netns { v4: [v4[12], v4[13], v4[14], v4[15]], v6, flags, ..Netns::default() }
    }

    pub(super) fn space(&self) -> Space {
        Space { path: Some(self.namespace.path().into()), cookie: Some(self.cookie) }
    }

    /// From now on nothing leaves it, answers neither.
    pub(super) fn silence(&self) {
        self.namespace.inside(|| batch("route del 0.0.0.0/0\nroute del ::/0\n"));
    }

    /// From now on what it sends leaves.
    pub(super) fn speak(&self) {
        let [v4, v6] = ROUTERS;
        let routes = format!("route add 0.0.0.0/0 via {v4} dev eth0 onlink\nroute add ::/0 via {v6} dev eth0\n");
        self.namespace.inside(|| batch(&routes));
    }
}

/// Commands of `ip`, one a line, in the caller's namespace.
fn batch(commands: &str) {
    let mut ip = Command::new("ip");
    let mut child =
        ip.args(["-batch", "-"]).stdin(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("run ip (iproute2)");
    child.stdin.take().expect("it was piped").write_all(commands.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "ip, given {commands}{}", String::from_utf8_lossy(&output.stderr));
}
