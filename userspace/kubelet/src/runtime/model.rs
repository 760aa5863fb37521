//! A container runtime in memory, with its own clock: every call takes [`Model::LATENCY`] of it, programs run on it.
//! It keeps the rules of a real runtime: unique names that a failed start leaves taken, states that only move forward,
//! images that must be present, a bounded pool of addresses. It can be away and it can refuse.

mod program;

use super::{
    Container, ContainerSpec, Error, Health, PodKey, Runtime, Sandbox, SandboxSpec, State, Times, Version, labels,
};
use async_trait::async_trait;
use k8s_openapi::jiff::Timestamp;
use program::Program;
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

/// Handle of one runtime; clones share it.
#[derive(Clone)]
pub struct Model {
    world: Arc<Mutex<World>>,
}

struct World {
    now: Timestamp,
    next_id: u32,
    next_address: u8,
    sandboxes: BTreeMap<String, SandboxRecord>,
    containers: BTreeMap<String, ContainerRecord>,
    images: BTreeSet<String>,
    /// Images whose registry never answers.
    stalled: BTreeSet<String>,
    away: bool,
    /// Text of the next refusal of an operation.
    refusals: BTreeMap<&'static str, String>,
    network_problem: Option<String>,
}

struct SandboxRecord {
    sandbox: Sandbox,
    address: Option<IpAddr>,
}

struct ContainerRecord {
    container: Container,
    program: Program,
    times: Times,
}

impl Model {
    /// Virtual time that one call takes.
    pub const LATENCY: Duration = Duration::from_millis(10);
    /// Sandboxes with an address of their own that fit in the pool.
    pub const ADDRESSES: u8 = 250;

    /// An empty runtime that holds `images`, its clock at `now`.
    pub fn new(now: Timestamp, images: &[&str]) -> Model {
        let world = World {
            now,
            next_id: 1,
            next_address: 1,
            sandboxes: BTreeMap::new(),
            containers: BTreeMap::new(),
            images: images.iter().map(|&image| image.to_owned()).collect(),
            stalled: BTreeSet::new(),
            away: false,
            refusals: BTreeMap::new(),
            network_problem: None,
        };
        Model { world: Arc::new(Mutex::new(world)) }
    }

    pub fn now(&self) -> Timestamp {
        self.world().now
    }

    /// Lets time pass: programs end when their time has come.
    pub fn advance(&self, by: Duration) {
        let mut world = self.world();
        world.now += by;
        world.settle();
    }

    /// Takes the runtime away or brings it back; what runs goes on.
    pub fn set_away(&self, away: bool) {
        self.world().away = away;
    }

    /// The next call of `operation`, such as `run_sandbox`, is refused.
    pub fn refuse_next(&self, operation: &'static str, message: &str) {
        self.world().refusals.insert(operation, message.to_owned());
    }

    pub fn set_network_problem(&self, problem: Option<&str>) {
        self.world().network_problem = problem.map(str::to_owned);
    }

    pub fn add_image(&self, image: &str) {
        self.world().images.insert(image.to_owned());
    }

    /// From now on fetching this image takes for ever.
    pub fn stall_pull(&self, image: &str) {
        self.world().stalled.insert(image.to_owned());
    }

    /// Ends a running container from outside, as a crash of the program does.
    pub fn crash(&self, id: &str, exit_code: i32) {
        let mut world = self.world();
        world.end(id, exit_code);
    }

    fn world(&self) -> MutexGuard<'_, World> {
        // A panic of another test thread leaves the plain data behind whole.
        self.world.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    fn call(&self, operation: &'static str, subject: &str) -> Result<MutexGuard<'_, World>, Error> {
        let mut world = self.world();
        world.now += Model::LATENCY;
        world.settle();
        if world.away {
            return Err(Error::Unreachable { endpoint: "model".to_owned(), message: "away".to_owned() });
        }
        match world.refusals.remove(operation) {
            // A failed start of a sandbox leaves its name taken, as containerd does.
            Some(message) if operation != "run_sandbox" => Err(refused(operation, subject, &message)),
            Some(message) => {
                world.refusals.insert("network", message);
                Ok(world)
            }
            None => Ok(world),
        }
    }
}

impl World {
    fn id(&mut self, prefix: &str) -> String {
        self.next_id += 1;
        format!("{prefix}{:08x}", self.next_id)
    }

    fn settle(&mut self) {
        let now = self.now;
        for record in self.containers.values_mut().filter(|record| record.container.state == State::Running) {
            let Some(started) = record.times.started else { continue };
            if let Some((after, code)) = record.program.natural_end()
                && now >= started + after
            {
                record.end(started + after, code);
            }
        }
    }

    fn end(&mut self, id: &str, exit_code: i32) {
        let now = self.now;
        if let Some(record) = self.containers.get_mut(id).filter(|record| record.container.state == State::Running) {
            record.end(now, exit_code);
        }
    }

    fn free_address(&mut self) -> Option<IpAddr> {
        let taken: BTreeSet<IpAddr> = self.sandboxes.values().filter_map(|record| record.address).collect();
        for _ in 0..Model::ADDRESSES {
            let address = IpAddr::V4(Ipv4Addr::new(10, 244, 1, self.next_address + 1));
            self.next_address = self.next_address % Model::ADDRESSES + 1;
            if !taken.contains(&address) {
                return Some(address);
            }
        }
        None
    }
}

impl ContainerRecord {
    fn end(&mut self, at: Timestamp, exit_code: i32) {
        self.container.state = State::Exited;
        self.times.finished = Some(at);
        self.times.exit_code = exit_code;
        self.times.reason = if exit_code == 0 { "Completed" } else { "Error" }.to_owned();
    }
}

#[async_trait]
impl Runtime for Model {
    async fn version(&self) -> Result<Version, Error> {
        drop(self.call("version", "")?);
        Ok(Version { name: "model".to_owned(), version: "1.0.0".to_owned() })
    }

    async fn health(&self) -> Result<Health, Error> {
        let world = self.call("health", "")?;
        Ok(Health { runtime: None, network: world.network_problem.clone() })
    }

    async fn run_sandbox(&self, spec: &SandboxSpec) -> Result<String, Error> {
        let mut world = self.call("run_sandbox", &spec.pod.name)?;
        let failure = world.refusals.remove("network");
        let same = |sandbox: &Sandbox| sandbox.pod == spec.pod && sandbox.attempt == spec.attempt;
        if let Some(taken) = world.sandboxes.values().find(|record| same(&record.sandbox)) {
            let message = format!("name is reserved for {}", taken.sandbox.id);
            return Err(refused("run_sandbox", &spec.pod.name, &message));
        }
        let address = if spec.namespaces.host_network { None } else { world.free_address() };
        if address.is_none() && !spec.namespaces.host_network {
            return Err(refused("run_sandbox", &spec.pod.name, "no address is free"));
        }
        let id = world.id("s");
        let created = world.now;
        let ready = failure.is_none();
        let sandbox = Sandbox { id: id.clone(), pod: spec.pod.clone(), attempt: spec.attempt, ready, created };
        world.sandboxes.insert(id.clone(), SandboxRecord { sandbox, address: address.filter(|_| ready) });
        failure.map_or(Ok(id), |message| Err(refused("run_sandbox", &spec.pod.name, &message)))
    }

    async fn stop_sandbox(&self, id: &str) -> Result<(), Error> {
        let mut world = self.call("stop_sandbox", id)?;
        if let Some(record) = world.sandboxes.get_mut(id) {
            record.sandbox.ready = false;
            record.address = None;
        }
        let inside = |record: &&ContainerRecord| record.container.sandbox == id;
        let ids: Vec<String> =
            world.containers.values().filter(inside).map(|record| record.container.id.clone()).collect();
        for container in ids {
            world.end(&container, 137);
        }
        Ok(())
    }

    async fn remove_sandbox(&self, id: &str) -> Result<(), Error> {
        self.stop_sandbox(id).await?;
        let mut world = self.call("remove_sandbox", id)?;
        world.sandboxes.remove(id);
        world.containers.retain(|_, record| record.container.sandbox != id);
        Ok(())
    }

    async fn list_sandboxes(&self) -> Result<Vec<Sandbox>, Error> {
        let world = self.call("list_sandboxes", "")?;
        Ok(world.sandboxes.values().map(|record| record.sandbox.clone()).collect())
    }

    async fn sandbox_addresses(&self, id: &str) -> Result<Vec<IpAddr>, Error> {
        let world = self.call("sandbox_addresses", id)?;
        let record = world.sandboxes.get(id).ok_or_else(|| not_found("sandbox_addresses", id))?;
        Ok(record.address.into_iter().collect())
    }

    async fn create_container(&self, sandbox: &str, spec: &ContainerSpec) -> Result<String, Error> {
        let mut world = self.call("create_container", &spec.name)?;
        if !world.sandboxes.get(sandbox).is_some_and(|record| record.sandbox.ready) {
            return Err(refused("create_container", &spec.name, "the sandbox is not ready"));
        }
        if !world.images.contains(&spec.image) {
            return Err(not_found("create_container", &spec.image));
        }
        let pod: PodKey = spec.sandbox.pod.clone();
        let taken = world.containers.values().any(|record| {
            record.container.name == spec.name
                && record.container.attempt == spec.attempt
                && record.container.annotations.get(labels::POD_UID) == Some(&pod.uid)
        });
        if taken {
            return Err(refused("create_container", &spec.name, "name is reserved"));
        }
        let id = world.id("c");
        let mut annotations = spec.annotations.clone();
        annotations.insert(labels::POD_UID.to_owned(), pod.uid);
        let container = Container {
            id: id.clone(),
            sandbox: sandbox.to_owned(),
            name: spec.name.clone(),
            attempt: spec.attempt,
            state: State::Created,
            image: spec.image.clone(),
            image_id: image_id(&spec.image),
            annotations,
        };
        let program = Program::new(&spec.command, &spec.args);
        world.containers.insert(id.clone(), ContainerRecord { container, program, times: Times::default() });
        Ok(id)
    }

    async fn start_container(&self, id: &str) -> Result<(), Error> {
        let mut world = self.call("start_container", id)?;
        let now = world.now;
        let record = world.containers.get_mut(id).ok_or_else(|| not_found("start_container", id))?;
        if record.container.state != State::Created {
            return Err(refused("start_container", id, "the container is not in the created state"));
        }
        if record.program.is_missing() {
            record.end(now, 128);
            record.times.reason = "StartError".to_owned();
            return Err(refused("start_container", id, "executable file not found"));
        }
        record.container.state = State::Running;
        record.times.started = Some(now);
        Ok(())
    }

    async fn stop_container(&self, id: &str, grace: Duration) -> Result<(), Error> {
        let mut world = self.call("stop_container", id)?;
        let Some(record) = world.containers.get(id) else { return Ok(()) };
        match record.program.answer_to_term() {
            Some(code) if !grace.is_zero() => world.end(id, code),
            _ => {
                world.now += grace;
                world.settle();
                world.end(id, 137);
            }
        }
        Ok(())
    }

    async fn remove_container(&self, id: &str) -> Result<(), Error> {
        let mut world = self.call("remove_container", id)?;
        world.end(id, 137);
        world.containers.remove(id);
        Ok(())
    }

    async fn list_containers(&self) -> Result<Vec<Container>, Error> {
        let world = self.call("list_containers", "")?;
        Ok(world.containers.values().map(|record| record.container.clone()).collect())
    }

    async fn container_times(&self, id: &str) -> Result<Times, Error> {
        let world = self.call("container_times", id)?;
        world.containers.get(id).map(|record| record.times.clone()).ok_or_else(|| not_found("container_times", id))
    }

    async fn exec(&self, id: &str, command: &[String], timeout: Duration) -> Result<i32, Error> {
        let mut world = self.call("exec", id)?;
        if !world.containers.get(id).is_some_and(|record| record.container.state == State::Running) {
            return Err(refused("exec", id, "the container is not running"));
        }
        match Program::new(command, &[]).natural_end() {
            Some((after, code)) if after <= timeout => {
                world.now += after;
                Ok(code)
            }
            _ => {
                world.now += timeout;
                Err(Error::Timeout { operation: "exec", subject: id.to_owned() })
            }
        }
    }

    async fn reopen_log(&self, id: &str) -> Result<(), Error> {
        self.call("reopen_log", id).map(drop)
    }

    async fn image(&self, name: &str) -> Result<Option<String>, Error> {
        let world = self.call("image", name)?;
        Ok(world.images.contains(name).then(|| image_id(name)))
    }

    async fn pull(&self, name: &str) -> Result<String, Error> {
        if self.world().stalled.contains(name) {
            return std::future::pending().await;
        }
        let world = self.call("pull", name)?;
        world.images.contains(name).then(|| image_id(name)).ok_or_else(|| not_found("pull", name))
    }
}

fn image_id(name: &str) -> String {
    format!("sha256:{name}")
}

fn refused(operation: &'static str, subject: &str, message: &str) -> Error {
    Error::Refused { operation, subject: subject.to_owned(), message: message.to_owned() }
}

fn not_found(operation: &'static str, subject: &str) -> Error {
    Error::NotFound { operation, subject: subject.to_owned() }
}
