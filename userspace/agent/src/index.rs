//! The last known facts, by what they concern. An event only says which Services, or the nodes, to look at again.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Node, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;

use crate::desired::{
    self, DesiredNode, DesiredService, Names, NodeFacts, Reason, Refusal, ServiceFacts, ServiceName, SliceFacts,
    ThisNode,
};
use crate::source::{Change, Kind};

/// The label that names an EndpointSlice's Service.
const SERVICE_NAME: &str = "kubernetes.io/service-name";

/// What the objects of all sources say.
#[derive(Debug, Default)]
pub struct Index {
    services: BTreeMap<ServiceName, Result<Option<ServiceFacts>, Reason>>,
    /// By Service, then by the slice's name.
    slices: BTreeMap<ServiceName, Vec<(Arc<str>, SliceFacts)>>,
    /// A slice to its Service, so that a slice that changes sides is found on both.
    owners: BTreeMap<SliceName, ServiceName>,
    nodes: BTreeMap<String, Result<NodeFacts, Reason>>,
    names: Names,
    /// What was known when a list began that is still coming in, and has not been in it yet.
    stale: Stale,
    /// Which snapshots are in: Services, EndpointSlices, Nodes.
    snapshots: [bool; 3],
}

/// Namespace and name of an EndpointSlice.
type SliceName = (Arc<str>, Arc<str>);

#[derive(Debug, Default)]
struct Stale {
    services: BTreeSet<ServiceName>,
    slices: BTreeSet<SliceName>,
    nodes: BTreeSet<String>,
}

/// What a change concerns.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Dirty {
    pub services: BTreeSet<ServiceName>,
    pub nodes: bool,
}

impl Index {
    /// Takes a change in; `dirty` learns what it concerns.
    pub fn apply(&mut self, change: Change, dirty: &mut Dirty) {
        match change {
            Change::Services(all) => {
                self.list(Kind::Services);
                all.iter().for_each(|service| self.set_service(service, dirty));
                self.listed(Kind::Services, dirty);
            }
            Change::Service(service) => self.set_service(&service, dirty),
            Change::ServiceGone(service) => self.remove_service(desired::name_of(&service), dirty),
            Change::Slices(all) => {
                self.list(Kind::Slices);
                all.iter().for_each(|slice| self.set_slice(slice, dirty));
                self.listed(Kind::Slices, dirty);
            }
            Change::Slice(slice) => self.set_slice(&slice, dirty),
            Change::SliceGone(slice) => {
                let (namespace, name) = desired::slice_name(&slice);
                self.remove_slice(&(namespace.into(), name.into()), dirty);
            }
            Change::Nodes(all) => {
                self.list(Kind::Nodes);
                all.iter().for_each(|node| self.set_node(node, dirty));
                self.listed(Kind::Nodes, dirty);
            }
            Change::Node(node) => self.set_node(&node, dirty),
            Change::NodeGone(node) => dirty.nodes |= self.nodes.remove(&node_name(&node)).is_some(),
            Change::Listing(kind) => self.list(kind),
            Change::Listed(kind) => self.listed(kind, dirty),
        }
    }

    /// A list begins: what is known is doubtful until the list has it.
    fn list(&mut self, kind: Kind) {
        match kind {
            Kind::Services => self.stale.services = self.services.keys().cloned().collect(),
            Kind::Slices => self.stale.slices = self.owners.keys().cloned().collect(),
            Kind::Nodes => self.stale.nodes = self.nodes.keys().cloned().collect(),
        }
    }

    /// A list is complete: what was not in it is gone.
    fn listed(&mut self, kind: Kind, dirty: &mut Dirty) {
        match kind {
            Kind::Services => {
                for name in std::mem::take(&mut self.stale.services) {
                    self.remove_service(name, dirty);
                }
            }
            Kind::Slices => {
                for name in std::mem::take(&mut self.stale.slices) {
                    self.remove_slice(&name, dirty);
                }
            }
            Kind::Nodes => {
                for name in std::mem::take(&mut self.stale.nodes) {
                    self.nodes.remove(&name);
                }
                dirty.nodes = true;
            }
        }
        self.snapshots[kind as usize] = true;
    }

    /// Whether the snapshot of every kind is in. Before that, absence means nothing, and no map may be written.
    pub fn in_sync(&self) -> bool {
        self.snapshots == [true; 3]
    }

    /// Which snapshots are in: of Services, of EndpointSlices, of Nodes.
    pub fn snapshots(&self) -> [bool; 3] {
        self.snapshots
    }

    /// The names of all Services.
    pub fn service_names(&self) -> impl Iterator<Item = &ServiceName> {
        self.services.keys()
    }

    pub fn has_service(&self, name: &ServiceName) -> bool {
        self.services.contains_key(name)
    }

    /// What the maps should hold for a Service; nothing when it is gone or not served.
    pub fn desired_service(&self, name: &ServiceName, this: &ThisNode) -> Result<Option<DesiredService>, Refusal> {
        let refuse = |reason: Reason| Refusal { object: format!("Service {name}"), reason };
        let Some(read) = self.services.get(name) else { return Ok(None) };
        let Some(facts) = read.as_ref().map_err(|reason| refuse(reason.clone()))? else { return Ok(None) };
        let slices: Vec<&SliceFacts> = self.slices.get(name).into_iter().flatten().map(|(_, facts)| facts).collect();
        let desired = desired::service(facts, &slices, this).map_err(refuse)?;
        // Without an address of a family this node has there is nothing to serve here.
        Ok((!desired.addresses.is_empty()).then_some(desired))
    }

    /// What is not served of a Service and of its slices though the rest of it is.
    pub fn unserved(&self, name: &ServiceName) -> Vec<(&'static str, String)> {
        let Some(Ok(Some(facts))) = self.services.get(name) else { return Vec::new() };
        let of_service = facts.unserved.iter().map(|reason| (reason.word(), reason.to_string()));
        let slices = self.slices.get(name).into_iter().flatten();
        let left_out = slices.flat_map(|(slice, facts)| facts.left_out.iter().map(move |reason| (slice, reason)));
        let of_slices = left_out
            .map(|(slice, reason)| (reason.word(), format!("EndpointSlice {}/{slice}: {reason}", name.namespace)));
        of_service.chain(of_slices).collect()
    }

    /// What the maps should hold of the other nodes.
    pub fn desired_nodes(&self, this: &ThisNode) -> (BTreeMap<Arc<str>, DesiredNode>, Vec<Refusal>) {
        desired::nodes(self.nodes.iter().map(|(name, facts)| (name.as_str(), facts)), this)
    }

    /// What a node says; nothing when it is not known.
    pub fn node(&self, name: &str) -> Option<&Result<NodeFacts, Reason>> {
        self.nodes.get(name)
    }

    fn set_service(&mut self, service: &Service, dirty: &mut Dirty) {
        let (name, facts) = (desired::name_of(service), ServiceFacts::read(service, &mut self.names));
        self.stale.services.remove(&name);
        if self.services.get(&name) != Some(&facts) {
            let name = self.known(name);
            dirty.services.insert(name.clone());
            self.services.insert(name, facts);
        }
    }

    fn remove_service(&mut self, name: ServiceName, dirty: &mut Dirty) {
        self.services.remove(&name);
        self.stale.services.remove(&name);
        dirty.services.insert(name);
    }

    fn set_slice(&mut self, slice: &EndpointSlice, dirty: &mut Dirty) {
        let (namespace, name) = desired::slice_name(slice);
        let key: SliceName = (self.names.get(namespace), name.into());
        self.stale.slices.remove(&key);
        let service = slice.metadata.labels.as_ref().and_then(|labels| labels.get(SERVICE_NAME));
        let Some(service) = service else { return self.remove_slice(&key, dirty) };
        let owner = self.known(ServiceName { namespace: key.0.clone(), name: service.as_str().into() });
        if self.owners.get(&key).is_some_and(|old| *old != owner) {
            self.remove_slice(&key, dirty);
        }
        let facts = SliceFacts::read(slice, &mut self.names);
        let of_service = self.slices.entry(owner.clone()).or_default();
        match of_service.binary_search_by(|(known, _)| known.cmp(&key.1)) {
            Ok(at) if of_service[at].1 == facts => return,
            Ok(at) => of_service[at].1 = facts,
            Err(at) => {
                of_service.reserve_exact(1);
                of_service.insert(at, (key.1.clone(), facts));
            }
        }
        dirty.services.insert(owner.clone());
        self.owners.insert(key, owner);
    }

    fn remove_slice(&mut self, key: &SliceName, dirty: &mut Dirty) {
        self.stale.slices.remove(key);
        let Some(owner) = self.owners.remove(key) else { return };
        if let Some(slices) = self.slices.get_mut(&owner) {
            slices.retain(|(name, _)| *name != key.1);
            if slices.is_empty() {
                self.slices.remove(&owner);
            }
        }
        dirty.services.insert(owner);
    }

    /// The same name, in the memory it has already.
    fn known(&mut self, name: ServiceName) -> ServiceName {
        let known = self.services.get_key_value(&name).map(|(known, _)| known);
        if let Some(known) = known.or_else(|| self.slices.get_key_value(&name).map(|(known, _)| known)) {
            return known.clone();
        }
        ServiceName { namespace: self.names.get(&name.namespace), name: name.name }
    }

    /// Nodes change with every heartbeat of their kubelet; only addresses and pod CIDRs concern the maps.
    fn set_node(&mut self, node: &Node, dirty: &mut Dirty) {
        let (name, facts) = (node_name(node), NodeFacts::read(node));
        self.stale.nodes.remove(&name);
        if self.nodes.get(&name) != Some(&facts) {
            dirty.nodes = true;
            self.nodes.insert(name, facts);
        }
    }
}

fn node_name(node: &Node) -> String {
    node.metadata.name.clone().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn slice(name: &str) -> EndpointSlice {
        let labels = Some([(SERVICE_NAME.to_owned(), "web".to_owned())].into());
        let mut slice = EndpointSlice { address_type: "IPv4".into(), ..EndpointSlice::default() };
        slice.metadata.name = Some(name.into());
        slice.metadata.labels = labels;
        slice
    }

    fn applied(index: &mut Index, changes: impl IntoIterator<Item = Change>) -> usize {
        let mut dirty = Dirty::default();
        changes.into_iter().for_each(|change| index.apply(change, &mut dirty));
        dirty.services.len()
    }

    #[test]
    fn a_list_that_comes_object_by_object_counts_once_it_is_complete() {
        let mut index = Index::default();
        let one_by_one = |names: &[&str]| names.iter().map(|name| Change::Slice(slice(name))).collect::<Vec<_>>();
        applied(&mut index, [Change::Listing(Kind::Slices)]);
        applied(&mut index, one_by_one(&["a", "b"]));
        assert_eq!(index.snapshots(), [false; 3]);
        applied(&mut index, [Change::Listed(Kind::Slices)]);
        assert_eq!(index.snapshots(), [false, true, false]);

        applied(&mut index, [Change::Listing(Kind::Slices)]);
        applied(&mut index, one_by_one(&["b"]));
        // The source lost its place in the middle, and begins again.
        applied(&mut index, [Change::Listing(Kind::Slices)]);
        assert_eq!(applied(&mut index, one_by_one(&["b", "c"])), 1, "c is news");
        assert_eq!(index.owners.len(), 3, "nothing is gone before the list is complete");
        assert_eq!(applied(&mut index, [Change::Listed(Kind::Slices)]), 1, "the service of a looks different");
        let names: Vec<&str> = index.owners.keys().map(|(_, name)| &**name).collect();
        assert_eq!(names, ["b", "c"]);
    }
}
