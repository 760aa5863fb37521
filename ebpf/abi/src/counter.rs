//! Counters: one per hook and outcome.

/// Map `counter`: PERCPU_ARRAY of u64, index [`index`]. Written by the programs, read by the agent.
pub const COUNTERS: u32 = HOOKS * OUTCOMES;

/// Hooks that count, in the order of the index.
pub const HOOKS: u32 = 16;
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
    /// tc ingress of a device that holds an address of the node.
    FromNetdev = 6,
    /// tc egress of such a device.
    ToNetdev = 7,
    SendMsg = 8,
    RecvMsg = 9,
}

impl Hook {
    pub const ALL: [Self; 10] = [
        Self::FromContainer,
        Self::ToContainer,
        Self::FromOverlay,
        Self::ToOverlay,
        Self::Connect,
        Self::GetPeerName,
        Self::FromNetdev,
        Self::ToNetdev,
        Self::SendMsg,
        Self::RecvMsg,
    ];

    /// The name in metrics; of packet hooks also that of the program.
    pub const fn name(self) -> &'static str {
        match self {
            Self::FromContainer => "from_container",
            Self::ToContainer => "to_container",
            Self::FromOverlay => "from_overlay",
            Self::ToOverlay => "to_overlay",
            Self::Connect => "connect",
            Self::GetPeerName => "getpeername",
            Self::FromNetdev => "from_netdev",
            Self::ToNetdev => "to_netdev",
            Self::SendMsg => "sendmsg",
            Self::RecvMsg => "recvmsg",
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
    /// To the neighbour that is its next hop, past the host's routing.
    Neighbour = 6,
    /// It goes on to the outside under the node's address.
    Masqueraded = 7,
    /// Refused, and its sender told: a RST or an ICMP error took its place. Counted beside the reason.
    Answered = 8,
}

impl Verdict {
    pub const ALL: [Self; 9] = [
        Self::Untouched,
        Self::Stack,
        Self::Pod,
        Self::Overlay,
        Self::Encapsulated,
        Self::Translated,
        Self::Neighbour,
        Self::Masqueraded,
        Self::Answered,
    ];

    /// The name in metrics and in the monitor.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Untouched => "untouched",
            Self::Stack => "stack",
            Self::Pod => "pod",
            Self::Overlay => "overlay",
            Self::Encapsulated => "encapsulated",
            Self::Translated => "translated",
            Self::Neighbour => "neighbour",
            Self::Masqueraded => "masqueraded",
            Self::Answered => "answered",
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
    /// The address is a service's, the port is not.
    UnknownPort = 13,
    /// The address lies in the service CIDR and is no service's.
    UnallocatedVip = 14,
    /// The packet is larger than its path allows and may not be cut.
    TooBig = 15,
    /// A fragment without ports came before the one that has them.
    FragmentUnknown = 16,
    /// Every source port tried for a translated source is taken by a live flow.
    PortsExhausted = 17,
    /// The source MAC, or the one an ARP or neighbour message speaks for, is not that of the pod that sent it.
    SpoofedMac = 18,
    /// The overlay packet comes from no node of the cluster, or from another than its source lives on.
    UnknownPeer = 19,
    /// A pod sends a VLAN tag: its network has none.
    Tagged = 20,
    /// A pod sends neither IP nor ARP.
    NotIp = 21,
    /// More IPv6 extension headers than are looked through, or one that cannot be stepped over.
    TooManyHeaders = 22,
    /// An IPv6 packet carries a v4-mapped address, which would be taken for an IPv4 one.
    MappedAddress = 23,
    /// The backend of the connection is gone.
    BackendGone = 24,
    /// A pod's segment to the outside belongs to a connection that is not known, or no more.
    ConnectionUnknown = 25,
}

impl DropReason {
    pub const ALL: [Self; 26] = [
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
        Self::UnknownPort,
        Self::UnallocatedVip,
        Self::TooBig,
        Self::FragmentUnknown,
        Self::PortsExhausted,
        Self::SpoofedMac,
        Self::UnknownPeer,
        Self::Tagged,
        Self::NotIp,
        Self::TooManyHeaders,
        Self::MappedAddress,
        Self::BackendGone,
        Self::ConnectionUnknown,
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
            Self::UnknownPort => "unknown_port",
            Self::UnallocatedVip => "unallocated_vip",
            Self::TooBig => "too_big",
            Self::FragmentUnknown => "fragment_unknown",
            Self::PortsExhausted => "ports_exhausted",
            Self::SpoofedMac => "spoofed_mac",
            Self::UnknownPeer => "unknown_peer",
            Self::Tagged => "tagged",
            Self::NotIp => "not_ip",
            Self::TooManyHeaders => "too_many_headers",
            Self::MappedAddress => "mapped_address",
            Self::BackendGone => "backend_gone",
            Self::ConnectionUnknown => "connection_unknown",
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
