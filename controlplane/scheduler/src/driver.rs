//! The scheduler at work: watches, decides, binds.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use diolkos_api::client::{Client, Event, ListOptions, follow};
use diolkos_api::status::Failure;
use futures::future::BoxFuture;
use futures::stream::{FuturesUnordered, StreamExt as _};
use k8s_openapi::api::core::v1::{Node, Pod, PodCondition};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use tracing::{debug, info, warn};

use crate::cluster::{Cluster, NodeInfo, PodInfo};
use crate::decision::{Decision, decide};
use crate::waiting::Waiting;

/// The name pods call us by.
const NAME: &str = "default-scheduler";
/// Most writes in flight.
const WIDEST: usize = 64;
/// With nothing else to wait for.
const IDLE: Duration = Duration::from_secs(60);

/// Schedules for ever; never returns.
pub(crate) async fn drive(client: Client) {
    let mut pods = follow::<Pod>(client.clone(), None, ListOptions::default());
    let mut nodes = follow::<Node>(client.clone(), None, ListOptions::default());
    let mut scheduler = Scheduler::default();
    let mut running: FuturesUnordered<BoxFuture<'static, Done>> = FuturesUnordered::new();
    loop {
        while running.len() < WIDEST
            && let Some(work) = scheduler.next_work(&client)
        {
            running.push(work);
        }
        let due = if running.len() < WIDEST { scheduler.next_due() } else { Instant::now() + IDLE };
        tokio::select! {
            Some(event) = pods.next() => scheduler.hear_pods(event),
            Some(event) = nodes.next() => scheduler.hear_nodes(event),
            Some(done) = running.next(), if !running.is_empty() => scheduler.done(done),
            () = tokio::time::sleep_until(due.into()) => {}
        }
    }
}

#[derive(Default)]
struct Scheduler {
    cluster: Cluster,
    waiting: Waiting,
    /// Pods that we put on a node and whose watch has not told so yet.
    assumed: HashSet<String>,
    known_nodes: HashSet<String>,
    pods_listed: bool,
    nodes_listed: bool,
}

/// The end of one write.
struct Done {
    uid: String,
    bound: Option<Result<(), Failure>>,
}

impl Scheduler {
    fn hear_pods(&mut self, event: Event<Pod>) {
        match event {
            Event::Applied(pod) => self.put_pod(pod),
            Event::Deleted(pod) => self.remove_pod(pod.metadata.uid.as_deref().unwrap_or_default()),
            Event::Restarted(pods) => {
                let listed: HashSet<String> = pods.iter().filter_map(|pod| pod.metadata.uid.clone()).collect();
                self.waiting.keep(|uid| listed.contains(uid));
                for uid in self.cluster.pod_uids() {
                    if !listed.contains(&uid) {
                        self.remove_pod(&uid);
                    }
                }
                pods.into_iter().for_each(|pod| self.put_pod(pod));
                self.pods_listed = true;
            }
        }
    }

    fn put_pod(&mut self, pod: Pod) {
        let info = PodInfo::new(&pod);
        let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref()).unwrap_or_default();
        if matches!(phase, "Succeeded" | "Failed") {
            return self.remove_pod(&info.uid);
        }
        if !info.node.is_empty() {
            self.assumed.remove(&info.uid);
            self.waiting.remove(&info.uid);
            return self.cluster.put_pod(info);
        }
        let spec = pod.spec.as_ref();
        let ours = spec.and_then(|spec| spec.scheduler_name.as_deref()).unwrap_or(NAME) == NAME;
        let gated = spec.and_then(|spec| spec.scheduling_gates.as_ref()).is_some_and(|gates| !gates.is_empty());
        if !ours || gated || pod.metadata.deletion_timestamp.is_some() {
            return self.waiting.remove(&info.uid);
        }
        if !self.assumed.contains(&info.uid) {
            self.waiting.put(Arc::new(pod), Instant::now());
        }
    }

    fn remove_pod(&mut self, uid: &str) {
        self.assumed.remove(uid);
        self.waiting.remove(uid);
        if self.cluster.remove_pod(uid) {
            self.waiting.news(Instant::now());
        }
    }

    fn hear_nodes(&mut self, event: Event<Node>) {
        match event {
            Event::Applied(node) => self.put_node(&node),
            Event::Deleted(node) => self.remove_node(node.metadata.name.as_deref().unwrap_or_default()),
            Event::Restarted(nodes) => {
                let listed: HashSet<String> = nodes.iter().filter_map(|node| node.metadata.name.clone()).collect();
                let gone: Vec<String> = self.known_nodes.difference(&listed).cloned().collect();
                gone.iter().for_each(|name| self.remove_node(name));
                nodes.iter().for_each(|node| self.put_node(node));
                self.nodes_listed = true;
            }
        }
    }

    fn put_node(&mut self, node: &Node) {
        let info = NodeInfo::new(node);
        self.known_nodes.insert(info.name.clone());
        if self.cluster.put_node(info) {
            self.waiting.news(Instant::now());
        }
    }

    fn remove_node(&mut self, name: &str) {
        self.known_nodes.remove(name);
        self.cluster.remove_node(name);
    }

    /// Decides about the next pod that is due; returns the write that follows from it.
    fn next_work(&mut self, client: &Client) -> Option<BoxFuture<'static, Done>> {
        if !self.pods_listed || !self.nodes_listed {
            return None;
        }
        loop {
            let now = Instant::now();
            let pod = self.waiting.next(now)?;
            let info = PodInfo::new(&pod);
            let decision = decide(&info, &self.cluster);
            let (name, namespace, uid) = (&info.name, &info.namespace, info.uid.clone());
            let client = client.clone();
            if let Some(node) = decision.node.clone() {
                debug!(pod = %format_args!("{namespace}/{name}"), %decision, "placing");
                self.waiting.begin(&uid);
                self.assumed.insert(uid.clone());
                self.cluster.put_pod(PodInfo { node: node.clone(), ..info });
                return Some(Box::pin(async move {
                    let bound = client.api::<Pod>(None).bind(&pod, &node).await;
                    Done { uid, bound: Some(bound) }
                }));
            }
            self.waiting.fits_nowhere(&uid, now);
            if let Some(pod) = explained(&pod, &decision) {
                info!(pod = %format_args!("{namespace}/{name}"), %decision, "fits nowhere");
                return Some(Box::pin(async move {
                    // A conflict means that the pod changed; the next attempt says it again.
                    if let Err(failure) = client.api::<Pod>(None).update_status(&pod).await {
                        debug!(%failure, "cannot say why a pod fits nowhere");
                    }
                    Done { uid, bound: None }
                }));
            }
        }
    }

    fn done(&mut self, Done { uid, bound }: Done) {
        match bound {
            None => {}
            Some(Ok(())) => self.waiting.remove(&uid),
            Some(Err(failure)) if failure.is_not_found() => self.remove_pod(&uid),
            Some(Err(failure)) => {
                warn!(%failure, uid, "cannot bind; trying again");
                // When the watch has told that it is bound after all, it is no longer assumed, and stays.
                if self.assumed.remove(&uid) {
                    self.cluster.remove_pod(&uid);
                }
                self.waiting.failed(&uid, Instant::now());
            }
        }
    }

    fn next_due(&self) -> Instant {
        let idle = Instant::now() + IDLE;
        if self.pods_listed && self.nodes_listed { self.waiting.next_due().unwrap_or(idle) } else { idle }
    }
}

/// The pod with the decision in its PodScheduled condition; `None` when that says so already.
fn explained(pod: &Pod, decision: &Decision) -> Option<Pod> {
    let mut pod = pod.clone();
    let message = Some(decision.to_string());
    let now = diolkos_api::now();
    let now = Some(Time(diolkos_api::Timestamp::from_second(now.as_second()).unwrap_or(now)));
    let conditions = pod.status.get_or_insert_default().conditions.get_or_insert_default();
    let condition = match conditions.iter_mut().position(|condition| condition.type_ == "PodScheduled") {
        Some(index) => &mut conditions[index],
        None => {
            conditions.push(PodCondition { type_: "PodScheduled".into(), ..Default::default() });
            conditions.last_mut()?
        }
    };
    if condition.status == "False" && condition.message == message {
        return None;
    }
    if condition.status != "False" {
        condition.last_transition_time = now;
    }
    condition.status = "False".into();
    condition.reason = Some("Unschedulable".into());
    condition.message = message;
    Some(pod)
}
