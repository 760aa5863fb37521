//! Two nodes and four pods as namespaces, connected in one way.

use std::io::{BufRead as _, BufReader};
use std::net::{Ipv4Addr, SocketAddr};
use std::process::{Child, Command, Stdio};

use anyhow::{Context as _, Result, ensure};
use diolkos_tests::guard::Guard;
use diolkos_tests::space::{Space, Spaces};
use diolkos_tests::{iperf, tools};

use crate::load::Kind;

pub const PORT: u16 = 8080;
/// Of iperf3.
pub const STREAM_PORT: u16 = 5201;
pub const CLIENT: Ipv4Addr = Ipv4Addr::new(10, 244, 1, 10);
/// The client whose sockets no hook sees.
const PLAIN: Ipv4Addr = Ipv4Addr::new(10, 244, 1, 11);
/// On the clients' node.
pub const LOCAL: Ipv4Addr = Ipv4Addr::new(10, 244, 1, 20);
/// On the other node.
pub const REMOTE: Ipv4Addr = Ipv4Addr::new(10, 244, 2, 20);
/// iperf3 counts in seconds.
const STREAM_SECONDS: u32 = 1;
/// The next hop of every pod.
const NEXT_HOP: &str = "169.254.1.1";
/// The device of both nodes that leads to the other one.
pub const UPLINK: &str = "up0";

/// Address of a node, 0 or 1.
pub fn node_address(index: usize) -> Ipv4Addr {
    Ipv4Addr::new(192, 168, 77, 1 + index as u8)
}

/// MAC of the host's end of a pod's veth.
pub const HOST_MAC: [u8; 6] = [2, 0xbb, 0, 0, 0, 1];

/// One cluster of namespaces. Ends with the [`Spaces`] it was made in.
pub struct World {
    pub name: &'static str,
    pub nodes: [Space; 2],
    pub client: Pod,
    /// Out of reach of its node's socket hooks. Another pod than the first client: what was translated as a packet is
    /// remembered for its addresses and ports, and would meet what was translated at the socket.
    pub plain: Pod,
    pub local: Pod,
    pub remote: Pod,
    servers: Vec<Child>,
}

/// A pod: its namespaces, and the host's end of its veth.
pub struct Pod {
    pub space: Space,
    pub address: Ipv4Addr,
    pub host: &'static str,
    pub mac: [u8; 6],
}

impl World {
    /// Nodes with an uplink between them, pods with their veths and host routes; no way between the nodes' pods yet.
    pub fn new(name: &'static str, guard: &Guard, spaces: &mut Spaces) -> Result<Self> {
        let cgroup = |part: &str| guard.make_cgroup(&format!("{name}-{part}"));
        let nodes = [spaces.add(cgroup("n0")?)?, spaces.add(cgroup("n1")?)?];
        let peer = nodes[1].holder().to_string();
        nodes[0].run(&["ip", "link", "add", UPLINK, "type", "veth", "peer", "name", UPLINK, "netns", &peer])?;
        for (index, node) in nodes.iter().enumerate() {
            for setting in ["ip_forward 1", "conf/all/rp_filter 0", "conf/default/rp_filter 0"] {
                let line = format!("set -- {setting}; echo $2 > /proc/sys/net/ipv4/$1");
                node.run(&["sh", "-c", &line])?;
            }
            node.run(&["ip", "address", "add", &format!("{}/24", node_address(index)), "dev", UPLINK])?;
            node.run(&["ip", "link", "set", UPLINK, "up"])?;
        }
        let client = Pod::new(spaces.add(cgroup("n0")?)?, &nodes[0], CLIENT, "pclient")?;
        let plain = Pod::new(spaces.add(cgroup("outside")?)?, &nodes[0], PLAIN, "pplain")?;
        let local = Pod::new(spaces.add(cgroup("n0")?)?, &nodes[0], LOCAL, "plocal")?;
        let remote = Pod::new(spaces.add(cgroup("n1")?)?, &nodes[1], REMOTE, "premote")?;
        let mut world = Self { name, nodes, client, plain, local, remote, servers: Vec::new() };
        for space in [&world.local.space, &world.remote.space] {
            let mut server = space.command(std::env::current_exe().context("the path of this binary")?);
            server.args(["--serve", &SocketAddr::from((Ipv4Addr::UNSPECIFIED, PORT)).to_string()]);
            world.servers.push(start(server, "ready")?);
            let mut server = space.command(tools::find("iperf3")?);
            server.args(["--server", "--forceflush"]);
            world.servers.push(start(server, "listening")?);
        }
        Ok(world)
    }

    /// Pods of the other node by plain routes over the uplink.
    pub fn route(&self) -> Result<()> {
        for (index, node) in self.nodes.iter().enumerate() {
            let (cidr, via) = (pod_cidr(1 - index), node_address(1 - index).to_string());
            node.run(&["ip", "route", "add", &cidr, "via", &via])?;
        }
        Ok(())
    }

    /// Pods of the other node through the kernel's VXLAN with fixed neighbours and forwarding entries, as flannel does.
    pub fn vxlan(&self) -> Result<()> {
        for (index, node) in self.nodes.iter().enumerate() {
            let other = 1 - index;
            let (own, peer) = (node_address(index).to_string(), node_address(other).to_string());
            let mac = |node: usize| format!("02:cc:00:00:00:0{node}");
            let hop = format!("10.244.{}.0", other + 1);
            let device =
                ["ip", "link", "add", "vx0", "address", &mac(index), "type", "vxlan", "id", "5", "dstport", "8472"];
            node.run(&[&device[..], &["local", &own, "dev", UPLINK, "nolearning"]].concat())?;
            node.run(&["ip", "address", "add", &format!("10.244.{}.0/32", index + 1), "dev", "vx0"])?;
            node.run(&["ip", "link", "set", "vx0", "mtu", "1450", "up"])?;
            node.run(&["ip", "neigh", "add", &hop, "lladdr", &mac(other), "dev", "vx0", "nud", "permanent"])?;
            node.run(&["bridge", "fdb", "add", &mac(other), "dev", "vx0", "dst", &peer])?;
            node.run(&["ip", "route", "add", &pod_cidr(other), "via", &hop, "dev", "vx0", "onlink"])?;
        }
        self.pod_mtu(1450)
    }

    /// What a tunnel leaves of the uplink's MTU.
    pub fn pod_mtu(&self, mtu: u32) -> Result<()> {
        for pod in [&self.client, &self.plain, &self.local, &self.remote] {
            pod.space.run(&["ip", "link", "set", "eth0", "mtu", &mtu.to_string()])?;
        }
        Ok(())
    }

    /// Measures from a client pod; `hooked` says whether its sockets meet the node's socket hooks.
    pub fn measure(&self, to: SocketAddr, kind: Kind, hooked: bool, milliseconds: u64) -> Result<Vec<f64>> {
        let client = if hooked { &self.client.space } else { &self.plain.space };
        if kind == Kind::Stream {
            let address = to.ip().to_string();
            let iperf3 = tools::find("iperf3")?;
            let command = || {
                let mut command = client.command(&iperf3);
                command.args(iperf::arguments(&address, STREAM_SECONDS));
                Ok(command)
            };
            return Ok(vec![iperf::measure(command).with_context(|| format!("{}: {to}", self.name))?]);
        }
        let mut command = client.command(std::env::current_exe().context("the path of this binary")?);
        command.args(["--load", &to.to_string(), "--kind", kind.name(), "--milliseconds", &milliseconds.to_string()]);
        let output = command.stdin(Stdio::null()).output().context("run the client")?;
        let (text, complaint) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        ensure!(output.status.success(), "{}: {} to {to}: {}", self.name, kind.name(), complaint.trim());
        text.split_whitespace().map(|figure| figure.parse().context("a figure")).collect()
    }
}

impl Drop for World {
    fn drop(&mut self) {
        for server in &mut self.servers {
            let _ = server.kill();
            let _ = server.wait();
        }
    }
}

impl Pod {
    fn new(space: Space, node: &Space, address: Ipv4Addr, host: &'static str) -> Result<Self> {
        let [.., last] = address.octets();
        let mac = [2, 0xaa, 0, 0, 0, last];
        let (own, hosts, peer) = (text(mac), text(HOST_MAC), space.holder().to_string());
        let device = ["ip", "link", "add", host, "address", &hosts, "type", "veth"];
        node.run(&[&device[..], &["peer", "name", "eth0", "address", &own, "netns", &peer]].concat())?;
        node.run(&["ip", "link", "set", host, "up"])?;
        node.run(&["ip", "route", "add", &format!("{address}/32"), "dev", host])?;
        node.run(&["ip", "neigh", "add", &address.to_string(), "lladdr", &own, "dev", host, "nud", "permanent"])?;
        space.run(&["ip", "address", "add", &format!("{address}/32"), "dev", "eth0"])?;
        space.run(&["ip", "link", "set", "eth0", "up"])?;
        space.run(&["ip", "route", "add", NEXT_HOP, "dev", "eth0", "scope", "link"])?;
        space.run(&["ip", "route", "add", "default", "via", NEXT_HOP])?;
        space.run(&["ip", "neigh", "add", NEXT_HOP, "lladdr", &hosts, "dev", "eth0", "nud", "permanent"])?;
        Ok(Self { space, address, host, mac })
    }
}

pub fn pod_cidr(node: usize) -> String {
    format!("10.244.{}.0/24", node + 1)
}

fn text(mac: [u8; 6]) -> String {
    mac.map(|byte| format!("{byte:02x}")).join(":")
}

/// Starts a server and waits until it says that it serves.
fn start(mut command: Command, word: &str) -> Result<Child> {
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn()?;
    let lines = BufReader::new(child.stdout.take().context("its output")?).lines();
    let mut output = lines.map_while(|line| line.ok());
    ensure!(output.any(|line| line.contains(word)), "a server did not start: {command:?}");
    // What it prints later is read, or it would end when it prints.
    std::thread::spawn(move || output.for_each(drop));
    Ok(child)
}
