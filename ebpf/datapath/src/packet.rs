//! What the logic needs from a packet.

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

    /// Updates the TCP checksum at `at` for an address of the pseudo header and for the word of the ports, which are
    /// about to change; `None` when the kernel refuses.
    fn fix_checksum(&mut self, at: usize, address: Change, ports: Change) -> Option<()>;

    /// The device the packet came in through, 0 for one the host sends.
    fn ingress_ifindex(&self) -> u32;

    fn mark(&self) -> u32;

    fn set_mark(&mut self, mark: u32);

    /// The VXLAN network identifier the packet arrived with; `None` when it came through no tunnel.
    fn tunnel_vni(&mut self) -> Option<u32>;

    /// Says where the overlay device shall send the packet; `None` when the kernel refuses.
    fn set_tunnel(&mut self, vni: u32, remote: [u8; 4]) -> Option<()>;

    /// Hands the packet to the pod whose veth pair has the host's end `ifindex`, when the hook returns.
    fn redirect_to_pod(&mut self, ifindex: u32);

    /// Sends the packet out of the device `ifindex`, when the hook returns.
    fn redirect(&mut self, ifindex: u32);

    /// Makes the host's stack take the packet for its own, whatever MAC it was sent to.
    fn accept(&mut self);
}

/// A word of the packet that changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Change {
    pub from: u32,
    pub to: u32,
}
