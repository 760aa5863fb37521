#![allow(clippy::unwrap_used)]

use super::*;
use crate::desired::workload;
use crate::lifecycle::{Troubles, Verdicts};
use crate::observed::{ObservedPod, ObservedSandbox};
use crate::runtime::{Container, PodKey, Sandbox, Times};
use std::collections::BTreeMap;
use std::sync::Arc;

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_second(1_000_000 + seconds).unwrap()
}

fn wanted(status: Value) -> Workload {
    let meta = json!({"name": "web", "namespace": "shop", "uid": "u", "resourceVersion": "7"});
    let spec = json!({"containers": [{"name": "a", "image": "i:1"}], "readinessGates": [{"conditionType": "Mesh"}]});
    let pod = json!({"metadata": meta, "spec": spec, "status": status});
    workload(&Arc::new(serde_json::from_value(pod).unwrap()), 1 << 30)
}

fn running() -> ObservedPod {
    let key = PodKey { namespace: "shop".into(), name: "web".into(), uid: "u".into() };
    let sandbox = Sandbox { id: "s".into(), pod: key.clone(), attempt: 0, ready: true, created: at(0) };
    let container = Container {
        id: "c".into(),
        sandbox: "s".into(),
        name: "a".into(),
        attempt: 2,
        state: State::Running,
        image: "i:1".into(),
        image_id: "sha256:1".into(),
        annotations: BTreeMap::new(),
    };
    let times = Times { started: Some(at(5)), ..Times::default() };
    ObservedPod {
        key,
        sandboxes: vec![ObservedSandbox { sandbox, addresses: vec!["10.244.1.9".parse().unwrap()] }],
        containers: vec![ObservedContainer { container, times }],
        leftovers: true,
    }
}

fn node() -> NodeFacts {
    NodeFacts { host_ips: vec!["192.0.2.1".into()], runtime_name: "containerd".into() }
}

fn read(workload: &Workload, observed: &ObservedPod, now: Timestamp) -> core::PodStatus {
    let (troubles, verdicts) = (Troubles::new(), Verdicts::new());
    let view = View { workload, observed, troubles: &troubles, verdicts: &verdicts, network_problem: None, now };
    status(view, &node())
}

fn condition<'a>(status: &'a core::PodStatus, kind: &str) -> &'a core::PodCondition {
    status.conditions.iter().flatten().find(|condition| condition.type_ == kind).unwrap()
}

#[test]
fn the_patch_carries_only_what_changed_and_the_identity() {
    let first = read(&wanted(json!({})), &running(), at(10));
    let patched = patch(&wanted(json!({})), &first).unwrap();
    assert_eq!(patched["metadata"], json!({"uid": "u", "resourceVersion": "7"}));
    let stored = wanted(serde_json::to_value(&first).unwrap());
    assert_eq!(patch(&stored, &read(&stored, &running(), at(60))), None, "time alone changes nothing");
    let mut moved = running();
    moved.sandboxes[0].addresses = vec!["10.244.1.10".parse().unwrap()];
    let change = patch(&stored, &read(&stored, &moved, at(60))).unwrap();
    assert_eq!(change["status"], json!({"podIP": "10.244.1.10", "podIPs": [{"ip": "10.244.1.10"}]}));
}

#[test]
fn a_readiness_gate_keeps_the_pod_unready_and_conditions_of_others_stay() {
    let closed = read(&wanted(json!({})), &running(), at(10));
    assert_eq!(condition(&closed, "Ready").reason.as_deref(), Some("ReadinessGatesNotReady"));
    assert_eq!(condition(&closed, "ContainersReady").status, "True");
    let mesh = json!({"type": "Mesh", "status": "True"});
    let scheduled = json!({"type": "PodScheduled", "status": "True", "lastTransitionTime": "2026-01-01T00:00:00Z"});
    let open = read(&wanted(json!({"conditions": [mesh, scheduled]})), &running(), at(10));
    assert_eq!(condition(&open, "Ready").status, "True");
    let kept = serde_json::to_value(condition(&open, "PodScheduled")).unwrap();
    assert_eq!(kept["lastTransitionTime"], "2026-01-01T00:00:00Z");
}

#[test]
fn a_condition_remembers_since_when_it_holds() {
    let first = read(&wanted(json!({})), &running(), at(10));
    let stored = wanted(serde_json::to_value(&first).unwrap());
    let mut lost = running();
    lost.sandboxes[0].sandbox.ready = false;
    let second = read(&stored, &lost, at(60));
    assert_eq!(condition(&second, "ContainersReady").last_transition_time, Some(Time(at(10))), "it still runs");
    assert_eq!(condition(&second, "PodReadyToStartContainers").last_transition_time, Some(Time(at(60))));
    assert_eq!(condition(&second, "Initialized").last_transition_time, Some(Time(at(10))));
}

#[test]
fn a_container_that_vanished_while_its_pod_was_deleted_counts_as_ended() {
    let first = read(&wanted(json!({})), &running(), at(10));
    let mut pod = (*wanted(serde_json::to_value(&first).unwrap()).pod).clone();
    pod.metadata.deletion_timestamp = Some(Time(at(20)));
    let deleted = workload(&Arc::new(pod), 1 << 30);
    let gone = ObservedPod::empty(deleted.key.clone());
    let last = read(&deleted, &gone, at(30));
    let container = last.container_statuses.unwrap().remove(0);
    let ended = container.state.unwrap().terminated.unwrap();
    assert_eq!((ended.exit_code, ended.reason.as_deref()), (137, Some("ContainerStatusUnknown")));
    assert_eq!((container.restart_count, container.ready), (2, false));
    assert_eq!(last.pod_ip.as_deref(), Some("10.244.1.9"), "its last address stays on record");
}

#[test]
fn the_address_of_the_nodes_first_family_comes_first() {
    let addresses: Vec<IpAddr> = vec!["10.244.1.2".parse().unwrap(), "fd00::2".parse().unwrap()];
    let shown = |host_ips: &[&str]| {
        let host_ips: Vec<String> = host_ips.iter().map(|&ip| ip.to_owned()).collect();
        primary_first(&addresses, &host_ips)
    };
    assert_eq!(shown(&["192.0.2.1", "2001:db8::1"]), ["10.244.1.2", "fd00::2"]);
    assert_eq!(shown(&["2001:db8::1", "192.0.2.1"]), ["fd00::2", "10.244.1.2"]);
}
