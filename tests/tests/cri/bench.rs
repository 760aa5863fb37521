//! One containerd and one kubelet, and a look at both. Everything is gone after the drop: the kubelet first, then the
//! process namespace with containerd, its shims and its containers, then directories and cgroups.

use std::fs;
use std::future::Future;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use anyhow::{Context as _, Result, ensure};
use diolkos_kubelet::cluster::Cluster as _;
use diolkos_kubelet::cluster::model::ModelCluster;
use diolkos_kubelet::runtime::conformance::Subject;
use diolkos_kubelet::runtime::cri::Cri;
use diolkos_kubelet::{Settings, run_with};
use diolkos_tests::guard::Guard;
use diolkos_tests::image::{self, ImageSpec};
use diolkos_tests::process::Process;
use diolkos_tests::space::{Spaces, finish};
use diolkos_tests::{cgroup, eventually, tools};
use k8s_openapi::api::core::v1::{ContainerStatus, NodeCondition, Pod, PodStatus};
use k8s_openapi::jiff::Timestamp;
use serde_json::{Value, json};
use tokio::sync::oneshot;

const NODE: &str = "node-1";
const START: Duration = Duration::from_secs(20);

pub(crate) struct Bench {
    pub(crate) cluster: ModelCluster,
    kubelet: Option<Kubelet>,
    tokio: tokio::runtime::Runtime,
    containerd: Process,
    spaces: Spaces,
    guard: Guard,
}

struct Kubelet {
    stop: oneshot::Sender<()>,
    task: tokio::task::JoinHandle<Result<()>>,
}

impl Bench {
    /// containerd with its images; no kubelet yet.
    pub(crate) fn start() -> Result<Bench> {
        let guard = Guard::new()?;
        let spaces = Spaces::new(guard.make_cgroup("system")?)?;
        let directory = guard.directory();
        let config = directory.join("containerd.toml");
        fs::write(&config, containerd_config(directory)?)?;
        write_network(directory)?;
        let program = tools::find("containerd")?;
        let argv = [program.as_path(), Path::new("--config"), &config].map(|part| part.to_string_lossy().into_owned());
        let containerd = Process::start("containerd", spaces.control(), directory, &argv)?;
        let tokio = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
        let bench = Bench { cluster: ModelCluster::default(), kubelet: None, tokio, containerd, spaces, guard };
        eventually("containerd answers", START, || bench.ctr(&["version"]).map(drop))
            .with_context(|| bench.containerd.tail())?;
        bench.import(&[ImageSpec::pause()?, ImageSpec::busybox()?])?;
        Ok(bench)
    }

    /// Builds images and gives them to containerd.
    pub(crate) fn import(&self, specs: &[ImageSpec]) -> Result<()> {
        for file in image::build_all(specs, &self.directory().join("images"))? {
            self.ctr(&["images", "import", &file.to_string_lossy()])?;
        }
        Ok(())
    }

    pub(crate) fn start_kubelet(&mut self) -> Result<()> {
        ensure!(self.kubelet.is_none(), "the kubelet runs");
        let settings = Settings {
            node_name: NODE.into(),
            node_ips: vec![[127, 0, 0, 1].into()],
            root_dir: self.directory().join("kubelet"),
            log_dir: self.directory().join("logs"),
            cgroup_root: self.cgroup_root(),
            capacity: [("pods".to_owned(), "20".to_owned())].into(),
        };
        let (stop, stopped) = oneshot::channel();
        let stopped = async { drop(stopped.await) };
        let cluster = Arc::new(self.cluster.clone());
        let _inside = self.tokio.enter();
        let runtime = Arc::new(Cri::new(&self.endpoint())?);
        self.kubelet = Some(Kubelet { stop, task: tokio::spawn(run_with(settings, runtime, cluster, stopped)) });
        Ok(())
    }

    pub(crate) fn stop_kubelet(&mut self) -> Result<()> {
        let kubelet = self.kubelet.take().context("no kubelet runs")?;
        // It may have ended by itself; its result says why.
        let _ = kubelet.stop.send(());
        self.tokio.block_on(kubelet.task)?
    }

    pub(crate) fn kill_containerd(&mut self) -> Result<()> {
        self.containerd.kill()
    }

    pub(crate) fn restart_containerd(&mut self) -> Result<()> {
        self.containerd.restart()
    }

    /// For the conformance suite.
    pub(crate) fn subject(&self) -> Result<Subject> {
        let _inside = self.tokio.enter();
        Ok(Subject {
            runtime: Arc::new(Cri::new(&self.endpoint())?),
            image: image::BUSYBOX.into(),
            cgroup_parent: self.cgroup_root(),
            log_directory: self.directory().join("logs").to_string_lossy().into_owned(),
            pass_time: Box::new(|| Box::pin(tokio::time::sleep(Duration::from_millis(50)))),
        })
    }

    pub(crate) fn wait_for<T>(&self, work: impl Future<Output = T>) -> T {
        self.tokio.block_on(work)
    }

    pub(crate) fn directory(&self) -> &Path {
        self.guard.directory()
    }

    pub(crate) fn status(&self, name: &str) -> Result<PodStatus> {
        let pod = self.cluster.pod("default", name).with_context(|| format!("there is no pod {name}"))?;
        pod.status.with_context(|| format!("the pod {name} has no status"))
    }

    pub(crate) fn container(&self, pod: &str, name: &str) -> Result<ContainerStatus> {
        let found = self.status(pod)?.container_statuses.into_iter().flatten().find(|status| status.name == name);
        found.with_context(|| format!("the status of {pod} does not tell of {name}"))
    }

    pub(crate) fn is_ready(&self, name: &str) -> Result<()> {
        let status = self.status(name)?;
        let holds = |kind: &str| {
            status.conditions.iter().flatten().any(|condition| condition.type_ == kind && condition.status == "True")
        };
        let states: Vec<_> = status.container_statuses.iter().flatten().map(|container| &container.state).collect();
        ensure!(holds("Ready") && status.phase.as_deref() == Some("Running"), "it is {:?}: {states:?}", status.phase);
        Ok(())
    }

    pub(crate) fn is_gone(&self, name: &str) -> Result<()> {
        let pod = self.cluster.pod("default", name);
        ensure!(pod.is_none(), "it is still there: {:#?}", pod.and_then(|pod| pod.status));
        Ok(())
    }

    pub(crate) fn request_deletion(&self, name: &str, grace_seconds: i64) {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let now = Timestamp::from_millisecond(i64::try_from(now.as_millis()).unwrap_or_default()).unwrap_or_default();
        self.cluster.request_deletion("default", name, now, grace_seconds);
    }

    pub(crate) fn node_is(&self, status: &str, reason: &str) -> Result<()> {
        let ready = self.ready_condition()?;
        ensure!(ready.status == status && ready.reason.as_deref() == Some(reason), "it is {ready:?}");
        Ok(())
    }

    pub(crate) fn node_message(&self) -> Result<String> {
        Ok(self.ready_condition()?.message.unwrap_or_default())
    }

    fn ready_condition(&self) -> Result<NodeCondition> {
        let node = self.tokio.block_on(self.cluster.node(NODE))?.context("the node is not registered")?;
        let conditions = node.status.and_then(|status| status.conditions).unwrap_or_default();
        conditions.into_iter().find(|condition| condition.type_ == "Ready").context("no condition Ready")
    }

    pub(crate) fn ctr(&self, arguments: &[&str]) -> Result<String> {
        let socket = self.socket().to_string_lossy().into_owned();
        let mut command = self.spaces.control().command("ctr");
        command.args(["--address", &socket, "--namespace", "k8s.io"]).args(arguments);
        finish(&mut command, &[&["ctr"], arguments].concat())
    }

    /// The process of the container `main`.
    pub(crate) fn container_pid(&self, pod: &str) -> Result<u32> {
        let id = self.container_id(pod)?;
        let tasks = self.ctr(&["tasks", "list"])?;
        let line = tasks.lines().find(|line| line.starts_with(&id)).context("it does not run")?;
        let pid = line.split_whitespace().nth(1).and_then(|pid| pid.parse().ok());
        pid.with_context(|| format!("ctr said {line:?}"))
    }

    /// Runs a command in the container `main`.
    pub(crate) fn exec(&self, pod: &str, command: &[&str]) -> Result<String> {
        let id = self.container_id(pod)?;
        self.ctr(&[&["tasks", "exec", "--exec-id", "test", &id], command].concat())
    }

    fn container_id(&self, pod: &str) -> Result<String> {
        let id = self.container(pod, "main")?.container_id.unwrap_or_default();
        Ok(id.strip_prefix("containerd://").with_context(|| format!("its id is {id:?}"))?.to_owned())
    }

    /// Cgroups of pods in all hierarchies.
    pub(crate) fn pod_cgroups(&self) -> Vec<String> {
        let directories = self.group_directories().into_iter().filter_map(|group| fs::read_dir(group).ok());
        let paths = directories.flatten().flatten().map(|entry| entry.path().to_string_lossy().into_owned());
        paths.filter(|path| path.contains("/pods/poduid-")).collect()
    }

    /// The memory limit of a container, as the kernel has it.
    pub(crate) fn memory_limit(&self, uid: &str, container: &str) -> Result<String> {
        let files = ["memory.max", "memory.limit_in_bytes"];
        let groups = self.group_directories().into_iter().map(|group| group.join(format!("pod{uid}")).join(container));
        let mut found = groups.flat_map(|group| files.map(|file| group.join(file))).filter(|path| path.is_file());
        let file = found.next().context("no hierarchy limits memory")?;
        fs::read_to_string(&file).with_context(|| format!("cannot read {}", file.display()))
    }

    fn group_directories(&self) -> Vec<PathBuf> {
        let hierarchies = cgroup::Hierarchies::find().map(|all| all.directories(self.cgroup_root().trim_matches('/')));
        hierarchies.unwrap_or_default()
    }

    fn cgroup_root(&self) -> String {
        format!("/{}/pods", self.guard.name())
    }

    fn socket(&self) -> PathBuf {
        self.directory().join("containerd.sock")
    }

    fn endpoint(&self) -> String {
        format!("unix://{}", self.socket().display())
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        if self.kubelet.is_some()
            && let Err(error) = self.stop_kubelet()
        {
            eprintln!("the kubelet failed: {error:#}");
        }
        if std::thread::panicking() {
            eprintln!("{}", self.containerd.tail());
        }
    }
}

/// A container of the busybox image.
pub(crate) fn container(name: &str, command: &[&str]) -> Value {
    json!({"name": name, "image": image::BUSYBOX, "imagePullPolicy": "Never", "command": command})
}

pub(crate) fn pod(name: &str, spec: Value) -> Pod {
    serde_json::from_value(json!({"metadata": {"name": name}, "spec": spec})).unwrap()
}

fn containerd_config(directory: &Path) -> Result<String> {
    let (place, pause) = (directory.display(), image::PAUSE);
    let (runc, plugins) = (tools::find("runc")?, tools::cni_plugin("bridge")?);
    let plugins = plugins.parent().context("the plugins are in a directory")?.display();
    Ok(format!(
        r#"version = 2
root = "{place}/root"
state = "{place}/state"
[grpc]
  address = "{place}/containerd.sock"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "{pause}"
  stream_server_address = "127.0.0.1"
  stream_server_port = "0"
  disable_tcp_service = true
  netns_mounts_under_state_dir = true
  restrict_oom_score_adj = true
  [plugins."io.containerd.grpc.v1.cri".containerd]
    snapshotter = "overlayfs"
    default_runtime_name = "runc"
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
      runtime_type = "io.containerd.runc.v2"
      [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
        BinaryName = "{}"
        SystemdCgroup = false
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "{plugins}"
    conf_dir = "{place}/net.d"
"#,
        runc.display()
    ))
}

/// A bridge inside the bench's own network namespace.
fn write_network(directory: &Path) -> Result<()> {
    let ipam = json!({
        "type": "host-local",
        "ranges": [[{"subnet": "10.89.0.0/24"}]],
        "dataDir": directory.join("addresses"),
    });
    let bridge = json!({"type": "bridge", "bridge": "pods", "isGateway": true, "ipMasq": false, "ipam": ipam});
    let list = json!({"cniVersion": "1.0.0", "name": "pods", "plugins": [bridge]});
    fs::create_dir_all(directory.join("net.d"))?;
    Ok(fs::write(directory.join("net.d/10-pods.conflist"), list.to_string())?)
}
