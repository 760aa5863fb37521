//! What the maps should say: pure functions of Services, EndpointSlices and Nodes.
//!
//! What is served: ClusterIP, TCP, IPv4. The ports of a Service are desired together or refused together, and each
//! refusal says why; what else a Service asks for ([`unserved`]) is named too.

mod refusal;
mod rows;

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::sync::Arc;

use diolkos_abi::address::{Address, protocol, v4_mapped};
use diolkos_abi::pod::Node;
use diolkos_abi::service::{FrontendKey, SLOTS_PER_SERVICE, scope};
use ipnetwork::Ipv4Network;
use k8s_openapi::api::core::v1::{Node as NodeObject, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;

use crate::overlay::overlay_mac;
pub use refusal::{Reason, Refusal};

/// Namespace and name of a Service.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ServiceName {
    pub namespace: String,
    pub name: String,
}

impl std::fmt::Display for ServiceName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// A port of a Service: each has its own row.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PortKey {
    pub port: u16,
    /// [`diolkos_abi::address::protocol`].
    pub protocol: u8,
}

/// What tells backends apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BackendKey {
    pub address: Address,
    pub port: u16,
}

/// A Service as the maps should hold it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DesiredService {
    pub ports: BTreeMap<PortKey, DesiredPort>,
}

/// A Service port: what clients dial and who answers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DesiredPort {
    pub frontends: Vec<FrontendKey>,
    /// The row, each backend once, with the name of its node.
    pub row: BTreeMap<BackendKey, Option<Arc<str>>>,
    /// Those of the row whose pods are terminating: they serve while none is ready.
    pub terminating: BTreeSet<BackendKey>,
    /// Backends the slices still name but the row does not: they keep their established connections. The flag says
    /// that the pod is terminating, so that its absence from the slices will mean that it is gone.
    pub draining: BTreeMap<BackendKey, bool>,
}

/// Another node and the pod CIDR that lives there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DesiredNode {
    pub node: Node,
    /// The pod CIDR's address, masked to the cluster-wide prefix length.
    pub prefix: Address,
}

/// What `desired` must know of the node it runs on.
#[derive(Clone, Debug)]
pub struct ThisNode {
    pub name: String,
    /// This node's pod CIDR. All nodes share its prefix length.
    pub pod_cidr: Ipv4Network,
    /// Largest packet inside the tunnel, bytes.
    pub overlay_mtu: u16,
}

/// The rows of a Service; nothing for one that is not ours to serve (headless, ExternalName, another proxy's).
pub fn service(
    object: &Service,
    slices: &[&EndpointSlice],
    node_name: &str,
) -> Result<Option<DesiredService>, Refusal> {
    let name = name_of(object);
    let refuse = |reason| Refusal { object: format!("Service {name}"), reason };
    let Some(spec) = &object.spec else { return Ok(None) };
    if !is_served(object) {
        return Ok(None);
    }
    let cluster_ips = cluster_ips(object).map_err(refuse)?;
    if cluster_ips.is_empty() {
        return Ok(None);
    }
    if spec.session_affinity.as_deref().is_some_and(|a| a != "None") {
        return Err(refuse(Reason::SessionAffinity));
    }
    let local_only = spec.internal_traffic_policy.as_deref() == Some("Local");
    let mut desired = DesiredService::default();
    for port in spec.ports.iter().flatten() {
        let key = port_key(port.port, port.protocol.as_deref()).map_err(refuse)?;
        let frontends = cluster_ips
            .iter()
            .map(|ip| FrontendKey::new(v4_mapped(ip.octets()), key.port.to_be_bytes(), key.protocol, scope::CLUSTER))
            .collect();
        let port_name = port.name.as_deref().unwrap_or_default();
        let port = rows::row(slices, port_name, key.protocol, local_only.then_some(node_name))?;
        let backends = port.row.len();
        if backends > SLOTS_PER_SERVICE as usize {
            return Err(refuse(Reason::RowTooLong { port: key.port, backends, limit: SLOTS_PER_SERVICE }));
        }
        if desired.ports.insert(key, DesiredPort { frontends, ..port }).is_some() {
            return Err(refuse(Reason::DuplicatePort(key.port)));
        }
    }
    Ok(Some(desired))
}

/// What is not served of a Service though the rest of it is: it must not be missed in silence.
pub fn unserved(object: &Service) -> Vec<Reason> {
    let Some(spec) = object.spec.as_ref().filter(|_| is_served(object)) else { return Vec::new() };
    let mut reasons = Vec::new();
    match spec.type_.as_deref() {
        None | Some("ClusterIP") => {}
        Some(other) => reasons.push(Reason::ExternalTraffic(other.to_owned())),
    }
    if spec.external_ips.as_ref().is_some_and(|ips| !ips.is_empty()) {
        reasons.push(Reason::ExternalIps);
    }
    let single = spec.cluster_ip.iter().filter(|_| spec.cluster_ips.as_ref().is_none_or(Vec::is_empty));
    let all = spec.cluster_ips.iter().flatten().chain(single);
    reasons.extend(all.filter(|ip| ip.contains(':')).map(|ip| Reason::Ipv6(ip.clone())));
    reasons
}

/// The other nodes by name. Nodes without a pod CIDR yet are left out; what contradicts itself or another node is
/// refused.
pub fn nodes<'a>(
    objects: impl IntoIterator<Item = &'a NodeObject>,
    this: &ThisNode,
) -> (BTreeMap<Arc<str>, DesiredNode>, Vec<Refusal>) {
    let mut desired = BTreeMap::new();
    let mut taken = BTreeSet::from([v4_mapped(this.pod_cidr.network().octets())]);
    let mut refusals = Vec::new();
    for object in objects {
        let name = object.metadata.name.clone().unwrap_or_default();
        if name == this.name {
            continue;
        }
        match node(object, this) {
            Ok(Some(node)) if !taken.insert(node.prefix) => {
                refusals.push(Refusal { object: format!("Node {name}"), reason: Reason::PodCidrTaken });
            }
            Ok(Some(node)) => {
                desired.insert(Arc::from(name), node);
            }
            Ok(None) => {}
            Err(reason) => refusals.push(Refusal { object: format!("Node {name}"), reason }),
        }
    }
    (desired, refusals)
}

/// The node's first IPv4 InternalIP: its tunnel end.
pub fn internal_ip(object: &NodeObject) -> Option<Ipv4Addr> {
    let addresses = object.status.as_ref()?.addresses.as_ref()?;
    addresses.iter().filter(|a| a.type_ == "InternalIP").find_map(|a| a.address.parse().ok())
}

/// The node's first IPv4 pod CIDR.
pub fn pod_cidr(object: &NodeObject) -> Result<Option<Ipv4Network>, Reason> {
    let Some(spec) = &object.spec else { return Ok(None) };
    let all = spec.pod_cidrs.iter().flatten().chain(&spec.pod_cidr);
    let Some(text) = all.into_iter().find(|cidr| !cidr.contains(':')) else { return Ok(None) };
    let cidr: Ipv4Network = text.parse().map_err(|_| Reason::BadPodCidr(text.clone()))?;
    if cidr.network() != cidr.ip() || cidr.prefix() == 0 || cidr.prefix() > 30 {
        return Err(Reason::BadPodCidr(text.clone()));
    }
    Ok(Some(cidr))
}

fn node(object: &NodeObject, this: &ThisNode) -> Result<Option<DesiredNode>, Reason> {
    let Some(cidr) = pod_cidr(object)? else { return Ok(None) };
    if cidr.prefix() != this.pod_cidr.prefix() {
        return Err(Reason::PodCidrLength { found: cidr.prefix(), wanted: this.pod_cidr.prefix() });
    }
    let Some(address) = internal_ip(object) else { return Err(Reason::NoInternalIp) };
    let node = Node {
        tunnel_v4: address.octets(),
        mac: overlay_mac(address.into()),
        mtu: this.overlay_mtu,
        ..Node::default()
    };
    Ok(Some(DesiredNode { node, prefix: v4_mapped(cidr.network().octets()) }))
}

pub(crate) fn name_of(object: &Service) -> ServiceName {
    ServiceName {
        namespace: object.metadata.namespace.clone().unwrap_or_default(),
        name: object.metadata.name.clone().unwrap_or_default(),
    }
}

/// The labels by which a Service says that kube-proxy, and so this proxy, must leave it alone.
const NOT_OURS: [&str; 2] = ["service.kubernetes.io/service-proxy-name", "service.kubernetes.io/headless"];

fn is_served(object: &Service) -> bool {
    let labels = object.metadata.labels.as_ref();
    let of_another = NOT_OURS.iter().any(|label| labels.is_some_and(|l| l.contains_key(*label)));
    let external_name =
        object.spec.as_ref().and_then(|spec| spec.type_.as_deref()).is_some_and(|type_| type_ == "ExternalName");
    !of_another && !external_name
}

/// The IPv4 cluster addresses; empty for a headless Service, for one that waits for its address, and for an IPv6 one.
fn cluster_ips(object: &Service) -> Result<Vec<Ipv4Addr>, Reason> {
    let Some(spec) = &object.spec else { return Ok(Vec::new()) };
    let mut ips: Vec<&String> = spec.cluster_ips.iter().flatten().collect();
    if ips.is_empty() {
        ips.extend(&spec.cluster_ip);
    }
    let ips = ips.into_iter().filter(|ip| !ip.is_empty() && *ip != "None" && !ip.contains(':'));
    ips.map(|ip| ip.parse().map_err(|_| Reason::BadClusterIp(ip.clone()))).collect()
}

fn port_key(port: i32, name: Option<&str>) -> Result<PortKey, Reason> {
    let Some(port) = u16::try_from(port).ok().filter(|port| *port != 0) else { return Err(Reason::BadPort(port)) };
    match name.unwrap_or("TCP") {
        "TCP" => Ok(PortKey { port, protocol: protocol::TCP }),
        other => Err(Reason::Protocol { port, protocol: other.to_owned() }),
    }
}

#[cfg(test)]
mod tests;
