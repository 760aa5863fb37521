//! What the logic needs from the maps. Everything is returned by value: map memory changes under its readers.

use core::ops::DerefMut;

use diolkos_abi::config::{Lifetimes, is_over};
use diolkos_abi::conntrack::{ConnectedUdp, Flow, Fragment, FragmentKey, Peer, PeerKey, SocketFlow, Tuple};
use diolkos_abi::counter::Verdict;
use diolkos_abi::pod::{Endpoint, Netns, Node, Route, RouteKey, Source};
use diolkos_abi::service::{Affinity, AffinityKey, Backend, FrontendKey, MemberKey};

use crate::Address;
use crate::deliver::Way;
use crate::headers::Ip;
use crate::rewrite::Ends;

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

    /// The conntrack entry of a tuple whose hash is `tag`, unless it has [`expired`]. It is stamped with the present time,
    /// and `flags` are added to its own; [`Flow::seen`] says when the packet before passed. An entry with another tag is
    /// looked up once more, and then is none: told to the implementation, because the kernel's stack has no room for two.
    fn flow(&mut self, key: &Tuple, tag: u32, flags: u16, lifetimes: &Lifetimes) -> Option<Flow>;

    /// Whether conntrack may hold an entry with this tag, [`diolkos_abi::conntrack::may_live`]. Asked before
    /// [`Tables::flow`] where most packets have none.
    fn may_have_flow(&mut self, tag: u32, lifetimes: &Lifetimes) -> bool;

    /// Room to build entries in, which the kernel's stack does not have. There is one: it must be given back before it is
    /// taken again. `None` never happens.
    type Scratch: DerefMut<Target = Scratch>;
    fn scratch(&mut self) -> Option<Self::Scratch>;

    /// Adds a conntrack entry.
    fn insert_flow(&mut self, key: &Tuple, flow: &Flow, insert: Insert) -> Result<(), InsertError>;

    /// Removes a conntrack entry, if it is there.
    fn remove_flow(&mut self, key: &Tuple);

    /// The present time in the unit of [`Flow::seen`].
    fn now(&mut self) -> u32;

    /// The ports of a packet in fragments. The caller compares the tag.
    fn fragment(&mut self, key: &FragmentKey) -> Option<Fragment>;

    /// Remembers the ports of a packet in fragments.
    fn remember_fragment(&mut self, key: &FragmentKey, fragment: &Fragment);

    /// The pod of this node with an address whose tag is `tag`. As with [`Tables::flow`], one with another tag is looked up
    /// once more, and then is none.
    fn endpoint(&mut self, address: &Address, tag: u32) -> Option<Endpoint>;

    /// What is remembered at the place of a device; the caller compares [`Source::ifindex`].
    fn source(&mut self, ifindex: u32) -> Option<Source>;

    /// Remembers a device, in place of another one.
    fn remember_source(&mut self, source: &Source);

    /// Where a pod CIDR lives. The caller compares its tag.
    fn route(&mut self, key: &RouteKey) -> Option<Route>;

    /// The node id remembered at [`diolkos_abi::pod::hint_index`]; 0 for none. It proves nothing.
    fn hint(&mut self, index: u32) -> u32;

    /// Remembers a node id at [`diolkos_abi::pod::hint_index`], in place of another one.
    fn remember_hint(&mut self, index: u32, node: u32);

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

    /// Remembers to which backend a UDP socket is connected, in place of an earlier one or of another socket.
    fn remember_udp(&mut self, udp: &ConnectedUdp);

    /// A UDP socket is no longer connected to a backend.
    fn forget_udp(&mut self, cookie: u64);

    /// One more RST or ICMP error may be made; counts it.
    fn answers(&mut self) -> bool;

    /// Any number: the socket hooks spread new connections by it.
    fn random(&mut self) -> u32;
}

/// See [`Tables::scratch`]. All zeroes is a value of it.
#[derive(Clone, Copy, Debug)]
pub struct Scratch {
    /// The packet at hand.
    pub(crate) ip: Ip,
    /// What its ends become.
    pub(crate) ends: Ends,
    /// What is known of the way to the new destination.
    pub(crate) way: Way,
    /// What is to be done before it goes.
    pub(crate) step: Step,
    /// The service it opens a connection to.
    pub(crate) service: u32,
    /// What became of it. A subprogram leaves it here: what does not fit one register is returned through memory, and
    /// then the verifier minds what is left in the register.
    pub(crate) verdict: Verdict,
    /// How it stands on the wire.
    pub(crate) tuple: Tuple,
    /// An entry of conntrack that is being made, and its key.
    pub(crate) flow: Flow,
    pub(crate) key: Tuple,
    /// The key of another one.
    pub(crate) other: Tuple,
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

/// A flow without a packet for longer than its kind lives. `seen` and `now` are in the unit of [`Flow::seen`]; what
/// another core stamped a moment later than this one looked at its clock is not old.
#[inline(always)]
#[must_use]
pub const fn expired(lifetimes: &Lifetimes, protocol: u8, flags: u16, seen: u32, now: u32) -> bool {
    is_over(lifetimes.of(protocol, flags), seen, now)
}

/// What is to be done before a packet goes, in a subprogram of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// Nothing.
    Deliver,
    /// It opens a connection to a service.
    Open,
    /// It is not translated, and something may translate what answers it.
    MakeWay,
    /// Its connection was idle.
    KeepReply,
    /// It comes from a node's own address, which the answer shall reach.
    Expect,
    /// It is not looked up yet: it has no ports, or not where they are looked for.
    LookUp,
    /// Nothing: it is on its way.
    Gone,
}

impl Scratch {
    /// Begins with a packet whose ends do not change.
    #[inline(always)]
    pub(crate) fn begin(&mut self, ip: &Ip) {
        self.ip = *ip;
        self.ends = Ends::of(ip);
        self.way = Way::UNKNOWN;
        self.step = Step::Deliver;
    }

    /// A scratch with something in every field, as another packet may have left it: for tests.
    #[must_use]
    pub fn soiled() -> Self {
        let tuple = Tuple {
            source: [9; 16],
            destination: [9; 16],
            source_port: [9; 2],
            destination_port: [9; 2],
            protocol: 9,
            direction: 9,
            zone: 9,
        };
        let flow = Flow { flags: u16::MAX, source: [9; 16], destination: [9; 16], identity: 9, ..Flow::default() };
        let ends = Ends { source: [9; 4], destination: [9; 4], ports: 9 };
        Self {
            ip: Ip::SOILED,
            ends,
            way: Way(9),
            step: Step::Open,
            service: 9,
            verdict: Verdict::Overlay,
            tuple,
            flow,
            key: tuple,
            other: tuple,
        }
    }
}
