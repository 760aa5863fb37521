//! Pods, and commands in them.

use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use super::{Cluster, Node, is_true, items};
use crate::space::finish;

/// A pod as the apiserver shows it.
#[derive(Clone, Debug, PartialEq)]
pub struct Pod {
    pub name: String,
    pub node: String,
    /// Its address of the cluster's first address family.
    pub address: String,
    /// All its addresses, that one first.
    pub addresses: Vec<String>,
    /// Id of its first container at the runtime.
    pub container: String,
    pub ready: bool,
}

impl Pod {
    fn read(pod: &Value) -> Option<Self> {
        let container = pod["status"]["containerStatuses"][0]["containerID"].as_str()?;
        let addresses = pod["status"]["podIPs"].as_array().into_iter().flatten();
        Some(Self {
            name: pod["metadata"]["name"].as_str()?.into(),
            node: pod["spec"]["nodeName"].as_str()?.into(),
            address: pod["status"]["podIP"].as_str()?.into(),
            addresses: addresses.filter_map(|address| address["ip"].as_str()).map(str::to_owned).collect(),
            container: container.split("://").nth(1).unwrap_or(container).into(),
            ready: is_true(pod, "Ready") && pod["metadata"]["deletionTimestamp"].is_null(),
        })
    }
}

impl Cluster {
    /// Pods with a label, by name; those without an address or container yet are left out.
    pub fn pods(&self, label: &str) -> Result<Vec<Pod>> {
        let mut pods: Vec<Pod> = items(&self.get(&["pods", "-l", label])?).filter_map(Pod::read).collect();
        pods.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(pods)
    }

    /// Waits until exactly `count` pods with the label are there, and Ready.
    pub fn wait_pods(&mut self, label: &str, count: usize, limit: Duration) -> Result<Vec<Pod>> {
        self.wait(&format!("{count} pods `{label}` are Ready"), limit, |cluster| {
            let list = cluster.get(&["pods", "-l", label])?;
            let pods = cluster.pods(label)?;
            let ready = pods.iter().filter(|pod| pod.ready).count();
            ensure!(ready == count && items(&list).count() == count, "{ready} of {} are Ready", items(&list).count());
            Ok(pods)
        })
    }

    /// A command in the pod's container: its files, its network, its cgroup.
    pub fn exec(&self, pod: &Pod, argv: &[&str]) -> Result<String> {
        let (program, arguments) = argv.split_first().context("no program to run")?;
        finish(self.exec_command(pod, program)?.args(arguments), argv)
    }

    /// A command in the pod's container, to be given arguments and run; ended after [`crate::space::LIMIT`].
    pub fn exec_command(&self, pod: &Pod, program: &str) -> Result<Command> {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let id = format!("exec-{}", NUMBER.fetch_add(1, Ordering::Relaxed));
        let mut command = self.node_named(&pod.node)?.ctr_command();
        command.args(["tasks", "exec", "--exec-id", &id, &pod.container, program]);
        Ok(command)
    }

    /// A command of the machine in the pod's network only, in a cgroup of no node: the socket hooks do not
    /// see its sockets, as they do not see those of a virtual machine.
    pub fn command_in_network(&self, pod: &Pod, program: &str) -> Result<Command> {
        let node: &Node = self.node_named(&pod.node)?;
        let pid = node.container_pid(&pod.container)?;
        let mut command = node.space().command_in(self.control().cgroup(), "nsenter");
        command.arg(format!("--net=/proc/{pid}/ns/net")).arg("--").arg(program);
        Ok(command)
    }

    /// `key` of the Service's spec, such as clusterIP.
    pub fn service_field(&self, name: &str, key: &str) -> Result<String> {
        let service = self.get(&["service", name])?;
        let value = service["spec"][key].as_str().with_context(|| format!("service {name} has no {key}"))?;
        Ok(value.to_owned())
    }
}
