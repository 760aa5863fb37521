//! What the controllers know of the cluster: every object of their kinds, as the watches and their own writes left it.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use diolkos_api::client::{Event, Resource};
use ipnetwork::IpNetwork;
use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};
use k8s_openapi::api::certificates::v1::CertificateSigningRequest;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{ConfigMap, Namespace, Node, Pod, Secret, Service, ServiceAccount};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference, Time};
use k8s_openapi::jiff::Timestamp;

use crate::object::{Key, KindName, Object};

/// The whole of it.
#[derive(Clone, Debug)]
pub struct View {
    pub settings: Settings,
    pub deployments: Index<Deployment>,
    pub replica_sets: Index<ReplicaSet>,
    pub pods: Index<Pod>,
    pub services: Index<Service>,
    pub endpoint_slices: Index<EndpointSlice>,
    pub nodes: Index<Node>,
    pub namespaces: Index<Namespace>,
    pub config_maps: Index<ConfigMap>,
    pub service_accounts: Index<ServiceAccount>,
    pub leases: Index<Lease>,
    pub certificate_requests: Index<CertificateSigningRequest>,
    /// The bootstrap tokens among the Secrets.
    pub tokens: Index<Secret>,
    /// When each node was last heard of, by our clock: its lease or its Ready condition changed.
    pub heard: BTreeMap<String, Timestamp>,
}

/// What the operator decided.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Where the podCIDRs of the nodes come from, one for each address family, the cluster's first family first.
    pub pod_networks: Vec<PodNetwork>,
    /// Whether the key of the cluster's authority is at hand, to sign certificates with.
    pub signs: bool,
    /// The certificate by which pods know the apiserver, in PEM; "" publishes none.
    pub root_ca: String,
}

/// The pod network of one address family.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PodNetwork {
    pub cidr: IpNetwork,
    /// The length of a node's part of it.
    pub node_mask: u8,
}

/// The namespace of the leases with which kubelets show that they live.
pub const NODE_LEASES: &str = "kube-node-lease";

/// What the watch of one kind tells.
#[derive(Clone, Debug)]
pub enum News {
    Deployment(Event<Deployment>),
    ReplicaSet(Event<ReplicaSet>),
    Pod(Event<Pod>),
    Service(Event<Service>),
    EndpointSlice(Event<EndpointSlice>),
    Node(Event<Node>),
    Namespace(Event<Namespace>),
    ConfigMap(Event<ConfigMap>),
    ServiceAccount(Event<ServiceAccount>),
    Lease(Event<Lease>),
    CertificateSigningRequest(Event<CertificateSigningRequest>),
    Secret(Event<Secret>),
}

/// An object before, if it was there, and after, if it is.
pub type Change = (Option<Object>, Option<Object>);

/// A [`Change`] of one kind.
type Pair<K> = (Option<Arc<K>>, Option<Arc<K>>);

/// The objects of one kind, by key and by owner.
#[derive(Clone, Debug)]
pub struct Index<K> {
    objects: BTreeMap<(String, String), Arc<K>>,
    owned: HashMap<String, BTreeSet<(String, String)>>,
    /// The newest version the watch has told of: what a write returned at or before it is no news.
    seen: i64,
    /// Incarnations that we deleted and whose end the watch has not told yet: what it still says of them is old.
    deleted: HashSet<String>,
}

impl View {
    pub fn new(settings: Settings) -> Self {
        Self {
            settings,
            deployments: Index::default(),
            replica_sets: Index::default(),
            pods: Index::default(),
            services: Index::default(),
            endpoint_slices: Index::default(),
            nodes: Index::default(),
            namespaces: Index::default(),
            config_maps: Index::default(),
            service_accounts: Index::default(),
            leases: Index::default(),
            certificate_requests: Index::default(),
            tokens: Index::default(),
            heard: BTreeMap::new(),
        }
    }

    /// Takes in what a watch tells; returns what changed.
    pub fn apply(&mut self, news: News, now: Timestamp) -> Vec<Change> {
        match news {
            News::Deployment(event) => self.deployments.changes(event, Object::Deployment),
            News::ReplicaSet(event) => self.replica_sets.changes(event, Object::ReplicaSet),
            News::Pod(event) => self.pods.changes(event, Object::Pod),
            News::Service(event) => self.services.changes(event, Object::Service),
            News::EndpointSlice(event) => self.endpoint_slices.changes(event, Object::EndpointSlice),
            News::Node(event) => {
                let changes = self.nodes.changes(event, Object::Node);
                self.hear_nodes(&changes, now);
                changes
            }
            News::Namespace(event) => self.namespaces.changes(event, Object::Namespace),
            News::ConfigMap(event) => self.config_maps.changes(event, Object::ConfigMap),
            News::ServiceAccount(event) => self.service_accounts.changes(event, Object::ServiceAccount),
            News::Lease(event) => {
                let changes = self.leases.changes(event, Object::Lease);
                self.hear_leases(&changes, now);
                changes
            }
            News::CertificateSigningRequest(event) => {
                self.certificate_requests.changes(event, Object::CertificateSigningRequest)
            }
            News::Secret(event) => self.tokens.changes(event, Object::Secret),
        }
    }

    /// Takes in an object that a write returned, unless the watch was faster; returns what changed.
    pub fn insert(&mut self, object: Object, now: Timestamp) -> Vec<Change> {
        match object {
            Object::Deployment(object) => self.deployments.written(object, Object::Deployment),
            Object::ReplicaSet(object) => self.replica_sets.written(object, Object::ReplicaSet),
            Object::Pod(object) => self.pods.written(object, Object::Pod),
            Object::Service(object) => self.services.written(object, Object::Service),
            Object::EndpointSlice(object) => self.endpoint_slices.written(object, Object::EndpointSlice),
            Object::Node(object) => {
                let changes = self.nodes.written(object, Object::Node);
                self.hear_nodes(&changes, now);
                changes
            }
            Object::Namespace(object) => self.namespaces.written(object, Object::Namespace),
            Object::ConfigMap(object) => self.config_maps.written(object, Object::ConfigMap),
            Object::ServiceAccount(object) => self.service_accounts.written(object, Object::ServiceAccount),
            Object::Lease(object) => {
                let changes = self.leases.written(object, Object::Lease);
                self.hear_leases(&changes, now);
                changes
            }
            Object::CertificateSigningRequest(object) => {
                self.certificate_requests.written(object, Object::CertificateSigningRequest)
            }
            Object::Secret(object) => self.tokens.written(object, Object::Secret),
        }
    }

    /// Takes in that an incarnation was deleted, or has begun to be: until the watch tells its end, it counts as one
    /// that is being deleted, whatever older news say.
    pub fn ending(&mut self, key: &Key, uid: &str, now: Timestamp) -> Option<Change> {
        let before = self.get(key).filter(|object| object.metadata().uid.as_deref() == Some(uid))?;
        match key.kind {
            KindName::Deployment => self.deployments.ending(key, uid, now),
            KindName::ReplicaSet => self.replica_sets.ending(key, uid, now),
            KindName::Pod => self.pods.ending(key, uid, now),
            KindName::Service => self.services.ending(key, uid, now),
            KindName::EndpointSlice => self.endpoint_slices.ending(key, uid, now),
            KindName::Node => self.nodes.ending(key, uid, now),
            KindName::Namespace => self.namespaces.ending(key, uid, now),
            KindName::ConfigMap => self.config_maps.ending(key, uid, now),
            KindName::ServiceAccount => self.service_accounts.ending(key, uid, now),
            KindName::Lease => self.leases.ending(key, uid, now),
            KindName::CertificateSigningRequest => self.certificate_requests.ending(key, uid, now),
            KindName::Secret => self.tokens.ending(key, uid, now),
        }
        Some((Some(before), self.get(key)))
    }

    /// Any object by its key.
    pub fn get(&self, key: &Key) -> Option<Object> {
        let (namespace, name) = (key.namespace.as_str(), key.name.as_str());
        match key.kind {
            KindName::Deployment => self.deployments.get(namespace, name).cloned().map(Object::Deployment),
            KindName::ReplicaSet => self.replica_sets.get(namespace, name).cloned().map(Object::ReplicaSet),
            KindName::Pod => self.pods.get(namespace, name).cloned().map(Object::Pod),
            KindName::Service => self.services.get(namespace, name).cloned().map(Object::Service),
            KindName::EndpointSlice => self.endpoint_slices.get(namespace, name).cloned().map(Object::EndpointSlice),
            KindName::Node => self.nodes.get(namespace, name).cloned().map(Object::Node),
            KindName::Namespace => self.namespaces.get(namespace, name).cloned().map(Object::Namespace),
            KindName::ConfigMap => self.config_maps.get(namespace, name).cloned().map(Object::ConfigMap),
            KindName::ServiceAccount => self.service_accounts.get(namespace, name).cloned().map(Object::ServiceAccount),
            KindName::Lease => self.leases.get(namespace, name).cloned().map(Object::Lease),
            KindName::CertificateSigningRequest => {
                self.certificate_requests.get(namespace, name).cloned().map(Object::CertificateSigningRequest)
            }
            KindName::Secret => self.tokens.get(namespace, name).cloned().map(Object::Secret),
        }
    }

    /// The keys of all objects that name this owner.
    pub fn dependents(&self, uid: &str) -> Vec<Key> {
        let mut keys: Vec<Key> = Vec::new();
        keys.extend(self.deployments.owned_keys(uid).map(|(ns, name)| Key::new(KindName::Deployment, ns, name)));
        keys.extend(self.replica_sets.owned_keys(uid).map(|(ns, name)| Key::new(KindName::ReplicaSet, ns, name)));
        keys.extend(self.pods.owned_keys(uid).map(|(ns, name)| Key::new(KindName::Pod, ns, name)));
        keys.extend(self.services.owned_keys(uid).map(|(ns, name)| Key::new(KindName::Service, ns, name)));
        keys.extend(self.endpoint_slices.owned_keys(uid).map(|(ns, name)| Key::new(KindName::EndpointSlice, ns, name)));
        keys.extend(self.config_maps.owned_keys(uid).map(|(ns, name)| Key::new(KindName::ConfigMap, ns, name)));
        keys.extend(
            self.service_accounts.owned_keys(uid).map(|(ns, name)| Key::new(KindName::ServiceAccount, ns, name)),
        );
        keys.extend(self.leases.owned_keys(uid).map(|(ns, name)| Key::new(KindName::Lease, ns, name)));
        keys
    }

    /// The keys of everything in a namespace.
    pub fn contents(&self, namespace: &str) -> Vec<Key> {
        let mut keys: Vec<Key> = Vec::new();
        // What makes others goes first.
        keys.extend(self.deployments.names_in(namespace).map(|name| Key::new(KindName::Deployment, namespace, name)));
        keys.extend(self.replica_sets.names_in(namespace).map(|name| Key::new(KindName::ReplicaSet, namespace, name)));
        keys.extend(self.pods.names_in(namespace).map(|name| Key::new(KindName::Pod, namespace, name)));
        keys.extend(self.services.names_in(namespace).map(|name| Key::new(KindName::Service, namespace, name)));
        let slices = self.endpoint_slices.names_in(namespace);
        keys.extend(slices.map(|name| Key::new(KindName::EndpointSlice, namespace, name)));
        keys.extend(self.config_maps.names_in(namespace).map(|name| Key::new(KindName::ConfigMap, namespace, name)));
        keys.extend(
            self.service_accounts.names_in(namespace).map(|name| Key::new(KindName::ServiceAccount, namespace, name)),
        );
        keys.extend(self.leases.names_in(namespace).map(|name| Key::new(KindName::Lease, namespace, name)));
        keys
    }

    /// The keys of all objects of a kind.
    pub fn keys(&self, kind: KindName) -> Vec<Key> {
        fn all<K: Resource>(index: &Index<K>, kind: KindName) -> Vec<Key> {
            index.objects.keys().map(|(namespace, name)| Key::new(kind, namespace, name)).collect()
        }
        match kind {
            KindName::Deployment => all(&self.deployments, kind),
            KindName::ReplicaSet => all(&self.replica_sets, kind),
            KindName::Pod => all(&self.pods, kind),
            KindName::Service => all(&self.services, kind),
            KindName::EndpointSlice => all(&self.endpoint_slices, kind),
            KindName::Node => all(&self.nodes, kind),
            KindName::Namespace => all(&self.namespaces, kind),
            KindName::ConfigMap => all(&self.config_maps, kind),
            KindName::ServiceAccount => all(&self.service_accounts, kind),
            KindName::Lease => all(&self.leases, kind),
            KindName::CertificateSigningRequest => all(&self.certificate_requests, kind),
            KindName::Secret => all(&self.tokens, kind),
        }
    }

    /// A node lives whose Ready condition was posted anew. One that was never heard of gets the whole time.
    fn hear_nodes(&mut self, changes: &[Change], now: Timestamp) {
        for change in changes {
            match change {
                (before, Some(Object::Node(after))) => {
                    let before = before.as_ref().and_then(|before| match before {
                        Object::Node(before) => heartbeat(before),
                        _ => None,
                    });
                    let name = after.metadata.name.clone().unwrap_or_default();
                    if heartbeat(after) != before {
                        self.heard.insert(name, now);
                    } else {
                        self.heard.entry(name).or_insert(now);
                    }
                }
                (Some(Object::Node(gone)), None) => {
                    self.heard.remove(gone.metadata.name.as_deref().unwrap_or_default());
                }
                _ => {}
            }
        }
    }

    /// A node lives whose lease was renewed.
    fn hear_leases(&mut self, changes: &[Change], now: Timestamp) {
        let renewed = |object: &Object| match object {
            Object::Lease(lease) => lease.spec.as_ref().and_then(|spec| spec.renew_time.clone()),
            _ => None,
        };
        for (before, after) in changes {
            if let Some(after) = after
                && after.metadata().namespace.as_deref() == Some(NODE_LEASES)
                && renewed(after) != before.as_ref().and_then(renewed)
                && let Some(heard) = self.heard.get_mut(after.metadata().name.as_deref().unwrap_or_default())
            {
                *heard = now;
            }
        }
    }
}

/// The heartbeat of a node's Ready condition.
fn heartbeat(node: &Node) -> Option<Timestamp> {
    let conditions = node.status.as_ref()?.conditions.as_ref()?;
    let ready = conditions.iter().find(|condition| condition.type_ == "Ready")?;
    ready.last_heartbeat_time.as_ref().map(|time| time.0)
}

impl<K> Default for Index<K> {
    fn default() -> Self {
        Self { objects: BTreeMap::new(), owned: HashMap::new(), seen: 0, deleted: HashSet::new() }
    }
}

impl<K: Resource> Index<K> {
    pub fn get(&self, namespace: &str, name: &str) -> Option<&Arc<K>> {
        self.objects.get(&(namespace.to_owned(), name.to_owned()))
    }

    pub fn iter(&self) -> impl Iterator<Item = &Arc<K>> {
        self.objects.values()
    }

    /// The objects of a namespace ("" for cluster-scoped kinds), by name.
    pub fn of(&self, namespace: &str) -> impl Iterator<Item = &Arc<K>> {
        let from = (namespace.to_owned(), String::new());
        let namespace = namespace.to_owned();
        self.objects.range(from..).take_while(move |((ns, _), _)| *ns == namespace).map(|(_, object)| object)
    }

    /// The objects that name this owner, whether as their controller or not.
    pub fn owned_by(&self, uid: &str) -> impl Iterator<Item = &Arc<K>> {
        self.owned.get(uid).into_iter().flatten().filter_map(|key| self.objects.get(key))
    }

    /// Takes in what a watch says; returns the objects that changed: before, if there was one, and after.
    fn apply(&mut self, event: Event<K>) -> Vec<Pair<K>> {
        match event {
            Event::Applied(object) => {
                self.seen = self.seen.max(version(object.metadata()));
                self.put(Arc::new(object)).into_iter().collect()
            }
            Event::Deleted(object) => {
                let metadata = object.metadata();
                self.seen = self.seen.max(version(metadata));
                if let Some(uid) = &metadata.uid {
                    self.deleted.remove(uid);
                }
                let same = |present: &&Arc<K>| present.metadata().uid == metadata.uid;
                if self.objects.get(&key_of(metadata)).filter(same).is_some() {
                    self.take(&key_of(metadata));
                }
                vec![(Some(Arc::new(object)), None)]
            }
            Event::Restarted(objects) => {
                let before = std::mem::take(self);
                let mut changes = Vec::new();
                for object in objects {
                    self.seen = self.seen.max(version(object.metadata()));
                    let object = Arc::new(object);
                    let old = before.objects.get(&key_of(object.metadata())).cloned();
                    self.insert(object.clone());
                    changes.push((old, Some(object)));
                }
                let gone = before.objects.into_iter().filter(|(key, _)| !self.objects.contains_key(key));
                changes.extend(gone.map(|(_, object)| (Some(object), None)));
                changes
            }
        }
    }

    fn changes(&mut self, event: Event<K>, object: fn(Arc<K>) -> Object) -> Vec<Change> {
        let changes = self.apply(event).into_iter();
        changes.map(|(before, after)| (before.map(object), after.map(object))).collect()
    }

    fn written(&mut self, written: Arc<K>, object: fn(Arc<K>) -> Object) -> Vec<Change> {
        // The watch may have told the object's end already; the answer to a write must not bring it back.
        if version(written.metadata()) <= self.seen {
            return Vec::new();
        }
        let change = self.put(written).into_iter();
        change.map(|(before, after)| (before.map(object), after.map(object))).collect()
    }

    /// Takes in a state of an object, unless a newer one is here or it says less than we know.
    fn put(&mut self, object: Arc<K>) -> Option<Pair<K>> {
        let metadata = object.metadata();
        let before = self.objects.get(&key_of(metadata)).cloned();
        let ending = metadata.uid.as_ref().is_some_and(|uid| self.deleted.contains(uid));
        let older = before.as_ref().is_some_and(|before| version(before.metadata()) >= version(metadata));
        if older || (ending && metadata.deletion_timestamp.is_none()) {
            return None;
        }
        self.insert(object.clone());
        Some((before, Some(object)))
    }

    fn insert(&mut self, object: Arc<K>) {
        let key = key_of(object.metadata());
        self.take(&key);
        for owner in owners(object.metadata()) {
            self.owned.entry(owner.uid.clone()).or_default().insert(key.clone());
        }
        self.objects.insert(key, object);
    }

    fn ending(&mut self, key: &Key, uid: &str, now: Timestamp) {
        let key = (key.namespace.clone(), key.name.clone());
        let same = |present: &&mut Arc<K>| present.metadata().uid.as_deref() == Some(uid);
        if let Some(present) = self.objects.get_mut(&key).filter(same) {
            Arc::make_mut(present).metadata_mut().deletion_timestamp.get_or_insert(Time(now));
            self.deleted.insert(uid.to_owned());
        }
    }

    fn take(&mut self, key: &(String, String)) {
        let Some(object) = self.objects.remove(key) else { return };
        for owner in owners(object.metadata()) {
            if let Some(keys) = self.owned.get_mut(&owner.uid) {
                keys.remove(key);
                if keys.is_empty() {
                    self.owned.remove(&owner.uid);
                }
            }
        }
    }

    fn owned_keys(&self, uid: &str) -> impl Iterator<Item = (&str, &str)> {
        self.owned.get(uid).into_iter().flatten().map(|(namespace, name)| (namespace.as_str(), name.as_str()))
    }

    fn names_in(&self, namespace: &str) -> impl Iterator<Item = &str> {
        self.of(namespace).filter_map(|object| object.metadata().name.as_deref())
    }
}

/// The owners an object names.
pub fn owners(metadata: &ObjectMeta) -> &[OwnerReference] {
    metadata.owner_references.as_deref().unwrap_or_default()
}

/// The owner that controls an object.
pub fn controller(metadata: &ObjectMeta) -> Option<&OwnerReference> {
    owners(metadata).iter().find(|owner| owner.controller == Some(true))
}

fn key_of(metadata: &ObjectMeta) -> (String, String) {
    (metadata.namespace.clone().unwrap_or_default(), metadata.name.clone().unwrap_or_default())
}

fn version(metadata: &ObjectMeta) -> i64 {
    metadata.resource_version.as_deref().and_then(|version| version.parse().ok()).unwrap_or(0)
}
