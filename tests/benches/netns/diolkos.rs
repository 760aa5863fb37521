//! The project's own dataplane on a node: the agent's driver over the kernel, in a thread inside the node's namespaces.

use std::fs::File;
use std::path::PathBuf;
use std::sync::mpsc;
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context as _, Result};
use diolkos_abi::address::v4_mapped;
use diolkos_abi::config::{Config, features};
use diolkos_abi::pod::{Endpoint, address_tag};
use diolkos_agent::Routing;
use diolkos_agent::clock::Clock;
use diolkos_agent::dataplane::Shared;
use diolkos_agent::dataplane::kernel::{Kernel, KernelOptions};
use diolkos_agent::desired::ThisNode;
use diolkos_agent::driver::Driver;
use diolkos_agent::overlay::{OnLink, Overlay, OverlayConfig};
use diolkos_agent::plan::QUARANTINE;
use diolkos_agent::source::Change;
use ipnetwork::Ipv4Network;
use nix::net::if_::if_nametoindex;
use nix::sched::{CloneFlags, setns, unshare};
use serde_json::json;

use crate::kubeproxy::Service;
use crate::world::{HOST_MAC, Pod, UPLINK, World, node_address, pod_cidr};

/// How pods of different nodes reach each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Network {
    Overlay,
    Direct,
}

/// A running node; it ends when this is dropped, its pins with its mount namespace.
pub struct Node {
    services: mpsc::Sender<Vec<Service>>,
    done: mpsc::Receiver<Result<()>>,
    _thread: JoinHandle<()>,
}

/// What a node's thread needs of a pod.
struct PodFacts {
    host: String,
    address: std::net::Ipv4Addr,
    mac: [u8; 6],
}

impl Node {
    /// Starts the dataplane on both nodes.
    pub fn both(world: &World, network: Network) -> Result<[Self; 2]> {
        let first = Self::start(world, 0, &[&world.client, &world.plain, &world.local], network)?;
        let second = Self::start(world, 1, &[&world.remote], network)?;
        Ok([first, second])
    }

    fn start(world: &World, index: usize, pods: &[&Pod], network: Network) -> Result<Self> {
        let space = &world.nodes[index];
        let (mount, net) = (File::open(space.mount_namespace())?, File::open(space.network_namespace())?);
        let cgroup = space.cgroup().to_owned();
        let facts = |pod: &&Pod| PodFacts { host: pod.host.into(), address: pod.address, mac: pod.mac };
        let pods: Vec<PodFacts> = pods.iter().map(facts).collect();
        let (services, wanted) = mpsc::channel::<Vec<Service>>();
        let (report, done) = mpsc::channel();
        let thread = std::thread::spawn(move || {
            let started = enter(&mount, &net).and_then(|()| Running::start(index, cgroup, &pods, network));
            let mut running = match started {
                Ok(running) => running,
                Err(error) => return drop(report.send(Err(error))),
            };
            let _ = report.send(Ok(()));
            while let Ok(services) = wanted.recv() {
                let _ = report.send(running.set_services(&services));
            }
        });
        done.recv().context("the node's thread ended")??;
        Ok(Self { services, done, _thread: thread })
    }

    /// Makes these the Services of the cluster, and waits until the maps say so.
    pub fn set_services(&self, services: &[Service]) -> Result<()> {
        self.services.send(services.to_vec()).context("the node's thread ended")?;
        self.done.recv().context("the node's thread ended")?
    }
}

fn enter(mount: &File, net: &File) -> Result<()> {
    unshare(CloneFlags::CLONE_FS)?;
    setns(mount, CloneFlags::CLONE_NEWNS).context("enter the node's mount namespace")?;
    setns(net, CloneFlags::CLONE_NEWNET).context("enter the node's network namespace")
}

struct Running {
    driver: Driver,
    passed: Duration,
}

impl Running {
    fn start(index: usize, cgroup: PathBuf, pods: &[PodFacts], network: Network) -> Result<Self> {
        let routing = if network == Network::Direct { Routing::Direct } else { Routing::Overlay };
        let cidr: Ipv4Network = pod_cidr(index).parse()?;
        let overlay_config = OverlayConfig {
            node_v4: Some(node_address(index)),
            node_v6: None,
            pod_cidr_v4: Some(cidr),
            pod_cidr_v6: None,
            port: 4789,
            routing,
        };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let overlay = runtime.block_on(Overlay::ensure(&overlay_config))?;
        let kernel = KernelOptions {
            bpffs: "/sys/fs/bpf".into(),
            node: format!("n{index}"),
            cgroup,
            config: config(index, network, &overlay)?,
        };
        let dataplane = Shared::new(Kernel::open(&kernel)?);
        for pod in pods {
            let ifindex = if_nametoindex(pod.host.as_str())?;
            let address = v4_mapped(pod.address.octets());
            let tag = address_tag(&address);
            let endpoint = Endpoint { tag, ifindex, mac: pod.mac, host_mac: HOST_MAC, ..Endpoint::default() };
            dataplane.lock().upsert_endpoint(address, endpoint)?;
            dataplane.lock().attach_pod(&pod.host, ifindex)?;
        }
        dataplane.lock().attach_netdev(UPLINK, if_nametoindex(UPLINK)?)?;
        let mut driver = Driver::new(dataplane.clone(), this(index, cidr, &overlay), QUARANTINE);
        driver.apply(Change::Nodes(vec![node(0)?, node(1)?]));
        let mut running = Self { driver, passed: Duration::ZERO };
        running.set_services(&[])?;
        let pod_cidrs = running.driver.pod_cidrs().context("no pod CIDRs")?;
        runtime.block_on(overlay.sync_routes(pod_cidrs))?;
        dataplane.lock().put_in_place()?;
        Ok(running)
    }

    fn set_services(&mut self, services: &[Service]) -> Result<()> {
        let (mut objects, mut slices) = (Vec::new(), Vec::new());
        for service in services {
            let Service { name, address, port, endpoints } = service;
            objects.push(serde_json::from_value(json!({
                "metadata": { "name": name, "namespace": "bench" },
                "spec": { "clusterIP": address, "clusterIPs": [address], "ports": [{ "name": "p", "port": port }] },
            }))?);
            let target = endpoints.first().map_or(0, |(_, port)| *port);
            let list: Vec<_> = endpoints.iter().map(|(address, _)| json!({ "addresses": [address] })).collect();
            slices.push(serde_json::from_value(json!({
                "metadata": { "name": name, "namespace": "bench", "labels": { "kubernetes.io/service-name": name } },
                "addressType": "IPv4", "ports": [{ "name": "p", "port": target }], "endpoints": list,
            }))?);
        }
        self.driver.apply(Change::Services(objects));
        self.driver.apply(Change::Slices(slices));
        self.passed += Duration::from_secs(1);
        self.driver.cycle(self.passed);
        let refusals = self.driver.refusals();
        anyhow::ensure!(self.driver.has_synced() && refusals.is_empty(), "not in sync: {refusals:?}");
        Ok(())
    }
}

fn node(index: usize) -> Result<k8s_openapi::api::core::v1::Node> {
    Ok(serde_json::from_value(json!({
        "metadata": { "name": format!("n{index}") },
        "spec": { "podCIDR": pod_cidr(index), "podCIDRs": [pod_cidr(index)] },
        "status": { "addresses": [{ "type": "InternalIP", "address": node_address(index) }] },
    }))?)
}

fn config(index: usize, network: Network, overlay: &Overlay) -> Result<Config> {
    let cidr: Ipv4Network = pod_cidr(index).parse()?;
    let cores = aya::util::nr_cpus().map_err(|(path, error)| anyhow::anyhow!("{path}: {error}"))?;
    Ok(Config {
        overlay_ifindex: overlay.ifindex,
        vni: 1,
        overlay_mac: overlay.mac,
        overlay_mtu: u16::try_from(overlay.mtu)?,
        gateway_v4: overlay.gateway_v4.map_or([0; 4], |gateway| gateway.octets()),
        route_mask_v4: cidr.mask().octets(),
        pod_cidr_v4: cidr.network().octets(),
        service_cidr_v4: [10, 96, 0, 0],
        service_mask_v4: [255, 240, 0, 0],
        node_v4: node_address(index).octets(),
        cores: u32::try_from(cores)?,
        features: if network == Network::Direct { features::DIRECT_ROUTING } else { 0 },
        ..Config::EMPTY
    })
}

fn this(index: usize, pod_cidr: Ipv4Network, overlay: &Overlay) -> ThisNode {
    ThisNode {
        name: format!("n{index}"),
        node_v4: Some(node_address(index)),
        node_v6: None,
        pod_cidr_v4: Some(pod_cidr),
        pod_cidr_v6: None,
        service_cidrs: vec![],
        overlay_mtu: u16::try_from(overlay.mtu).unwrap_or(u16::MAX),
        on_link: if overlay.ifindex == 0 { overlay.on_link.clone() } else { OnLink::default() },
        clock: Clock::calibrate(),
    }
}
