//! The other nodes: where their tunnels end and which pods live there.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use diolkos_abi::address::{Address, v4_mapped, v4_of};
use diolkos_abi::pod::Node;
use ipnetwork::{IpNetwork, Ipv4Network, Ipv6Network};
use k8s_openapi::api::core::v1::Node as NodeObject;

use super::read::unicast;
use super::{Family, Reason, Refusal, ThisNode};
use crate::overlay::{RemoteCidr, overlay_mac};

/// Another node and the pod CIDRs that live there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DesiredNode {
    pub node: Node,
    /// Its pod CIDRs of the families this node has.
    pub pod_cidrs: Vec<IpNetwork>,
    /// Its own addresses of those families, which no other node has.
    pub addresses: Vec<Address>,
}

impl DesiredNode {
    /// The addresses of the pod CIDRs, masked to their cluster-wide prefix lengths.
    pub fn prefixes(&self) -> impl Iterator<Item = Address> {
        self.pod_cidrs.iter().map(|cidr| super::address(cidr.network()))
    }
}

impl DesiredNode {
    /// The pod CIDRs with the node's addresses, for the host's routes.
    pub fn remote_cidrs(&self) -> impl Iterator<Item = RemoteCidr> {
        let node_v4 = Some(self.node.tunnel_v4).filter(|ip| *ip != [0; 4]).map(Ipv4Addr::from);
        let node_v6 = Some(self.node.tunnel_v6).filter(|ip| *ip != [0; 16]).map(Ipv6Addr::from);
        self.pod_cidrs.iter().map(move |cidr| RemoteCidr { cidr: *cidr, node_v4, node_v6 })
    }
}

/// What a Node says: its InternalIPs, and the first pod CIDR of each family.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NodeFacts {
    /// The first InternalIP of each family.
    pub ip_v4: Option<Ipv4Addr>,
    pub ip_v6: Option<Ipv6Addr>,
    /// The others.
    pub other_ips: Vec<IpAddr>,
    pub pod_cidr_v4: Option<Ipv4Network>,
    pub pod_cidr_v6: Option<Ipv6Network>,
}

impl NodeFacts {
    pub fn read(object: &NodeObject) -> Result<Self, Reason> {
        let addresses = object.status.iter().flat_map(|status| status.addresses.iter().flatten());
        let internal = addresses.filter(|address| address.type_ == "InternalIP");
        let mut facts = Self::default();
        for address in internal {
            let text = &address.address;
            let family = if text.contains(':') { Family::V6 } else { Family::V4 };
            let ip = unicast(text, family).ok_or_else(|| Reason::BadInternalIp(text.clone()))?;
            match IpAddr::from(Ipv6Addr::from(ip)).to_canonical() {
                IpAddr::V4(ip) if facts.ip_v4.is_none() => facts.ip_v4 = Some(ip),
                IpAddr::V6(ip) if facts.ip_v6.is_none() => facts.ip_v6 = Some(ip),
                other => facts.other_ips.push(other),
            }
        }
        let Some(spec) = &object.spec else { return Ok(facts) };
        for text in spec.pod_cidrs.iter().flatten().chain(&spec.pod_cidr) {
            match pod_cidr(text).ok_or_else(|| Reason::BadPodCidr(text.clone()))? {
                IpNetwork::V4(cidr) => facts.pod_cidr_v4 = facts.pod_cidr_v4.or(Some(cidr)),
                IpNetwork::V6(cidr) => facts.pod_cidr_v6 = facts.pod_cidr_v6.or(Some(cidr)),
            }
        }
        Ok(facts)
    }
}

/// The other nodes by name. Nodes without a pod CIDR yet are left out; what contradicts itself or another node is
/// refused.
pub fn nodes<'a>(
    objects: impl IntoIterator<Item = (&'a str, &'a Result<NodeFacts, Reason>)>,
    this: &ThisNode,
) -> (BTreeMap<Arc<str>, DesiredNode>, Vec<Refusal>) {
    let own_v4 = this.pod_cidr_v4.map(|cidr| v4_mapped(cidr.network().octets()));
    let own_v6 = this.pod_cidr_v6.map(|cidr| cidr.network().octets());
    let mut taken: BTreeSet<Address> = own_v4.into_iter().chain(own_v6).collect();
    let mut desired = BTreeMap::new();
    let mut refusals = Vec::new();
    for (name, facts) in objects.into_iter().filter(|(name, _)| *name != this.name) {
        let found = facts.as_ref().map_err(Clone::clone).and_then(|facts| node(facts, this));
        let found = found.and_then(|found| match found {
            Some(node) if node.prefixes().any(|prefix| taken.contains(&prefix)) => Err(Reason::PodCidrTaken),
            found => Ok(found),
        });
        match found {
            Ok(Some(node)) => {
                taken.extend(node.prefixes());
                desired.insert(Arc::from(name), node);
            }
            Ok(None) => {}
            Err(reason) => refusals.push(Refusal { object: format!("Node {name}"), reason }),
        }
    }
    refusals.extend(settle_addresses(&mut desired, this));
    (desired, refusals)
}

/// Leaves each address to one node: to the one that is reached by it before all others, then to the first by name. Under
/// an address of another node, of a pod or of a Service, a node could speak for those.
fn settle_addresses(desired: &mut BTreeMap<Arc<str>, DesiredNode>, this: &ThisNode) -> Vec<Refusal> {
    let own = [this.node_v4.map(IpAddr::V4), this.node_v6.map(IpAddr::V6)].into_iter().flatten().map(super::address);
    let mut owners: BTreeMap<Address, Arc<str>> = own.map(|address| (address, Arc::from(this.name.as_str()))).collect();
    let mut claims: Vec<(bool, Arc<str>, Address)> = Vec::new();
    for (name, node) in &mut *desired {
        let ends = [v4_mapped(node.node.tunnel_v4), node.node.tunnel_v6];
        claims.extend(node.addresses.drain(..).map(|address| (!ends.contains(&address), name.clone(), address)));
    }
    claims.sort();
    let mut refusals = Vec::new();
    for (_, name, address) in claims {
        let ip = IpAddr::from(Ipv6Addr::from(address)).to_canonical();
        let owner = owners.entry(address).or_insert_with(|| name.clone());
        let reason = if this.is_own_pod(&address) {
            Reason::NodeAddressOfPods(ip)
        } else if this.is_service(ip) {
            Reason::NodeAddressOfServices(ip)
        } else if *owner != name {
            Reason::NodeAddressTaken { address: ip, by: owner.to_string() }
        } else {
            desired.entry(name).and_modify(|node| node.addresses.push(address));
            continue;
        };
        refusals.push(Refusal { object: format!("Node {name}"), reason });
    }
    refusals
}

fn node(facts: &NodeFacts, this: &ThisNode) -> Result<Option<DesiredNode>, Reason> {
    let cidr_v4 = facts.pod_cidr_v4.zip(this.pod_cidr_v4);
    let cidr_v6 = facts.pod_cidr_v6.zip(this.pod_cidr_v6);
    for (found, wanted) in [
        cidr_v4.map(|(found, wanted)| (found.prefix(), wanted.prefix())),
        cidr_v6.map(|(found, wanted)| (found.prefix(), wanted.prefix())),
    ]
    .into_iter()
    .flatten()
    {
        if found != wanted {
            return Err(Reason::PodCidrLength { found, wanted });
        }
    }
    let (cidr_v4, cidr_v6) = (cidr_v4.map(|(found, _)| found), cidr_v6.map(|(found, _)| found));
    if cidr_v4.is_none() && cidr_v6.is_none() {
        return Ok(None);
    }
    let tunnel_v4 = facts.ip_v4.filter(|_| this.node_v4.is_some());
    let tunnel_v6 = facts.ip_v6.filter(|_| this.node_v6.is_some());
    // Its overlay device has the MAC of its own first choice, whatever this node reaches it by.
    let own_choice = facts.ip_v4.map(IpAddr::V4).or(facts.ip_v6.map(IpAddr::V6));
    let Some(own_choice) = own_choice.filter(|_| tunnel_v4.is_some() || tunnel_v6.is_some()) else {
        return Err(Reason::NoInternalIp);
    };
    let (ifindex, [next_hop_v4, next_hop_v6]) = next_hops(facts, this);
    let node = Node {
        tunnel_v4: tunnel_v4.map_or([0; 4], |ip| ip.octets()),
        tunnel_v6: tunnel_v6.map_or([0; 16], |ip| ip.octets()),
        mac: overlay_mac(own_choice),
        mtu: this.overlay_mtu - if tunnel_v4.is_none() && this.node_v4.is_some() { LONGER_HEADER } else { 0 },
        prefix_v4: cidr_v4.map_or([0; 4], |cidr| cidr.network().octets()),
        prefix_v6: cidr_v6.map_or([0; 16], |cidr| cidr.network().octets()),
        ifindex,
        next_hop_v4: next_hop_v4.map_or([0; 4], |hop| v4_of(&hop)),
        next_hop_v6: next_hop_v6.unwrap_or_default(),
        ..Node::default()
    };
    let pod_cidrs = cidr_v4.map(IpNetwork::V4).into_iter().chain(cidr_v6.map(IpNetwork::V6)).collect();
    Ok(Some(DesiredNode { node, pod_cidrs, addresses: addresses(facts, this) }))
}

/// A node's own addresses of the families this node has, each once.
fn addresses(facts: &NodeFacts, this: &ThisNode) -> Vec<Address> {
    let first = [facts.ip_v4.map(IpAddr::V4), facts.ip_v6.map(IpAddr::V6)].into_iter().flatten();
    let all = first.chain(facts.other_ips.iter().copied()).map(super::address);
    let ours: BTreeSet<Address> = all.filter(|address| this.has(super::family(address))).collect();
    ours.into_iter().collect()
}

/// The device behind which a node is a neighbour, 0 when there is none, and its addresses there.
fn next_hops(facts: &NodeFacts, this: &ThisNode) -> (u32, [Option<Address>; 2]) {
    let ips = [facts.ip_v4.map(IpAddr::V4), facts.ip_v6.map(IpAddr::V6)];
    let devices = ips.map(|ip| ip.and_then(|ip| this.on_link.device(ip)));
    let Some(ifindex) = devices.into_iter().flatten().next() else { return (0, [None; 2]) };
    let [v4, v6] = [0, 1].map(|n| ips[n].filter(|_| devices[n] == Some(ifindex)).map(super::address));
    (ifindex, [v4, v6])
}

/// What a tunnel over IPv6 takes more than one over IPv4, for which [`ThisNode::overlay_mtu`] is made where this node
/// has an IPv4 address: bytes.
const LONGER_HEADER: u16 = 20;

/// A network of pods: without host bits, with room for a gateway and a pod.
fn pod_cidr(text: &str) -> Option<IpNetwork> {
    let cidr: IpNetwork = text.parse().ok()?;
    let longest = if cidr.is_ipv4() { 30 } else { 126 };
    (cidr.network() == cidr.ip() && (1..=longest).contains(&cidr.prefix())).then_some(cidr)
}
