//! NodeRestriction: a node writes its own Node and Lease and the status of its own pods, and cannot give itself labels
//! that say where pods may run.

use diolkos_api::status::Failure;
use serde_json::Value;

use super::Write;
use crate::stack::authorization::{MIRROR, NODE_LEASES, references};

/// Labels of other names in Kubernetes' own domains are not a node's to set.
const OWN_LABELS: &[&str] = &[
    "kubernetes.io/hostname",
    "topology.kubernetes.io/zone",
    "topology.kubernetes.io/region",
    "failure-domain.beta.kubernetes.io/zone",
    "failure-domain.beta.kubernetes.io/region",
    "beta.kubernetes.io/instance-type",
    "node.kubernetes.io/instance-type",
    "kubernetes.io/os",
    "kubernetes.io/arch",
    "beta.kubernetes.io/os",
    "beta.kubernetes.io/arch",
    "node.kubernetes.io/windows-build",
];
/// Domains of labels a kubelet may set as it likes, with what is below them.
const OWN_DOMAINS: &[&str] = &["kubelet.kubernetes.io", "node.kubernetes.io"];
pub(super) const NAME: &str = "NodeRestriction";

/// What only administrators set.
const RESTRICTED: &str = "node-restriction.kubernetes.io";

/// 403 when a node writes what is not its own.
pub(crate) fn check(write: &Write<'_>) -> Result<(), Failure> {
    let Some(node) = write.user.node() else { return Ok(()) };
    let problem = match (write.kind.group.as_str(), write.kind.plural.as_str(), write.subresource) {
        ("", "pods", "") if write.verb == "create" => mirror_pod(node, write.new.unwrap_or(&Value::Null)),
        ("", "pods", part) => pod(node, part, write),
        ("", "nodes", _) => own_node(node, write),
        ("coordination.k8s.io", "leases", _) => lease(node, write),
        _ => None,
    };
    match problem {
        None => Ok(()),
        Some(why) => Err(Failure::refused(write.kind.resource(), write.name, &why)),
    }
}

fn mirror_pod(node: &str, pod: &Value) -> Option<String> {
    if !pod["metadata"]["annotations"][MIRROR].is_string() {
        return Some(format!("pod does not have {MIRROR:?} annotation, node {node:?} can only create mirror pods"));
    }
    if pod["spec"]["nodeName"] != node {
        return Some(format!("node {node:?} can only create pods with spec.nodeName set to itself"));
    }
    let owners = pod["metadata"]["ownerReferences"].as_array().map(Vec::as_slice).unwrap_or_default();
    let is_own = |owner: &Value| owner["kind"] == "Node" && owner["apiVersion"] == "v1" && owner["name"] == node;
    if owners.len() > 1 || !owners.iter().all(is_own) {
        return Some(format!("node {node:?} can only create pods with an owner reference set to itself"));
    }
    references(pod).map(|what| format!("node {node:?} can not create pods that reference {what}"))
}

fn pod(node: &str, part: &str, write: &Write<'_>) -> Option<String> {
    let old = write.old.unwrap_or(&Value::Null);
    let is_own = old["spec"]["nodeName"] == node;
    match part {
        "" if write.is_delete() => {
            (!is_own).then(|| format!("node {node:?} can only delete pods with spec.nodeName set to itself"))
        }
        "status" if !is_own => {
            Some(format!("node {node:?} can only update pod status for pods with spec.nodeName set to itself"))
        }
        "status" => {
            let labels = |pod: &Value| pod["metadata"]["labels"].as_object().cloned().unwrap_or_default();
            let changed = write.new.is_some_and(|new| labels(new) != labels(old));
            changed.then(|| format!("node {node:?} cannot update labels through pod status"))
        }
        "eviction" => (!is_own).then(|| format!("node {node} can only evict pods with spec.nodeName set to itself")),
        part => Some(format!("unexpected pod subresource {part:?}, only 'status' and 'eviction' are allowed")),
    }
}

fn own_node(node: &str, write: &Write<'_>) -> Option<String> {
    if write.name != node {
        return Some(format!("node {node:?} is not allowed to modify node {:?}", write.name));
    }
    let new = write.new?;
    let Some(old) = write.old else {
        let forbidden = forbidden_labels(new, &Value::Null);
        return (!forbidden.is_empty())
            .then(|| format!("node {node:?} is not allowed to set the following labels: {}", forbidden.join(", ")));
    };
    let forbidden = forbidden_labels(new, old);
    if !forbidden.is_empty() {
        return Some(format!("is not allowed to modify labels: {}", forbidden.join(", ")));
    }
    let differs = |a: &Value, b: &Value| a != b && !(is_nothing(a) && is_nothing(b));
    if differs(&new["spec"]["taints"], &old["spec"]["taints"]) {
        return Some(format!("node {node:?} is not allowed to modify taints"));
    }
    differs(&new["metadata"]["ownerReferences"], &old["metadata"]["ownerReferences"])
        .then(|| format!("node {node:?} is not allowed to modify ownerReferences"))
}

fn is_nothing(value: &Value) -> bool {
    value.is_null() || value.as_array().is_some_and(Vec::is_empty)
}

fn forbidden_labels(new: &Value, old: &Value) -> Vec<String> {
    let labels = |node: &Value| node["metadata"]["labels"].as_object().cloned().unwrap_or_default();
    let (new, old) = (labels(new), labels(old));
    let keys = new.keys().chain(old.keys().filter(|key| !new.contains_key(*key)));
    let changed = keys.filter(|key| new.get(*key) != old.get(*key));
    let mut forbidden: Vec<String> = changed.filter(|key| !is_own_label(key)).cloned().collect();
    forbidden.sort();
    forbidden
}

fn is_own_label(key: &str) -> bool {
    let domain = key.split_once('/').map_or("", |(domain, _)| domain);
    let in_domain = |of: &str| domain == of || domain.strip_suffix(of).is_some_and(|prefix| prefix.ends_with('.'));
    if in_domain(RESTRICTED) {
        return false;
    }
    let ours = in_domain("kubernetes.io") || in_domain("k8s.io");
    !ours || OWN_LABELS.contains(&key) || OWN_DOMAINS.iter().any(|own| in_domain(own))
}

fn lease(node: &str, write: &Write<'_>) -> Option<String> {
    if write.namespace != NODE_LEASES {
        return Some(format!("can only access leases in the {NODE_LEASES:?} system namespace"));
    }
    (write.name != node).then(|| "can only access node lease with the same name as the requesting node".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_of_kubernetes_domains_are_restricted_to_the_kubelets_own() {
        for own in
            ["kubernetes.io/hostname", "example.com/rack", "plain", "node.kubernetes.io/x", "a.kubelet.kubernetes.io/y"]
        {
            assert!(is_own_label(own), "{own}");
        }
        for other in [
            "node-restriction.kubernetes.io/tier",
            "a.node-restriction.kubernetes.io/tier",
            "node-role.kubernetes.io/control-plane",
            "kubernetes.io/role",
            "sub.k8s.io/x",
        ] {
            assert!(!is_own_label(other), "{other}");
        }
    }
}
