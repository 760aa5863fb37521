//! The node's own devices: those by which its pods talk to the outside, and direct routing reaches other nodes.

use std::net::IpAddr;

use rtnetlink::packet_route::route::{RouteAttribute, RouteMessage};

use crate::dataplane::{self, Shared};
use crate::overlay::netlink::{Link, Netlink, NetlinkError, destination, oif};
use crate::overlay::{ALIAS, OverlayConfig};

/// What keeps the programs off a node's own devices.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DevicesError {
    #[error("no network device holds an address of the node or a default route: name them with --devices")]
    None,
    #[error("no Ethernet device is called {0:?}, nor has that alias: correct --devices")]
    Unmatched(String),
    #[error(transparent)]
    Netlink(#[from] NetlinkError),
    #[error(transparent)]
    Dataplane(#[from] dataplane::Error),
}

/// Attaches the programs of the node's devices to those and to no others. `patterns` are names or aliases, or their
/// beginnings with a `+` after them; without one the node's addresses and default routes decide.
pub(crate) async fn sync(dataplane: &Shared, node: &OverlayConfig, patterns: &[String]) -> Result<(), DevicesError> {
    let netlink = Netlink::open()?;
    let mut uplinks = Vec::new();
    for address in [node.node_v4.map(IpAddr::V4), node.node_v6.map(IpAddr::V6)].into_iter().flatten() {
        uplinks.extend(netlink.holders(address).await?);
    }
    uplinks.extend(netlink.routes(None).await?.iter().filter(|route| is_default(route)).flat_map(ways));
    let chosen = choose(&netlink.links().await?, &uplinks, patterns)?;
    let mut dataplane = dataplane.lock();
    for link in &chosen {
        dataplane.attach_netdev(&link.name, link.index)?;
    }
    for name in dataplane.attached_netdevs()? {
        if !chosen.iter().any(|link| link.name == name) {
            tracing::info!(device = name, "no longer a device of the node's; its programs are taken off");
            dataplane.detach_netdev(&name)?;
        }
    }
    Ok(())
}

/// The devices among `links`. `uplinks` are the indices of those that hold an address of the node or a default route.
fn choose(links: &[Link], uplinks: &[u32], patterns: &[String]) -> Result<Vec<Link>, DevicesError> {
    // What is behind a port of a bridge or a bond comes by the bridge or bond itself; a device without a MAC has no
    // Ethernet header, which the programs expect.
    let fits = |link: &&Link| link.alias != ALIAS && link.master == 0 && link.mac != [0; 6];
    let candidates: Vec<&Link> = links.iter().filter(fits).collect();
    let named = |link: &Link, pattern: &str| {
        [&link.name, &link.alias].iter().any(|name| match pattern.strip_suffix('+') {
            Some(beginning) => name.starts_with(beginning),
            None => *name == pattern,
        })
    };
    if let Some(unmatched) = patterns.iter().find(|pattern| !candidates.iter().any(|link| named(link, pattern))) {
        return Err(DevicesError::Unmatched(unmatched.clone()));
    }
    let wanted = |link: &&&Link| match patterns {
        [] => uplinks.contains(&link.index),
        patterns => patterns.iter().any(|pattern| named(link, pattern)),
    };
    let chosen: Vec<Link> = candidates.iter().filter(wanted).map(|link| (*link).clone()).collect();
    if chosen.is_empty() { Err(DevicesError::None) } else { Ok(chosen) }
}

fn is_default(route: &RouteMessage) -> bool {
    destination(route).is_some_and(|(_, prefix)| prefix == 0)
}

/// The devices of a route: several for one of several paths.
fn ways(route: &RouteMessage) -> Vec<u32> {
    let paths = route.attributes.iter().filter_map(|attribute| match attribute {
        RouteAttribute::MultiPath(hops) => Some(hops.iter().map(|hop| hop.interface_index)),
        _ => None,
    });
    paths.flatten().chain(oif(route)).collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn link(index: u32, name: &str) -> Link {
        Link { index, name: name.into(), mac: [2, 0, 0, 0, 0, index as u8], ..Link::default() }
    }

    fn machine() -> Vec<Link> {
        vec![
            Link { mac: [0; 6], ..link(1, "lo") },
            link(2, "eth0"),
            Link { alias: "storage".into(), ..link(3, "eth1.100") },
            Link { alias: ALIAS.into(), ..link(4, "diolkos_vxlan") },
            Link { alias: ALIAS.into(), ..link(5, "di0123456789a") },
            Link { master: 7, ..link(6, "eno1") },
            link(7, "bond0"),
            Link { mac: [0; 6], ..link(8, "wg0") },
        ]
    }

    fn chosen(uplinks: &[u32], patterns: &[&str]) -> Vec<String> {
        let patterns: Vec<String> = patterns.iter().map(|pattern| (*pattern).to_owned()).collect();
        choose(&machine(), uplinks, &patterns).unwrap().into_iter().map(|link| link.name).collect()
    }

    #[test]
    fn devices_with_a_node_address_or_a_default_route_are_chosen_and_no_ports_pods_or_tunnels() {
        assert_eq!(chosen(&[1, 2, 4, 5, 6, 7, 8], &[]), ["eth0", "bond0"]);
        assert!(matches!(choose(&machine(), &[1, 5], &[]), Err(DevicesError::None)));
    }

    #[test]
    fn named_devices_are_chosen_by_name_alias_or_beginning() {
        assert_eq!(chosen(&[7], &["eth+"]), ["eth0", "eth1.100"]);
        assert_eq!(chosen(&[], &["storage", "bond0"]), ["eth1.100", "bond0"]);
        let error = choose(&machine(), &[2], &["eth0".into(), "enp+".into()]).unwrap_err();
        assert_eq!(error.to_string(), "no Ethernet device is called \"enp+\", nor has that alias: correct --devices");
        assert!(choose(&machine(), &[], &["diolkos_vxlan".into()]).is_err(), "our own are not for choice");
    }
}
