//! Carrying out actions at the server.

use std::collections::HashMap;
use std::sync::Arc;

use diolkos_api::client::{Api, Client, DeleteOptions, Resource};
use diolkos_api::kind::{Kind, Registry, custom};
use diolkos_api::status::Failure;
use diolkos_api::wire;
use futures::future::join_all;
use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};
use k8s_openapi::api::certificates::v1::CertificateSigningRequest;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{ConfigMap, Namespace, Node, Pod, Secret, Service, ServiceAccount};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use serde_json::Value;

use crate::certificates::{self, Authority};
use crate::object::{Action, Key, KindName, Object, Target};

/// What became of one look's actions.
#[derive(Debug, Default)]
pub(crate) struct Outcome {
    /// What the server returned, in order.
    pub(crate) written: Vec<Object>,
    pub(crate) deleted: Vec<Target>,
    /// What stopped it; the actions after that one were not tried.
    pub(crate) failure: Option<Failure>,
}

/// Most creations in flight at once.
const WIDEST: usize = 32;

/// Carries out actions in order. Creations in a row go out in batches of 1, 2, 4, ...: what cannot succeed fails once,
/// not five hundred times.
pub(crate) async fn execute(client: &Client, authority: Option<&Authority>, actions: Vec<Action>) -> Outcome {
    let mut outcome = Outcome::default();
    // A second write to an object in one look follows the version of the first: in between was only ourselves.
    let mut versions: HashMap<Key, String> = HashMap::new();
    let mut actions = actions.into_iter().peekable();
    let mut width = 1;
    while let Some(action) = actions.next() {
        if let Action::Create(first) = action {
            let mut batch = vec![first];
            while batch.len() < width
                && let Some(Action::Create(next)) = actions.next_if(|action| matches!(action, Action::Create(_)))
            {
                batch.push(next);
            }
            width = (width * 2).min(WIDEST);
            for result in join_all(batch.into_iter().map(|object| create(client, object))).await {
                match result {
                    Ok(object) => outcome.written.push(object),
                    Err(failure) => outcome.failure = Some(failure),
                }
            }
        } else if let Err(failure) = one(client, authority, action, &mut versions, &mut outcome).await {
            outcome.failure = Some(failure);
        }
        if outcome.failure.is_some() {
            break;
        }
    }
    outcome
}

async fn one(
    client: &Client,
    authority: Option<&Authority>,
    action: Action,
    versions: &mut HashMap<Key, String>,
    outcome: &mut Outcome,
) -> Result<(), Failure> {
    match action {
        Action::Create(object) => outcome.written.push(create(client, object).await?),
        Action::Update(object) => {
            let written = replace(client, object, "", versions).await?;
            outcome.written.push(written);
        }
        Action::UpdateStatus(object) => {
            let written = replace(client, object, "status", versions).await?;
            outcome.written.push(written);
        }
        Action::Delete(target) => {
            delete(client, &target).await?;
            outcome.deleted.push(target);
        }
        Action::Collect { target, unless } => {
            for owner in &unless {
                if exists(client, owner).await? {
                    return Ok(());
                }
            }
            delete(client, &target).await?;
            outcome.deleted.push(target);
        }
        Action::Finalize(namespace) => {
            let name = namespace.metadata.name.clone().unwrap_or_default();
            if let Some(left) = anything_in(client, &name).await? {
                return Err(Failure::unavailable(format!("the namespace {name} still has {left}")));
            }
            let mut namespace = Namespace::clone(&namespace);
            namespace.spec.get_or_insert_default().finalizers = None;
            match client.api::<Namespace>(None).update_subresource("finalize", &namespace).await {
                Ok(_) => {}
                Err(failure) if failure.is_not_found() => {}
                Err(failure) => return Err(failure),
            }
        }
        Action::Approve { request, permissions } => {
            if let Some(approved) = certificates::approve(client, request, &permissions).await? {
                outcome.written.push(Object::CertificateSigningRequest(approved));
            }
        }
        Action::Sign(request) => {
            let authority = authority.ok_or_else(|| Failure::internal("there is no authority to sign with"))?;
            let signed = certificates::sign(client, authority, request).await?;
            outcome.written.push(Object::CertificateSigningRequest(signed));
        }
    }
    Ok(())
}

async fn create(client: &Client, object: Object) -> Result<Object, Failure> {
    Ok(match object {
        Object::Deployment(object) => Object::Deployment(post(client, &*object).await?),
        Object::ReplicaSet(object) => Object::ReplicaSet(post(client, &*object).await?),
        Object::Pod(object) => Object::Pod(post(client, &*object).await?),
        Object::Service(object) => Object::Service(post(client, &*object).await?),
        Object::EndpointSlice(object) => Object::EndpointSlice(post(client, &*object).await?),
        Object::Node(object) => Object::Node(post(client, &*object).await?),
        Object::Namespace(object) => Object::Namespace(post(client, &*object).await?),
        Object::ConfigMap(object) => Object::ConfigMap(post(client, &*object).await?),
        Object::ServiceAccount(object) => Object::ServiceAccount(post(client, &*object).await?),
        Object::Lease(object) => Object::Lease(post(client, &*object).await?),
        Object::CertificateSigningRequest(object) => Object::CertificateSigningRequest(post(client, &*object).await?),
        Object::Secret(object) => Object::Secret(post(client, &*object).await?),
    })
}

async fn post<K: Resource>(client: &Client, object: &K) -> Result<Arc<K>, Failure> {
    all(client).create(object).await.map(Arc::new)
}

async fn replace(
    client: &Client,
    object: Object,
    part: &str,
    versions: &mut HashMap<Key, String>,
) -> Result<Object, Failure> {
    let key = object.key();
    let version = versions.get(&key).cloned();
    let written = match object {
        Object::Deployment(object) => Object::Deployment(put(client, object, part, version).await?),
        Object::ReplicaSet(object) => Object::ReplicaSet(put(client, object, part, version).await?),
        Object::Pod(object) => Object::Pod(put(client, object, part, version).await?),
        Object::Service(object) => Object::Service(put(client, object, part, version).await?),
        Object::EndpointSlice(object) => Object::EndpointSlice(put(client, object, part, version).await?),
        Object::Node(object) => Object::Node(put(client, object, part, version).await?),
        Object::Namespace(object) => Object::Namespace(put(client, object, part, version).await?),
        Object::ConfigMap(object) => Object::ConfigMap(put(client, object, part, version).await?),
        Object::ServiceAccount(object) => Object::ServiceAccount(put(client, object, part, version).await?),
        Object::Lease(object) => Object::Lease(put(client, object, part, version).await?),
        Object::CertificateSigningRequest(object) => {
            Object::CertificateSigningRequest(put(client, object, part, version).await?)
        }
        Object::Secret(object) => Object::Secret(put(client, object, part, version).await?),
    };
    if let Some(version) = &written.metadata().resource_version {
        versions.insert(key, version.clone());
    }
    Ok(written)
}

async fn put<K: Resource>(
    client: &Client,
    object: Arc<K>,
    part: &str,
    version: Option<String>,
) -> Result<Arc<K>, Failure> {
    let mut object = Arc::unwrap_or_clone(object);
    if version.is_some() {
        object.metadata_mut().resource_version = version;
    }
    all(client).update_subresource(part, &object).await.map(Arc::new)
}

/// Deletes an incarnation; that it is gone already, or another is in its place, is success.
async fn delete(client: &Client, target: &Target) -> Result<(), Failure> {
    let options = DeleteOptions {
        grace_period_seconds: target.at_once.then_some(0),
        propagation: "Background".into(),
        uid: target.uid.clone(),
        resource_version: String::new(),
    };
    let (key, name) = (&target.key, &target.key.name);
    let result = match key.kind {
        KindName::Deployment => of::<Deployment>(client, key).delete(name, &options).await,
        KindName::ReplicaSet => of::<ReplicaSet>(client, key).delete(name, &options).await,
        KindName::Pod => of::<Pod>(client, key).delete(name, &options).await,
        KindName::Service => of::<Service>(client, key).delete(name, &options).await,
        KindName::EndpointSlice => of::<EndpointSlice>(client, key).delete(name, &options).await,
        KindName::Node => of::<Node>(client, key).delete(name, &options).await,
        KindName::Namespace => of::<Namespace>(client, key).delete(name, &options).await,
        KindName::ConfigMap => of::<ConfigMap>(client, key).delete(name, &options).await,
        KindName::ServiceAccount => of::<ServiceAccount>(client, key).delete(name, &options).await,
        KindName::Lease => of::<Lease>(client, key).delete(name, &options).await,
        KindName::CertificateSigningRequest => {
            of::<CertificateSigningRequest>(client, key).delete(name, &options).await
        }
        KindName::Secret => of::<Secret>(client, key).delete(name, &options).await,
    };
    match result {
        Err(failure) if failure.is_not_found() || failure.is_conflict() => Ok(()),
        other => other,
    }
}

/// Whether an incarnation is at the server; any of that name when no uid is given.
async fn exists(client: &Client, target: &Target) -> Result<bool, Failure> {
    let key = &target.key;
    let uid = match key.kind {
        KindName::Deployment => uid::<Deployment>(client, key).await?,
        KindName::ReplicaSet => uid::<ReplicaSet>(client, key).await?,
        KindName::Pod => uid::<Pod>(client, key).await?,
        KindName::Service => uid::<Service>(client, key).await?,
        KindName::EndpointSlice => uid::<EndpointSlice>(client, key).await?,
        KindName::Node => uid::<Node>(client, key).await?,
        KindName::Namespace => uid::<Namespace>(client, key).await?,
        KindName::ConfigMap => uid::<ConfigMap>(client, key).await?,
        KindName::ServiceAccount => uid::<ServiceAccount>(client, key).await?,
        KindName::Lease => uid::<Lease>(client, key).await?,
        KindName::CertificateSigningRequest => uid::<CertificateSigningRequest>(client, key).await?,
        KindName::Secret => uid::<Secret>(client, key).await?,
    };
    Ok(uid.is_some_and(|uid| target.uid.is_empty() || uid == target.uid))
}

async fn uid<K: Resource>(client: &Client, key: &Key) -> Result<Option<String>, Failure> {
    let object = of::<K>(client, key).get_opt(&key.name).await?;
    Ok(object.map(|object| object.metadata().uid.clone().unwrap_or_default()))
}

/// What is left in a namespace, if anything is. What no controller looks at is deleted here, kind by kind.
async fn anything_in(client: &Client, namespace: &str) -> Result<Option<String>, Failure> {
    let mut left = None;
    let registry = all_kinds(client).await?;
    for key in collections(&registry, namespace) {
        match count(client, &key).await {
            Ok(0) => continue,
            // A definition went meanwhile, and its objects with it.
            Err(failure) if failure.is_not_found() => continue,
            counted => drop(counted?),
        }
        let request = wire::DeleteRequest { key: Some(key.clone()), ..wire::DeleteRequest::default() };
        let mut deleted = client.raw().delete_collection(request).await.map_err(Failure::from_grpc)?.into_inner();
        while deleted.message().await.map_err(Failure::from_grpc)?.is_some() {}
        // A finalizer, or the grace of a pod, may hold some of them.
        let count = count(client, &key).await?;
        if count > 0 && left.is_none() {
            left = Some(format!("{count} {}", key.plural));
        }
    }
    Ok(left)
}

/// Every collection of a namespace whose objects are kept, in the storage version of each.
fn collections(registry: &Registry, namespace: &str) -> Vec<wire::Key> {
    let kept = registry.all().filter(|kind| kind.namespaced && kind.stored && !kind.is_converted());
    let key = |kind: Arc<Kind>| wire::Key {
        group: kind.group.clone(),
        version: kind.version.clone(),
        plural: kind.plural.clone(),
        namespace: namespace.to_owned(),
        ..wire::Key::default()
    };
    kept.map(key).collect()
}

/// The kinds that there are, those of CustomResourceDefinitions among them.
async fn all_kinds(client: &Client) -> Result<Registry, Failure> {
    let registry = Registry::builtin();
    let key = wire::Key {
        group: "apiextensions.k8s.io".into(),
        version: "v1".into(),
        plural: "customresourcedefinitions".into(),
        ..wire::Key::default()
    };
    let request = wire::ListRequest { key: Some(key), omit_managed_fields: true, ..wire::ListRequest::default() };
    let mut pages = client.raw().list(request).await.map_err(Failure::from_grpc)?.into_inner();
    let mut kinds = Vec::new();
    while let Some(page) = pages.message().await.map_err(Failure::from_grpc)? {
        for object in page.items {
            let definition: Value = serde_json::from_slice(&object.json).map_err(Failure::internal)?;
            if custom::is_established(&definition) {
                kinds.extend(custom::kinds(&definition).into_iter().filter(|kind| !kind.verbs.is_empty()));
            }
        }
    }
    registry.set_custom(kinds.into_iter().map(Arc::new).collect());
    Ok(registry)
}

async fn count(client: &Client, key: &wire::Key) -> Result<usize, Failure> {
    let request =
        wire::ListRequest { key: Some(key.clone()), omit_managed_fields: true, ..wire::ListRequest::default() };
    let mut pages = client.raw().list(request).await.map_err(Failure::from_grpc)?.into_inner();
    let mut count = 0;
    while let Some(page) = pages.message().await.map_err(Failure::from_grpc)? {
        count += page.items.len();
    }
    Ok(count)
}

/// Objects carry their namespace themselves.
fn all<K: Resource>(client: &Client) -> Api<K> {
    client.api(None)
}

fn of<K: Resource>(client: &Client, key: &Key) -> Api<K> {
    client.api(Some(&key.namespace))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_namespace_is_emptied_of_every_kind_that_is_kept_in_one() {
        let all = collections(&Registry::builtin(), "team");
        let plurals: Vec<&str> = all.iter().map(|key| key.plural.as_str()).collect();
        for plural in ["secrets", "events", "persistentvolumeclaims", "cronjobs", "rolebindings", "pods"] {
            assert_eq!(plurals.iter().filter(|own| **own == plural).count(), 1, "{plural}");
        }
        assert!(!plurals.contains(&"nodes") && !plurals.contains(&"localsubjectaccessreviews"));
        assert!(all.iter().all(|key| key.namespace == "team"));
    }
}
