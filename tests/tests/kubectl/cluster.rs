//! An apiserver with the model store behind it, and a kubectl that talks to it.

use std::io::{BufRead as _, BufReader};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use diolkos_apiserver::pki::{ADMIN_GROUP, ADMIN_USER, Pki};
use diolkos_apiserver::{Running, Security, Settings, cache, serve_with};
use diolkos_store::Model;
use tokio::runtime::Runtime;

/// How long one command may take.
const PATIENCE: Duration = Duration::from_secs(30);

/// An apiserver and a kubectl that talks to it.
pub(crate) struct Cluster {
    binary: PathBuf,
    pub(crate) kubeconfig: PathBuf,
    pub(crate) url: String,
    pub(crate) pki: Pki,
    pub(crate) dir: tempfile::TempDir,
    _running: Running,
    runtime: Runtime,
}

impl Cluster {
    pub(crate) fn start() -> Cluster {
        let binary = diolkos_tests::tools::find("kubectl").unwrap();
        let dir = tempfile::tempdir().unwrap();
        let pki = Pki::open(&dir.path().join("pki"), &[]).unwrap();
        let runtime = Runtime::new().unwrap();
        let settings = Settings {
            listen: SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 0),
            advertise_address: IpAddr::V4(Ipv4Addr::LOCALHOST),
            service_cidrs: vec!["10.96.0.0/16".parse().unwrap()],
            security: Security::default(),
            cache: cache::Limits::default(),
        };
        let running = runtime.block_on(serve_with(Arc::new(Model::new()), &pki, settings)).unwrap();
        let url = format!("https://{}", running.address());
        let kubeconfig = dir.path().join("kubeconfig");
        pki.write_kubeconfig(&url, ADMIN_USER, &[ADMIN_GROUP], &kubeconfig).unwrap();
        Cluster { binary, kubeconfig, url, pki, dir, _running: running, runtime }
    }

    /// The controllers too, for what only they finish.
    pub(crate) fn with_controllers(self) -> Cluster {
        let options = diolkos_controllers::Options {
            kubeconfig: self.kubeconfig.clone(),
            cluster_cidrs: vec!["10.244.0.0/16".parse().unwrap()],
            node_mask_v4: 24,
            node_mask_v6: 64,
            leader_elect: false,
            authority: None,
        };
        // They end with the runtime.
        self.runtime.spawn(async {
            let ended = diolkos_controllers::run_until(options, std::future::pending()).await;
            eprintln!("the controllers ended: {ended:?}");
        });
        self
    }

    pub(crate) fn kubectl(&self, kubeconfig: &Path) -> Command {
        self.command(Command::new(&self.binary), kubeconfig)
    }

    /// One that is ended when it takes too long, with code 124.
    pub(crate) fn kubectl_in_time(&self) -> Command {
        let mut command = Command::new("timeout");
        command.arg(PATIENCE.as_secs().to_string()).arg(&self.binary);
        self.command(command, &self.kubeconfig)
    }

    fn command(&self, mut command: Command, kubeconfig: &Path) -> Command {
        // The cache of discovery goes below HOME.
        command.env_clear().env("HOME", self.dir.path()).env("KUBECONFIG", kubeconfig);
        // `kubectl diff` calls diff.
        command.env("PATH", diolkos_tests::tools::path());
        command.arg(format!("--request-timeout={}s", PATIENCE.as_secs()));
        command
    }

    pub(crate) fn run(&self, arguments: &[&str]) -> Output {
        self.kubectl(&self.kubeconfig).args(arguments).output().unwrap()
    }

    /// The output of a command that has to succeed.
    pub(crate) fn ok(&self, arguments: &[&str]) -> String {
        let output = self.run(arguments);
        assert!(output.status.success(), "kubectl {arguments:?}: {}", text(&output.stderr));
        text(&output.stdout)
    }

    pub(crate) fn apply(&self, manifest: &str) -> String {
        let file = self.write("manifest.yaml", manifest);
        self.ok(&["apply", "-f", file.to_str().unwrap()])
    }

    pub(crate) fn write(&self, name: &str, content: &str) -> PathBuf {
        let path = self.dir.path().join(name);
        std::fs::write(&path, content).unwrap();
        path
    }
}

/// A command that goes on, and its lines.
pub(crate) struct Follower {
    child: Child,
    lines: Receiver<String>,
}

impl Follower {
    pub(crate) fn start(cluster: &Cluster, arguments: &[&str]) -> Follower {
        let mut command = cluster.kubectl(&cluster.kubeconfig);
        let mut child = command.args(arguments).stdout(Stdio::piped()).spawn().unwrap();
        let stdout = BufReader::new(child.stdout.take().unwrap());
        let (sender, lines) = channel();
        std::thread::spawn(move || {
            for line in stdout.lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    return;
                }
            }
        });
        Follower { child, lines }
    }

    /// Waits for the next line that begins with `start`.
    pub(crate) fn wait_for(&self, start: &str) {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let line = self.lines.recv_timeout(left).unwrap_or_else(|_| panic!("no line begins with {start:?}"));
            if line.starts_with(start) {
                return;
            }
        }
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

pub(crate) fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}
