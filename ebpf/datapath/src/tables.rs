//! What the logic needs from the maps. Everything is returned by value: map memory changes under its readers.

use diolkos_abi::conntrack::{ConnectedUdp, Flow, Peer, PeerKey, SocketFlow, Tuple};
use diolkos_abi::pod::{Endpoint, Netns, Node, Route, RouteKey, Source};
use diolkos_abi::service::{Affinity, AffinityKey, Backend, FrontendKey, MemberKey};

use crate::Address;

/// The maps, the clock and the dice.
pub trait Tables {
    /// The word stored for a frontend. The caller compares its tag.
    fn frontend(&mut self, key: &FrontendKey) -> Option<u64>;

    /// How long a client of a service keeps its backend, [`diolkos_abi::service::Service::affinity`]; 0 outside the
    /// table.
    fn affinity_lifetime(&mut self, service: u32) -> u32;

    /// What is remembered of a client of a service. The caller compares its tag.
    fn affinity(&mut self, key: &AffinityKey) -> Option<Affinity>;

    /// Remembers a client of a service: into the entry that is there when its tag is the same, else as a new one. Of
    /// two cores that find none, the first one's stays.
    fn remember_affinity(&mut self, key: &AffinityKey, affinity: &Affinity);

    /// The word stored for a backend of a service with session affinity, [`diolkos_abi::service::member_word`]. The
    /// caller compares its tag.
    fn member(&mut self, key: &MemberKey) -> Option<u64>;

    /// The row of a service, [`diolkos_abi::service::row_word`]; `None` outside the table.
    fn row(&mut self, service: u32) -> Option<u64>;

    /// The backend id in a slot; `None` outside the table.
    fn slot(&mut self, index: u32) -> Option<u32>;

    /// A backend; `None` outside the table.
    fn backend(&mut self, id: u32) -> Option<Backend>;

    /// The conntrack entry of a tuple. When its tag is `tag`, it is stamped with the present time and `flags` are
    /// added to its own, and [`Flow::seen`] says when the packet before passed. The caller compares the tag.
    fn flow(&mut self, key: &Tuple, tag: u32, flags: u16) -> Option<Flow>;

    /// Adds a conntrack entry.
    fn insert_flow(&mut self, key: &Tuple, flow: &Flow, insert: Insert) -> Result<(), InsertError>;

    /// Removes a conntrack entry, if it is there.
    fn remove_flow(&mut self, key: &Tuple);

    /// The present time in the unit of [`Flow::seen`].
    fn now(&mut self) -> u32;

    /// The pod of this node with an address. The caller compares its tag.
    fn endpoint(&mut self, address: &Address) -> Option<Endpoint>;

    /// What is remembered at the place of a device; the caller compares [`Source::ifindex`].
    fn source(&mut self, ifindex: u32) -> Option<Source>;

    /// Remembers a device, in place of another one.
    fn remember_source(&mut self, source: &Source);

    /// Where a pod CIDR lives. The caller compares its tag.
    fn route(&mut self, key: &RouteKey) -> Option<Route>;

    /// A node; `None` outside the table.
    fn node(&mut self, id: u32) -> Option<Node>;

    /// The cookie of the network namespace of the socket at hand; 0 when there is no socket.
    fn netns_cookie(&mut self) -> u64;

    /// Whose the sockets of a network namespace are. The caller compares its tag.
    fn netns(&mut self, cookie: u64) -> Option<Netns>;

    /// What the socket at hand believes it talks to.
    fn socket(&mut self) -> Option<SocketFlow>;

    /// Replaces what the socket at hand believes it talks to; `None` when the kernel has no memory for it.
    fn remember_socket(&mut self, flow: &SocketFlow) -> Option<()>;

    /// The socket at hand talks to whom it says.
    fn forget_socket(&mut self);

    /// The cookie of the socket at hand; 0 when there is no socket.
    fn socket_cookie(&mut self) -> u64;

    /// The other end of a translation of an unconnected socket. The caller compares its tag.
    fn peer(&mut self, key: &PeerKey) -> Option<Peer>;

    /// Remembers the other end of a translation, in place of an earlier one; `None` when there is no room.
    fn remember_peer(&mut self, key: &PeerKey, peer: &Peer) -> Option<()>;

    /// Remembers to which backend a UDP socket is connected, in place of an earlier one. When there is no room, the
    /// socket is not closed when its backend is gone.
    fn remember_udp(&mut self, cookie: u64, udp: &ConnectedUdp);

    /// A UDP socket is no longer connected to a backend.
    fn forget_udp(&mut self, cookie: u64);

    /// Any number: the socket hooks spread new connections by it.
    fn random(&mut self) -> u32;
}

/// What to do about an entry that is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Insert {
    IfAbsent,
    Replace,
}

/// Why conntrack has no new entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InsertError {
    Exists,
    Full,
}
