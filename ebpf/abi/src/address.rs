//! Addresses, one form for both families.

/// An IPv6 address, or an IPv4 address as v4-mapped IPv6; network order.
pub type Address = [u8; 16];

/// The first 12 bytes of a v4-mapped address.
pub const V4_PREFIX: [u8; 12] = [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff];

/// `::ffff:a.b.c.d` of an IPv4 address in network order.
#[inline(always)]
pub const fn v4_mapped(v4: [u8; 4]) -> Address {
    from_words([0, 0, u32::from_ne_bytes([0, 0, 0xff, 0xff]), u32::from_ne_bytes(v4)])
}

/// The IPv4 address inside a v4-mapped one, in network order; of another address its last four bytes.
#[inline(always)]
pub const fn v4_of(address: &Address) -> [u8; 4] {
    let [_, _, _, v4] = address_words(address);
    v4.to_ne_bytes()
}

/// Whether this is an IPv4 address in its v4-mapped form.
#[inline(always)]
pub const fn is_v4(address: &Address) -> bool {
    let [a, b, c, _] = address_words(address);
    a == 0 && b == 0 && c == u32::from_ne_bytes([0, 0, 0xff, 0xff])
}

/// The network part of an address. The mask of an IPv4 network has ones in its first 96 bits.
#[inline(always)]
pub const fn masked(address: &Address, mask: &Address) -> Address {
    let [a, b, c, d] = address_words(address);
    let [e, f, g, h] = address_words(mask);
    from_words([a & e, b & f, c & g, d & h])
}

/// IP protocol numbers (IANA) as they stand in keys.
pub mod protocol {
    pub const ICMP: u8 = 1;
    pub const TCP: u8 = 6;
    pub const UDP: u8 = 17;
    pub const ICMPV6: u8 = 58;
    pub const SCTP: u8 = 132;
}

/// One multiplier a word of [`hash`]: the fractional part of pi, 64 bits each, made odd.
const MULTIPLIERS: [u64; 10] = [
    0x243f_6a88_85a3_08d3,
    0x1319_8a2e_0370_7345,
    0xa409_3822_299f_31d1,
    0x082e_fa98_ec4e_6c89,
    0x4528_21e6_38d0_1377,
    0xbe54_66cf_34e9_0c6d,
    0xc0ac_29b7_c97c_50dd,
    0x3f84_d5b5_b547_0917,
    0x9216_d5d9_8979_fb1b,
    0xd131_0ba6_98df_b5ad,
];

/// The one hash of the project, for tags and for the choice of a row, the same on both sides: multilinear hashing
/// (Lemire and Kaser, "Strongly universal string hashing is fast"). Its multiplications do not wait for each other,
/// and those of constant words are done by the compiler. At most ten words.
#[inline(always)]
pub const fn hash<const N: usize>(words: [u32; N]) -> u32 {
    const { assert!(N <= MULTIPLIERS.len()) };
    let mut sum = 0xb8e1_afed_6a26_7e97_u64;
    let mut i = 0;
    while i < N {
        sum = sum.wrapping_add(MULTIPLIERS[i].wrapping_mul(words[i] as u64));
        i += 1;
    }
    (sum >> 32) as u32
}

/// The four words of an address, as they stand in memory. The compiler does not join single bytes to words.
#[inline(always)]
pub const fn address_words(address: &Address) -> [u32; 4] {
    let [a, b, c, d] = address.as_chunks::<4>().0 else { return [0; 4] };
    [u32::from_ne_bytes(*a), u32::from_ne_bytes(*b), u32::from_ne_bytes(*c), u32::from_ne_bytes(*d)]
}

/// The address of four words, as they stand in memory.
#[inline(always)]
pub const fn from_words(words: [u32; 4]) -> Address {
    let mut address = [0; 16];
    if let [a, b, c, d] = address.as_chunks_mut::<4>().0 {
        *a = words[0].to_ne_bytes();
        *b = words[1].to_ne_bytes();
        *c = words[2].to_ne_bytes();
        *d = words[3].to_ne_bytes();
    }
    address
}
