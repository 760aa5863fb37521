//! Putting the parts together.

use crate::certificate;
use crate::cluster::Cluster;
use crate::cluster::api::ApiCluster;
use crate::desired::environment::Facts;
use crate::driver::{Context, Driver};
use crate::heartbeat;
use crate::host::{self, Host};
use crate::machine;
use crate::node::NodeHealth;
use crate::runtime::Runtime;
use crate::runtime::cri::Cri;
use anyhow::Context as _;
use diolkos_api::client::{Event, connect_file};
use diolkos_api::quantity::Quantity;
use futures::StreamExt;
use futures::stream::BoxStream;
use k8s_openapi::api::core::v1::Pod;
use std::collections::BTreeMap;
use std::future::Future;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep_until};

/// How to run a kubelet.
#[derive(Clone, Debug)]
pub struct Options {
    pub kubeconfig: PathBuf,
    pub node_name: String,
    /// The addresses under which the other nodes reach this one: one for each address family, the first one first.
    pub node_ips: Vec<IpAddr>,
    /// `unix:///run/containerd/containerd.sock`
    pub runtime_endpoint: String,
    pub root_dir: PathBuf,
    pub log_dir: PathBuf,
    /// Cgroup of all pods, below the root of each hierarchy; "" for the root itself.
    pub cgroup_root: String,
    /// `cpu`, `memory` and `pods`; what is missing is taken from the machine.
    pub capacity: BTreeMap<String, String>,
}

/// What a kubelet needs besides its runtime and its control plane.
#[derive(Clone, Debug)]
pub struct Settings {
    pub node_name: String,
    /// As in [`Options::node_ips`].
    pub node_ips: Vec<IpAddr>,
    pub root_dir: PathBuf,
    pub log_dir: PathBuf,
    pub cgroup_root: String,
    pub capacity: BTreeMap<String, String>,
}

/// How often the runtime is looked at.
const LOOK_PERIOD: Duration = Duration::from_secs(1);
/// Shortest time between two looks, when things happen at once.
const LOOK_PAUSE: Duration = Duration::from_millis(50);
/// Longest wait for work under way when the kubelet ends.
const DRAIN_LIMIT: Duration = Duration::from_secs(5);

/// Runs until SIGTERM or SIGINT. The pods go on without the kubelet.
pub async fn run(options: Options) -> anyhow::Result<()> {
    let mut terminate = signal(SignalKind::terminate()).context("listen for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("listen for SIGINT")?;
    let stop = async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    };
    run_until(options, stop).await
}

/// The same, until `stop`.
pub async fn run_until(options: Options, stop: impl Future<Output = ()>) -> anyhow::Result<()> {
    let client = connect_file(&options.kubeconfig)?;
    let mut renewal = JoinSet::new();
    let wish = certificate::Wish::of_kubelet(&options.node_name);
    renewal.spawn(certificate::keep(client.clone(), options.kubeconfig.clone(), wish));
    let runtime = Cri::new(&options.runtime_endpoint)?;
    let settings = Settings {
        node_name: options.node_name,
        node_ips: options.node_ips,
        root_dir: options.root_dir,
        log_dir: options.log_dir,
        cgroup_root: options.cgroup_root,
        capacity: options.capacity,
    };
    run_with(settings, Arc::new(runtime), Arc::new(ApiCluster::new(client)), stop).await
}

/// Runs with any runtime and any control plane until `stop`.
pub async fn run_with(
    settings: Settings,
    runtime: Arc<dyn Runtime>,
    cluster: Arc<dyn Cluster>,
    stop: impl Future<Output = ()>,
) -> anyhow::Result<()> {
    let capacity = machine::capacity(&settings.capacity)?;
    let node_ips = node_addresses(&settings.node_ips)?;
    let host = Host::new(settings.root_dir.clone(), settings.log_dir, &settings.cgroup_root, host::hierarchies()?);
    host.prepare()?;
    let amount = |name: &str| capacity.get(name).and_then(|text| Quantity::parse(text).ok()).unwrap_or_default();
    let facts = Facts {
        node_name: settings.node_name.clone(),
        host_ips: node_ips.clone(),
        pod_ips: Vec::new(),
        node_cpu_milli: amount("cpu").milli(),
        node_memory_bytes: amount("memory").units(),
    };
    let identity = machine::identity(settings.node_name, node_ips, capacity);
    tracing::info!(node = identity.name, ips = ?identity.ips, "the kubelet starts");
    let driver = Driver::new(Context::new(runtime, cluster.clone(), host, facts, PathBuf::from("/etc/resolv.conf")));
    let (health, watched) = watch::channel(driver.health().clone());
    let pods = cluster.pods(&identity.name);
    // A task of its own: the lease is renewed while a runtime that hangs holds up the look at it.
    let mut heart = JoinSet::new();
    heart.spawn(heartbeat::run(identity, cluster, settings.root_dir, watched));
    drive(driver, pods, health, stop).await;
    heart.shutdown().await;
    tracing::info!("the kubelet ends; its pods go on");
    Ok(())
}

/// One address for each family, or what is wrong with them.
fn node_addresses(given: &[IpAddr]) -> anyhow::Result<Vec<String>> {
    let same_family = given.len() == 2 && given[0].is_ipv4() == given[1].is_ipv4();
    anyhow::ensure!(
        (1..=2).contains(&given.len()) && !same_family,
        "--node-ip takes one address for each address family, such as 192.0.2.1,2001:db8::1"
    );
    if let Some(address) = given.iter().find(|address| address.is_unspecified() || address.is_multicast()) {
        anyhow::bail!("--node-ip {address} is no address of one node: give one that the other nodes can reach");
    }
    Ok(given.iter().map(ToString::to_string).collect())
}

async fn drive(
    mut driver: Driver,
    mut pods: BoxStream<'static, Event<Pod>>,
    health: watch::Sender<NodeHealth>,
    stop: impl Future<Output = ()>,
) {
    tokio::pin!(stop);
    let mut tick = interval(LOOK_PERIOD);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut next_look = Some(Instant::now());
    loop {
        let soon = Instant::now() + LOOK_PAUSE;
        tokio::select! {
            () = &mut stop => break,
            Some(event) = pods.next() => {
                driver.apply(event);
                next_look.get_or_insert(soon);
            }
            done = driver.done() => {
                driver.record(done, machine::now());
                next_look.get_or_insert(soon);
            }
            _ = tick.tick() => { next_look.get_or_insert(Instant::now()); }
            () = sleep_until(next_look.unwrap_or(soon)), if next_look.is_some() => {
                next_look = None;
                driver.pass(machine::now()).await;
                health.send_if_modified(|known| {
                    let changed = known != driver.health();
                    if changed {
                        *known = driver.health().clone();
                    }
                    changed
                });
            }
        }
    }
    // What is under way may finish: a status, a container half started.
    let drained = tokio::time::timeout(DRAIN_LIMIT, async {
        while driver.is_busy() {
            let done = driver.done().await;
            driver.record(done, machine::now());
        }
    });
    if drained.await.is_err() {
        tracing::warn!("work was still under way at the end; the next kubelet goes on with it");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_has_one_address_for_each_family() {
        let read = |texts: &[&str]| {
            let addresses: Vec<IpAddr> = texts.iter().filter_map(|text| text.parse().ok()).collect();
            node_addresses(&addresses).map_err(|error| error.to_string())
        };
        assert_eq!(read(&["fd00::1", "192.0.2.1"]), Ok(vec!["fd00::1".to_owned(), "192.0.2.1".to_owned()]));
        for wrong in [&[][..], &["192.0.2.1", "192.0.2.2"], &["fd00::1", "192.0.2.1", "fd00::2"]] {
            assert!(read(wrong).is_err_and(|why| why.contains("one address for each address family")), "{wrong:?}");
        }
        assert!(read(&["::"]).is_err_and(|why| why.contains("no address of one node")));
    }
}
