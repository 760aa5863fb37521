//! Node addresses: every node gets a part of the cluster's pod network, once and for good.

use std::collections::HashSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use ipnetwork::IpNetwork;
use k8s_openapi::api::core::v1::{Node, NodeCondition};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;

use crate::object::{Action, Key, Object};
use crate::view::{Settings, View};

/// The condition that says a node has no podCIDR because there is none left.
const CONDITION: &str = "NetworkUnavailable";
const EXHAUSTED: &str = "NoPodCIDR";
const GIVEN: &str = "PodCIDRAssigned";

/// Gives a node without a podCIDR the first free one; when there is none, the node's conditions say so.
pub fn reconcile(view: &View, key: &Key, now: Timestamp) -> Vec<Action> {
    let Some(node) = view.nodes.get("", &key.name) else { return Vec::new() };
    if node.metadata.deletion_timestamp.is_some() {
        return Vec::new();
    }
    let reason = condition(node).and_then(|condition| condition.reason.as_deref());
    if !cidrs(node).is_empty() {
        return if reason == Some(EXHAUSTED) { vec![tell(node, true, String::new(), now)] } else { Vec::new() };
    }
    match first_free(view) {
        Some(free) => {
            let mut node = Node::clone(node);
            let spec = node.spec.get_or_insert_default();
            spec.pod_cidr = Some(free.to_string());
            spec.pod_cidrs = Some(vec![free.to_string()]);
            vec![Action::Update(Object::Node(Arc::new(node)))]
        }
        None if reason == Some(EXHAUSTED) => Vec::new(),
        None => {
            let Settings { cluster_cidr, node_mask } = view.settings;
            let message = format!(
                "the cluster CIDR {cluster_cidr} has no /{node_mask} left: delete nodes, or give the controller manager \
                 a larger --cluster-cidr or --node-cidr-mask-size"
            );
            tracing::error!(node = key.name, "{message}");
            vec![tell(node, false, message, now)]
        }
    }
}

/// Whether a network of the cluster overlaps none that a node has; the first of them.
fn first_free(view: &View) -> Option<IpNetwork> {
    let taken: Vec<IpNetwork> = view.nodes.iter().flat_map(|node| cidrs(node)).collect();
    let exact: HashSet<IpNetwork> = taken.iter().copied().collect();
    // Networks of another size come from an earlier setting, or from a person.
    let odd: Vec<IpNetwork> = taken.into_iter().filter(|network| network.prefix() != view.settings.node_mask).collect();
    subnets(view.settings).find(|free| !exact.contains(free) && !odd.iter().any(|network| overlap(*network, *free)))
}

/// All networks that nodes can get, in order.
fn subnets(settings: Settings) -> impl Iterator<Item = IpNetwork> {
    let Settings { cluster_cidr, node_mask } = settings;
    let bits = if cluster_cidr.is_ipv4() { 32 } else { 128 };
    let fits = node_mask >= cluster_cidr.prefix() && node_mask <= bits;
    // Beyond 2^16 nodes no cluster goes.
    let count = if fits { 1u128 << (node_mask - cluster_cidr.prefix()).min(16) } else { 0 };
    let step = bits.checked_sub(node_mask).map_or(0, |host| 1u128.checked_shl(host.into()).unwrap_or(0));
    let base = number(cluster_cidr.network());
    (0..count).filter_map(move |index| {
        let address = base + index * step;
        let address = match cluster_cidr {
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
