//! Addresses, one form for both families.

/// An IPv6 address, or an IPv4 address as v4-mapped IPv6; network order.
pub type Address = [u8; 16];

/// The first 12 bytes of a v4-mapped address.
pub const V4_PREFIX: [u8; 12] = [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff];

/// `::ffff:a.b.c.d` of an IPv4 address in network order.
#[inline(always)]
pub const fn v4_mapped(v4: [u8; 4]) -> Address {
    [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, v4[0], v4[1], v4[2], v4[3]]
}

/// The IPv4 address inside a v4-mapped one, in network order; of another address its last four bytes.
#[inline(always)]
pub const fn v4_of(address: &Address) -> [u8; 4] {
    [address[12], address[13], address[14], address[15]]
}

/// IP protocol numbers (IANA) as they stand in keys.
pub mod protocol {
    pub const ICMP: u8 = 1;
    pub const TCP: u8 = 6;
    pub const UDP: u8 = 17;
    pub const ICMPV6: u8 = 58;
    pub const SCTP: u8 = 132;
}

/// A 32-bit mix of a word stream: the one hash of the project, for tags and for the choice of a row, the same on both
/// sides. The finaliser is that of MurmurHash3 (public domain).
#[inline(always)]
pub const fn mix(hash: u32, word: u32) -> u32 {
    let mut h = (hash ^ word).wrapping_mul(0x85eb_ca6b);
    h ^= h >> 13;
    h = h.wrapping_mul(0xc2b2_ae35);
    h ^ (h >> 16)
}

/// [`mix`] over the four words of an address.
#[inline(always)]
pub const fn mix_address(hash: u32, a: &Address) -> u32 {
    let hash = mix(hash, u32::from_ne_bytes([a[0], a[1], a[2], a[3]]));
    let hash = mix(hash, u32::from_ne_bytes([a[4], a[5], a[6], a[7]]));
    let hash = mix(hash, u32::from_ne_bytes([a[8], a[9], a[10], a[11]]));
    mix(hash, u32::from_ne_bytes([a[12], a[13], a[14], a[15]]))
}
