//! What differs between the families: the node's constants. Everything else handles addresses as words.

use diolkos_abi::address::address_words;
use diolkos_abi::config::Config;

/// The four words of an address as they stand in memory, an IPv4 one v4-mapped.
pub(crate) type Words = [u32; 4];

/// The third word of a v4-mapped address; the first two are 0.
pub(crate) const MAPPED: u32 = u32::from_ne_bytes([0, 0, 0xff, 0xff]);

/// The words of an IPv4 address.
#[inline(always)]
pub(crate) const fn mapped(v4: u32) -> Words {
    [0, 0, MAPPED, v4]
}

/// The same address, with the words that all of its family share in the compiler's sight.
#[inline(always)]
pub(crate) const fn narrowed<const V6: bool>(address: &Words) -> Words {
    if V6 { *address } else { mapped(address[3]) }
}

#[inline(always)]
pub(crate) const fn is_mapped(address: &Words) -> bool {
    address[0] == 0 && address[1] == 0 && address[2] == MAPPED
}

/// The network part of an address.
#[inline(always)]
pub(crate) const fn masked(address: &Words, mask: &Words) -> Words {
    [address[0] & mask[0], address[1] & mask[1], address[2] & mask[2], address[3] & mask[3]]
}

/// The address is inside a network. A mask of zero is that of no network at all.
#[inline(always)]
const fn is_in<const V6: bool>(address: &Words, network: &Words, mask: &Words) -> bool {
    let exists = if V6 { mask[0] != 0 } else { mask[3] != 0 };
    exists && equal(&masked(address, mask), network)
}

#[inline(always)]
pub(crate) const fn equal(one: &Words, other: &Words) -> bool {
    one[0] == other[0] && one[1] == other[1] && one[2] == other[2] && one[3] == other[3]
}

#[inline(always)]
const fn v4(address: [u8; 4]) -> Words {
    mapped(u32::from_ne_bytes(address))
}

#[inline(always)]
const fn v4_mask(mask: [u8; 4]) -> Words {
    [u32::MAX, u32::MAX, u32::MAX, u32::from_ne_bytes(mask)]
}

/// The address of the node itself in the pod network.
#[inline(always)]
pub(crate) const fn gateway<const V6: bool>(config: &Config) -> Words {
    if V6 { address_words(&config.gateway_v6) } else { v4(config.gateway_v4) }
}

/// The node's own address, under which its pods talk to the outside.
#[inline(always)]
pub(crate) const fn node<const V6: bool>(config: &Config) -> Words {
    if V6 { address_words(&config.node_v6) } else { v4(config.node_v4) }
}

/// The address sees pods' own addresses though it is no pod's.
#[inline(always)]
pub(crate) const fn is_native<const V6: bool>(config: &Config, address: &Words) -> bool {
    let (cidr, mask) = if V6 {
        (address_words(&config.native_cidr_v6), address_words(&config.native_mask_v6))
    } else {
        (v4(config.native_cidr_v4), v4_mask(config.native_mask_v4))
    };
    is_in::<V6>(address, &cidr, &mask)
}

/// The mask of all pod CIDRs.
#[inline(always)]
pub(crate) const fn route_mask<const V6: bool>(config: &Config) -> Words {
    if V6 { address_words(&config.route_mask_v6) } else { v4_mask(config.route_mask_v4) }
}

/// The address lies in this node's pod CIDR.
#[inline(always)]
pub(crate) const fn is_own<const V6: bool>(config: &Config, address: &Words) -> bool {
    let cidr = if V6 { address_words(&config.pod_cidr_v6) } else { v4(config.pod_cidr_v4) };
    is_in::<V6>(address, &cidr, &route_mask::<V6>(config))
}

/// The address lies in the service CIDR.
#[inline(always)]
pub(crate) const fn is_service<const V6: bool>(config: &Config, address: &Words) -> bool {
    let (cidr, mask) = if V6 {
        (address_words(&config.service_cidr_v6), address_words(&config.service_mask_v6))
    } else {
        (v4(config.service_cidr_v4), v4_mask(config.service_mask_v4))
    };
    is_in::<V6>(address, &cidr, &mask)
}

/// `fe80::/10`.
#[inline(always)]
pub(crate) const fn is_link_local_v6(address: &Words) -> bool {
    address[0] & u32::from_ne_bytes([0xff, 0xc0, 0, 0]) == u32::from_ne_bytes([0xfe, 0x80, 0, 0])
}
