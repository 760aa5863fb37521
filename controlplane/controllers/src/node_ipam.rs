//! Node addresses: every node gets a part of the cluster's pod network of each address family, once and for good.

use std::collections::HashSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use ipnetwork::IpNetwork;
use k8s_openapi::api::core::v1::{Node, NodeCondition};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;

use crate::object::{Action, Key, Object};
use crate::view::{PodNetwork, View};

/// The condition that says a node has no podCIDR because there is none left.
const CONDITION: &str = "NetworkUnavailable";
const EXHAUSTED: &str = "NoPodCIDR";
const GIVEN: &str = "PodCIDRAssigned";

/// Gives a node without a podCIDR the first free one of each family; when there is none, the node's conditions say so.
pub fn reconcile(view: &View, key: &Key, now: Timestamp) -> Vec<Action> {
    let Some(node) = view.nodes.get("", &key.name) else { return Vec::new() };
    if node.metadata.deletion_timestamp.is_some() {
        return Vec::new();
    }
    let reason = condition(node).and_then(|condition| condition.reason.as_deref());
    if !cidrs(node).is_empty() {
        return if reason == Some(EXHAUSTED) { vec![tell(node, true, String::new(), now)] } else { Vec::new() };
    }
    let networks = &view.settings.pod_networks;
    let free: Vec<Option<IpNetwork>> = networks.iter().map(|network| first_free(view, *network)).collect();
    // All families or none: a node never gets a second family later.
    match free.iter().position(Option::is_none) {
        None => {
            let free: Vec<String> = free.into_iter().flatten().map(|network| network.to_string()).collect();
            let mut node = Node::clone(node);
            let spec = node.spec.get_or_insert_default();
            spec.pod_cidr = free.first().cloned();
            spec.pod_cidrs = Some(free);
            vec![Action::Update(Object::Node(Arc::new(node)))]
        }
        Some(_) if reason == Some(EXHAUSTED) => Vec::new(),
        Some(index) => {
            let PodNetwork { cidr, node_mask } = networks[index];
            let message = format!(
                "the cluster CIDR {cidr} has no /{node_mask} left: delete nodes, or give the controller manager a \
                 larger --cluster-cidr or --node-cidr-mask-size"
            );
            tracing::error!(node = key.name, "{message}");
            vec![tell(node, false, message, now)]
        }
    }
}

/// The first part of a pod network that overlaps none that a node has.
fn first_free(view: &View, network: PodNetwork) -> Option<IpNetwork> {
    let taken: Vec<IpNetwork> = view.nodes.iter().flat_map(|node| cidrs(node)).collect();
    let exact: HashSet<IpNetwork> = taken.iter().copied().collect();
    // Networks of another size come from an earlier setting, or from a person.
    let odd: Vec<IpNetwork> = taken.into_iter().filter(|taken| taken.prefix() != network.node_mask).collect();
    subnets(network).find(|free| !exact.contains(free) && !odd.iter().any(|taken| overlap(*taken, *free)))
}

/// All networks that nodes can get, in order.
fn subnets(PodNetwork { cidr, node_mask }: PodNetwork) -> impl Iterator<Item = IpNetwork> {
    let bits = if cidr.is_ipv4() { 32 } else { 128 };
    let fits = node_mask >= cidr.prefix() && node_mask <= bits;
    // Beyond 2^16 nodes no cluster goes.
    let count = if fits { 1u128 << (node_mask - cidr.prefix()).min(16) } else { 0 };
    let step = bits.checked_sub(node_mask).map_or(0, |host| 1u128.checked_shl(host.into()).unwrap_or(0));
    let base = number(cidr.network());
    (0..count).filter_map(move |index| {
        let address = base + index * step;
        let address = match cidr {
            IpNetwork::V4(_) => IpAddr::V4(Ipv4Addr::from(u32::try_from(address).ok()?)),
            IpNetwork::V6(_) => IpAddr::V6(Ipv6Addr::from(address)),
        };
        IpNetwork::new(address, node_mask).ok()
    })
}

fn number(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(address) => u128::from(u32::from(address)),
        IpAddr::V6(address) => u128::from(address),
    }
}

fn overlap(a: IpNetwork, b: IpNetwork) -> bool {
    a.contains(b.network()) || b.contains(a.network())
}

fn cidrs(node: &Node) -> Vec<IpNetwork> {
    let Some(spec) = &node.spec else { return Vec::new() };
    let all = spec.pod_cidrs.iter().flatten().chain(&spec.pod_cidr);
    let mut networks: Vec<IpNetwork> = all.filter_map(|cidr| cidr.parse().ok()).collect();
    networks.dedup();
    networks
}

fn condition(node: &Node) -> Option<&NodeCondition> {
    node.status.as_ref()?.conditions.as_ref()?.iter().find(|condition| condition.type_ == CONDITION)
}

fn tell(node: &Node, available: bool, message: String, now: Timestamp) -> Action {
    let now = Some(Time(Timestamp::from_second(now.as_second()).unwrap_or(now)));
    let mut node = node.clone();
    let conditions = node.status.get_or_insert_default().conditions.get_or_insert_default();
    conditions.retain(|condition| condition.type_ != CONDITION);
    conditions.push(NodeCondition {
        type_: CONDITION.into(),
        status: if available { "False" } else { "True" }.into(),
        reason: Some(if available { GIVEN } else { EXHAUSTED }.into()),
        message: Some(message),
        last_heartbeat_time: now.clone(),
        last_transition_time: now,
    });
    Action::UpdateStatus(Object::Node(Arc::new(node)))
}
