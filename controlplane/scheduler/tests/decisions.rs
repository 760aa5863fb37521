//! Decisions of the scheduler over clusters written down by hand, and over random ones.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;

use diolkos_api::quantity::Quantity;
use diolkos_scheduler::cluster::{Cluster, NodeInfo, PodInfo, Resources};
use diolkos_scheduler::decision::{Decision, decide};
use k8s_openapi::api::core::v1::{Node, Pod, Taint, Toleration};
use proptest::prelude::*;
use serde_json::json;

fn resources(cpu: &str, memory: &str) -> Resources {
    [("cpu", cpu), ("memory", memory)]
        .into_iter()
        .map(|(name, amount)| (name.to_owned(), Quantity::parse(amount).unwrap()))
        .collect()
}

fn node(name: &str) -> NodeInfo {
    let mut allocatable = resources("2", "4Gi");
    allocatable.insert("pods".into(), Quantity::from_units(10));
    NodeInfo { name: name.into(), ready: true, allocatable, ..NodeInfo::default() }
}

fn pod(name: &str) -> PodInfo {
    PodInfo { namespace: "default".into(), name: name.into(), uid: name.into(), ..PodInfo::default() }
}

fn cluster(nodes: impl IntoIterator<Item = NodeInfo>) -> Cluster {
    let mut cluster = Cluster::default();
    for node in nodes {
        cluster.put_node(node);
    }
    cluster
}

fn place(cluster: &mut Cluster, pod: &PodInfo) -> Decision {
    let decision = decide(pod, cluster);
    if let Some(node) = &decision.node {
        cluster.put_pod(PodInfo { node: node.clone(), ..pod.clone() });
    }
    decision
}

#[test]
fn three_replicas_land_on_three_nodes() {
    let mut cluster = cluster([node("a"), node("b"), node("c")]);
    // Another's large pod makes one node less attractive, but not less than a second replica.
    cluster.put_pod(PodInfo { node: "c".into(), requests: resources("1900m", "3Gi"), ..pod("other") });
    let replica = |index: usize| PodInfo { owner: Some("set".into()), ..pod(&format!("replica-{index}")) };
    let mut nodes: Vec<_> = (0..3).map(|index| place(&mut cluster, &replica(index)).node.unwrap()).collect();
    nodes.sort();
    assert_eq!(nodes, ["a", "b", "c"]);
}

#[test]
fn each_refusal_is_counted_in_kubernetes_words() {
    let mut unschedulable = node("b");
    unschedulable.unschedulable = true;
    let mut tainted = node("c");
    tainted.taints = vec![Taint { key: "disk".into(), effect: "NoSchedule".into(), ..Taint::default() }];
    let mut silent = node("d");
    silent.ready = false;
    let cluster = cluster([node("a"), unschedulable, tainted, silent]);
    let large = PodInfo { requests: resources("3", "1Gi"), ..pod("large") };
    let decision = decide(&large, &cluster);
    assert_eq!(decision.node, None);
    assert_eq!(
        decision.to_string(),
        "0/4 nodes are available: 1 Insufficient cpu, 1 node(s) had untolerated taint {disk: }, \
         1 node(s) were not ready, 1 node(s) were unschedulable."
    );
    assert_eq!(decision.refused["c"].filter, "TaintToleration");
    assert_eq!(decision.refused["a"].filter, "NodeResourcesFit");
}

#[test]
fn without_nodes_the_reason_is_that_there_are_none() {
    assert_eq!(decide(&pod("a"), &Cluster::default()).to_string(), "no nodes available to schedule pods");
}

#[test]
fn tolerations_open_tainted_and_unschedulable_nodes() {
    let mut closed = node("a");
    closed.unschedulable = true;
    closed.taints =
        vec![Taint { key: "disk".into(), value: Some("ssd".into()), effect: "NoExecute".into(), ..Taint::default() }];
    let cluster = cluster([closed]);
    let all = Toleration { operator: Some("Exists".into()), ..Toleration::default() };
    assert!(decide(&PodInfo { tolerations: vec![all], ..pod("all") }, &cluster).node.is_some());
    let wrong = Toleration { key: Some("disk".into()), value: Some("hdd".into()), ..Toleration::default() };
    assert_eq!(decide(&PodInfo { tolerations: vec![wrong], ..pod("wrong") }, &cluster).node, None);
}

#[test]
fn a_full_node_takes_no_more_pods() {
    let mut full = node("a");
    full.allocatable.insert("pods".into(), Quantity::from_units(2));
    let mut cluster = cluster([full]);
    for name in ["one", "two"] {
        assert!(place(&mut cluster, &pod(name)).node.is_some());
    }
    assert_eq!(place(&mut cluster, &pod("three")).to_string(), "0/1 nodes are available: 1 Too many pods.");
    cluster.remove_pod("one");
    assert!(place(&mut cluster, &pod("three")).node.is_some());
}

#[test]
fn a_host_port_is_taken_once_a_node() {
    let mut cluster = cluster([node("a")]);
    let taking = |name: &str| PodInfo { host_ports: [("TCP".to_owned(), 80)].into(), ..pod(name) };
    assert!(place(&mut cluster, &taking("one")).node.is_some());
    assert_eq!(
        place(&mut cluster, &taking("two")).to_string(),
        "0/1 nodes are available: 1 node(s) didn't have free ports for the requested pod ports."
    );
}

#[test]
fn a_selector_asks_for_labels() {
    let mut fast = node("b");
    fast.labels = BTreeMap::from([("disk".into(), "ssd".into())]);
    let cluster = cluster([node("a"), fast]);
    let picky = PodInfo { node_selector: BTreeMap::from([("disk".into(), "ssd".into())]), ..pod("picky") };
    assert_eq!(decide(&picky, &cluster).node.as_deref(), Some("b"));
}

#[test]
fn a_pod_asks_for_its_containers_or_its_largest_init_container() {
    let container = |name: &str, cpu: &str| json!({"name": name, "resources": {"requests": {"cpu": cpu}}});
    let mut sidecar = container("sidecar", "100m");
    sidecar["restartPolicy"] = "Always".into();
    let pod: Pod = serde_json::from_value(json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "a", "uid": "1"},
        "spec": {
            "initContainers": [sidecar, container("init", "1")],
            "containers": [container("one", "200m"), container("two", "300m")],
        },
    }))
    .unwrap();
    assert_eq!(PodInfo::new(&pod).requests["cpu"], Quantity::from_milli(1100));
}

#[test]
fn a_node_without_a_ready_condition_is_not_ready() {
    let node: Node = serde_json::from_value(json!({
        "apiVersion": "v1", "kind": "Node", "metadata": {"name": "a"},
        "status": {"capacity": {"cpu": "2", "memory": "4Gi", "pods": "110"}},
    }))
    .unwrap();
    let node = NodeInfo::new(&node);
    assert!(!node.ready);
    assert_eq!(node.allocatable["pods"], Quantity::from_units(110));
}

proptest! {
    /// Whatever the order, no node is ever overcommitted, and a refused pod really fits nowhere.
    #[test]
    fn no_node_is_overcommitted(
        capacities in prop::collection::vec((1i64..5, 1i64..6), 1..6),
        asks in prop::collection::vec((0i64..3000, any::<bool>()), 0..60),
    ) {
        let mut cluster = Cluster::default();
        for (index, (cpu, pods)) in capacities.iter().enumerate() {
            let mut node = node(&format!("node-{index}"));
            node.allocatable.insert("cpu".into(), Quantity::from_units(*cpu));
            node.allocatable.insert("pods".into(), Quantity::from_units(*pods));
            cluster.put_node(node);
        }
        for (index, (milli, owned)) in asks.into_iter().enumerate() {
            let pod = PodInfo {
                requests: [("cpu".to_owned(), Quantity::from_milli(milli))].into(),
                owner: owned.then(|| "set".to_owned()),
                ..pod(&format!("pod-{index}"))
            };
            let decision = place(&mut cluster, &pod);
            prop_assert_eq!(decision.refused.len() + decision.scores.len(), capacities.len());
            prop_assert_eq!(decision.node.is_none(), decision.scores.is_empty());
        }
        for place in cluster.places() {
            let cpu = place.requested.get("cpu").copied().unwrap_or_default();
            prop_assert!(cpu <= place.node.allocatable["cpu"]);
            prop_assert!(i64::try_from(place.pods).unwrap() <= place.node.allocatable["pods"].units());
        }
    }
}
