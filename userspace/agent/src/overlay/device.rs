//! The overlay device: found, judged, and made as it should be.

use std::net::IpAddr;

use diolkos_abi::address::{address_words, hash};
use rtnetlink::{LinkUnspec, LinkVxlan};

use super::netlink::{Link, Netlink, NetlinkError, Vxlan};
use super::{ALIAS, DEVICE, OverlayError, sysctl};

/// The device as it should be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Wanted {
    pub(super) mac: [u8; 6],
    pub(super) mtu: u32,
    pub(super) port: u16,
}

/// What to do about a device that has our name already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Judgement {
    /// The shape, which only creation can set, fits; the rest is set.
    Adopt,
    /// Ours, of another shape (another port, say): made again.
    Replace,
    /// Somebody else's.
    Refuse,
}

pub(super) fn judge(found: &Link, wanted: &Wanted) -> Judgement {
    if found.vxlan == Some(Vxlan { external: true, port: wanted.port }) {
        Judgement::Adopt
    } else if found.alias == ALIAS {
        Judgement::Replace
    } else {
        Judgement::Refuse
    }
}

/// MAC of a node's overlay device: every node can tell every other's from its tunnel address.
pub fn overlay_mac(tunnel: IpAddr) -> [u8; 6] {
    let [a, b, c, d] = match tunnel {
        IpAddr::V4(address) => address.octets(),
        IpAddr::V6(address) => hash(address_words(&address.octets())).to_be_bytes(),
    };
    [0x0a, 0xd1, a, b, c, d]
}

/// The device that holds the node's address.
pub(super) async fn uplink(netlink: &Netlink, node_ip: IpAddr) -> Result<Link, OverlayError> {
    let holders = netlink.holders(node_ip).await?;
    let links = netlink.links().await?;
    let link = links.into_iter().find(|link| link.name != DEVICE && holders.contains(&link.index));
    link.ok_or(OverlayError::NoUplink { node_ip })
}

/// Removes the device, as far as it is ours.
pub(super) async fn remove(netlink: &Netlink) -> Result<(), OverlayError> {
    match netlink.link(DEVICE).await? {
        Some(link) if link.alias == ALIAS => {
            tracing::info!(device = DEVICE, "removed: routing is direct");
            Ok(netlink.delete_link(&link).await?)
        }
        _ => Ok(()),
    }
}

pub(super) async fn ensure(netlink: &Netlink, wanted: &Wanted) -> Result<Link, OverlayError> {
    let link = match netlink.link(DEVICE).await? {
        None => create(netlink, wanted).await?,
        Some(found) => match judge(&found, wanted) {
            Judgement::Adopt => found,
            Judgement::Replace => {
                tracing::info!(device = DEVICE, port = wanted.port, "overlay device has another shape: made again");
                netlink.delete_link(&found).await?;
                create(netlink, wanted).await?
            }
            Judgement::Refuse => return Err(OverlayError::ForeignDevice { alias: found.alias, port: wanted.port }),
        },
    };
    settle(netlink, link, wanted).await
}

async fn create(netlink: &Netlink, wanted: &Wanted) -> Result<Link, OverlayError> {
    let message = LinkVxlan::new(DEVICE, 0)
        .collect_metadata(true)
        .learning(false)
        .port(wanted.port)
        .arp(false)
        .address(wanted.mac.to_vec())
        .mtu(wanted.mtu)
        .build();
    netlink.add_link(message, &format!("create the VXLAN device {DEVICE}")).await.map_err(|error| {
        // The kernel allows one device in external mode per UDP port.
        if error.is(libc::EEXIST) { OverlayError::PortInUse { port: wanted.port } } else { error.into() }
    })?;
    let vanished = NetlinkError {
        operation: format!("look up {DEVICE} after its creation"),
        source: std::io::Error::from_raw_os_error(libc::ENODEV),
    };
    netlink.link(DEVICE).await?.ok_or(vanished.into())
}

/// Sets what can be set of a device that exists, the alias first: what is ours must be told as ours from then on.
async fn settle(netlink: &Netlink, found: Link, wanted: &Wanted) -> Result<Link, OverlayError> {
    let index = found.index;
    if found.alias != ALIAS {
        netlink
            .set_link(LinkUnspec::new_with_index(index).alias(ALIAS).build(), "name the overlay device ours")
            .await?;
    }
    if found.mac != wanted.mac || found.mtu != wanted.mtu || found.arp {
        let message = LinkUnspec::new_with_index(index).address(wanted.mac.to_vec()).mtu(wanted.mtu).arp(false).build();
        netlink.set_link(message, &format!("set MAC and MTU of {DEVICE}")).await?;
    }
    // Before it comes up, or the kernel gives it an address of its own.
    sysctl::quiet(DEVICE)?;
    if !found.up {
        netlink.set_up(&found).await.map_err(|error| {
            // Another tunnel (flannel's, say) has the UDP socket.
            if error.is(libc::EADDRINUSE) { OverlayError::PortInUse { port: wanted.port } } else { error.into() }
        })?;
    }
    let alias = ALIAS.to_owned();
    Ok(Link { alias, mac: wanted.mac, mtu: wanted.mtu, arp: false, up: true, ..found })
}
