#![allow(clippy::unwrap_used)]

use diolkos_api::kind::Registry;
use serde_json::{Value, json};

use super::scope::fits;
use super::usage::{Usage, is_about, of, unsaid};
use crate::admission::resources::written;

fn usage(group: &str, plural: &str, object: Value) -> Usage {
    of(&Registry::builtin().find(group, "v1", plural).unwrap(), &object)
}

fn told(group: &str, plural: &str, object: Value) -> String {
    let usage = usage(group, plural, object);
    written(&usage.amounts, usage.amounts.keys())
}

fn pod(spec: Value) -> Usage {
    usage("", "pods", json!({"spec": spec}))
}

#[test]
fn each_kind_of_object_uses_what_kubernetes_counts() {
    let resources = json!({
        "requests": {"cpu": "500m", "memory": "1Gi", "example.com/gpu": "2", "ephemeral-storage": "1Gi"},
        "limits": {"cpu": "1", "example.com/gpu": "2"},
    });
    for (group, plural, object, expected) in [
        (
            "",
            "pods",
            json!({"spec": {"containers": [{"resources": resources}]}}),
            "count/pods=1,cpu=500m,ephemeral-storage=1Gi,limits.cpu=1,memory=1Gi,pods=1,requests.cpu=500m,\
             requests.ephemeral-storage=1Gi,requests.example.com/gpu=2,requests.memory=1Gi",
        ),
        ("", "pods", json!({"spec": {"containers": [{}]}, "status": {"phase": "Succeeded"}}), "count/pods=1"),
        ("", "services", json!({"spec": {"ports": [{}]}}), "count/services=1,services=1"),
        (
            "",
            "services",
            json!({"spec": {"type": "NodePort", "ports": [{}, {}]}}),
            "count/services=1,services=1,services.nodeports=2",
        ),
        (
            "",
            "services",
            json!({"spec": {"type": "LoadBalancer", "allocateLoadBalancerNodePorts": false, "ports": [{}, {"nodePort": 3}]}}),
            "count/services=1,services=1,services.loadbalancers=1,services.nodeports=1",
        ),
        (
            "",
            "persistentvolumeclaims",
            json!({"spec": {"storageClassName": "fast", "resources": {"requests": {"storage": "5Gi"}}}}),
            "count/persistentvolumeclaims=1,fast.storageclass.storage.k8s.io/persistentvolumeclaims=1,\
             fast.storageclass.storage.k8s.io/requests.storage=5Gi,persistentvolumeclaims=1,requests.storage=5Gi",
        ),
        ("", "secrets", json!({}), "count/secrets=1,secrets=1"),
        ("apps", "deployments", json!({}), "count/deployments.apps=1"),
    ] {
        assert_eq!(told(group, plural, object), expected);
    }
}

#[test]
fn a_resource_of_a_quota_is_about_one_kind() {
    let registry = Registry::builtin();
    for (resource, kinds) in [
        ("pods", vec!["pods"]),
        ("requests.cpu", vec!["pods"]),
        ("hugepages-2Mi", vec!["pods"]),
        ("requests.example.com/gpu", vec!["pods"]),
        ("limits.example.com/gpu", vec![]),
        ("requests.storage", vec!["persistentvolumeclaims"]),
        ("fast.storageclass.storage.k8s.io/requests.storage", vec!["persistentvolumeclaims"]),
        ("services.nodeports", vec!["services"]),
        ("configmaps", vec!["configmaps"]),
        ("count/deployments.apps", vec!["deployments"]),
        ("deployments", vec![]),
    ] {
        let all = registry.all().filter(|kind| !kind.is_converted() && is_about(resource, kind));
        assert_eq!(all.map(|kind| kind.plural.clone()).collect::<Vec<_>>(), kinds, "{resource}");
    }
}

#[test]
fn scopes_choose_pods_by_deadline_quality_class_and_affinity() {
    let plain = || json!({"containers": [{}]});
    let mut deadline = plain();
    deadline["activeDeadlineSeconds"] = 5.into();
    let asking = json!({"containers": [{}, {"resources": {"limits": {"memory": "1Gi"}}}]});
    let zero = json!({"containers": [{"resources": {"requests": {"cpu": "0"}}}]});
    let mut high = plain();
    high["priorityClassName"] = "high".into();
    let mut far = plain();
    far["affinity"] = json!({"podAntiAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": [
        {"weight": 1, "podAffinityTerm": {"namespaces": ["other"], "topologyKey": "zone"}},
    ]}});
    let scope = |name: &str| json!({"spec": {"scopes": [name]}});
    let selector = |operator: &str, values: Value| {
        let expression = json!({"scopeName": "PriorityClass", "operator": operator, "values": values});
        json!({"spec": {"scopeSelector": {"matchExpressions": [expression]}}})
    };
    for (quota, spec, expected) in [
        (json!({"spec": {}}), plain(), true),
        (scope("Terminating"), plain(), false),
        (scope("Terminating"), deadline.clone(), true),
        (scope("NotTerminating"), deadline, false),
        (scope("BestEffort"), plain(), true),
        (scope("BestEffort"), zero, true),
        (scope("BestEffort"), asking.clone(), false),
        (scope("NotBestEffort"), asking, true),
        (scope("PriorityClass"), plain(), false),
        (scope("PriorityClass"), high.clone(), true),
        (selector("In", json!(["high", "low"])), high.clone(), true),
        (selector("In", json!(["low"])), high.clone(), false),
        (selector("NotIn", json!(["low"])), high.clone(), true),
        (selector("DoesNotExist", json!([])), plain(), true),
        (selector("Exists", json!([])), high, true),
        (scope("CrossNamespacePodAffinity"), plain(), false),
        (scope("CrossNamespacePodAffinity"), far, true),
        (json!({"spec": {"scopes": ["BestEffort", "Terminating"]}}), plain(), false),
    ] {
        assert_eq!(fits(&quota, &pod(spec.clone())), expected, "{quota} {spec}");
    }
    assert!(!fits(&scope("NotTerminating"), &usage("", "secrets", json!({}))), "scopes are about pods");
}

#[test]
fn containers_have_to_say_what_a_quota_is_about() {
    let spec = json!({
        "containers": [{"name": "b"}, {"name": "a", "resources": {"requests": {"cpu": "1"}}}],
        "initContainers": [{"name": "i", "resources": {"limits": {"memory": "1Gi"}}}],
    });
    let names = ["requests.cpu", "limits.memory", "pods", "requests.ephemeral-storage"].map(str::to_owned);
    assert_eq!(unsaid(&spec, names.iter()).unwrap(), "limits.memory for: a,b; requests.cpu for: b,i");
    assert_eq!(unsaid(&spec, ["pods".to_owned()].iter()), None);
}
