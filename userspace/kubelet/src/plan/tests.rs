#![allow(clippy::unwrap_used)]

use super::*;
use crate::desired::{Workload, workload};
use crate::lifecycle::{Trouble, Verdict, Verdicts, restart_delay};
use crate::observed::ObservedSandbox;
use crate::runtime::{Container, PodKey, Sandbox, State, Times};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use proptest::collection::vec;
use proptest::prelude::*;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::sync::Arc;

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_second(1_000_000 + seconds).unwrap()
}

fn wanted(spec: Value) -> Workload {
    let pod = json!({"metadata": {"name": "web", "namespace": "shop", "uid": "u"}, "spec": spec});
    workload(&Arc::new(serde_json::from_value(pod).unwrap()), 1 << 30)
}

fn two() -> Workload {
    let container = |name: &str| json!({"name": name, "image": "i:1"});
    wanted(json!({"containers": [container("b"), container("a")], "initContainers": [container("init")]}))
}

fn key() -> PodKey {
    PodKey { namespace: "shop".into(), name: "web".into(), uid: "u".into() }
}

fn sandbox(attempt: u32, ready: bool) -> ObservedSandbox {
    let id = format!("s{attempt}");
    let sandbox = Sandbox { id, pod: key(), attempt, ready, created: at(0) };
    ObservedSandbox { sandbox, addresses: Vec::new() }
}

fn run(name: &str, attempt: u32, state: State, code: i32) -> ObservedContainer {
    let container = Container {
        id: format!("{name}-{attempt}"),
        sandbox: "s0".into(),
        name: name.into(),
        attempt,
        state,
        image: "i:1".into(),
        image_id: "sha256:1".into(),
        annotations: BTreeMap::from([(labels::BACKOFF_STEP.to_owned(), attempt.to_string())]),
    };
    let finished = (state == State::Exited).then(|| at(2));
    let times = Times { started: Some(at(1)), finished, exit_code: code, ..Times::default() };
    ObservedContainer { container, times }
}

fn seen(sandboxes: Vec<ObservedSandbox>, mut containers: Vec<ObservedContainer>) -> ObservedPod {
    containers.sort_by_key(|run| std::cmp::Reverse(run.container.attempt));
    ObservedPod { key: key(), sandboxes, containers, leftovers: false }
}

fn planned(workload: &Workload, observed: &ObservedPod, now: Timestamp) -> Vec<Action> {
    let (troubles, verdicts) = (Troubles::new(), Verdicts::new());
    plan(View { workload, observed, troubles: &troubles, verdicts: &verdicts, network_problem: None, now })
}

fn start(container: &str, attempt: u32, step: u32) -> Action {
    Action::Start { container: container.into(), sandbox: "s0".into(), attempt, step }
}

#[test]
fn a_pod_gets_its_sandbox_then_its_init_containers_then_the_others_in_their_order() {
    let pod = two();
    assert_eq!(planned(&pod, &seen(vec![], vec![]), at(9)), [Action::RunSandbox { attempt: 0 }]);
    let ready = || vec![sandbox(0, true)];
    assert_eq!(planned(&pod, &seen(ready(), vec![]), at(9)), [start("init", 0, 0)]);
    let running = seen(ready(), vec![run("init", 0, State::Running, 0)]);
    assert_eq!(planned(&pod, &running, at(9)), []);
    let done = seen(ready(), vec![run("init", 0, State::Exited, 0)]);
    assert_eq!(planned(&pod, &done, at(9)), [start("b", 0, 0), start("a", 0, 0)]);
}

#[test]
fn restarts_wait_longer_each_time_and_a_long_run_is_forgiven() {
    let delays: Vec<u64> = (0..8).map(|step| restart_delay(step).as_secs()).collect();
    assert_eq!(delays, [0, 10, 20, 40, 80, 160, 300, 300]);
    let pod = wanted(json!({"containers": [{"name": "a", "image": "i:1"}]}));
    let crashed = |attempt| seen(vec![sandbox(0, true)], vec![run("a", attempt, State::Exited, 1)]);
    assert_eq!(planned(&pod, &crashed(0), at(2)), [start("a", 1, 1)]);
    assert_eq!(planned(&pod, &crashed(3), at(41)), []);
    assert_eq!(planned(&pod, &crashed(3), at(42)), [start("a", 4, 4)]);
    let mut stable = crashed(3);
    stable.containers[0].times.started = Some(at(2 - 600));
    assert_eq!(planned(&pod, &stable, at(2)), [start("a", 4, 1)]);
}

#[test]
fn a_trouble_holds_up_its_own_container_only() {
    let pod = two();
    let observed = seen(vec![sandbox(0, true)], vec![run("init", 0, State::Exited, 0)]);
    let trouble =
        Trouble { reason: "ErrImagePull".into(), message: String::new(), count: 1, last: at(9), retry_at: at(19) };
    let troubles = Troubles::from([(Subject::Container("a".into()), trouble)]);
    let verdicts = Verdicts::new();
    let view = |now| View {
        workload: &pod,
        observed: &observed,
        troubles: &troubles,
        verdicts: &verdicts,
        network_problem: None,
        now,
    };
    assert_eq!(plan(view(at(18))), [start("b", 0, 0)]);
    assert_eq!(plan(view(at(19))), [start("b", 0, 0), start("a", 0, 0)]);
}

#[test]
fn an_unhealthy_container_is_stopped_and_the_others_go_on() {
    let pod = wanted(json!({"containers": [{"name": "a", "image": "i:1"}, {"name": "b", "image": "i:1"}]}));
    let observed = seen(vec![sandbox(0, true)], vec![run("a", 0, State::Running, 0), run("b", 0, State::Running, 0)]);
    let verdict = Verdict { started: true, ready: false, unhealthy: Some("liveness".into()) };
    let (troubles, verdicts) = (Troubles::new(), Verdicts::from([("a-0".to_owned(), verdict)]));
    let view = View {
        workload: &pod,
        observed: &observed,
        troubles: &troubles,
        verdicts: &verdicts,
        network_problem: None,
        now: at(9),
    };
    let stop =
        Action::StopContainers { ids: vec!["a-0".into()], grace: Duration::from_secs(30), why: "liveness".into() };
    assert_eq!(plan(view), [stop]);
}

#[test]
fn an_orphan_is_stopped_with_its_own_grace_and_then_removed() {
    let mut running = run("a", 0, State::Running, 0);
    running.container.annotations.insert(labels::GRACE_SECONDS.to_owned(), "7".into());
    let observed = seen(vec![sandbox(0, true)], vec![running]);
    let stop = Action::StopContainers {
        ids: vec!["a-0".into()],
        grace: Duration::from_secs(7),
        why: "the pod is gone".into(),
    };
    let none = Troubles::new();
    assert_eq!(plan_orphan(&observed, &none, at(9)), [stop, Action::StopSandbox { id: "s0".into() }]);
    let ended = seen(vec![sandbox(0, false)], vec![]);
    assert_eq!(plan_orphan(&ended, &none, at(9)), [Action::RemoveSandbox { id: "s0".into() }, Action::Clean]);
    assert_eq!(plan_orphan(&seen(vec![], vec![]), &none, at(9)), []);
}

fn any_run() -> impl Strategy<Value = ObservedContainer> {
    let state = prop_oneof![Just(State::Created), Just(State::Running), Just(State::Exited), Just(State::Unknown)];
    (prop_oneof![Just("init"), Just("a"), Just("b")], 0..4_u32, state, 0..2, 0..3_u32).prop_map(
        |(name, attempt, state, code, sandbox)| {
            let mut run = run(name, attempt, state, code);
            run.container.sandbox = format!("s{sandbox}");
            run
        },
    )
}

fn any_pod() -> impl Strategy<Value = (Workload, ObservedPod)> {
    let runs = vec(any_run(), 0..8).prop_map(|mut runs| {
        // The runtime keeps names unique.
        let mut names = std::collections::BTreeSet::new();
        runs.retain(|run| names.insert(run.container.id.clone()));
        runs
    });
    let policy = prop_oneof![Just("Always"), Just("OnFailure"), Just("Never")];
    let deletion = proptest::option::of(0..60_i64);
    (runs, vec(any::<bool>(), 0..3), policy, deletion).prop_map(|(runs, sandboxes, policy, deletion)| {
        let mut pod = (*two().pod).clone();
        pod.spec.as_mut().unwrap().restart_policy = Some(policy.into());
        pod.metadata.deletion_timestamp = deletion.map(|seconds| Time(at(seconds)));
        let count = sandboxes.len();
        // Newest first; only the newest can be ready.
        let sandboxes = (0..count).rev().map(|n| sandbox(u32::try_from(n).unwrap(), n + 1 == count && sandboxes[n]));
        (workload(&Arc::new(pod), 1 << 30), seen(sandboxes.collect(), runs))
    })
}

proptest! {
    #[test]
    fn whatever_is_there_a_plan_keeps_its_promises((pod, observed) in any_pod(), now in 0..100_i64) {
        let actions = planned(&pod, &observed, at(now));
        prop_assert_eq!(&actions, &planned(&pod, &observed, at(now)), "the same view gives the same plan");
        prop_assert!(actions.is_sorted_by_key(Action::rank));
        let current = observed.current().map(|sandbox| sandbox.sandbox.id.as_str());
        let mut started = std::collections::BTreeSet::new();
        for action in &actions {
            match action {
                Action::RunSandbox { attempt } => {
                    prop_assert!(pod.delete_by.is_none() && current.is_none());
                    prop_assert!(observed.sandboxes.iter().all(|known| known.sandbox.attempt < *attempt));
                }
                Action::Start { container, sandbox, attempt, .. } => {
                    prop_assert!(pod.delete_by.is_none() && current == Some(sandbox.as_str()));
                    prop_assert!(started.insert(container), "started once");
                    prop_assert!(observed.named(container).all(|run| run.container.attempt < *attempt));
                    prop_assert!(observed.named(container).next().is_none_or(|run| !run.running()));
                }
                Action::RemoveContainer { id } => {
                    let run = observed.containers.iter().find(|run| run.container.id == *id).unwrap();
                    prop_assert!(!run.running());
                }
                Action::RemoveSandbox { id } => prop_assert!(current != Some(id.as_str())),
                Action::DeleteObject => prop_assert!(pod.delete_by.is_some() && observed.sandboxes.is_empty()),
                Action::StopContainers { .. } | Action::StopSandbox { .. } | Action::Clean => {}
            }
        }
    }
}
