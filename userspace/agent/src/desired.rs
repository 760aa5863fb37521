//! What the maps should say: pure functions of Services, EndpointSlices and Nodes.
//!
//! What is served: ClusterIPs of the families this node has, TCP and UDP. The ports of a Service are desired together
//! or refused together, and each refusal says why; what else a Service asks for ([`ServiceFacts::unserved`]) is named
//! too, and so is an endpoint that cannot be: it alone is left out.

mod nodes;
mod read;
mod refusal;
mod rows;

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use diolkos_abi::address::{Address, is_v4, v4_mapped};
use diolkos_abi::service::{FrontendKey, SLOTS_PER_SERVICE, scope};
use ipnetwork::{IpNetwork, Ipv4Network, Ipv6Network};

use crate::clock::Clock;
use crate::overlay::OnLink;
pub use nodes::{DesiredNode, NodeFacts, nodes};
pub use read::{Names, ServiceFacts, SliceFacts};
pub(crate) use read::{name_of, slice_name};
pub use refusal::{Reason, Refusal};

/// Namespace and name of a Service. Cheap to clone: every step of a plan says whose it is.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ServiceName {
    pub namespace: Arc<str>,
    pub name: Arc<str>,
}

impl std::fmt::Display for ServiceName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// An address family.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Family {
    #[default]
    V4,
    V6,
}

/// A port of a Service in one family: each has its own row.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PortKey {
    pub port: u16,
    /// [`diolkos_abi::address::protocol`].
    pub protocol: u8,
    pub family: Family,
}

/// What tells backends apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BackendKey {
    pub address: Address,
    pub port: u16,
    /// [`diolkos_abi::address::protocol`].
    pub protocol: u8,
}

/// A Service as the maps should hold it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DesiredService {
    pub ports: BTreeMap<PortKey, DesiredPort>,
    /// Its cluster addresses. No other Service has any of them.
    pub addresses: BTreeSet<Address>,
    /// How long a client keeps its backend after its last connection, in the unit of
    /// [`diolkos_abi::conntrack::Flow::seen`]; 0 for no affinity.
    pub affinity: u32,
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

/// What `desired` must know of the node it runs on. A family without a pod CIDR here is none of its business.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ThisNode {
    pub name: String,
    /// Its tunnel ends.
    pub node_v4: Option<Ipv4Addr>,
    pub node_v6: Option<Ipv6Addr>,
    /// Its pod CIDRs. All nodes share their prefix lengths.
    pub pod_cidr_v4: Option<Ipv4Network>,
    pub pod_cidr_v6: Option<Ipv6Network>,
    /// Where the cluster addresses of Services lie.
    pub service_cidrs: Vec<IpNetwork>,
    /// Largest packet inside this node's tunnels, bytes.
    pub overlay_mtu: u16,
    /// Where this node is a neighbour, with direct routing; nowhere with the overlay.
    pub on_link: OnLink,
    pub clock: Clock,
}

impl ThisNode {
    pub fn has(&self, family: Family) -> bool {
        match family {
            Family::V4 => self.pod_cidr_v4.is_some(),
            Family::V6 => self.pod_cidr_v6.is_some(),
        }
    }

    /// Whether an address can be a Service's.
    pub fn is_service(&self, address: IpAddr) -> bool {
        self.service_cidrs.iter().any(|cidr| cidr.contains(address))
    }

    /// Whether an address lies in one of this node's pod CIDRs.
    pub fn is_own_pod(&self, address: &Address) -> bool {
        match IpAddr::from(Ipv6Addr::from(*address)).to_canonical() {
            IpAddr::V4(address) => self.pod_cidr_v4.is_some_and(|own| own.contains(address)),
            IpAddr::V6(address) => self.pod_cidr_v6.is_some_and(|own| own.contains(address)),
        }
    }
}

/// The rows of a Service, from what it and its slices say.
pub fn service(facts: &ServiceFacts, slices: &[&SliceFacts], this: &ThisNode) -> Result<DesiredService, Reason> {
    let addresses: Vec<Address> = facts.cluster_ips.iter().map(|ip| address(*ip)).collect();
    let addresses: BTreeSet<Address> = addresses.into_iter().filter(|ip| this.has(family(ip))).collect();
    let affinity = this.clock.units(facts.affinity);
    let mut desired = DesiredService { addresses, affinity, ..DesiredService::default() };
    let only_node = facts.local_only.then_some(this.name.as_str());
    for port in &facts.ports {
        for family in [Family::V4, Family::V6] {
            let of_family = desired.addresses.iter().filter(|ip| self::family(ip) == family);
            let frontend = |ip: &Address| FrontendKey::new(*ip, port.port.to_be_bytes(), port.protocol, scope::CLUSTER);
            let frontends: Vec<FrontendKey> = of_family.map(frontend).collect();
            if frontends.is_empty() {
                continue;
            }
            let row = rows::row(slices, family, &port.name, port.protocol, only_node);
            let backends = row.row.len();
            if backends > SLOTS_PER_SERVICE as usize {
                return Err(Reason::RowTooLong { port: port.port, backends, limit: SLOTS_PER_SERVICE });
            }
            let key = PortKey { port: port.port, protocol: port.protocol, family };
            if desired.ports.insert(key, DesiredPort { frontends, ..row }).is_some() {
                return Err(Reason::DuplicatePort(port.port));
            }
        }
    }
    Ok(desired)
}

/// The family of an address in its 16 bytes.
pub fn family(address: &Address) -> Family {
    if is_v4(address) { Family::V4 } else { Family::V6 }
}

/// An address as it stands in keys.
pub fn address(ip: IpAddr) -> Address {
    match ip {
        IpAddr::V4(ip) => v4_mapped(ip.octets()),
        IpAddr::V6(ip) => ip.octets(),
    }
}

#[cfg(test)]
mod tests;
