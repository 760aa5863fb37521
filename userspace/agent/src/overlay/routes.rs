//! Host routes: how sockets of the node reach pods of other nodes.
//!
//! One route per remote podCIDR: through the overlay device, with the gateway address as source so that replies find
//! their way back over the overlay; or, with direct routing, by the other node as next hop. The plan is pure; what is
//! ours is told by [`ROUTE_PROTOCOL`] and by the device or the next hop (a pod's route has neither).

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use diolkos_abi::pod::ROUTES;
use ipnetwork::IpNetwork;
use rtnetlink::RouteMessageBuilder;
use rtnetlink::packet_route::AddressFamily;
use rtnetlink::packet_route::route::{
    RouteAttribute, RouteHeader, RouteMessage, RouteMetric, RouteProtocol, RouteScope, RouteType,
};

use super::netlink::{Netlink, NetlinkError, ROUTE_PROTOCOL, address, destination, gateway, has_next_hop, mtu, oif};

/// A wanted route: `<destination> [via <gateway>] dev <device> scope link [mtu <mtu>] src <source>`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct HostRoute {
    pub destination: IpNetwork,
    pub ifindex: u32,
    /// The next hop, of the destination's family.
    pub gateway: Option<IpAddr>,
    /// 0 for the device's.
    pub mtu: u32,
    /// Of the destination's family.
    pub source: Option<IpAddr>,
}

/// A route of ours found in the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PresentRoute {
    pub route: HostRoute,
    /// The parts of the kernel's key beside the destination are as we write them (main table, no metric, no TOS).
    pub ours_in_key: bool,
    /// The rest is as we write it (unicast, the right scope, one next hop at most).
    pub ours_in_shape: bool,
}

/// What turns the present routes into the desired ones. No destination stands in two lists, except one whose present
/// route has a foreign key: that is removed (by its index in the present list) and the wanted one added.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RoutePlan {
    pub add: Vec<HostRoute>,
    pub replace: Vec<HostRoute>,
    /// Indices into the present routes.
    pub remove: Vec<usize>,
}

pub fn plan(desired: &BTreeSet<HostRoute>, present: &[PresentRoute]) -> RoutePlan {
    let mut plan = RoutePlan::default();
    let wanted: BTreeMap<IpNetwork, &HostRoute> = desired.iter().map(|r| (r.destination, r)).collect();
    let mut held = BTreeSet::new();
    for (index, found) in present.iter().enumerate() {
        let destination = found.route.destination;
        match wanted.get(&destination) {
            Some(route) if found.ours_in_key && held.insert(destination) => {
                if !found.ours_in_shape || **route != found.route {
                    plan.replace.push(**route);
                }
            }
            _ => plan.remove.push(index),
        }
    }
    plan.add.extend(wanted.iter().filter(|(to, _)| !held.contains(*to)).map(|(_, route)| **route));
    plan
}

/// What a sync of the routes did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RouteChanges {
    pub added: usize,
    pub replaced: usize,
    pub removed: usize,
    /// Direct routing: podCIDRs of nodes that are no neighbours. They have no route of ours: routers, or routes that
    /// the operator makes, lead there.
    pub not_on_link: BTreeSet<IpNetwork>,
}

/// Routes that are not as they should be. The others are.
#[derive(Debug, thiserror::Error)]
pub enum RouteError {
    #[error(transparent)]
    Netlink(#[from] NetlinkError),
    #[error("{wanted} podCIDRs of other nodes, at most {ROUTES} are supported; no route was changed")]
    TooMany { wanted: usize },
    #[error("{} routes could not be changed, first: {first}", failed)]
    Some { failed: usize, first: NetlinkError },
}

/// How many routes of ours there are, through whatever device.
pub async fn our_routes(netlink: &Netlink) -> Result<usize, NetlinkError> {
    Ok(netlink.routes(None).await?.iter().filter(|route| has_our_protocol(route)).count())
}

/// Removes all of them.
pub async fn remove_routes(netlink: &Netlink) -> Result<(), NetlinkError> {
    for route in netlink.routes(None).await?.into_iter().filter(has_our_protocol) {
        netlink.delete_route(route, "delete a route of ours").await?;
    }
    Ok(())
}

fn has_our_protocol(route: &RouteMessage) -> bool {
    route.header.protocol == RouteProtocol::Other(ROUTE_PROTOCOL)
}

/// Makes our routes to other nodes exactly the desired ones; `overlay` is the overlay device, or 0. A route that fails
/// does not keep the others from theirs.
pub(super) async fn sync(
    netlink: &Netlink,
    overlay: u32,
    desired: &BTreeSet<HostRoute>,
) -> Result<RouteChanges, RouteError> {
    if desired.len() > ROUTES as usize {
        return Err(RouteError::TooMany { wanted: desired.len() });
    }
    let mut messages = netlink.routes(None).await?;
    messages.retain(|message| is_ours(message, overlay));
    let (messages, present): (Vec<RouteMessage>, Vec<PresentRoute>) =
        messages.into_iter().filter_map(|message| read(&message).map(|route| (message, route))).unzip();
    let plan = plan(desired, &present);

    let mut changes = RouteChanges::default();
    let mut failures = Vec::new();
    let mut note = |result: Result<(), NetlinkError>, count: &mut usize| match result {
        Ok(()) => *count += 1,
        Err(error) => failures.push(error),
    };
    // Removals first: a removed route of a foreign key may cover the destination of an added one.
    for index in plan.remove {
        let what = format!("remove the route to {}", present[index].route.destination);
        note(netlink.delete_route(messages[index].clone(), &what).await, &mut changes.removed);
    }
    for route in &plan.replace {
        let what = format!("replace the route to {}", route.destination);
        note(netlink.replace_route(message(route), &what).await, &mut changes.replaced);
    }
    for route in &plan.add {
        let what = format!("add the route to {} (an existing one is not ours: ip route show)", route.destination);
        note(netlink.add_route(message(route), &what).await, &mut changes.added);
    }
    let failed = failures.len();
    match failures.into_iter().next() {
        None => Ok(changes),
        Some(first) => Err(RouteError::Some { failed, first }),
    }
}

fn is_ours(message: &RouteMessage, overlay: u32) -> bool {
    message.header.protocol == RouteProtocol::Other(ROUTE_PROTOCOL)
        && message.header.kind == RouteType::Unicast
        && (oif(message) == Some(overlay) || has_next_hop(message))
}

/// `<destination> [via <gateway>] dev <ifindex> proto 209 [scope link] [mtu <mtu>] [src <source>]`.
fn message(route: &HostRoute) -> RouteMessage {
    let (to, prefix) = (route.destination.network(), route.destination.prefix());
    let mut message = match to {
        IpAddr::V4(to) => RouteMessageBuilder::<Ipv4Addr>::new().destination_prefix(to, prefix).build(),
        IpAddr::V6(to) => RouteMessageBuilder::<Ipv6Addr>::new().destination_prefix(to, prefix).build(),
    };
    message.header.protocol = RouteProtocol::Other(ROUTE_PROTOCOL);
    message.header.scope = scope(to, route.gateway.is_some());
    message.attributes.push(RouteAttribute::Oif(route.ifindex));
    message.attributes.extend(route.gateway.map(|gateway| RouteAttribute::Gateway(gateway.into())));
    message.attributes.extend(route.source.map(|source| RouteAttribute::PrefSource(source.into())));
    if route.mtu > 0 {
        message.attributes.push(RouteAttribute::Metrics(vec![RouteMetric::Mtu(route.mtu)]));
    }
    message
}

/// IPv6 knows no scopes of routes.
fn scope(to: IpAddr, next_hop: bool) -> RouteScope {
    if to.is_ipv4() && !next_hop { RouteScope::Link } else { RouteScope::Universe }
}

/// None when it is no route of an IP family.
fn read(message: &RouteMessage) -> Option<PresentRoute> {
    let (to, prefix) = destination(message)?;
    let route = HostRoute {
        destination: IpNetwork::new(to, prefix).ok()?,
        ifindex: oif(message).unwrap_or(0),
        gateway: gateway(message),
        mtu: mtu(message).unwrap_or(0),
        source: message.attributes.iter().find_map(|attribute| match attribute {
            RouteAttribute::PrefSource(source) => address(source),
            _ => None,
        }),
    };
    // What the kernel takes for a route without a metric: IP6_RT_PRIO_USER.
    let usual = if message.header.address_family == AddressFamily::Inet6 { 1024 } else { 0 };
    let mut ours_in_key = message.header.table == RouteHeader::RT_TABLE_MAIN && message.header.tos == 0;
    let mut ours_in_shape = message.header.scope == scope(to, route.gateway.is_some());
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Metrics(metrics) => ours_in_shape &= metrics.len() == 1,
            RouteAttribute::Priority(metric) => ours_in_key &= *metric == usual,
            RouteAttribute::MultiPath(_) | RouteAttribute::Via(_) => ours_in_shape = false,
            _ => {}
        }
    }
    Some(PresentRoute { route, ours_in_key, ours_in_shape })
}
