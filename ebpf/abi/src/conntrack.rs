//! Translated connections. A direct connection has no entry.
//!
//! A translated flow has two: a forward entry under the tuple the client sends, and a reverse entry under the tuple
//! the backend's replies carry.

use crate::address::{Address, address_words, hash};

/// Map `conntrack`: LRU HASH with one LRU list per core (`BPF_F_NO_COMMON_LRU`), [`Tuple`] -> [`Flow`]. Written and
/// read by the tc programs alone: what is not used gives way to what is new.
pub const FLOWS: u32 = 1 << 17;

/// A flow's times are `jiffies >> TIME_SHIFT`, so that 32 bits last.
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
    /// The packet as a pod, the overlay or a device handed it over: the only one in use.
    pub const WIRE: u8 = 0;
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
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Flow {
    /// [`backend_word`], read and written as one aligned 8-byte word.
    pub backend: u64,
    /// [`Tuple::hash`] of the entry's own key.
    pub tag: u32,
    /// The service the client dialled.
    pub service: u32,
    /// [`flow_flags`].
    pub flags: u16,
    /// Reverse entries: the port the client dialled. Forward entries: 0.
    pub port: [u8; 2],
    /// When the last packet passed.
    pub seen: u32,
    /// Reverse entries: the address the client dialled. Forward entries: 0.
    pub address: Address,
    /// Reserved for policy: identity of the other side, 0.
    pub identity: u32,
    /// Reserved for policy: the revision that allowed the flow, 0.
    pub policy_revision: u32,
}
const _: () = assert!(size_of::<Flow>() == 48 && align_of::<Flow>() == 8);

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
    /// The entry translates replies: source address and port become those the client dialled.
    pub const REVERSE: u16 = 1 << 0;
    /// A FIN passed in this direction.
    pub const FIN: u16 = 1 << 1;
    /// A RST passed in this direction.
    pub const RST: u16 = 1 << 2;
}

/// The value of the socket storage `socket`: what the client of a translated socket believes it talks to.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SocketFlow {
    /// The address dialled.
    pub address: Address,
    /// [`backend_word`] of the choice.
    pub backend: u64,
    pub service: u32,
    /// The port dialled.
    pub port: [u8; 2],
    /// [`crate::address::protocol`].
    pub protocol: u8,
    pub pad: u8,
}
const _: () = assert!(size_of::<SocketFlow>() == 32 && align_of::<SocketFlow>() == 8);
