//! What the kubelet asks of the control plane: [`api`] asks the apiserver, [`model`] is one in memory.

pub mod api;
pub mod model;

use async_trait::async_trait;
use diolkos_api::client::Event;
use diolkos_api::status::Failure;
use futures::stream::BoxStream;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{ConfigMap, Node, Pod};
use serde_json::Value;

/// Namespace of the nodes' leases.
pub const LEASE_NAMESPACE: &str = "kube-node-lease";

/// What a token is asked for.
#[derive(Clone, Copy, Debug)]
pub struct TokenFor<'a> {
    pub namespace: &'a str,
    pub account: &'a str,
    /// The pod's name and uid.
    pub pod: (&'a str, &'a str),
    /// `None`: the apiserver itself.
    pub audience: Option<&'a str>,
    pub seconds: i64,
}

/// The part of the API that a kubelet uses.
#[async_trait]
pub trait Cluster: Send + Sync + 'static {
    /// The pods bound to this node, for ever: at first all, then each change, all again after a gap.
    fn pods(&self, node: &str) -> BoxStream<'static, Event<Pod>>;
    /// Merges into the status of a pod; the patch names uid and resourceVersion as preconditions.
    async fn patch_pod_status(&self, namespace: &str, name: &str, patch: &Value) -> Result<Pod, Failure>;
    /// Removes the object of a pod that has ended, at once; only this incarnation.
    async fn delete_pod(&self, namespace: &str, name: &str, uid: &str) -> Result<(), Failure>;
    async fn config_map(&self, namespace: &str, name: &str) -> Result<Option<ConfigMap>, Failure>;
    /// A token of a service account, bound to a pod.
    async fn token(&self, request: &TokenFor<'_>) -> Result<String, Failure>;

    async fn node(&self, name: &str) -> Result<Option<Node>, Failure>;
    async fn create_node(&self, node: &Node) -> Result<Node, Failure>;
    /// Merges into metadata and spec.
    async fn patch_node(&self, name: &str, patch: &Value) -> Result<Node, Failure>;
    async fn patch_node_status(&self, name: &str, patch: &Value) -> Result<Node, Failure>;

    /// A lease of [`LEASE_NAMESPACE`].
    async fn lease(&self, name: &str) -> Result<Option<Lease>, Failure>;
    async fn create_lease(&self, lease: &Lease) -> Result<Lease, Failure>;
    /// Replaces a lease of this resourceVersion.
    async fn update_lease(&self, lease: &Lease) -> Result<Lease, Failure>;
}
