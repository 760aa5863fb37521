//! Translated connections. A direct connection has no entry.
//!
//! A translated flow has two: a forward entry under the tuple the client sends, and a reverse entry under the tuple
//! the backend's replies carry.

use crate::address::{Address, address_words, hash};
use crate::config::Lifetimes;

/// Map `conntrack`: LRU HASH with one LRU list per core (`BPF_F_NO_COMMON_LRU`), [`Tuple`] -> [`Flow`]. Written and
/// read by the tc programs alone: what is not used gives way to what is new.
pub const FLOWS: u32 = 1 << 17;

/// Times are `jiffies >> TIME_SHIFT`, so that 32 bits last and a busy flow is stamped about once a second.
pub const TIME_SHIFT: u32 = 8;

/// A tuple as it is seen on the wire, before any translation by the hook that looks it up.
#[repr(C, align(4))]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Tuple {
    pub source: Address,
    pub destination: Address,
    pub source_port: [u8; 2],
    pub destination_port: [u8; 2],
    /// [`crate::address::protocol`].
    pub protocol: u8,
    /// [`direction`].
    pub direction: u8,
    /// Tenant or zone of overlapping addresses; 0 is the only one in use.
    pub zone: u16,
}
const _: () = assert!(size_of::<Tuple>() == 40 && align_of::<Tuple>() == 4);

/// Which sighting of a packet a tuple belongs to.
pub mod direction {
    /// The packet as a pod, the overlay or a device handed it over.
    pub const WIRE: u8 = 0;
    /// The packet as it leaves the node for the outside, or comes back from there: under the node's address.
    pub const OUTSIDE: u8 = 1;
}

impl Tuple {
    /// Chooses the slot of a row and tags the flow. Depends on the whole tuple and on nothing else, so the same
    /// tuple meets the same backend while the row is unchanged, with or without conntrack.
    #[inline(always)]
    pub const fn hash(&self) -> u32 {
        let ports = u32::from_ne_bytes([
            self.source_port[0],
            self.source_port[1],
            self.destination_port[0],
            self.destination_port[1],
        ]);
        let rest = self.protocol as u32 | (self.direction as u32) << 8 | (self.zone as u32) << 16;
        let [a, b, c, d] = address_words(&self.source);
        let [e, f, g, h] = address_words(&self.destination);
        hash([a, b, c, d, e, f, g, h, ports, rest])
    }

    /// [`Tuple::hash`] of [`Tuple::reversed`], without making it.
    #[inline(always)]
    pub const fn reversed_hash(&self) -> u32 {
        let ports = u32::from_ne_bytes([
            self.destination_port[0],
            self.destination_port[1],
            self.source_port[0],
            self.source_port[1],
        ]);
        let rest = self.protocol as u32 | (self.direction as u32) << 8 | (self.zone as u32) << 16;
        let [a, b, c, d] = address_words(&self.destination);
        let [e, f, g, h] = address_words(&self.source);
        hash([a, b, c, d, e, f, g, h, ports, rest])
    }

    /// The tuple of a packet that answers this one.
    #[inline(always)]
    pub const fn reversed(&self) -> Self {
        Self {
            source: self.destination,
            destination: self.source,
            source_port: self.destination_port,
            destination_port: self.source_port,
            ..*self
        }
    }
}

/// One direction of a translated flow.
///
/// A forward entry of a service takes its destination from the backend, so that a change of it is seen at once. All
/// other translations stand in the entry itself, each with its flag.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Flow {
    /// [`backend_word`], read and written as one aligned 8-byte word; 0 when no service is involved.
    pub backend: u64,
    /// [`Tuple::hash`] of the entry's own key.
    pub tag: u32,
    /// The service the client dialled; 0 when none is involved.
    pub service: u32,
    /// When the last packet passed: `jiffies >> TIME_SHIFT`.
    pub seen: u32,
    /// [`flow_flags`].
    pub flags: u16,
    /// What the source port becomes, with [`flow_flags::SOURCE`].
    pub source_port: [u8; 2],
    /// What the source address becomes, with [`flow_flags::SOURCE`].
    pub source: Address,
    /// What the destination address becomes, with [`flow_flags::DESTINATION`].
    pub destination: Address,
    /// What the destination port becomes, with [`flow_flags::DESTINATION`].
    pub destination_port: [u8; 2],
    pub pad: [u8; 2],
    /// Reserved for policy: identity of the other side, 0.
    pub identity: u32,
    /// Reserved for policy: the revision that allowed the flow, 0.
    pub policy_revision: u32,
    pub pad_tail: [u8; 4],
}
const _: () = assert!(size_of::<Flow>() == 72 && align_of::<Flow>() == 8);

/// `backend id (32) | generation (32)`, low bits first.
#[inline(always)]
pub const fn backend_word(backend: u32, generation: u32) -> u64 {
    backend as u64 | (generation as u64) << 32
}

/// `(backend id, generation)` of a [`backend_word`].
#[inline(always)]
pub const fn backend_parts(word: u64) -> (u32, u32) {
    (word as u32, (word >> 32) as u32)
}

/// Bits of [`Flow::flags`].
pub mod flow_flags {
    /// The entry translates what comes back.
    pub const REVERSE: u16 = 1 << 0;
    /// A FIN passed in this direction.
    pub const FIN: u16 = 1 << 1;
    /// A RST passed in this direction.
    pub const RST: u16 = 1 << 2;
    /// The source becomes [`super::Flow::source`] and [`super::Flow::source_port`].
    pub const SOURCE: u16 = 1 << 3;
    /// The destination becomes [`super::Flow::destination`] and [`super::Flow::destination_port`].
    pub const DESTINATION: u16 = 1 << 4;
    /// Of a pod that talks to the outside under its node's address.
    pub const MASQUERADE: u16 = 1 << 5;
    /// A packet that does not open the connection passed in this direction: TCP lives long from now on.
    pub const CONFIRMED: u16 = 1 << 6;
}

/// Map `known`: ARRAY of [`KnownLine`]s; this is the number of marks, not of lines. The mark at [`known_index`] of an
/// entry's tag says when one of the entries with that place was last made or used. Written and read by the tc programs
/// alone: it spares what has no entry, which is most of what pods send, a lookup in a table that does not stay in the
/// processor's caches. Marks grow old with the entries, so nothing has to take them back.
pub const KNOWN: u32 = FLOWS * 4;
/// Marks of one line: array elements are rounded up to 8 bytes.
pub const MARKS_PER_LINE: u32 = 32;
/// Marks count in `seen >> MARK_SHIFT`, so that 8 bits last for days.
const MARK_SHIFT: u32 = 10;

/// One element of map `known`: [`mark`]s.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct KnownLine(pub [u8; MARKS_PER_LINE as usize]);
const _: () = assert!(size_of::<KnownLine>() == 32);

/// The place of the mark of an entry with this tag.
#[inline(always)]
pub const fn known_index(tag: u32) -> u32 {
    tag & (KNOWN - 1)
}

/// The mark of an entry made or used at `seen`; 0 is that of none.
#[inline(always)]
pub const fn mark(seen: u32) -> u8 {
    match (seen >> MARK_SHIFT) as u8 {
        0 => 1,
        mark => mark,
    }
}

/// Whether an entry with this mark may be alive at `now`. Never `false` for one that is.
#[inline(always)]
pub const fn may_live(known: u8, now: u32, lifetimes: &Lifetimes) -> bool {
    // Three more, for what rounding, a core with an older time and the 0 that is not used take off.
    let longest = (lifetimes.longest() >> MARK_SHIFT) + 3;
    let age = mark(now).wrapping_sub(known);
    // What another core marked a moment later is not old. A mark of days ago seems to be young again.
    known != 0 && (lifetimes.longest() == 0 || age as u32 <= longest || age >= 1 << 7)
}

/// Map `fragment`: LRU HASH, [`FragmentKey`] -> [`Fragment`]: the ports of a packet whose first fragment passed. Written
/// and read by the tc programs alone.
pub const FRAGMENTS: u32 = 1 << 13;

/// What all fragments of one packet share.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct FragmentKey {
    pub source: Address,
    pub destination: Address,
    /// As it stands in the packet; of IPv4 the low 16 bits.
    pub identification: u32,
    /// [`crate::address::protocol`].
    pub protocol: u8,
    pub pad: u8,
    /// Tenant or zone of overlapping addresses; 0 is the only one in use.
    pub zone: u16,
}
const _: () = assert!(size_of::<FragmentKey>() == 40 && align_of::<FragmentKey>() == 4);

impl FragmentKey {
    /// Tells this key's value from that of another key whose element the kernel reused under a reader.
    #[inline(always)]
    pub const fn tag(&self) -> u32 {
        let [a, b, c, d] = address_words(&self.source);
        let [e, f, g, h] = address_words(&self.destination);
        hash([a, b, c, d, e, f, g, h, self.identification, self.protocol as u32 | (self.zone as u32) << 16])
    }
}

/// The ports of a packet in fragments.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Fragment {
    /// [`FragmentKey::tag`] of the key.
    pub tag: u32,
    /// Source and destination port, as they stand in the packet.
    pub ports: u32,
}
const _: () = assert!(size_of::<Fragment>() == 8 && align_of::<Fragment>() == 4);

/// The value of the socket storage `socket`: what the client of a translated socket believes it talks to.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SocketFlow {
    /// The address dialled, in its v4-mapped form for IPv4.
    pub address: Address,
    /// The address of the backend, in the same form.
    pub backend_address: Address,
    /// [`backend_word`] of the choice.
    pub backend: u64,
    pub service: u32,
    /// The port dialled.
    pub port: [u8; 2],
    /// The port of the backend.
    pub backend_port: [u8; 2],
    /// [`crate::address::protocol`].
    pub protocol: u8,
    /// 1 when the socket talks to further services, which stand in `peer`.
    pub more: u8,
    /// 1 when the socket stands in `udp` with this backend.
    pub recorded: u8,
    /// 1 when the socket has asked the backend under its own address since it last asked the service: so come the answers.
    pub direct: u8,
    pub pad: [u8; 4],
}
const _: () = assert!(size_of::<SocketFlow>() == 56 && align_of::<SocketFlow>() == 8);

/// Map `peer`: LRU HASH, [`PeerKey`] -> [`Peer`]: the second and further services an unconnected UDP socket talks to, two
/// entries each. The first one stands in the socket's storage.
pub const PEERS: u32 = 1 << 14;

/// One end of a service's translation, as a socket names it or meets it.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct PeerKey {
    /// The socket's cookie.
    pub cookie: u64,
    pub address: Address,
    pub port: [u8; 2],
    /// [`peer_side`].
    pub side: u8,
    pub pad: [u8; 5],
}
const _: () = assert!(size_of::<PeerKey>() == 32 && align_of::<PeerKey>() == 8);

/// Which end a [`PeerKey`] names. The value holds the other one.
pub mod peer_side {
    /// What the socket dials: where its datagrams go.
    pub const DIALLED: u8 = 0;
    /// The backend: from where answers seem to come.
    pub const BACKEND: u8 = 1;
}

impl PeerKey {
    /// Tells this key's value from that of another key whose element the kernel reused under a reader.
    #[inline(always)]
    pub const fn tag(&self) -> u32 {
        let [a, b, c, d] = address_words(&self.address);
        let rest = u32::from_ne_bytes([self.port[0], self.port[1], self.side, 0]);
        hash([a, b, c, d, rest, self.cookie as u32, (self.cookie >> 32) as u32])
    }
}

/// The other end of a translation.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Peer {
    /// [`backend_word`] of the choice.
    pub backend: u64,
    pub address: Address,
    /// [`PeerKey::tag`] of the key.
    pub tag: u32,
    /// The service the socket dialled; 0 when it has asked the backend under its own address since.
    pub service: u32,
    pub port: [u8; 2],
    pub pad: [u8; 6],
}
const _: () = assert!(size_of::<Peer>() == 40 && align_of::<Peer>() == 8);

/// Map `udp`: ARRAY, index [`udp_index`] of a socket's cookie -> [`ConnectedUdp`]: the UDP sockets connected to a backend,
/// so that the agent can close those of a backend that is gone. The kernel counts cookies up, so that a socket takes the
/// place of one of long ago: as many as there are places are known, and a store costs nothing.
pub const CONNECTED_UDPS: u32 = 1 << 17;

/// The place of a socket's cookie.
#[inline(always)]
pub const fn udp_index(cookie: u64) -> u32 {
    cookie as u32 & (CONNECTED_UDPS - 1)
}

/// A connected UDP socket.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ConnectedUdp {
    /// The socket's; 0 in a place that nobody has.
    pub cookie: u64,
    /// [`backend_word`] of the choice.
    pub backend: u64,
    /// The cookie of the network namespace.
    pub netns: u64,
    /// Tells what one core wrote whole from what two wrote at a time.
    pub check: u32,
    pub pad: u32,
}
const _: () = assert!(size_of::<ConnectedUdp>() == 32 && align_of::<ConnectedUdp>() == 8);

impl ConnectedUdp {
    #[inline(always)]
    pub const fn new(cookie: u64, backend: u64, netns: u64) -> Self {
        let (a, b, c) = (cookie, backend, netns);
        let check = hash([a as u32, (a >> 32) as u32, b as u32, (b >> 32) as u32, c as u32, (c >> 32) as u32]);
        Self { cookie, backend, netns, check, pad: 0 }
    }

    /// It names a socket, and no reader met it half written.
    #[must_use]
    pub const fn is_whole(&self) -> bool {
        self.cookie != 0 && self.check == Self::new(self.cookie, self.backend, self.netns).check
    }
}
