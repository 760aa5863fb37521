//! Why an object is not served.

use std::net::IpAddr;

use super::Family;

/// An object that is left out of the maps, and why.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{object} is refused: {reason}")]
pub struct Refusal {
    /// Kind, namespace and name.
    pub object: String,
    pub reason: Reason,
}

/// What is wrong with an object, and what to do.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Reason {
    #[error("port {0} is not between 1 and 65535: correct spec.ports")]
    BadPort(i32),
    #[error("port {0} is there twice with the same protocol: correct spec.ports")]
    DuplicatePort(u16),
    #[error(
        "protocol {protocol:?} of port {port} is not served, only TCP and UDP are: remove the port or move it to a Service of its own"
    )]
    Protocol { port: u16, protocol: String },
    #[error("session affinity {0:?} is not served: set spec.sessionAffinity to None or ClientIP")]
    SessionAffinity(String),
    #[error("cluster address {0:?} is not an address: correct spec.clusterIPs")]
    BadClusterIp(String),
    #[error(
        "address {address:?} is not a unicast address of the slice's addressType {}: the endpoint is left out; \
         correct endpoints[].addresses",
        match family { Family::V4 => "IPv4", Family::V6 => "IPv6" }
    )]
    BadAddress { address: String, family: Family },
    #[error("endpoint port {0} is not between 1 and 65535: the port is left out; correct ports[].port")]
    BadEndpointPort(i32),
    #[error("port {port} has {backends} ready endpoints, a row holds {limit}: split the Service")]
    RowTooLong { port: u16, backends: usize, limit: u32 },
    #[error("type {0} is served at its cluster addresses only, its node ports and load balancer addresses are not")]
    ExternalTraffic(String),
    #[error("its external addresses are not served, only its cluster addresses are: remove spec.externalIPs")]
    ExternalIps,
    #[error("pod CIDR {0:?} is not a network of /1 to /30 (IPv6: /126) without host bits: correct spec.podCIDRs")]
    BadPodCidr(String),
    #[error("its pod CIDR is a /{found}, this node's is a /{wanted}: give all nodes one length")]
    PodCidrLength { found: u8, wanted: u8 },
    #[error("its pod CIDR belongs to another node already: correct spec.podCIDRs of one of them")]
    PodCidrTaken,
    #[error("it has a pod CIDR but no InternalIP of a family this node has: its kubelet must report status.addresses")]
    NoInternalIp,
    #[error(
        "InternalIP {address} is that of Node {by} already: it is left out; correct status.addresses of one of them"
    )]
    NodeAddressTaken { address: IpAddr, by: String },
    #[error("InternalIP {0} lies in this node's pod CIDR: it is left out; correct status.addresses")]
    NodeAddressOfPods(IpAddr),
    #[error("InternalIP {0} lies in the service CIDR: it is left out; correct status.addresses")]
    NodeAddressOfServices(IpAddr),
    #[error("InternalIP {0:?} is no unicast address of a host: correct status.addresses")]
    BadInternalIp(String),
}

impl Reason {
    /// The reason in one word, for counters.
    pub const fn word(&self) -> &'static str {
        match self {
            Self::BadPort(_) => "bad_port",
            Self::DuplicatePort(_) => "duplicate_port",
            Self::Protocol { .. } => "protocol",
            Self::SessionAffinity(_) => "session_affinity",
            Self::BadClusterIp(_) => "bad_cluster_ip",
            Self::BadAddress { .. } => "bad_address",
            Self::BadEndpointPort(_) => "bad_endpoint_port",
            Self::RowTooLong { .. } => "row_too_long",
            Self::ExternalTraffic(_) => "external_traffic",
            Self::ExternalIps => "external_ips",
            Self::BadPodCidr(_) => "bad_pod_cidr",
            Self::PodCidrLength { .. } => "pod_cidr_length",
            Self::PodCidrTaken => "pod_cidr_taken",
            Self::NoInternalIp => "no_internal_ip",
            Self::NodeAddressTaken { .. } => "node_address_taken",
            Self::NodeAddressOfPods(_) => "node_address_of_pods",
            Self::NodeAddressOfServices(_) => "node_address_of_services",
            Self::BadInternalIp(_) => "bad_internal_ip",
        }
    }
}
