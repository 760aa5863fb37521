//! The wires between the nodes: a bridge in the control plane's space, a veth to each node. All of it
//! is inside the cluster's namespaces; the machine's own network is not touched.

use anyhow::Result;

use crate::space::Space;

const BRIDGE: &str = "wire";
/// On the bridge and in each node, as the kernel's uplinks have it.
const UPLINK: &str = "eth0";

/// Which address families a cluster has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Families {
    #[default]
    V4,
    V6,
    /// Both, IPv4 first.
    Dual,
}

impl Families {
    fn each(self) -> &'static [Family] {
        match self {
            Self::V4 => &[V4],
            Self::V6 => &[V6],
            Self::Dual => &[V4, V6],
        }
    }

    fn list(self, value: fn(&Family) -> &'static str) -> String {
        self.each().iter().map(value).collect::<Vec<_>>().join(",")
    }

    /// The apiserver's and the agents' flag.
    pub(super) fn service_cidr(self) -> String {
        self.list(|family| family.service_cidr)
    }

    /// The controller manager's flag.
    pub(super) fn cluster_cidr(self) -> String {
        self.list(|family| family.cluster_cidr)
    }

    /// The control plane's addresses, that of the first family first.
    pub(super) fn control(self) -> Vec<String> {
        self.each().iter().map(|family| family.host(1)).collect()
    }

    /// The apiserver, as its clients name it.
    pub(super) fn server(self) -> String {
        let address = self.each().first().map(|family| family.host(1)).unwrap_or_default();
        if address.contains(':') { format!("https://[{address}]:6443") } else { format!("https://{address}:6443") }
    }

    /// Where the apiserver listens.
    pub(super) fn listen(self) -> &'static str {
        if self == Self::V4 { "0.0.0.0:6443" } else { "[::]:6443" }
    }

    /// Addresses of a node, that of the first family first; nodes count from 1.
    pub(super) fn node(self, index: u32) -> Vec<String> {
        self.each().iter().map(|family| family.host(10 + index)).collect()
    }
}

/// The networks of one address family.
struct Family {
    /// The wire's network without its last part, and its length.
    wire: &'static str,
    prefix: u8,
    service_cidr: &'static str,
    cluster_cidr: &'static str,
}

const V4: Family =
    Family { wire: "172.30.0.", prefix: 24, service_cidr: "10.96.0.0/16", cluster_cidr: "10.244.0.0/16" };
const V6: Family =
    Family { wire: "fd00:30::", prefix: 64, service_cidr: "fd00:10:96::/112", cluster_cidr: "fd00:10:244::/56" };

impl Family {
    fn host(&self, number: u32) -> String {
        format!("{}{number}", self.wire)
    }

    /// Gives a device an address. Nobody else is on the wire, so it is used without asking for duplicates.
    fn assign(&self, space: &Space, device: &str, number: u32) -> Result<()> {
        let address = format!("{}/{}", self.host(number), self.prefix);
        let arguments = ["ip", "address", "add", &address, "dev", device];
        let nodad: &[&str] = if self.wire.contains(':') { &["nodad"] } else { &[] };
        space.run(&[&arguments, nodad].concat()).map(drop)
    }
}

/// The bridge, with the control plane on it.
pub fn bridge(control: &Space, families: Families) -> Result<()> {
    control.run(&["ip", "link", "add", BRIDGE, "type", "bridge"])?;
    families.each().iter().try_for_each(|family| family.assign(control, BRIDGE, 1))?;
    control.run(&["ip", "link", "set", BRIDGE, "up"]).map(drop)
}

/// Connects a node.
pub fn uplink(control: &Space, node: &Space, families: Families, index: u32) -> Result<()> {
    let (port, holder) = (format!("port{index}"), node.holder().to_string());
    control.run(&["ip", "link", "add", &port, "type", "veth", "peer", "name", UPLINK, "netns", &holder])?;
    control.run(&["ip", "link", "set", &port, "master", BRIDGE, "up"])?;
    families.each().iter().try_for_each(|family| family.assign(node, UPLINK, 10 + index))?;
    node.run(&["ip", "link", "set", UPLINK, "up"])?;
    for gateway in families.control() {
        node.run(&["ip", "route", "add", "default", "via", &gateway])?;
    }
    Ok(())
}
