//! Load-time constants: read-only data the agent sets before it loads the programs, so that the verifier prunes what
//! they switch off.

use crate::address::{Address, protocol};
use crate::conntrack::flow_flags;

/// Name of the constant ([`Config`]) in the object.
pub const NAME: &str = "CONFIG";

/// All load-time constants, in one symbol. Addresses, CIDRs and masks are zero where this node has none of the family.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Config {
    /// The overlay device; 0 when there is none, then nothing is encapsulated.
    pub overlay_ifindex: u32,
    /// VXLAN network identifier, 24 bits.
    pub vni: u32,
    /// MAC of this node's overlay device.
    pub overlay_mac: [u8; 6],
    /// Largest packet inside the tunnel, bytes from the inner network header on; 0 for no limit.
    pub overlay_mtu: u16,
    /// First address of this node's pod CIDR: the node's own address in the pod network.
    pub gateway_v4: [u8; 4],
    /// Mask of all pod CIDRs (they have one length), network order.
    pub route_mask_v4: [u8; 4],
    /// Pod CIDR of this node, network order.
    pub pod_cidr_v4: [u8; 4],
    /// Service CIDR and its mask, network order.
    pub service_cidr_v4: [u8; 4],
    pub service_mask_v4: [u8; 4],
    /// The node's own address: its first InternalIP. Pods talk to the outside under it.
    pub node_v4: [u8; 4],
    /// Destinations that see a pod's own address though they are no pods: CIDR and mask.
    pub native_cidr_v4: [u8; 4],
    pub native_mask_v4: [u8; 4],
    /// The same of IPv6.
    pub gateway_v6: Address,
    pub route_mask_v6: Address,
    pub pod_cidr_v6: Address,
    pub service_cidr_v6: Address,
    pub service_mask_v6: Address,
    pub node_v6: Address,
    pub native_cidr_v6: Address,
    pub native_mask_v6: Address,
    /// Source ports of translated sources: the first, and how many; 0 for none. They lie outside the local port range
    /// and the node port range.
    pub ports_first: u16,
    pub ports_count: u16,
    /// Cores that share those ports, each a slice of its own. At least 1.
    pub cores: u32,
    /// How long a flow lives after its last packet, in the unit of [`crate::conntrack::Flow::seen`]; 0 for ever.
    pub lifetimes: Lifetimes,
    /// [`features`].
    pub features: u32,
}
const _: () = assert!(size_of::<Config>() == 204 && align_of::<Config>() == 4);

impl Config {
    /// What the object holds until the agent sets it.
    pub const EMPTY: Self = {
        let (none, off) = ([0; 16], [0; 4]);
        Self {
            overlay_ifindex: 0,
            vni: 0,
            overlay_mac: [0; 6],
            overlay_mtu: 0,
            gateway_v4: off,
            route_mask_v4: off,
            pod_cidr_v4: off,
            service_cidr_v4: off,
            service_mask_v4: off,
            node_v4: off,
            native_cidr_v4: off,
            native_mask_v4: off,
            gateway_v6: none,
            route_mask_v6: none,
            pod_cidr_v6: none,
            service_cidr_v6: none,
            service_mask_v6: none,
            node_v6: none,
            native_cidr_v6: none,
            native_mask_v6: none,
            ports_first: 0,
            ports_count: 0,
            cores: 1,
            lifetimes: Lifetimes { tcp: 0, tcp_opening: 0, tcp_closing: 0, datagram: 0 },
            features: 0,
        }
    };
}

/// How long flows live without a packet, in the unit of [`crate::conntrack::Flow::seen`].
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Lifetimes {
    /// TCP, once a packet after the first one passed.
    pub tcp: u32,
    /// TCP, while it is being opened.
    pub tcp_opening: u32,
    /// TCP, after a RST or a FIN.
    pub tcp_closing: u32,
    /// UDP and everything else.
    pub datagram: u32,
}
const _: () = assert!(size_of::<Lifetimes>() == 16 && align_of::<Lifetimes>() == 4);

impl Lifetimes {
    /// That of an entry of this protocol and these [`flow_flags`]; 0 for ever.
    #[inline(always)]
    pub const fn of(&self, protocol: u8, flags: u16) -> u32 {
        if protocol != protocol::TCP {
            self.datagram
        } else if flags & (flow_flags::FIN | flow_flags::RST) != 0 {
            self.tcp_closing
        } else if flags & flow_flags::CONFIRMED != 0 {
            self.tcp
        } else {
            self.tcp_opening
        }
    }

    /// The longest of all; 0 for ever.
    #[inline(always)]
    pub const fn longest(&self) -> u32 {
        let Self { tcp, tcp_opening, tcp_closing, datagram } = *self;
        if tcp == 0 || tcp_opening == 0 || tcp_closing == 0 || datagram == 0 {
            return 0;
        }
        let opening = if tcp_opening > tcp { tcp_opening } else { tcp };
        let closing = if tcp_closing > datagram { tcp_closing } else { datagram };
        if opening > closing { opening } else { closing }
    }
}

/// Whether something last used at `seen` is older than `lifetime` (0: for ever) at `now`. What another core stamped a
/// moment later than this one looked at its clock is not old.
#[inline(always)]
pub const fn is_over(lifetime: u32, seen: u32, now: u32) -> bool {
    let age = now.wrapping_sub(seen);
    lifetime != 0 && age > lifetime && age < 1 << 31
}

/// Bits of [`Config::features`]: what the running kernel has, and what the operator chose.
pub mod features {
    /// `bpf_set_retval` (5.18): a refused connect() says ECONNREFUSED. Without it the address is left alone and the
    /// packet path refuses.
    pub const SET_RETVAL: u32 = 1 << 0;
    /// `bpf_redirect_peer` from tc ingress (5.10).
    pub const REDIRECT_PEER: u32 = 1 << 1;
    /// Pods of other nodes are reached by their node's address as next hop, not through the overlay.
    pub const DIRECT_ROUTING: u32 = 1 << 2;
    /// Pods talk to the outside under the node's address.
    pub const MASQUERADE: u32 = 1 << 3;
    /// Nothing is written to any map but counters of this load: for `diolkos trace`.
    pub const DRY_RUN: u32 = 1 << 4;
}

/// The mark on an answer to the host itself while it passes a device that takes nothing without a tunnel key.
pub const ANSWERED_MARK: u32 = 0x0d10_0002;

/// The mark on a packet that already carries its tunnel key when it reaches the overlay device. `to_overlay` takes it
/// off again, so that no rule of the host meets it.
pub const ENCAPSULATED_MARK: u32 = 0x0d10_0001;

/// The mark on a packet of the node to a service when it reaches the device of the backend's pod. `to_container` takes it
/// off again.
pub const TRANSLATED_MARK: u32 = 0x0d10_0003;
