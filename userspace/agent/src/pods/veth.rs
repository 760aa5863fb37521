//! The veth pair of a pod: made, configured on both sides, verified.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use rtnetlink::packet_route::link::{InfoData, InfoVeth};
use rtnetlink::packet_route::route::{RouteAttribute, RouteMessage, RouteProtocol, RouteScope};
use rtnetlink::{LinkUnspec, LinkVeth, RouteMessageBuilder};

use super::Network;
use super::attachment::{Attachment, NEXT_HOP_V4, next_hop};
use super::error::PodsError;
use super::netns::PodNetns;
use crate::overlay::netlink::{Link, Netlink, NetlinkError, ROUTE_PROTOCOL, destination, format_mac, gateway};
use crate::overlay::{ALIAS, host_prefix, sysctl};

/// Makes the pair: one end here, the other in the pod, under its final name from the start.
pub(super) async fn create(netlink: &Netlink, pod: &Attachment, netns: &PodNetns) -> Result<Link, PodsError> {
    let exists = |ifname: &str, place: &str| PodsError::InterfaceExists { ifname: ifname.into(), place: place.into() };
    if let Some(found) = netlink.link(&pod.host_ifname).await? {
        if !pod.owns(&found) {
            return Err(exists(&pod.host_ifname, "the node"));
        }
        // Left by a call that was cut off; its other end, in a namespace that may live on, goes with it.
        netlink.delete_link(&found).await?;
    }
    let peer = LinkUnspec::new_with_name(&pod.ifname)
        .address(pod.pod_mac.to_vec())
        .mtu(pod.mtu)
        .setns_by_fd(netns.raw_fd())
        .build();
    let message = LinkVeth::new(&pod.host_ifname, &pod.ifname)
        .set_info_data(InfoData::Veth(InfoVeth::Peer(peer)))
        .address(pod.host_mac.to_vec())
        .mtu(pod.mtu)
        .build();
    let what = format!("create the veth pair {} - {} of {}", pod.host_ifname, pod.ifname, netns.path());
    netlink.add_link(message, &what).await.map_err(|error| match error {
        error if error.is(libc::EEXIST) => exists(&pod.ifname, netns.path()),
        error => error.into(),
    })?;
    let link = netlink.link(&pod.host_ifname).await?;
    link.ok_or_else(|| PodsError::Check(format!("{} vanished while it was set up", pod.host_ifname)))
}

/// Configures the host's end, or repairs it: safe to repeat.
pub(super) async fn configure_host(
    netlink: &Netlink,
    link: &Link,
    pod: &Attachment,
    network: &Network,
) -> Result<(), PodsError> {
    if link.alias != ALIAS {
        let message = LinkUnspec::new_with_index(link.index).alias(ALIAS).build();
        netlink.set_link(message, &format!("name {} ours", link.name)).await?;
    }
    set_mtu(netlink, link, pod.mtu).await?;
    sysctl::loosen_reverse_path(&link.name)?;
    sysctl::quiet(&link.name)?;
    sysctl::distrust(&link.name)?;
    if pod.v4.is_some() {
        // A device without an address takes nothing under a source whose route leads elsewhere, however loose its reverse
        // path filter is; and under a service's address pods answer processes of the node.
        netlink.add_link_local_address(link, NEXT_HOP_V4).await?;
    }
    if !link.up {
        netlink.set_up(link).await?;
    }
    for address in pod.addresses().iter() {
        netlink.set_neighbour(link, address, pod.pod_mac).await?;
        let what = format!("set the route to {address} by {}", link.name);
        netlink.replace_route(host_route(link, address, network), &what).await?;
    }
    Ok(())
}

fn host_route(link: &Link, address: IpAddr, network: &Network) -> RouteMessage {
    let (mut message, source) = match address {
        IpAddr::V4(address) => {
            let route = RouteMessageBuilder::<Ipv4Addr>::new().destination_prefix(address, 32);
            (route.scope(RouteScope::Link).build(), network.source_v4.map(IpAddr::V4))
        }
        IpAddr::V6(address) => {
            let route = RouteMessageBuilder::<Ipv6Addr>::new().destination_prefix(address, 128);
            (route.build(), network.source_v6.map(IpAddr::V6))
        }
    };
    message.header.protocol = RouteProtocol::Other(ROUTE_PROTOCOL);
    message.attributes.push(RouteAttribute::Oif(link.index));
    message.attributes.extend(source.map(|source| RouteAttribute::PrefSource(source.into())));
    message
}

/// Configures the pod's end. Runs inside the pod's namespace, after the host's end is up.
pub(super) async fn configure_pod(pod: &Attachment) -> Result<(), PodsError> {
    let netlink = Netlink::open()?;
    let lo = required(&netlink, "lo").await?;
    if !lo.up {
        netlink.set_up(&lo).await?;
    }
    let link = required(&netlink, &pod.ifname).await?;
    sysctl::quiet(&pod.ifname)?;
    for address in pod.addresses().iter() {
        netlink.add_address(&link, address).await?;
    }
    netlink.set_up(&link).await?;
    for address in pod.addresses().iter() {
        netlink.set_neighbour(&link, next_hop(address), pod.host_mac).await?;
        netlink.add_route(default_route(&link, address), "add the pod's default route").await?;
    }
    Ok(())
}

fn default_route(link: &Link, of: IpAddr) -> RouteMessage {
    let mut message = match of {
        IpAddr::V4(_) => RouteMessageBuilder::<Ipv4Addr>::new().onlink().build(),
        IpAddr::V6(_) => RouteMessageBuilder::<Ipv6Addr>::new().build(),
    };
    message.attributes.push(RouteAttribute::Gateway(next_hop(of).into()));
    message.attributes.push(RouteAttribute::Oif(link.index));
    message
}

/// Gives the pod's end the MTU of the record. Runs inside the pod's namespace.
pub(super) async fn follow_mtu(pod: &Attachment) -> Result<(), NetlinkError> {
    let netlink = Netlink::open()?;
    let link = required(&netlink, &pod.ifname).await?;
    set_mtu(&netlink, &link, pod.mtu).await
}

async fn set_mtu(netlink: &Netlink, link: &Link, mtu: u32) -> Result<(), NetlinkError> {
    if link.mtu == mtu {
        return Ok(());
    }
    let message = LinkUnspec::new_with_index(link.index).mtu(mtu).build();
    netlink.set_link(message, &format!("set the MTU of {} to {mtu}", link.name)).await
}

/// What is wrong with the host's end, if anything; its device otherwise.
pub(super) async fn verify_host(netlink: &Netlink, pod: &Attachment) -> Result<Result<Link, String>, NetlinkError> {
    let name = &pod.host_ifname;
    let Some(link) = netlink.link(name).await? else {
        return Ok(Err(format!("the device {name} is gone")));
    };
    if !pod.owns(&link) {
        return Ok(Err(format!("the device {name} is not ours")));
    }
    if !link.up {
        return Ok(Err(format!("the device {name} is down")));
    }
    let held = netlink.addresses(link.index).await?;
    if pod.v4.is_some() && !held.iter().any(|(held, ..)| *held == IpAddr::V4(NEXT_HOP_V4)) {
        return Ok(Err(format!("the device {name} has lost its address {NEXT_HOP_V4}/32")));
    }
    let routes = netlink.routes(Some(link.index)).await?;
    for address in pod.addresses().iter() {
        let to = Some((address, host_prefix(address)));
        if !routes.iter().any(|route| destination(route) == to) {
            return Ok(Err(format!("the route to {address} by {name} is gone")));
        }
        if netlink.permanent_neighbour(link.index, address).await? != Some(pod.pod_mac) {
            return Ok(Err(format!("the neighbour {address} of {name} is gone or wrong")));
        }
    }
    Ok(Ok(link))
}

/// What is wrong with the pod's end, if anything. Runs inside the pod's namespace.
pub(super) async fn verify_pod(pod: &Attachment) -> Result<Result<(), String>, NetlinkError> {
    let netlink = Netlink::open()?;
    let name = &pod.ifname;
    let Some(link) = netlink.link(name).await? else {
        return Ok(Err(format!("the pod's device {name} is gone")));
    };
    if link.mac != pod.pod_mac {
        let (found, wanted) = (format_mac(&link.mac), format_mac(&pod.pod_mac));
        return Ok(Err(format!("the pod's device {name} has MAC {found}, not {wanted}")));
    }
    if !link.up {
        return Ok(Err(format!("the pod's device {name} is down")));
    }
    let held = netlink.addresses(link.index).await?;
    let routes = netlink.routes(Some(link.index)).await?;
    for address in pod.addresses().iter() {
        let (prefix, hop) = (host_prefix(address), next_hop(address));
        if !held.iter().any(|(held, length, _)| (*held, *length) == (address, prefix)) {
            return Ok(Err(format!("the pod's device {name} has lost its address {address}/{prefix}")));
        }
        let leads = |route: &RouteMessage| {
            destination(route).is_some_and(|(to, length)| to.is_unspecified() && length == 0)
                && gateway(route) == Some(hop)
        };
        if !routes.iter().any(leads) {
            return Ok(Err(format!("the pod has lost its default route via {hop}")));
        }
        if netlink.permanent_neighbour(link.index, hop).await? != Some(pod.host_mac) {
            return Ok(Err(format!("the pod's neighbour {hop} is gone or wrong")));
        }
    }
    Ok(Ok(()))
}

async fn required(netlink: &Netlink, name: &str) -> Result<Link, NetlinkError> {
    let absent = || NetlinkError {
        operation: format!("find {name} in the pod"),
        source: std::io::Error::from_raw_os_error(libc::ENODEV),
    };
    netlink.link(name).await?.ok_or_else(absent)
}
