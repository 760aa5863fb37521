//! What one object uses of quotas, and which quotas it is about.

use diolkos_api::kind::Kind;
use diolkos_api::quantity::Amount;
use serde_json::Value;

use super::super::resources::{Amounts, amounts, items, of_pod};

/// Resources of pods that each container has to say when a quota is about them.
const SAID: [&str; 6] = ["cpu", "limits.cpu", "limits.memory", "memory", "requests.cpu", "requests.memory"];
/// Kinds of the core group that are also counted under their bare name.
const BARE: [&str; 6] =
    ["configmaps", "persistentvolumeclaims", "replicationcontrollers", "resourcequotas", "secrets", "services"];
/// What comes after the name of a storage class.
const OF_CLASS: &str = ".storageclass.storage.k8s.io/";

/// What one object uses.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Usage {
    pub amounts: Amounts,
    /// `None` for what is no pod: no quota with scopes is about it.
    pub pod: Option<PodFacts>,
}

/// What scopes ask of a pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct PodFacts {
    /// It has a deadline.
    pub terminating: bool,
    /// No container asks for anything.
    pub best_effort: bool,
    pub priority_class: String,
    /// It wants to be near or far from pods of other namespaces.
    pub across_namespaces: bool,
}

/// `count/pods`, `count/deployments.apps`
pub(super) fn count_name(kind: &Kind) -> String {
    if kind.group.is_empty() {
        format!("count/{}", kind.plural)
    } else {
        format!("count/{}.{}", kind.plural, kind.group)
    }
}

/// Objects use more than their number.
pub(super) fn is_measured(kind: &Kind) -> bool {
    kind.group.is_empty() && matches!(kind.plural.as_str(), "pods" | "services" | "persistentvolumeclaims")
}

/// A resource of a quota is about objects of a kind.
pub(super) fn is_about(resource: &str, kind: &Kind) -> bool {
    if resource == count_name(kind) {
        return true;
    }
    if !kind.group.is_empty() {
        return false;
    }
    let plural = kind.plural.as_str();
    match plural {
        "pods" => {
            let bare = resource.strip_prefix("requests.").or_else(|| resource.strip_prefix("limits."));
            let of_pods =
                |name: &str| matches!(name, "cpu" | "memory" | "ephemeral-storage") || name.starts_with("hugepages-");
            let extended = bare.is_some_and(is_extended) && resource.starts_with("requests.");
            resource == "pods" || of_pods(bare.unwrap_or(resource)) || extended
        }
        "services" => matches!(resource, "services" | "services.nodeports" | "services.loadbalancers"),
        "persistentvolumeclaims" => {
            matches!(resource, "persistentvolumeclaims" | "requests.storage") || resource.contains(OF_CLASS)
        }
        _ => BARE.contains(&plural) && resource == plural,
    }
}

fn is_extended(name: &str) -> bool {
    let domain = name.split_once('/').map(|(domain, _)| domain);
    domain.is_some_and(|domain| domain != "kubernetes.io" && !domain.ends_with(".kubernetes.io"))
        && !name.contains(OF_CLASS)
}

/// What an object uses.
pub(super) fn of(kind: &Kind, object: &Value) -> Usage {
    let one = Amount::from_units(1);
    let mut usage = Usage { amounts: Amounts::from([(count_name(kind), one)]), pod: None };
    let spec = &object["spec"];
    match (kind.group.as_str(), kind.plural.as_str()) {
        ("", "pods") => {
            usage.pod = Some(facts(spec));
            // A pod that ended is an object and nothing else.
            if !matches!(object["status"]["phase"].as_str(), Some("Succeeded" | "Failed")) {
                usage.amounts.insert("pods".into(), one);
                of_containers(&of_pod(spec, "requests"), &of_pod(spec, "limits"), &mut usage.amounts);
            }
        }
        ("", "services") => of_service(spec, &mut usage.amounts),
        ("", "persistentvolumeclaims") => of_claim(object, &mut usage.amounts),
        ("", plural) if BARE.contains(&plural) => drop(usage.amounts.insert(plural.to_owned(), one)),
        _ => {}
    }
    usage
}

fn of_containers(requests: &Amounts, limits: &Amounts, amounts: &mut Amounts) {
    for (name, amount) in requests {
        let own = matches!(name.as_str(), "cpu" | "memory" | "ephemeral-storage") || name.starts_with("hugepages-");
        if own {
            amounts.insert(name.clone(), *amount);
        }
        if own || is_extended(name) {
            amounts.insert(format!("requests.{name}"), *amount);
        }
    }
    for (name, amount) in limits {
        if matches!(name.as_str(), "cpu" | "memory" | "ephemeral-storage") {
            amounts.insert(format!("limits.{name}"), *amount);
        }
    }
}

fn of_service(spec: &Value, amounts: &mut Amounts) {
    amounts.insert("services".into(), Amount::from_units(1));
    let count = |ports: usize| Amount::from_units(i64::try_from(ports).unwrap_or(i64::MAX));
    let ports = items(&spec["ports"]);
    match spec["type"].as_str() {
        Some("NodePort") => drop(amounts.insert("services.nodeports".into(), count(ports.count()))),
        Some("LoadBalancer") => {
            let allocated = spec["allocateLoadBalancerNodePorts"] != false;
            let with = ports.filter(|port| allocated || port["nodePort"].as_i64().unwrap_or(0) != 0);
            amounts.insert("services.nodeports".into(), count(with.count()));
            amounts.insert("services.loadbalancers".into(), Amount::from_units(1));
        }
        _ => {}
    }
}

fn of_claim(claim: &Value, sum: &mut Amounts) {
    let one = Amount::from_units(1);
    let old = claim["metadata"]["annotations"]["volume.beta.kubernetes.io/storage-class"].as_str();
    let class = old.or_else(|| claim["spec"]["storageClassName"].as_str()).unwrap_or_default();
    let storage = amounts(&claim["spec"]["resources"]["requests"]).get("storage").copied();
    sum.insert("persistentvolumeclaims".into(), one);
    sum.extend(storage.map(|storage| ("requests.storage".into(), storage)));
    if !class.is_empty() {
        sum.insert(format!("{class}{OF_CLASS}persistentvolumeclaims"), one);
        sum.extend(storage.map(|storage| (format!("{class}{OF_CLASS}requests.storage"), storage)));
    }
}

fn facts(spec: &Value) -> PodFacts {
    let containers = ["containers", "initContainers"].iter().flat_map(|list| items(&spec[*list]));
    let asks = |container: &Value| {
        ["requests", "limits"].iter().any(|what| {
            let own = amounts(&container["resources"][*what]);
            own.iter().any(|(name, amount)| {
                matches!(name.as_str(), "cpu" | "memory") && *amount != Amount::default() && amount.quantity.milli() > 0
            })
        })
    };
    PodFacts {
        terminating: spec["activeDeadlineSeconds"].as_i64().is_some_and(|seconds| seconds >= 0),
        best_effort: !containers.into_iter().any(asks),
        priority_class: spec["priorityClassName"].as_str().unwrap_or_default().to_owned(),
        across_namespaces: across_namespaces(&spec["affinity"]),
    }
}

fn across_namespaces(affinity: &Value) -> bool {
    ["podAffinity", "podAntiAffinity"].iter().any(|side| {
        let required = items(&affinity[*side]["requiredDuringSchedulingIgnoredDuringExecution"]);
        let preferred = items(&affinity[*side]["preferredDuringSchedulingIgnoredDuringExecution"]);
        let mut terms = required.chain(preferred.map(|weighted| &weighted["podAffinityTerm"]));
        terms.any(|term| items(&term["namespaces"]).next().is_some() || term["namespaceSelector"].is_object())
    })
}

/// What the containers of a pod have to say and do not, by resource: `cpu for: a,b; memory for: a`.
pub(super) fn unsaid<'a>(spec: &Value, resources: impl Iterator<Item = &'a String>) -> Option<String> {
    let mut wanted: Vec<&String> = resources.filter(|name| SAID.contains(&name.as_str())).collect();
    wanted.sort();
    let mut missing = Vec::new();
    for name in wanted {
        let mut silent: Vec<&str> = ["containers", "initContainers"]
            .iter()
            .flat_map(|list| items(&spec[*list]))
            .filter(|container| {
                let resources = &container["resources"];
                let mut said = Amounts::new();
                of_containers(&amounts(&resources["requests"]), &amounts(&resources["limits"]), &mut said);
                !said.contains_key(name)
            })
            .map(|container| container["name"].as_str().unwrap_or_default())
            .collect();
        silent.sort_unstable();
        if !silent.is_empty() {
            missing.push(format!("{name} for: {}", silent.join(",")));
        }
    }
    (!missing.is_empty()).then(|| missing.join("; "))
}
