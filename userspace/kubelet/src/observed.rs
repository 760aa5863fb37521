//! What the runtime has of each pod. The list is asked each time; what only a status call tells is kept until the state
//! of the sandbox or container changes.

use crate::runtime::{Container, Error, PodKey, Runtime, Sandbox, State, Times};
use k8s_openapi::jiff::Timestamp;
use std::cmp::Reverse;
use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;

/// One pod as it is, whoever started it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ObservedPod {
    pub key: PodKey,
    /// Newest first.
    pub sandboxes: Vec<ObservedSandbox>,
    /// Highest attempt first, of all sandboxes.
    pub containers: Vec<ObservedContainer>,
    /// Directories or cgroups of the pod are still there.
    pub leftovers: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ObservedSandbox {
    pub sandbox: Sandbox,
    pub addresses: Vec<IpAddr>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ObservedContainer {
    pub container: Container,
    pub times: Times,
}

impl ObservedPod {
    pub fn empty(key: PodKey) -> ObservedPod {
        ObservedPod { key, sandboxes: Vec::new(), containers: Vec::new(), leftovers: false }
    }

    /// The sandbox that new containers go into.
    pub fn current(&self) -> Option<&ObservedSandbox> {
        self.sandboxes.first().filter(|observed| observed.sandbox.ready)
    }

    /// All containers of one name, highest attempt first.
    pub fn named<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a ObservedContainer> {
        self.containers.iter().filter(move |observed| observed.container.name == name)
    }
}

impl ObservedContainer {
    pub fn running(&self) -> bool {
        self.container.state == State::Running
    }

    /// It ran, or was to run, and never will again.
    pub fn ended(&self) -> bool {
        matches!(self.container.state, State::Exited | State::Unknown)
    }

    pub fn annotation(&self, key: &str) -> Option<&str> {
        self.container.annotations.get(key).map(String::as_str)
    }

    /// When it ended; a container that the runtime lost has no better time than its start.
    pub fn finished(&self) -> Timestamp {
        self.times.finished.or(self.times.started).unwrap_or_default()
    }
}

/// Reads the runtime, and remembers what does not change between two looks.
#[derive(Default)]
pub struct Observer {
    addresses: HashMap<String, Vec<IpAddr>>,
    times: HashMap<String, (State, Times)>,
}

impl Observer {
    /// Everything the runtime has, by pod uid.
    pub async fn look(&mut self, runtime: &dyn Runtime) -> Result<BTreeMap<String, ObservedPod>, Error> {
        let sandboxes = runtime.list_sandboxes().await?;
        let containers = runtime.list_containers().await?;
        let owners: HashMap<String, PodKey> =
            sandboxes.iter().map(|sandbox| (sandbox.id.clone(), sandbox.pod.clone())).collect();
        self.addresses.retain(|id, _| owners.contains_key(id));
        let mut states: HashMap<&str, State> = HashMap::new();
        states.extend(containers.iter().map(|container| (container.id.as_str(), container.state)));
        self.times.retain(|id, (state, _)| states.get(id.as_str()) == Some(state));

        let mut pods: BTreeMap<String, ObservedPod> = BTreeMap::new();
        for sandbox in sandboxes {
            let addresses = self.addresses_of(runtime, &sandbox).await?;
            let pod = pods.entry(sandbox.pod.uid.clone()).or_insert_with(|| ObservedPod::empty(sandbox.pod.clone()));
            pod.sandboxes.push(ObservedSandbox { sandbox, addresses });
        }
        for container in containers {
            let Some(owner) = owners.get(&container.sandbox) else { continue };
            let times = self.times_of(runtime, &container).await?;
            if let Some(pod) = pods.get_mut(&owner.uid) {
                pod.containers.push(ObservedContainer { container, times });
            }
        }
        for pod in pods.values_mut() {
            pod.sandboxes.sort_by_key(|observed| Reverse(observed.sandbox.attempt));
            pod.containers.sort_by_key(|observed| Reverse(observed.container.attempt));
        }
        Ok(pods)
    }

    async fn addresses_of(&mut self, runtime: &dyn Runtime, sandbox: &Sandbox) -> Result<Vec<IpAddr>, Error> {
        if !sandbox.ready {
            self.addresses.remove(&sandbox.id);
            return Ok(Vec::new());
        }
        if let Some(known) = self.addresses.get(&sandbox.id) {
            return Ok(known.clone());
        }
        let addresses = gone_is_empty(runtime.sandbox_addresses(&sandbox.id).await)?;
        self.addresses.insert(sandbox.id.clone(), addresses.clone());
        Ok(addresses)
    }

    async fn times_of(&mut self, runtime: &dyn Runtime, container: &Container) -> Result<Times, Error> {
        if let Some((_, times)) = self.times.get(&container.id) {
            return Ok(times.clone());
        }
        let times = gone_is_empty(runtime.container_times(&container.id).await)?;
        self.times.insert(container.id.clone(), (container.state, times.clone()));
        Ok(times)
    }
}

/// What vanished between the list and the question is told by the next list.
fn gone_is_empty<T: Default>(result: Result<T, Error>) -> Result<T, Error> {
    match result {
        Err(Error::NotFound { .. }) => Ok(T::default()),
        other => other,
    }
}
