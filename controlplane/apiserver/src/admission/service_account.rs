//! ServiceAccount: a pod runs as an account of its namespace that is there, with its pull secrets and, unless either says
//! otherwise, with a token of it in each container. On once somebody makes the account `default` of each namespace.

use diolkos_api::status::Failure;
use serde_json::{Value, json};

use super::resources::items;
use super::{View, Write};
use crate::stack::authorization::MIRROR;

pub(super) const NAME: &str = "ServiceAccount";
/// The account of pods that name none.
const DEFAULT: &str = "default";
/// Where clients in a container look for the token.
const MOUNT_PATH: &str = "/var/run/secrets/kubernetes.io/serviceaccount";
/// The name of the volume, before letters of its own.
const VOLUME_PREFIX: &str = "kube-api-access-";
/// How long a token is valid, in seconds: more than an hour, as in Kubernetes, by which clients tell who asked.
const TOKEN_SECONDS: i64 = 3607;
const LETTERS: usize = 5;

pub(super) fn admit(write: &Write<'_>, pod: &mut Value, view: &View<'_>) -> Result<(), Failure> {
    if !write.is_of_whole("", "pods") || !write.is_create() || !pod["spec"].is_object() || is_mirror(pod) {
        return Ok(());
    }
    let spec = &mut pod["spec"];
    if spec["serviceAccountName"].as_str().is_none_or(str::is_empty) {
        spec["serviceAccountName"] = DEFAULT.into();
        spec["serviceAccount"] = DEFAULT.into();
    }
    let account = account(write, pod, view)?;
    let wanted = [&pod["spec"], &account].iter().find_map(|says| says["automountServiceAccountToken"].as_bool());
    if wanted.unwrap_or(true) {
        mount(pod);
    }
    let secrets = &account["imagePullSecrets"];
    if items(&pod["spec"]["imagePullSecrets"]).next().is_none() && items(secrets).next().is_some() {
        pod["spec"]["imagePullSecrets"] = secrets.clone();
    }
    Ok(())
}

pub(super) fn validate(write: &Write<'_>, view: &View<'_>) -> Result<(), Failure> {
    let Some(pod) = write.new else { return Ok(()) };
    if !write.is_of_whole("", "pods") || !write.is_create() {
        return Ok(());
    }
    if !is_mirror(pod) {
        return account(write, pod, view).map(drop);
    }
    // What a node runs by itself cannot get anything of the cluster's.
    if pod["spec"]["serviceAccountName"].as_str().is_some_and(|name| !name.is_empty()) {
        return Err(write.refused("a mirror pod may not reference service accounts"));
    }
    if items(&pod["spec"]["volumes"]).any(|volume| volume["secret"].is_object()) {
        return Err(write.refused("a mirror pod may not reference secrets"));
    }
    let token = |source: &Value| source["serviceAccountToken"].is_object();
    if items(&pod["spec"]["volumes"]).any(|volume| items(&volume["projected"]["sources"]).any(token)) {
        return Err(write.refused("a mirror pod may not use ServiceAccountToken volume projections"));
    }
    Ok(())
}

fn is_mirror(pod: &Value) -> bool {
    pod["metadata"]["annotations"][MIRROR].is_string()
}

fn account(write: &Write<'_>, pod: &Value, view: &View<'_>) -> Result<Value, Failure> {
    let (namespace, name) = (write.namespace, pod["spec"]["serviceAccountName"].as_str().unwrap_or_default());
    view.get(&format!("/registry/core/serviceaccounts/{namespace}/{name}")).ok_or_else(|| {
        write
            .refused(&format!("error looking up service account {namespace}/{name}: serviceaccount {name:?} not found"))
    })
}

/// Gives each container that has nothing there the token, the cluster's certificate and the namespace.
fn mount(pod: &mut Value) {
    let volume = volume_name(pod);
    let mut needed = false;
    for list in ["initContainers", "containers"] {
        for container in pod["spec"][list].as_array_mut().into_iter().flatten() {
            if items(&container["volumeMounts"]).any(|mount| mount["mountPath"] == MOUNT_PATH) {
                continue;
            }
            push(&mut container["volumeMounts"], json!({"name": volume, "readOnly": true, "mountPath": MOUNT_PATH}));
            needed = true;
        }
    }
    if needed {
        push(
            &mut pod["spec"]["volumes"],
            json!({"name": volume, "projected": {"defaultMode": 0o644, "sources": [
                {"serviceAccountToken": {"expirationSeconds": TOKEN_SECONDS, "path": "token"}},
                {"configMap": {"name": "kube-root-ca.crt", "items": [{"key": "ca.crt", "path": "ca.crt"}]}},
                {"downwardAPI": {"items": [
                    {"path": "namespace", "fieldRef": {"apiVersion": "v1", "fieldPath": "metadata.namespace"}},
                ]}},
            ]}}),
        );
    }
}

fn push(list: &mut Value, item: Value) {
    match list.as_array_mut() {
        Some(items) => items.push(item),
        None => *list = json!([item]),
    }
}

/// Letters of the pod's uid, which are as random as any, and the same whenever the pod is looked at.
fn volume_name(pod: &Value) -> String {
    let uid = pod["metadata"]["uid"].as_str().unwrap_or_default();
    let letters: String = uid.chars().filter(char::is_ascii_alphanumeric).take(LETTERS).collect();
    format!("{VOLUME_PREFIX}{letters}")
}
