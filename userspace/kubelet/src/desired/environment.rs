//! The environment of a container: values, references to the pod and to ConfigMaps, and `$(NAME)` in values, commands
//! and arguments.

use super::container::milli;
use super::{ContainerWish, Workload};
use k8s_openapi::api::core::v1 as core;
use std::collections::{BTreeMap, BTreeSet};

/// What a container may ask about the place it runs in.
#[derive(Clone, Debug, Default)]
pub struct Facts {
    pub node_name: String,
    /// Addresses of the node, primary first.
    pub host_ips: Vec<String>,
    /// Addresses of the pod, primary first.
    pub pod_ips: Vec<String>,
    /// What the node has, for limits that the container does not state.
    pub node_cpu_milli: i64,
    pub node_memory_bytes: i64,
}

/// The ConfigMaps of one namespace that are there, by name.
pub type ConfigMaps = BTreeMap<String, core::ConfigMap>;

/// Environment, command and arguments, ready for the runtime.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resolved {
    pub env: Vec<(String, String)>,
    pub command: Vec<String>,
    pub args: Vec<String>,
}

/// The ConfigMaps that a container's environment names.
pub fn references(wish: &ContainerWish) -> BTreeSet<String> {
    let from = wish.env_from.iter().filter_map(|from| from.config_map_ref.as_ref()).map(|map| map.name.clone());
    let single = wish.env.iter().filter_map(|var| var.value_from.as_ref()?.config_map_key_ref.as_ref());
    from.chain(single.map(|key| key.name.clone())).collect()
}

/// Resolves everything, or says what is missing.
pub fn resolve(wish: &ContainerWish, pod: &Workload, facts: &Facts, maps: &ConfigMaps) -> Result<Resolved, String> {
    let mut env: Vec<(String, String)> = Vec::new();
    for source in &wish.env_from {
        for (name, value) in from_source(source, maps)? {
            set(&mut env, name, value);
        }
    }
    for var in &wish.env {
        let known: BTreeMap<String, String> = env.iter().cloned().collect();
        let value = match (&var.value_from, &var.value) {
            (Some(from), _) => from_reference(from, wish, pod, facts, maps)?,
            (None, Some(value)) => Some(expand(value, &known)),
            (None, None) => Some(String::new()),
        };
        if let Some(value) = value {
            set(&mut env, var.name.clone(), value);
        }
    }
    let known: BTreeMap<String, String> = env.iter().cloned().collect();
    let expand_all = |words: &[String]| words.iter().map(|word| expand(word, &known)).collect();
    Ok(Resolved { command: expand_all(&wish.command), args: expand_all(&wish.args), env })
}

/// A later value of one name replaces the earlier one, in its place.
fn set(env: &mut Vec<(String, String)>, name: String, value: String) {
    match env.iter_mut().find(|(known, _)| *known == name) {
        Some(entry) => entry.1 = value,
        None => env.push((name, value)),
    }
}

fn from_source(source: &core::EnvFromSource, maps: &ConfigMaps) -> Result<Vec<(String, String)>, String> {
    if source.secret_ref.as_ref().is_some_and(|secret| !secret.optional.unwrap_or(false)) {
        return Err("envFrom with a secretRef is not supported by this kubelet".to_owned());
    }
    let Some(reference) = &source.config_map_ref else { return Ok(Vec::new()) };
    let prefix = source.prefix.as_deref().unwrap_or_default();
    match maps.get(&reference.name) {
        Some(map) => {
            let data = map.data.iter().flatten();
            Ok(data.map(|(key, value)| (format!("{prefix}{key}"), value.clone())).collect())
        }
        None if reference.optional.unwrap_or(false) => Ok(Vec::new()),
        None => Err(format!("configmap {:?} not found", reference.name)),
    }
}

fn from_reference(
    from: &core::EnvVarSource,
    wish: &ContainerWish,
    pod: &Workload,
    facts: &Facts,
    maps: &ConfigMaps,
) -> Result<Option<String>, String> {
    if let Some(field) = &from.field_ref {
        return pod_field(&field.field_path, pod, facts).map(Some);
    }
    if let Some(resource) = &from.resource_field_ref {
        return resource_field(resource, wish, facts).map(Some);
    }
    if let Some(reference) = &from.config_map_key_ref {
        let value = maps.get(&reference.name).and_then(|map| map.data.as_ref()?.get(&reference.key));
        return match value {
            Some(value) => Ok(Some(value.clone())),
            None if reference.optional.unwrap_or(false) => Ok(None),
            None => Err(format!("key {:?} of configmap {:?} not found", reference.key, reference.name)),
        };
    }
    match &from.secret_key_ref {
        Some(secret) if secret.optional.unwrap_or(false) => Ok(None),
        _ => Err("only fieldRef, resourceFieldRef and configMapKeyRef are supported by this kubelet".to_owned()),
    }
}

fn pod_field(path: &str, pod: &Workload, facts: &Facts) -> Result<String, String> {
    let meta = &pod.pod.metadata;
    let spec = pod.pod.spec.as_ref();
    let keyed = |prefix: &str| path.strip_prefix(prefix)?.strip_prefix("['")?.strip_suffix("']");
    if let Some(key) = keyed("metadata.labels") {
        return Ok(meta.labels.as_ref().and_then(|labels| labels.get(key)).cloned().unwrap_or_default());
    }
    if let Some(key) = keyed("metadata.annotations") {
        return Ok(meta.annotations.as_ref().and_then(|all| all.get(key)).cloned().unwrap_or_default());
    }
    Ok(match path {
        "metadata.name" => pod.key.name.clone(),
        "metadata.namespace" => pod.key.namespace.clone(),
        "metadata.uid" => pod.key.uid.clone(),
        "spec.nodeName" => facts.node_name.clone(),
        "spec.serviceAccountName" => spec.and_then(|spec| spec.service_account_name.clone()).unwrap_or_default(),
        "status.hostIP" => facts.host_ips.first().cloned().unwrap_or_default(),
        "status.hostIPs" => facts.host_ips.join(","),
        "status.podIP" => facts.pod_ips.first().cloned().unwrap_or_default(),
        "status.podIPs" => facts.pod_ips.join(","),
        other => return Err(format!("fieldRef {other:?} is not supported")),
    })
}

fn resource_field(
    selector: &core::ResourceFieldSelector,
    wish: &ContainerWish,
    facts: &Facts,
) -> Result<String, String> {
    let (kind, resource) = selector.resource.split_once('.').unwrap_or(("", ""));
    let written = match kind {
        "limits" => wish.limits.get(resource),
        "requests" => wish.requests.get(resource),
        _ => return Err(format!("resourceFieldRef {:?} is not supported", selector.resource)),
    };
    // A limit that is not stated is what the node has.
    let amount = match (written.and_then(|text| milli(text)), kind, resource) {
        (Some(value), ..) => value,
        (None, "limits", "cpu") => facts.node_cpu_milli,
        (None, "limits", "memory") => facts.node_memory_bytes.saturating_mul(1000),
        (None, ..) => 0,
    };
    let divisor = selector.divisor.as_ref().and_then(|divisor| milli(&divisor.0)).filter(|&d| d > 0);
    let divisor = divisor.unwrap_or(1000);
    Ok((amount / divisor + i64::from(amount % divisor != 0)).to_string())
}

/// `$(NAME)` becomes the value of NAME when it is known, `$$` becomes `$`; everything else stays.
fn expand(text: &str, known: &BTreeMap<String, String>) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('$') {
        out.push_str(&rest[..at]);
        rest = &rest[at + 1..];
        if let Some(after) = rest.strip_prefix('$') {
            out.push('$');
            rest = after;
        } else if let Some((name, after)) = rest.strip_prefix('(').and_then(|inner| inner.split_once(')')) {
            match known.get(name) {
                Some(value) => out.push_str(value),
                None => out.push_str(&format!("$({name})")),
            }
            rest = after;
        } else {
            out.push('$');
        }
    }
    out.push_str(rest);
    out
}
