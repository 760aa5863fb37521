//! An etcd of one test: its own directory, ports on loopback and certificates; gone when it is dropped.

use std::fs::File;
use std::net::TcpListener;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use diolkos_apiserver::pki::Pki;
use diolkos_store::EtcdConfig;
use diolkos_tests::tools;
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;
use tempfile::TempDir;

/// Other processes may take a port between its choice and its use.
const ATTEMPTS: usize = 5;

/// Longest time until etcd listens.
const START: Duration = Duration::from_secs(30);

pub(crate) struct Server {
    files: TempDir,
    pki: Pki,
    client_port: u16,
    peer_port: u16,
    process: Option<Child>,
}

impl Server {
    pub(crate) fn start() -> Self {
        let files = tempfile::tempdir().unwrap();
        let pki = Pki::open(&files.path().join("pki"), &[]).unwrap();
        let mut server = Self { files, pki, client_port: 0, peer_port: 0, process: None };
        for _ in 0..ATTEMPTS {
            (server.client_port, server.peer_port) = free_ports();
            if server.spawn() {
                return server;
            }
        }
        panic!("etcd does not start: {}", server.log());
    }

    pub(crate) fn url(&self) -> String {
        format!("https://127.0.0.1:{}", self.client_port)
    }

    pub(crate) fn config(&self) -> EtcdConfig {
        let identity = self.pki.etcd_client();
        EtcdConfig {
            endpoints: vec![self.url()],
            ca: Some(self.pki.etcd_ca_pem().to_owned()),
            cert: Some(identity.cert_pem.clone()),
            key: Some(identity.key_pem.clone()),
            ..EtcdConfig::default()
        }
    }

    pub(crate) fn runs(&self) -> bool {
        self.process.is_some()
    }

    /// SIGSTOP: it holds its connections and says nothing more. Returns when all its threads stand.
    pub(crate) fn stop(&self) {
        kill(self.pid(), Signal::SIGSTOP).unwrap();
        let status = waitpid(self.pid(), Some(WaitPidFlag::WUNTRACED)).unwrap();
        assert!(matches!(status, WaitStatus::Stopped(..)), "{status:?}");
    }

    pub(crate) fn go_on(&self) {
        kill(self.pid(), Signal::SIGCONT).unwrap();
    }

    /// SIGKILL.
    pub(crate) fn kill(&mut self) {
        if let Some(mut process) = self.process.take() {
            process.kill().unwrap();
            process.wait().unwrap();
        }
    }

    /// After [`Server::kill`], with the same data and ports.
    pub(crate) fn restart(&mut self) {
        assert!(self.spawn(), "etcd does not start again: {}", self.log());
    }

    fn pid(&self) -> Pid {
        let id = self.process.as_ref().map(Child::id).expect("it runs");
        Pid::from_raw(i32::try_from(id).unwrap())
    }

    /// Starts it and waits until it listens; `false` when it ends instead.
    fn spawn(&mut self) -> bool {
        let pki = |name: &str| self.pki.path(name).into_os_string().into_string().unwrap();
        let peer = format!("http://127.0.0.1:{}", self.peer_port);
        let log = File::options().create(true).append(true).open(self.files.path().join("log")).unwrap();
        let process = Command::new(tools::find("etcd").unwrap())
            .arg("--data-dir")
            .arg(self.files.path().join("data"))
            .args(["--name", "etcd", "--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer])
            .args(["--initial-cluster", &format!("etcd={peer}")])
            .args(["--listen-client-urls", &self.url(), "--advertise-client-urls", &self.url()])
            .args(["--cert-file", &pki("etcd/server.crt"), "--key-file", &pki("etcd/server.key")])
            .args(["--trusted-ca-file", &pki("etcd/ca.crt"), "--client-cert-auth", "--logger", "zap"])
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        let process = self.process.insert(process);
        let start = Instant::now();
        while std::net::TcpStream::connect(("127.0.0.1", self.client_port)).is_err() {
            if process.try_wait().unwrap().is_some() {
                self.process = None;
                return false;
            }
            assert!(start.elapsed() < START, "etcd does not listen within {START:?}: {}", self.log());
            std::thread::yield_now();
        }
        true
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.files.path().join("log")).unwrap_or_default()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
    }
}

fn free_ports() -> (u16, u16) {
    let listeners = [(); 2].map(|()| TcpListener::bind(("127.0.0.1", 0)).unwrap());
    let [client, peer] = listeners.map(|listener| listener.local_addr().unwrap().port());
    (client, peer)
}
