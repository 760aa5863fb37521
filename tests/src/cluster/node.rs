//! One node: its namespaces, containerd, kubelet and agent.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, ensure};

use super::{Cluster, ClusterConfig, START, control_plane, network};
use crate::eventually;
use crate::image;
use crate::process::Process;
use crate::space::{Space, finish};
use crate::tools;

const RUNTIME: &str = "/run/containerd/containerd.sock";
const NAMESPACE: &str = "k8s.io";

/// A node. Its servers end before its namespaces do.
pub struct Node {
    name: String,
    addresses: Vec<String>,
    agent: Process,
    kubelet: Process,
    containerd: Process,
    space: Space,
    directory: PathBuf,
}

impl Node {
    /// Starts all three; they find each other by themselves.
    pub(super) fn start(cluster: &mut Cluster, config: &ClusterConfig, index: u32) -> Result<Self> {
        let name = format!("node-{index}");
        let group = cluster.guard.make_cgroup(&name)?;
        // A leaf of its own: with cgroup v2 alone, a cgroup with children for pods may hold no process.
        let system = cluster.guard.make_cgroup(&format!("{name}/system"))?;
        let space = cluster.spaces.add(system)?;
        network::uplink(cluster.control(), &space, config.families, index)?;
        let directory = cluster.directory().join(&name);
        let start = Start { cluster, config, name: &name, space: &space, directory: &directory };
        let containerd = start.containerd()?;
        let agent = start.agent(&group)?;
        let addresses = config.families.node(index);
        let kubelet = start.kubelet(&addresses)?;
        Ok(Self { addresses, agent, kubelet, containerd, space, name, directory })
    }

    /// Gives containerd its images: without the pause image no pod starts.
    pub(super) fn finish_start(&mut self, config: &ClusterConfig) -> Result<()> {
        let what = format!("containerd of {} answers", self.name);
        eventually(&what, START, || self.ctr(&["version"]).map(drop)).with_context(|| self.containerd.tail())?;
        config.images.iter().try_for_each(|image| self.import(image))
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its InternalIP of the cluster's first address family.
    pub fn address(&self) -> &str {
        &self.addresses[0]
    }

    /// Its InternalIPs.
    pub fn addresses(&self) -> &[String] {
        &self.addresses
    }

    pub fn space(&self) -> &Space {
        &self.space
    }

    /// A command in the node's host network; what it printed.
    pub fn exec(&self, argv: &[&str]) -> Result<String> {
        self.space.run(argv)
    }

    /// containerd's own client.
    pub fn ctr(&self, arguments: &[&str]) -> Result<String> {
        finish(self.ctr_command().args(arguments), &[&["ctr"], arguments].concat())
    }

    pub(super) fn ctr_command(&self) -> Command {
        let mut command = self.space.bounded("ctr");
        command.args(["--address", RUNTIME, "--namespace", NAMESPACE]);
        command
    }

    /// Imports an archive of images.
    pub fn import(&self, archive: &Path) -> Result<()> {
        let shown = archive.to_string_lossy();
        self.ctr(&["images", "import", &shown])
            .map(drop)
            .with_context(|| format!("cannot import {shown} on {}", self.name))
    }

    /// The process of a running container, in the cluster's process namespace.
    pub fn container_pid(&self, container: &str) -> Result<u32> {
        let tasks = self.ctr(&["tasks", "list"])?;
        let line = tasks.lines().find(|line| line.starts_with(container));
        let pid = line.and_then(|line| line.split_whitespace().nth(1)).and_then(|pid| pid.parse().ok());
        pid.with_context(|| format!("container {container} does not run on {}", self.name))
    }

    /// SIGKILL: the agent is gone as after a crash, its programs stay.
    pub fn kill_agent(&mut self) -> Result<()> {
        self.agent.kill()
    }

    pub fn start_agent(&mut self) -> Result<()> {
        self.agent.restart()
    }

    /// Its log tells what it does.
    pub fn agent(&self) -> &Process {
        &self.agent
    }

    pub fn kubelet_mut(&mut self) -> &mut Process {
        &mut self.kubelet
    }

    /// Files of the node.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    pub(super) fn servers(&mut self) -> impl Iterator<Item = &mut Process> {
        [&mut self.containerd, &mut self.kubelet, &mut self.agent].into_iter()
    }
}

/// What the three starts share.
struct Start<'a> {
    cluster: &'a Cluster,
    config: &'a ClusterConfig,
    name: &'a str,
    space: &'a Space,
    directory: &'a Path,
}

impl Start<'_> {
    fn containerd(&self) -> Result<Process> {
        let bin = self.directory.join("cni/bin");
        for directory in [&bin, &self.directory.join("cni/net.d"), &self.directory.join("containerd")] {
            fs::create_dir_all(directory).with_context(|| format!("cannot create {}", directory.display()))?;
        }
        // containerd itself brings up lo, through this plugin.
        fs::copy(tools::cni_plugin("loopback")?, bin.join("loopback"))
            .context("cannot copy the CNI plugin loopback")?;
        let file = self.directory.join("containerd/config.toml");
        fs::write(&file, self.containerd_config()?)?;
        let program = tools::find("containerd")?;
        self.process("containerd", vec![text(&program), "--config".into(), text(&file)])
    }

    fn containerd_config(&self) -> Result<String> {
        let (directory, runc) = (text(self.directory), text(&tools::find("runc")?));
        let pause = image::PAUSE;
        Ok(format!(
            r#"version = 2
root = "{directory}/containerd/root"
state = "/run/containerd/state"
[grpc]
  address = "{RUNTIME}"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "{pause}"
  stream_server_address = "127.0.0.1"
  stream_server_port = "0"
  disable_tcp_service = true
  netns_mounts_under_state_dir = true
  restrict_oom_score_adj = true
  [plugins."io.containerd.grpc.v1.cri".containerd]
    snapshotter = "overlayfs"
    default_runtime_name = "runc"
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
      runtime_type = "io.containerd.runc.v2"
      [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
        BinaryName = "{runc}"
        SystemdCgroup = false
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "{directory}/cni/bin"
    conf_dir = "{directory}/cni/net.d"
"#
        ))
    }

    fn kubelet(&self, addresses: &[String]) -> Result<Process> {
        let name = format!("kubelet-{}", self.name);
        let user = format!("system:node:{}", self.name);
        let flags = [
            (
                "--kubeconfig",
                control_plane::kubeconfig(self.cluster, self.config.families, &name, &user, &["system:nodes"])?,
            ),
            ("--node-name", self.name.into()),
            ("--node-ip", addresses.join(",")),
            ("--container-runtime-endpoint", format!("unix://{RUNTIME}")),
            ("--root-dir", text(&self.directory.join("kubelet"))),
            ("--log-dir", text(&self.directory.join("pods"))),
            ("--cgroup-root", format!("/{}/{}", self.cluster.guard.name(), self.name)),
            ("--capacity", self.config.capacity.clone()),
        ];
        self.process("kubelet", control_plane::diolkos("kubelet", self.config, &flags)?)
    }

    fn agent(&self, group: &Path) -> Result<Process> {
        let user = format!("system:diolkos:agent:{}", self.name);
        let name = format!("agent-{}", self.name);
        let flags = [
            (
                "--kubeconfig",
                control_plane::kubeconfig(
                    self.cluster,
                    self.config.families,
                    &name,
                    &user,
                    &["system:diolkos-agents"],
                )?,
            ),
            ("--node-name", self.name.into()),
            ("--cgroup-root", text(group)),
            ("--cni-socket", "/run/diolkos/cni.sock".into()),
            ("--state-dir", text(&self.directory.join("agent"))),
            ("--cni-bin-dir", text(&self.directory.join("cni/bin"))),
            ("--cni-conf-dir", text(&self.directory.join("cni/net.d"))),
            ("--service-cidr", self.config.families.service_cidr()),
        ];
        let mut argv = control_plane::diolkos("agent", self.config, &flags)?;
        argv.extend(self.config.agent_flags.iter().cloned());
        self.process("agent", argv)
    }

    fn process(&self, component: &str, argv: Vec<String>) -> Result<Process> {
        ensure!(!argv.is_empty(), "no command line for {component}");
        Process::start(&format!("{component}-{}", self.name), self.space, self.cluster.directory(), &argv)
    }
}

fn text(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}
