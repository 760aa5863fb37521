//! What `kubectl get pods` says of a pod: it is worked out on the server, from the states of the containers.

use k8s_openapi::jiff::Timestamp;
use serde_json::Value;

use super::cell::{NONE, since};
use super::rule::{items, text};

/// The columns that depend on all containers.
pub(super) struct Summary {
    /// "1/2"
    pub(super) ready: String,
    /// "Running", "CrashLoopBackOff", "Init:0/1", "Terminating", ...
    pub(super) status: String,
    /// "3 (5m ago)"
    pub(super) restarts: String,
}

pub(super) fn summary(pod: &Value, now: Timestamp) -> Summary {
    let (spec, status) = (&pod["spec"], &pod["status"]);
    let phase = text(&status["phase"]);
    let mut reason = match text(&status["reason"]) {
        "" => phase.to_owned(),
        reason => reason.to_owned(),
    };
    if condition(pod, "PodScheduled").is_some_and(|condition| condition["reason"] == "SchedulingGated") {
        reason = "SchedulingGated".into();
    }
    let sidecar = |name: &Value| {
        let container = items(&spec["initContainers"]).iter().find(|container| container["name"] == *name);
        container.is_some_and(|container| container["restartPolicy"] == "Always")
    };
    let sidecars = items(&spec["initContainers"]).iter().filter(|container| sidecar(&container["name"]));
    let total = items(&spec["containers"]).len() + sidecars.count();

    let mut count = Counts::default();
    let initializing = init_reason(pod, &sidecar, &mut count);
    if let Some(initializing) = &initializing {
        reason.clone_from(initializing);
    }
    let initialized = condition(pod, "Initialized").is_some_and(|condition| condition["status"] == "True");
    if initializing.is_none() || initialized {
        count.restarts = count.sidecar_restarts;
        if let Some(of_containers) = container_reason(pod, &mut count, &reason) {
            reason = of_containers;
        }
    }
    if !pod["metadata"]["deletionTimestamp"].is_null() {
        if text(&status["reason"]) == "NodeLost" {
            reason = "Unknown".into();
        } else if !matches!(phase, "Succeeded" | "Failed") {
            reason = "Terminating".into();
        }
    }
    Summary { ready: format!("{}/{total}", count.ready), status: reason, restarts: count.restarts_text(now) }
}

/// Which of the readiness gates are passed, as "1/2".
pub(super) fn readiness_gates(pod: &Value) -> String {
    let gates = items(&pod["spec"]["readinessGates"]);
    if gates.is_empty() {
        return NONE.into();
    }
    let passed = |gate: &&Value| {
        condition(pod, text(&gate["conditionType"])).is_some_and(|condition| condition["status"] == "True")
    };
    format!("{}/{}", gates.iter().filter(passed).count(), gates.len())
}

#[derive(Default)]
struct Counts {
    ready: usize,
    restarts: i64,
    sidecar_restarts: i64,
    last_restart: Value,
}

impl Counts {
    fn note_restarts(&mut self, container: &Value) {
        self.restarts += container["restartCount"].as_i64().unwrap_or(0);
        let finished = &container["lastState"]["terminated"]["finishedAt"];
        if text(finished) > text(&self.last_restart) {
            self.last_restart = finished.clone();
        }
    }

    fn restarts_text(&self, now: Timestamp) -> String {
        if self.restarts == 0 || self.last_restart.is_null() {
            return self.restarts.to_string();
        }
        format!("{} ({} ago)", self.restarts, since(&self.last_restart, now))
    }
}

/// What the first init container that is not done is at.
fn init_reason(pod: &Value, sidecar: &impl Fn(&Value) -> bool, count: &mut Counts) -> Option<String> {
    for (index, container) in items(&pod["status"]["initContainerStatuses"]).iter().enumerate() {
        count.note_restarts(container);
        let is_sidecar = sidecar(&container["name"]);
        if is_sidecar {
            count.sidecar_restarts += container["restartCount"].as_i64().unwrap_or(0);
        }
        let (terminated, waiting) = (&container["state"]["terminated"], &container["state"]["waiting"]);
        if terminated["exitCode"] == 0 {
            continue;
        }
        if is_sidecar && container["started"] == true {
            count.ready += usize::from(container["ready"] == true);
            continue;
        }
        if !terminated.is_null() {
            return Some(format!("Init:{}", terminated_reason(terminated)));
        }
        return match text(&waiting["reason"]) {
            "" | "PodInitializing" => Some(format!("Init:{index}/{}", items(&pod["spec"]["initContainers"]).len())),
            reason => Some(format!("Init:{reason}")),
        };
    }
    None
}

/// What the first container that does not simply run is at.
fn container_reason(pod: &Value, count: &mut Counts, before: &str) -> Option<String> {
    let mut reason = None;
    let mut running = false;
    for container in items(&pod["status"]["containerStatuses"]).iter().rev() {
        count.note_restarts(container);
        let state = &container["state"];
        if !text(&state["waiting"]["reason"]).is_empty() {
            reason = Some(text(&state["waiting"]["reason"]).to_owned());
        } else if !state["terminated"].is_null() {
            reason = Some(terminated_reason(&state["terminated"]));
        } else if container["ready"] == true && !state["running"].is_null() {
            running = true;
            count.ready += 1;
        }
    }
    if reason.as_deref().unwrap_or(before) == "Completed" && running {
        let ready = condition(pod, "Ready").is_some_and(|condition| condition["status"] == "True");
        return Some(if ready { "Running" } else { "NotReady" }.into());
    }
    reason
}

fn terminated_reason(terminated: &Value) -> String {
    match (text(&terminated["reason"]), terminated["signal"].as_i64().unwrap_or(0)) {
        ("", 0) => format!("ExitCode:{}", terminated["exitCode"].as_i64().unwrap_or(0)),
        ("", signal) => format!("Signal:{signal}"),
        (reason, _) => reason.to_owned(),
    }
}

fn condition<'a>(pod: &'a Value, type_: &str) -> Option<&'a Value> {
    items(&pod["status"]["conditions"]).iter().find(|condition| condition["type"] == type_)
}
