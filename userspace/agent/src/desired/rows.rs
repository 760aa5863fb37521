//! Which endpoints answer for a Service port: kube-proxy's rules.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::sync::Arc;

use diolkos_abi::address::{protocol, v4_mapped};
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointSlice};

use super::{BackendKey, DesiredPort, Reason, Refusal};

/// Picks the ready endpoints of the slices' port of this name and protocol; when there are none, those that terminate
/// but still serve. The port's frontends are left to the caller. `only_node` keeps the endpoints of one node (internalTrafficPolicy Local).
///
/// A slice with an address or port that cannot be is refused, and with it the Service: half of its endpoints would
/// carry the load of all.
pub(super) fn row(
    slices: &[&EndpointSlice],
    port_name: &str,
    protocol: u8,
    only_node: Option<&str>,
) -> Result<DesiredPort, Refusal> {
    let mut all: BTreeMap<BackendKey, Candidate> = BTreeMap::new();
    for slice in slices.iter().filter(|slice| slice.address_type == "IPv4") {
        let Some(port) = slice_port(slice, port_name, protocol).map_err(|reason| refusal(slice, reason))? else {
            continue;
        };
        for endpoint in slice.endpoints.iter().flatten() {
            if only_node.is_some_and(|node| endpoint.node_name.as_deref() != Some(node)) {
                continue;
            }
            let address = address(endpoint).map_err(|reason| refusal(slice, reason))?;
            let Some(address) = address else { continue };
            let candidate = Candidate::new(endpoint);
            let key = BackendKey { address: v4_mapped(address.octets()), port };
            all.entry(key).and_modify(|known| known.merge(&candidate)).or_insert(candidate);
        }
    }
    let any_ready = all.values().any(|candidate| candidate.ready);
    let mut desired = DesiredPort::default();
    for (key, candidate) in all {
        let serves = if any_ready { candidate.ready } else { candidate.serving && candidate.terminating };
        if !serves {
            desired.draining.insert(key, candidate.terminating);
            continue;
        }
        if candidate.terminating {
            desired.terminating.insert(key);
        }
        desired.row.insert(key, candidate.node);
    }
    Ok(desired)
}

struct Candidate {
    ready: bool,
    serving: bool,
    terminating: bool,
    node: Option<Arc<str>>,
}

impl Candidate {
    /// Conditions that are not said: ready and serving count as true, terminating as false.
    fn new(endpoint: &Endpoint) -> Self {
        let conditions = endpoint.conditions.as_ref();
        Self {
            ready: conditions.and_then(|c| c.ready).unwrap_or(true),
            serving: conditions.and_then(|c| c.serving).unwrap_or(true),
            terminating: conditions.and_then(|c| c.terminating).unwrap_or(false),
            node: endpoint.node_name.as_deref().map(Arc::from),
        }
    }

    /// An endpoint can stand in two slices while it moves between them: the better news counts.
    fn merge(&mut self, other: &Self) {
        self.ready |= other.ready;
        self.serving |= other.serving;
        self.terminating &= other.terminating;
        if self.node.is_none() {
            self.node = other.node.clone();
        }
    }
}

fn slice_port(slice: &EndpointSlice, name: &str, wanted: u8) -> Result<Option<u16>, Reason> {
    for port in slice.ports.iter().flatten() {
        let protocol = match port.protocol.as_deref().unwrap_or("TCP") {
            "TCP" => protocol::TCP,
            "UDP" => protocol::UDP,
            "SCTP" => protocol::SCTP,
            _ => continue,
        };
        if protocol != wanted || port.name.as_deref().unwrap_or_default() != name {
            continue;
        }
        // A port that is not said would mean all ports: no Service port maps to that.
        let Some(number) = port.port else { continue };
        let valid = u16::try_from(number).ok().filter(|port| *port != 0);
        return valid.map(Some).ok_or(Reason::BadEndpointPort(number));
    }
    Ok(None)
}

/// The first address: the others of an endpoint are fungible, and no producer writes more than one.
fn address(endpoint: &Endpoint) -> Result<Option<Ipv4Addr>, Reason> {
    let Some(text) = endpoint.addresses.first() else { return Ok(None) };
    let bad = || Reason::BadAddress { address: text.clone() };
    let address: Ipv4Addr = text.parse().map_err(|_| bad())?;
    let unicast =
        !(address.is_unspecified() || address.is_loopback() || address.is_multicast() || address.is_broadcast());
    if unicast { Ok(Some(address)) } else { Err(bad()) }
}

fn refusal(slice: &EndpointSlice, reason: Reason) -> Refusal {
    let namespace = slice.metadata.namespace.as_deref().unwrap_or_default();
    let name = slice.metadata.name.as_deref().unwrap_or_default();
    Refusal { object: format!("EndpointSlice {namespace}/{name}"), reason }
}
