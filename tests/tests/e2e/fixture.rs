//! One cluster for all tests, with a client, a pod beside it, a pod on the other node, and a Service.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::Command;
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use diolkos_tests::image::{self, ImageSpec};
use diolkos_tests::process::Process;
use diolkos_tests::space::finish;
use diolkos_tests::{Cluster, ClusterConfig, Families, Pod, tools};
use serde_json::{Value, json};

/// Long enough for a loaded machine with two cores.
pub(crate) const PATIENCE: Duration = Duration::from_secs(40);
/// Replicas of the Deployment `web`.
pub(crate) const REPLICAS: usize = 4;

pub(crate) struct Fixture {
    pub(crate) cluster: Cluster,
    /// A pod on node-1 to connect from.
    pub(crate) client: Pod,
    /// A server on the client's node, with iperf3 too.
    pub(crate) near: Pod,
    /// The same on the other node.
    pub(crate) far: Pod,
    /// ClusterIP of the Service `web`: port 80 answers a name, port 9000 echoes.
    pub(crate) web: String,
    /// ClusterIPs of the Service `both` over the same pods, IPv4 and IPv6: port 80 answers a name by TCP and by UDP,
    /// port 9000 echoes.
    pub(crate) both: [String; 2],
    /// Servers on the host networks of both nodes, with [`HOST_PORT`], and the addresses of their Service `hosts`.
    pub(crate) hosts: [Pod; 2],
    pub(crate) hosts_service: [String; 2],
    pub(crate) outside: Outside,
}

/// Where a server on a host network answers its name by TCP and by UDP.
pub(crate) const HOST_PORT: u16 = 18_080;

/// A machine that is no part of the cluster and knows no way to pods: it tells by TCP and UDP whom it sees.
pub(crate) struct Outside {
    /// IPv4 and IPv6, or the one that the cluster has.
    pub(crate) addresses: Vec<String>,
    _server: Process,
}

/// Where that machine answers.
pub(crate) const WITNESS: &str = "7000";

/// From where a test connects.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Place<'a> {
    /// A container: its sockets are translated.
    Pod(&'a Pod),
    /// A pod's network without its cgroup: its packets are translated.
    Packets(&'a Pod),
    /// The host network of a node; nodes count from 0.
    Node(usize),
    /// The same without its cgroup: its packets are translated.
    NodePackets(usize),
}

/// The server and client of the tests, in images and on nodes.
const PROBE: &str = env!("CARGO_BIN_EXE_probe");
/// busybox, iperf3 and the probe.
const IMAGE: &str = "registry.local/diolkos/e2e:1";

/// The shared cluster. A test that fails leaves it to the next as it is.
pub(crate) fn fixture() -> MutexGuard<'static, Fixture> {
    static FIXTURE: OnceLock<Result<Mutex<Fixture>, String>> = OnceLock::new();
    match FIXTURE.get_or_init(|| Fixture::start().map(Mutex::new).map_err(|error| format!("{error:#}"))) {
        Ok(fixture) => fixture.lock().unwrap_or_else(PoisonError::into_inner),
        Err(error) => panic!("the cluster did not start: {error}"),
    }
}

impl Fixture {
    fn start() -> Result<Self> {
        let config =
            ClusterConfig { nodes: 2, images: images()?, families: Families::Dual, ..ClusterConfig::default() };
        let mut cluster = Cluster::start(&config)?;
        let prepared = Outside::start(&mut cluster, config.families)
            .and_then(|outside| Ok((outside, Self::prepare(&mut cluster)?)));
        match prepared {
            Ok((outside, ([client, near, far, first, second], web, [both, hosts_service]))) => {
                Ok(Self { cluster, client, near, far, web, both, hosts: [first, second], hosts_service, outside })
            }
            Err(error) => Err(cluster.explain(error)),
        }
    }

    fn prepare(cluster: &mut Cluster) -> Result<([Pod; 5], String, [[String; 2]; 2])> {
        for (name, node) in [("client", "node-1"), ("near", "node-1"), ("far", "node-2")] {
            cluster.apply(&pod(name, Some(node)).to_string())?;
        }
        for (name, node) in [("host-1", "node-1"), ("host-2", "node-2")] {
            cluster.apply(&on_host_network(name, "hosts", node).to_string())?;
        }
        cluster.apply(&deployment("web", REPLICAS).to_string())?;
        let mut web = service("web", "web", 80, 8080);
        let echo = json!({ "name": "echo", "port": 9000, "targetPort": 9000 });
        web["spec"]["ports"].as_array_mut().context("a Service without ports")?.push(echo);
        cluster.apply(&web.to_string())?;
        web["metadata"]["name"] = "both".into();
        web["spec"]["ipFamilyPolicy"] = "RequireDualStack".into();
        let datagrams = json!({ "name": "datagrams", "port": 80, "targetPort": 8080, "protocol": "UDP" });
        web["spec"]["ports"].as_array_mut().context("a Service without ports")?.push(datagrams);
        cluster.apply(&web.to_string())?;
        let mut hosts = service_of_both_protocols("hosts", "hosts", HOST_PORT);
        hosts["spec"]["ipFamilyPolicy"] = "RequireDualStack".into();
        cluster.apply(&hosts.to_string())?;
        cluster.wait_pods("app=web", REPLICAS, PATIENCE)?;
        let mut one = |name: &str| -> Result<Pod> {
            cluster.wait_pods(&format!("app={name}"), 1, PATIENCE)?.pop().context("there is no such pod")
        };
        let pods = [one("client")?, one("near")?, one("far")?];
        let [client, near, far] = pods.clone();
        let [first, second] = two("hosts", cluster.wait_pods("app=hosts", 2, PATIENCE)?)?;
        let web = cluster.service_field("web", "clusterIP")?;
        cluster.wait("the Service web answers", PATIENCE, |cluster| get(cluster, &client, &web, 80))?;
        let [both, hosts] = ["both", "hosts"].map(|name| two(name, cluster_ips(cluster, name)?));
        Ok(([client, near, far, first, second], web, [both?, hosts?]))
    }

    /// Waits until the client gets an answer from `address:port`.
    pub(crate) fn wait_answer(&mut self, address: &str, port: u16) {
        let client = self.client.clone();
        let what = format!("{address}:{port} answers");
        self.cluster.wait(&what, PATIENCE, |cluster| get(cluster, &client, address, port).map(drop)).unwrap();
    }

    /// What the probe says, from a place: each line with how often it came.
    pub(crate) fn probe(&self, from: Place<'_>, arguments: &[&str]) -> BTreeMap<String, usize> {
        tally(&ask(&self.cluster, from, arguments).unwrap_or_else(|error| panic!("{from:?} {arguments:?}: {error:#}")))
    }

    /// Creates a Service of the pods `app` that is not merely what [`service`] makes; its addresses.
    pub(crate) fn serve(&self, name: &str, app: &str, target: u16, spec: &Value) -> Vec<String> {
        let mut object = service_of_both_protocols(name, app, target);
        object["spec"].as_object_mut().unwrap().extend(spec.as_object().unwrap().clone());
        self.cluster.apply(&object.to_string()).unwrap();
        cluster_ips(&self.cluster, name).unwrap()
    }

    /// Waits until a place gets what it should from the probe, and nothing else.
    pub(crate) fn wait_probe(&mut self, from: Place<'_>, arguments: &[&str], expected: &str) {
        let what = format!("{from:?} {arguments:?} says {expected}");
        let look = |cluster: &mut Cluster| {
            let said = tally(&ask(cluster, from, arguments)?);
            ensure!(said.keys().eq([expected]), "it says {said:?}");
            Ok(())
        };
        self.cluster.wait(&what, PATIENCE, look).unwrap();
    }

    /// `count` connections from the client pod: how often each pod answered; failures under "failed".
    pub(crate) fn answers(&self, address: &str, port: u16, count: usize) -> BTreeMap<String, usize> {
        let script = loop_script("nc", address, port, count);
        tally(&self.cluster.exec(&self.client, &["sh", "-c", &script]).unwrap())
    }
}

impl Outside {
    pub(crate) fn start(cluster: &mut Cluster, families: Families) -> Result<Self> {
        let (space, addresses) = cluster.add_stranger(families)?;
        let argv = [PROBE, "witness", WITNESS, &addresses.join(",")].map(str::to_owned);
        let server = Process::start("witness", &space, cluster.directory(), &argv)?;
        Ok(Self { addresses, _server: server })
    }
}

fn two<T: std::fmt::Debug>(what: &str, list: Vec<T>) -> Result<[T; 2]> {
    list.try_into().map_err(|list| anyhow::anyhow!("{what} is not two but {list:?}"))
}

pub(crate) fn images() -> Result<Vec<PathBuf>> {
    let mut spec = ImageSpec::iperf3()?.named(IMAGE);
    spec.programs.push((PROBE.into(), "/usr/bin/probe".into()));
    image::build_all(&[ImageSpec::pause()?, spec], &tools::root().join("target/images"))
}

/// What the probe prints, from a place.
pub(crate) fn ask(cluster: &Cluster, from: Place<'_>, arguments: &[&str]) -> Result<String> {
    finish(probe_command(cluster, from)?.args(arguments), &[&["probe"], arguments].concat())
}

/// The probe at a place, to be given arguments and run.
pub(crate) fn probe_command(cluster: &Cluster, from: Place<'_>) -> Result<Command> {
    match from {
        Place::Pod(pod) => cluster.exec_command(pod, "probe"),
        Place::Packets(pod) => cluster.command_in_network(pod, PROBE),
        Place::Node(index) => Ok(cluster.node(index).space().bounded(PROBE)),
        Place::NodePackets(index) => Ok(cluster.node(index).space().command_in(cluster.control().cgroup(), PROBE)),
    }
}

pub(crate) fn cluster_ips(cluster: &Cluster, name: &str) -> Result<Vec<String>> {
    let service = cluster.get(&["service", name])?;
    let list = service["spec"]["clusterIPs"].as_array().with_context(|| format!("service {name} has no addresses"))?;
    Ok(list.iter().filter_map(Value::as_str).map(str::to_owned).collect())
}

/// A script that connects `count` times and prints who answered, or "failed".
pub(crate) fn loop_script(nc: &str, address: &str, port: u16, count: usize) -> String {
    format!("for i in $(seq {count}); do timeout 3 {nc} {address} {port} < /dev/null || echo failed; done")
}

/// How often each line is there.
pub(crate) fn tally(text: &str) -> BTreeMap<String, usize> {
    let mut counts = BTreeMap::new();
    for line in text.lines() {
        *counts.entry(line.to_owned()).or_default() += 1;
    }
    counts
}

/// One connection from a pod: the name of the pod that answered.
pub(crate) fn get(cluster: &Cluster, client: &Pod, address: &str, port: u16) -> Result<String> {
    let answer = cluster.exec(client, &["timeout", "2", "nc", address, &port.to_string()])?;
    Ok(answer.trim().to_owned())
}

/// A pod that answers its name on port 8080 by TCP and by UDP, echoes on port 9000, and runs an iperf3 server.
pub(crate) fn pod(name: &str, node: Option<&str>) -> Value {
    let mut pod = json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": { "name": name, "namespace": "default", "labels": { "app": name } },
        "spec": pod_spec(),
    });
    if let Some(node) = node {
        pod["spec"]["nodeName"] = json!(node);
    }
    pod
}

pub(crate) fn deployment(name: &str, replicas: usize) -> Value {
    json!({
        "apiVersion": "apps/v1", "kind": "Deployment",
        "metadata": { "name": name, "namespace": "default" },
        "spec": {
            "replicas": replicas,
            "selector": { "matchLabels": { "app": name } },
            "template": { "metadata": { "labels": { "app": name } }, "spec": pod_spec() },
        },
    })
}

pub(crate) fn service(name: &str, app: &str, port: u16, target: u16) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": { "name": name, "namespace": "default" },
        "spec": { "selector": { "app": app }, "ports": [{ "name": "main", "port": port, "targetPort": target }] },
    })
}

/// Port 80 by TCP and by UDP.
pub(crate) fn service_of_both_protocols(name: &str, app: &str, target: u16) -> Value {
    let mut object = service(name, app, 80, target);
    let datagrams = json!({ "name": "datagrams", "port": 80, "targetPort": target, "protocol": "UDP" });
    object["spec"]["ports"].as_array_mut().into_iter().for_each(|ports| ports.push(datagrams.clone()));
    object
}

/// A pod on its node's network that answers its name on [`HOST_PORT`] by TCP and by UDP.
pub(crate) fn on_host_network(name: &str, app: &str, node: &str) -> Value {
    let mut pod = pod(name, Some(node));
    pod["metadata"]["labels"]["app"] = app.into();
    pod["spec"]["hostNetwork"] = true.into();
    let container = &mut pod["spec"]["containers"][0];
    container["command"][2] = format!("exec probe serve $NAME {HOST_PORT} 19000 {HOST_PORT} $ADDRESSES").into();
    let addresses = json!({ "name": "ADDRESSES", "valueFrom": { "fieldRef": { "fieldPath": "status.podIPs" } } });
    container["env"].as_array_mut().into_iter().for_each(|env| env.push(addresses.clone()));
    pod
}

fn pod_spec() -> Value {
    let serve = "iperf3 -s > /dev/null & exec probe serve $NAME 8080 9000 8080";
    // Without a handler, the first process of a namespace does not hear SIGTERM: the tests need not wait for it.
    json!({ "terminationGracePeriodSeconds": 1, "containers": [{
        "name": "main", "image": IMAGE, "imagePullPolicy": "Never",
        "command": ["sh", "-c", serve],
        "env": [{ "name": "NAME", "valueFrom": { "fieldRef": { "fieldPath": "metadata.name" } } }],
        "resources": { "requests": { "cpu": "20m", "memory": "16Mi" } },
    }] })
}
