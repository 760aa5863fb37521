//! The veth pair of a pod: made, configured on both sides, verified.

use std::net::Ipv4Addr;

use rtnetlink::packet_route::link::{InfoData, InfoVeth};
use rtnetlink::packet_route::route::{RouteAddress, RouteAttribute, RouteMessage, RouteProtocol, RouteScope};
use rtnetlink::{LinkUnspec, LinkVeth, RouteMessageBuilder};

use super::attachment::{Attachment, NEXT_HOP};
use super::error::PodsError;
use super::netns::PodNetns;
use crate::overlay::netlink::{Link, Netlink, NetlinkError, ROUTE_PROTOCOL, destination, format_mac};
use crate::overlay::{ALIAS, sysctl};

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
    gateway: Ipv4Addr,
) -> Result<(), PodsError> {
    if link.alias != ALIAS {
        let message = LinkUnspec::new_with_index(link.index).alias(ALIAS).build();
        netlink.set_link(message, &format!("name {} ours", link.name)).await?;
    }
    sysctl::loosen_reverse_path(&link.name)?;
    if !link.up {
        netlink.set_up(link).await?;
    }
    netlink.set_neighbour(link, pod.address, pod.pod_mac).await?;
    let route = RouteMessageBuilder::<Ipv4Addr>::new()
        .destination_prefix(pod.address, 32)
        .output_interface(link.index)
        .protocol(RouteProtocol::Other(ROUTE_PROTOCOL))
        .scope(RouteScope::Link)
        .pref_source(gateway)
        .build();
    let what = format!("set the route to {} by {}", pod.address, link.name);
    Ok(netlink.replace_route(route, &what).await?)
}

/// Configures the pod's end. Runs inside the pod's namespace, after the host's end is up.
pub(super) async fn configure_pod(pod: &Attachment) -> Result<(), NetlinkError> {
    let netlink = Netlink::open()?;
    let lo = required(&netlink, "lo").await?;
    if !lo.up {
        netlink.set_up(&lo).await?;
    }
    let link = required(&netlink, &pod.ifname).await?;
    netlink.add_address(&link, pod.address).await?;
    netlink.set_up(&link).await?;
    netlink.set_neighbour(&link, NEXT_HOP, pod.host_mac).await?;
    let route = RouteMessageBuilder::<Ipv4Addr>::new().gateway(NEXT_HOP).output_interface(link.index).onlink().build();
    netlink.add_route(route, "add the pod's default route").await
}

/// What is wrong with the host's end, if anything; its device otherwise.
pub(super) async fn verify_host(netlink: &Netlink, pod: &Attachment) -> Result<Result<Link, String>, NetlinkError> {
    let name = &pod.host_ifname;
    let Some(link) = netlink.link(name).await? else {
        return Ok(Err(format!("the device {name} is gone")));
    };
    let routes = netlink.routes(link.index).await?;
    let neighbour = netlink.permanent_neighbour(link.index, pod.address).await?;
    Ok(if !pod.owns(&link) {
        Err(format!("the device {name} is not ours"))
    } else if !link.up {
        Err(format!("the device {name} is down"))
    } else if !routes.iter().any(|route| destination(route) == (pod.address, 32)) {
        Err(format!("the route to {} by {name} is gone", pod.address))
    } else if neighbour != Some(pod.pod_mac) {
        Err(format!("the neighbour {} of {name} is gone or wrong", pod.address))
    } else {
        Ok(link)
    })
}

/// What is wrong with the pod's end, if anything. Runs inside the pod's namespace.
pub(super) async fn verify_pod(pod: &Attachment) -> Result<Result<(), String>, NetlinkError> {
    let netlink = Netlink::open()?;
    let name = &pod.ifname;
    let Some(link) = netlink.link(name).await? else {
        return Ok(Err(format!("the pod's device {name} is gone")));
    };
    let addresses = netlink.addresses(link.index).await?;
    let routes = netlink.routes(link.index).await?;
    let neighbour = netlink.permanent_neighbour(link.index, NEXT_HOP).await?;
    let is_default = |route: &RouteMessage| {
        destination(route) == (Ipv4Addr::UNSPECIFIED, 0)
            && route.attributes.contains(&RouteAttribute::Gateway(RouteAddress::Inet(NEXT_HOP)))
    };
    Ok(if link.mac != pod.pod_mac {
        Err(format!("the pod's device {name} has MAC {}, not {}", format_mac(&link.mac), format_mac(&pod.pod_mac)))
    } else if !link.up {
        Err(format!("the pod's device {name} is down"))
    } else if !addresses.iter().any(|(address, prefix, _)| (*address, *prefix) == (pod.address, 32)) {
        Err(format!("the pod's device {name} has lost its address {}/32", pod.address))
    } else if !routes.iter().any(is_default) {
        Err(format!("the pod has lost its default route via {NEXT_HOP}"))
    } else if neighbour != Some(pod.host_mac) {
        Err(format!("the pod's neighbour {NEXT_HOP} is gone or wrong"))
    } else {
        Ok(())
    })
}

async fn required(netlink: &Netlink, name: &str) -> Result<Link, NetlinkError> {
    let absent = || NetlinkError {
        operation: format!("find {name} in the pod"),
        source: std::io::Error::from_raw_os_error(libc::ENODEV),
    };
    netlink.link(name).await?.ok_or_else(absent)
}
