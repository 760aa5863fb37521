//! One cluster for all tests, with a client, a pod beside it, a pod on the other node, and a Service.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, Result};
use diolkos_tests::cluster::images;
use diolkos_tests::{Cluster, ClusterConfig, Pod, image};
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
}

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
        let config = ClusterConfig { nodes: 2, images: images()?, ..ClusterConfig::default() };
        let mut cluster = Cluster::start(&config)?;
        let prepared = Self::prepare(&mut cluster).map_err(|error| cluster.explain(error))?;
        let (client, near, far, web) = prepared;
        Ok(Self { cluster, client, near, far, web })
    }

    fn prepare(cluster: &mut Cluster) -> Result<(Pod, Pod, Pod, String)> {
        for (name, node) in [("client", "node-1"), ("near", "node-1"), ("far", "node-2")] {
            cluster.apply(&pod(name, Some(node)).to_string())?;
        }
        cluster.apply(&deployment("web", REPLICAS).to_string())?;
        let mut web = service("web", "web", 80, 8080);
        let echo = json!({ "name": "echo", "port": 9000, "targetPort": 9000 });
        web["spec"]["ports"].as_array_mut().context("a Service without ports")?.push(echo);
        cluster.apply(&web.to_string())?;
        cluster.wait_pods("app=web", REPLICAS, PATIENCE)?;
        let mut one = |name: &str| -> Result<Pod> {
            cluster.wait_pods(&format!("app={name}"), 1, PATIENCE)?.pop().context("there is no such pod")
        };
        let (client, near, far) = (one("client")?, one("near")?, one("far")?);
        let web = cluster.service_field("web", "clusterIP")?;
        cluster.wait("the Service web answers", PATIENCE, |cluster| get(cluster, &client, &web, 80))?;
        Ok((client, near, far, web))
    }

    /// Waits until the client gets an answer from `address:port`.
    pub(crate) fn wait_answer(&mut self, address: &str, port: u16) {
        let client = self.client.clone();
        let what = format!("{address}:{port} answers");
        self.cluster.wait(&what, PATIENCE, |cluster| get(cluster, &client, address, port).map(drop)).unwrap();
    }

    /// `count` connections from the client pod: how often each pod answered; failures under "failed".
    pub(crate) fn answers(&self, address: &str, port: u16, count: usize) -> BTreeMap<String, usize> {
        let script = loop_script("nc", address, port, count);
        tally(&self.cluster.exec(&self.client, &["sh", "-c", &script]).unwrap())
    }
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

/// A pod that answers its name on port 8080, echoes on port 9000, and runs an iperf3 server.
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

fn pod_spec() -> Value {
    let serve = "iperf3 -s > /dev/null & nc -ll -p 9000 -e cat & exec nc -ll -p 8080 -e hostname";
    // Without a handler, the first process of a namespace does not hear SIGTERM: the tests need not wait for it.
    json!({ "terminationGracePeriodSeconds": 1, "containers": [{
        "name": "main", "image": image::IPERF3, "imagePullPolicy": "Never",
        "command": ["sh", "-c", serve],
        "resources": { "requests": { "cpu": "20m", "memory": "16Mi" } },
    }] })
}
