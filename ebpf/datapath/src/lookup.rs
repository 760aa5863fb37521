//! Lookups whose answer is believed only with its tag.
//!
//! The kernel reuses a freed hash element at once, so a reader can meet another key's value. Such a value has another
//! tag: the lookup is made once more, and a second mismatch is a miss.

use diolkos_abi::address::{Address, address_words, from_words, is_v4};
use diolkos_abi::config::Config;
use diolkos_abi::conntrack::{Flow, Fragment, FragmentKey, Peer, PeerKey, Tuple};
use diolkos_abi::counter::DropReason;
use diolkos_abi::pod::{Endpoint, Netns, Node, RouteKey, address_tag, cookie_tag, hint_index, zone};
use diolkos_abi::service::{
    Affinity, AffinityKey, FrontendKey, MemberKey, frontend_flags, frontend_parts, member_parts, scope,
};

use crate::family::{self, Words, equal, mapped, masked, route_mask};
use crate::tables::Tables;

/// Why nothing is at an address of the service CIDR.
#[inline(always)]
pub(crate) fn unserved<T: Tables>(tables: &mut T, address: &Words) -> DropReason {
    if is_service_at(tables, address) { DropReason::UnknownPort } else { DropReason::UnallocatedVip }
}

/// [`service`] as a subprogram, because its words would fill the stack of a packet's path; 0 for none.
#[inline(never)]
pub(crate) fn service_at<T: Tables>(tables: &mut T, address: &Words, port: [u8; 2], protocol: u8) -> u32 {
    service(tables, &FrontendKey::new(from_words(*address), port, protocol, scope::CLUSTER)).unwrap_or_default()
}

/// The service id behind a frontend.
#[inline(always)]
pub(crate) fn service<T: Tables>(tables: &mut T, key: &FrontendKey) -> Option<u32> {
    let (service, flags) = frontend(tables, key)?;
    (flags & frontend_flags::ADDRESS == 0).then_some(service)
}

/// [`is_service`] as a subprogram.
#[inline(never)]
pub(crate) fn is_service_at<T: Tables>(tables: &mut T, address: &Words) -> bool {
    is_service(tables, address)
}

/// Whether an address is that of a service.
#[inline(always)]
fn is_service<T: Tables>(tables: &mut T, address: &Words) -> bool {
    let key = FrontendKey::new(from_words(*address), [0; 2], 0, scope::CLUSTER);
    frontend(tables, &key).is_some_and(|(_, flags)| flags & frontend_flags::ADDRESS != 0)
}

/// Service id and flags.
#[inline(always)]
fn frontend<T: Tables>(tables: &mut T, key: &FrontendKey) -> Option<(u32, u16)> {
    let expected = key.tag();
    let (service, tag, flags) = frontend_parts(tables.frontend(key)?);
    if tag == expected {
        return Some((service, flags));
    }
    let (service, tag, flags) = frontend_parts(tables.frontend(key)?);
    (tag == expected).then_some((service, flags))
}

/// Whether an address is a service's: an unknown port of it is refused. Only addresses of the service CIDR are asked
/// for, so that no others pay for the lookup.
#[inline(always)]
pub(crate) fn is_service_address<T: Tables>(config: &Config, tables: &mut T, address: &Address) -> bool {
    let words = address_words(address);
    let asked = if is_v4(address) {
        family::is_service::<false>(config, &words)
    } else {
        family::is_service::<true>(config, &words)
    };
    asked && is_service(tables, &words)
}

/// The other end of a translation of the socket at hand.
#[inline(always)]
pub(crate) fn peer<T: Tables>(tables: &mut T, key: &PeerKey) -> Option<Peer> {
    let tag = key.tag();
    let peer = tables.peer(key)?;
    if peer.tag == tag {
        return Some(peer);
    }
    tables.peer(key).filter(|peer| peer.tag == tag)
}

/// What is remembered of a client of a service with session affinity.
#[inline(always)]
pub(crate) fn affinity<T: Tables>(tables: &mut T, key: &AffinityKey) -> Option<Affinity> {
    let tag = key.tag();
    let affinity = tables.affinity(key)?;
    if affinity.tag == tag {
        return Some(affinity);
    }
    tables.affinity(key).filter(|affinity| affinity.tag == tag)
}

/// The generation with which a backend is behind a service that has session affinity.
#[inline(always)]
pub(crate) fn member<T: Tables>(tables: &mut T, key: &MemberKey) -> Option<u32> {
    let expected = key.tag();
    let (generation, tag) = member_parts(tables.member(key)?);
    if tag == expected {
        return Some(generation);
    }
    let (generation, tag) = member_parts(tables.member(key)?);
    (tag == expected).then_some(generation)
}

/// The conntrack entry of a tuple, stamped with the present time and `flags`. `tag` is the tuple's hash.
#[inline(always)]
pub(crate) fn flow<T: Tables>(config: &Config, tables: &mut T, key: &Tuple, tag: u32, flags: u16) -> Option<Flow> {
    tables.flow(key, tag, flags, &config.lifetimes)
}

/// The ports of a packet in fragments.
#[inline(always)]
pub(crate) fn fragment<T: Tables>(tables: &mut T, key: &FragmentKey) -> Option<Fragment> {
    let tag = key.tag();
    let fragment = tables.fragment(key)?;
    if fragment.tag == tag {
        return Some(fragment);
    }
    tables.fragment(key).filter(|fragment| fragment.tag == tag)
}

/// The pod of this node with an address.
#[inline(always)]
pub(crate) fn endpoint<T: Tables>(tables: &mut T, address: &Words) -> Option<Endpoint> {
    let address = from_words(*address);
    tables.endpoint(&address, address_tag(&address))
}

/// The id of the node whose pod CIDR holds an address; 0 for none. A node that the hint names is believed when the
/// address lies in its own pod CIDR.
#[inline(always)]
pub(crate) fn route<const V6: bool, T: Tables>(config: &Config, tables: &mut T, address: &Words) -> u32 {
    let prefix = masked(address, &route_mask::<V6>(config));
    let id = tables.hint(hint_index(&from_words(prefix)));
    if id != 0 && tables.node(id).is_some_and(|node| equal(&pod_cidr::<V6>(&node), &prefix)) {
        return id;
    }
    let id = routed(tables, &prefix, zone::PODS);
    if id != 0 {
        tables.remember_hint(hint_index(&from_words(prefix)), id);
    }
    id
}

/// The id of the other node that has an address itself; 0 for none.
#[inline(always)]
pub(crate) fn node_at<T: Tables>(tables: &mut T, address: &Words) -> u32 {
    routed(tables, address, zone::NODES)
}

/// The node's own pod CIDR; of a node without one what no packet's prefix equals.
#[inline(always)]
fn pod_cidr<const V6: bool>(node: &Node) -> Words {
    if V6 { address_words(&node.prefix_v6) } else { mapped(u32::from_ne_bytes(node.prefix_v4)) }
}

/// The node id that the route table gives for a prefix; 0 for none.
///
/// A BPF subprogram: it is the path of the first packet of a flow, and of what nodes send through the tunnel themselves.
#[inline(never)]
fn routed<T: Tables>(tables: &mut T, prefix: &Words, zone: u32) -> u32 {
    let prefix = from_words(*prefix);
    let tag = address_tag(&prefix);
    let key = RouteKey { prefix, zone };
    let route = match tables.route(&key) {
        Some(route) if route.tag != tag => tables.route(&key),
        route => route,
    };
    route.filter(|route| route.tag == tag).map(|route| route.node).unwrap_or_default()
}

/// Whom the socket at hand belongs to.
#[inline(always)]
pub(crate) fn netns<T: Tables>(tables: &mut T) -> Option<Netns> {
    let cookie = tables.netns_cookie();
    let tag = cookie_tag(cookie);
    let netns = tables.netns(cookie)?;
    if netns.tag == tag {
        return Some(netns);
    }
    tables.netns(cookie).filter(|netns| netns.tag == tag)
}
