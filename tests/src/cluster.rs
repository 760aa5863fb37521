//! A whole cluster: etcd and the control plane in one space, and nodes around them.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use crate::eventually;
use crate::guard::Guard;
use crate::image::{self, ImageSpec};
use crate::process::Process;
use crate::space::{Space, Spaces, finish};
use crate::tools;

mod control_plane;
pub mod network;
mod node;
mod pod;

pub use network::Families;
pub use node::Node;
pub use pod::Pod;

/// Each step of a start has to be through by then; loaded machines with two cores are slow.
const START: Duration = Duration::from_secs(60);

/// What to start.
#[derive(Clone, Debug)]
pub struct ClusterConfig {
    pub nodes: u32,
    /// Archives (`docker save` or OCI layout) every node's containerd has.
    pub images: Vec<PathBuf>,
    /// Capacity of each node, as the kubelet's flag.
    pub capacity: String,
    /// Address families of nodes, pods and Services.
    pub families: Families,
    /// Further flags of every agent.
    pub agent_flags: Vec<String>,
    /// Log filter of our own components.
    pub log: String,
    /// Told about each step as it begins.
    pub progress: fn(&str),
}

impl Default for ClusterConfig {
    fn default() -> Self {
        Self {
            nodes: 3,
            images: Vec::new(),
            capacity: "cpu=2,memory=4Gi,pods=110".into(),
            families: Families::default(),
            agent_flags: Vec::new(),
            log: "info".into(),
            progress: |_| {},
        }
    }
}

/// A running cluster. Fields are dropped in order: servers, then namespaces, then files and cgroups.
pub struct Cluster {
    nodes: Vec<Node>,
    control_plane: Vec<Process>,
    admin: PathBuf,
    spaces: Spaces,
    guard: Guard,
}

impl Cluster {
    /// Returns when every node is Ready. On a failure the error carries the end of the logs, and nothing stays.
    pub fn start(config: &ClusterConfig) -> Result<Self> {
        let guard = Guard::new()?;
        let spaces = Spaces::new(guard.make_cgroup("control")?)?;
        network::bridge(spaces.control(), config.families)?;
        let admin = guard.directory().join("admin.kubeconfig");
        let mut cluster = Self { nodes: Vec::new(), control_plane: Vec::new(), admin, spaces, guard };
        cluster.start_all(config).map_err(|error| cluster.explain(error))?;
        Ok(cluster)
    }

    fn start_all(&mut self, config: &ClusterConfig) -> Result<()> {
        (config.progress)("etcd and the control plane");
        control_plane::start(self, config)?;
        (config.progress)(&format!("{} nodes: containerd, images, kubelet, agent", config.nodes));
        for index in 1..=config.nodes {
            let node = Node::start(self, config, index)?;
            self.nodes.push(node);
        }
        for index in 0..self.nodes.len() {
            self.nodes[index].finish_start(config)?;
        }
        (config.progress)("waiting for the nodes to be Ready");
        self.wait_ready()
    }

    /// Every node says Ready.
    pub fn wait_ready(&mut self) -> Result<()> {
        self.wait("every node is Ready", START, |cluster| {
            let nodes = cluster.get(&["nodes"])?;
            let ready = items(&nodes).filter(|node| is_true(node, "Ready")).count();
            ensure!(ready == cluster.nodes.len(), "{ready} of {} nodes are Ready", cluster.nodes.len());
            Ok(())
        })
    }

    /// Like [`eventually`], and fails at once when a server has ended.
    pub fn wait<T>(&mut self, what: &str, limit: Duration, mut look: impl FnMut(&mut Self) -> Result<T>) -> Result<T> {
        let start = Instant::now();
        let mut dead = None;
        let result = eventually(what, limit, || {
            if let Err(error) = self.check() {
                dead = Some(error);
            }
            match &dead {
                Some(_) => Ok(None),
                None => look(self).map(Some),
            }
        });
        match (dead, result) {
            (Some(error), _) => Err(error.context(format!("{what}: waited for {} s", start.elapsed().as_secs()))),
            (None, Ok(Some(found))) => Ok(found),
            (None, Ok(None)) => anyhow::bail!("{what}: gave up"),
            (None, Err(error)) => Err(error),
        }
    }

    /// Fails when a server has ended by itself, with the end of its log.
    pub fn check(&mut self) -> Result<()> {
        let mut servers = self.control_plane.iter_mut().chain(self.nodes.iter_mut().flat_map(Node::servers));
        servers.try_for_each(Process::check)
    }

    /// kubectl as the administrator; what it printed.
    pub fn kubectl(&self, arguments: &[&str]) -> Result<String> {
        let mut command = self.control().bounded("kubectl");
        command.arg("--kubeconfig").arg(&self.admin).args(["--request-timeout", "20s"]).args(arguments);
        // Its cache of discovery belongs to this cluster.
        command.env("HOME", self.directory()).env_remove("KUBECONFIG");
        finish(&mut command, &[&["kubectl"], arguments].concat())
    }

    /// A command line for a person at another terminal.
    pub fn kubectl_line(&self) -> String {
        let mut command = self.control().enter();
        command.arg("kubectl").arg("--kubeconfig").arg(&self.admin);
        let words = std::iter::once(command.get_program()).chain(command.get_args());
        words.map(|word| word.to_string_lossy().into_owned()).collect::<Vec<_>>().join(" ")
    }

    /// `kubectl get .. -o json`
    pub fn get(&self, arguments: &[&str]) -> Result<Value> {
        let text = self.kubectl(&[&["get"], arguments, &["-o", "json"]].concat())?;
        serde_json::from_str(&text).context("kubectl printed no JSON")
    }

    /// Applies objects given as JSON or YAML text.
    pub fn apply(&self, text: &str) -> Result<String> {
        let file = self.directory().join("apply.yaml");
        fs::write(&file, text).with_context(|| format!("cannot write {}", file.display()))?;
        self.kubectl(&["apply", "-f", &file.to_string_lossy()])
    }

    /// Nodes count from 0; their names from 1.
    pub fn node(&self, index: usize) -> &Node {
        &self.nodes[index]
    }

    pub fn node_mut(&mut self, index: usize) -> &mut Node {
        &mut self.nodes[index]
    }

    pub fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    /// The node of that name.
    pub fn node_named(&self, name: &str) -> Result<&Node> {
        self.nodes.iter().find(|node| node.name() == name).with_context(|| format!("there is no node {name}"))
    }

    /// Where etcd and the control plane run: on no node, so without any proxy.
    pub fn control(&self) -> &Space {
        self.spaces.control()
    }

    /// A machine on the nodes' wire that is no node, its addresses, that of the first family first. It has no route to
    /// pods. One a cluster.
    pub fn add_stranger(&mut self, families: Families) -> Result<(Space, Vec<String>)> {
        const NUMBER: u32 = 100;
        let space = self.spaces.add(self.guard.make_cgroup("stranger")?)?;
        network::uplink(self.control(), &space, families, NUMBER)?;
        Ok((space, families.node(NUMBER)))
    }

    /// A server of the control plane: etcd, apiserver, scheduler, controller-manager.
    pub fn control_plane_mut(&mut self, name: &str) -> Result<&mut Process> {
        let server = self.control_plane.iter_mut().find(|server| server.name() == name);
        server.with_context(|| format!("there is no server {name}"))
    }

    /// kubeconfig of the administrator.
    pub fn admin(&self) -> &Path {
        &self.admin
    }

    /// The cluster's files: logs are in `log`.
    pub fn directory(&self) -> &Path {
        self.guard.directory()
    }

    /// Adds the end of every log to an error: which of the servers knows more is not known here.
    pub fn explain(&mut self, error: anyhow::Error) -> anyhow::Error {
        let servers = self.control_plane.iter_mut().chain(self.nodes.iter_mut().flat_map(Node::servers));
        let logs: String = servers.map(|server| format!("--- {}\n{}\n", server.name(), server.tail())).collect();
        anyhow::anyhow!("{error:#}\n\nThe servers last said:\n{logs}\n{error:#}")
    }
}

/// Builds the images that the examples and the tests use into target/images.
pub fn images() -> Result<Vec<PathBuf>> {
    image::build_all(&[ImageSpec::pause()?, ImageSpec::iperf3()?], &tools::root().join("target/images"))
}

/// The objects of a list.
pub fn items(list: &Value) -> impl Iterator<Item = &Value> {
    list["items"].as_array().into_iter().flatten()
}

/// Is a condition of an object's status "True"?
pub fn is_true(object: &Value, condition: &str) -> bool {
    let conditions = object["status"]["conditions"].as_array().into_iter().flatten();
    conditions.into_iter().any(|found| found["type"] == condition && found["status"] == "True")
}
