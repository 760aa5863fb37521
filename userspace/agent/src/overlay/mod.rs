//! The overlay device, the gateway address and the host routes.
//!
//! Pods talk over the overlay through eBPF alone; the routes and the gateway address here are for sockets of the node
//! itself, which the kernel routes before any of our programs sees the packet.

mod device;
pub mod netlink;
mod routes;
pub(crate) mod sysctl;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::net::Ipv4Addr;

use ipnetwork::Ipv4Network;

pub use device::overlay_mac;
pub use routes::{HostRoute, PresentRoute, RouteChanges, RouteError, RoutePlan, plan};

use device::{MIN_UPLINK_MTU, Wanted};
use netlink::{Netlink, NetlinkError};
use sysctl::SysctlError;

/// Name of the overlay device.
pub const DEVICE: &str = "diolkos_vxlan";
/// Alias by which devices of ours are recognised (`ip -d link`).
pub const ALIAS: &str = "diolkos";
/// What VXLAN over IPv4 adds to a packet, bytes: IPv4 20, UDP 8, VXLAN 8, inner Ethernet 14.
pub const OVERHEAD: u32 = 50;

/// What the overlay is made from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OverlayConfig {
    /// This node's tunnel address; the device that holds it is the uplink, and its MTU decides ours.
    pub node_ip: Ipv4Addr,
    /// UDP port of the tunnels. The VNI is not here: in external mode it comes with each packet.
    pub port: u16,
    /// The pods of this node.
    pub pod_cidr: Ipv4Network,
}

/// The overlay as it stands in the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Overlay {
    pub ifindex: u32,
    pub mac: [u8; 6],
    /// Of the device, of pods and of the routes to other nodes, bytes.
    pub mtu: u32,
    /// The node's own address in the pod network: the first one of the podCIDR.
    pub gateway: Ipv4Addr,
    pod_cidr: Ipv4Network,
}

impl Overlay {
    /// Makes device, gateway address and settings as they should be, whatever is there. Safe to repeat; repairs.
    pub async fn ensure(config: &OverlayConfig) -> Result<Self, OverlayError> {
        let gateway = gateway(config.pod_cidr)?;
        let netlink = Netlink::open()?;
        let uplink = device::uplink(&netlink, config.node_ip).await?;
        let wanted = Wanted { mac: overlay_mac(config.node_ip), mtu: uplink.mtu - OVERHEAD, port: config.port };
        let link = device::ensure(&netlink, &wanted).await?;
        sysctl::forward()?;
        sysctl::loosen_strict_reverse_path_of_all()?;
        sysctl::loosen_reverse_path(DEVICE)?;
        netlink.add_address(&link, gateway).await?;
        for (stale, prefix, message) in netlink.addresses(link.index).await? {
            if (stale, prefix) != (gateway, 32) {
                tracing::info!(device = DEVICE, address = %stale, "stale gateway address removed");
                netlink.delete_address(message, &format!("remove {stale}/{prefix} from {DEVICE}")).await?;
            }
        }
        Ok(Self { ifindex: link.index, mac: wanted.mac, mtu: wanted.mtu, gateway, pod_cidr: config.pod_cidr })
    }

    /// Makes the host routes exactly those of the given podCIDRs of other nodes: what is missing is added, what is
    /// wrong replaced, what is ours and no longer wanted removed. Safe to repeat; repairs.
    pub async fn sync_routes(&self, remote: &BTreeSet<Ipv4Network>) -> Result<RouteChanges, OverlayError> {
        let desired = self.desired_routes(remote)?;
        Ok(routes::sync(&Netlink::open()?, self.ifindex, &desired).await?)
    }

    fn desired_routes(&self, remote: &BTreeSet<Ipv4Network>) -> Result<BTreeSet<HostRoute>, OverlayError> {
        if let Some(overlap) = remote.iter().find(|cidr| cidr.overlaps(self.pod_cidr)) {
            return Err(OverlayError::Overlap { remote: *overlap, pod_cidr: self.pod_cidr });
        }
        let route = |cidr: &Ipv4Network| HostRoute {
            // A route's destination has no host bits.
            destination: Ipv4Network::new_checked(cidr.network(), cidr.prefix()).unwrap_or(*cidr),
            mtu: self.mtu,
            source: self.gateway,
        };
        Ok(remote.iter().map(route).collect())
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
    #[error("no network device has the node's address {node_ip}: set --node-ip to an address of this node")]
    NoUplink { node_ip: Ipv4Addr },
    #[error("the uplink {device} has MTU {mtu}, the overlay needs at least {MIN_UPLINK_MTU}")]
    SmallUplink { device: String, mtu: u32 },
    #[error(
        "a device {DEVICE} exists that is not ours (alias {alias:?}, not an external VXLAN device on port {port}): \
         rename or delete it"
    )]
    ForeignDevice { alias: String, port: u16 },
    #[error(
        "UDP port {port} belongs to another tunnel device or socket (ip -d link show type vxlan): use another port"
    )]
    PortInUse { port: u16 },
    #[error("the podCIDR {pod_cidr} has no room for a gateway and a pod: it must be /30 or larger")]
    SmallPodCidr { pod_cidr: Ipv4Network },
    #[error("the podCIDR {remote} of another node overlaps this node's {pod_cidr}; no route was changed")]
    Overlap { remote: Ipv4Network, pod_cidr: Ipv4Network },
}

/// The gateway address of a podCIDR: its first address after the network's own.
pub fn gateway(pod_cidr: Ipv4Network) -> Result<Ipv4Addr, OverlayError> {
    if pod_cidr.prefix() > 30 {
        return Err(OverlayError::SmallPodCidr { pod_cidr });
    }
    Ok(Ipv4Addr::from(u32::from(pod_cidr.network()) + 1))
}
