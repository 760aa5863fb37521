//! What the scheduler knows: nodes with what is free on them, pods with what they ask for.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use diolkos_api::quantity::Quantity;
use k8s_openapi::api::core::v1::{Container, Node, Pod, Taint, Toleration};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity as Amount;

/// Amounts by resource: "cpu", "memory", ...
pub type Resources = BTreeMap<String, Quantity>;

/// What matters of a pod.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct PodInfo {
    pub namespace: String,
    pub name: String,
    pub uid: String,
    /// "" while it has no node.
    pub node: String,
    pub requests: Resources,
    /// The uid of its controller: pods of one controller are spread.
    pub owner: Option<String>,
    pub tolerations: Vec<Toleration>,
    pub node_selector: BTreeMap<String, String>,
    /// Ports of the node that it takes: protocol and number.
    pub host_ports: BTreeSet<(String, i32)>,
}

/// What matters of a node.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct NodeInfo {
    pub name: String,
    pub labels: BTreeMap<String, String>,
    pub ready: bool,
    pub unschedulable: bool,
    pub taints: Vec<Taint>,
    pub allocatable: Resources,
}

/// A node together with what is on it.
#[derive(Clone, Debug, Default)]
pub struct Place {
    pub node: NodeInfo,
    pub requested: Resources,
    pub pods: usize,
    pub host_ports: BTreeSet<(String, i32)>,
    /// How many pods of each controller are here.
    pub of_owner: HashMap<String, usize>,
}

/// All nodes, and all pods that have one.
#[derive(Clone, Debug, Default)]
pub struct Cluster {
    places: BTreeMap<String, Place>,
    /// Pods by uid. Those on a node that is not known count when it comes.
    pods: HashMap<String, PodInfo>,
    /// The uids of the pods on each node, known or not.
    on_node: HashMap<String, BTreeSet<String>>,
}

impl Cluster {
    /// A node is new or changed; returns whether that may help pods that fit nowhere.
    pub fn put_node(&mut self, node: NodeInfo) -> bool {
        let name = node.name.clone();
        if self.places.get(&name).is_some_and(|place| place.node == node) {
            return false;
        }
        self.places.entry(name.clone()).or_default().node = node;
        self.count_again(&name);
        true
    }

    pub fn remove_node(&mut self, name: &str) {
        self.places.remove(name);
    }

    /// A pod is on a node, or about to be.
    pub fn put_pod(&mut self, pod: PodInfo) {
        if self.pods.get(&pod.uid) == Some(&pod) {
            return;
        }
        self.remove_pod(&pod.uid);
        let node = pod.node.clone();
        self.on_node.entry(node.clone()).or_default().insert(pod.uid.clone());
        self.pods.insert(pod.uid.clone(), pod);
        self.count_again(&node);
    }

    /// A pod takes nothing any more; returns whether it did before.
    pub fn remove_pod(&mut self, uid: &str) -> bool {
        let Some(pod) = self.pods.remove(uid) else { return false };
        if let Some(uids) = self.on_node.get_mut(&pod.node) {
            uids.remove(uid);
            if uids.is_empty() {
                self.on_node.remove(&pod.node);
            }
        }
        self.count_again(&pod.node);
        true
    }

    /// The uids of all pods that are on nodes.
    pub fn pod_uids(&self) -> Vec<String> {
        self.pods.keys().cloned().collect()
    }

    /// All places, by the name of their node.
    pub fn places(&self) -> impl Iterator<Item = &Place> {
        self.places.values()
    }

    fn count_again(&mut self, node: &str) {
        let Some(place) = self.places.get_mut(node) else { return };
        *place = Place { node: std::mem::take(&mut place.node), ..Place::default() };
        let uids = self.on_node.get(node).into_iter().flatten();
        uids.filter_map(|uid| self.pods.get(uid)).for_each(|pod| place.add(pod));
    }
}

impl Place {
    pub fn new(node: NodeInfo) -> Self {
        Self { node, ..Self::default() }
    }

    fn add(&mut self, pod: &PodInfo) {
        add(&mut self.requested, &pod.requests);
        self.pods += 1;
        self.host_ports.extend(pod.host_ports.iter().cloned());
        if let Some(owner) = &pod.owner {
            *self.of_owner.entry(owner.clone()).or_default() += 1;
        }
    }

    /// How many pods of the same controller are here.
    pub fn siblings(&self, pod: &PodInfo) -> usize {
        pod.owner.as_ref().and_then(|owner| self.of_owner.get(owner)).copied().unwrap_or(0)
    }
}

impl PodInfo {
    pub fn new(pod: &Pod) -> Self {
        let metadata = &pod.metadata;
        let spec = pod.spec.clone().unwrap_or_default();
        let owners = metadata.owner_references.as_deref().unwrap_or_default();
        let ports = spec.containers.iter().flat_map(|container| container.ports.iter().flatten());
        let host_port = |port: &k8s_openapi::api::core::v1::ContainerPort| {
            let number = port.host_port.filter(|number| *number > 0)?;
            Some((port.protocol.clone().unwrap_or_else(|| "TCP".into()), number))
        };
        Self {
            namespace: metadata.namespace.clone().unwrap_or_default(),
            name: metadata.name.clone().unwrap_or_default(),
            uid: metadata.uid.clone().unwrap_or_default(),
            node: spec.node_name.clone().unwrap_or_default(),
            requests: requests(&spec.containers, spec.init_containers.as_deref().unwrap_or_default()),
            owner: owners.iter().find(|owner| owner.controller == Some(true)).map(|owner| owner.uid.clone()),
            host_ports: ports.filter_map(host_port).collect(),
            tolerations: spec.tolerations.unwrap_or_default(),
            node_selector: spec.node_selector.unwrap_or_default(),
        }
    }
}

impl NodeInfo {
    pub fn new(node: &Node) -> Self {
        let spec = node.spec.clone().unwrap_or_default();
        let status = node.status.clone().unwrap_or_default();
        let conditions = status.conditions.unwrap_or_default();
        Self {
            name: node.metadata.name.clone().unwrap_or_default(),
            labels: node.metadata.labels.clone().unwrap_or_default(),
            ready: conditions.iter().any(|condition| condition.type_ == "Ready" && condition.status == "True"),
            unschedulable: spec.unschedulable == Some(true),
            taints: spec.taints.unwrap_or_default(),
            allocatable: amounts(status.allocatable.or(status.capacity).unwrap_or_default()),
        }
    }
}

/// What a pod needs at any time: all its containers and sidecars together, or the largest init container with the
/// sidecars that are started before it.
fn requests(containers: &[Container], init: &[Container]) -> Resources {
    let own = |container: &Container| {
        amounts(container.resources.as_ref().and_then(|resources| resources.requests.clone()).unwrap_or_default())
    };
    let mut sidecars = Resources::new();
    let mut peak = Resources::new();
    for container in init {
        if container.restart_policy.as_deref() == Some("Always") {
            add(&mut sidecars, &own(container));
        } else {
            let mut now = sidecars.clone();
            add(&mut now, &own(container));
            raise(&mut peak, &now);
        }
    }
    let mut total = sidecars;
    containers.iter().for_each(|container| add(&mut total, &own(container)));
    raise(&mut total, &peak);
    total
}

fn amounts(list: BTreeMap<String, Amount>) -> Resources {
    // What cannot be read counts as nothing; the apiserver lets nothing of that kind in.
    let read = |(name, amount): (String, Amount)| (name, Quantity::parse(&amount.0).unwrap_or_default());
    list.into_iter().map(read).collect()
}

fn add(total: &mut Resources, more: &Resources) {
    for (name, amount) in more {
        *total.entry(name.clone()).or_default() += *amount;
    }
}

fn raise(total: &mut Resources, at_least: &Resources) {
    for (name, amount) in at_least {
        let present = total.entry(name.clone()).or_default();
        *present = (*present).max(*amount);
    }
}
