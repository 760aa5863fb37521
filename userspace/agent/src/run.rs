//! The agent's life: its Node, the overlay, the programs, the first sync, then pods.

mod operator;

use std::collections::BTreeSet;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use diolkos_abi::config::Config;
use diolkos_abi::pod::{Netns, netns_flags};
use diolkos_api::client::{self, Client, Event, ListOptions};
use diolkos_api::kubeconfig::Kubeconfig;
use futures::{FutureExt, StreamExt};
use ipnetwork::{IpNetwork, Ipv4Network};
use k8s_openapi::api::core::v1::Node;
use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::JoinHandle;

use crate::dataplane::Shared;
use crate::dataplane::kernel::{Kernel, KernelOptions};
use crate::desired::{self, ThisNode};
use crate::driver::Driver;
use crate::options::{self, Options};
use crate::overlay::{Overlay, OverlayConfig};
use crate::plan::QUARANTINE;
use crate::pods::{self, Annotations, Install, Network, Pods};
use crate::source::{Grpc, Source};
use crate::state::{self, Handle, Questions};

/// Changes taken in before a plan is made of them.
const CHANGES_PER_CYCLE: usize = 4096;
/// How often a waiting agent says what it waits for.
const REMIND: Duration = Duration::from_secs(10);
/// How often a starting agent looks whether the one before it has ended.
const LOOK_AGAIN: Duration = Duration::from_millis(100);
/// How often devices, routes and pods are looked after: nothing tells when someone else changes them.
const REPAIR: Duration = Duration::from_secs(30);
/// The pause before what could not be repaired is tried again.
const REPAIR_AGAIN: Duration = Duration::from_secs(5);

/// Runs until SIGTERM or SIGINT. The programs, their maps and the pods' connections outlive the agent.
pub async fn run(options: Options) -> anyhow::Result<()> {
    let mut stop = std::pin::pin!(stop_signal()?);
    let agent = tokio::select! {
        () = &mut stop => return Ok(()),
        agent = Agent::start(options) => agent?,
    };
    agent.follow(stop).await
}

struct Agent {
    options: Options,
    client: Client,
    dataplane: Shared,
    kernel: KernelOptions,
    overlay: Overlay,
    overlay_config: OverlayConfig,
    pods: Pods,
    driver: Driver,
    started: Instant,
    server: Option<JoinHandle<Result<(), pods::PodsError>>>,
    /// When the host routes are synced again.
    routes_due: Option<Instant>,
    state: Handle,
    questions: Questions,
    /// Pod CIDRs that were said to be left to the operator's routing.
    not_on_link: BTreeSet<IpNetwork>,
    /// Held as long as this agent runs: two would undo each other's writes.
    _lock: Flock<File>,
}

impl Agent {
    async fn start(options: Options) -> anyhow::Result<Self> {
        check(&options)?;
        let lock = lock(&options.state_dir).await?;
        let (state, questions) = state::channel();
        operator::serve(&options, &state).await?;
        let kubeconfig = Kubeconfig::load(&options.kubeconfig)?;
        let client = Client::connect(&kubeconfig)?;
        let overlay_config = wait_for_node(&client, &options).await?;
        let overlay = Overlay::ensure(&overlay_config).await?;
        let kernel = kernel_options(&options, &overlay_config, &overlay)?;
        let dataplane = Shared::new(Kernel::open(&kernel)?);
        claim_host_namespace(&dataplane, &overlay_config)?;
        let pods = Pods::open(&options.state_dir, dataplane.clone(), pods::REST)?;
        pods.set_wishes(Annotations::new(client.clone()));
        pods.set_network(network(&overlay_config, &overlay));
        pods.repair().await?;
        let pod_cidr = overlay_config.pod_cidr_v4.context("the node has no IPv4 podCIDR")?;
        let this = ThisNode {
            name: options.node_name.clone(),
            pod_cidr,
            overlay_mtu: u16::try_from(overlay.mtu).unwrap_or(u16::MAX),
        };
        tracing::info!(%pod_cidr, mtu = overlay.mtu, "programs attached");
        state.update(|state| state.readiness.programs = true);
        Ok(Self {
            driver: Driver::new(dataplane.clone(), this, QUARANTINE),
            options,
            client,
            dataplane,
            kernel,
            overlay,
            overlay_config,
            pods,
            started: Instant::now(),
            server: None,
            routes_due: None,
            state,
            questions,
            not_on_link: BTreeSet::new(),
            _lock: lock,
        })
    }

    async fn follow(mut self, mut stop: impl Future<Output = ()> + Unpin) -> anyhow::Result<()> {
        let mut source = Grpc::new(&self.client);
        let (stop_server, server_stopped) = tokio::sync::watch::channel(());
        let mut repairs = tokio::time::interval(REPAIR);
        repairs.tick().await;
        loop {
            let deadline = self.deadline();
            let mut received = None;
            tokio::select! {
                () = &mut stop => break,
                question = self.questions.next() => {
                    self.answer(question);
                    continue;
                }
                change = source.next() => {
                    received = Some(Instant::now());
                    self.driver.apply(change.context("the source of Services ended")?);
                    for _ in 1..CHANGES_PER_CYCLE {
                        let Some(Some(change)) = source.next().now_or_never() else { break };
                        self.driver.apply(change);
                    }
                }
                () = tokio::time::sleep_until(deadline.into()) => {}
                _ = repairs.tick() => {
                    if !self.repair().await {
                        repairs.reset_after(REPAIR_AGAIN);
                    }
                }
                () = self.pods.gone() => self.driver.pod_gone(),
                result = ended(&mut self.server) => return result,
            }
            self.cycle(received).await;
            self.check_own_node()?;
            if self.driver.has_synced() && self.server.is_none() {
                self.serve_pods(server_stopped.clone()).await?;
                self.state.update(|state| state.readiness.cni = true);
                // Pods whose DEL found no agent, and routes of an earlier agent to nodes that are gone.
                repairs.reset_immediately();
            }
        }
        drop(stop_server);
        tracing::info!("stopping; programs and maps stay in place");
        match self.server {
            Some(server) => Ok(server.await??),
            None => Ok(()),
        }
    }

    /// When there is something to do even if nothing changes; far away when there is not.
    fn deadline(&self) -> Instant {
        let driver = self.driver.deadline().map(|due| self.started + due);
        let far = Instant::now() + REPAIR;
        [driver, self.routes_due].into_iter().flatten().fold(far, Instant::min)
    }

    async fn cycle(&mut self, received: Option<Instant>) {
        let cycle = self.driver.cycle(self.started.elapsed());
        self.note(cycle, received);
        if cycle.writes > 0 {
            tracing::debug!(writes = cycle.writes, "maps written");
        }
        let due = self.routes_due.is_some_and(|due| due <= Instant::now());
        if !cycle.pod_cidrs_changed && !due {
            return;
        }
        self.routes_due = None;
        // While the nodes are not known, the routes of an earlier agent stay.
        let Some(pod_cidrs) = self.driver.pod_cidrs() else { return };
        match self.overlay.sync_routes(pod_cidrs).await {
            Ok(changes) => self.say_once(changes.not_on_link),
            Err(error) => {
                tracing::error!(%error, "host routes to other nodes are incomplete; trying again");
                self.routes_due = Some(Instant::now() + REPAIR_AGAIN);
            }
        }
    }

    /// Says which pod CIDRs are left to the operator's routing.
    fn say_once(&mut self, not_on_link: BTreeSet<IpNetwork>) {
        if self.not_on_link != not_on_link && !not_on_link.is_empty() {
            let cidrs: Vec<String> = not_on_link.iter().map(ToString::to_string).collect();
            let cidrs = cidrs.join(", ");
            tracing::warn!(cidrs, "nodes that are no neighbours: routers must know the way to their podCIDRs");
        }
        self.not_on_link = not_on_link;
    }

    /// Device, programs and pods were made for one address and pod CIDR; another one needs a start from scratch.
    fn check_own_node(&self) -> anyhow::Result<()> {
        let Some(node) = self.driver.node(&self.options.node_name) else { return Ok(()) };
        let known = &self.overlay_config;
        let now = (desired::internal_ip(node), desired::pod_cidr(node).ok().flatten());
        let known = (known.node_v4, known.pod_cidr_v4);
        let same = (now.0.is_none() || now.0 == known.0) && (now.1.is_none() || now.1 == known.1);
        ensure!(
            same,
            "Node {} had address and podCIDR {known:?}, now it has {now:?}: the agent ends, start it again",
            self.options.node_name,
        );
        Ok(())
    }

    /// Everything that has no event: devices, routes and attachments that someone else changed. False when something
    /// is left to do; what is well goes on.
    async fn repair(&mut self) -> bool {
        let overlay = self.repair_overlay().await;
        self.pods.set_limited(overlay.as_ref().err().map(|error| format!("{error:#}")));
        if let Err(error) = &overlay {
            tracing::error!(error = format!("{error:#}"), "the overlay is not as it should be; trying again");
        }
        let pods = self.pods.repair().await;
        if let Err(error) = &pods {
            tracing::error!(%error, "the pods cannot be looked after; trying again");
        }
        self.routes_due = Some(Instant::now());
        self.heal_monitor();
        overlay.is_ok() && pods.is_ok_and(|repaired| repaired.failures.is_empty())
    }

    async fn repair_overlay(&mut self) -> anyhow::Result<()> {
        let overlay = Overlay::ensure(&self.overlay_config).await?;
        let kernel = kernel_options(&self.options, &self.overlay_config, &overlay)?;
        if kernel.config != self.kernel.config {
            tracing::warn!("the overlay device was replaced, or its MTU is another: loading the programs for it");
            self.dataplane.replace(Kernel::open(&kernel)?);
            self.kernel = kernel;
        }
        self.overlay = overlay;
        self.pods.set_network(network(&self.overlay_config, &self.overlay));
        Ok(())
    }

    /// The first sync is done: from now on pods may come. The configuration is the last thing a runtime waits for.
    async fn serve_pods(&mut self, mut stopped: tokio::sync::watch::Receiver<()>) -> anyhow::Result<()> {
        let pods = self.pods.clone();
        let listener = pods::listen(&self.options.cni_socket).await?;
        let stop = async move { while stopped.changed().await.is_ok() {} };
        self.server = Some(tokio::spawn(async move { pods.serve(listener, stop).await }));
        let (Some(bin_dir), Some(conf_dir)) = (&self.options.cni_bin_dir, &self.options.cni_conf_dir) else {
            return Ok(());
        };
        let beside = || Ok::<_, anyhow::Error>(std::env::current_exe()?.with_file_name("diolkos-cni"));
        let binary = self.options.cni_binary.clone().map_or_else(beside, Ok)?;
        let (bin_dir, conf_dir, socket) = (bin_dir.clone(), conf_dir.clone(), self.options.cni_socket.clone());
        pods::install(&Install { binary, bin_dir, conf_dir, socket })?;
        tracing::info!("ready for pods");
        Ok(())
    }
}

/// Says what contradicts this machine before anything is touched.
fn check(options: &Options) -> anyhow::Result<()> {
    let path = "/proc/sys/net/ipv4/ip_local_port_range";
    let text = std::fs::read_to_string(path).with_context(|| format!("read {path}"))?;
    let local = options::local_ports(&text).with_context(|| format!("{path} says {text:?}, which is no range"))?;
    Ok(options.check(&local)?)
}

fn network(config: &OverlayConfig, overlay: &Overlay) -> Network {
    Network {
        pod_cidr_v4: config.pod_cidr_v4,
        pod_cidr_v6: config.pod_cidr_v6,
        source_v4: overlay.source_v4(),
        source_v6: overlay.source_v6(),
        mtu: overlay.mtu,
    }
}

/// Waits for the agent before this one, which may still be answering calls, to end.
async fn lock(state_dir: &Path) -> anyhow::Result<Flock<File>> {
    std::fs::create_dir_all(state_dir).with_context(|| format!("create {}", state_dir.display()))?;
    let path = state_dir.join("agent.lock");
    let mut file = File::create(&path).with_context(|| format!("create {}", path.display()))?;
    let mut reminder = tokio::time::interval(REMIND);
    reminder.tick().await;
    loop {
        file = match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(lock) => return Ok(lock),
            Err((file, Errno::EWOULDBLOCK)) => file,
            Err((_, errno)) => return Err(errno).with_context(|| format!("lock {}", path.display())),
        };
        tokio::select! {
            () = tokio::time::sleep(LOOK_AGAIN) => {}
            _ = reminder.tick() => tracing::info!(lock = %path.display(), "waiting for another agent to end"),
        }
    }
}

/// Waits until this node has an address and a pod CIDR.
async fn wait_for_node(client: &Client, options: &Options) -> anyhow::Result<OverlayConfig> {
    let selector = ListOptions::fields(format!("metadata.name={}", options.node_name));
    let mut events = client::follow::<Node>(client.clone(), None, selector);
    let mut reminder = tokio::time::interval(REMIND);
    let mut lacks = "the apiserver";
    loop {
        let node = tokio::select! {
            event = events.next() => match event.context("the source of Nodes ended")? {
                Event::Restarted(nodes) => nodes.into_iter().next(),
                Event::Applied(node) => Some(node),
                Event::Deleted(_) => None,
            },
            _ = reminder.tick() => {
                tracing::info!(node = options.node_name, "waiting for {lacks}");
                continue;
            }
        };
        let Some(node) = node else {
            lacks = "the Node object, which its kubelet registers";
            continue;
        };
        let pod_cidr = desired::pod_cidr(&node).with_context(|| format!("Node {}", options.node_name))?;
        match (desired::internal_ip(&node), pod_cidr) {
            (None, _) => lacks = "an IPv4 InternalIP in the Node's status, which its kubelet reports",
            (_, None) => lacks = "an IPv4 podCIDR in the Node's spec, which the controller manager assigns",
            (Some(node_ip), Some(pod_cidr)) => {
                return Ok(OverlayConfig {
                    node_v4: Some(node_ip),
                    node_v6: None,
                    pod_cidr_v4: Some(pod_cidr),
                    pod_cidr_v6: None,
                    port: options.overlay_port,
                    routing: options.routing,
                });
            }
        }
    }
}

fn kernel_options(options: &Options, config: &OverlayConfig, overlay: &Overlay) -> anyhow::Result<KernelOptions> {
    let v4 = |network: &IpNetwork| if let IpNetwork::V4(network) = network { Some(*network) } else { None };
    let Some(service_cidr) = options.service_cidrs.iter().find_map(v4) else {
        bail!("--service-cidr has no IPv4 network: add one");
    };
    let cgroup = match &options.cgroup_root {
        Some(directory) => directory.clone(),
        None => cgroup2_root(Path::new("/proc/self/mountinfo"))?,
    };
    let mask = |network: Ipv4Network| network.mask().octets();
    let (network, address) = (config.pod_cidr_v4.context("the node has no IPv4 podCIDR")?, overlay.gateway_v4);
    let config = Config {
        overlay_ifindex: overlay.ifindex,
        vni: options.vni,
        overlay_mac: overlay.mac,
        overlay_mtu: u16::try_from(overlay.mtu).unwrap_or(u16::MAX),
        gateway_v4: address.map_or([0; 4], |address| address.octets()),
        route_mask_v4: mask(network),
        pod_cidr_v4: network.network().octets(),
        service_cidr_v4: service_cidr.network().octets(),
        service_mask_v4: mask(service_cidr),
        ..Config::default()
    };
    Ok(KernelOptions { bpffs: options.bpffs.clone(), node: options.node_name.clone(), cgroup, config })
}

/// The mount point of the cgroup2 hierarchy's root.
fn cgroup2_root(mountinfo: &Path) -> anyhow::Result<PathBuf> {
    let text = std::fs::read_to_string(mountinfo).with_context(|| format!("read {}", mountinfo.display()))?;
    let mount = text.lines().find_map(|line| {
        let (mount, file_system) = line.split_once(" - ")?;
        let mut fields = mount.split(' ').skip(3);
        let (root, point) = (fields.next()?, fields.next()?);
        (file_system.starts_with("cgroup2 ") && root == "/").then(|| PathBuf::from(point))
    });
    mount.context("no cgroup2 hierarchy is mounted: mount one, or name a directory with --cgroup-root")
}

/// Says that sockets of the agent's own network namespace are the node's.
fn claim_host_namespace(dataplane: &Shared, config: &OverlayConfig) -> anyhow::Result<()> {
    let Some(cookie) = pods::host_netns_cookie().context("read the cookie of the node's network namespace")? else {
        return Ok(());
    };
    let v4 = config.node_v4.map_or([0; 4], |address| address.octets());
    let netns = Netns { v4, flags: netns_flags::HOST, ..Netns::default() };
    Ok(dataplane.lock().set_netns(cookie, netns)?)
}

async fn ended(server: &mut Option<JoinHandle<Result<(), pods::PodsError>>>) -> anyhow::Result<()> {
    match server {
        Some(server) => {
            server.await??;
            bail!("the CNI server stopped by itself")
        }
        None => std::future::pending().await,
    }
}

fn stop_signal() -> anyhow::Result<impl Future<Output = ()>> {
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    Ok(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    })
}
