//! What rules a node out for a pod: a table of pure functions.

use k8s_openapi::api::core::v1::{Taint, Toleration};

use crate::cluster::{Place, PodInfo};

/// One reason to rule nodes out.
#[derive(Clone, Copy, Debug)]
pub struct Filter {
    pub name: &'static str,
    /// Why the pod cannot be there, in Kubernetes' words; nothing when it can.
    pub refuses: fn(&PodInfo, &Place) -> Option<String>,
}

/// All filters, cheap ones first: a node is ruled out by the first that refuses.
pub const FILTERS: [Filter; 6] = [
    Filter { name: "NodeUnschedulable", refuses: unschedulable },
    Filter { name: "NodeReady", refuses: not_ready },
    Filter { name: "TaintToleration", refuses: tainted },
    Filter { name: "NodeSelector", refuses: not_selected },
    Filter { name: "NodePorts", refuses: ports_taken },
    Filter { name: "NodeResourcesFit", refuses: too_small },
];

/// The taint that "unschedulable" stands for.
const UNSCHEDULABLE: &str = "node.kubernetes.io/unschedulable";

fn unschedulable(pod: &PodInfo, place: &Place) -> Option<String> {
    let taint = Taint { key: UNSCHEDULABLE.into(), effect: "NoSchedule".into(), ..Taint::default() };
    (place.node.unschedulable && !tolerated(pod, &taint)).then(|| "node(s) were unschedulable".into())
}

fn not_ready(_: &PodInfo, place: &Place) -> Option<String> {
    (!place.node.ready).then(|| "node(s) were not ready".into())
}

fn tainted(pod: &PodInfo, place: &Place) -> Option<String> {
    let hard = place.node.taints.iter().filter(|taint| matches!(taint.effect.as_str(), "NoSchedule" | "NoExecute"));
    let taint = hard.into_iter().find(|taint| !tolerated(pod, taint))?;
    let value = taint.value.as_deref().unwrap_or_default();
    Some(format!("node(s) had untolerated taint {{{}: {value}}}", taint.key))
}

fn tolerated(pod: &PodInfo, taint: &Taint) -> bool {
    let covers = |toleration: &Toleration| {
        let part =
            |own: &Option<String>, theirs: &str| own.as_deref().is_none_or(|own| own.is_empty() || own == theirs);
        let values = toleration.operator.as_deref() == Some("Exists")
            || toleration.value.as_deref().unwrap_or_default() == taint.value.as_deref().unwrap_or_default();
        part(&toleration.effect, &taint.effect) && part(&toleration.key, &taint.key) && values
    };
    pod.tolerations.iter().any(covers)
}

fn not_selected(pod: &PodInfo, place: &Place) -> Option<String> {
    let has = |(key, value): (&String, &String)| place.node.labels.get(key) == Some(value);
    (!pod.node_selector.iter().all(has)).then(|| "node(s) didn't match Pod's node affinity/selector".into())
}

fn ports_taken(pod: &PodInfo, place: &Place) -> Option<String> {
    let taken = !pod.host_ports.is_disjoint(&place.host_ports);
    taken.then(|| "node(s) didn't have free ports for the requested pod ports".into())
}

fn too_small(pod: &PodInfo, place: &Place) -> Option<String> {
    let allocatable = |name: &str| place.node.allocatable.get(name).copied().unwrap_or_default();
    let pods = allocatable("pods").units();
    if i64::try_from(place.pods).unwrap_or(i64::MAX) >= pods {
        return Some("Too many pods".into());
    }
    let lacks = |name: &str| {
        let asked = pod.requests.get(name).copied().unwrap_or_default();
        let taken = place.requested.get(name).copied().unwrap_or_default();
        asked > diolkos_api::quantity::Quantity::ZERO && taken + asked > allocatable(name)
    };
    pod.requests.keys().find(|name| lacks(name)).map(|name| format!("Insufficient {name}"))
}
