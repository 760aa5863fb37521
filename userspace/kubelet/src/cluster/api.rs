//! The control plane behind our gRPC client.

use super::{Cluster, LEASE_NAMESPACE};
use async_trait::async_trait;
use diolkos_api::client::{Api, Client, DeleteOptions, Event, ListOptions, PatchKind, follow};
use diolkos_api::status::Failure;
use futures::stream::BoxStream;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{ConfigMap, Node, Pod};
use serde_json::Value;

pub struct ApiCluster {
    client: Client,
}

impl ApiCluster {
    pub fn new(client: Client) -> ApiCluster {
        ApiCluster { client }
    }

    fn pods_of(&self, namespace: &str) -> Api<Pod> {
        self.client.api(Some(namespace))
    }

    fn nodes(&self) -> Api<Node> {
        self.client.api(None)
    }

    fn leases(&self) -> Api<Lease> {
        self.client.api(Some(LEASE_NAMESPACE))
    }
}

#[async_trait]
impl Cluster for ApiCluster {
    fn pods(&self, node: &str) -> BoxStream<'static, Event<Pod>> {
        follow(self.client.clone(), None, ListOptions::fields(format!("spec.nodeName={node}")))
    }

    async fn patch_pod_status(&self, namespace: &str, name: &str, patch: &Value) -> Result<Pod, Failure> {
        self.pods_of(namespace).patch_status(name, PatchKind::Merge, patch).await
    }

    async fn delete_pod(&self, namespace: &str, name: &str, uid: &str) -> Result<(), Failure> {
        let options = DeleteOptions { grace_period_seconds: Some(0), uid: uid.to_owned(), ..DeleteOptions::default() };
        self.pods_of(namespace).delete(name, &options).await
    }

    async fn config_map(&self, namespace: &str, name: &str) -> Result<Option<ConfigMap>, Failure> {
        self.client.api::<ConfigMap>(Some(namespace)).get_opt(name).await
    }

    async fn node(&self, name: &str) -> Result<Option<Node>, Failure> {
        self.nodes().get_opt(name).await
    }

    async fn create_node(&self, node: &Node) -> Result<Node, Failure> {
        self.nodes().create(node).await
    }

    async fn patch_node(&self, name: &str, patch: &Value) -> Result<Node, Failure> {
        self.nodes().patch(name, PatchKind::Merge, patch).await
    }

    async fn patch_node_status(&self, name: &str, patch: &Value) -> Result<Node, Failure> {
        self.nodes().patch_status(name, PatchKind::Merge, patch).await
    }

    async fn lease(&self, name: &str) -> Result<Option<Lease>, Failure> {
        self.leases().get_opt(name).await
    }

    async fn create_lease(&self, lease: &Lease) -> Result<Lease, Failure> {
        self.leases().create(lease).await
    }

    async fn update_lease(&self, lease: &Lease) -> Result<Lease, Failure> {
        self.leases().update(lease).await
    }
}
