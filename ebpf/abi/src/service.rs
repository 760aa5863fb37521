//! Service load balancing: frontend -> service -> row of slots -> backend.
//!
//! A service is a row of slots. The row's extent `{base, count}` is one 64-bit word in an mmapped array, so all
//! frontends of a service change together by one aligned 8-byte store, without a system call.

use crate::address::{Address, address_words, hash};

/// Map `frontend`: HASH, not preallocated, [`FrontendKey`] -> [`frontend_word`]. Written by the agent, read by every
/// hook that sees a new connection.
pub const FRONTENDS: u32 = 1 << 20;
/// Map `service`: ARRAY, mmapable, service id -> [`Service`]. Id 0 is never given out.
pub const SERVICES: u32 = 1 << 16;
/// Map `slot`: ARRAY, mmapable, of [`SlotLine`]s; this is the number of slots, not of lines.
pub const SLOTS: u32 = 1 << 20;
/// Map `backend`: ARRAY, mmapable, backend id -> [`Backend`]. Id 0 is never given out. Room for 30,000 Services of ten
/// endpoints each, and for those of them that drain.
pub const BACKENDS: u32 = 1 << 19;
/// Slots of one line: array elements are rounded up to 8 bytes, so single 4-byte slots would waste half.
pub const SLOTS_PER_LINE: u32 = 16;
/// Longest row of one service, so that one service cannot take the whole map; also the largest Maglev table.
pub const SLOTS_PER_SERVICE: u32 = 16_381;

/// Map `member`: HASH, not preallocated, [`MemberKey`] -> [`member_word`]: which backends are in the row of a service
/// with session affinity, and of no other service. Written by the agent: added before the row names the backend, removed
/// after it no longer does.
pub const MEMBERS: u32 = 1 << 17;
/// Map `affinity`: LRU HASH, [`AffinityKey`] -> [`Affinity`]. Written by the programs.
pub const AFFINITIES: u32 = 1 << 16;

/// Where a frontend may be reached from.
pub mod scope {
    /// A ClusterIP: pods and nodes of this cluster.
    pub const CLUSTER: u8 = 0;
}

/// What a client dials.
#[repr(C, align(4))]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct FrontendKey {
    pub address: Address,
    pub port: [u8; 2],
    /// [`crate::address::protocol`].
    pub protocol: u8,
    /// [`scope`].
    pub scope: u8,
    /// Tenant or zone of overlapping addresses; 0 is the only one in use.
    pub zone: u16,
    pub pad: [u8; 2],
}
const _: () = assert!(size_of::<FrontendKey>() == 24 && align_of::<FrontendKey>() == 4);

impl FrontendKey {
    #[inline(always)]
    pub const fn new(address: Address, port: [u8; 2], protocol: u8, scope: u8) -> Self {
        Self { address, port, protocol, scope, zone: 0, pad: [0; 2] }
    }

    /// Tells this key's value from that of another key whose element the kernel reused under a reader.
    #[inline(always)]
    pub const fn tag(&self) -> u16 {
        let ports = u32::from_ne_bytes([self.port[0], self.port[1], self.protocol, self.scope]);
        let [a, b, c, d] = address_words(&self.address);
        (hash([a, b, c, d, ports, self.zone as u32]) >> 16) as u16
    }
}

/// Bits of the flags of a [`frontend_word`].
pub mod frontend_flags {
    /// This is no service but says that its address belongs to one: key with port 0 and protocol 0, service id 0. A
    /// port of such an address that is not served is refused; an address of the service CIDR without such an entry is
    /// not given out, and what is sent to it is dropped.
    pub const ADDRESS: u16 = 1 << 0;
}

/// The value of `frontend`: `service id (32) | tag (16) | flags (16)`, low bits first.
#[inline(always)]
pub const fn frontend_word(service: u32, tag: u16, flags: u16) -> u64 {
    service as u64 | (tag as u64) << 32 | (flags as u64) << 48
}

/// `(service id, tag, flags)` of a [`frontend_word`].
#[inline(always)]
pub const fn frontend_parts(word: u64) -> (u32, u16, u16) {
    (word as u32, (word >> 32) as u16, (word >> 48) as u16)
}

/// The row of a service and its policies.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Service {
    /// [`row_word`]; read and written as one aligned 8-byte word.
    pub row: u64,
    /// Reserved for load-balancing policies; 0.
    pub policy: u32,
    /// Reserved for service flags; 0.
    pub flags: u32,
    /// Session affinity: how long after its last connection a client keeps its backend, in the unit of
    /// [`crate::conntrack::Flow::seen`]; 0 for none.
    pub affinity: u32,
    pub pad: [u8; 12],
}
const _: () = assert!(size_of::<Service>() == 32 && align_of::<Service>() == 8);

/// The extent of a row: `base (32) | count (32)`, low bits first, in slots. A count of 0: no endpoints.
#[inline(always)]
pub const fn row_word(base: u32, count: u32) -> u64 {
    base as u64 | (count as u64) << 32
}

/// `(base, count)` of a [`row_word`].
#[inline(always)]
pub const fn row_parts(word: u64) -> (u32, u32) {
    (word as u32, (word >> 32) as u32)
}

/// The row of a service id that is free but was in use: no endpoints, and told apart from an id never given out.
pub const RETIRED_ROW: u64 = row_word(u32::MAX, 0);

/// One element of map `slot`: backend ids.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SlotLine(pub [u32; SLOTS_PER_LINE as usize]);
const _: () = assert!(size_of::<SlotLine>() == 64 && SLOTS.is_multiple_of(SLOTS_PER_LINE));

/// The slot within a row for a tuple hash: multiply-shift, without division or bias towards low slots.
/// `count` must be at most [`SLOTS_PER_SERVICE`].
#[inline(always)]
pub const fn slot_of(hash: u32, base: u32, count: u32) -> u32 {
    base.wrapping_add(((hash as u64 * count as u64) >> 32) as u32)
}

/// A pod or host that serves. The words an entry of conntrack compares stand together.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Backend {
    pub address: Address,
    pub port: [u8; 2],
    /// [`backend_state`].
    pub state: u8,
    /// Topology zone, 0 for none.
    pub zone: u8,
    /// Raised each time the id is given to another address and port.
    pub generation: u32,
    /// Node id ([`crate::pod::Node`]) the backend runs on, so that a packet needs no route lookup; 0 when unknown. A
    /// backend whose address is that node's own is on the host network, and is left to the stack.
    pub node: u32,
    /// [`crate::address::protocol`]: a TCP and a UDP port of one pod are two backends, with lives of their own.
    pub protocol: u8,
    pub pad: [u8; 3],
}
const _: () = assert!(size_of::<Backend>() == 32 && align_of::<Backend>() == 4);

/// Life of a backend.
pub mod backend_state {
    /// The id is free.
    pub const FREE: u8 = 0;
    /// New and established connections may use it; whether new ones do is decided by the rows alone.
    pub const ALIVE: u8 = 1;
    /// Gone: established connections must move or end.
    pub const DEAD: u8 = 2;
}

/// A backend in the row of a service.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct MemberKey {
    pub service: u32,
    pub backend: u32,
}
const _: () = assert!(size_of::<MemberKey>() == 8 && align_of::<MemberKey>() == 4);

impl MemberKey {
    /// Tells this key's value from that of another key whose element the kernel reused under a reader.
    #[inline(always)]
    pub const fn tag(&self) -> u32 {
        hash([self.service, self.backend])
    }
}

/// The value of `member`: `generation of the backend (32) | tag (32)`, low bits first.
#[inline(always)]
pub const fn member_word(generation: u32, tag: u32) -> u64 {
    generation as u64 | (tag as u64) << 32
}

/// `(generation of the backend, tag)` of a [`member_word`].
#[inline(always)]
pub const fn member_parts(word: u64) -> (u32, u32) {
    (word as u32, (word >> 32) as u32)
}

/// A client of a service with session affinity.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct AffinityKey {
    /// The client's address as the service's node knows it: of a pod its own, of a process of the node the node's.
    pub client: Address,
    pub service: u32,
}
const _: () = assert!(size_of::<AffinityKey>() == 20 && align_of::<AffinityKey>() == 4);

impl AffinityKey {
    /// Tells this key's value from that of another key whose element the kernel reused under a reader.
    #[inline(always)]
    pub const fn tag(&self) -> u32 {
        let [a, b, c, d] = address_words(&self.client);
        hash([a, b, c, d, self.service])
    }
}

/// The backend a client of a service keeps.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Affinity {
    /// [`crate::conntrack::backend_word`], read and written as one aligned 8-byte word.
    pub backend: u64,
    /// [`AffinityKey::tag`] of the key.
    pub tag: u32,
    /// When the client last opened a connection, in the unit of [`crate::conntrack::Flow::seen`].
    pub seen: u32,
}
const _: () = assert!(size_of::<Affinity>() == 16 && align_of::<Affinity>() == 8);
