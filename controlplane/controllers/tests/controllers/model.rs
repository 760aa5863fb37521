//! A model of the apiserver: it takes actions as the server would, with the real defaults and rules.

use std::sync::Arc;

use diolkos_api::Timestamp;
use diolkos_api::client::{Event, Resource};
use diolkos_api::kind::{Kind, Registry};
use diolkos_controllers::object::{Action, Key, KindName, Object, Target};
use diolkos_controllers::table::{CONTROLLERS, Controller};
use diolkos_controllers::view::{News, PodNetwork, Settings, View};
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{Namespace, Node, Pod, Service};
use serde_json::{Value, json};

pub(crate) struct Model {
    pub(crate) view: View,
    pub(crate) now: Timestamp,
    registry: Registry,
    counter: i64,
    /// Actions taken, as "create Pod default/web-1".
    pub(crate) log: Vec<String>,
    /// What the authors of requests for certificates may.
    pub(crate) permissions: Vec<&'static str>,
}

/// More rounds than any controller needs to settle.
const ROUNDS: usize = 200;

impl Model {
    pub(crate) fn new() -> Self {
        Self::with_network("10.244.0.0/16", 24)
    }

    pub(crate) fn with_network(cidr: &str, node_mask: u8) -> Self {
        Self::with_networks(&[(cidr, node_mask)])
    }

    pub(crate) fn with_networks(networks: &[(&str, u8)]) -> Self {
        let network =
            |(cidr, node_mask): &(&str, u8)| PodNetwork { cidr: cidr.parse().unwrap(), node_mask: *node_mask };
        let pod_networks = networks.iter().map(network).collect();
        let settings = Settings { pod_networks, signs: true, root_ca: "the certificate".into() };
        let now = "2026-11-20T07:00:00Z".parse().unwrap();
        Self {
            view: View::new(settings),
            now,
            registry: Registry::builtin(),
            counter: 0,
            log: Vec::new(),
            permissions: Vec::new(),
        }
    }

    pub(crate) fn pass(&mut self, seconds: i64) {
        self.now = Timestamp::from_second(self.now.as_second() + seconds).unwrap();
    }

    /// Creates an object from JSON; `apiVersion` and `kind` say what it is.
    pub(crate) fn create(&mut self, object: Value) -> Key {
        let (api_version, kind) = (object["apiVersion"].as_str().unwrap(), object["kind"].as_str().unwrap());
        let kind = self.registry.find_kind(api_version, kind).unwrap();
        let object = self.stored_new(&kind, object).unwrap();
        let key = object.key();
        self.view.insert(object, self.now);
        key
    }

    /// Changes a stored object, its status and all, behind the controllers' backs.
    pub(crate) fn edit(&mut self, key: &Key, edit: impl FnOnce(&mut Value)) {
        let mut object = value_of(&self.view.get(key).unwrap());
        edit(&mut object);
        self.counter += 1;
        object["metadata"]["resourceVersion"] = self.counter.to_string().into();
        self.view.insert(typed(key.kind, object), self.now);
    }

    pub(crate) fn remove(&mut self, key: &Key) {
        let object = self.view.get(key).unwrap();
        let news = match object {
            Object::Deployment(object) => News::Deployment(gone(object)),
            Object::ReplicaSet(object) => News::ReplicaSet(gone(object)),
            Object::Pod(object) => News::Pod(gone(object)),
            Object::Service(object) => News::Service(gone(object)),
            Object::EndpointSlice(object) => News::EndpointSlice(gone(object)),
            Object::Node(object) => News::Node(gone(object)),
            Object::Namespace(object) => News::Namespace(gone(object)),
            Object::ConfigMap(object) => News::ConfigMap(gone(object)),
            Object::ServiceAccount(object) => News::ServiceAccount(gone(object)),
            Object::Lease(object) => News::Lease(gone(object)),
            Object::CertificateSigningRequest(object) => News::CertificateSigningRequest(gone(object)),
            Object::Secret(object) => News::Secret(gone(object)),
        };
        self.view.apply(news, self.now);
    }

    /// What a controller wants done about all keys of its kind.
    pub(crate) fn wanted(&self, name: &str) -> Vec<Action> {
        let controller = controller(name);
        let mut keys = self.view.keys(controller.resync.0);
        if name == "garbage-collector" {
            for kind in [KindName::ReplicaSet, KindName::EndpointSlice, KindName::Deployment] {
                keys.extend(self.view.keys(kind));
            }
        }
        keys.iter().flat_map(|key| (controller.reconcile)(&self.view, key, self.now)).collect()
    }

    /// Looks at one key and does what the controller wants; returns how much that was.
    pub(crate) fn look(&mut self, name: &str, key: &Key) -> usize {
        let actions = (controller(name).reconcile)(&self.view, key, self.now);
        let count = actions.len();
        actions.into_iter().for_each(|action| self.act(action));
        count
    }

    /// Runs these controllers until none wants anything; panics when they never agree.
    pub(crate) fn settle(&mut self, names: &[&str]) {
        for _ in 0..ROUNDS {
            let mut quiet = true;
            for name in names {
                for key in self.view.keys(controller(name).resync.0) {
                    quiet &= self.look(name, &key) == 0;
                }
                // The collector's keys are of all kinds.
                if *name == "garbage-collector" {
                    let wanted = self.wanted(name);
                    quiet &= wanted.is_empty();
                    wanted.into_iter().for_each(|action| self.act(action));
                }
            }
            if quiet {
                return;
            }
        }
        let last = &self.log[self.log.len().saturating_sub(20)..];
        panic!("{names:?} do not settle; the last actions were {last:#?}");
    }

    /// What the kubelets do: pods get an address and become ready, or end.
    pub(crate) fn run_pods(&mut self, becomes_ready: impl Fn(&Pod) -> bool) {
        for key in self.view.keys(KindName::Pod) {
            let Some(Object::Pod(pod)) = self.view.get(&key) else { continue };
            if pod.metadata.deletion_timestamp.is_some() {
                self.remove(&key);
                continue;
            }
            let ready = if becomes_ready(&pod) { "True" } else { "False" };
            let number = self.counter;
            let now = self.now.to_string();
            self.edit(&key, |pod| {
                if pod["spec"]["nodeName"].is_null() {
                    pod["spec"]["nodeName"] = format!("node-{}", number % 3).into();
                }
                pod["status"]["phase"] = "Running".into();
                if pod["status"]["podIP"].is_null() {
                    let address = format!("10.244.{}.{}", number / 200 % 200, number % 200 + 1);
                    pod["status"]["podIPs"] = json!([{"ip": address}]);
                    pod["status"]["podIP"] = address.into();
                }
                pod["status"]["conditions"] = json!([{"type": "Ready", "status": ready, "lastTransitionTime": now}]);
            });
        }
    }

    fn act(&mut self, action: Action) {
        match action {
            Action::Create(object) => {
                let kind = self.kind(object.kind());
                if let Some(stored) = self.stored_new(&kind, value_of(&object)) {
                    self.log.push(format!("create {}", stored.key()));
                    self.view.insert(stored, self.now);
                }
            }
            Action::Update(object) => self.replace(&object, false),
            Action::UpdateStatus(object) => self.replace(&object, true),
            Action::Delete(target) => self.delete(&target),
            Action::Collect { target, unless } => {
                let exists = |target: &Target| {
                    let object = self.view.get(&target.key);
                    let uid = |object: Object| object.metadata().uid.clone().unwrap_or_default();
                    object.is_some_and(|object| target.uid.is_empty() || uid(object) == target.uid)
                };
                if !unless.iter().any(exists) {
                    self.delete(&target);
                }
            }
            Action::Finalize(namespace) => {
                let name = namespace.metadata.name.clone().unwrap();
                assert!(self.view.contents(&name).is_empty(), "{name} is not empty");
                self.log.push(format!("finalize {name}"));
                self.remove(&Key::new(KindName::Namespace, "", &name));
            }
            Action::Approve { request, permissions } => {
                self.log.push(format!(
                    "approve {} {}",
                    request.metadata.name.as_deref().unwrap(),
                    permissions.join(" or ")
                ));
                if permissions.iter().any(|permission| self.permissions.contains(permission)) {
                    let now = self.now.to_string();
                    let key = Object::CertificateSigningRequest(request).key();
                    self.edit(&key, |request| {
                        let approved = json!({"type": "Approved", "status": "True", "lastUpdateTime": now});
                        request["status"]["conditions"] = json!([approved]);
                    });
                }
            }
            Action::Sign(request) => {
                self.log.push(format!("sign {}", request.metadata.name.as_deref().unwrap()));
                let key = Object::CertificateSigningRequest(request).key();
                self.edit(&key, |request| request["status"]["certificate"] = "c2lnbmVk".into());
            }
        }
    }

    fn delete(&mut self, target: &Target) {
        self.log.push(format!("delete {}", target.key));
        let Some(object) = self.view.get(&target.key) else { return };
        if object.metadata().uid.as_deref() != Some(&target.uid) {
            return;
        }
        let runs =
            matches!(&object, Object::Pod(pod) if pod.spec.as_ref().is_some_and(|spec| spec.node_name.is_some()));
        if runs && !target.at_once {
            self.view.ending(&target.key, &target.uid, self.now);
        } else {
            self.remove(&target.key);
        }
    }

    fn replace(&mut self, object: &Object, status: bool) {
        let (key, kind) = (object.key(), self.kind(object.kind()));
        self.log.push(format!("update {key}{}", if status { " status" } else { "" }));
        let old = value_of(&self.view.get(&key).unwrap());
        let mut new = value_of(object);
        if status {
            kind.prepare_for_status_update(&mut new, &old);
        } else {
            kind.default(&mut new);
            kind.prepare_for_update(&mut new, &old);
        }
        assert_eq!(kind.validate(&new, Some(&old)), vec![], "{key}");
        assert_ne!(new, old, "{key}: a write that changes nothing");
        self.counter += 1;
        new["metadata"]["resourceVersion"] = self.counter.to_string().into();
        self.view.insert(typed(key.kind, new), self.now);
    }

    /// An object as the server stores it; nothing when its name is taken.
    fn stored_new(&mut self, kind: &Kind, mut object: Value) -> Option<Object> {
        self.counter += 1;
        if object["metadata"]["name"].is_null() {
            let name = format!("{}{:05}", object["metadata"]["generateName"].as_str().unwrap(), self.counter);
            object["metadata"]["name"] = name.into();
        }
        kind.prepare_for_create(&mut object);
        kind.default(&mut object);
        object["metadata"]["uid"] = format!("uid-{}", self.counter).into();
        object["metadata"]["resourceVersion"] = self.counter.to_string().into();
        object["metadata"]["creationTimestamp"] = self.now.to_string().into();
        assert_eq!(kind.validate(&object, None), vec![], "{}", object["metadata"]["name"]);
        let object = typed(KindName::find(&kind.api_version(), &kind.kind).unwrap(), object);
        self.view.get(&object.key()).is_none().then_some(object)
    }

    fn kind(&self, name: KindName) -> Arc<Kind> {
        let name = format!("{name:?}");
        self.registry.all().find(|kind| kind.kind == name).unwrap().clone()
    }
}

fn controller(name: &str) -> Controller {
    CONTROLLERS.into_iter().find(|controller| controller.name == name).unwrap()
}

fn gone<K: Resource>(object: Arc<K>) -> Event<K> {
    Event::Deleted(K::clone(&object))
}

fn value_of(object: &Object) -> Value {
    let value = match object {
        Object::Deployment(object) => serde_json::to_value(&**object),
        Object::ReplicaSet(object) => serde_json::to_value(&**object),
        Object::Pod(object) => serde_json::to_value(&**object),
        Object::Service(object) => serde_json::to_value(&**object),
        Object::EndpointSlice(object) => serde_json::to_value(&**object),
        Object::Node(object) => serde_json::to_value(&**object),
        Object::Namespace(object) => serde_json::to_value(&**object),
        Object::ConfigMap(object) => serde_json::to_value(&**object),
        Object::ServiceAccount(object) => serde_json::to_value(&**object),
        Object::Lease(object) => serde_json::to_value(&**object),
        Object::CertificateSigningRequest(object) => serde_json::to_value(&**object),
        Object::Secret(object) => serde_json::to_value(&**object),
    };
    value.unwrap()
}

fn typed(kind: KindName, value: Value) -> Object {
    match kind {
        KindName::Deployment => Object::Deployment(Arc::new(serde_json::from_value::<Deployment>(value).unwrap())),
        KindName::ReplicaSet => Object::ReplicaSet(Arc::new(serde_json::from_value(value).unwrap())),
        KindName::Pod => Object::Pod(Arc::new(serde_json::from_value::<Pod>(value).unwrap())),
        KindName::Service => Object::Service(Arc::new(serde_json::from_value::<Service>(value).unwrap())),
        KindName::EndpointSlice => Object::EndpointSlice(Arc::new(serde_json::from_value(value).unwrap())),
        KindName::Node => Object::Node(Arc::new(serde_json::from_value::<Node>(value).unwrap())),
        KindName::Namespace => Object::Namespace(Arc::new(serde_json::from_value::<Namespace>(value).unwrap())),
        KindName::ConfigMap => Object::ConfigMap(Arc::new(serde_json::from_value(value).unwrap())),
        KindName::ServiceAccount => Object::ServiceAccount(Arc::new(serde_json::from_value(value).unwrap())),
        KindName::Lease => Object::Lease(Arc::new(serde_json::from_value(value).unwrap())),
        KindName::CertificateSigningRequest => {
            Object::CertificateSigningRequest(Arc::new(serde_json::from_value(value).unwrap()))
        }
        KindName::Secret => Object::Secret(Arc::new(serde_json::from_value(value).unwrap())),
    }
}
