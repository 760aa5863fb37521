//! Node lifecycle: a node that is not heard of is not ready, and neither are its pods.

use std::sync::Arc;

use k8s_openapi::api::core::v1::{Node, NodeCondition, Pod, PodCondition};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;

use crate::object::{Action, Key, Object};
use crate::pod_state::{is_finished, is_ready, node_name};
use crate::view::View;

/// A node that is silent for so many seconds is taken for dead.
pub const GRACE_SECONDS: i64 = 40;

const UNKNOWN: &str = "NodeStatusUnknown";
const NEVER: &str = "NodeStatusNeverUpdated";

/// Marks a silent node, and its pods. A node that comes back marks itself, and its kubelet its pods.
pub fn reconcile(view: &View, key: &Key, now: Timestamp) -> Vec<Action> {
    let Some(node) = view.nodes.get("", &key.name) else { return Vec::new() };
    let Some(heard) = view.heard.get(&key.name) else { return Vec::new() };
    if now.as_second() - heard.as_second() <= GRACE_SECONDS {
        return Vec::new();
    }
    let mut actions = Vec::new();
    if ready(node).is_none_or(|ready| ready.status != "Unknown") {
        tracing::warn!(node = key.name, last_heard = %heard, "the node is silent: it counts as not ready");
        actions.push(mark_node(node, now));
    }
    let own = |pod: &&Arc<Pod>| node_name(pod) == key.name && !is_finished(pod) && is_ready(pod);
    actions.extend(view.pods.iter().filter(own).map(|pod| mark_pod(pod, now)));
    actions
}

fn ready(node: &Node) -> Option<&NodeCondition> {
    node.status.as_ref()?.conditions.as_ref()?.iter().find(|condition| condition.type_ == "Ready")
}

fn mark_node(node: &Node, now: Timestamp) -> Action {
    let now = whole_seconds(now);
    let known = ready(node).is_some();
    let mut node = node.clone();
    let conditions = node.status.get_or_insert_default().conditions.get_or_insert_default();
    if !known {
        conditions.push(NodeCondition { type_: "Ready".into(), ..Default::default() });
    }
    let (reason, message) = if known {
        (UNKNOWN, "Kubelet stopped posting node status.")
    } else {
        (NEVER, "Kubelet never posted node status.")
    };
    for condition in conditions.iter_mut().filter(|condition| condition.type_ == "Ready") {
        condition.status = "Unknown".into();
        condition.reason = Some(reason.into());
        condition.message = Some(message.into());
        condition.last_transition_time = Some(now.clone());
    }
    Action::UpdateStatus(Object::Node(Arc::new(node)))
}

fn mark_pod(pod: &Pod, now: Timestamp) -> Action {
    let mut pod = pod.clone();
    let conditions = pod.status.get_or_insert_default().conditions.get_or_insert_default();
    let ready = |condition: &&mut PodCondition| condition.type_ == "Ready";
    for condition in conditions.iter_mut().filter(ready) {
        condition.status = "False".into();
        condition.reason = Some("NodeNotReady".into());
        condition.message = Some("the node is silent".into());
        condition.last_transition_time = Some(whole_seconds(now));
    }
    Action::UpdateStatus(Object::Pod(Arc::new(pod)))
}

fn whole_seconds(now: Timestamp) -> Time {
    Time(Timestamp::from_second(now.as_second()).unwrap_or(now))
}
