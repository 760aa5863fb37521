//! The last known facts, by what they concern. An event only says which Services, or the nodes, to look at again.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Node, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;

use crate::desired::{
    self, DesiredNode, DesiredService, Names, NodeFacts, Reason, Refusal, ServiceFacts, ServiceName, SliceFacts,
    ThisNode,
};
use crate::source::Change;

/// The label that names an EndpointSlice's Service.
const SERVICE_NAME: &str = "kubernetes.io/service-name";

/// What the objects of all sources say.
#[derive(Debug, Default)]
pub struct Index {
    services: BTreeMap<ServiceName, Result<Option<ServiceFacts>, Reason>>,
    /// By Service, then by the slice's name.
    slices: BTreeMap<ServiceName, BTreeMap<String, SliceFacts>>,
    /// Namespace and name of a slice to its Service, so that a slice that changes sides is found on both.
    owners: BTreeMap<(String, String), ServiceName>,
    nodes: BTreeMap<String, Result<NodeFacts, Reason>>,
    /// Of the nodes that endpoints are on.
    names: Names,
    /// Which snapshots are in: Services, EndpointSlices, Nodes.
    snapshots: [bool; 3],
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
                self.snapshots[0] = true;
                let old = std::mem::take(&mut self.services);
                dirty.services.extend(old.into_keys());
                for service in all {
                    self.set_service(&service, dirty);
                }
            }
            Change::Service(service) => self.set_service(&service, dirty),
            Change::ServiceGone(service) => {
                let name = desired::name_of(&service);
                self.services.remove(&name);
                dirty.services.insert(name);
            }
            Change::Slices(all) => {
                self.snapshots[1] = true;
                let old = std::mem::take(&mut self.slices);
                self.owners.clear();
                dirty.services.extend(old.into_keys());
                for slice in all {
                    self.set_slice(&slice, dirty);
                }
            }
            Change::Slice(slice) => self.set_slice(&slice, dirty),
            Change::SliceGone(slice) => self.remove_slice(&desired::slice_name(&slice), dirty),
            Change::Nodes(all) => {
                self.snapshots[2] = true;
                self.nodes = all.iter().map(|node| (node_name(node), NodeFacts::read(node))).collect();
                dirty.nodes = true;
            }
            Change::Node(node) => self.set_node(&node, dirty),
            Change::NodeGone(node) => dirty.nodes |= self.nodes.remove(&node_name(&node)).is_some(),
        }
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
        let slices: Vec<&SliceFacts> = self.slices.get(name).into_iter().flat_map(BTreeMap::values).collect();
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
        let (name, facts) = (desired::name_of(service), ServiceFacts::read(service));
        if self.services.get(&name) != Some(&facts) {
            dirty.services.insert(name.clone());
            self.services.insert(name, facts);
        }
    }

    fn set_slice(&mut self, slice: &EndpointSlice, dirty: &mut Dirty) {
        let key = desired::slice_name(slice);
        let service = slice.metadata.labels.as_ref().and_then(|labels| labels.get(SERVICE_NAME));
        let Some(service) = service else { return self.remove_slice(&key, dirty) };
        let owner = ServiceName { namespace: key.0.clone(), name: service.clone() };
        if self.owners.get(&key).is_some_and(|old| *old != owner) {
            self.remove_slice(&key, dirty);
        }
        let facts = SliceFacts::read(slice, &mut self.names);
        let of_service = self.slices.entry(owner.clone()).or_default();
        if of_service.get(&key.1) == Some(&facts) {
            return;
        }
        of_service.insert(key.1.clone(), facts);
        dirty.services.insert(owner.clone());
        self.owners.insert(key, owner);
    }

    fn remove_slice(&mut self, key: &(String, String), dirty: &mut Dirty) {
        let Some(owner) = self.owners.remove(key) else { return };
        if let Some(slices) = self.slices.get_mut(&owner) {
            slices.remove(&key.1);
            if slices.is_empty() {
                self.slices.remove(&owner);
            }
        }
        dirty.services.insert(owner);
    }

    /// Nodes change with every heartbeat of their kubelet; only addresses and pod CIDRs concern the maps.
    fn set_node(&mut self, node: &Node, dirty: &mut Dirty) {
        let (name, facts) = (node_name(node), NodeFacts::read(node));
        if self.nodes.get(&name) != Some(&facts) {
            dirty.nodes = true;
            self.nodes.insert(name, facts);
        }
    }
}

fn node_name(node: &Node) -> String {
    node.metadata.name.clone().unwrap_or_default()
}
