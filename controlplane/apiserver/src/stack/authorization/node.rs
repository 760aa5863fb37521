//! The node authorizer: a node reads what the pods bound to it need, and writes what is its own. Which pod needs what
//! is known from the pods themselves.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use serde_json::Value;

use super::{Attributes, Decision};
use crate::cache::Object;

/// The namespace of the leases with which nodes show that they live.
pub(crate) const NODE_LEASES: &str = "kube-node-lease";

/// Marks a pod that a node runs by itself and only shows to the apiserver.
pub(crate) const MIRROR: &str = "kubernetes.io/config.mirror";

/// Where the volumes are.
pub(super) const VOLUMES: &str = "/registry/core/persistentvolumes/";

/// What the graph is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Source {
    Pods,
    Volumes,
}

/// What a pod needs of its namespace.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Needs {
    node: String,
    namespace: String,
    name: String,
    account: String,
    secrets: BTreeSet<String>,
    config_maps: BTreeSet<String>,
    claims: BTreeSet<String>,
}

/// What was read of one object; `None` where it matters to no node.
#[derive(Debug)]
pub(super) enum Parsed {
    Pod(Option<Box<Needs>>),
    /// Namespace and name of the claim that a volume is bound to.
    Volume(Option<(String, String)>),
}

/// Which node may see what.
#[derive(Debug, Default)]
pub(crate) struct Graph {
    /// By node, then by storage key of the pod.
    pods: HashMap<String, BTreeMap<String, Needs>>,
    node_of: BTreeMap<String, String>,
    /// By storage key of the volume, the claim that it says it is bound to: what a claim says of itself proves nothing.
    volumes: BTreeMap<String, (String, String)>,
}

impl Graph {
    pub(super) fn put(&mut self, source: Source, key: &str, parsed: Parsed) {
        self.remove(source, key);
        match parsed {
            Parsed::Pod(Some(needs)) => {
                self.node_of.insert(key.to_owned(), needs.node.clone());
                self.pods.entry(needs.node.clone()).or_default().insert(key.to_owned(), *needs);
            }
            Parsed::Volume(Some(claim)) => drop(self.volumes.insert(key.to_owned(), claim)),
            Parsed::Pod(None) | Parsed::Volume(None) => {}
        }
    }

    pub(super) fn remove(&mut self, source: Source, key: &str) {
        match source {
            Source::Pods => {
                let Some(node) = self.node_of.remove(key) else { return };
                if let Some(pods) = self.pods.get_mut(&node) {
                    pods.remove(key);
                    if pods.is_empty() {
                        self.pods.remove(&node);
                    }
                }
            }
            Source::Volumes => drop(self.volumes.remove(key)),
        }
    }

    pub(super) fn keys(&self, source: Source) -> Vec<String> {
        match source {
            Source::Pods => self.node_of.keys().cloned().collect(),
            Source::Volumes => self.volumes.keys().cloned().collect(),
        }
    }

    fn any(&self, node: &str, namespace: &str, needed: impl Fn(&Needs) -> bool) -> bool {
        let pods = self.pods.get(node).into_iter().flat_map(BTreeMap::values);
        pods.filter(|needs| needs.namespace == namespace).any(needed)
    }

    /// Whether a pod of the node needs this.
    fn relates(&self, node: &str, asked: &Attributes) -> bool {
        let (namespace, name) = (asked.namespace.as_str(), asked.name.as_str());
        match asked.resource.as_str() {
            "secrets" => self.any(node, namespace, |needs| needs.secrets.contains(name)),
            "configmaps" => self.any(node, namespace, |needs| needs.config_maps.contains(name)),
            "persistentvolumeclaims" => self.any(node, namespace, |needs| needs.claims.contains(name)),
            "serviceaccounts" => self.any(node, namespace, |needs| needs.account == name),
            "pods" => self.any(node, namespace, |needs| needs.name == name),
            "persistentvolumes" => self
                .volumes
                .get(&format!("{VOLUMES}{name}"))
                .is_some_and(|(namespace, claim)| self.any(node, namespace, |needs| needs.claims.contains(claim))),
            _ => false,
        }
    }
}

/// What is needed of an object.
pub(super) fn parse(source: Source, object: &Object) -> Parsed {
    let (namespace, name) = (object.namespace().to_owned(), object.name().to_owned());
    match source {
        Source::Volumes => {
            let volume: Value = serde_json::from_slice(&object.bytes).unwrap_or(Value::Null);
            let claim = &volume["spec"]["claimRef"];
            let (namespace, name) = (text(&claim["namespace"]), text(&claim["name"]));
            Parsed::Volume((!name.is_empty()).then_some((namespace, name)))
        }
        Source::Pods => {
            // Most changes of pods that wait for a node end here.
            if object.field("spec.nodeName").is_some_and(str::is_empty) {
                return Parsed::Pod(None);
            }
            let pod: Value = serde_json::from_slice(&object.bytes).unwrap_or(Value::Null);
            Parsed::Pod(needs(namespace, name, &pod).map(Box::new))
        }
    }
}

fn needs(namespace: String, name: String, pod: &Value) -> Option<Needs> {
    let spec = &pod["spec"];
    let node = text(&spec["nodeName"]);
    if node.is_empty() {
        return None;
    }
    let mut needs = Needs { node, namespace, name, ..Needs::default() };
    // The node wrote a mirror pod itself: it gives no right to anything.
    if pod["metadata"]["annotations"][MIRROR].is_string() {
        return Some(needs);
    }
    collect(&mut needs, spec);
    Some(needs)
}

/// What a pod refers to that a node would then read, if anything.
pub(crate) fn references(pod: &Value) -> Option<&'static str> {
    let mut needs = Needs::default();
    collect(&mut needs, &pod["spec"]);
    [
        (!needs.account.is_empty(), "a service account"),
        (!needs.secrets.is_empty(), "secrets"),
        (!needs.config_maps.is_empty(), "configmaps"),
        (!needs.claims.is_empty(), "persistentvolumeclaims"),
    ]
    .into_iter()
    .find_map(|(refers, what)| refers.then_some(what))
}

fn collect(needs: &mut Needs, spec: &Value) {
    needs.account = text(&spec["serviceAccountName"]);
    add(&mut needs.secrets, items(&spec["imagePullSecrets"]).map(|secret| &secret["name"]));
    for field in ["initContainers", "containers", "ephemeralContainers"] {
        for container in items(&spec[field]) {
            let sources: Vec<&Value> = items(&container["env"]).map(|entry| &entry["valueFrom"]).collect();
            add(&mut needs.secrets, sources.iter().map(|from| &from["secretKeyRef"]["name"]));
            add(&mut needs.config_maps, sources.iter().map(|from| &from["configMapKeyRef"]["name"]));
            add(&mut needs.secrets, items(&container["envFrom"]).map(|from| &from["secretRef"]["name"]));
            add(&mut needs.config_maps, items(&container["envFrom"]).map(|from| &from["configMapRef"]["name"]));
        }
    }
    for volume in items(&spec["volumes"]) {
        volume_needs(needs, volume);
    }
}

fn volume_needs(needs: &mut Needs, volume: &Value) {
    add(&mut needs.secrets, [&volume["secret"]["secretName"], &volume["csi"]["nodePublishSecretRef"]["name"]]);
    add(&mut needs.secrets, [&volume["azureFile"]["secretName"]]);
    add(&mut needs.config_maps, [&volume["configMap"]["name"]]);
    add(&mut needs.claims, [&volume["persistentVolumeClaim"]["claimName"]]);
    for source in items(&volume["projected"]["sources"]) {
        add(&mut needs.secrets, [&source["secret"]["name"]]);
        add(&mut needs.config_maps, [&source["configMap"]["name"]]);
    }
    if volume["ephemeral"].is_object() {
        needs.claims.insert(format!("{}-{}", needs.name, text(&volume["name"])));
    }
    let sources = volume.as_object().into_iter().flat_map(|fields| fields.values());
    add(&mut needs.secrets, sources.map(|source| &source["secretRef"]["name"]));
}

/// Whether a node may do this.
pub(super) fn decide(graph: &Graph, node: &str, asked: &Attributes) -> Decision {
    if node.is_empty() {
        let why = "the user is of system:nodes but its name does not say of which node: it begins with system:node:";
        return Decision::NoOpinion(why.into());
    }
    let refusal = match (asked.group.as_str(), asked.resource.as_str()) {
        _ if asked.resource.is_empty() => return Decision::NoOpinion(String::new()),
        ("", "secrets" | "configmaps") => needed(graph, node, asked, &["get", "list", "watch"], ""),
        ("", "persistentvolumeclaims") if asked.subresource == "status" => {
            needed(graph, node, asked, &["get", "update", "patch"], "status")
        }
        ("", "persistentvolumeclaims" | "persistentvolumes") => needed(graph, node, asked, &["get"], ""),
        ("", "serviceaccounts") => needed(graph, node, asked, &["create"], "token"),
        ("", "nodes") => own_node(node, asked),
        ("", "pods") => own_pods(graph, node, asked),
        ("coordination.k8s.io", "leases") => own_lease(node, asked),
        _ => listed(asked),
    };
    match refusal {
        None => Decision::Allowed(String::new()),
        Some(why) => Decision::NoOpinion(why),
    }
}

/// `None` when it is allowed, otherwise why not.
fn needed(graph: &Graph, node: &str, asked: &Attributes, verbs: &[&str], part: &str) -> Option<String> {
    if !verbs.contains(&&*asked.verb) {
        return Some(format!("can only {} {}", verbs.join(", "), what(&asked.resource, part)));
    }
    if asked.subresource != part {
        return Some(if part.is_empty() {
            "cannot read subresource".into()
        } else {
            format!("only {part} is allowed")
        });
    }
    if asked.name.is_empty() {
        return Some("No Object name found".into());
    }
    if graph.relates(node, asked) {
        return None;
    }
    Some(format!("no relationship found between node '{node}' and this object"))
}

fn what(resource: &str, part: &str) -> String {
    if part.is_empty() {
        format!("individual resources of this type ({resource})")
    } else {
        format!("{resource}/{part}")
    }
}

fn own_node(node: &str, asked: &Attributes) -> Option<String> {
    let allowed = match (&*asked.verb, asked.subresource.as_str()) {
        // The body tells which node: NodeRestriction looks there.
        ("create", "") => return None,
        ("get" | "list" | "watch" | "update" | "patch", "") => true,
        ("get" | "update" | "patch", "status") => true,
        _ => false,
    };
    if !allowed {
        return Some(format!("a node cannot {} nodes/{}", asked.verb, asked.subresource).trim_end_matches('/').into());
    }
    (asked.name != node).then(|| format!("node '{node}' cannot read or write other nodes"))
}

fn own_pods(graph: &Graph, node: &str, asked: &Attributes) -> Option<String> {
    match (&*asked.verb, asked.subresource.as_str()) {
        ("list" | "watch", "") if asked.selected_node.as_deref() == Some(node) => None,
        ("list" | "watch", "") => {
            Some(format!("can only list/watch pods with spec.nodeName field selector (spec.nodeName={node})"))
        }
        ("get", "" | "status") if graph.relates(node, asked) => None,
        ("get", "" | "status") => Some(format!("no relationship found between node '{node}' and this object")),
        // Whose pod it is, NodeRestriction sees.
        ("create" | "delete", "") | ("update" | "patch", "status") | ("create", "eviction") => None,
        (verb, part) => Some(format!("a node cannot {verb} pods/{part}").trim_end_matches('/').into()),
    }
}

fn own_lease(node: &str, asked: &Attributes) -> Option<String> {
    if !matches!(&*asked.verb, "get" | "create" | "update" | "patch" | "delete") {
        return Some("can only get, create, update, patch, or delete a node lease".into());
    }
    if asked.namespace != NODE_LEASES {
        return Some(format!("can only access leases in the {NODE_LEASES:?} system namespace"));
    }
    (asked.verb != "create" && asked.name != node)
        .then(|| "can only access node lease with the same name as the requesting node".into())
}

/// What every node needs of the whole cluster.
fn listed(asked: &Attributes) -> Option<String> {
    const READ: &[&str] = &["get", "list", "watch"];
    const TABLE: &[(&str, &str, &[&str])] = &[
        ("", "services", READ),
        ("", "namespaces", READ),
        ("discovery.k8s.io", "endpointslices", READ),
        ("", "events", &["create", "update", "patch"]),
        ("events.k8s.io", "events", &["create", "update", "patch"]),
        ("node.k8s.io", "runtimeclasses", READ),
        ("storage.k8s.io", "csidrivers", READ),
        ("certificates.k8s.io", "certificatesigningrequests", &["create", "get", "list", "watch"]),
        ("authentication.k8s.io", "tokenreviews", &["create"]),
        ("authorization.k8s.io", "subjectaccessreviews", &["create"]),
        ("authorization.k8s.io", "localsubjectaccessreviews", &["create"]),
    ];
    let row = TABLE.iter().find(|(group, resource, _)| *group == asked.group && *resource == asked.resource);
    let allowed = asked.subresource.is_empty() && row.is_some_and(|(_, _, verbs)| verbs.contains(&&*asked.verb));
    (!allowed).then(String::new)
}

fn add<'a>(set: &mut BTreeSet<String>, names: impl IntoIterator<Item = &'a Value>) {
    set.extend(names.into_iter().filter_map(Value::as_str).filter(|name| !name.is_empty()).map(str::to_owned));
}

fn items(list: &Value) -> impl Iterator<Item = &Value> {
    list.as_array().into_iter().flatten()
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}
