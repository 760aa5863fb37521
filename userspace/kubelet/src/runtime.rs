//! What the kubelet asks of a container runtime. Two implementations: [`cri`] speaks CRI v1 to containerd, [`model`] is
//! a model in memory; [`conformance`] holds both to the same behaviour.

pub mod conformance;
pub mod cri;
pub mod model;

use async_trait::async_trait;
use k8s_openapi::jiff::Timestamp;
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

/// A container runtime, as the kubelet needs it. `stop_*` and `remove_*` succeed when the thing is already gone.
#[async_trait]
pub trait Runtime: Send + Sync + 'static {
    /// Name and version of the runtime, such as `containerd` and `1.6.20`.
    async fn version(&self) -> Result<Version, Error>;
    /// Whether the runtime and its network are ready, with the reason when they are not.
    async fn health(&self) -> Result<Health, Error>;

    /// Creates and starts a sandbox, network included; the answer is its id. A name (namespace, name, uid, attempt)
    /// that exists already is refused.
    async fn run_sandbox(&self, spec: &SandboxSpec) -> Result<String, Error>;
    /// Kills what runs in the sandbox and gives its network back.
    async fn stop_sandbox(&self, id: &str) -> Result<(), Error>;
    /// Removes a sandbox with all its containers.
    async fn remove_sandbox(&self, id: &str) -> Result<(), Error>;
    /// All sandboxes made for pods, ready or not.
    async fn list_sandboxes(&self) -> Result<Vec<Sandbox>, Error>;
    /// The addresses of a sandbox, primary first; empty on the host's network.
    async fn sandbox_addresses(&self, id: &str) -> Result<Vec<IpAddr>, Error>;

    /// Creates a container in a ready sandbox; the answer is its id. The image must be present.
    async fn create_container(&self, sandbox: &str, spec: &ContainerSpec) -> Result<String, Error>;
    /// Starts a created container.
    async fn start_container(&self, id: &str) -> Result<(), Error>;
    /// Asks the container to end (TERM) and kills it when `grace` has passed. Returns after it has ended.
    async fn stop_container(&self, id: &str, grace: Duration) -> Result<(), Error>;
    /// Removes a container that has ended.
    async fn remove_container(&self, id: &str) -> Result<(), Error>;
    /// All containers, without what only [`Runtime::container_times`] knows.
    async fn list_containers(&self) -> Result<Vec<Container>, Error>;
    /// Start and end of one container.
    async fn container_times(&self, id: &str) -> Result<Times, Error>;
    /// Runs a command in a running container and waits for its exit code, at most `timeout`.
    async fn exec(&self, id: &str, command: &[String], timeout: Duration) -> Result<i32, Error>;
    /// Tells the runtime that the log file of a running container was moved away.
    async fn reopen_log(&self, id: &str) -> Result<(), Error>;

    /// The id of an image that is present.
    async fn image(&self, name: &str) -> Result<Option<String>, Error>;
    /// Fetches an image; the answer is its id.
    async fn pull(&self, name: &str) -> Result<String, Error>;
}

/// Why the runtime did not do what was asked.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Error {
    #[error("the container runtime at {endpoint} cannot be reached: {message}")]
    Unreachable { endpoint: String, message: String },
    #[error("{operation} {subject}: not found")]
    NotFound { operation: &'static str, subject: String },
    #[error("{operation} {subject}: no answer within the deadline")]
    Timeout { operation: &'static str, subject: String },
    #[error("{operation} {subject}: {message}")]
    Refused { operation: &'static str, subject: String, message: String },
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Version {
    pub name: String,
    pub version: String,
}

/// The two conditions a runtime reports; `None` is healthy, `Some` says why not.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Health {
    pub runtime: Option<String>,
    pub network: Option<String>,
}

/// Identity of a pod; the uid alone tells two pods of one name apart.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PodKey {
    pub namespace: String,
    pub name: String,
    pub uid: String,
}

/// What a sandbox is made of.
#[derive(Clone, Debug)]
pub struct SandboxSpec {
    pub pod: PodKey,
    /// Counts the sandboxes of one pod; part of the sandbox's name.
    pub attempt: u32,
    /// Empty on the host's network: the host's name is kept.
    pub hostname: String,
    /// `None` leaves the host's resolv.conf.
    pub dns: Option<Dns>,
    pub namespaces: Namespaces,
    pub privileged: bool,
    pub sysctls: BTreeMap<String, String>,
    /// Path below the root of each cgroup hierarchy.
    pub cgroup_parent: String,
    /// Host directory that holds the logs of the pod's containers.
    pub log_directory: String,
    pub labels: BTreeMap<String, String>,
}

/// Which namespaces of the host, or of the pod, its containers share.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Namespaces {
    pub host_network: bool,
    pub host_pid: bool,
    pub host_ipc: bool,
    /// One PID namespace for all containers of the pod.
    pub share_pid: bool,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Dns {
    pub servers: Vec<String>,
    pub searches: Vec<String>,
    pub options: Vec<String>,
}

/// What a container is made of.
#[derive(Clone, Debug)]
pub struct ContainerSpec {
    /// The sandbox it goes into: CRI wants its whole description again.
    pub sandbox: SandboxSpec,
    pub name: String,
    /// Counts the starts of this container in its pod, from 0: the restart count.
    pub attempt: u32,
    pub image: String,
    /// Replaces the image's entrypoint when not empty.
    pub command: Vec<String>,
    pub args: Vec<String>,
    pub env: Vec<(String, String)>,
    pub working_dir: String,
    pub mounts: Vec<Mount>,
    /// Relative to the sandbox's log directory.
    pub log_path: String,
    pub labels: BTreeMap<String, String>,
    pub annotations: BTreeMap<String, String>,
    pub resources: Resources,
    pub security: Security,
    pub tty: bool,
    pub stdin: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mount {
    pub host_path: String,
    pub container_path: String,
    pub read_only: bool,
}

/// Limits of one container; 0 is "no limit".
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Resources {
    /// Relative weight, 1024 for a whole CPU.
    pub cpu_shares: i64,
    /// Microseconds of CPU time in each period of 100 ms.
    pub cpu_quota: i64,
    pub memory_limit_bytes: i64,
    pub oom_score_adj: i64,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Security {
    pub privileged: bool,
    pub run_as_user: Option<i64>,
    pub run_as_group: Option<i64>,
    pub supplemental_groups: Vec<i64>,
    pub read_only_root: bool,
    pub no_new_privileges: bool,
    pub add_capabilities: Vec<String>,
    pub drop_capabilities: Vec<String>,
}

/// A sandbox as listed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sandbox {
    pub id: String,
    pub pod: PodKey,
    pub attempt: u32,
    pub ready: bool,
    pub created: Timestamp,
}

/// A container as listed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Container {
    pub id: String,
    pub sandbox: String,
    pub name: String,
    pub attempt: u32,
    pub state: State,
    pub image: String,
    pub image_id: String,
    pub annotations: BTreeMap<String, String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    Created,
    Running,
    Exited,
    /// The runtime lost it, for instance over a reboot: as good as ended.
    Unknown,
}

/// When a container ran, and how it ended.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Times {
    pub started: Option<Timestamp>,
    pub finished: Option<Timestamp>,
    pub exit_code: i32,
    /// One word of the runtime, such as `OOMKilled`, `Completed` or `Error`.
    pub reason: String,
    pub message: String,
}

/// Labels and annotations on sandboxes and containers: how a kubelet that starts anew knows what is running.
pub mod labels {
    pub const POD_NAME: &str = "io.kubernetes.pod.name";
    pub const POD_NAMESPACE: &str = "io.kubernetes.pod.namespace";
    pub const POD_UID: &str = "io.kubernetes.pod.uid";
    pub const CONTAINER_NAME: &str = "io.kubernetes.container.name";
    /// Hash of what may change in a container of a living pod; a difference means "restart".
    pub const CONTAINER_HASH: &str = "io.kubernetes.container.hash";
    /// Grace in seconds, for containers whose pod object is gone.
    pub const GRACE_SECONDS: &str = "io.kubernetes.pod.terminationGracePeriod";
    /// How many restarts in a row came before this start: the exponent of the back-off.
    pub const BACKOFF_STEP: &str = "diolkos.io/backoff-step";
}
