//! The pod network: local pods, nodes, and which node a pod address lives on.

use crate::address::{Address, address_words, hash};

/// Map `endpoint`: HASH, not preallocated, pod [`Address`] -> [`Endpoint`]. Written by the agent's CNI server.
pub const ENDPOINTS: u32 = 1 << 14;
/// Map `node`: ARRAY, node id -> [`Node`]. Id 0 is never given out.
pub const NODES: u32 = 1 << 14;
/// Map `route`: HASH, not preallocated, [`RouteKey`] -> [`Route`]. Pod CIDRs come before nodes' addresses.
pub const ROUTES: u32 = 1 << 14;
/// Map `netns`: HASH, not preallocated, network namespace cookie -> [`Netns`]. Written by the agent's CNI server.
pub const NETNSES: u32 = 1 << 14;

/// Map `source`: ARRAY, index `ifindex & (SOURCES - 1)` -> [`Source`]. Written and read by the programs alone: it
/// spares each packet of a pod the lookup of its own endpoint. It needs no clean-up, because a device keeps its pod's
/// addresses for life and the kernel does not give an ifindex out again.
pub const SOURCES: u32 = 1 << 14;

/// Map `hint`: ARRAY of u32, index [`hint_index`] -> node id. Written and read by the programs alone: it spares a packet
/// the lookup of its route. A hint proves nothing; the node's own pod CIDR does ([`Node::prefix_v4`]).
pub const HINTS: u32 = 1 << 14;

/// The place of a pod CIDR's hint, by the CIDR's address.
#[inline(always)]
pub const fn hint_index(prefix: &Address) -> u32 {
    address_tag(prefix) & (HINTS - 1)
}

/// What a device's pod may send from.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Source {
    /// The device this is about; 0 for none.
    pub ifindex: u32,
    /// IPv4 address as it stands in memory; 0 until a packet showed it.
    pub v4: u32,
    /// Zero until a packet showed it.
    pub v6: Address,
    /// MAC of the pod's end.
    pub mac: [u8; 6],
    pub pad: [u8; 2],
}
const _: () = assert!(size_of::<Source>() == 32 && align_of::<Source>() == 4);

/// A pod of this node.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Endpoint {
    /// [`address_tag`] of the key.
    pub tag: u32,
    /// The host's end of the veth pair.
    pub ifindex: u32,
    /// MAC of the pod's end.
    pub mac: [u8; 6],
    /// MAC of the host's end.
    pub host_mac: [u8; 6],
    /// Reserved for policy; 0.
    pub identity: u32,
    /// Reserved for policy; 0.
    pub policy_revision: u32,
    /// Reserved; 0.
    pub flags: u32,
    /// Largest packet the pod's device takes, bytes from the network header on; 0 for no limit.
    pub mtu: u16,
    pub pad: [u8; 2],
}
const _: () = assert!(size_of::<Endpoint>() == 36 && align_of::<Endpoint>() == 4);

/// Another node.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Node {
    /// Tunnel end, IPv4, network order; zero when there is none.
    pub tunnel_v4: [u8; 4],
    /// Tunnel end, IPv6; used when there is no IPv4 one. Zero when there is none.
    pub tunnel_v6: Address,
    /// MAC of the node's overlay device.
    pub mac: [u8; 6],
    /// Path MTU of the tunnel's inner packets, bytes.
    pub mtu: u16,
    /// Encryption key index, 0 for none.
    pub key: u32,
    /// Reserved for policy: identity of the node.
    pub identity: u32,
    /// Reserved; 0.
    pub flags: u32,
    /// The node's first IPv4 pod CIDR, network order; zero when there is none.
    pub prefix_v4: [u8; 4],
    /// The node's first IPv6 pod CIDR; zero when there is none.
    pub prefix_v6: Address,
    /// Direct routing: the device behind which the node is a neighbour; 0 when there is none, then the host's stack
    /// routes.
    pub ifindex: u32,
    /// Direct routing: the node's own addresses on that device, as next hops.
    pub next_hop_v4: [u8; 4],
    pub next_hop_v6: Address,
}
const _: () = assert!(size_of::<Node>() == 84 && align_of::<Node>() == 4);

/// A pod CIDR, its address masked to the cluster-wide prefix length ([`crate::config::Config::route_mask_v4`]); or an
/// address of a node itself, in full.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct RouteKey {
    pub prefix: Address,
    /// [`zone`].
    pub zone: u32,
}
const _: () = assert!(size_of::<RouteKey>() == 20 && align_of::<RouteKey>() == 4);

/// Values of [`RouteKey::zone`]: what of a node is meant.
pub mod zone {
    /// Its pod CIDRs.
    pub const PODS: u32 = 0;
    /// Its own addresses.
    pub const NODES: u32 = 1;
}

/// Where a pod CIDR or a node's address lives.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Route {
    /// [`address_tag`] of the key's prefix.
    pub tag: u32,
    /// Node id.
    pub node: u32,
    /// Reserved for policy; 0.
    pub identity: u32,
    /// Reserved for policy; 0.
    pub policy_revision: u32,
}
const _: () = assert!(size_of::<Route>() == 16 && align_of::<Route>() == 4);

/// Who a socket belongs to.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Netns {
    /// The pod's IPv6 address, or zero.
    pub v6: Address,
    /// The pod's IPv4 address, or zero.
    pub v4: [u8; 4],
    /// [`netns_flags`].
    pub flags: u32,
    /// [`cookie_tag`] of the key.
    pub tag: u32,
}
const _: () = assert!(size_of::<Netns>() == 28 && align_of::<Netns>() == 4);

/// Bits of [`Netns::flags`].
pub mod netns_flags {
    /// The node's own network namespace.
    pub const HOST: u32 = 1 << 0;
    /// Services are translated on the packet path only, never at the socket.
    pub const OPT_OUT: u32 = 1 << 1;
    /// A virtual machine's tap device is in it. Comes with [`OPT_OUT`].
    pub const TAP: u32 = 1 << 2;
}

/// Tells the value of one network namespace from that of another whose element the kernel reused under a reader.
/// The kernel counts cookies up, so the low half alone tells them apart.
#[inline(always)]
pub const fn cookie_tag(cookie: u64) -> u32 {
    cookie as u32
}

/// Tells the value of one address from that of another whose element the kernel reused under a reader.
#[inline(always)]
pub const fn address_tag(address: &Address) -> u32 {
    hash(address_words(address))
}
