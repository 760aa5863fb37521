//! The agent's life: its Node, the overlay, the programs, the first sync, then pods.

mod kernel;
mod node;
mod operator;
mod sockets;

use std::collections::BTreeSet;
use std::fs::File;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use diolkos_api::client::{Client, connect_file};
use futures::FutureExt;
use ipnetwork::IpNetwork;
use nix::fcntl::Flock;
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::JoinHandle;

use crate::clock::Clock;
use crate::dataplane::Shared;
use crate::dataplane::kernel::{Kernel, KernelOptions};
use crate::destroy::Closer;
use crate::devices;
use crate::driver::Driver;
use crate::options::Options;
use crate::overlay::{Overlay, OverlayConfig};
use crate::plan::QUARANTINE;
use crate::pods::{self, Annotations, Install, Pods};
use crate::source::{Grpc, Source};
use crate::state::{self, Handle, Questions};
use crate::sweep::{self, Sweeper};

/// Changes taken in before a plan is made of them.
const CHANGES_PER_CYCLE: usize = 4096;
pub(crate) use kernel::cgroup2_root;

/// How often devices, routes and pods are looked after: nothing tells when someone else changes them.
const REPAIR: Duration = Duration::from_secs(30);
/// The pause before what could not be repaired is tried again.
const REPAIR_AGAIN: Duration = Duration::from_secs(5);

/// Runs until SIGTERM or SIGINT. The programs, their maps and the pods' connections outlive the agent.
pub async fn run(options: Options) -> anyhow::Result<()> {
    run_until(options, stop_signal()?).await
}

/// The same, until `stop`.
pub async fn run_until(options: Options, stop: impl Future<Output = ()>) -> anyhow::Result<()> {
    let mut stop = std::pin::pin!(stop);
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
    /// Closes sockets of backends that are gone.
    closer: Closer,
    clock: Clock,
    sweeper: Sweeper,
    /// When the sweeper takes its next page.
    sweep_due: Instant,
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
        kernel::check(&options)?;
        let lock = node::lock(&options.state_dir).await?;
        let (state, questions) = state::channel();
        operator::serve(&options, &state).await?;
        let client = connect_file(&options.kubeconfig)?;
        let overlay_config = node::wait(&client, &options).await?;
        let overlay = Overlay::ensure(&overlay_config).await?;
        let clock = Clock::calibrate();
        let kernel = kernel::options(&options, &overlay_config, &overlay, clock)?;
        let dataplane = Shared::new(Kernel::open(&kernel)?);
        kernel::claim_host_namespace(&dataplane, &overlay_config)?;
        let pods = Pods::open(&options.state_dir, dataplane.clone(), pods::REST)?;
        pods.set_wishes(Annotations::new(client.clone()));
        pods.set_network(node::network(&overlay_config, &overlay));
        pods.repair().await?;
        let this = node::this(&options, &overlay_config, &overlay, clock);
        let pod_cidrs = [this.pod_cidr_v4.map(IpNetwork::V4), this.pod_cidr_v6.map(IpNetwork::V6)];
        let pod_cidrs: Vec<String> = pod_cidrs.iter().flatten().map(ToString::to_string).collect();
        tracing::info!(pod_cidrs = pod_cidrs.join(","), mtu = overlay.mtu, "programs loaded");
        state.update(|state| state.readiness.programs = true);
        Ok(Self {
            driver: Driver::new(dataplane.clone(), this, QUARANTINE),
            closer: sockets::closer(&options, &pods)?,
            clock,
            sweeper: Sweeper::new(kernel.config.lifetimes),
            sweep_due: Instant::now() + sweep::ROUND,
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
                () = tokio::time::sleep_until(self.sweep_due.into()) => {
                    self.sweep();
                    continue;
                }
                _ = repairs.tick() => {
                    if !self.repair().await {
                        repairs.reset_after(REPAIR_AGAIN);
                    }
                }
                () = self.pods.gone() => self.driver.pod_gone(),
                result = ended(&mut self.server) => return result,
            }
            self.cycle(received).await;
            if self.has_moved() && !self.repair().await {
                repairs.reset_after(REPAIR_AGAIN);
            }
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
        if cycle.died > 0 || cycle.compared {
            self.closer.look();
        }
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

    /// Whether the Node has other addresses or pod CIDRs than device, programs and pods were made for. They are made
    /// anew then; pods that are there keep the addresses they have.
    fn has_moved(&mut self) -> bool {
        let Some(Ok(facts)) = self.driver.node(&self.options.node_name) else { return false };
        let Ok(now) = node::overlay_config(facts, &self.options) else { return false };
        if now == self.overlay_config {
            return false;
        }
        tracing::warn!(was = ?self.overlay_config, now = ?now, "this node has other addresses or podCIDRs");
        self.overlay_config = now;
        true
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
        let devices = devices::sync(&self.dataplane, &self.overlay_config, &self.options.devices).await;
        if let Err(error) = &devices {
            tracing::error!(%error, "the node's own devices cannot be looked after; trying again");
        }
        self.routes_due = Some(Instant::now());
        self.heal_monitor();
        devices.is_ok() && overlay.is_ok() && pods.is_ok_and(|repaired| repaired.failures.is_empty())
    }

    async fn repair_overlay(&mut self) -> anyhow::Result<()> {
        let overlay = Overlay::ensure(&self.overlay_config).await?;
        let kernel = kernel::options(&self.options, &self.overlay_config, &overlay, self.clock)?;
        if kernel.config != self.kernel.config {
            tracing::warn!("the overlay device, its MTU or the node's addresses changed: loading the programs anew");
            self.dataplane.replace(Kernel::open(&kernel)?);
            self.kernel = kernel;
            kernel::claim_host_namespace(&self.dataplane, &self.overlay_config)?;
        }
        self.overlay = overlay;
        self.pods.set_network(node::network(&self.overlay_config, &self.overlay));
        self.driver.set_this(node::this(&self.options, &self.overlay_config, &self.overlay, self.clock));
        Ok(())
    }

    /// One page of the sweeper's round.
    fn sweep(&mut self) {
        let swept = self.sweeper.step(&mut **self.dataplane.lock());
        let is_round = match swept {
            Ok(swept) => {
                self.state.update(|state| state.sweeps.add(swept));
                swept.round.is_some()
            }
            Err(error) => {
                tracing::error!(%error, "connections that are over cannot be cleared away; trying again");
                true
            }
        };
        self.sweep_due = Instant::now() + if is_round { sweep::ROUND } else { sweep::PAUSE };
    }

    /// The first sync is done: from now on pods may come. The configuration is the last thing a runtime waits for.
    async fn serve_pods(&mut self, mut stopped: tokio::sync::watch::Receiver<()>) -> anyhow::Result<()> {
        self.dataplane.lock().put_in_place()?;
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
