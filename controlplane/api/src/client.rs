//! A typed client over the gRPC service.

mod follow;
mod renew;

use std::fmt::Debug;
use std::marker::PhantomData;
use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tonic::metadata::{Ascii, MetadataValue};
use tonic::service::Interceptor;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity};

use crate::kubeconfig::Kubeconfig;
use crate::status::Failure;
use crate::wire;

pub use follow::{Event, Piece, follow, follow_each};
use renew::Current;
pub use renew::{FileError, connect_file};
pub use wire::patch_request::Type as PatchKind;

/// A connection to an apiserver: made when it is first needed, and again when it broke. Clones share it.
#[derive(Clone)]
pub struct Client {
    wire: Current,
    server: String,
}

/// The generated client underneath.
pub type Wire = wire::api_client::ApiClient<InterceptedService<Channel, Bearer>>;

/// Why no connection can ever be made with a kubeconfig.
#[derive(Debug, thiserror::Error)]
#[error("cannot talk to the server {server} of the kubeconfig: {why}")]
pub struct ConnectError {
    server: String,
    why: String,
}

/// A typed object of the API.
pub trait Resource:
    k8s_openapi::ListableResource
    + k8s_openapi::Metadata<Ty = ObjectMeta>
    + Serialize
    + DeserializeOwned
    + Clone
    + Debug
    + Send
    + Sync
    + 'static
{
    /// As in the REST path: "pods".
    const PLURAL: &'static str = Self::URL_PATH_SEGMENT;
}

impl<K> Resource for K where
    K: k8s_openapi::ListableResource
        + k8s_openapi::Metadata<Ty = ObjectMeta>
        + Serialize
        + DeserializeOwned
        + Clone
        + Debug
        + Send
        + Sync
        + 'static
{
}

/// What to list or follow.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ListOptions {
    pub label_selector: String,
    pub field_selector: String,
    /// "" for the newest version, "0" for whatever the server has at hand.
    pub resource_version: String,
}

impl ListOptions {
    pub fn labels(selector: impl Into<String>) -> Self {
        Self { label_selector: selector.into(), ..Self::default() }
    }

    pub fn fields(selector: impl Into<String>) -> Self {
        Self { field_selector: selector.into(), ..Self::default() }
    }
}

/// How to delete.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DeleteOptions {
    pub grace_period_seconds: Option<i64>,
    /// "", "Orphan", "Background" or "Foreground".
    pub propagation: String,
    /// Delete only this incarnation.
    pub uid: String,
    /// Delete only this version.
    pub resource_version: String,
}

/// The objects of one kind in one namespace, or in all.
#[derive(Clone)]
pub struct Api<K> {
    wire: Current,
    namespace: String,
    kind: PhantomData<fn() -> K>,
}

/// A silent connection is asked for a sign of life this often.
const KEEPALIVE_EVERY: Duration = Duration::from_secs(10);
/// And is given up when none comes for this long.
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(3);
/// A connection that is not made by then is not made.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Longest message we take, in bytes.
const MAX_MESSAGE: usize = 64 << 20;
/// Longest header list we take, in bytes: a failure travels in the trailers.
const MAX_HEADERS: u32 = 64 << 10;
/// A call that is not answered by then has failed. Watches have none.
const CALL_TIMEOUT: Duration = Duration::from_secs(60);

impl Client {
    /// Prepares the connection. Fails only for what is wrong in the kubeconfig itself; a server that is away shows in
    /// the calls.
    pub fn connect(kubeconfig: &Kubeconfig) -> Result<Self, ConnectError> {
        Ok(Self { wire: Current::new(prepare(kubeconfig)?), server: kubeconfig.server.clone() })
    }

    /// From now on, calls go to the server of this kubeconfig, as its user. Watches that are open go on as they began.
    pub fn renew(&self, kubeconfig: &Kubeconfig) -> Result<(), ConnectError> {
        self.wire.set(prepare(kubeconfig)?);
        Ok(())
    }

    /// The generated client, for what the typed one does not do.
    pub fn raw(&self) -> Wire {
        self.wire.get()
    }

    /// The URL of the server.
    pub fn server(&self) -> &str {
        &self.server
    }

    /// The objects of one kind: in this namespace, in all, or those of a cluster-scoped kind.
    pub fn api<K: Resource>(&self, namespace: Option<&str>) -> Api<K> {
        Api { wire: self.wire.clone(), namespace: namespace.unwrap_or_default().to_owned(), kind: PhantomData }
    }
}

/// The connection that a kubeconfig describes, not made yet.
fn prepare(kubeconfig: &Kubeconfig) -> Result<Wire, ConnectError> {
    let wrong = |why: String| ConnectError { server: kubeconfig.server.clone(), why };
    for (what, pem) in [("certificate authority", Some(&kubeconfig.ca_pem))]
        .into_iter()
        .chain([("client certificate", kubeconfig.client_cert_pem.as_ref())])
    {
        if pem.is_some_and(|pem| !pem.contains("-----BEGIN CERTIFICATE-----")) {
            return Err(wrong(format!("its {what} is not a PEM certificate")));
        }
    }
    let mut tls = ClientTlsConfig::new().ca_certificate(Certificate::from_pem(&kubeconfig.ca_pem));
    if let (Some(certificate), Some(key)) = (&kubeconfig.client_cert_pem, &kubeconfig.client_key_pem) {
        tls = tls.identity(Identity::from_pem(certificate, key));
    }
    let bearer = match &kubeconfig.token {
        None => Bearer(None),
        Some(token) => {
            let header = format!("Bearer {token}").parse();
            Bearer(Some(header.map_err(|_| wrong("its token has characters no header can carry".into()))?))
        }
    };
    let endpoint = Endpoint::from_shared(kubeconfig.server.clone()).map_err(|error| wrong(chain(&error)))?;
    let endpoint = endpoint.tls_config(tls).map_err(|error| wrong(chain(&error)))?;
    let channel = endpoint
        .connect_timeout(CONNECT_TIMEOUT)
        .tcp_nodelay(true)
        .http2_keep_alive_interval(KEEPALIVE_EVERY)
        .keep_alive_timeout(KEEPALIVE_TIMEOUT)
        .keep_alive_while_idle(true)
        .http2_max_header_list_size(MAX_HEADERS)
        .connect_lazy();
    let wire = wire::api_client::ApiClient::with_interceptor(channel, bearer)
        .max_decoding_message_size(MAX_MESSAGE)
        .max_encoding_message_size(MAX_MESSAGE);
    Ok(wire)
}

/// Puts the bearer token, if there is one, on every call.
#[derive(Clone)]
pub struct Bearer(Option<MetadataValue<Ascii>>);

impl Interceptor for Bearer {
    fn call(&mut self, mut request: tonic::Request<()>) -> Result<tonic::Request<()>, tonic::Status> {
        if let Some(header) = &self.0 {
            request.metadata_mut().insert("authorization", header.clone());
        }
        Ok(request)
    }
}

impl<K: Resource> Api<K> {
    pub async fn get(&self, name: &str) -> Result<K, Failure> {
        let request = wire::GetRequest {
            key: Some(self.key(name, "")),
            resource_version: String::new(),
            omit_managed_fields: true,
        };
        decode(self.wire.get().get(timed(request)).await)
    }

    /// `None` when there is no such object.
    pub async fn get_opt(&self, name: &str) -> Result<Option<K>, Failure> {
        match self.get(name).await {
            Ok(object) => Ok(Some(object)),
            Err(failure) if failure.is_not_found() => Ok(None),
            Err(failure) => Err(failure),
        }
    }

    /// All objects and the version of the list.
    pub async fn list(&self, options: &ListOptions) -> Result<(Vec<K>, i64), Failure> {
        let mut pages = self.pages(options).await?;
        let (mut objects, mut version) = (Vec::new(), 0);
        while let Some(page) = pages.message().await.map_err(Failure::from_grpc)? {
            version = page.resource_version;
            for object in page.items {
                objects.push(parse(&object.json)?);
            }
        }
        Ok((objects, version))
    }

    /// All objects, as the server sends them.
    async fn pages(&self, options: &ListOptions) -> Result<tonic::Streaming<wire::Page>, Failure> {
        let request = wire::ListRequest {
            key: Some(self.key("", "")),
            label_selector: options.label_selector.clone(),
            field_selector: options.field_selector.clone(),
            resource_version: options.resource_version.clone(),
            omit_managed_fields: true,
            ..Default::default()
        };
        Ok(self.wire.get().list(timed(request)).await.map_err(Failure::from_grpc)?.into_inner())
    }

    pub async fn create(&self, object: &K) -> Result<K, Failure> {
        let request = self.write("", object)?;
        decode(self.wire.get().create(timed(request)).await)
    }

    pub async fn update(&self, object: &K) -> Result<K, Failure> {
        let request = self.write("", object)?;
        decode(self.wire.get().update(timed(request)).await)
    }

    pub async fn update_status(&self, object: &K) -> Result<K, Failure> {
        self.update_subresource("status", object).await
    }

    /// Replaces a part that has an address of its own.
    pub async fn update_subresource(&self, subresource: &str, object: &K) -> Result<K, Failure> {
        let request = self.write(subresource, object)?;
        decode(self.wire.get().update(timed(request)).await)
    }

    pub async fn patch(&self, name: &str, kind: PatchKind, patch: &Value) -> Result<K, Failure> {
        self.patch_subresource(name, "", kind, patch).await
    }

    pub async fn patch_status(&self, name: &str, kind: PatchKind, patch: &Value) -> Result<K, Failure> {
        self.patch_subresource(name, "status", kind, patch).await
    }

    /// Deletes, or begins to. An object that others have to clean up after, or that is stopped gently, stays for a
    /// while with a `deletionTimestamp`.
    pub async fn delete(&self, name: &str, options: &DeleteOptions) -> Result<(), Failure> {
        let request = wire::DeleteRequest {
            key: Some(self.key(name, "")),
            grace_period_seconds: options.grace_period_seconds,
            propagation_policy: options.propagation.clone(),
            precondition_uid: options.uid.clone(),
            precondition_resource_version: options.resource_version.clone(),
            ..Default::default()
        };
        self.wire.get().delete(timed(request)).await.map(drop).map_err(Failure::from_grpc)
    }

    async fn patch_subresource(
        &self,
        name: &str,
        subresource: &str,
        kind: PatchKind,
        patch: &Value,
    ) -> Result<K, Failure> {
        let request = wire::PatchRequest {
            key: Some(self.key(name, subresource)),
            r#type: kind.into(),
            patch: patch.to_string().into(),
            field_manager: manager(),
            ..Default::default()
        };
        decode(self.wire.get().patch(timed(request)).await)
    }

    fn write(&self, subresource: &str, object: &K) -> Result<wire::WriteRequest, Failure> {
        let json = serde_json::to_vec(object).map_err(Failure::internal)?;
        let metadata = object.metadata();
        let mut key = self.key(metadata.name.as_deref().unwrap_or_default(), subresource);
        if key.namespace.is_empty() {
            key.namespace = metadata.namespace.clone().unwrap_or_default();
        }
        Ok(wire::WriteRequest { key: Some(key), json: json.into(), field_manager: manager(), ..Default::default() })
    }

    fn key(&self, name: &str, subresource: &str) -> wire::Key {
        wire::Key {
            group: K::GROUP.into(),
            version: K::VERSION.into(),
            plural: K::PLURAL.into(),
            namespace: self.namespace.clone(),
            name: name.into(),
            subresource: subresource.into(),
        }
    }
}

impl Api<Pod> {
    /// Puts a pod on a node, once.
    pub async fn bind(&self, pod: &Pod, node: &str) -> Result<(), Failure> {
        let metadata = &pod.metadata;
        let (name, namespace) = (metadata.name.as_deref(), metadata.namespace.as_deref());
        let binding = json!({
            "apiVersion": "v1",
            "kind": "Binding",
            "metadata": {"name": name, "namespace": namespace, "uid": metadata.uid},
            "target": {"apiVersion": "v1", "kind": "Node", "name": node},
        });
        let mut key = self.key(name.unwrap_or_default(), "binding");
        key.namespace = namespace.unwrap_or_default().into();
        let request = wire::WriteRequest {
            key: Some(key),
            json: binding.to_string().into(),
            field_manager: manager(),
            ..Default::default()
        };
        self.wire.get().create(timed(request)).await.map(drop).map_err(Failure::from_grpc)
    }
}

fn timed<T>(message: T) -> tonic::Request<T> {
    let mut request = tonic::Request::new(message);
    request.set_timeout(CALL_TIMEOUT);
    request
}

fn decode<K: Resource>(answer: Result<tonic::Response<wire::Object>, tonic::Status>) -> Result<K, Failure> {
    parse(&answer.map_err(Failure::from_grpc)?.into_inner().json)
}

fn parse<K: Resource>(json: &[u8]) -> Result<K, Failure> {
    serde_json::from_slice(json).map_err(|error| Failure::internal(format!("the server sent no {}: {error}", K::KIND)))
}

/// The name of this program, as managedFields shows it.
fn manager() -> String {
    let program = std::env::args().next().unwrap_or_default();
    program.rsplit('/').next().unwrap_or_default().to_owned()
}

/// An error with all that led to it.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(reason) = source {
        text = format!("{text}: {reason}");
        source = reason.source();
    }
    text
}
