//! A control plane in memory: versions, preconditions, graceful deletion and a watch, for one node's kubelet.

use super::{Cluster, TokenFor};
use async_trait::async_trait;
use diolkos_api::client::Event;
use diolkos_api::status::{Failure, GroupResource};
use futures::StreamExt;
use futures::stream::{self, BoxStream};
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{ConfigMap, Node, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use k8s_openapi::jiff::Timestamp;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};
use tokio::sync::broadcast;
use tokio_stream::wrappers::BroadcastStream;

/// Handle of one control plane; clones share it.
#[derive(Clone)]
pub struct ModelCluster {
    world: Arc<Mutex<World>>,
    events: broadcast::Sender<Event<Pod>>,
}

#[derive(Default)]
struct World {
    revision: u64,
    pods: BTreeMap<(String, String), Pod>,
    config_maps: BTreeMap<(String, String), ConfigMap>,
    /// Tokens given out so far.
    tokens: u64,
    nodes: BTreeMap<String, Node>,
    leases: BTreeMap<String, Lease>,
    away: bool,
    status_writes: u64,
}

/// Changes that a watcher may lag behind before it must list again.
const WATCH_BUFFER: usize = 1024;

impl Default for ModelCluster {
    fn default() -> ModelCluster {
        ModelCluster { world: Arc::default(), events: broadcast::channel(WATCH_BUFFER).0 }
    }
}

impl ModelCluster {
    /// Creates a pod, as if bound to the node; the answer is its uid.
    pub fn create_pod(&self, mut pod: Pod) -> String {
        let mut world = self.world();
        let uid = format!("uid-{}-{}", pod.metadata.name.as_deref().unwrap_or_default(), world.revision + 1);
        pod.metadata.uid = Some(uid.clone());
        pod.metadata.namespace.get_or_insert_with(|| "default".to_owned());
        world.store_pod(pod, &self.events);
        uid
    }

    /// Changes a pod in place, as an update of its spec does.
    pub fn edit_pod(&self, namespace: &str, name: &str, edit: impl FnOnce(&mut Pod)) {
        let mut world = self.world();
        if let Some(mut pod) = world.pods.get(&(namespace.to_owned(), name.to_owned())).cloned() {
            edit(&mut pod);
            world.store_pod(pod, &self.events);
        }
    }

    /// Asks for a deletion with grace: the object stays, marked, until the kubelet lets it go.
    pub fn request_deletion(&self, namespace: &str, name: &str, now: Timestamp, grace_seconds: i64) {
        self.edit_pod(namespace, name, |pod| {
            pod.metadata.deletion_timestamp =
                Some(Time(now + std::time::Duration::from_secs(grace_seconds.max(0).unsigned_abs())));
            pod.metadata.deletion_grace_period_seconds = Some(grace_seconds);
        });
    }

    /// Removes the object at once, whatever runs.
    pub fn force_delete(&self, namespace: &str, name: &str) {
        self.world().remove_pod(namespace, name, &self.events);
    }

    pub fn pod(&self, namespace: &str, name: &str) -> Option<Pod> {
        self.world().pods.get(&(namespace.to_owned(), name.to_owned())).cloned()
    }

    pub fn add_config_map(&self, namespace: &str, name: &str, map: ConfigMap) {
        self.world().config_maps.insert((namespace.to_owned(), name.to_owned()), map);
    }

    /// Removes a node, as an operator does.
    pub fn forget_node(&self, name: &str) {
        self.world().nodes.remove(name);
    }

    /// While away, every call fails; the watch is silent.
    pub fn set_away(&self, away: bool) {
        self.world().away = away;
    }

    /// How often a pod's status was written.
    pub fn status_writes(&self) -> u64 {
        self.world().status_writes
    }

    fn world(&self) -> MutexGuard<'_, World> {
        // A panic of another test thread leaves the plain data behind whole.
        self.world.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    fn call(&self) -> Result<MutexGuard<'_, World>, Failure> {
        let world = self.world();
        if world.away { Err(Failure::unavailable("the control plane is away")) } else { Ok(world) }
    }
}

impl World {
    fn next_revision(&mut self) -> String {
        self.revision += 1;
        self.revision.to_string()
    }

    fn store_pod(&mut self, mut pod: Pod, events: &broadcast::Sender<Event<Pod>>) -> Pod {
        pod.metadata.resource_version = Some(self.next_revision());
        let text = |field: &Option<String>| field.clone().unwrap_or_default();
        let key = (text(&pod.metadata.namespace), text(&pod.metadata.name));
        self.pods.insert(key, pod.clone());
        // Nobody watching is fine.
        let _ = events.send(Event::Applied(pod.clone()));
        pod
    }

    fn remove_pod(&mut self, namespace: &str, name: &str, events: &broadcast::Sender<Event<Pod>>) {
        if let Some(pod) = self.pods.remove(&(namespace.to_owned(), name.to_owned())) {
            self.revision += 1;
            let _ = events.send(Event::Deleted(pod));
        }
    }
}

#[async_trait]
impl Cluster for ModelCluster {
    fn pods(&self, _node: &str) -> BoxStream<'static, Event<Pod>> {
        // Subscribing under the lock: no change falls between the list and the watch.
        let world = self.world();
        let watch = BroadcastStream::new(self.events.subscribe());
        let first = Event::Restarted(world.pods.values().cloned().collect());
        let shared = self.world.clone();
        let changes = watch.map(move |event| {
            event.unwrap_or_else(|_| {
                let world = shared.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
                Event::Restarted(world.pods.values().cloned().collect())
            })
        });
        stream::iter([first]).chain(changes).boxed()
    }

    async fn patch_pod_status(&self, namespace: &str, name: &str, patch: &Value) -> Result<Pod, Failure> {
        let mut world = self.call()?;
        let key = (namespace.to_owned(), name.to_owned());
        let old = world.pods.get(&key).cloned().ok_or_else(|| not_found("pods", name))?;
        preconditions(&old.metadata, patch, "pods", name)?;
        let new: Pod = merged(&old, &json!({"status": patch["status"]}))?;
        world.status_writes += 1;
        Ok(world.store_pod(new, &self.events))
    }

    async fn delete_pod(&self, namespace: &str, name: &str, uid: &str) -> Result<(), Failure> {
        let mut world = self.call()?;
        let key = (namespace.to_owned(), name.to_owned());
        let old = world.pods.get(&key).ok_or_else(|| not_found("pods", name))?;
        if old.metadata.uid.as_deref() != Some(uid) {
            return Err(Failure::conflict(resource("pods"), name, "the uid is another"));
        }
        world.remove_pod(namespace, name, &self.events);
        Ok(())
    }

    async fn config_map(&self, namespace: &str, name: &str) -> Result<Option<ConfigMap>, Failure> {
        Ok(self.call()?.config_maps.get(&(namespace.to_owned(), name.to_owned())).cloned())
    }

    async fn token(&self, request: &TokenFor<'_>) -> Result<String, Failure> {
        let mut world = self.call()?;
        let (name, uid) = request.pod;
        let key = (request.namespace.to_owned(), name.to_owned());
        let known = world.pods.get(&key).is_some_and(|pod| pod.metadata.uid.as_deref() == Some(uid));
        if !known {
            return Err(Failure::not_found(GroupResource { group: "", resource: "pods" }, name));
        }
        world.tokens += 1;
        let audience = request.audience.unwrap_or("apiserver");
        Ok(format!("{} of {} for {audience}, {}", request.account, name, world.tokens))
    }

    async fn node(&self, name: &str) -> Result<Option<Node>, Failure> {
        Ok(self.call()?.nodes.get(name).cloned())
    }

    async fn create_node(&self, node: &Node) -> Result<Node, Failure> {
        let mut world = self.call()?;
        let name = node.metadata.name.clone().unwrap_or_default();
        if world.nodes.contains_key(&name) {
            return Err(Failure::already_exists(resource("nodes"), &name));
        }
        let mut node = node.clone();
        // A create does not take a status, as with every kind that has the subresource.
        node.status = None;
        node.metadata.resource_version = Some(world.next_revision());
        world.nodes.insert(name, node.clone());
        Ok(node)
    }

    async fn patch_node(&self, name: &str, patch: &Value) -> Result<Node, Failure> {
        let mut world = self.call()?;
        let old = world.nodes.get(name).cloned().ok_or_else(|| not_found("nodes", name))?;
        preconditions(&old.metadata, patch, "nodes", name)?;
        let mut new: Node = merged(&old, patch)?;
        new.status = old.status;
        new.metadata.resource_version = Some(world.next_revision());
        world.nodes.insert(name.to_owned(), new.clone());
        Ok(new)
    }

    async fn patch_node_status(&self, name: &str, patch: &Value) -> Result<Node, Failure> {
        let mut world = self.call()?;
        let old = world.nodes.get(name).cloned().ok_or_else(|| not_found("nodes", name))?;
        let mut new: Node = merged(&old, &json!({"status": patch["status"]}))?;
        new.metadata.resource_version = Some(world.next_revision());
        world.nodes.insert(name.to_owned(), new.clone());
        Ok(new)
    }

    async fn lease(&self, name: &str) -> Result<Option<Lease>, Failure> {
        Ok(self.call()?.leases.get(name).cloned())
    }

    async fn create_lease(&self, lease: &Lease) -> Result<Lease, Failure> {
        let mut world = self.call()?;
        let mut lease = lease.clone();
        lease.metadata.resource_version = Some(world.next_revision());
        world.leases.insert(lease.metadata.name.clone().unwrap_or_default(), lease.clone());
        Ok(lease)
    }

    async fn update_lease(&self, lease: &Lease) -> Result<Lease, Failure> {
        let mut world = self.call()?;
        let name = lease.metadata.name.clone().unwrap_or_default();
        let old = world.leases.get(&name).ok_or_else(|| not_found("leases", &name))?;
        if old.metadata.resource_version != lease.metadata.resource_version {
            return Err(Failure::modified(resource("leases"), &name));
        }
        let mut lease = lease.clone();
        lease.metadata.resource_version = Some(world.next_revision());
        world.leases.insert(name, lease.clone());
        Ok(lease)
    }
}

fn preconditions(meta: &ObjectMeta, patch: &Value, plural: &str, name: &str) -> Result<(), Failure> {
    let asked = &patch["metadata"];
    let differs =
        |field: &str, have: &Option<String>| asked[field].as_str().is_some_and(|want| Some(want) != have.as_deref());
    if differs("uid", &meta.uid) {
        return Err(Failure::conflict(resource(plural), name, "the uid is another"));
    }
    if differs("resourceVersion", &meta.resource_version) {
        return Err(Failure::modified(resource(plural), name));
    }
    Ok(())
}

/// JSON merge patch (RFC 7386).
fn merged<K: Serialize + DeserializeOwned>(object: &K, patch: &Value) -> Result<K, Failure> {
    let mut value = serde_json::to_value(object).map_err(Failure::internal)?;
    merge(&mut value, patch);
    serde_json::from_value(value).map_err(|error| Failure::bad_request(error.to_string()))
}

fn merge(target: &mut Value, patch: &Value) {
    let Value::Object(changes) = patch else {
        *target = patch.clone();
        return;
    };
    if !target.is_object() {
        *target = json!({});
    }
    for (key, change) in changes {
        if change.is_null() {
            target.as_object_mut().map(|map| map.shift_remove(key));
        } else {
            merge(&mut target[key], change);
        }
    }
}

fn resource(plural: &str) -> GroupResource<'_> {
    GroupResource { group: "", resource: plural }
}

fn not_found(plural: &str, name: &str) -> Failure {
    Failure::not_found(resource(plural), name)
}
