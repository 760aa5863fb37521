//! Host routes: how sockets of the node reach pods of other nodes.
//!
//! One route per remote podCIDR, through the overlay device, with the gateway address as source so that replies find
//! their way back over the overlay. The plan is pure; what is ours is told by [`ROUTE_PROTOCOL`] and the device.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;

use diolkos_abi::pod::ROUTES;
use ipnetwork::Ipv4Network;
use rtnetlink::RouteMessageBuilder;
use rtnetlink::packet_route::route::{
    RouteAddress, RouteAttribute, RouteHeader, RouteMessage, RouteMetric, RouteProtocol, RouteScope, RouteType,
};

use super::netlink::{Netlink, NetlinkError, ROUTE_PROTOCOL, destination};

/// A wanted route: `<destination> dev <overlay> scope link mtu <mtu> src <source>`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct HostRoute {
    pub destination: Ipv4Network,
    pub mtu: u32,
    pub source: Ipv4Addr,
}

/// A route of ours found on the overlay device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PresentRoute {
    pub route: HostRoute,
    /// The parts of the kernel's key beside the destination are as we write them (main table, no metric, no TOS).
    pub ours_in_key: bool,
    /// The rest is as we write it (unicast, scope link, no next hop).
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
    let wanted: BTreeMap<Ipv4Network, &HostRoute> = desired.iter().map(|r| (r.destination, r)).collect();
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

/// What [`sync`] did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RouteChanges {
    pub added: usize,
    pub replaced: usize,
    pub removed: usize,
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

/// Makes our routes on the device exactly the desired ones. A route that fails does not keep the others from theirs.
pub(super) async fn sync(
    netlink: &Netlink,
    ifindex: u32,
    desired: &BTreeSet<HostRoute>,
) -> Result<RouteChanges, RouteError> {
    if desired.len() > ROUTES as usize {
        return Err(RouteError::TooMany { wanted: desired.len() });
    }
    let mut messages = netlink.routes(ifindex).await?;
    messages.retain(|message| message.header.protocol == RouteProtocol::Other(ROUTE_PROTOCOL));
    let present: Vec<PresentRoute> = messages.iter().map(read).collect();
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
        note(netlink.replace_route(message(route, ifindex), &what).await, &mut changes.replaced);
    }
    for route in &plan.add {
        let what = format!("add the route to {} (an existing one is not ours: ip route show)", route.destination);
        note(netlink.add_route(message(route, ifindex), &what).await, &mut changes.added);
    }
    let failed = failures.len();
    match failures.into_iter().next() {
        None => Ok(changes),
        Some(first) => Err(RouteError::Some { failed, first }),
    }
}

/// `<destination> dev <ifindex> proto 209 scope link [mtu <mtu>] [src <source>]`.
fn message(route: &HostRoute, ifindex: u32) -> RouteMessage {
    let mut message = RouteMessageBuilder::<Ipv4Addr>::new()
        .destination_prefix(route.destination.network(), route.destination.prefix())
        .output_interface(ifindex)
        .protocol(RouteProtocol::Other(ROUTE_PROTOCOL))
        .scope(RouteScope::Link)
        .pref_source(route.source)
        .build();
    message.attributes.push(RouteAttribute::Metrics(vec![RouteMetric::Mtu(route.mtu)]));
    message
}

fn read(message: &RouteMessage) -> PresentRoute {
    let (address, prefix) = destination(message);
    let mut route = HostRoute {
        // The kernel's prefixes are at most 32.
        destination: Ipv4Network::new_checked(address, prefix).unwrap_or_else(|| Ipv4Network::from(address)),
        mtu: 0,
        source: Ipv4Addr::UNSPECIFIED,
    };
    let mut ours_in_key = message.header.table == RouteHeader::RT_TABLE_MAIN && message.header.tos == 0;
    let mut ours_in_shape = message.header.kind == RouteType::Unicast && message.header.scope == RouteScope::Link;
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::PrefSource(RouteAddress::Inet(source)) => route.source = *source,
            RouteAttribute::Metrics(metrics) => {
                ours_in_shape &= metrics.len() == 1;
                route.mtu = metrics.iter().find_map(mtu_of).unwrap_or(0);
            }
            RouteAttribute::Priority(metric) => ours_in_key &= *metric == 0,
            RouteAttribute::Gateway(_) | RouteAttribute::Via(_) => ours_in_shape = false,
            _ => {}
        }
    }
    PresentRoute { route, ours_in_key, ours_in_shape }
}

fn mtu_of(metric: &RouteMetric) -> Option<u32> {
    match metric {
        RouteMetric::Mtu(mtu) => Some(*mtu),
        _ => None,
    }
}
