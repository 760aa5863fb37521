//! `diolkos kubelet | agent`.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::ops::RangeInclusive;
use std::path::PathBuf;

use clap::Args;
use diolkos_agent::Routing;
use ipnetwork::IpNetwork;

#[derive(Args)]
pub(crate) struct KubeletArgs {
    /// How to reach the apiserver, and as whom.
    #[arg(long, value_name = "FILE")]
    kubeconfig: PathBuf,
    /// Name of the Node object.
    #[arg(long, env = "NODE_NAME")]
    node_name: String,
    /// The node's InternalIPs: one for each address family, the first one first.
    #[arg(long, value_delimiter = ',', required = true, value_name = "IP[,IP]")]
    node_ip: Vec<IpAddr>,
    /// CRI socket.
    #[arg(long, default_value = "unix:///run/containerd/containerd.sock", value_name = "URL")]
    container_runtime_endpoint: String,
    /// Volumes and other state of pods.
    #[arg(long, default_value = "/var/lib/diolkos/kubelet", value_name = "DIR")]
    root_dir: PathBuf,
    /// Container logs.
    #[arg(long, default_value = "/var/log/pods", value_name = "DIR")]
    log_dir: PathBuf,
    /// Parent of the pods' cgroups, as a path below the cgroup mounts.
    #[arg(long, default_value = "/kubepods", value_name = "PATH")]
    cgroup_root: String,
    /// Capacity of the node instead of what the machine has, such as `cpu=2,memory=4Gi,pods=110`.
    #[arg(long, value_delimiter = ',', value_parser = resource, value_name = "NAME=QUANTITY,..")]
    capacity: Vec<(String, String)>,
}

pub(crate) async fn kubelet(args: KubeletArgs) -> anyhow::Result<()> {
    diolkos_kubelet::run(kubelet_options(args)).await
}

pub(crate) fn kubelet_options(args: KubeletArgs) -> diolkos_kubelet::Options {
    diolkos_kubelet::Options {
        kubeconfig: args.kubeconfig,
        node_name: args.node_name,
        node_ips: args.node_ip,
        runtime_endpoint: args.container_runtime_endpoint,
        root_dir: args.root_dir,
        log_dir: args.log_dir,
        cgroup_root: args.cgroup_root,
        capacity: args.capacity.into_iter().collect::<BTreeMap<_, _>>(),
    }
}

fn resource(text: &str) -> Result<(String, String), String> {
    text.split_once('=')
        .filter(|(name, quantity)| !name.is_empty() && !quantity.is_empty())
        .map(|(name, quantity)| (name.to_owned(), quantity.to_owned()))
        .ok_or_else(|| format!("{text:?} is not NAME=QUANTITY"))
}

#[derive(Args)]
pub(crate) struct AgentArgs {
    /// How to reach the apiserver, and as whom.
    #[arg(long, value_name = "FILE")]
    kubeconfig: PathBuf,
    /// Name of this node's Node object.
    #[arg(long, env = "NODE_NAME")]
    node_name: String,
    /// A mounted bpf file system; maps and links are pinned below its `diolkos/`.
    #[arg(long, default_value = "/sys/fs/bpf", value_name = "DIR")]
    bpffs: PathBuf,
    /// The cgroup2 directory whose sockets are translated. Default: the root of the mounted cgroup2 hierarchy.
    #[arg(long, value_name = "DIR")]
    cgroup_root: Option<PathBuf>,
    /// Where the CNI plugin finds the agent.
    #[arg(long, default_value = "/run/diolkos/cni.sock", value_name = "FILE")]
    cni_socket: PathBuf,
    /// Attachments and other state that outlives the agent.
    #[arg(long, default_value = "/var/lib/diolkos/agent", value_name = "DIR")]
    state_dir: PathBuf,
    /// Install the CNI plugin here.
    #[arg(long, value_name = "DIR", requires = "cni_conf_dir")]
    cni_bin_dir: Option<PathBuf>,
    /// Write the CNI configuration here, last, once pods can be attached.
    #[arg(long, value_name = "DIR", requires = "cni_bin_dir")]
    cni_conf_dir: Option<PathBuf>,
    /// The plugin to install. Default: `diolkos-cni` beside this binary.
    #[arg(long, value_name = "FILE")]
    cni_binary: Option<PathBuf>,
    /// VXLAN network identifier of the pod network.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..1 << 24))]
    vni: u32,
    /// UDP port of the overlay.
    #[arg(long, default_value_t = 4789)]
    overlay_port: u16,
    /// ClusterIPs come from here: one network per family of the cluster.
    #[arg(long, default_value = "10.96.0.0/16", value_delimiter = ',', value_name = "CIDR,..")]
    service_cidr: Vec<IpNetwork>,
    /// Devices on which the node talks to the outside. Default: those that hold a node address or a default route.
    #[arg(long, value_delimiter = ',', value_name = "NAME,..")]
    devices: Vec<String>,
    /// How pods of other nodes are reached: through VXLAN, or by their node's address as next hop.
    #[arg(long, value_enum, default_value = "overlay", value_name = "MODE")]
    routing_mode: RoutingMode,
    /// Whether pods talk to the outside under the node's address.
    #[arg(long, default_value = "true", default_missing_value = "true", num_args = 0..=1, require_equals = true,
        action = clap::ArgAction::Set, value_name = "BOOL")]
    masquerade: bool,
    /// Source ports of what is translated under an address of the node. No socket and no node port may have them.
    #[arg(long, default_value = "61000-65535", value_parser = ports, value_name = "FIRST-LAST")]
    masquerade_ports: RangeInclusive<u16>,
    /// Destinations that see a pod's own address though they are no pods: one network per family.
    #[arg(long, value_delimiter = ',', value_name = "CIDR,..")]
    native_cidr: Vec<IpNetwork>,
    /// Where /healthz, /readyz and /metrics are served.
    #[arg(long, default_value = "127.0.0.1:10256", value_name = "ADDRESS:PORT")]
    listen: SocketAddr,
}

#[derive(Clone, Copy, clap::ValueEnum)]
enum RoutingMode {
    Overlay,
    Direct,
}

pub(crate) async fn agent(args: AgentArgs) -> anyhow::Result<()> {
    diolkos_agent::run(agent_options(args)).await
}

pub(crate) fn agent_options(args: AgentArgs) -> diolkos_agent::Options {
    diolkos_agent::Options {
        kubeconfig: args.kubeconfig,
        node_name: args.node_name,
        bpffs: args.bpffs,
        cgroup_root: args.cgroup_root,
        cni_socket: args.cni_socket,
        state_dir: args.state_dir,
        cni_bin_dir: args.cni_bin_dir,
        cni_conf_dir: args.cni_conf_dir,
        cni_binary: args.cni_binary,
        vni: args.vni,
        overlay_port: args.overlay_port,
        service_cidrs: args.service_cidr,
        devices: args.devices,
        routing: match args.routing_mode {
            RoutingMode::Overlay => Routing::Overlay,
            RoutingMode::Direct => Routing::Direct,
        },
        masquerade: args.masquerade,
        masquerade_ports: args.masquerade_ports,
        native_cidrs: args.native_cidr,
        listen: args.listen,
    }
}

pub(crate) fn ports(text: &str) -> Result<RangeInclusive<u16>, String> {
    let bounds = text.split_once('-').and_then(|(first, last)| Some(first.parse().ok()?..=last.parse().ok()?));
    bounds.ok_or_else(|| format!("{text:?} is not FIRST-LAST, two port numbers"))
}
