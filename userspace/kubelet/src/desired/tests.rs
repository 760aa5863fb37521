#![allow(clippy::unwrap_used)]

use super::environment::{ConfigMaps, Facts, resolve};
use super::*;
use serde_json::{Value, json};

fn read(object: Value) -> Workload {
    workload(&Arc::new(serde_json::from_value(object).unwrap()), 1 << 30)
}

fn pod(spec: Value) -> Value {
    json!({"metadata": {"name": "web", "namespace": "shop", "uid": "u1", "labels": {"app": "web"}}, "spec": spec})
}

#[test]
fn requests_and_limits_become_kernel_limits_and_a_class() {
    let spec = |resources: Value| pod(json!({"containers": [{"name": "a", "image": "i:1", "resources": resources}]}));
    let burst = read(spec(json!({"requests": {"cpu": "250m", "memory": "512Mi"}, "limits": {"cpu": "1500m"}})));
    let limits = burst.containers[0].resources;
    assert_eq!((limits.cpu_shares, limits.cpu_quota, limits.memory_limit_bytes), (256, 150_000, 0));
    assert_eq!((burst.qos, limits.oom_score_adj), (Qos::Burstable, 500));
    let whole = read(spec(json!({"limits": {"cpu": "1", "memory": "64Mi"}})));
    assert_eq!((whole.qos, whole.containers[0].resources.memory_limit_bytes), (Qos::Guaranteed, 64 << 20));
    let none = read(spec(json!({})));
    assert_eq!((none.qos, none.containers[0].resources.cpu_shares), (Qos::BestEffort, 2));
}

#[test]
fn what_the_kubelet_cannot_do_is_refused_whole_and_named() {
    let volume =
        read(pod(json!({"containers": [], "volumes": [{"name": "data", "nfs": {"server": "s", "path": "/"}}]})));
    assert!(volume.refused.unwrap().contains("volume data: only emptyDir, configMap, hostPath and projected"));
    let container =
        json!({"name": "a", "image": "i", "volumeMounts": [{"name": "d", "mountPath": "/d", "subPath": "../x"}]});
    let outside = read(pod(json!({"containers": [container]})));
    assert!(outside.refused.unwrap().contains("leaves its volume"));
    let grpc = json!({"name": "a", "image": "i", "livenessProbe": {"grpc": {"port": 1}}});
    assert!(read(pod(json!({"containers": [grpc]}))).refused.unwrap().contains("only exec, tcpSocket and httpGet"));
}

#[test]
fn an_image_without_a_tag_is_always_pulled() {
    let policy = |image: &str| read(pod(json!({"containers": [{"name": "a", "image": image}]}))).containers[0].pull;
    assert_eq!(policy("registry.local:5000/web"), PullPolicy::Always);
    assert_eq!(policy("registry.local/web:latest"), PullPolicy::Always);
    assert_eq!(policy("registry.local:5000/web:1"), PullPolicy::IfNotPresent);
    assert_eq!(policy("web@sha256:00"), PullPolicy::IfNotPresent);
}

#[test]
fn the_environment_knows_the_pod_its_config_maps_and_earlier_names() {
    let from = |path: &str| json!({"fieldRef": {"fieldPath": path}});
    let env = json!([
        {"name": "NAME", "valueFrom": from("metadata.name")},
        {"name": "IP", "valueFrom": from("status.podIP")},
        {"name": "APP", "valueFrom": from("metadata.labels['app']")},
        {"name": "COLOUR", "valueFrom": {"configMapKeyRef": {"name": "paint", "key": "colour"}}},
        {"name": "CPUS", "valueFrom": {"resourceFieldRef": {"resource": "limits.cpu"}}},
        {"name": "GREETING", "value": "$(NAME) is $(COLOUR), $$(NAME) costs $(PRICE) $5"},
    ]);
    let container = json!({"name": "a", "image": "i:1", "env": env, "args": ["--listen=$(IP):80"],
        "envFrom": [{"prefix": "P_", "configMapRef": {"name": "paint"}}]});
    let workload = read(pod(json!({"containers": [container]})));
    let facts = Facts { pod_ips: vec!["10.244.1.7".into()], node_cpu_milli: 1500, ..Facts::default() };
    let paint = serde_json::from_value(json!({"data": {"colour": "red"}})).unwrap();
    let maps = ConfigMaps::from([("paint".to_owned(), paint)]);
    let resolved = resolve(&workload.containers[0], &workload, &facts, &maps).unwrap();
    let value = |name: &str| resolved.env.iter().find(|(key, _)| key == name).unwrap().1.clone();
    assert_eq!((value("P_colour"), value("APP"), value("CPUS")), ("red".into(), "web".into(), "2".into()));
    assert_eq!(value("GREETING"), "web is red, $(NAME) costs $(PRICE) $5");
    assert_eq!(resolved.args, ["--listen=10.244.1.7:80"]);
    let missing = resolve(&workload.containers[0], &workload, &facts, &ConfigMaps::new());
    assert_eq!(missing, Err("configmap \"paint\" not found".to_owned()));
}

#[test]
fn a_host_network_pod_keeps_the_host_name_and_others_are_cut_to_63_letters() {
    let long = "x".repeat(62) + "-long";
    let named = |name: &str, spec: Value| read(json!({"metadata": {"name": name}, "spec": spec})).hostname;
    assert_eq!(named("web", json!({"containers": [], "hostNetwork": true})), "");
    assert_eq!(named(&long, json!({"containers": []})), "x".repeat(62));
}
