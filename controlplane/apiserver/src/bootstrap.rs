//! What every cluster has, made at the start and kept: the system's namespaces and priority classes, the Service with which pods reach
//! the apiserver, and the default roles.

mod roles;

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use diolkos_api::status::Failure;
use diolkos_api::wire;
use serde_json::{Value, json};

use crate::addresses::repair::give_back_orphans;
use crate::handlers::{Caller, Handlers};
use crate::pki::ADMIN_GROUP;
use crate::serve::Shutdown;
use crate::stack::{Record, User};

const NAMESPACES: [&str; 4] = ["default", "kube-system", "kube-public", "kube-node-lease"];
/// The classes of pods that a cluster cannot do without: name, priority, and what Kubernetes says of them.
const PRIORITY_CLASSES: [(&str, i64, &str); 2] = [
    (
        "system-node-critical",
        2_000_001_000,
        "Used for system critical pods that must not be moved from their current node.",
    ),
    (
        "system-cluster-critical",
        2_000_000_000,
        "Used for system critical pods that must run in the cluster, but can be moved to another node if necessary.",
    ),
];
/// How often is looked whether all of it is still there.
const KEEP_EVERY: Duration = Duration::from_secs(10);
/// In every so many of these looks, the first one among them, addresses without a Service are given back.
const GIVE_BACK_ROUNDS: u64 = 30;

/// Makes and completes what is there once and for all.
pub(crate) async fn begin(handlers: &Handlers, advertised: SocketAddr) -> Result<(), Failure> {
    ensure(handlers, advertised).await?;
    roles::ensure(handlers).await
}

/// Makes what is missing.
async fn ensure(handlers: &Handlers, advertised: SocketAddr) -> Result<(), Failure> {
    for name in NAMESPACES {
        let namespace = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}});
        create(handlers, key("", "namespaces", "", name), &namespace).await?;
    }
    for (name, value, description) in PRIORITY_CLASSES {
        let class = json!({
            "apiVersion": "scheduling.k8s.io/v1",
            "kind": "PriorityClass",
            "metadata": {"name": name},
            "value": value,
            "description": description,
        });
        create(handlers, key("scheduling.k8s.io", "priorityclasses", "", name), &class).await?;
    }
    create(handlers, key("", "services", "default", "kubernetes"), &service(handlers, advertised)).await?;
    let slice_key = key("discovery.k8s.io", "endpointslices", "default", "kubernetes");
    let slice = slice(advertised);
    create(handlers, slice_key.clone(), &slice).await?;
    let patch = json!({
        "metadata": {"labels": slice["metadata"]["labels"]},
        "endpoints": slice["endpoints"],
        "ports": slice["ports"],
    });
    let request = wire::PatchRequest {
        key: Some(slice_key),
        r#type: wire::patch_request::Type::Merge.into(),
        patch: Bytes::from(patch.to_string()),
        ..wire::PatchRequest::default()
    };
    handlers.patch(&own_caller(), request).await.map(drop)
}

/// Looks again and again until the server stops.
pub(crate) async fn keep(handlers: Handlers, advertised: SocketAddr, shutdown: Shutdown) {
    let keeping = async {
        for round in 0_u64.. {
            if round % GIVE_BACK_ROUNDS == 0
                && let Err(failure) = give_back_orphans(&handlers, diolkos_api::now()).await
            {
                tracing::warn!(%failure, "cannot look for addresses without a Service");
            }
            tokio::time::sleep(KEEP_EVERY).await;
            if let Err(failure) = ensure(&handlers, advertised).await {
                tracing::warn!(%failure, "cannot keep the system's namespaces and the kubernetes service");
            }
        }
    };
    tokio::select! {
        () = keeping => {}
        () = shutdown.begun() => {}
    }
}

async fn create(handlers: &Handlers, key: wire::Key, object: &Value) -> Result<(), Failure> {
    let registered = handlers.registry.find(&key.group, &key.version, &key.plural);
    let kind = registered.ok_or_else(Failure::no_such_resource)?;
    if handlers.cache.get(&kind.key(&key.namespace, &key.name), crate::cache::Freshness::Any).await?.is_some() {
        return Ok(());
    }
    let request = wire::WriteRequest {
        key: Some(wire::Key { name: String::new(), ..key }),
        json: Bytes::from(object.to_string()),
        ..wire::WriteRequest::default()
    };
    match handlers.create(&own_caller(), request).await {
        Err(failure) if !failure.is_already_exists() => Err(failure),
        _ => Ok(()),
    }
}

fn service(handlers: &Handlers, advertised: SocketAddr) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {
            "name": "kubernetes",
            "namespace": "default",
            "labels": {"component": "apiserver", "provider": "kubernetes"},
        },
        "spec": {
            "type": "ClusterIP",
            "clusterIP": handlers.addresses.first().to_string(),
            "ports": [{"name": "https", "port": 443, "protocol": "TCP", "targetPort": advertised.port()}],
        },
    })
}

fn slice(advertised: SocketAddr) -> Value {
    let family = match advertised.ip() {
        IpAddr::V4(_) => "IPv4",
        IpAddr::V6(_) => "IPv6",
    };
    // An endpoint on the loopback would be the pod's own: such a server is for this machine only.
    let mut endpoints = Vec::new();
    if !advertised.ip().is_loopback() {
        endpoints.push(json!({"addresses": [advertised.ip().to_string()], "conditions": {"ready": true}}));
    }
    json!({
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {
            "name": "kubernetes",
            "namespace": "default",
            "labels": {"kubernetes.io/service-name": "kubernetes"},
        },
        "addressType": family,
        "endpoints": endpoints,
        "ports": [{"name": "https", "port": advertised.port(), "protocol": "TCP"}],
    })
}

fn key(group: &str, plural: &str, namespace: &str, name: &str) -> wire::Key {
    wire::Key {
        group: group.into(),
        version: "v1".into(),
        plural: plural.into(),
        namespace: namespace.into(),
        name: name.into(),
        subresource: String::new(),
    }
}

pub(crate) fn own_caller() -> Caller {
    let user = User::new("system:apiserver", [ADMIN_GROUP]);
    Caller { user, agent: "diolkos-apiserver".into(), record: Record::default() }
}

/// HOST:PORT, as discovery tells it.
pub(crate) fn public_address(advertised: SocketAddr) -> Arc<str> {
    advertised.to_string().into()
}
