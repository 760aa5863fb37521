//! The dataplane as the agent sees it: maps to fill and pods to attach.
//!
//! Two implementations: [`kernel`], the eBPF programs and their maps, and [`model`], a model in memory with the same
//! limits. [`conformance`] is the suite both must pass.

mod checks;
pub mod conformance;
mod error;
pub mod execute;
pub mod kernel;
pub mod model;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use diolkos_abi::address::Address;
use diolkos_abi::conntrack::{Flow, Tuple};
use diolkos_abi::pod::{Endpoint, Netns, Node, Route, RouteKey};
use diolkos_abi::service::{Affinity, AffinityKey, Backend, FrontendKey, MemberKey};

pub use error::{Error, Operation, Result};

/// The names of the maps, in the object and as pins.
pub mod map {
    pub const FRONTEND: &str = "FRONTEND";
    pub const SERVICE: &str = "SERVICE";
    pub const SLOT: &str = "SLOT";
    pub const BACKEND: &str = "BACKEND";
    pub const CONNTRACK: &str = "CONNTRACK";
    pub const KNOWN: &str = "KNOWN";
    pub const ENDPOINT: &str = "ENDPOINT";
    pub const NODE: &str = "NODE";
    pub const ROUTE: &str = "ROUTE";
    pub const NETNS: &str = "NETNS";
    pub const COUNTER: &str = "COUNTER";
    pub const SOCKET: &str = "SOCKET";
    pub const CONTROL: &str = "CONTROL";
    pub const EVENT: &str = "EVENT";
    pub const MEMBER: &str = "MEMBER";
    pub const AFFINITY: &str = "AFFINITY";
    pub const PEER: &str = "PEER";
    pub const UDP: &str = "UDP";
    /// All that are pinned. What else the object has is the programs' own and starts empty with each load.
    pub const ALL: [&str; 18] = [
        FRONTEND, SERVICE, SLOT, BACKEND, CONNTRACK, KNOWN, ENDPOINT, NODE, ROUTE, NETNS, COUNTER, SOCKET, MEMBER,
        AFFINITY, PEER, UDP, CONTROL, EVENT,
    ];
}

/// The maps and attach points of one node.
///
/// Every method is idempotent: inserting replaces, removing what is not there is no error. A failed call has changed
/// nothing, except where it says otherwise. Array elements are numbered from 0; id 0 of services, backends and nodes
/// is never given out.
pub trait Dataplane: Send {
    /// The sizes of the maps, in entries.
    fn capacities(&self) -> Capacities;

    /// All that an agent before this one left in the service and node maps.
    fn adopt(&mut self) -> Result<Adopted>;

    /// Writes a backend. Sockets and packets see the old or the new one; change address or port only while no row
    /// names the id.
    fn set_backend(&mut self, id: u32, backend: &Backend) -> Result<()>;

    /// Writes backend ids into the slots from `base` on. Only for slots that no row covers.
    fn write_slots(&mut self, base: u32, backends: &[u32]) -> Result<()>;

    /// Puts a service's row in place ([`diolkos_abi::service::row_word`]) by one release store, for all its frontends
    /// at once. Slots and backends written before are seen by whoever sees the row.
    fn set_row(&mut self, service: u32, row: u64) -> Result<()>;

    /// Says how long after its last connection a client keeps its backend of a service, in the unit of
    /// [`diolkos_abi::conntrack::Flow::seen`]; 0 for no affinity.
    fn set_affinity(&mut self, service: u32, ticks: u32) -> Result<()>;

    /// Inserts or replaces backends of services with affinity ([`diolkos_abi::service::member_word`]) in order, with
    /// the same promise as [`Dataplane::insert_frontends`].
    fn insert_members(&mut self, entries: &[(MemberKey, u64)]) -> std::result::Result<(), Partial>;

    /// Removes such backends in order, with the same promise.
    fn remove_members(&mut self, keys: &[MemberKey]) -> std::result::Result<(), Partial>;

    /// Inserts or replaces frontends ([`diolkos_abi::service::frontend_word`]) in order. After an error the entries
    /// before the failed one are in place: [`Partial::done`] of them.
    fn insert_frontends(&mut self, entries: &[(FrontendKey, u64)]) -> std::result::Result<(), Partial>;

    /// Removes frontends in order, with the same promise as [`Dataplane::insert_frontends`].
    fn remove_frontends(&mut self, keys: &[FrontendKey]) -> std::result::Result<(), Partial>;

    /// Writes another node. Id 0 is refused.
    fn upsert_node(&mut self, id: u32, node: &Node) -> Result<()>;
    /// Clears a node's element.
    fn remove_node(&mut self, id: u32) -> Result<()>;

    /// Inserts or replaces the node of a pod CIDR; [`Route::tag`] is filled in here.
    fn upsert_route(&mut self, key: RouteKey, route: Route) -> Result<()>;
    /// Removes a pod CIDR.
    fn remove_route(&mut self, key: &RouteKey) -> Result<()>;

    /// Inserts or replaces a pod of this node; [`Endpoint::tag`] is filled in here.
    fn upsert_endpoint(&mut self, address: Address, endpoint: Endpoint) -> Result<()>;
    /// Removes a pod of this node; false when it was not there.
    fn remove_endpoint(&mut self, address: &Address) -> Result<bool>;
    /// All pods of this node.
    fn endpoints(&self) -> Result<Vec<(Address, Endpoint)>>;

    /// Says whose the sockets of a network namespace are, by its cookie; [`Netns::tag`] is filled in here.
    fn set_netns(&mut self, cookie: u64, netns: Netns) -> Result<()>;
    /// Forgets a network namespace; false when it was not there.
    fn remove_netns(&mut self, cookie: u64) -> Result<bool>;
    /// All known network namespaces.
    fn netnses(&self) -> Result<Vec<(u64, Netns)>>;

    /// The present time in the unit of [`diolkos_abi::conntrack::Flow::seen`].
    fn now(&self) -> Result<u32>;

    /// A backend as it stands in the map; all zeros when the id is free or outside.
    fn read_backend(&self, id: u32) -> Result<Backend>;

    /// What [`Dataplane::set_affinity`] set; 0 when the id is outside.
    fn read_affinity(&self, service: u32) -> Result<u32>;

    /// Some of the translated connections: from the beginning, or from where [`Page::next`] of an earlier call points.
    /// What is inserted meanwhile may be missing; what stays is met once.
    fn flows(&self, from: Option<Place>) -> Result<Page<Tuple, Flow>>;
    /// One direction of a connection.
    fn flow(&self, key: &Tuple) -> Result<Option<Flow>>;
    /// Forgets connections, in order and with the same promise as [`Dataplane::insert_frontends`].
    fn remove_flows(&mut self, keys: &[Tuple]) -> std::result::Result<(), Partial>;

    /// Some of the clients that keep a backend, as [`Dataplane::flows`].
    fn affinities(&self, from: Option<Place>) -> Result<Page<AffinityKey, Affinity>>;
    /// Forgets clients, as [`Dataplane::remove_flows`].
    fn remove_affinities(&mut self, keys: &[AffinityKey]) -> std::result::Result<(), Partial>;

    /// Lets the programs take over from those of an earlier agent, or from none. To be called once the maps say what
    /// they should; until then what ran before goes on.
    fn put_in_place(&mut self) -> Result<()>;

    /// Attaches `from_netdev` (ingress) and `to_netdev` (egress) to a device that holds an address of the node, with
    /// the promises of [`Dataplane::attach_pod`].
    fn attach_netdev(&mut self, ifname: &str, ifindex: u32) -> Result<()>;
    /// Removes both links of such a device. It may be gone already.
    fn detach_netdev(&mut self, ifname: &str) -> Result<()>;
    /// The names of all devices with links of [`Dataplane::attach_netdev`], sorted.
    fn attached_netdevs(&self) -> Result<Vec<String>>;

    /// Attaches `from_container` (ingress) and `to_container` (egress) to the host's end of a pod's veth. Attaching
    /// again replaces the programs without a gap; another device of the same name gets fresh links.
    fn attach_pod(&mut self, host_ifname: &str, ifindex: u32) -> Result<()>;
    /// Removes both links of a pod's veth. The device may be gone already.
    fn detach_pod(&mut self, host_ifname: &str) -> Result<()>;
    /// The names of all devices with links of [`Dataplane::attach_pod`], sorted.
    fn attached_pods(&self) -> Result<Vec<String>>;

    /// All counters, by [`diolkos_abi::counter`]'s index, summed over the cores.
    fn counters(&self) -> Result<Vec<u64>>;
}

/// Where a [`Page`] begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place(u32);

/// A part of a table that changes all the time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Page<K, V> {
    pub entries: Vec<(K, V)>,
    /// Where the next part begins; nothing after the last.
    pub next: Option<Place>,
}

/// Entries of a page, about: few enough that sweeping one takes a millisecond or two even when all are over.
const PAGE: u32 = 256;

/// The sizes of the maps, in entries ([`Capacities::slots`] in slots).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Capacities {
    pub frontends: u32,
    pub services: u32,
    pub slots: u32,
    pub backends: u32,
    pub members: u32,
    pub nodes: u32,
    pub routes: u32,
    pub endpoints: u32,
    pub netnses: u32,
}

impl Capacities {
    /// Those of the programs.
    pub const ABI: Self = Self {
        frontends: diolkos_abi::service::FRONTENDS,
        services: diolkos_abi::service::SERVICES,
        slots: diolkos_abi::service::SLOTS,
        backends: diolkos_abi::service::BACKENDS,
        members: diolkos_abi::service::MEMBERS,
        nodes: diolkos_abi::pod::NODES,
        routes: diolkos_abi::pod::ROUTES,
        endpoints: diolkos_abi::pod::ENDPOINTS,
        netnses: diolkos_abi::pod::NETNSES,
    };
}

/// The content of the service and node maps. Elements of arrays that are all zero are left out.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Adopted {
    /// Key and [`diolkos_abi::service::frontend_word`].
    pub frontends: Vec<(FrontendKey, u64)>,
    /// Service id and [`diolkos_abi::service::row_word`].
    pub rows: Vec<(u32, u64)>,
    /// Service id and how long its clients keep their backend.
    pub affinities: Vec<(u32, u32)>,
    /// Key and [`diolkos_abi::service::member_word`].
    pub members: Vec<(MemberKey, u64)>,
    /// The slots from 0 to the last one in use.
    pub slots: Vec<u32>,
    /// Backend id and backend.
    pub backends: Vec<(u32, Backend)>,
    /// Node id and node.
    pub nodes: Vec<(u32, Node)>,
    pub routes: Vec<(RouteKey, Route)>,
}

/// A list of changes that stopped in the middle.
#[derive(Debug, thiserror::Error)]
#[error("{error} ({done} changes before it are in place)")]
pub struct Partial {
    pub done: usize,
    pub error: Error,
}

/// The dataplane of this node, shared by the service driver and the CNI server. Calls are short (at most the bulk of
/// one plan), so a plain mutex serves.
#[derive(Clone)]
pub struct Shared(Arc<Mutex<Box<dyn Dataplane>>>);

impl Shared {
    pub fn new(dataplane: impl Dataplane + 'static) -> Self {
        Self(Arc::new(Mutex::new(Box::new(dataplane))))
    }

    /// Puts another dataplane over the same maps in its place.
    pub fn replace(&self, dataplane: impl Dataplane + 'static) {
        *self.lock() = Box::new(dataplane);
    }

    /// Locks the dataplane; never hold the guard over an `await`.
    pub fn lock(&self) -> MutexGuard<'_, Box<dyn Dataplane>> {
        // A panic under the lock leaves maps as consistent as a crash does: the next plan repairs what differs.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
