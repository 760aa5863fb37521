//! `cargo xtask demo`: a cluster on this machine, a Service, and what iperf3 measures through it.
//!
//! Each round measures three paths between the same two nodes, to the same server: the client pod to the
//! server's own address (`direct`), the client pod to a ClusterIP (`service`), and the client's node to that
//! ClusterIP (`host_service`). The order changes from round to round. An iperf3 run makes two connections that
//! have to reach one server, so the measured Service selects the one replica; the Service over all replicas
//! gets many short connections, and who answered them is counted.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::process::{Command, ExitCode};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use clap::Parser;
use diolkos_tests::cluster::images;
use diolkos_tests::{Cluster, ClusterConfig, Pod, iperf, tools};
use serde_json::{Value, json};

/// Short connections to the Service over all replicas, from the pod and from its node each.
const CONNECTIONS: usize = 150;
const PATHS: [&str; 3] = ["direct", "service", "host_service"];
const PODS: Duration = Duration::from_secs(60);

#[derive(Parser)]
struct Arguments {
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(2..=16))]
    nodes: u32,
    /// Seconds of each iperf3 run
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    seconds: u32,
    #[arg(long, default_value_t = 9, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    #[arg(long)]
    json: Option<PathBuf>,
    #[arg(long)]
    keep: bool,
}

fn main() -> ExitCode {
    match run(&Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &Arguments) -> Result<()> {
    let start = Instant::now();
    step("building the images");
    let config =
        ClusterConfig { nodes: arguments.nodes, images: images()?, progress: step, ..ClusterConfig::default() };
    let mut cluster = Cluster::start(&config)?;
    let demo = Demo::prepare(&mut cluster, start).map_err(|error| cluster.explain(error))?;
    let result = demo.measure(&cluster, arguments).map_err(|error| cluster.explain(error))?;
    result.print();
    if let Some(file) = &arguments.json {
        fs::write(file, format!("{:#}\n", result.to_json(arguments.nodes)))
            .with_context(|| format!("cannot write {}", file.display()))?;
    }
    if arguments.keep {
        eprintln!("the cluster runs until Ctrl-C. kubectl: {}", cluster.kubectl_line());
        loop {
            std::thread::park();
        }
    }
    step("removing the cluster");
    drop(cluster);
    ensure!(result.failed == 0, "{} connections failed", result.failed);
    step("done");
    Ok(())
}

/// A line of progress with the time since the first one.
fn step(what: &str) {
    static START: std::sync::OnceLock<Instant> = std::sync::OnceLock::new();
    eprintln!("[{:6.1}s] {what}", START.get_or_init(Instant::now).elapsed().as_secs_f64());
}

/// Who measures whom.
struct Demo {
    client: Pod,
    server: Pod,
    replicas: usize,
    /// ClusterIP of the Service over all replicas.
    service: String,
    /// ClusterIP of the Service of the one server.
    measured: String,
    ready_seconds: f64,
}

impl Demo {
    /// Applies the examples, and waits until everything answers.
    fn prepare(cluster: &mut Cluster, start: Instant) -> Result<Self> {
        step("kubectl apply -f manifests/examples");
        print!("{}", cluster.kubectl(&["apply", "-f", &tools::root().join("manifests/examples").to_string_lossy()])?);
        let replicas =
            cluster.get(&["deployment", "iperf3"])?["spec"]["replicas"].as_u64().unwrap_or_default() as usize;
        let servers = cluster.wait_pods("app=iperf3", replicas, PODS)?;
        let client = cluster.wait_pods("app=client", 1, PODS)?.remove(0);
        let server = servers.iter().find(|server| server.node != client.node);
        let server = server.context("every server is on the client's node")?.clone();
        cluster.kubectl(&["label", "pod", &server.name, "measured=yes"])?;
        let service = cluster.service_field("iperf3", "clusterIP")?;
        let measured = cluster.service_field("iperf3-measured", "clusterIP")?;
        cluster.wait("the Services answer from the pod and from its node", PODS, |cluster| {
            cluster.exec(&client, &[&["iperf3"], &iperf::probe(&measured)[..]].concat())?;
            cluster.exec(&client, &["timeout", "2", "nc", &service, "80"])?;
            cluster.node_named(&client.node)?.exec(&[&["iperf3"], &iperf::probe(&measured)[..]].concat()).map(drop)
        })?;
        let ready_seconds = start.elapsed().as_secs_f64();
        step("the Services answer");
        println!("{}", cluster.kubectl(&["get", "nodes,pods,services,endpointslices", "-o", "wide"])?);
        Ok(Self { client, server, replicas, service, measured, ready_seconds })
    }

    fn measure(&self, cluster: &Cluster, arguments: &Arguments) -> Result<Measured> {
        let mut measured = Measured { ready_seconds: self.ready_seconds, ..Measured::default() };
        step(&format!("{} short connections from the pod and from its node", 2 * CONNECTIONS));
        self.connect(cluster, &mut measured)?;
        let answered = measured.connections.len();
        ensure!(answered == self.replicas, "only {answered} of {} backends got connections", self.replicas);
        for round in 0..arguments.rounds as usize {
            let mut gbps = [0.0; PATHS.len()];
            // A path that is always first would always meet the machine in the same state.
            for turn in 0..PATHS.len() {
                let path = (round + turn) % PATHS.len();
                gbps[path] = iperf::measure(|| self.client(cluster, PATHS[path], arguments.seconds))
                    .inspect_err(|_| measured.failed += 1)
                    .with_context(|| format!("round {}, path {}", round + 1, PATHS[path]))?;
            }
            let shown = PATHS.iter().zip(gbps).map(|(path, gbps)| format!("{path} {gbps:.2}")).collect::<Vec<_>>();
            step(&format!("round {}/{}: {} Gbit/s", round + 1, arguments.rounds, shown.join(", ")));
            measured.rounds.push(gbps);
        }
        Ok(measured)
    }

    /// The command of an iperf3 client on a path.
    fn client(&self, cluster: &Cluster, path: &str, seconds: u32) -> Result<Command> {
        let address = if path == "direct" { &self.server.address } else { &self.measured };
        let mut command = match path {
            "host_service" => cluster.node_named(&self.client.node)?.space().command("iperf3"),
            _ => cluster.exec_command(&self.client, "iperf3")?,
        };
        command.args(iperf::arguments(address, seconds));
        Ok(command)
    }

    /// Many short connections; who answered each.
    fn connect(&self, cluster: &Cluster, measured: &mut Measured) -> Result<()> {
        let script = |nc: &str| {
            let connect = format!("timeout 3 {nc} {} 80 < /dev/null", self.service);
            format!("for i in $(seq {CONNECTIONS}); do {connect} || echo failed; done")
        };
        let pod = cluster.exec(&self.client, &["sh", "-c", &script("nc")])?;
        let host = cluster.node_named(&self.client.node)?.exec(&["sh", "-c", &script("busybox nc")])?;
        for answer in pod.lines().chain(host.lines()) {
            match answer {
                "failed" => measured.failed += 1,
                name => *measured.connections.entry(name.to_owned()).or_default() += 1,
            }
        }
        Ok(())
    }
}

#[derive(Default)]
struct Measured {
    ready_seconds: f64,
    /// Gbit/s of each path, by round.
    rounds: Vec<[f64; PATHS.len()]>,
    connections: BTreeMap<String, usize>,
    failed: usize,
}

impl Measured {
    fn spread(&self, path: usize) -> [f64; 3] {
        let figures: Vec<f64> = self.rounds.iter().map(|round| round[path]).collect();
        iperf::spread(&figures).unwrap_or_default()
    }

    /// Median of each round's own ratio to `direct`: what slows the whole machine slows both.
    fn ratio(&self, path: usize) -> f64 {
        let ratios: Vec<f64> = self.rounds.iter().map(|round| round[path] / round[0]).collect();
        iperf::spread(&ratios).unwrap_or_default()[1]
    }

    fn print(&self) {
        println!("connections per backend, of {} short ones:", self.connections.values().sum::<usize>() + self.failed);
        for (name, count) in &self.connections {
            println!("  {name:32} {count:5}");
        }
        println!("  {:32} {:5}\n", "failed", self.failed);
        println!("Gbit/s, one stream, {} rounds        min  median     max  to direct", self.rounds.len());
        for (index, path) in PATHS.iter().enumerate() {
            let [min, median, max] = self.spread(index);
            println!("  {path:30} {min:7.2} {median:7.2} {max:7.2} {:10.3}", self.ratio(index));
        }
    }

    fn to_json(&self, nodes: u32) -> Value {
        let paths: Vec<Value> = PATHS
            .iter()
            .enumerate()
            .map(|(index, path)| json!({ "name": path, "gbps": self.spread(index), "rounds": self.rounds.len() }))
            .collect();
        json!({
            "nodes": nodes, "store": "etcd", "runtime": "containerd", "ready_seconds": self.ready_seconds,
            "paths": paths, "service_over_direct": self.ratio(1), "host_service_over_direct": self.ratio(2),
            "connections_per_backend": self.connections, "failed_connections": self.failed,
        })
    }
}
