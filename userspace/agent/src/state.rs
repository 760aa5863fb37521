//! What the agent knows of itself, for the operator: written by the agent's loop, read by the HTTP endpoint.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use tokio::sync::{mpsc, oneshot};

use crate::desired::{PortKey, ServiceName};
use crate::destroy::Closed;
use crate::sweep::Swept;

/// Questions that may wait for the loop at a time.
const QUESTIONS: usize = 16;

/// Upper bounds of the buckets of [`Latency`], in seconds.
pub const BUCKETS: [f64; 12] = [0.0001, 0.0003, 0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0];

/// The agent's state. Cheap to clone; all clones are the same.
#[derive(Clone)]
pub struct Handle {
    state: Arc<Mutex<State>>,
    questions: mpsc::Sender<Question>,
}

/// The loop's end of a [`Handle`].
pub struct Questions(mpsc::Receiver<Question>);

/// Something only the loop can answer, because it alone has the objects.
pub enum Question {
    /// The names of all service ids in use.
    Names(oneshot::Sender<Vec<NamedService>>),
    /// How much there is of everything. Counting takes too long to be done at every turn.
    Census(oneshot::Sender<Census>),
}

/// A service id and the Service port it stands for.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct NamedService {
    pub id: u32,
    pub name: ServiceName,
    pub port: PortKey,
}

/// What the loop last wrote down. A default is that of an agent that has just begun.
#[derive(Clone, Debug)]
pub struct State {
    pub started: SystemTime,
    /// When the loop last came round; nothing before it begins.
    pub turned: Option<Instant>,
    pub readiness: Readiness,
    /// When the maps were last compared whole with what they should hold: the first sync, and each resync.
    pub full_sync: Option<SystemTime>,
    /// Writes that reached the maps.
    pub writes: u64,
    /// From the watch event to the written map.
    pub latency: Latency,
    pub sweeps: Sweeps,
    /// Sockets of clients of backends that were gone.
    pub closed: Closed,
}

/// What must hold before this node takes pods and traffic.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Readiness {
    /// The programs are loaded and attached.
    pub programs: bool,
    /// The snapshot of Services is in; so are those of EndpointSlices and Nodes.
    pub services: bool,
    pub endpoint_slices: bool,
    pub nodes: bool,
    /// The maps have once been brought to what the sources say.
    pub maps: bool,
    /// The CNI plugin is answered.
    pub cni: bool,
}

/// What is in use, as the agent's mirror of the maps has it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Census {
    /// Services that are served.
    pub services: usize,
    /// Their ports: service ids.
    pub service_ports: usize,
    pub frontends: usize,
    /// Elements of all rows: endpoints, once for each service port they serve.
    pub slots: usize,
    /// Backends that are alive.
    pub backends: usize,
    pub members: usize,
    /// Other nodes, and their pod CIDRs.
    pub nodes: usize,
    pub routes: usize,
    /// Pods of this node.
    pub pods: usize,
    /// How many objects are not served, or not in all, by reason.
    pub refused: BTreeMap<&'static str, usize>,
}

/// What the conntrack sweeper did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sweeps {
    pub runs: u64,
    /// Entries it removed, of all runs.
    pub expired: u64,
    /// Entries that were left after the last run, about.
    pub entries: u64,
    /// Clients of services with affinity it forgot, of all runs.
    pub clients: u64,
}

/// How long things took, by [`BUCKETS`].
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Latency {
    /// Each bucket's own; the last is of what no bucket takes.
    pub counts: [u64; BUCKETS.len() + 1],
    pub sum: f64,
}

/// A fresh state, and the loop's end of it.
pub fn channel() -> (Handle, Questions) {
    let (questions, receiver) = mpsc::channel(QUESTIONS);
    (Handle { state: Arc::default(), questions }, Questions(receiver))
}

impl Handle {
    /// A copy of the present state.
    pub fn get(&self) -> State {
        self.lock().clone()
    }

    /// Changes the state; `change` must be short.
    pub fn update(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.lock());
    }

    /// The names of all service ids; nothing when the loop does not answer within `patience`.
    pub async fn names(&self, patience: Duration) -> Option<Vec<NamedService>> {
        self.ask(Question::Names, patience).await
    }

    /// How much there is of everything; nothing when the loop does not answer within `patience`.
    pub async fn census(&self, patience: Duration) -> Option<Census> {
        self.ask(Question::Census, patience).await
    }

    async fn ask<T>(&self, question: fn(oneshot::Sender<T>) -> Question, patience: Duration) -> Option<T> {
        let (reply, answer) = oneshot::channel();
        let ask = async {
            self.questions.send(question(reply)).await.ok()?;
            answer.await.ok()
        };
        tokio::time::timeout(patience, ask).await.ok().flatten()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Each field is a fact of its own: a panic elsewhere leaves none of them wrong.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Questions {
    /// The next question; never returns when there will be none. Dropping the future loses nothing.
    pub async fn next(&mut self) -> Question {
        match self.0.recv().await {
            Some(question) => question,
            None => std::future::pending().await,
        }
    }
}

impl Default for State {
    fn default() -> Self {
        Self {
            started: SystemTime::now(),
            turned: None,
            readiness: Readiness::default(),
            full_sync: None,
            writes: 0,
            latency: Latency::default(),
            sweeps: Sweeps::default(),
            closed: Closed::default(),
        }
    }
}

impl Readiness {
    /// Each condition: a name, whether it holds, and what is missing when it does not.
    pub fn checks(&self) -> [(&'static str, bool, &'static str); 6] {
        [
            ("programs", self.programs, "not attached yet: the agent waits for its Node, or the log says what failed"),
            ("services", self.services, "no snapshot from the apiserver yet"),
            ("endpointslices", self.endpoint_slices, "no snapshot from the apiserver yet"),
            ("nodes", self.nodes, "no snapshot from the apiserver yet"),
            ("maps", self.maps, "not brought in line with the objects yet"),
            ("cni", self.cni, "the CNI plugin is not answered yet"),
        ]
    }

    pub fn is_ready(&self) -> bool {
        self.checks().iter().all(|(_, holds, _)| *holds)
    }
}

impl Sweeps {
    pub fn add(&mut self, swept: Swept) {
        self.expired += swept.flows;
        self.clients += swept.clients;
        if let Some(left) = swept.round {
            self.runs += 1;
            self.entries = left;
        }
    }
}

impl Latency {
    pub fn observe(&mut self, took: Duration) {
        let seconds = took.as_secs_f64();
        let bucket = BUCKETS.iter().position(|bound| seconds <= *bound).unwrap_or(BUCKETS.len());
        self.counts[bucket] += 1;
        self.sum += seconds;
    }

    pub fn count(&self) -> u64 {
        self.counts.iter().sum()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::desired::Family;

    #[test]
    fn a_latency_counts_in_the_first_bucket_that_takes_it() {
        let mut latency = Latency::default();
        for millis in [0, 1, 2, 100_000] {
            latency.observe(Duration::from_millis(millis));
        }
        assert_eq!(latency.counts, [1, 0, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 1]);
        assert_eq!((latency.count(), latency.sum), (4, 100.003));
    }

    #[tokio::test]
    async fn the_loop_is_asked_for_names_and_its_silence_is_no_answer() {
        let (handle, mut questions) = channel();
        let name = ServiceName { namespace: "a".into(), name: "b".into() };
        let named = NamedService { id: 3, name, port: PortKey { port: 80, protocol: 6, family: Family::V4 } };
        let answer = async {
            let Question::Names(reply) = questions.next().await else { panic!("another question") };
            reply.send(vec![named.clone()]).unwrap();
        };
        let (names, ()) = tokio::join!(handle.names(Duration::from_secs(5)), answer);
        assert_eq!(names.unwrap(), [named]);
        assert_eq!(handle.names(Duration::from_millis(1)).await, None);
    }
}
