//! The shell around the plan: it follows the pods of this node, looks at the runtime, plans each pod by itself, carries
//! the plans out beside each other, and writes what it sees into the pods' status.

mod execute;
mod start;

use crate::cluster::Cluster;
use crate::desired::environment::Facts;
use crate::desired::{Workload, workload};
use crate::host::Host;
use crate::lifecycle::{Subject, Trouble, Troubles, Verdicts, View, doubled};
use crate::node::NodeHealth;
use crate::observed::{ObservedPod, Observer};
use crate::plan::{Action, plan, plan_orphan};
use crate::probe::{self, ContainerProbes};
use crate::runtime::{PodKey, Runtime, Version};
use crate::status::{self, NodeFacts};
use diolkos_api::client::Event;
use diolkos_api::status::Failure;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::jiff::Timestamp;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Semaphore, oneshot};
use tokio::task::JoinSet;

pub use execute::Fault;

/// What all work of the driver shares.
pub struct Context {
    pub runtime: Arc<dyn Runtime>,
    pub cluster: Arc<dyn Cluster>,
    pub host: Host,
    pub facts: Facts,
    /// The node's resolver configuration, for pods that do not bring their own.
    pub resolv_conf: PathBuf,
    /// Sandboxes and containers that start at the same time.
    starts: Semaphore,
    /// Images that are fetched at the same time.
    pulls: Semaphore,
}

/// The driver's state: the pods that are wanted, and the memory that plans need beside what the runtime shows.
pub struct Driver {
    context: Arc<Context>,
    pods: BTreeMap<(String, String), Arc<Pod>>,
    in_sync: bool,
    observer: Observer,
    version: Option<Version>,
    health: NodeHealth,
    memory: HashMap<String, Memory>,
    probes: HashMap<String, ContainerProbes>,
    verdicts: Verdicts,
    tasks: JoinSet<Done>,
    next_upkeep: Option<Timestamp>,
}

/// What is known of one pod besides its object and the runtime.
#[derive(Default)]
struct Memory {
    troubles: Troubles,
    /// The plan that is being carried out.
    work: Option<Work>,
    /// The status is being written.
    writing: bool,
}

/// A plan under way.
struct Work {
    /// When the pod must have ended, as the plan knew it; `None` while it was to live.
    end: Option<Timestamp>,
    /// The plan goes on for as long as this is there.
    live: Option<oneshot::Sender<()>>,
}

/// One finished piece of work.
pub enum Done {
    Plan { uid: String, outcomes: Vec<(Subject, Result<(), Fault>)> },
    Status { uid: String, outcome: Result<Box<Pod>, Failure> },
    Probe { container: String, kind: probe::Kind, outcome: Result<(), String> },
    Upkeep { pod: String, outcome: Result<(), Fault> },
}

/// More would only wait for the runtime: it starts about ten pods a second.
const PARALLEL_STARTS: usize = 8;
/// Their own number: a registry that does not answer holds up no pod whose image is here.
const PARALLEL_PULLS: usize = 8;
/// How often logs are checked against their limit and ConfigMap volumes are read anew.
const UPKEEP_PERIOD: Duration = Duration::from_secs(30);

impl Context {
    pub fn new(
        runtime: Arc<dyn Runtime>,
        cluster: Arc<dyn Cluster>,
        host: Host,
        facts: Facts,
        resolv_conf: PathBuf,
    ) -> Context {
        let (starts, pulls) = (Semaphore::new(PARALLEL_STARTS), Semaphore::new(PARALLEL_PULLS));
        Context { runtime, cluster, host, facts, resolv_conf, starts, pulls }
    }
}

impl Driver {
    pub fn new(context: Context) -> Driver {
        Driver {
            context: Arc::new(context),
            pods: BTreeMap::new(),
            in_sync: false,
            observer: Observer::default(),
            version: None,
            health: NodeHealth::default(),
            memory: HashMap::new(),
            probes: HashMap::new(),
            verdicts: Verdicts::new(),
            tasks: JoinSet::new(),
            next_upkeep: None,
        }
    }

    /// Takes a change of the pods that are wanted.
    pub fn apply(&mut self, event: Event<Pod>) {
        match event {
            Event::Restarted(pods) => {
                self.pods = pods.into_iter().map(|pod| (name_of(&pod), Arc::new(pod))).collect();
                self.in_sync = true;
            }
            Event::Applied(pod) => self.store(pod),
            Event::Deleted(pod) => drop(self.pods.remove(&name_of(&pod))),
        }
    }

    /// What the last look said of the runtime.
    pub fn health(&self) -> &NodeHealth {
        &self.health
    }

    /// Looks at the runtime, and starts what follows from it. Does nothing before the pods are known, and nothing
    /// while the runtime is away: a pod that cannot be seen is not lost.
    pub async fn pass(&mut self, now: Timestamp) {
        let mut observed = match self.look().await {
            Ok(observed) => observed,
            Err(error) => {
                if self.health.unreachable.is_none() {
                    tracing::warn!(%error, "the container runtime cannot be asked; pods go on, nothing is changed");
                }
                self.health.unreachable = Some(error.to_string());
                return;
            }
        };
        if !self.in_sync {
            return;
        }
        for uid in self.context.host.leftovers() {
            let unknown =
                || ObservedPod::empty(PodKey { uid: uid.clone(), namespace: String::new(), name: String::new() });
            observed.entry(uid.clone()).or_insert_with(unknown).leftovers = true;
        }
        let workloads = self.workloads();
        self.forget(&workloads, &observed);
        self.probe(&workloads, &observed, now);
        let upkeep = self.next_upkeep.is_none_or(|next| next <= now);
        if upkeep {
            self.next_upkeep = Some(now + UPKEEP_PERIOD);
        }
        for workload in workloads.values() {
            let empty = || ObservedPod::empty(workload.key.clone());
            let seen = observed.remove(&workload.key.uid).unwrap_or_else(empty);
            self.advance(workload, &seen, now);
            if upkeep {
                self.keep_up(workload, &seen);
            }
        }
        for (uid, seen) in observed {
            let memory = self.memory.entry(uid).or_default();
            memory.hasten(Some(Timestamp::MAX));
            let actions = if memory.work.is_some() { Vec::new() } else { plan_orphan(&seen, &memory.troubles, now) };
            self.carry_out(None, seen, actions);
        }
    }

    /// The next finished piece of work; waits for ever when none is under way.
    pub async fn done(&mut self) -> Done {
        loop {
            match self.tasks.join_next().await {
                Some(Ok(done)) => return done,
                Some(Err(error)) => tracing::error!(%error, "a task of the kubelet has failed"),
                None => std::future::pending().await,
            }
        }
    }

    /// Whether any work is under way.
    pub fn is_busy(&self) -> bool {
        !self.tasks.is_empty()
    }

    /// Takes the outcome of a piece of work.
    pub fn record(&mut self, done: Done, now: Timestamp) {
        match done {
            Done::Plan { uid, outcomes } => {
                let memory = self.memory.entry(uid.clone()).or_default();
                memory.work = None;
                for (subject, outcome) in outcomes {
                    note(&mut memory.troubles, &uid, subject, outcome, now);
                }
            }
            Done::Status { uid, outcome } => {
                let memory = self.memory.entry(uid.clone()).or_default();
                memory.writing = false;
                let fault = match outcome {
                    Ok(pod) => {
                        note(&mut memory.troubles, &uid, Subject::Object, Ok(()), now);
                        // The watch may have told the pod's end already; the answer must not bring it back.
                        let same = |known: &&Arc<Pod>| known.metadata.uid.as_ref() == Some(&uid);
                        if self.pods.get(&name_of(&pod)).filter(same).is_some() {
                            self.store(*pod);
                        }
                        return;
                    }
                    // The watch tells what changed, or that the pod is gone; the next look starts from there.
                    Err(failure) if failure.is_not_found() || failure.is_conflict() => Fault::quiet(failure),
                    Err(failure) => Fault::new("StatusNotWritten", failure),
                };
                note(&mut memory.troubles, &uid, Subject::Object, Err(fault), now);
            }
            Done::Probe { container, kind, outcome } => {
                if let Some(probes) = self.probes.get_mut(&container) {
                    probes.record(kind, outcome, now);
                }
            }
            Done::Upkeep { pod, outcome: Err(fault) } => {
                tracing::warn!(pod, error = fault.message, "logs or config volumes were not kept up");
            }
            Done::Upkeep { outcome: Ok(()), .. } => {}
        }
    }

    async fn look(&mut self) -> Result<BTreeMap<String, ObservedPod>, crate::runtime::Error> {
        let runtime = self.context.runtime.clone();
        if self.version.is_none() || self.health.unreachable.is_some() {
            self.version = Some(runtime.version().await?);
        }
        let health = runtime.health().await?;
        let observed = self.observer.look(runtime.as_ref()).await?;
        if self.health.unreachable.take().is_some() {
            tracing::info!("the container runtime answers again");
        }
        self.health.version = self.version.clone();
        self.health.runtime = Some(health);
        Ok(observed)
    }

    /// An older version than the known one is a late answer.
    fn store(&mut self, pod: Pod) {
        let version = |pod: &Pod| pod.metadata.resource_version.as_ref().and_then(|text| text.parse::<i64>().ok());
        let name = name_of(&pod);
        if self.pods.get(&name).is_none_or(|known| version(known) <= version(&pod)) {
            self.pods.insert(name, Arc::new(pod));
        }
    }

    fn workloads(&self) -> BTreeMap<String, Arc<Workload>> {
        let memory = self.context.facts.node_memory_bytes;
        let read = self.pods.values().map(|pod| workload(pod, memory));
        read.map(|workload| (workload.key.uid.clone(), Arc::new(workload))).collect()
    }

    fn forget(&mut self, workloads: &BTreeMap<String, Arc<Workload>>, observed: &BTreeMap<String, ObservedPod>) {
        self.memory.retain(|uid, memory| {
            memory.work.is_some() || memory.writing || workloads.contains_key(uid) || observed.contains_key(uid)
        });
        let live: BTreeSet<&str> = observed
            .values()
            .flat_map(|pod| pod.containers.iter())
            .filter(|container| container.running())
            .map(|container| container.container.id.as_str())
            .collect();
        self.probes.retain(|id, _| live.contains(id.as_str()));
    }

    /// Starts the checks that are due and gathers what the earlier ones say.
    fn probe(
        &mut self,
        workloads: &BTreeMap<String, Arc<Workload>>,
        observed: &BTreeMap<String, ObservedPod>,
        now: Timestamp,
    ) {
        for workload in workloads.values().filter(|workload| workload.delete_by.is_none()) {
            let Some(seen) = observed.get(&workload.key.uid) else { continue };
            let address = pod_ips(&self.context.facts, workload, seen).into_iter().next().unwrap_or_default();
            for wish in workload.init.iter().chain(&workload.containers) {
                let Some(run) = seen.named(&wish.name).next().filter(|run| run.running()) else { continue };
                let id = run.container.id.clone();
                if !self.probes.contains_key(&id) {
                    let started = run.times.started.unwrap_or(now);
                    let known = status::of_container(&workload.pod, &id);
                    let probes = ContainerProbes::new(wish, started).map(|probes| probes.resume(known));
                    self.probes.extend(probes.map(|probes| (id.clone(), probes)));
                }
                let Some(probes) = self.probes.get_mut(&id) else { continue };
                for (kind, probe) in probes.take_due(now) {
                    let (context, container, address) = (self.context.clone(), id.clone(), address.clone());
                    self.tasks.spawn(async move {
                        let outcome = probe::check(&probe, context.runtime.as_ref(), &container, &address).await;
                        Done::Probe { container, kind, outcome }
                    });
                }
            }
        }
        self.verdicts = self.probes.iter().map(|(id, probes)| (id.clone(), probes.verdict())).collect();
    }

    /// Plans one pod and writes its status when that has changed.
    fn advance(&mut self, workload: &Arc<Workload>, seen: &ObservedPod, now: Timestamp) {
        let memory = self.memory.entry(workload.key.uid.clone()).or_default();
        memory.hasten(workload.delete_by);
        let network_problem = self.health.runtime.as_ref().and_then(|health| health.network.as_deref());
        let troubles = &memory.troubles;
        let view = View { workload, observed: seen, troubles, verdicts: &self.verdicts, network_problem, now };
        let node = NodeFacts {
            host_ips: self.context.facts.host_ips.clone(),
            runtime_name: self.version.as_ref().map(|version| version.name.clone()).unwrap_or_default(),
        };
        let held = troubles.get(&Subject::Object).is_some_and(|trouble| trouble.retry_at > now);
        let patch = if memory.writing || held { None } else { status::patch(workload, &status::status(view, &node)) };
        let actions = if memory.work.is_some() { Vec::new() } else { plan(view) };
        if let Some(patch) = patch {
            memory.writing = true;
            let (context, key) = (self.context.clone(), workload.key.clone());
            self.tasks.spawn(async move {
                let outcome = context.cluster.patch_pod_status(&key.namespace, &key.name, &patch).await;
                Done::Status { uid: key.uid, outcome: outcome.map(Box::new) }
            });
        }
        self.carry_out(Some(workload.clone()), seen.clone(), actions);
    }

    fn carry_out(&mut self, workload: Option<Arc<Workload>>, seen: ObservedPod, actions: Vec<Action>) {
        if actions.is_empty() {
            return;
        }
        let (live, mut cut) = oneshot::channel();
        let end = workload.as_ref().map_or(Some(Timestamp::MAX), |workload| workload.delete_by);
        self.memory.entry(seen.key.uid.clone()).or_default().work = Some(Work { end, live: Some(live) });
        let context = self.context.clone();
        self.tasks.spawn(async move {
            let mut outcomes = Vec::new();
            for action in actions {
                tracing::debug!(pod = seen.key.name, uid = seen.key.uid, ?action, "acting");
                let outcome = tokio::select! {
                    outcome = execute::execute(&context, workload.as_deref(), &seen, &action) => outcome,
                    _ = &mut cut => break,
                };
                let failed = outcome.is_err();
                outcomes.push((action.subject(), outcome));
                // Containers of one pod start independently; every other step is the ground of the next.
                if failed && !matches!(action, Action::Start { .. }) {
                    break;
                }
            }
            Done::Plan { uid: seen.key.uid, outcomes }
        });
    }

    fn keep_up(&mut self, workload: &Arc<Workload>, seen: &ObservedPod) {
        if workload.delete_by.is_some() || seen.current().is_none() {
            return;
        }
        let (context, workload, seen) = (self.context.clone(), workload.clone(), seen.clone());
        self.tasks.spawn(async move {
            let outcome = execute::keep_up(&context, &workload, &seen).await;
            Done::Upkeep { pod: workload.key.name.clone(), outcome }
        });
    }
}

impl Memory {
    /// A deletion does not wait for the pod to start first, nor one with a shorter grace for a longer one: such work is
    /// given up, and what it has left behind is planned for as it is seen.
    fn hasten(&mut self, end: Option<Timestamp>) {
        if let (Some(work), Some(end)) = (&mut self.work, end)
            && work.end.is_none_or(|planned| end < planned)
        {
            work.live = None;
        }
    }
}

/// The addresses a pod answers on: its own, or the node's.
fn pod_ips(facts: &Facts, workload: &Workload, seen: &ObservedPod) -> Vec<String> {
    if workload.namespaces.host_network {
        return facts.host_ips.clone();
    }
    seen.current().map(|sandbox| status::primary_first(&sandbox.addresses, &facts.host_ips)).unwrap_or_default()
}

/// A failure stays with its subject, with growing pauses, until the subject succeeds.
fn note(troubles: &mut Troubles, uid: &str, subject: Subject, outcome: Result<(), Fault>, now: Timestamp) {
    let Err(fault) = outcome else {
        troubles.remove(&subject);
        return;
    };
    let count = troubles.get(&subject).map_or(0, |trouble| trouble.count) + 1;
    if !fault.quiet {
        tracing::warn!(uid, ?subject, reason = fault.reason, error = fault.message, count, "will be tried again");
    }
    let (first, limit) = fault.pauses();
    let retry_at = now + doubled(first, count - 1, limit);
    let trouble = Trouble { reason: fault.reason.to_owned(), message: fault.message, count, last: now, retry_at };
    troubles.insert(subject, trouble);
}

fn name_of(pod: &Pod) -> (String, String) {
    (pod.metadata.namespace.clone().unwrap_or_default(), pod.metadata.name.clone().unwrap_or_default())
}

#[cfg(test)]
mod tests;
