//! Load-time constants: read-only data the agent sets before it loads the programs, so that the verifier prunes what
//! they switch off.

/// Name of the constant ([`Config`]) in the object.
pub const NAME: &str = "CONFIG";

/// All load-time constants, in one symbol.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Config {
    /// The overlay device; 0 when there is none, then nothing is encapsulated.
    pub overlay_ifindex: u32,
    /// VXLAN network identifier, 24 bits.
    pub vni: u32,
    /// MAC of this node's overlay device.
    pub overlay_mac: [u8; 6],
    pub pad: [u8; 2],
    /// First address of this node's pod CIDR: the node's own address in the pod network.
    pub gateway_v4: [u8; 4],
    /// Mask of all pod CIDRs (they have one length), network order.
    pub route_mask_v4: [u8; 4],
    /// Pod CIDR of this node, network order.
    pub pod_cidr_v4: [u8; 4],
    /// Service CIDR and its mask, network order.
    pub service_cidr_v4: [u8; 4],
    pub service_mask_v4: [u8; 4],
    /// [`features`].
    pub features: u32,
}
const _: () = assert!(size_of::<Config>() == 40 && align_of::<Config>() == 4);

/// Bits of [`Config::features`]: what the running kernel has.
pub mod features {
    /// `bpf_set_retval` (5.18): a refused connect() says ECONNREFUSED. Without it the address is left alone and the
    /// packet path refuses.
    pub const SET_RETVAL: u32 = 1 << 0;
    /// `bpf_redirect_peer` from tc ingress (5.10).
    pub const REDIRECT_PEER: u32 = 1 << 1;
}

/// The mark on a packet that already carries its tunnel key when it reaches the overlay device. `to_overlay` takes it
/// off again, so that no rule of the host meets it.
pub const ENCAPSULATED_MARK: u32 = 0x0d10_0001;
