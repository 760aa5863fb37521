//! Which endpoints answer for a Service port: kube-proxy's rules.

use std::collections::BTreeMap;

use super::read::EndpointFacts;
use super::{BackendKey, DesiredPort, Family, SliceFacts};

/// Picks the ready endpoints of the slices' port of this name and protocol; when there are none, those that terminate
/// but still serve. The port's frontends are left to the caller. `only_node` keeps the endpoints of one node
/// (internalTrafficPolicy Local).
pub(super) fn row(
    slices: &[&SliceFacts],
    family: Family,
    port_name: &str,
    protocol: u8,
    only_node: Option<&str>,
) -> DesiredPort {
    let mut all: BTreeMap<BackendKey, EndpointFacts> = BTreeMap::new();
    for slice in slices.iter().filter(|slice| slice.family == Some(family)) {
        let of_name = |port: &&super::read::PortFacts| port.protocol == protocol && *port.name == *port_name;
        let Some(port) = slice.ports.iter().find(of_name).map(|port| port.port) else { continue };
        for endpoint in &slice.endpoints {
            if only_node.is_some_and(|node| endpoint.node.as_deref() != Some(node)) {
                continue;
            }
            let key = BackendKey { address: endpoint.address, port, protocol };
            all.entry(key).and_modify(|known| known.merge(endpoint)).or_insert_with(|| endpoint.clone());
        }
    }
    let any_ready = all.values().any(|endpoint| endpoint.ready);
    let mut desired = DesiredPort::default();
    for (key, endpoint) in all {
        let serves = if any_ready { endpoint.ready } else { endpoint.serving && endpoint.terminating };
        if !serves {
            desired.draining.insert(key, endpoint.terminating);
            continue;
        }
        if endpoint.terminating {
            desired.terminating.insert(key);
        }
        desired.row.insert(key, endpoint.node);
    }
    desired
}
