//! The controllers, as a table.

use std::time::Duration;

use k8s_openapi::jiff::Timestamp;

use crate::certificates::{approve, clean, sign};
use crate::object::{Action, Key, KindName, Object};
use crate::view::{View, controller, owners};
use crate::{
    bootstrap, deployment, endpoint_slice, garbage, namespace, node_ipam, node_lifecycle, replica_set, root_ca,
    service_account,
};

/// One controller. All its functions are pure.
#[derive(Clone, Copy, Debug)]
pub struct Controller {
    pub name: &'static str,
    /// What to do about a key, given all that is known and the time. At a fixed point it returns nothing.
    pub reconcile: fn(&View, &Key, Timestamp) -> Vec<Action>,
    /// The keys to look at when an object changed: before, if it was there, and after, if it is.
    pub affected: fn(&View, Option<&Object>, Option<&Object>) -> Vec<Key>,
    /// When time alone will change the outcome.
    pub look_again: fn(&View, &Key, Timestamp) -> Option<Duration>,
    /// All keys of this kind are looked at this often, whatever happens.
    pub resync: (KindName, Duration),
}

const SELDOM: Duration = Duration::from_secs(600);

/// All of them.
pub const CONTROLLERS: [Controller; 14] = [
    Controller {
        name: "deployment",
        reconcile: deployment::reconcile,
        affected: affected_deployments,
        look_again: deployment::look_again,
        resync: (KindName::Deployment, SELDOM),
    },
    Controller {
        name: "replicaset",
        reconcile: replica_set::reconcile,
        affected: affected_sets,
        look_again: replica_set::look_again,
        resync: (KindName::ReplicaSet, SELDOM),
    },
    Controller {
        name: "endpointslice",
        reconcile: endpoint_slice::reconcile,
        affected: affected_services,
        look_again: never,
        resync: (KindName::Service, SELDOM),
    },
    Controller {
        name: "node-ipam",
        reconcile: node_ipam::reconcile,
        affected: affected_nodes,
        look_again: never,
        resync: (KindName::Node, SELDOM),
    },
    Controller {
        name: "node-lifecycle",
        reconcile: node_lifecycle::reconcile,
        affected: never_affected,
        look_again: never,
        resync: (KindName::Node, Duration::from_secs(5)),
    },
    Controller {
        name: "garbage-collector",
        reconcile: garbage::reconcile,
        affected: affected_dependents,
        look_again: never,
        resync: (KindName::Pod, SELDOM),
    },
    Controller {
        name: "namespace",
        reconcile: namespace::reconcile,
        affected: affected_namespace,
        look_again: never,
        resync: (KindName::Namespace, SELDOM),
    },
    Controller {
        name: "csrapproving",
        reconcile: approve::reconcile,
        affected: affected_request,
        look_again: never,
        resync: (KindName::CertificateSigningRequest, SELDOM),
    },
    Controller {
        name: "csrsigning",
        reconcile: sign::reconcile,
        affected: affected_request,
        look_again: never,
        resync: (KindName::CertificateSigningRequest, SELDOM),
    },
    Controller {
        name: "csrcleaner",
        reconcile: clean::reconcile,
        affected: affected_request,
        look_again: clean::look_again,
        resync: (KindName::CertificateSigningRequest, SELDOM),
    },
    Controller {
        name: "bootstrapsigner",
        reconcile: bootstrap::sign,
        affected: affected_info,
        look_again: bootstrap::sign_again,
        resync: (KindName::ConfigMap, SELDOM),
    },
    Controller {
        name: "tokencleaner",
        reconcile: bootstrap::clean,
        affected: affected_token,
        look_again: bootstrap::clean_again,
        resync: (KindName::Secret, SELDOM),
    },
    Controller {
        name: "serviceaccount",
        reconcile: service_account::reconcile,
        affected: affected_accounts,
        look_again: never,
        resync: (KindName::Namespace, SELDOM),
    },
    Controller {
        name: "root-ca-certificate-publisher",
        reconcile: root_ca::reconcile,
        affected: affected_certificates,
        look_again: never,
        resync: (KindName::Namespace, SELDOM),
    },
];

fn never(_: &View, _: &Key, _: Timestamp) -> Option<Duration> {
    None
}

fn never_affected(_: &View, _: Option<&Object>, _: Option<&Object>) -> Vec<Key> {
    Vec::new()
}

fn affected_deployments(view: &View, before: Option<&Object>, after: Option<&Object>) -> Vec<Key> {
    let mut keys = Vec::new();
    for object in before.into_iter().chain(after) {
        match object {
            Object::Deployment(_) => keys.push(object.key()),
            Object::ReplicaSet(set) => {
                let namespace = set.metadata.namespace.as_deref().unwrap_or_default();
                match controller(&set.metadata) {
                    Some(owner) => keys.push(Key::new(KindName::Deployment, namespace, &owner.name)),
                    // Somebody may want to adopt it.
                    None => {
                        let names = view.deployments.of(namespace).filter_map(|other| other.metadata.name.as_deref());
                        keys.extend(names.map(|name| Key::new(KindName::Deployment, namespace, name)));
                    }
                }
            }
            // The last pod of an old ReplicaSet is what the strategy Recreate waits for.
            Object::Pod(pod) if after.is_none() => {
                let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
                let set = controller(&pod.metadata).and_then(|owner| view.replica_sets.get(namespace, &owner.name));
                let owner = set.and_then(|set| controller(&set.metadata));
                keys.extend(owner.map(|owner| Key::new(KindName::Deployment, namespace, &owner.name)));
            }
            _ => {}
        }
    }
    keys
}

fn affected_sets(view: &View, before: Option<&Object>, after: Option<&Object>) -> Vec<Key> {
    let mut keys = Vec::new();
    for object in before.into_iter().chain(after) {
        match object {
            Object::ReplicaSet(_) => keys.push(object.key()),
            Object::Pod(pod) => {
                let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
                match controller(&pod.metadata) {
                    Some(owner) => keys.push(Key::new(KindName::ReplicaSet, namespace, &owner.name)),
                    None => {
                        let names = view.replica_sets.of(namespace).filter_map(|set| set.metadata.name.as_deref());
                        keys.extend(names.map(|name| Key::new(KindName::ReplicaSet, namespace, name)));
                    }
                }
            }
            _ => {}
        }
    }
    keys
}

fn affected_services(view: &View, before: Option<&Object>, after: Option<&Object>) -> Vec<Key> {
    let mut keys = Vec::new();
    for object in before.into_iter().chain(after) {
        match object {
            Object::Service(_) => keys.push(object.key()),
            Object::EndpointSlice(slice) => {
                let service = endpoint_slice::service_of(slice);
                keys.extend(service.map(|(namespace, name)| Key::new(KindName::Service, namespace, name)));
            }
            Object::Pod(pod) => {
                let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
                let selecting = view.services.of(namespace).filter(|service| endpoint_slice::selects(service, pod));
                let names = selecting.filter_map(|service| service.metadata.name.as_deref());
                keys.extend(names.map(|name| Key::new(KindName::Service, namespace, name)));
            }
            _ => {}
        }
    }
    if let (Some(Object::Node(before)), Some(Object::Node(after))) = (before, after)
        && endpoint_slice::zone(before) != endpoint_slice::zone(after)
    {
        keys.extend(view.services.iter().map(|service| Object::Service(service.clone()).key()));
    }
    keys
}

fn affected_nodes(view: &View, before: Option<&Object>, after: Option<&Object>) -> Vec<Key> {
    match (before, after) {
        (_, Some(node @ Object::Node(_))) => vec![node.key()],
        // Its network is free for those that wait for one.
        (Some(Object::Node(_)), None) => view.nodes.iter().map(|node| Object::Node(node.clone()).key()).collect(),
        _ => Vec::new(),
    }
}

fn affected_dependents(view: &View, before: Option<&Object>, after: Option<&Object>) -> Vec<Key> {
    let mut keys = Vec::new();
    if let Some(after) = after
        && (!owners(after.metadata()).is_empty() || matches!(after, Object::Pod(_)))
    {
        keys.push(after.key());
    }
    let replaced = |before: &Object, after: &Object| before.metadata().uid != after.metadata().uid;
    if let Some(before) = before
        && after.is_none_or(|after| replaced(before, after))
    {
        keys.extend(view.dependents(before.metadata().uid.as_deref().unwrap_or_default()));
        if let Object::Node(node) = before {
            let name = node.metadata.name.as_deref().unwrap_or_default();
            let there = view.pods.iter().filter(|pod| crate::pod_state::node_name(pod) == name);
            keys.extend(there.map(|pod| Object::Pod(pod.clone()).key()));
        }
    }
    keys
}

fn affected_request(_: &View, _: Option<&Object>, after: Option<&Object>) -> Vec<Key> {
    after.filter(|object| matches!(object, Object::CertificateSigningRequest(_))).map(Object::key).into_iter().collect()
}

fn affected_token(_: &View, _: Option<&Object>, after: Option<&Object>) -> Vec<Key> {
    after.filter(|object| matches!(object, Object::Secret(_))).map(Object::key).into_iter().collect()
}

fn affected_info(_: &View, before: Option<&Object>, after: Option<&Object>) -> Vec<Key> {
    let concerns = |object: &&Object| matches!(object, Object::Secret(_)) || object.key() == bootstrap::info_key();
    before.into_iter().chain(after).find(concerns).map(|_| bootstrap::info_key()).into_iter().collect()
}

fn affected_namespace(view: &View, before: Option<&Object>, after: Option<&Object>) -> Vec<Key> {
    match (before, after) {
        (_, Some(namespace @ Object::Namespace(_))) => vec![namespace.key()],
        (Some(gone), None) => {
            let name = gone.metadata().namespace.as_deref().unwrap_or_default();
            let namespace = view.namespaces.get("", name);
            let ending = namespace.filter(|namespace| namespace.metadata.deletion_timestamp.is_some());
            ending.map(|_| Key::new(KindName::Namespace, "", name)).into_iter().collect()
        }
        // Something new in a namespace that is being deleted.
        (None, Some(new)) => affected_namespace(view, Some(new), None),
        _ => Vec::new(),
    }
}

fn affected_accounts(_: &View, before: Option<&Object>, after: Option<&Object>) -> Vec<Key> {
    let is_own = |object: &Object| matches!(object, Object::ServiceAccount(account) if account.metadata.name.as_deref() == Some(service_account::DEFAULT));
    affected_content(before, after, is_own)
}

fn affected_certificates(_: &View, before: Option<&Object>, after: Option<&Object>) -> Vec<Key> {
    let is_own = |object: &Object| matches!(object, Object::ConfigMap(map) if map.metadata.name.as_deref() == Some(root_ca::NAME));
    affected_content(before, after, is_own)
}

/// The namespace that changed, or in which what each of them has did.
fn affected_content(before: Option<&Object>, after: Option<&Object>, is_own: impl Fn(&Object) -> bool) -> Vec<Key> {
    match (before, after) {
        (_, Some(namespace @ Object::Namespace(_))) => vec![namespace.key()],
        (Some(object), _) if is_own(object) => {
            vec![Key::new(KindName::Namespace, "", object.metadata().namespace.as_deref().unwrap_or_default())]
        }
        _ => Vec::new(),
    }
}
