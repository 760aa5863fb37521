//! What the logic needs from the maps. Everything is returned by value: map memory changes under its readers.

use diolkos_abi::conntrack::{Flow, SocketFlow, Tuple};
use diolkos_abi::pod::{Endpoint, Netns, Node, Route, RouteKey, Source};
use diolkos_abi::service::{Backend, FrontendKey};

use crate::Address;

/// The maps, the clock and the dice.
pub trait Tables {
    /// The word stored for a frontend. The caller compares its tag.
    fn frontend(&mut self, key: &FrontendKey) -> Option<u64>;

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
