//! The one binary: every component of a cluster is a subcommand.

mod check;
mod config;
mod control_plane;
mod duration;
mod host;
mod init;
mod join;
mod look;
mod monitor;
mod node;
mod node_side;
mod pki;
mod progress;
mod reset;
mod service;
mod status;
mod token;
mod trace;
mod units;
mod up;

use clap::{Parser, Subcommand};
use tracing_subscriber::EnvFilter;

/// An eBPF service proxy and pod network, with the control plane that feeds it.
#[derive(Parser)]
#[command(name = "diolkos", version, max_term_width = 110)]
struct Cli {
    /// What to log: a level, or levels by module (`info,diolkos_agent=debug`). RUST_LOG works too.
    #[arg(long, global = true, env = "RUST_LOG", default_value = "info", value_name = "FILTER")]
    log: String,
    /// One JSON object a log line instead of text.
    #[arg(long, global = true)]
    log_json: bool,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// A control plane in one process, and on request a node beside it: from nothing to a cluster.
    Up(Box<up::UpArgs>),
    /// Sets up a control plane on this machine, and prints the command with which others join it.
    Init(Box<init::InitArgs>),
    /// Makes this machine a node of a cluster, by a bootstrap token.
    Join(Box<join::JoinArgs>),
    /// Kubelet and agent of a machine that has joined, in one process.
    Node(Box<join::RunArgs>),
    /// Bootstrap tokens, with which machines join.
    Token(token::TokenArgs),
    /// Removes from this machine what the commands above made there, and nothing else.
    Reset(reset::ResetArgs),
    /// The API over etcd: gRPC and REST on one TLS port. The only component that talks to etcd.
    Apiserver(Box<control_plane::ApiserverArgs>),
    /// Gives pods to nodes: filter, score, bind.
    Scheduler(control_plane::SchedulerArgs),
    /// Deployments, ReplicaSets, EndpointSlices, nodes and their pod CIDRs, garbage.
    ControllerManager(control_plane::ControllerManagerArgs),
    /// Runs the pods of one node through CRI and reports their status.
    Kubelet(node::KubeletArgs),
    /// Fills the node's kernel maps from the API, and serves the CNI plugin.
    Agent(node::AgentArgs),
    /// Is this node well, and what does it carry? Exit code 1 when it is not well.
    Status(status::StatusArgs),
    /// Which kernel features and settings this machine has, and what is lost where one is missing. Exits with 1 when
    /// Diolkos cannot work here.
    Check(check::CheckArgs),
    /// The services of this node's maps.
    Service(service::ServiceArgs),
    /// What would become of a connection: every lookup and decision, from the maps in force. Sends nothing.
    Trace(trace::TraceArgs),
    /// Packets and connects as this node decides on them: drops with their reason, and samples of what goes on.
    Monitor(monitor::MonitorArgs),
    /// The cluster's own certificate authority, and kubeconfigs.
    Pki(pki::PkiArgs),
}

fn main() -> anyhow::Result<()> {
    let cli = Cli::parse_from(config::expand(std::env::args_os().collect())?);
    start_logging(&cli.log, cli.log_json)?;
    // One provider for all TLS of the process; a second installation would be a second provider.
    rustls::crypto::ring::default_provider()
        .install_default()
        .map_err(|_| anyhow::anyhow!("a TLS provider is installed already"))?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(async {
        match cli.command {
            Command::Up(args) => up::run(*args).await,
            Command::Init(args) => init::run(*args).await,
            Command::Join(args) => join::run(*args).await,
            Command::Node(args) => join::run_node(*args).await,
            Command::Token(args) => token::run(args).await,
            Command::Reset(args) => reset::run(args).await,
            Command::Apiserver(args) => control_plane::apiserver(*args).await,
            Command::Scheduler(args) => control_plane::scheduler(args).await,
            Command::ControllerManager(args) => control_plane::controller_manager(args).await,
            Command::Kubelet(args) => node::kubelet(args).await,
            Command::Agent(args) => node::agent(args).await,
            Command::Status(args) => status::run(args),
            Command::Check(args) => check::run(&args),
            Command::Service(args) => service::run(args),
            Command::Trace(args) => trace::run(args),
            Command::Monitor(args) => monitor::run(args).await,
            Command::Pki(args) => pki::run(args),
        }
    })
}

fn start_logging(filter: &str, json: bool) -> anyhow::Result<()> {
    let filter = EnvFilter::try_new(filter)
        .map_err(|error| anyhow::anyhow!("--log {filter:?} is not a filter: {error}; try `info`"))?;
    let logs = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    if json {
        logs.json().init();
    } else {
        logs.with_target(true).init();
    }
    Ok(())
}
