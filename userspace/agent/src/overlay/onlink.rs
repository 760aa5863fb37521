//! Where this node is a neighbour: which addresses it reaches without a router, by which device.

use std::net::IpAddr;

use ipnetwork::IpNetwork;
use rtnetlink::packet_route::route::{RouteAttribute, RouteHeader, RouteMessage, RouteProtocol, RouteType};

use super::host_prefix;
use super::netlink::{Netlink, NetlinkError, ROUTE_PROTOCOL, destination, has_next_hop, mtu, oif};

/// The main table's routes that are not ours, as far as they matter here.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OnLink(Vec<Entry>);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Entry {
    network: IpNetwork,
    ifindex: u32,
    /// Behind a router.
    routed: bool,
    /// The route's own MTU, bytes; 0 for the device's.
    mtu: u32,
    metric: u32,
}

impl OnLink {
    /// The device on which an address is a neighbour; none when a router, or nothing, leads there.
    pub fn device(&self, address: IpAddr) -> Option<u32> {
        let of_family = |entry: &&Entry| entry.network.contains(address);
        let best = self.0.iter().filter(of_family).max_by_key(|entry| (entry.network.prefix(), !entry.metric))?;
        (!best.routed && best.network.prefix() > 0).then_some(best.ifindex)
    }

    /// What the routes of a device say about packets to the network of a node's own address, and to everywhere.
    pub(super) fn mtu(&self, node: IpAddr, uplink: u32) -> Option<u32> {
        let said = self.0.iter().filter(|entry| entry.ifindex == uplink && entry.network.contains(node));
        said.map(|entry| entry.mtu).filter(|mtu| *mtu > 0).min()
    }
}

#[cfg(test)]
impl OnLink {
    /// Of connected networks and their devices.
    pub(super) fn of(networks: &[(&str, u32)]) -> Self {
        let entry = |(network, ifindex): &(&str, u32)| {
            let network = network.parse().expect("a network");
            Entry { network, ifindex: *ifindex, routed: false, mtu: 0, metric: 0 }
        };
        Self(networks.iter().map(entry).collect())
    }
}

pub(super) async fn read(netlink: &Netlink) -> Result<OnLink, NetlinkError> {
    Ok(OnLink(netlink.routes(None).await?.iter().filter_map(entry).collect()))
}

fn entry(route: &RouteMessage) -> Option<Entry> {
    let header = &route.header;
    let main = header.table == RouteHeader::RT_TABLE_MAIN && header.kind == RouteType::Unicast;
    if !main || header.protocol == RouteProtocol::Other(ROUTE_PROTOCOL) {
        return None;
    }
    let (address, prefix) = destination(route)?;
    let metric = route.attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Priority(metric) => Some(*metric),
        _ => None,
    });
    // A link-local network is on every device, so it tells none; and an address of the node itself is no neighbour.
    let link_local = match address {
        IpAddr::V4(address) => address.is_link_local(),
        IpAddr::V6(address) => address.is_unicast_link_local(),
    };
    if link_local || (header.protocol == RouteProtocol::Kernel && prefix == host_prefix(address)) {
        return None;
    }
    Some(Entry {
        network: IpNetwork::new(address, prefix).ok()?,
        ifindex: oif(route).unwrap_or(0),
        routed: has_next_hop(route) || oif(route).is_none(),
        mtu: mtu(route).unwrap_or(0),
        metric: metric.unwrap_or(0),
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn entry(network: &str, ifindex: u32) -> Entry {
        OnLink::of(&[(network, ifindex)]).0[0]
    }

    fn on_link() -> OnLink {
        let routed = |entry| Entry { routed: true, ..entry };
        OnLink(vec![
            Entry { mtu: 1400, ..routed(entry("0.0.0.0/0", 2)) },
            entry("192.0.2.0/24", 2),
            routed(entry("192.0.2.64/26", 2)),
            Entry { metric: 9, ..entry("198.51.100.0/24", 3) },
            entry("198.51.100.0/24", 4),
            entry("2001:db8::/64", 2),
            Entry { mtu: 1300, ..routed(entry("203.0.113.0/24", 2)) },
        ])
    }

    #[test]
    fn a_neighbour_is_what_the_longest_and_cheapest_route_reaches_without_a_router() {
        let device = |address: &str| on_link().device(address.parse().unwrap());
        assert_eq!(device("192.0.2.9"), Some(2));
        assert_eq!(device("192.0.2.70"), None, "a router for a part of the network");
        assert_eq!(device("198.51.100.9"), Some(4), "the lower metric");
        assert_eq!(device("203.0.114.1"), None, "the default route's router");
        assert_eq!(device("2001:db8::9"), Some(2));
        assert_eq!(device("2001:db9::9"), None);
    }

    #[test]
    fn the_mtu_of_routes_to_elsewhere_does_not_count() {
        let mtu = |uplink| on_link().mtu("192.0.2.1".parse().unwrap(), uplink);
        assert_eq!((mtu(2), mtu(3)), (Some(1400), None));
    }
}
