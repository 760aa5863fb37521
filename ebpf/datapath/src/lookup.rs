//! Lookups whose answer is believed only with its tag.
//!
//! The kernel reuses a freed hash element at once, so a reader can meet another key's value. Such a value has another
//! tag: the lookup is made once more, and a second mismatch is a miss.

use diolkos_abi::address::{self, Address, address_words, is_v4, v4_mapped, v4_of};
use diolkos_abi::config::Config;
use diolkos_abi::conntrack::{Flow, Peer, PeerKey, Tuple};
use diolkos_abi::pod::{Endpoint, Netns, RouteKey, address_tag, cookie_tag};
use diolkos_abi::service::{
    Affinity, AffinityKey, FrontendKey, MemberKey, frontend_flags, frontend_parts, member_parts, scope,
};

use crate::tables::Tables;

/// The service id behind a frontend.
#[inline(always)]
pub(crate) fn service<T: Tables>(tables: &mut T, key: &FrontendKey) -> Option<u32> {
    let expected = key.tag();
    let (service, tag, _) = frontend_parts(tables.frontend(key)?);
    if tag == expected {
        return Some(service);
    }
    let (service, tag, _) = frontend_parts(tables.frontend(key)?);
    (tag == expected).then_some(service)
}

/// Whether an address is a service's: an unknown port of it is refused. Only addresses of the service CIDR are asked
/// for, so that no others pay for the lookup.
#[inline(always)]
pub(crate) fn is_service_address<T: Tables>(config: &Config, tables: &mut T, address: &Address) -> bool {
    if !in_service_cidr(config, address) {
        return false;
    }
    let key = FrontendKey::new(*address, [0; 2], 0, scope::CLUSTER);
    let expected = key.tag();
    let is_marker = |word| {
        let (_, tag, flags) = frontend_parts(word);
        tag == expected && flags & frontend_flags::ADDRESS != 0
    };
    tables.frontend(&key).is_some_and(is_marker) || tables.frontend(&key).is_some_and(is_marker)
}

#[inline(always)]
fn in_service_cidr(config: &Config, address: &Address) -> bool {
    if is_v4(address) {
        config.service_cidr_v4 != [0; 4] && masked(v4_of(address), config.service_mask_v4) == config.service_cidr_v4
    } else {
        let cidr = address_words(&config.service_cidr_v6);
        cidr != [0; 4] && address_words(&address::masked(address, &config.service_mask_v6)) == cidr
    }
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
pub(crate) fn flow<T: Tables>(tables: &mut T, key: &Tuple, tag: u32, flags: u16) -> Option<Flow> {
    let flow = tables.flow(key, tag, flags)?;
    if flow.tag == tag {
        return Some(flow);
    }
    tables.flow(key, tag, flags).filter(|flow| flow.tag == tag)
}

/// The pod of this node with an address.
#[inline(always)]
pub(crate) fn endpoint<T: Tables>(tables: &mut T, v4: [u8; 4]) -> Option<Endpoint> {
    let address = v4_mapped(v4);
    let tag = address_tag(&address);
    let endpoint = tables.endpoint(&address)?;
    if endpoint.tag == tag {
        return Some(endpoint);
    }
    tables.endpoint(&address).filter(|endpoint| endpoint.tag == tag)
}

/// The id of the node whose pod CIDR holds an address.
#[inline(always)]
pub(crate) fn route<T: Tables>(config: &Config, tables: &mut T, v4: [u8; 4]) -> Option<u32> {
    let prefix = v4_mapped(masked(v4, config.route_mask_v4));
    let tag = address_tag(&prefix);
    let key = RouteKey { prefix, zone: 0 };
    let route = tables.route(&key)?;
    if route.tag == tag {
        return Some(route.node);
    }
    tables.route(&key).filter(|route| route.tag == tag).map(|route| route.node)
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

/// The network part of an address.
#[inline(always)]
pub(crate) fn masked(v4: [u8; 4], mask: [u8; 4]) -> [u8; 4] {
    (u32::from_ne_bytes(v4) & u32::from_ne_bytes(mask)).to_ne_bytes()
}
