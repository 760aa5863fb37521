//! What `diolkos monitor` is told.

/// Map `control`: ARRAY of one [`Control`], mmapable. Written by the operator's commands, read by every hook.
pub const CONTROLS: u32 = 1;
/// Map `event`: RINGBUF of this many bytes, of [`Event`]s. Written by the programs while someone watches.
pub const EVENT_BYTES: u32 = 1 << 18;
/// Bytes of a packet an event carries.
pub const EVENT_PACKET: usize = 128;

/// What the programs shall tell.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Control {
    /// [`watch`].
    pub watch: u32,
    /// Of flows, one packet in `sample + 1` is told; a power of two less one.
    pub sample: u32,
}
const _: () = assert!(size_of::<Control>() == 8 && align_of::<Control>() == 4);

/// Bits of [`Control::watch`].
pub mod watch {
    /// Every drop and refusal.
    pub const DROPS: u32 = 1 << 0;
    /// Sampled packets that went on.
    pub const FLOWS: u32 = 1 << 1;
}

/// One packet or system call at one hook.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Event {
    /// CLOCK_MONOTONIC, ns.
    pub time: u64,
    /// [`crate::counter::Hook`].
    pub hook: u8,
    /// Index within the hook's outcomes ([`crate::counter::OUTCOMES`]).
    pub outcome: u8,
    /// Length of the whole packet, bytes; 0 for a system call.
    pub length: u16,
    /// The device of the hook; 0 for a system call.
    pub ifindex: u32,
    /// The packet's first bytes, from the Ethernet header on, as the hook left them; of a system call the peer's
    /// address (16), port (2) and protocol (1).
    pub packet: [u8; EVENT_PACKET],
}
const _: () = assert!(size_of::<Event>() == 144 && align_of::<Event>() == 8);

/// Map `answer`: PERCPU_ARRAY of one [`Answers`]. Written and read by the programs alone.
pub const ANSWER_WINDOWS: u32 = 1;
/// RSTs and ICMP errors one core makes within one unit of [`crate::conntrack::Flow::seen`], about a second.
pub const ANSWERS_PER_TICK: u32 = 1000;

/// How many answers a core has made.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Answers {
    /// The present time window, in the unit of [`crate::conntrack::Flow::seen`].
    pub tick: u32,
    pub made: u32,
}
const _: () = assert!(size_of::<Answers>() == 8 && align_of::<Answers>() == 4);
