//! Pods as a cluster has them: made by a controller, bound by the scheduler, reported by a kubelet.

use anyhow::{Context as _, Result, ensure};
use diolkos_api::client::Client;
use diolkos_api::wire;
use diolkos_api::wire::patch_request::Type as PatchType;
use etcd_client::{Txn, TxnOp};
use serde_json::{Value, json};

use crate::server::{Apiserver, pod_key};

/// Writes of one transaction of etcd, which takes 128.
pub(crate) const BATCH: usize = 100;

/// What a controller asks for.
pub(crate) fn wanted(name: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {
            "name": name, "labels": {"app": "web", "pod-template-hash": "5d4f8c7b9d", "tier": "front"},
            "ownerReferences": [{
                "apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "web-5d4f8c7b9d",
                "uid": "6f1ed002-ab55-4ed2-9b2f-7f8b2b6d8c11", "controller": true, "blockOwnerDeletion": true,
            }],
        },
        "spec": {
            "containers": [{
                "name": "web", "image": "registry.local/team/web:1.27.3",
                "ports": [{"name": "http", "containerPort": 8080, "protocol": "TCP"}],
                "env": [
                    {"name": "LOG_LEVEL", "value": "info"},
                    {"name": "POD_IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}},
                ],
                "resources": {"requests": {"cpu": "100m", "memory": "128Mi"}, "limits": {"memory": "256Mi"}},
                "readinessProbe": {"httpGet": {"path": "/ready", "port": "http"}, "periodSeconds": 5},
                "volumeMounts": [{"name": "settings", "mountPath": "/etc/web", "readOnly": true}],
            }],
            "volumes": [{"name": "settings", "configMap": {"name": "web-settings"}}],
            "tolerations": [
                {"key": "node.kubernetes.io/not-ready", "operator": "Exists", "effect": "NoExecute",
                 "tolerationSeconds": 300},
                {"key": "node.kubernetes.io/unreachable", "operator": "Exists", "effect": "NoExecute",
                 "tolerationSeconds": 300},
            ],
        },
    })
}

/// What a kubelet reports of it.
pub(crate) fn reported() -> Value {
    let time = "2026-01-01T00:00:00Z";
    let condition = |kind: &str| json!({"type": kind, "status": "True", "lastTransitionTime": time});
    let conditions =
        ["PodReadyToStartContainers", "Initialized", "Ready", "ContainersReady", "PodScheduled"].map(condition);
    json!({"status": {
        "phase": "Running", "hostIP": "192.0.2.17", "hostIPs": [{"ip": "192.0.2.17"}], "podIP": "10.244.17.23",
        "podIPs": [{"ip": "10.244.17.23"}], "startTime": time, "conditions": conditions,
        "containerStatuses": [{
            "name": "web", "image": "registry.local/team/web:1.27.3", "ready": true, "started": true, "restartCount": 0,
            "imageID": "registry.local/team/web@sha256:9c2e8b2f6c8c5d0f8d7b1c3f0a1e5b7d9c4f2a6e8b0d1c3f5a7e9b2d4c6f8a01",
            "containerID": "containerd://4c6f8a019c2e8b2f6c8c5d0f8d7b1c3f0a1e5b7d9c4f2a6e8b0d1c3f5a7e9b2d",
            "state": {"running": {"startedAt": time}},
        }],
    }})
}

/// Creates one as the controllers do.
pub(crate) async fn create(wire: &mut diolkos_api::client::Wire, namespace: &str, name: &str) -> Result<()> {
    let request = wire::WriteRequest {
        key: Some(pod_key(namespace, name)),
        json: wanted(name).to_string().into(),
        field_manager: "kube-controller-manager".into(),
        ..Default::default()
    };
    wire.create(request).await.map(drop).with_context(|| format!("create the pod {namespace}/{name}"))
}

/// Binds one and reports it running, as scheduler and kubelet do.
pub(crate) async fn run(client: &Client, namespace: &str, name: &str, node: &str) -> Result<()> {
    let part = |part: &str| wire::Key { subresource: part.into(), ..pod_key(namespace, name) };
    let binding = json!({"apiVersion": "v1", "kind": "Binding", "metadata": {"name": name, "namespace": namespace},
                         "target": {"apiVersion": "v1", "kind": "Node", "name": node}});
    let request = wire::WriteRequest {
        key: Some(part("binding")),
        json: binding.to_string().into(),
        field_manager: "kube-scheduler".into(),
        ..Default::default()
    };
    client.raw().create(request).await.with_context(|| format!("bind the pod {name}"))?;
    let request = wire::PatchRequest {
        key: Some(part("status")),
        r#type: PatchType::StrategicMerge.into(),
        patch: reported().to_string().into(),
        field_manager: "kubelet".into(),
        ..Default::default()
    };
    client.raw().patch(request).await.map(drop).with_context(|| format!("report the pod {name}"))
}

/// A running pod as it rests in the store, with the managed fields that the apiserver noted: what others are made from.
pub(crate) async fn template(server: &Apiserver, etcd: &mut etcd_client::Client, namespace: &str) -> Result<Value> {
    const NAME: &str = "template";
    create(&mut server.client().raw(), namespace, NAME).await?;
    run(server.client(), namespace, NAME, "node-0").await?;
    let key = store_key(namespace, NAME);
    let found = etcd.get(key.as_str(), None).await?;
    let entry = found.kvs().first().with_context(|| format!("the apiserver stored no {key}"))?;
    let pod: Value = serde_json::from_slice(entry.value())?;
    let managers = pod["metadata"]["managedFields"].as_array().map_or(0, Vec::len);
    ensure!(managers >= 2, "the apiserver noted {managers} managers: {pod}");
    ensure!(pod["status"]["phase"] == "Running" && pod["spec"]["nodeName"] == "node-0", "it does not run: {pod}");
    etcd.delete(key, None).await?;
    Ok(pod)
}

/// Another pod like `template`, on a node.
pub(crate) fn like(template: &Value, namespace: &str, index: usize, node: usize) -> (String, Vec<u8>) {
    let name = format!("web-5d4f8c7b9d-{index:05}");
    let mut pod = template.clone();
    pod["metadata"]["name"] = json!(name);
    pod["metadata"]["uid"] = json!(format!("00000000-0000-4000-8000-{index:012}"));
    pod["spec"]["nodeName"] = json!(format!("node-{node}"));
    (store_key(namespace, &name), pod.to_string().into_bytes())
}

pub(crate) fn without_managed_fields(pod: &Value) -> Value {
    let mut pod = pod.clone();
    if let Some(metadata) = pod["metadata"].as_object_mut() {
        metadata.remove("managedFields");
    }
    pod
}

pub(crate) fn store_key(namespace: &str, name: &str) -> String {
    format!("/registry/core/pods/{namespace}/{name}")
}

/// One transaction.
pub(crate) async fn put(etcd: &mut etcd_client::Client, entries: Vec<(String, Vec<u8>)>) -> Result<()> {
    let puts: Vec<TxnOp> = entries.into_iter().map(|(key, value)| TxnOp::put(key, value, None)).collect();
    etcd.txn(Txn::new().and_then(puts)).await.map(drop).context("write into etcd")
}

/// So many pods, written past the apiserver.
pub(crate) async fn fill(
    etcd: &mut etcd_client::Client,
    template: &Value,
    namespace: &str,
    count: usize,
) -> Result<()> {
    for first in (0..count).step_by(BATCH) {
        let batch = first..count.min(first + BATCH);
        put(etcd, batch.map(|index| like(template, namespace, index, index % 250)).collect()).await?;
    }
    Ok(())
}
