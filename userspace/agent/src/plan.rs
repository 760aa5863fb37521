//! From what is desired to the writes that get there, in an order in which nobody ever meets half a service:
//! nodes, routes, backends, members, slots, rows, addresses, frontends; removals the other way round.
//!
//! The [`Planner`] is pure: it keeps a mirror of the maps, compares, and yields [`Step`]s. Time is given to it, as the
//! time since the agent's start. The steps of one call are carried out before the next call.

mod adopt;
mod backends;
mod census;
mod ids;
mod nodes;
mod repair;
mod services;
mod sorted;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use diolkos_abi::address::Address;
use diolkos_abi::pod::{Node, Route, RouteKey, zone};
pub use diolkos_abi::service::RETIRED_ROW;
use diolkos_abi::service::{Backend, FrontendKey, MemberKey, frontend_flags, frontend_word, scope};

use crate::dataplane::Capacities;
use crate::desired::{BackendKey, DesiredService, ServiceName};
use backends::Backends;
use ids::{Extents, Ids};
use nodes::NodeRecord;
use services::{Row, ServiceRecord};

/// How long ids and slots rest after their last use. Programs hold a number for microseconds; the rest is margin for a
/// preempted one.
pub const QUARANTINE: Duration = Duration::from_secs(10);

/// How long a backend that left every slice while its pod was not terminating stays alive for the connections it has.
pub const ORPHAN_LIFE: Duration = Duration::from_secs(3600);

/// One write, and whose it is: when it fails, the later steps of the same owner are not tried.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    pub owner: Owner,
    pub operation: Operation,
}

/// On whose behalf a step is.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Owner {
    Service(ServiceName),
    Nodes,
    /// What is left of objects that are gone, and repairs.
    Housekeeping,
}

/// A write to the maps. The order of the variants is the order in a plan, but that a node's own address goes first of all.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Operation {
    SetNode {
        id: u32,
        node: Node,
    },
    SetRoute {
        key: RouteKey,
        route: Route,
    },
    SetBackend {
        id: u32,
        backend: Backend,
    },
    InsertMember {
        key: MemberKey,
        word: u64,
    },
    WriteSlots {
        base: u32,
        backends: Vec<u32>,
    },
    SetRow {
        service: u32,
        row: u64,
    },
    SetAffinity {
        service: u32,
        ticks: u32,
    },
    /// Says that an address belongs to a service ([`marker`]).
    InsertAddress {
        address: Address,
    },
    InsertFrontend {
        key: FrontendKey,
        word: u64,
    },
    RemoveFrontend {
        key: FrontendKey,
    },
    RemoveAddress {
        address: Address,
    },
    /// Takes the row and the affinity of a service id that is free from now on.
    RetireRow {
        service: u32,
    },
    RemoveMember {
        key: MemberKey,
    },
    EndBackend {
        id: u32,
        backend: Backend,
    },
    RemoveRoute {
        key: RouteKey,
    },
    RemoveNode {
        id: u32,
    },
}

/// Why an object cannot be programmed now. What it had before stays in place; the caller tries again later.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoRoom {
    #[error(
        "no room in map {map} ({capacity} entries): nothing of it is written, it is tried again; remove Services or endpoints"
    )]
    Full { map: &'static str, capacity: u32 },
    #[error(
        "Service {by} has address {address} already: nothing of it is written; correct spec.clusterIPs of one of them"
    )]
    Taken { address: std::net::IpAddr, by: ServiceName },
}

impl NoRoom {
    /// The reason in one word, for counters.
    pub const fn word(&self) -> &'static str {
        match self {
            Self::Full { .. } => "map_full",
            Self::Taken { .. } => "address_taken",
        }
    }
}

/// A service and what is desired of it now; nothing when it shall be gone.
pub type ServiceChange<'a> = (&'a ServiceName, Option<&'a DesiredService>);

/// The mirror of the service and node maps, and the ids that are free.
#[derive(Debug)]
pub struct Planner {
    capacities: Capacities,
    quarantine: Duration,
    service_ids: Ids,
    extents: Extents,
    services: BTreeMap<ServiceName, ServiceRecord>,
    /// Who serves a frontend, or has the address of a marker.
    frontends: HashMap<FrontendKey, ServiceName>,
    /// How many members its services have.
    members: usize,
    backends: Backends,
    node_ids: Ids,
    nodes: BTreeMap<Arc<str>, NodeRecord>,
    /// Pod CIDR or a node's own address to node id.
    routes: HashMap<RouteKey, u32>,
    leftovers: Leftovers,
}

/// What an earlier agent left and no object has claimed yet.
#[derive(Debug, Default)]
struct Leftovers {
    /// Service id to row; nothing when the row cannot be trusted.
    rows: BTreeMap<u32, Option<Row>>,
    /// Frontend to service id.
    frontends: HashMap<FrontendKey, u32>,
    /// The markers of addresses.
    markers: HashSet<FrontendKey>,
    /// Frontends that point nowhere.
    stray: HashSet<FrontendKey>,
    /// Service id to how long its clients keep their backend.
    affinities: HashMap<u32, u32>,
    /// Service id to backend id and [`diolkos_abi::service::member_word`].
    members: HashMap<u32, BTreeMap<u32, u64>>,
    /// Backend id to backend: the rows above name them.
    backends: HashMap<u32, BackendKey>,
    nodes: BTreeMap<u32, Node>,
}

/// The key that says that an address belongs to a service.
pub fn marker(address: Address) -> FrontendKey {
    FrontendKey::new(address, [0; 2], 0, scope::CLUSTER)
}

/// The value of a [`marker`].
pub fn marker_word(key: &FrontendKey) -> u64 {
    frontend_word(0, key.tag(), frontend_flags::ADDRESS)
}

fn is_marker(key: &FrontendKey) -> bool {
    *key == marker(key.address)
}

/// Takes away a frontend or a marker.
fn removal(key: FrontendKey) -> Operation {
    match is_marker(&key) {
        true => Operation::RemoveAddress { address: key.address },
        false => Operation::RemoveFrontend { key },
    }
}

impl Operation {
    fn rank(&self) -> u8 {
        match self {
            // Pod CIDRs come before nodes' own addresses, which make room at once.
            Self::RemoveRoute { key } if key.zone == zone::NODES => 0,
            Self::SetNode { .. } => 0,
            Self::SetRoute { .. } => 1,
            Self::SetBackend { .. } => 2,
            Self::InsertMember { .. } => 3,
            // While a service has affinity, all backends of its row are members.
            Self::SetAffinity { ticks: 0, .. } => 4,
            Self::WriteSlots { .. } => 5,
            Self::SetRow { .. } => 6,
            Self::SetAffinity { .. } => 7,
            Self::InsertAddress { .. } => 8,
            Self::InsertFrontend { .. } => 9,
            Self::RemoveFrontend { .. } => 10,
            Self::RemoveAddress { .. } => 11,
            Self::RetireRow { .. } => 12,
            Self::RemoveMember { .. } => 13,
            Self::EndBackend { .. } => 14,
            Self::RemoveRoute { .. } => 15,
            Self::RemoveNode { .. } => 16,
        }
    }
}

impl Step {
    fn housekeeping(operation: Operation) -> Self {
        Self { owner: Owner::Housekeeping, operation }
    }
}

fn ordered(mut steps: Vec<Step>) -> Vec<Step> {
    steps.sort_by_key(|step| step.operation.rank());
    steps
}

#[cfg(test)]
mod tests;
