//! Nodes, the pod CIDRs that live there, and their own addresses.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use diolkos_abi::address::Address;
use diolkos_abi::pod::{Node, Route, RouteKey, zone};

use super::{NoRoom, Operation, Owner, Planner, Step, ordered};
use crate::dataplane::map;
use crate::desired::DesiredNode;

/// A node as the maps hold it.
#[derive(Debug)]
pub(super) struct NodeRecord {
    pub(super) id: u32,
    pub(super) node: Node,
}

impl Planner {
    /// Plans the nodes: `desired` is all of them. A node without room is left out, and named; so is one whose own addresses
    /// find none beside the pod CIDRs.
    pub fn plan_nodes(
        &mut self,
        desired: &BTreeMap<Arc<str>, DesiredNode>,
        now: Duration,
    ) -> (Vec<Step>, Vec<(Arc<str>, NoRoom)>) {
        let mut operations = self.remove_nodes(desired, now);
        let mut refused = Vec::new();
        let mut routes: HashMap<RouteKey, u32> = HashMap::new();
        // Pod CIDRs are inserted before others are removed, so those count, too.
        let prefixes: HashSet<RouteKey> = desired.values().flat_map(pods).collect();
        let of_pods = self.routes.keys().filter(|key| key.zone != zone::NODES);
        let leaving = of_pods.filter(|key| !prefixes.contains(*key)).count();
        for (name, wanted) in desired {
            match self.place_node(name, wanted, routes.len() + leaving, now) {
                Ok((id, operation)) => {
                    operations.extend(operation);
                    routes.extend(pods(wanted).map(|key| (key, id)));
                }
                Err(error) => refused.push((name.clone(), error)),
            }
        }
        for (id, _) in std::mem::take(&mut self.leftovers.nodes) {
            operations.push(Operation::RemoveNode { id });
            self.node_ids.release(id, now + self.quarantine);
        }
        refused.extend(self.place_addresses(desired, leaving, &mut routes));
        operations.extend(self.move_routes(routes));
        let nodes = &self.nodes;
        operations.extend(self.backends.relocate(|name| nodes.get(name).map_or(0, |record| record.id)));
        let step = |operation| Step { owner: Owner::Nodes, operation };
        (ordered(operations.into_iter().map(step).collect()), refused)
    }

    /// The id of a node by name; 0 when it is not known.
    pub(super) fn node_id(&self, name: Option<&str>) -> u32 {
        name.and_then(|name| self.nodes.get(name)).map_or(0, |record| record.id)
    }

    fn remove_nodes(&mut self, desired: &BTreeMap<Arc<str>, DesiredNode>, now: Duration) -> Vec<Operation> {
        let mut operations = Vec::new();
        let (ids, until) = (&mut self.node_ids, now + self.quarantine);
        self.nodes.retain(|name, record| {
            let stays = desired.contains_key(name);
            if !stays {
                operations.push(Operation::RemoveNode { id: record.id });
                ids.release(record.id, until);
            }
            stays
        });
        operations
    }

    fn place_node(
        &mut self,
        name: &Arc<str>,
        wanted: &DesiredNode,
        routes: usize,
        now: Duration,
    ) -> Result<(u32, Option<Operation>), NoRoom> {
        if routes + wanted.prefixes().count() > self.capacities.routes as usize {
            return Err(NoRoom::Full { map: map::ROUTE, capacity: self.capacities.routes });
        }
        if !self.nodes.contains_key(name)
            && let Some((id, node)) = self.claim_node(wanted)
        {
            self.nodes.insert(name.clone(), NodeRecord { id, node });
        }
        if let Some(record) = self.nodes.get_mut(name) {
            let operation = Operation::SetNode { id: record.id, node: wanted.node };
            let is_news = record.node != wanted.node;
            record.node = wanted.node;
            return Ok((record.id, is_news.then_some(operation)));
        }
        let full = NoRoom::Full { map: map::NODE, capacity: self.capacities.nodes };
        let id = self.node_ids.take(now).ok_or(full)?;
        self.nodes.insert(name.clone(), NodeRecord { id, node: wanted.node });
        Ok((id, Some(Operation::SetNode { id, node: wanted.node })))
    }

    /// Adds the nodes' own addresses where pod CIDRs leave room, and says whose find none.
    fn place_addresses(
        &self,
        desired: &BTreeMap<Arc<str>, DesiredNode>,
        leaving: usize,
        routes: &mut HashMap<RouteKey, u32>,
    ) -> Vec<(Arc<str>, NoRoom)> {
        let capacity = self.capacities.routes;
        let mut room = (capacity as usize).saturating_sub(routes.len() + leaving);
        let mut refused = Vec::new();
        for (name, wanted) in desired {
            let Some(record) = self.nodes.get(name) else { continue };
            if wanted.addresses.len() > room {
                refused.push((name.clone(), NoRoom::Full { map: map::ROUTE, capacity }));
                continue;
            }
            room -= wanted.addresses.len();
            routes.extend(wanted.addresses.iter().map(|address| (own(*address), record.id)));
        }
        refused
    }

    /// The id an earlier agent gave to this node, known by a pod CIDR.
    fn claim_node(&mut self, wanted: &DesiredNode) -> Option<(u32, Node)> {
        pods(wanted).find_map(|key| {
            let id = *self.routes.get(&key)?;
            Some((id, self.leftovers.nodes.remove(&id)?))
        })
    }

    fn move_routes(&mut self, wanted: HashMap<RouteKey, u32>) -> Vec<Operation> {
        let old = std::mem::replace(&mut self.routes, wanted);
        let gone = old.keys().filter(|key| !self.routes.contains_key(*key));
        let gone = gone.map(|key| Operation::RemoveRoute { key: *key });
        let news = self.routes.iter().filter(|(key, id)| old.get(*key) != Some(id));
        news.map(|(key, id)| set_route(*key, *id)).chain(gone).collect()
    }
}

/// The entries of a node's pod CIDRs.
fn pods(node: &DesiredNode) -> impl Iterator<Item = RouteKey> {
    node.prefixes().map(|prefix| RouteKey { prefix, zone: zone::PODS })
}

/// The entry of a node's own address.
fn own(address: Address) -> RouteKey {
    RouteKey { prefix: address, zone: zone::NODES }
}

pub(super) fn set_route(key: RouteKey, node: u32) -> Operation {
    Operation::SetRoute { key, route: Route { node, ..Route::default() } }
}
