//! The node side in one process: kubelet and agent, with the flags of their own commands.

use std::net::IpAddr;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use clap::{Args, Parser};
use diolkos_api::client::connect_file;
use diolkos_apiserver::pki::Pki;
use diolkos_kubelet::certificate::{Wish, keep};
use ipnetwork::IpNetwork;

use crate::node::{AgentArgs, KubeletArgs, agent_options, kubelet_options};
use crate::up::parts::Parts;
use crate::{config, host};

/// The groups that give a kubelet and an agent their rights.
const NODES: &str = "system:nodes";
const AGENTS: &str = "system:diolkos-agents";
/// Where container runtimes look for plugins and networks.
const CNI_BIN_DIR: &str = "/opt/cni/bin";
const CNI_CONF_DIR: &str = "/etc/cni/net.d";

/// What a node is told, whether it shares its process with a control plane or not.
#[derive(Args, Clone, Debug, Default)]
pub(crate) struct NodeArgs {
    /// Name of the Node object. Default: this machine's name.
    #[arg(long, env = "NODE_NAME", value_name = "NAME")]
    pub(crate) node_name: Option<String>,
    /// The node's InternalIPs: one for each address family, the first one first. Default: the address of the default
    /// route.
    #[arg(long, value_delimiter = ',', value_name = "IP[,IP]")]
    pub(crate) node_ip: Vec<IpAddr>,
    /// CRI socket. Default: the runtime that is found on this machine.
    #[arg(long, value_name = "URL")]
    pub(crate) container_runtime_endpoint: Option<String>,
    /// A flag of `diolkos kubelet`, as `log-dir=/var/log/pods`; may be repeated.
    #[arg(long = "kubelet-arg", value_name = "FLAG=VALUE")]
    pub(crate) kubelet_args: Vec<String>,
    /// A flag of `diolkos agent`, as `routing-mode=direct`; may be repeated.
    #[arg(long = "agent-arg", value_name = "FLAG=VALUE")]
    pub(crate) agent_args: Vec<String>,
}

/// A node with all that its parts have to know.
#[derive(Clone, Debug)]
pub(crate) struct NodeSide {
    pub(crate) name: String,
    pub(crate) runtime: String,
    ips: Vec<IpAddr>,
    service_cidrs: Vec<IpNetwork>,
    data_dir: PathBuf,
    kubelet_args: Vec<String>,
    agent_args: Vec<String>,
}

impl NodeArgs {
    /// Fills in what this machine tells. `address` is the one to take when none is given.
    pub(crate) fn settle(
        self,
        address: Option<IpAddr>,
        service_cidrs: &[IpNetwork],
        data_dir: &Path,
    ) -> anyhow::Result<NodeSide> {
        let ips = match (self.node_ip, address) {
            (given, _) if !given.is_empty() => given,
            (_, Some(address)) => vec![address],
            (_, None) => {
                let is_ipv4 = service_cidrs.first().is_none_or(IpNetwork::is_ipv4);
                vec![host::address(is_ipv4).context("--node-ip is not given, and this machine does not tell")?]
            }
        };
        Ok(NodeSide {
            name: self.node_name.map_or_else(host::node_name, Ok)?,
            runtime: self.container_runtime_endpoint.map_or_else(host::runtime, Ok)?,
            ips,
            service_cidrs: service_cidrs.to_vec(),
            data_dir: data_dir.to_owned(),
            kubelet_args: self.kubelet_args,
            agent_args: self.agent_args,
        })
    }
}

#[derive(Parser)]
struct Kubelet {
    #[command(flatten)]
    args: KubeletArgs,
}

#[derive(Parser)]
struct Agent {
    #[command(flatten)]
    args: AgentArgs,
}

impl NodeSide {
    pub(crate) fn kubelet_kubeconfig(&self) -> PathBuf {
        self.data_dir.join("kubelet.kubeconfig")
    }

    pub(crate) fn agent_kubeconfig(&self) -> PathBuf {
        self.data_dir.join("agent.kubeconfig")
    }

    /// The users of the node's parts, their groups, and where their kubeconfigs are.
    pub(crate) fn identities(&self) -> [(String, &'static str, PathBuf); 2] {
        [
            (kubelet_user(&self.name), NODES, self.kubelet_kubeconfig()),
            (agent_user(&self.name), AGENTS, self.agent_kubeconfig()),
        ]
    }

    /// Gives both their certificates, where the authority is at hand.
    pub(crate) fn issue(&self, pki: &Pki, url: &str) -> anyhow::Result<()> {
        for (user, group, path) in self.identities() {
            pki.ensure_kubeconfig(url, &user, &[group], &path)?;
        }
        Ok(())
    }

    pub(crate) fn add_to(&self, parts: &mut Parts) -> anyhow::Result<()> {
        let kubelet = kubelet_options(Kubelet::try_parse_from(self.kubelet_argv())?.args);
        let options = agent_options(Agent::try_parse_from(self.agent_argv())?.args);
        parts.add("kubelet", |stop| diolkos_kubelet::run_until(kubelet, stop));
        let (node, agent) = (self.kubelet_kubeconfig(), self.agent_kubeconfig());
        let wish = Wish::of_agent(&self.name);
        parts.add("certificates of the node", |stop| async move {
            let client = connect_file(&node)?;
            tokio::select! {
                () = stop => Ok(()),
                () = keep(client, agent, wish) => anyhow::bail!("the agent's kubeconfig has no certificate"),
            }
        });
        let agent = options;
        parts.add("agent", |stop| diolkos_agent::run_until(agent, stop));
        Ok(())
    }

    fn kubelet_argv(&self) -> Vec<String> {
        let own = [
            ("kubeconfig", text(&self.kubelet_kubeconfig())),
            ("node-name", self.name.clone()),
            ("node-ip", joined(&self.ips)),
            ("container-runtime-endpoint", self.runtime.clone()),
            ("root-dir", text(&self.data_dir.join("kubelet"))),
        ];
        argv("kubelet", own, &self.kubelet_args)
    }

    fn agent_argv(&self) -> Vec<String> {
        let own = [
            ("kubeconfig", text(&self.agent_kubeconfig())),
            ("node-name", self.name.clone()),
            ("service-cidr", joined(&self.service_cidrs)),
            ("state-dir", text(&self.data_dir.join("agent"))),
            ("cni-bin-dir", CNI_BIN_DIR.to_owned()),
            ("cni-conf-dir", CNI_CONF_DIR.to_owned()),
        ];
        argv("agent", own, &self.agent_args)
    }
}

fn kubelet_user(node: &str) -> String {
    format!("system:node:{node}")
}

fn agent_user(node: &str) -> String {
    format!("system:diolkos:agent:{node}")
}

/// A command line: the operator's flags, and our own where the operator gave none.
fn argv<const N: usize>(command: &str, own: [(&str, String); N], given: &[String]) -> Vec<String> {
    let given: Vec<String> = given.iter().map(|flag| format!("--{}", flag.trim_start_matches('-'))).collect();
    let names: Vec<&str> = given.iter().filter_map(|flag| config::name(flag)).collect();
    let own =
        own.into_iter().filter(|(flag, _)| !names.contains(flag)).map(|(flag, value)| format!("--{flag}={value}"));
    std::iter::once(command.to_owned()).chain(own).chain(given.iter().cloned()).collect()
}

fn text(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}

fn joined<T: ToString>(values: &[T]) -> String {
    values.iter().map(ToString::to_string).collect::<Vec<_>>().join(",")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn side(args: NodeArgs) -> NodeSide {
        let args = NodeArgs { container_runtime_endpoint: Some("unix:///run/c.sock".into()), ..args };
        let args = NodeArgs { node_name: Some("n1".into()), ..args };
        args.settle(Some("192.0.2.1".parse().unwrap()), &["10.96.0.0/16".parse().unwrap()], Path::new("/data")).unwrap()
    }

    #[test]
    fn the_flags_of_kubelet_and_agent_are_those_of_their_commands() {
        let given = NodeArgs {
            kubelet_args: vec!["root-dir=/elsewhere".into(), "--capacity=cpu=2".into(), "node-ip=fd00::7".into()],
            agent_args: vec!["routing-mode=direct".into()],
            ..NodeArgs::default()
        };
        let side = side(given);
        let kubelet = kubelet_options(Kubelet::try_parse_from(side.kubelet_argv()).unwrap().args);
        assert_eq!(kubelet.root_dir, Path::new("/elsewhere"), "what the operator says counts");
        assert_eq!(kubelet.node_ips, ["fd00::7".parse::<IpAddr>().unwrap()]);
        assert_eq!(kubelet.capacity.get("cpu").map(String::as_str), Some("2"));
        let agent = agent_options(Agent::try_parse_from(side.agent_argv()).unwrap().args);
        assert_eq!(agent.state_dir, Path::new("/data/agent"));
        assert_eq!(agent.routing, diolkos_agent::Routing::Direct);
    }

    #[test]
    fn a_flag_that_no_command_has_is_named() {
        let side = side(NodeArgs { agent_args: vec!["speed=9".into()], ..NodeArgs::default() });
        let why = Agent::try_parse_from(side.agent_argv()).err().unwrap().to_string();
        assert!(why.contains("--speed"), "{why}");
    }

    #[test]
    fn addresses_that_are_given_count() {
        let given = ["fd00::1", "192.0.2.7"].map(|text| text.parse().unwrap()).to_vec();
        let side = side(NodeArgs { node_ip: given.clone(), ..NodeArgs::default() });
        assert_eq!(side.ips, given);
    }
}
