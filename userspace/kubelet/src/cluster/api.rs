//! The control plane behind our gRPC client.

use super::{Cluster, LEASE_NAMESPACE, TokenFor};
use async_trait::async_trait;
use diolkos_api::client::{Api, Client, DeleteOptions, Event, ListOptions, PatchKind, follow};
use diolkos_api::status::Failure;
use diolkos_api::wire;
use futures::stream::BoxStream;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{ConfigMap, Node, Pod};
use serde_json::{Value, json};

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

    async fn token(&self, request: &TokenFor<'_>) -> Result<String, Failure> {
        let (name, uid) = request.pod;
        let mut spec = json!({
            "expirationSeconds": request.seconds,
            "boundObjectRef": {"apiVersion": "v1", "kind": "Pod", "name": name, "uid": uid},
        });
        if let Some(audience) = request.audience {
            spec["audiences"] = json!([audience]);
        }
        let asked = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": spec});
        let key = wire::Key {
            version: "v1".into(),
            plural: "serviceaccounts".into(),
            namespace: request.namespace.into(),
            name: request.account.into(),
            subresource: "token".into(),
            ..wire::Key::default()
        };
        let write = wire::WriteRequest {
            key: Some(key),
            json: asked.to_string().into_bytes().into(),
            ..wire::WriteRequest::default()
        };
        let made = self.client.raw().create(write).await.map_err(Failure::from_grpc)?.into_inner();
        let made: Value = serde_json::from_slice(&made.json).map_err(Failure::internal)?;
        let token = made["status"]["token"].as_str().map(str::to_owned);
        token.ok_or_else(|| Failure::internal("the answer to a TokenRequest has no token"))
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
