//! The objects that controllers read and write, and what they want done.

use std::fmt;
use std::sync::Arc;

use k8s_openapi::Metadata as _;
use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};
use k8s_openapi::api::certificates::v1::CertificateSigningRequest;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{ConfigMap, Namespace, Node, Pod, Secret, Service, ServiceAccount};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

/// One thing to be done. Every action is conditional: on a name that is free, on the version that was read, or on the
/// incarnation that was meant; so an action that comes too late fails and does no harm.
#[derive(Clone, Debug, PartialEq)]
pub enum Action {
    Create(Object),
    /// Replaces the object, but for its status.
    Update(Object),
    /// Replaces the object's status.
    UpdateStatus(Object),
    Delete(Target),
    /// Deletes an object after making sure at the server that none of these still exists.
    Collect {
        target: Target,
        unless: Vec<Target>,
    },
    /// Lets a namespace go, after making sure at the server that nothing is left in it.
    Finalize(Arc<Namespace>),
    /// Approves a request for a certificate if the server says that its author has one of these permissions: the right
    /// to create `certificatesigningrequests/PERMISSION`.
    Approve {
        request: Arc<CertificateSigningRequest>,
        permissions: Vec<&'static str>,
    },
    /// Signs an approved request with the cluster's authority.
    Sign(Arc<CertificateSigningRequest>),
}

/// One incarnation of an object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    pub key: Key,
    pub uid: String,
    /// Do not wait for the node: nobody there will stop it.
    pub at_once: bool,
}

/// Names an object, and with it a unit of work.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Key {
    pub kind: KindName,
    /// "" for cluster-scoped kinds.
    pub namespace: String,
    pub name: String,
}

/// The kinds that controllers know.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum KindName {
    Deployment,
    ReplicaSet,
    Pod,
    Service,
    EndpointSlice,
    Node,
    Namespace,
    ConfigMap,
    ServiceAccount,
    Lease,
    CertificateSigningRequest,
    Secret,
}

/// An object of any of these kinds.
#[derive(Clone, Debug, PartialEq)]
pub enum Object {
    Deployment(Arc<Deployment>),
    ReplicaSet(Arc<ReplicaSet>),
    Pod(Arc<Pod>),
    Service(Arc<Service>),
    EndpointSlice(Arc<EndpointSlice>),
    Node(Arc<Node>),
    Namespace(Arc<Namespace>),
    ConfigMap(Arc<ConfigMap>),
    ServiceAccount(Arc<ServiceAccount>),
    Lease(Arc<Lease>),
    CertificateSigningRequest(Arc<CertificateSigningRequest>),
    Secret(Arc<Secret>),
}

impl Key {
    pub fn new(kind: KindName, namespace: &str, name: &str) -> Self {
        Self { kind, namespace: namespace.into(), name: name.into() }
    }
}

impl fmt::Display for Key {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{:?} ", self.kind)?;
        if !self.namespace.is_empty() {
            write!(formatter, "{}/", self.namespace)?;
        }
        formatter.write_str(&self.name)
    }
}

impl KindName {
    /// By the names an owner reference gives.
    pub fn find(api_version: &str, kind: &str) -> Option<Self> {
        Some(match (api_version, kind) {
            ("apps/v1", "Deployment") => Self::Deployment,
            ("apps/v1", "ReplicaSet") => Self::ReplicaSet,
            ("v1", "Pod") => Self::Pod,
            ("v1", "Service") => Self::Service,
            ("discovery.k8s.io/v1", "EndpointSlice") => Self::EndpointSlice,
            ("v1", "Node") => Self::Node,
            ("v1", "Namespace") => Self::Namespace,
            ("v1", "ConfigMap") => Self::ConfigMap,
            ("v1", "ServiceAccount") => Self::ServiceAccount,
            ("coordination.k8s.io/v1", "Lease") => Self::Lease,
            ("certificates.k8s.io/v1", "CertificateSigningRequest") => Self::CertificateSigningRequest,
            ("v1", "Secret") => Self::Secret,
            _ => return None,
        })
    }

    pub fn is_namespaced(self) -> bool {
        !matches!(self, Self::Node | Self::Namespace | Self::CertificateSigningRequest)
    }
}

impl Object {
    pub fn key(&self) -> Key {
        let metadata = self.metadata();
        let namespace = metadata.namespace.as_deref().unwrap_or_default();
        Key::new(self.kind(), namespace, metadata.name.as_deref().unwrap_or_default())
    }

    /// This incarnation, to be deleted gently.
    pub fn target(&self) -> Target {
        Target { key: self.key(), uid: self.metadata().uid.clone().unwrap_or_default(), at_once: false }
    }

    pub fn kind(&self) -> KindName {
        match self {
            Self::Deployment(_) => KindName::Deployment,
            Self::ReplicaSet(_) => KindName::ReplicaSet,
            Self::Pod(_) => KindName::Pod,
            Self::Service(_) => KindName::Service,
            Self::EndpointSlice(_) => KindName::EndpointSlice,
            Self::Node(_) => KindName::Node,
            Self::Namespace(_) => KindName::Namespace,
            Self::ConfigMap(_) => KindName::ConfigMap,
            Self::ServiceAccount(_) => KindName::ServiceAccount,
            Self::Lease(_) => KindName::Lease,
            Self::CertificateSigningRequest(_) => KindName::CertificateSigningRequest,
            Self::Secret(_) => KindName::Secret,
        }
    }

    pub fn metadata(&self) -> &ObjectMeta {
        match self {
            Self::Deployment(object) => object.metadata(),
            Self::ReplicaSet(object) => object.metadata(),
            Self::Pod(object) => object.metadata(),
            Self::Service(object) => object.metadata(),
            Self::EndpointSlice(object) => object.metadata(),
            Self::Node(object) => object.metadata(),
            Self::Namespace(object) => object.metadata(),
            Self::ConfigMap(object) => object.metadata(),
            Self::ServiceAccount(object) => object.metadata(),
            Self::Lease(object) => object.metadata(),
            Self::CertificateSigningRequest(object) => object.metadata(),
            Self::Secret(object) => object.metadata(),
        }
    }
}
