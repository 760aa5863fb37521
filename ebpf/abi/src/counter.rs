//! Counters: one per hook and outcome.

/// Map `counter`: PERCPU_ARRAY of u64, index [`index`]. Written by the programs, read by the agent.
pub const COUNTERS: u32 = HOOKS * OUTCOMES;

/// Hooks that count, in the order of the index.
pub const HOOKS: u32 = 8;
/// Outcomes a hook can count: verdicts from 0, drops from [`FIRST_DROP`].
pub const OUTCOMES: u32 = 64;
/// The first index of a drop within a hook's outcomes.
pub const FIRST_DROP: u32 = 16;

/// The hooks.
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hook {
    FromContainer = 0,
    ToContainer = 1,
    FromOverlay = 2,
    ToOverlay = 3,
    Connect = 4,
    GetPeerName = 5,
}

impl Hook {
    pub const ALL: [Self; 6] =
        [Self::FromContainer, Self::ToContainer, Self::FromOverlay, Self::ToOverlay, Self::Connect, Self::GetPeerName];

    /// The name in metrics, and of the program.
    pub const fn name(self) -> &'static str {
        match self {
            Self::FromContainer => "from_container",
            Self::ToContainer => "to_container",
            Self::FromOverlay => "from_overlay",
            Self::ToOverlay => "to_overlay",
            Self::Connect => "connect",
            Self::GetPeerName => "getpeername",
        }
    }
}

/// What became of a packet or a system call that was not refused.
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// None of ours: it goes on as it came.
    Untouched = 0,
    /// To the host's own stack.
    Stack = 1,
    /// Handed to a pod of this node.
    Pod = 2,
    /// Handed to the overlay device, with its tunnel key.
    Overlay = 3,
    /// Seen on the overlay device with its tunnel key, ready to be encapsulated.
    Encapsulated = 4,
    /// An address was translated; it goes on where it was going.
    Translated = 5,
}

impl Verdict {
    pub const ALL: [Self; 6] =
        [Self::Untouched, Self::Stack, Self::Pod, Self::Overlay, Self::Encapsulated, Self::Translated];

    /// The name in metrics and in the monitor.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Untouched => "untouched",
            Self::Stack => "stack",
            Self::Pod => "pod",
            Self::Overlay => "overlay",
            Self::Encapsulated => "encapsulated",
            Self::Translated => "translated",
        }
    }
}

/// Why a packet or a system call was refused.
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DropReason {
    /// The packet ends inside a header.
    Truncated = 0,
    /// A header contradicts itself (version, header length).
    Malformed = 1,
    /// The service has no endpoints.
    NoEndpoints = 2,
    /// The chosen slot or backend id is outside its table: the maps contradict each other.
    BadBackend = 3,
    /// The tuple of the replies is taken by another live flow, on every candidate.
    FlowCollision = 4,
    /// The hop limit ran out.
    HopLimit = 5,
    /// The overlay packet carries another VNI.
    WrongVni = 6,
    /// The packet has no tunnel metadata, or it could not be set.
    NoTunnel = 7,
    /// The destination lies in a pod CIDR of this node and no pod has it.
    NoSuchPod = 8,
    /// The node of the destination's pod CIDR is not known.
    NoSuchNode = 9,
    /// The source is not the address of the pod that sent it.
    SpoofedSource = 10,
    /// A rewrite failed in the kernel.
    RewriteFailed = 11,
    /// The conntrack map refused an entry.
    ConntrackFull = 12,
}

impl DropReason {
    pub const ALL: [Self; 13] = [
        Self::Truncated,
        Self::Malformed,
        Self::NoEndpoints,
        Self::BadBackend,
        Self::FlowCollision,
        Self::HopLimit,
        Self::WrongVni,
        Self::NoTunnel,
        Self::NoSuchPod,
        Self::NoSuchNode,
        Self::SpoofedSource,
        Self::RewriteFailed,
        Self::ConntrackFull,
    ];

    /// The name in metrics and in the monitor.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Truncated => "truncated",
            Self::Malformed => "malformed",
            Self::NoEndpoints => "no_endpoints",
            Self::BadBackend => "bad_backend",
            Self::FlowCollision => "flow_collision",
            Self::HopLimit => "hop_limit",
            Self::WrongVni => "wrong_vni",
            Self::NoTunnel => "no_tunnel",
            Self::NoSuchPod => "no_such_pod",
            Self::NoSuchNode => "no_such_node",
            Self::SpoofedSource => "spoofed_source",
            Self::RewriteFailed => "rewrite_failed",
            Self::ConntrackFull => "conntrack_full",
        }
    }
}

/// The index of a verdict's counter.
#[inline(always)]
pub const fn verdict_index(hook: Hook, verdict: Verdict) -> u32 {
    hook as u32 * OUTCOMES + verdict as u32
}

/// The index of a drop's counter.
#[inline(always)]
pub const fn drop_index(hook: Hook, reason: DropReason) -> u32 {
    hook as u32 * OUTCOMES + FIRST_DROP + reason as u32
}
const _: () = assert!(Verdict::ALL.len() as u32 <= FIRST_DROP);
const _: () = assert!(FIRST_DROP + (DropReason::ALL.len() as u32) <= OUTCOMES && (Hook::ALL.len() as u32) <= HOOKS);
