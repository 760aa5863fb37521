//! The status of a pod from what is seen of it, and the difference to what the object says.

use crate::desired::Workload;
use crate::lifecycle::{self, Assessment, Next, Outcome, Standing, Subject, Trouble, View};
use crate::observed::ObservedContainer;
use crate::runtime::State;
use k8s_openapi::api::core::v1 as core;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;
use serde_json::{Map, Value, json};
use std::net::IpAddr;
use std::time::Duration;

/// What the node adds to a pod's status.
#[derive(Clone, Debug)]
pub struct NodeFacts {
    /// One for each address family, the first one first.
    pub host_ips: Vec<String>,
    /// Prefix of container ids, such as `containerd`.
    pub runtime_name: String,
}

/// The status as it should read now.
pub fn status(view: View<'_>, node: &NodeFacts) -> core::PodStatus {
    let assessment = lifecycle::assess(view);
    let previous = view.workload.pod.status.clone().unwrap_or_default();
    let addresses = pod_addresses(view, &assessment, node, &previous);
    let report = Report { view, node, previous: &previous, initialized: assessment.initialized };
    let init: Vec<core::ContainerStatus> = assessment.init.iter().map(|s| report.container(s, true)).collect();
    let containers: Vec<core::ContainerStatus> =
        assessment.containers.iter().map(|s| report.container(s, false)).collect();
    let (phase, reason, message) = phase(view, &assessment, &containers);
    let conditions = report.conditions(&assessment, &containers, &phase);
    core::PodStatus {
        phase: Some(phase),
        reason,
        message,
        conditions: Some(conditions),
        host_ip: node.host_ips.first().cloned(),
        host_ips: Some(node.host_ips.iter().map(|ip| core::HostIP { ip: ip.clone() }).collect()),
        pod_ip: addresses.first().cloned(),
        pod_ips: (!addresses.is_empty()).then(|| addresses.iter().map(|ip| core::PodIP { ip: ip.clone() }).collect()),
        start_time: previous.start_time.clone().or(Some(Time(view.now))),
        init_container_statuses: (!init.is_empty()).then_some(init),
        container_statuses: (!containers.is_empty()).then_some(containers),
        qos_class: Some(view.workload.qos.name().to_owned()),
        observed_generation: view.workload.pod.metadata.generation,
        ..previous
    }
}

/// The fields of `new` that differ, as a merge patch of the pod with its identity as precondition; `None` when the
/// object says all of it already.
pub fn patch(workload: &Workload, new: &core::PodStatus) -> Option<Value> {
    let as_map = |status: &core::PodStatus| match serde_json::to_value(status) {
        Ok(Value::Object(map)) => map,
        // A status is always a map; anything else would be no change.
        _ => Map::new(),
    };
    let old = workload.pod.status.as_ref().map(as_map).unwrap_or_default();
    let new = as_map(new);
    let mut changed = Map::new();
    for (key, value) in &new {
        if old.get(key) != Some(value) {
            changed.insert(key.clone(), value.clone());
        }
    }
    for key in old.keys().filter(|key| !new.contains_key(*key)) {
        changed.insert(key.clone(), Value::Null);
    }
    let meta = &workload.pod.metadata;
    let precondition = json!({"uid": meta.uid, "resourceVersion": meta.resource_version});
    (!changed.is_empty()).then(|| json!({"metadata": precondition, "status": changed}))
}

/// What the object says of this very run of a container.
pub fn of_container<'a>(pod: &'a core::Pod, id: &str) -> Option<&'a core::ContainerStatus> {
    let status = pod.status.as_ref()?;
    let mut all = [&status.init_container_statuses, &status.container_statuses].into_iter().flatten().flatten();
    let names = |known: &String| known.split_once("://").is_some_and(|(_, known)| known == id);
    all.find(|status| status.container_id.as_ref().is_some_and(names))
}

fn pod_addresses(
    view: View<'_>,
    assessment: &Assessment<'_>,
    node: &NodeFacts,
    previous: &core::PodStatus,
) -> Vec<String> {
    match assessment.sandbox {
        Some(_) if view.workload.namespaces.host_network => node.host_ips.clone(),
        Some(sandbox) => primary_first(&sandbox.addresses, &node.host_ips),
        // The address of a pod that has ended stays on record, as it does in Kubernetes.
        None if view.workload.delete_by.is_some() || assessment.outcome != Outcome::Ongoing => {
            previous.pod_ips.iter().flatten().map(|ip| ip.ip.clone()).collect()
        }
        None => Vec::new(),
    }
}

/// The addresses of a sandbox as the pod shows them: those of the node's first address family first.
pub(crate) fn primary_first(addresses: &[IpAddr], host_ips: &[String]) -> Vec<String> {
    let primary = host_ips.first().and_then(|ip| ip.parse::<IpAddr>().ok());
    let mut sorted = addresses.to_vec();
    sorted.sort_by_key(|address| primary.is_some_and(|primary| primary.is_ipv4() != address.is_ipv4()));
    sorted.iter().map(ToString::to_string).collect()
}

fn phase(
    view: View<'_>,
    assessment: &Assessment<'_>,
    containers: &[core::ContainerStatus],
) -> (String, Option<String>, Option<String>) {
    let status = view.workload.pod.status.as_ref();
    if view.workload.finished {
        let kept = |field: fn(&core::PodStatus) -> Option<String>| status.and_then(field);
        let phase = kept(|status| status.phase.clone()).unwrap_or_default();
        return (phase, kept(|status| status.reason.clone()), kept(|status| status.message.clone()));
    }
    if let Some(refused) = &view.workload.refused {
        return ("Pending".to_owned(), Some("Unsupported".to_owned()), Some(refused.clone()));
    }
    let ran = |status: &core::ContainerStatus| {
        let live = status.state.as_ref().is_some_and(|state| state.running.is_some() || state.terminated.is_some());
        live || status.last_state.as_ref().is_some_and(|state| state.terminated.is_some())
    };
    let word = match assessment.outcome {
        Outcome::Succeeded => "Succeeded",
        Outcome::Failed => "Failed",
        Outcome::Ongoing if assessment.initialized && !containers.is_empty() && containers.iter().all(ran) => "Running",
        Outcome::Ongoing => "Pending",
    };
    (word.to_owned(), None, None)
}

struct Report<'a> {
    view: View<'a>,
    node: &'a NodeFacts,
    previous: &'a core::PodStatus,
    initialized: bool,
}

impl Report<'_> {
    fn container(&self, standing: &Standing<'_>, init: bool) -> core::ContainerStatus {
        let wish = standing.wish;
        let list = if init { &self.previous.init_container_statuses } else { &self.previous.container_statuses };
        let before = list.iter().flatten().find(|status| status.name == wish.name);
        let Some(latest) = standing.latest else { return self.unseen(standing, before, init) };
        let waits = matches!(standing.next, Next::BackOff { .. } | Next::Start { .. }) && !self.view.workload.finished;
        let waits = waits && self.view.workload.delete_by.is_none();
        let previous_end = standing.previous.map(|run| self.ended(run));
        let (state, last) = if latest.running() {
            (running(latest), previous_end)
        } else if latest.ended() && waits {
            (waiting(self.waiting(standing, init)), Some(self.ended(latest)))
        } else if latest.ended() {
            (self.ended(latest), previous_end)
        } else {
            (waiting(self.waiting(standing, init)), previous_end)
        };
        let remembered = before.and_then(|status| status.last_state.clone());
        let started = lifecycle::started(wish, latest, self.view.verdicts);
        let restarts = i32::try_from(latest.container.attempt).unwrap_or(i32::MAX);
        core::ContainerStatus {
            name: wish.name.clone(),
            image: wish.image.clone(),
            image_id: latest.container.image_id.clone(),
            container_id: Some(self.container_id(latest)),
            // The run before is known from the object when the runtime has forgotten it.
            last_state: Some(last.or(remembered.filter(|_| restarts > 0)).unwrap_or_default()),
            state: Some(state),
            restart_count: restarts.max(before.map_or(0, |status| status.restart_count)),
            started: Some(started),
            ready: self.is_ready(standing, init),
            ..core::ContainerStatus::default()
        }
    }

    /// A container that the runtime does not have: not started yet, or gone with what the object remembers of it.
    fn unseen(
        &self,
        standing: &Standing<'_>,
        before: Option<&core::ContainerStatus>,
        init: bool,
    ) -> core::ContainerStatus {
        let over = self.view.workload.delete_by.is_some() || self.view.workload.finished;
        if let (Some(before), true) = (before, over) {
            let mut kept = before.clone();
            kept.ready = false;
            kept.started = Some(false);
            if kept.state.as_ref().is_some_and(|state| state.running.is_some()) {
                kept.state = Some(lost(before.container_id.clone()));
            }
            return kept;
        }
        core::ContainerStatus {
            name: standing.wish.name.clone(),
            image: standing.wish.image.clone(),
            state: Some(waiting(self.waiting(standing, init))),
            last_state: Some(before.and_then(|status| status.last_state.clone()).unwrap_or_default()),
            restart_count: before.map_or(0, |status| status.restart_count),
            started: Some(false),
            ..core::ContainerStatus::default()
        }
    }

    fn waiting(&self, standing: &Standing<'_>, init: bool) -> (String, Option<String>) {
        let view = self.view;
        let plain = |reason: &str| (reason.to_owned(), None);
        if let Some(refused) = &view.workload.refused {
            return ("CreateContainerConfigError".to_owned(), Some(refused.clone()));
        }
        if let Some(trouble) = view.troubles.get(&Subject::Container(standing.wish.name.clone())) {
            return self.troubled(trouble);
        }
        if let (Some(latest), Next::BackOff { until }) = (standing.latest, &standing.next) {
            let delay = Duration::try_from(until.duration_since(latest.finished())).unwrap_or_default();
            let key = &view.workload.key;
            let message = format!(
                "back-off {}s restarting failed container={} pod={}_{}({})",
                delay.as_secs(),
                standing.wish.name,
                key.name,
                key.namespace,
                key.uid
            );
            return ("CrashLoopBackOff".to_owned(), Some(message));
        }
        if let Some(trouble) = view.troubles.get(&Subject::Sandbox) {
            return ("ContainerCreating".to_owned(), Some(trouble.message.clone()));
        }
        match view.network_problem {
            Some(problem) if view.observed.current().is_none() && !view.workload.namespaces.host_network => {
                ("ContainerCreating".to_owned(), Some(format!("the network is not ready: {problem}")))
            }
            _ if !init && !self.initialized => plain("PodInitializing"),
            _ => plain("ContainerCreating"),
        }
    }

    /// A failed pull reads as such at first and as a back-off while it waits.
    fn troubled(&self, trouble: &Trouble) -> (String, Option<String>) {
        let old = self.view.now > trouble.last + PULL_ERROR_SHOWN;
        let reason = if trouble.reason == "ErrImagePull" && old { "ImagePullBackOff" } else { &trouble.reason };
        (reason.to_owned(), Some(trouble.message.clone()))
    }

    fn is_ready(&self, standing: &Standing<'_>, init: bool) -> bool {
        let done = init && !standing.wish.sidecar && standing.next == (Next::Done { code: 0 });
        let live = !init || standing.wish.sidecar;
        let latest = standing.latest;
        done || live && latest.is_some_and(|latest| lifecycle::ready(standing.wish, latest, self.view.verdicts))
    }

    fn container_id(&self, container: &ObservedContainer) -> String {
        format!("{}://{}", self.node.runtime_name, container.container.id)
    }

    fn ended(&self, run: &ObservedContainer) -> core::ContainerState {
        let times = &run.times;
        let reason = match (times.reason.is_empty(), run.container.state) {
            (_, State::Unknown) => "ContainerStatusUnknown".to_owned(),
            (true, _) => if times.exit_code == 0 { "Completed" } else { "Error" }.to_owned(),
            (false, _) => times.reason.clone(),
        };
        let terminated = core::ContainerStateTerminated {
            container_id: Some(self.container_id(run)),
            exit_code: times.exit_code,
            started_at: times.started.map(Time),
            finished_at: times.finished.map(Time),
            reason: Some(reason),
            message: Some(times.message.clone()).filter(|message| !message.is_empty()),
            signal: None,
        };
        core::ContainerState { terminated: Some(terminated), ..Default::default() }
    }

    fn conditions(
        &self,
        assessment: &Assessment<'_>,
        containers: &[core::ContainerStatus],
        phase: &str,
    ) -> Vec<core::PodCondition> {
        let over = matches!(phase, "Succeeded" | "Failed");
        let all_ready = !over && assessment.initialized && containers.iter().all(|status| status.ready);
        let unready: Vec<&str> =
            containers.iter().filter(|status| !status.ready).map(|status| status.name.as_str()).collect();
        let unready_message = format!("containers with unready status: [{}]", unready.join(" "));
        let not_ready = match phase {
            "Succeeded" => ("PodCompleted", None),
            "Failed" => ("PodFailed", None),
            _ => ("ContainersNotReady", Some(unready_message)),
        };
        let gates = self.view.workload.pod.spec.iter().flat_map(|spec| spec.readiness_gates.iter().flatten());
        let closed: Vec<&str> =
            gates.map(|gate| gate.condition_type.as_str()).filter(|kind| !self.holds(kind)).collect();
        let ready = match (all_ready, closed.is_empty()) {
            (true, false) => {
                let message = format!("the readiness gates {} are not True", closed.join(", "));
                self.condition("Ready", false, "ReadinessGatesNotReady", Some(message))
            }
            (all_ready, _) => self.condition("Ready", all_ready, not_ready.0, not_ready.1.clone()),
        };
        let initialized = assessment.initialized || phase == "Succeeded";
        let own = vec![
            self.condition("PodReadyToStartContainers", assessment.sandbox.is_some(), "SandboxNotReady", None),
            self.condition("Initialized", initialized, "ContainersNotInitialized", None),
            ready,
            self.condition("ContainersReady", all_ready, not_ready.0, not_ready.1),
        ];
        let known = |kind: &str| own.iter().any(|condition| condition.type_ == kind);
        let others: Vec<core::PodCondition> =
            self.previous.conditions.iter().flatten().filter(|condition| !known(&condition.type_)).cloned().collect();
        let scheduled = others.iter().any(|condition| condition.type_ == "PodScheduled");
        let scheduled = (!scheduled).then(|| self.condition("PodScheduled", true, "", None));
        own.into_iter().chain(others).chain(scheduled).collect()
    }

    fn holds(&self, kind: &str) -> bool {
        let mut conditions = self.previous.conditions.iter().flatten();
        conditions.any(|condition| condition.type_ == kind && condition.status == "True")
    }

    /// A condition with the reason and message it has when it is false; its time moves only with its status.
    fn condition(&self, kind: &str, holds: bool, reason: &str, message: Option<String>) -> core::PodCondition {
        let status = if holds { "True" } else { "False" };
        let before = self.previous.conditions.iter().flatten().find(|condition| condition.type_ == kind);
        let unchanged = before.filter(|condition| condition.status == status);
        let since = unchanged.and_then(|condition| condition.last_transition_time.clone());
        core::PodCondition {
            type_: kind.to_owned(),
            status: status.to_owned(),
            reason: (!holds).then(|| reason.to_owned()),
            message: message.filter(|_| !holds),
            last_transition_time: since.or(Some(Time(self.view.now))),
            ..core::PodCondition::default()
        }
    }
}

/// How long a failed pull reads `ErrImagePull`.
const PULL_ERROR_SHOWN: Duration = Duration::from_secs(2);

fn running(container: &ObservedContainer) -> core::ContainerState {
    let started_at = container.times.started.map(Time);
    core::ContainerState { running: Some(core::ContainerStateRunning { started_at }), ..Default::default() }
}

fn waiting((reason, message): (String, Option<String>)) -> core::ContainerState {
    let waiting = core::ContainerStateWaiting { reason: Some(reason), message };
    core::ContainerState { waiting: Some(waiting), ..Default::default() }
}

/// The end of a container that nobody saw.
fn lost(container_id: Option<String>) -> core::ContainerState {
    let terminated = core::ContainerStateTerminated {
        container_id,
        exit_code: 137,
        reason: Some("ContainerStatusUnknown".to_owned()),
        message: Some("the container could not be found when its pod was ended".to_owned()),
        started_at: None::<Timestamp>.map(Time),
        finished_at: None,
        signal: None,
    };
    core::ContainerState { terminated: Some(terminated), ..Default::default() }
}

#[cfg(test)]
mod tests;
