//! What Services and EndpointSlices say, as far as the maps are concerned. The agent keeps these facts and forgets the
//! objects: a cluster's slices are large.

use std::collections::HashSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;
use std::time::Duration;

use diolkos_abi::address::{Address, protocol};
use k8s_openapi::api::core::v1::{Service, ServiceSpec};
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointSlice};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use super::{Family, Reason, ServiceName, address};

/// What a Service says that is ours to serve.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServiceFacts {
    pub cluster_ips: Vec<IpAddr>,
    pub ports: Vec<PortFacts>,
    /// internalTrafficPolicy Local: only endpoints of the client's node.
    pub local_only: bool,
    /// How long a client keeps its backend; zero for no affinity.
    pub affinity: Duration,
    /// What it asks for that is not served, though the rest of it is: it must not be missed in silence.
    pub unserved: Vec<Reason>,
}

/// A port of a Service or of a slice.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PortFacts {
    pub name: Arc<str>,
    pub port: u16,
    /// [`diolkos_abi::address::protocol`].
    pub protocol: u8,
}

/// What an EndpointSlice says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SliceFacts {
    /// Nothing for one of host names, which nobody serves.
    pub family: Option<Family>,
    pub ports: Vec<PortFacts>,
    pub endpoints: Vec<EndpointFacts>,
    /// Endpoints and ports that cannot be: they alone are left out, as kube-proxy does.
    pub left_out: Vec<Reason>,
}

/// An endpoint. Conditions that are not said: ready and serving count as true, terminating as false.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EndpointFacts {
    pub address: Address,
    pub node: Option<Arc<str>>,
    pub ready: bool,
    pub serving: bool,
    pub terminating: bool,
}

/// Names of nodes, ports and namespaces, each kept once: every endpoint has one.
#[derive(Debug, Default)]
pub struct Names(HashSet<Arc<str>>);

/// Of a Service with affinity that does not say how long.
const DEFAULT_AFFINITY: Duration = Duration::from_secs(10_800);
/// The labels by which a Service says that kube-proxy, and so this proxy, must leave it alone.
pub(super) const NOT_OURS: [&str; 2] = ["service.kubernetes.io/service-proxy-name", "service.kubernetes.io/headless"];
/// Names below which [`Names`] is not searched for those that nobody uses any more.
const FEW_NAMES: usize = 1024;

impl ServiceFacts {
    /// Reads a Service; nothing for one that is not ours to serve (headless, ExternalName, another proxy's, or one that
    /// waits for its address).
    pub fn read(object: &Service, names: &mut Names) -> Result<Option<Self>, Reason> {
        let Some(spec) = object.spec.as_ref().filter(|_| is_served(object)) else { return Ok(None) };
        let mut cluster_ips = cluster_ips(spec)?;
        cluster_ips.shrink_to_fit();
        if cluster_ips.is_empty() {
            return Ok(None);
        }
        let ports = spec.ports.iter().flatten().map(|port| {
            let (number, protocol) = port_and_protocol(port.port, port.protocol.as_deref())?;
            Ok(PortFacts { name: names.get(port.name.as_deref().unwrap_or_default()), port: number, protocol })
        });
        let mut ports: Vec<PortFacts> = ports.collect::<Result<_, _>>()?;
        ports.shrink_to_fit();
        Ok(Some(Self {
            cluster_ips,
            ports,
            local_only: spec.internal_traffic_policy.as_deref() == Some("Local"),
            affinity: affinity(spec)?,
            unserved: unserved(spec),
        }))
    }
}

impl SliceFacts {
    pub fn read(object: &EndpointSlice, names: &mut Names) -> Self {
        let family = match object.address_type.as_str() {
            "IPv4" => Some(Family::V4),
            "IPv6" => Some(Family::V6),
            _ => None,
        };
        let mut facts = Self { family, ports: Vec::new(), endpoints: Vec::new(), left_out: Vec::new() };
        let Some(family) = family else { return facts };
        for port in object.ports.iter().flatten() {
            let protocol = match port.protocol.as_deref().unwrap_or("TCP") {
                "TCP" => protocol::TCP,
                "UDP" => protocol::UDP,
                _ => continue,
            };
            // A port that is not said would mean all ports: no Service port maps to that.
            let Some(number) = port.port else { continue };
            match u16::try_from(number).ok().filter(|port| *port != 0) {
                Some(port_number) => {
                    let name = names.get(port.name.as_deref().unwrap_or_default());
                    facts.ports.reserve_exact(1);
                    facts.ports.push(PortFacts { name, port: port_number, protocol });
                }
                None => facts.left_out.push(Reason::BadEndpointPort(number)),
            }
        }
        let endpoints = object.endpoints.iter().flatten();
        facts.endpoints.reserve_exact(endpoints.clone().count());
        for endpoint in endpoints {
            // The first address: the others of an endpoint are fungible, and no producer writes more than one.
            let Some(text) = endpoint.addresses.first() else { continue };
            match unicast(text, family) {
                Some(address) => facts.endpoints.push(EndpointFacts::new(endpoint, address, names)),
                None => facts.left_out.push(Reason::BadAddress { address: text.clone(), family }),
            }
        }
        facts
    }
}

impl EndpointFacts {
    fn new(endpoint: &Endpoint, address: Address, names: &mut Names) -> Self {
        let conditions = endpoint.conditions.as_ref();
        Self {
            address,
            node: endpoint.node_name.as_deref().map(|name| names.get(name)),
            ready: conditions.and_then(|c| c.ready).unwrap_or(true),
            serving: conditions.and_then(|c| c.serving).unwrap_or(true),
            terminating: conditions.and_then(|c| c.terminating).unwrap_or(false),
        }
    }

    /// An endpoint can stand in two slices while it moves between them: the better news counts.
    pub(super) fn merge(&mut self, other: &Self) {
        self.ready |= other.ready;
        self.serving |= other.serving;
        self.terminating &= other.terminating;
        if self.node.is_none() {
            self.node = other.node.clone();
        }
    }
}

impl Names {
    /// The one copy of a name.
    pub fn get(&mut self, name: &str) -> Arc<str> {
        if let Some(known) = self.0.get(name) {
            return known.clone();
        }
        if self.0.len() >= FEW_NAMES && self.0.len() == self.0.capacity() {
            self.0.retain(|name| Arc::strong_count(name) > 1);
        }
        let name: Arc<str> = name.into();
        self.0.insert(name.clone());
        name
    }
}

/// Namespace and name of a Service.
pub(crate) fn name_of(object: &Service) -> ServiceName {
    let (namespace, name) = names(&object.metadata);
    ServiceName { namespace: namespace.into(), name: name.into() }
}

/// Namespace and name of a slice.
pub(crate) fn slice_name(object: &EndpointSlice) -> (&str, &str) {
    names(&object.metadata)
}

fn names(metadata: &ObjectMeta) -> (&str, &str) {
    (metadata.namespace.as_deref().unwrap_or_default(), metadata.name.as_deref().unwrap_or_default())
}

fn is_served(object: &Service) -> bool {
    let labels = object.metadata.labels.as_ref();
    let of_another = NOT_OURS.iter().any(|label| labels.is_some_and(|l| l.contains_key(*label)));
    let type_ = object.spec.as_ref().and_then(|spec| spec.type_.as_deref());
    !of_another && type_ != Some("ExternalName")
}

fn cluster_ips(spec: &ServiceSpec) -> Result<Vec<IpAddr>, Reason> {
    let mut ips: Vec<&String> = spec.cluster_ips.iter().flatten().collect();
    if ips.is_empty() {
        ips.extend(&spec.cluster_ip);
    }
    let ips = ips.into_iter().filter(|ip| !ip.is_empty() && *ip != "None");
    ips.map(|text| {
        let family = if text.contains(':') { Family::V6 } else { Family::V4 };
        let ip = unicast(text, family).and_then(|_| text.parse().ok());
        ip.ok_or_else(|| Reason::BadClusterIp(text.clone()))
    })
    .collect()
}

fn port_and_protocol(port: i32, name: Option<&str>) -> Result<(u16, u8), Reason> {
    let Some(port) = u16::try_from(port).ok().filter(|port| *port != 0) else { return Err(Reason::BadPort(port)) };
    match name.unwrap_or("TCP") {
        "TCP" => Ok((port, protocol::TCP)),
        "UDP" => Ok((port, protocol::UDP)),
        other => Err(Reason::Protocol { port, protocol: other.to_owned() }),
    }
}

fn affinity(spec: &ServiceSpec) -> Result<Duration, Reason> {
    match spec.session_affinity.as_deref() {
        None | Some("None" | "") => Ok(Duration::ZERO),
        Some("ClientIP") => {
            let config = spec.session_affinity_config.as_ref().and_then(|config| config.client_ip.as_ref());
            let seconds = config.and_then(|config| config.timeout_seconds).and_then(|s| u64::try_from(s).ok());
            Ok(seconds.filter(|seconds| *seconds > 0).map_or(DEFAULT_AFFINITY, Duration::from_secs))
        }
        Some(other) => Err(Reason::SessionAffinity(other.to_owned())),
    }
}

fn unserved(spec: &ServiceSpec) -> Vec<Reason> {
    let mut reasons = Vec::new();
    match spec.type_.as_deref() {
        None | Some("ClusterIP") => {}
        Some(other) => reasons.push(Reason::ExternalTraffic(other.to_owned())),
    }
    if spec.external_ips.as_ref().is_some_and(|ips| !ips.is_empty()) {
        reasons.push(Reason::ExternalIps);
    }
    reasons
}

/// The address of one host of this family, as the API's own validation has it.
pub(super) fn unicast(text: &str, family: Family) -> Option<Address> {
    match family {
        Family::V4 => {
            let ip: Ipv4Addr = text.parse().ok()?;
            let special = ip.is_unspecified() || ip.is_loopback() || ip.is_link_local() || ip.is_multicast();
            (!special && !ip.is_broadcast()).then(|| address(ip.into()))
        }
        Family::V6 => {
            let ip: Ipv6Addr = text.parse().ok()?;
            let special = ip.is_unspecified() || ip.is_loopback() || ip.is_unicast_link_local() || ip.is_multicast();
            (!special && ip.to_ipv4_mapped().is_none()).then(|| address(ip.into()))
        }
    }
}
