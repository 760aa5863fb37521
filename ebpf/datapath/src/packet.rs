//! What the logic needs from a packet.

use crate::Address;

/// One packet at a tc hook, from its Ethernet header on.
///
/// Offsets count from the Ethernet header, in bytes. Words are 32 bits of the packet as they stand in memory, so
/// `word.to_ne_bytes()` is in wire order.
pub trait Packet {
    /// Makes the first `length` bytes of the packet loadable, or all of it if it is shorter.
    fn pull(&mut self, length: usize);

    /// `W` words at `at`; `None` when the packet ends before them.
    fn load<const W: usize>(&self, at: usize) -> Option<[u32; W]>;

    /// Overwrites `W` words at `at`; `None` when the packet ends before them. No checksum is touched.
    fn store<const W: usize>(&mut self, at: usize, words: [u32; W]) -> Option<()>;

    /// Length of the whole packet, bytes. Of a segment that a device will cut, that of all its pieces.
    fn length(&self) -> u32;

    /// Payload of each piece of a segment that a device will cut, bytes; 0 for every other packet.
    fn gso_size(&self) -> u32;

    /// Cuts the packet at `length` bytes, or adds zeroes up to there; `None` when the kernel refuses. What was loadable
    /// has to be pulled again.
    fn resize(&mut self, length: u32) -> Option<()>;

    /// Makes room for `bytes` bytes between the Ethernet header and what follows it; `None` when the kernel refuses. The
    /// room has to be written, and what was loadable has to be pulled again.
    fn make_room(&mut self, bytes: u32) -> Option<()>;

    /// The transport checksum is left to the device: the field holds the sum of the pseudo header alone.
    fn checksum_pending(&mut self) -> bool;

    /// Updates the transport checksum at `at` for the addresses of the pseudo header and for words of the segment, which
    /// are about to change; `None` when the kernel refuses. Several words are given as their [`crate::rewrite::sum`]s.
    fn fix_checksum(&mut self, at: usize, addresses: Change, words: Change, checksum: Checksum) -> Option<()>;

    /// The device of the hook.
    fn ifindex(&self) -> u32;

    /// The device the packet came in through, 0 for one the host sends.
    fn ingress_ifindex(&self) -> u32;

    /// The packet carries a VLAN tag, beside its bytes.
    fn tagged(&self) -> bool;

    fn mark(&self) -> u32;

    fn set_mark(&mut self, mark: u32);

    /// Leaves a number with the packet for whoever answers it.
    fn note(&mut self, value: u32);

    /// The number left by [`Packet::note`].
    fn noted(&self) -> u32;

    /// The tunnel the packet arrived through; `None` when it came through none.
    fn tunnel(&mut self) -> Option<Tunnel>;

    /// Says where the overlay device shall send the packet; `None` when the kernel refuses.
    fn set_tunnel(&mut self, vni: u32, remote: &Address) -> Option<()>;

    /// Hands the packet to the pod whose veth pair has the host's end `ifindex`, when the hook returns.
    fn redirect_to_pod(&mut self, ifindex: u32);

    /// Sends the packet out of the device `ifindex`, when the hook returns.
    fn redirect(&mut self, ifindex: u32);

    /// Sends the packet to a neighbour on the device `ifindex`, when the hook returns. The kernel resolves its MAC.
    fn redirect_neighbour(&mut self, ifindex: u32, next_hop: &Address, v6: bool);

    /// Sends the packet out of the device `ifindex` to the next hop that the host's routes give for its destination, when
    /// the hook returns.
    fn redirect_routed(&mut self, ifindex: u32);

    /// Lets the packet come in through the device `ifindex`, when the hook returns.
    fn redirect_ingress(&mut self, ifindex: u32);

    /// Makes the host's stack take the packet for its own, whatever MAC it was sent to.
    fn accept(&mut self);

    /// The core the program runs on.
    fn core(&self) -> u32;
}

/// What of the packet changes: a word, or the [`crate::rewrite::sum`] of several.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Change {
    pub from: u32,
    pub to: u32,
}

/// The rules of a transport checksum.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Checksum {
    /// The packet is IPv6: no checksum of the network header makes up for changed addresses.
    pub v6: bool,
    /// 0 means that there is none and stays 0; one that becomes 0 is written as 0xffff (RFC 768).
    pub udp: bool,
}

/// Where a packet came from through a tunnel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tunnel {
    /// VXLAN network identifier.
    pub vni: u32,
    /// Address of the tunnel's other end.
    pub remote: Address,
}
