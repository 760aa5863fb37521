//! How the node reaches the pods of other nodes: the overlay device, the gateway addresses and the host routes, or,
//! with direct routing, host routes alone.
//!
//! Pods talk to each other through eBPF alone; the routes and the gateway addresses here are for sockets of the node
//! itself, which the kernel routes before any of our programs sees the packet.

mod device;
pub mod netlink;
mod onlink;
mod routes;
pub(crate) mod sysctl;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnetwork::{IpNetwork, Ipv4Network, Ipv6Network};

pub use device::overlay_mac;
pub use onlink::OnLink;
pub use routes::{HostRoute, PresentRoute, RouteChanges, RouteError, RoutePlan, plan};
pub use routes::{our_routes, remove_routes};

use crate::options::Routing;
use device::Wanted;
use netlink::{Link, Netlink, NetlinkError};
use sysctl::SysctlError;

/// Name of the overlay device.
pub const DEVICE: &str = "diolkos_vxlan";
/// Alias by which devices of ours are recognised (`ip -d link`).
pub const ALIAS: &str = "diolkos";
/// What VXLAN over IPv4 adds to a packet, bytes: IPv4 20, UDP 8, VXLAN 8, inner Ethernet 14.
pub const OVERHEAD_V4: u32 = 50;
/// The same over IPv6, whose header has 40 bytes.
pub const OVERHEAD_V6: u32 = 70;

/// What the overlay is made from. At least one family has a node address, and at least one a pod CIDR.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OverlayConfig {
    /// This node's addresses. The IPv4 one, or the IPv6 one where there is no other, is the tunnel's end: the device
    /// that holds it is the uplink, whose MTU decides ours.
    pub node_v4: Option<Ipv4Addr>,
    pub node_v6: Option<Ipv6Addr>,
    /// The pods of this node.
    pub pod_cidr_v4: Option<Ipv4Network>,
    pub pod_cidr_v6: Option<Ipv6Network>,
    /// UDP port of the tunnels. The VNI is not here: in external mode it comes with each packet.
    pub port: u16,
    pub routing: Routing,
}

impl OverlayConfig {
    /// The end of this node's tunnels.
    pub fn tunnel(&self) -> Option<IpAddr> {
        self.node_v4.map(IpAddr::V4).or(self.node_v6.map(IpAddr::V6))
    }

    fn overhead(&self) -> u32 {
        match (self.routing, self.node_v4) {
            (Routing::Direct, _) => 0,
            (Routing::Overlay, Some(_)) => OVERHEAD_V4,
            (Routing::Overlay, None) => OVERHEAD_V6,
        }
    }

    /// RFC 791's 576 bytes, or RFC 8200's 1280, below which the kernel switches IPv6 off, for the inner packet.
    fn min_uplink_mtu(&self) -> u32 {
        self.overhead() + if self.pod_cidr_v6.is_some() { 1280 } else { 576 }
    }
}

/// The way to other nodes as it stands in the kernel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Overlay {
    /// Of the overlay device; 0 with direct routing.
    pub ifindex: u32,
    pub mac: [u8; 6],
    /// Of the device, of pods and of the routes to other nodes, bytes.
    pub mtu: u32,
    /// The node's own addresses in the pod network: the first ones of the podCIDRs. With direct routing the node has
    /// none, and talks to pods under its own addresses.
    pub gateway_v4: Option<Ipv4Addr>,
    pub gateway_v6: Option<Ipv6Addr>,
    /// The networks this node is a neighbour in.
    pub on_link: OnLink,
    config: OverlayConfig,
}

/// A pod CIDR of another node, and that node's addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct RemoteCidr {
    pub cidr: IpNetwork,
    pub node_v4: Option<Ipv4Addr>,
    pub node_v6: Option<Ipv6Addr>,
}

impl Overlay {
    /// Makes device, gateway addresses and settings as they should be, whatever is there. Safe to repeat; repairs.
    pub async fn ensure(config: &OverlayConfig) -> Result<Self, OverlayError> {
        let gateway_v4 = config.pod_cidr_v4.map(gateway_v4).transpose()?;
        let gateway_v6 = config.pod_cidr_v6.map(gateway_v6).transpose()?;
        let tunnel = config.tunnel().ok_or(OverlayError::NoAddress)?;
        if config.pod_cidr_v6.is_some() && !sysctl::has_ipv6() {
            return Err(OverlayError::NoIpv6);
        }
        let netlink = Netlink::open()?;
        let uplink = device::uplink(&netlink, tunnel).await?;
        let on_link = onlink::read(&netlink).await?;
        let path_mtu = uplink.mtu.min(on_link.mtu(tunnel, uplink.index).unwrap_or(u32::MAX));
        if path_mtu < config.min_uplink_mtu() {
            let need = config.min_uplink_mtu();
            return Err(OverlayError::SmallUplink { device: uplink.name, mtu: path_mtu, need });
        }
        sysctl::forward_v4()?;
        if config.pod_cidr_v6.is_some() {
            sysctl::forward_v6()?;
        }
        sysctl::loosen_strict_reverse_path_of_all()?;
        let mtu = path_mtu - config.overhead();
        let wanted = Wanted { mac: overlay_mac(tunnel), mtu, port: config.port };
        let overlay = Self { ifindex: 0, mac: [0; 6], mtu, gateway_v4, gateway_v6, on_link, config: *config };
        match config.routing {
            Routing::Direct => {
                device::remove(&netlink).await?;
                Ok(Self { gateway_v4: None, gateway_v6: None, ..overlay })
            }
            Routing::Overlay => {
                let link = device::ensure(&netlink, &wanted).await?;
                sysctl::loosen_reverse_path(DEVICE)?;
                overlay.settle_addresses(&netlink, &link).await?;
                Ok(Self { ifindex: link.index, mac: wanted.mac, ..overlay })
            }
        }
    }

    async fn settle_addresses(&self, netlink: &Netlink, link: &Link) -> Result<(), OverlayError> {
        let gateways = [self.gateway_v4.map(IpAddr::V4), self.gateway_v6.map(IpAddr::V6)];
        for gateway in gateways.iter().flatten() {
            netlink.add_address(link, *gateway).await?;
        }
        for (stale, prefix, message) in netlink.addresses(link.index).await? {
            if !(gateways.contains(&Some(stale)) && prefix == host_prefix(stale)) {
                tracing::info!(device = DEVICE, address = %stale, "stale address removed");
                netlink.delete_address(message, &format!("remove {stale}/{prefix} from {DEVICE}")).await?;
            }
        }
        Ok(())
    }

    /// The address under which the node's own sockets talk to pods of a family.
    pub fn source_v4(&self) -> Option<Ipv4Addr> {
        self.gateway_v4.or(self.config.node_v4)
    }

    /// The address under which the node's own sockets talk to pods of a family.
    pub fn source_v6(&self) -> Option<Ipv6Addr> {
        self.gateway_v6.or(self.config.node_v6)
    }

    /// Makes the host routes exactly those of the given podCIDRs of other nodes: what is missing is added, what is
    /// wrong replaced, what is ours and no longer wanted removed. Safe to repeat; repairs.
    pub async fn sync_routes(&self, remote: &BTreeSet<RemoteCidr>) -> Result<RouteChanges, OverlayError> {
        let (desired, not_on_link) = self.desired_routes(remote)?;
        let changes = routes::sync(&Netlink::open()?, self.ifindex, &desired).await?;
        Ok(RouteChanges { not_on_link, ..changes })
    }

    /// The routes, and the podCIDRs that are left to the operator's routing.
    fn desired_routes(
        &self,
        remote: &BTreeSet<RemoteCidr>,
    ) -> Result<(BTreeSet<HostRoute>, BTreeSet<IpNetwork>), OverlayError> {
        let (mut desired, mut not_on_link) = (BTreeSet::new(), BTreeSet::new());
        for remote in remote {
            if let Some(own) = self.own_cidrs().find(|own| overlap(own, &remote.cidr)) {
                return Err(OverlayError::Overlap { remote: remote.cidr, pod_cidr: own });
            }
            match self.route(remote) {
                Some(route) => drop(desired.insert(route)),
                None => drop(not_on_link.insert(remote.cidr)),
            }
        }
        Ok((desired, not_on_link))
    }

    fn own_cidrs(&self) -> impl Iterator<Item = IpNetwork> {
        let v4 = self.config.pod_cidr_v4.map(IpNetwork::V4);
        v4.into_iter().chain(self.config.pod_cidr_v6.map(IpNetwork::V6))
    }

    fn route(&self, remote: &RemoteCidr) -> Option<HostRoute> {
        let destination = whole(remote.cidr);
        let (source, node) = match remote.cidr {
            IpNetwork::V4(_) => (self.source_v4().map(IpAddr::V4), remote.node_v4.map(IpAddr::V4)),
            IpNetwork::V6(_) => (self.source_v6().map(IpAddr::V6), remote.node_v6.map(IpAddr::V6)),
        };
        if self.config.routing == Routing::Direct {
            let ifindex = self.on_link.device(node?)?;
            return Some(HostRoute { destination, ifindex, gateway: node, mtu: 0, source });
        }
        // A node without an IPv4 address is tunnelled to over IPv6, whatever this one has.
        let more = if remote.node_v4.is_none() { OVERHEAD_V6 - self.config.overhead() } else { 0 };
        Some(HostRoute { destination, ifindex: self.ifindex, gateway: None, mtu: self.mtu - more, source })
    }
}

/// Why there is no overlay.
#[derive(Debug, thiserror::Error)]
pub enum OverlayError {
    #[error(transparent)]
    Netlink(#[from] NetlinkError),
    #[error(transparent)]
    Sysctl(#[from] SysctlError),
    #[error(transparent)]
    Route(#[from] RouteError),
    #[error("the node has no InternalIP")]
    NoAddress,
    #[error("the node has an IPv6 podCIDR, but its kernel has no IPv6: switch it on (ipv6.disable=0)")]
    NoIpv6,
    #[error("no network device has the node's address {node_ip}: set --node-ip to an address of this node")]
    NoUplink { node_ip: IpAddr },
    #[error("the uplink {device} carries packets of {mtu} bytes, the pod network needs at least {need}")]
    SmallUplink { device: String, mtu: u32, need: u32 },
    #[error(
        "a device {DEVICE} exists that is not ours (alias {alias:?}, not an external VXLAN device on port {port}): \
         rename or delete it"
    )]
    ForeignDevice { alias: String, port: u16 },
    #[error(
        "UDP port {port} belongs to another tunnel device or socket (ip -d link show type vxlan): use another port"
    )]
    PortInUse { port: u16 },
    #[error("the podCIDR {pod_cidr} has no room for a gateway and a pod: it must be /30 (IPv6: /126) or larger")]
    SmallPodCidr { pod_cidr: IpNetwork },
    #[error("the podCIDR {remote} of another node overlaps this node's {pod_cidr}; no route was changed")]
    Overlap { remote: IpNetwork, pod_cidr: IpNetwork },
}

/// The gateway address of a podCIDR: its first address after the network's own.
pub fn gateway_v4(pod_cidr: Ipv4Network) -> Result<Ipv4Addr, OverlayError> {
    if pod_cidr.prefix() > 30 {
        return Err(OverlayError::SmallPodCidr { pod_cidr: pod_cidr.into() });
    }
    Ok(Ipv4Addr::from(u32::from(pod_cidr.network()) + 1))
}

/// The gateway address of a podCIDR: its first address after the network's own, which is the routers' anycast address.
pub fn gateway_v6(pod_cidr: Ipv6Network) -> Result<Ipv6Addr, OverlayError> {
    if pod_cidr.prefix() > 126 {
        return Err(OverlayError::SmallPodCidr { pod_cidr: pod_cidr.into() });
    }
    Ok(Ipv6Addr::from(u128::from(pod_cidr.network()) + 1))
}

/// The prefix length of a single address.
pub(crate) fn host_prefix(address: IpAddr) -> u8 {
    if address.is_ipv4() { 32 } else { 128 }
}

fn overlap(one: &IpNetwork, other: &IpNetwork) -> bool {
    match (one, other) {
        (IpNetwork::V4(one), IpNetwork::V4(other)) => one.overlaps(*other),
        (IpNetwork::V6(one), IpNetwork::V6(other)) => one.overlaps(*other),
        _ => false,
    }
}

/// A route's destination has no host bits.
fn whole(cidr: IpNetwork) -> IpNetwork {
    IpNetwork::new(cidr.network(), cidr.prefix()).unwrap_or(cidr)
}
