//! How fast the agent fills the maps: from the bytes of the API's objects to the words in the kernel, and how much memory
//! it holds afterwards. Each size runs in a process of its own, in a network namespace and on a bpf file system of its
//! own, in every round.
#![allow(clippy::unwrap_used, unreachable_pub)]

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use clap::Parser;
use diolkos_abi::config::Config;
use diolkos_agent::clock::Clock;
use diolkos_agent::dataplane::Shared;
use diolkos_agent::dataplane::kernel::{self, Kernel, KernelOptions};
use diolkos_agent::desired::ThisNode;
use diolkos_agent::driver::Driver;
use diolkos_agent::overlay::OnLink;
use diolkos_agent::plan::QUARANTINE;
use diolkos_agent::source::{Change, Kind};
use diolkos_tests::cgroup::Hierarchies;
use diolkos_tests::figures::{Figures, Output, Section};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};
use serde_json::{Value, json};

/// Endpoints of every Service.
const ENDPOINTS: u32 = 10;
/// Changes of one endpoint, each measured alone.
const CHANGES: u32 = 1000;

#[derive(Parser)]
struct Options {
    /// Rounds, each with every size once.
    #[arg(long, default_value_t = 5)]
    rounds: u32,
    /// How many Services there are.
    #[arg(long, value_delimiter = ',', default_value = "1000,10000,30000")]
    services: Vec<u32>,
    #[command(flatten)]
    output: Output,
    /// Measures one size in this process and prints its figures.
    #[arg(long, hide = true)]
    measure: Option<u32>,
}

fn main() -> Result<()> {
    let options = Options::parse();
    if let Some(services) = options.measure {
        println!("{}", measure(services)?);
        return Ok(());
    }
    let mut figures = Figures::new("Programming the maps");
    let names = [
        ("Cold start: all objects to the maps", "ms", "cold_ms"),
        ("One endpoint changed: event to map, median", "us", "change_p50_us"),
        ("One endpoint changed: event to map, 99th percentile", "us", "change_p99_us"),
        ("Memory of the process afterwards (RSS)", "MB", "rss_mb"),
    ];
    let mut sections: Vec<Section> = names.iter().map(|(title, unit, _)| Section::new(*title, unit)).collect();
    for round in 0..options.rounds {
        for services in &options.services {
            eprintln!("round {} of {}: {services} Services of {ENDPOINTS} endpoints", round + 1, options.rounds);
            let result = child(*services)?;
            for (section, (_, _, field)) in sections.iter_mut().zip(&names) {
                let value = result[*field].as_f64().with_context(|| format!("no {field} in {result}"))?;
                section.add(&format!("diolkos, {services} Services"), None, value);
            }
        }
    }
    figures.sections = sections;
    options.output.write_figures(&figures)
}

fn child(services: u32) -> Result<Value> {
    let mut command = Command::new(std::env::current_exe()?);
    command.args(["--measure", &services.to_string()]).stdin(Stdio::null()).stderr(Stdio::inherit());
    let output = command.output().context("run the measuring process")?;
    ensure!(output.status.success(), "the measuring process failed ({})", output.status);
    serde_json::from_slice(&output.stdout).context("the figures of the measuring process")
}

/// One size in this process, in namespaces of its own.
fn measure(services: u32) -> Result<Value> {
    unshare(CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWNS).context("make namespaces (root is needed)")?;
    mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None::<&str>)?;
    let objects = tempfile::tempdir()?;
    write_objects(objects.path(), services)?;
    let node = Place::new()?;
    let mut driver = node.driver()?;
    let start = Instant::now();
    driver.apply(Change::Nodes(vec![]));
    list(&mut driver, Kind::Services, &objects.path().join("services"), Change::Service)?;
    list(&mut driver, Kind::Slices, &objects.path().join("slices"), Change::Slice)?;
    driver.cycle(Duration::ZERO);
    let cold = start.elapsed();
    ensure!(driver.has_synced() && driver.refusals().is_empty(), "not in sync: {:?}", driver.refusals());
    let rss = rss_mb()?;
    let mut changes = Vec::new();
    for change in 0..CHANGES {
        // A step that meets every size's Services in turn; the last endpoint comes and goes.
        let bytes = slice(change * 7919 % services, ENDPOINTS - 1 + (change / services) % 2).to_string().into_bytes();
        let start = Instant::now();
        driver.apply(Change::Slice(serde_json::from_slice(&bytes)?));
        let cycle = driver.cycle(Duration::from_millis(u64::from(change)));
        changes.push(start.elapsed().as_secs_f64() * 1e6);
        ensure!(change >= services || cycle.writes > 0, "change {change} wrote nothing");
    }
    changes.sort_by(f64::total_cmp);
    Ok(json!({
        "cold_ms": cold.as_secs_f64() * 1e3,
        "change_p50_us": changes[changes.len() / 2],
        "change_p99_us": changes[changes.len() * 99 / 100],
        "rss_mb": rss,
    }))
}

/// A cgroup and a bpf file system; gone when this is dropped.
struct Place {
    bpffs: tempfile::TempDir,
    cgroup: PathBuf,
}

const NODE: &str = "bench";

impl Place {
    fn new() -> Result<Self> {
        let bpffs = tempfile::tempdir()?;
        mount(Some("bpf"), bpffs.path(), Some("bpf"), MsFlags::empty(), None::<&str>).context("mount bpffs")?;
        let cgroup = Hierarchies::find()?.unified.join(format!("diolkos-bench-{}", std::process::id()));
        fs::create_dir_all(&cgroup).with_context(|| format!("create {}", cgroup.display()))?;
        Ok(Self { bpffs, cgroup })
    }

    fn driver(&self) -> Result<Driver> {
        let config = Config {
            gateway_v4: [10, 244, 1, 1],
            route_mask_v4: [255, 255, 255, 0],
            pod_cidr_v4: [10, 244, 1, 0],
            service_cidr_v4: [10, 96, 0, 0],
            service_mask_v4: [255, 240, 0, 0],
            ..Config::EMPTY
        };
        let (bpffs, cgroup) = (self.bpffs.path().to_owned(), self.cgroup.clone());
        let dataplane = Kernel::open(&KernelOptions { bpffs, node: NODE.into(), cgroup, config })?;
        let this = ThisNode {
            name: NODE.into(),
            node_v4: None,
            node_v6: None,
            pod_cidr_v4: Some("10.244.1.0/24".parse()?),
            pod_cidr_v6: None,
            service_cidrs: vec![],
            overlay_mtu: 1450,
            on_link: OnLink::default(),
            clock: Clock::calibrate(),
        };
        Ok(Driver::new(Shared::new(dataplane), this, QUARANTINE))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let _ = kernel::remove(self.bpffs.path(), NODE);
        let _ = umount2(self.bpffs.path(), MntFlags::MNT_DETACH);
        let _ = fs::remove_dir(&self.cgroup);
    }
}

/// Two files with one object a line, as an apiserver sends them.
fn write_objects(directory: &Path, services: u32) -> Result<()> {
    let (mut text, mut slices) = (String::new(), String::new());
    for index in 0..services {
        text.push_str(&format!("{}\n", service(index)));
        slices.push_str(&format!("{}\n", slice(index, ENDPOINTS)));
    }
    fs::write(directory.join("services"), text)?;
    fs::write(directory.join("slices"), slices).context("write the objects")
}

/// A list as the source hands it on: object by object.
fn list<T>(driver: &mut Driver, kind: Kind, path: &Path, change: fn(T) -> Change) -> Result<()>
where
    T: k8s_openapi::serde::de::DeserializeOwned,
{
    let mut reader = BufReader::new(fs::File::open(path)?);
    let mut line = Vec::new();
    driver.apply(Change::Listing(kind));
    while reader.read_until(b'\n', &mut line)? > 0 {
        driver.apply(change(serde_json::from_slice(&line)?));
        line.clear();
    }
    driver.apply(Change::Listed(kind));
    Ok(())
}

fn service(index: u32) -> Value {
    let [_, a, b, c] = index.to_be_bytes();
    let address = format!("10.{}.{b}.{c}", 96 + a);
    json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": {
            "name": format!("svc-{index}"), "namespace": "bench", "uid": format!("00000000-0000-0000-0000-{index:012}"),
            "resourceVersion": "1000", "creationTimestamp": "2026-01-01T00:00:00Z", "labels": { "app": format!("app-{index}") },
        },
        "spec": {
            "clusterIP": address, "clusterIPs": [address], "internalTrafficPolicy": "Cluster", "ipFamilies": ["IPv4"],
            "ipFamilyPolicy": "SingleStack", "ports": [{ "name": "p", "port": 80, "protocol": "TCP", "targetPort": 8080 }],
            "selector": { "app": format!("app-{index}") }, "sessionAffinity": "None", "type": "ClusterIP",
        },
        "status": { "loadBalancer": {} },
    })
}

fn slice(index: u32, endpoints: u32) -> Value {
    let list: Vec<Value> = (0..endpoints)
        .map(|endpoint| {
            let [_, a, b, c] = (index * ENDPOINTS + endpoint).to_be_bytes();
            json!({
                "addresses": [format!("10.{}.{b}.{c}", 128 + a)],
                "conditions": { "ready": true, "serving": true, "terminating": false }, "nodeName": format!("node-{}", c % 8),
                "targetRef": { "kind": "Pod", "name": format!("app-{index}-{endpoint}"), "namespace": "bench" },
            })
        })
        .collect();
    json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
        "metadata": {
            "name": format!("svc-{index}-abcde"), "namespace": "bench", "resourceVersion": "1001", "generation": 3,
            "labels": { "kubernetes.io/service-name": format!("svc-{index}") },
        },
        "ports": [{ "name": "p", "port": 8080, "protocol": "TCP" }], "endpoints": list,
    })
}

/// Resident memory of this process.
fn rss_mb() -> Result<f64> {
    let status = fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("no VmRSS in /proc/self/status")?;
    let kib: f64 = line.trim().trim_end_matches("kB").trim().parse()?;
    Ok(kib / 1024.0)
}
