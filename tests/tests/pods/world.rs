//! A node and its pods: each a network namespace of a thread, gone when the thread ends.

use std::future::Future;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::process::Command;
use std::sync::mpsc::{Sender, channel};
use std::thread::JoinHandle;

use diolkos_agent::Routing;
use diolkos_agent::dataplane::model::Model;
use diolkos_agent::dataplane::{Capacities, Shared};
use diolkos_agent::overlay::{Overlay, OverlayConfig};
use diolkos_agent::pods::protocol::{ErrorResult, Reply, Request};
use diolkos_agent::pods::{Network, Pods, REST};
use nix::sched::{CloneFlags, setns, unshare};
use serde_json::{Value, json};
use tempfile::TempDir;

pub(crate) const NODE_IP: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
pub(crate) const NODE_IP_V6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1);
pub(crate) const POD_CIDR: &str = "10.244.1.0/24";
pub(crate) const POD_CIDR_V6: &str = "fd44:1::/64";

/// Runs a test as a node: in a thread with a network namespace of its own, with an uplink that holds [`NODE_IP`] and
/// [`NODE_IP_V6`].
pub(crate) fn on_a_node<F: Future<Output = ()>>(test: impl FnOnce() -> F + Send + 'static) {
    let thread = std::thread::spawn(move || {
        unshare(CloneFlags::CLONE_NEWNET).expect("this test needs root: it makes network namespaces");
        for command in ["link set lo up", "link add uplink type bridge", "link set uplink up"] {
            ip(command);
        }
        ip(&format!("addr add {NODE_IP}/24 dev uplink"));
        ip(&format!("addr add {NODE_IP_V6}/64 dev uplink nodad"));
        // One thread for everything, since the namespace is the thread's.
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async { test().await });
    });
    if let Err(panic) = thread.join() {
        std::panic::resume_unwind(panic);
    }
}

/// `ip <arguments>` in the caller's namespace; its output. Panics when it fails.
pub(crate) fn ip(arguments: &str) -> String {
    let output = Command::new("ip").args(arguments.split_whitespace()).output().expect("run ip (iproute2)");
    assert!(output.status.success(), "ip {arguments}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

pub(crate) fn link_exists(name: &str) -> bool {
    std::path::Path::new(&format!("/proc/sys/net/ipv4/conf/{name}")).exists()
}

/// A network namespace for a pod, as a container runtime makes it: `lo` is down.
pub(crate) struct Sandbox {
    /// The namespace's path.
    pub(crate) path: String,
    end: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Sandbox {
    pub(crate) fn new() -> Self {
        let (send_path, path) = channel();
        let (end, ended) = channel::<()>();
        let thread = std::thread::spawn(move || {
            unshare(CloneFlags::CLONE_NEWNET).expect("this test needs root: it makes network namespaces");
            let path = format!("/proc/{}/task/{}/ns/net", std::process::id(), nix::unistd::gettid());
            send_path.send(path).unwrap();
            // Ends when the sandbox is dropped.
            let _ended = ended.recv();
        });
        Self { path: path.recv().unwrap(), end: Some(end), thread: Some(thread) }
    }

    /// Runs a closure inside the namespace.
    pub(crate) fn inside<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> T {
        let namespace = std::fs::File::open(&self.path).unwrap();
        let thread = std::thread::spawn(move || {
            setns(&namespace, CloneFlags::CLONE_NEWNET).unwrap();
            work()
        });
        thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }

    pub(crate) fn ip(&self, arguments: &'static str) -> String {
        self.inside(move || ip(arguments))
    }
}

impl Drop for Sandbox {
    fn drop(&mut self) {
        drop(self.end.take());
        if let Some(thread) = self.thread.take() {
            drop(thread.join());
        }
    }
}

/// The agent's pod side over a model of the dataplane.
pub(crate) struct Node {
    pub(crate) pods: Pods,
    pub(crate) dataplane: Shared,
    pub(crate) network: Network,
    pub(crate) state: TempDir,
}

impl Node {
    pub(crate) async fn new() -> Self {
        Self::with_capacities(Capacities::ABI).await
    }

    pub(crate) async fn with_capacities(capacities: Capacities) -> Self {
        Self::with(capacities, &overlay_config()).await
    }

    /// A node with pods of these families.
    pub(crate) async fn with(capacities: Capacities, config: &OverlayConfig) -> Self {
        let overlay = Overlay::ensure(config).await.unwrap();
        let network = network(config, &overlay);
        let state = tempfile::tempdir().unwrap();
        let dataplane = Shared::new(Model::new(capacities));
        let pods = Pods::open(state.path(), dataplane.clone(), REST).unwrap();
        pods.set_network(network);
        Self { pods, dataplane, network, state }
    }

    /// The agent ends and another one starts on the same state directory, with a dataplane of its own choice.
    pub(crate) fn restart(&mut self, dataplane: Shared) {
        self.pods = Pods::open(self.state.path(), dataplane.clone(), REST).unwrap();
        self.pods.set_network(self.network);
        self.dataplane = dataplane;
    }

    pub(crate) async fn call(&self, request: Request) -> Result<Value, ErrorResult> {
        match self.pods.answer(request).await {
            Reply::Result(result) => Ok(result),
            Reply::Error(error) => Err(error),
        }
    }

    pub(crate) async fn add(&self, id: &str, sandbox: &Sandbox) -> Result<Value, ErrorResult> {
        self.call(request("ADD", id, &sandbox.path)).await
    }

    /// The host's end of the only veth pair.
    pub(crate) fn host_ifname(&self, result: &Value) -> String {
        result["interfaces"][0]["name"].as_str().unwrap().to_owned()
    }

    /// Nothing of any pod is left: not on disk, not in the dataplane, not in the kernel.
    pub(crate) fn assert_empty(&self) {
        assert_eq!(self.pods.attachments(), []);
        assert_eq!(std::fs::read_dir(self.state.path().join("attachments")).unwrap().count(), 0);
        let dataplane = self.dataplane.lock();
        assert_eq!(dataplane.endpoints().unwrap(), []);
        assert_eq!(dataplane.netnses().unwrap(), []);
        assert_eq!(dataplane.attached_pods().unwrap(), Vec::<String>::new());
        assert_eq!(ip("-o link show type veth"), "");
        assert_eq!(ip("route show proto 209"), "");
        assert_eq!(ip("-6 route show proto 209"), "");
    }
}

/// Of both families.
pub(crate) fn overlay_config() -> OverlayConfig {
    OverlayConfig {
        node_v4: Some(NODE_IP),
        node_v6: Some(NODE_IP_V6),
        pod_cidr_v4: Some(POD_CIDR.parse().unwrap()),
        pod_cidr_v6: Some(POD_CIDR_V6.parse().unwrap()),
        port: 4789,
        routing: Routing::Overlay,
    }
}

pub(crate) fn network(config: &OverlayConfig, overlay: &Overlay) -> Network {
    Network {
        pod_cidr_v4: config.pod_cidr_v4,
        pod_cidr_v6: config.pod_cidr_v6,
        source_v4: overlay.source_v4(),
        source_v6: overlay.source_v6(),
        mtu: overlay.mtu,
    }
}

pub(crate) fn request(command: &str, id: &str, netns: &str) -> Request {
    let config = json!({ "cniVersion": "1.0.0", "name": "diolkos", "type": "diolkos-cni" });
    Request {
        command: command.into(),
        container_id: id.into(),
        netns: netns.into(),
        ifname: "eth0".into(),
        args: [("K8S_POD_NAMESPACE", "default"), ("K8S_POD_NAME", id)]
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .into(),
        config: config.as_object().unwrap().clone(),
    }
}

/// The pod's IPv4 address in a result of ADD.
pub(crate) fn address(result: &Value) -> Ipv4Addr {
    match addresses(result)[0] {
        IpAddr::V4(address) => address,
        IpAddr::V6(address) => panic!("{address} is no IPv4 address"),
    }
}

/// The pod's addresses in a result of ADD, IPv4 first.
pub(crate) fn addresses(result: &Value) -> Vec<IpAddr> {
    let ips = result["ips"].as_array().unwrap().iter();
    ips.map(|ip| ip["address"].as_str().unwrap().split('/').next().unwrap().parse().unwrap()).collect()
}
