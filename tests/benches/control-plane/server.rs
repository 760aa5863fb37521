//! The apiserver that is measured: a process over an etcd, its clients, and what the kernel says it takes.

use std::fs::{self, File};
use std::net::TcpListener;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use diolkos_api::client::Client;
use diolkos_api::kubeconfig::Kubeconfig;
use diolkos_api::wire;
use diolkos_tests::tools;
use etcd_client::{Certificate, ConnectOptions, Identity, TlsOptions};
use tempfile::TempDir;

use crate::etcd::Server as Etcd;

/// Longest time until it answers.
const START: Duration = Duration::from_secs(60);
/// Between two looks whether it answers: what a start is measured to.
const LOOK: Duration = Duration::from_millis(2);
/// Until a process that has nothing to do has nothing left to do.
const SETTLE: Duration = Duration::from_secs(2);

/// Certificates and log of an apiserver; they outlast its process.
pub(crate) struct Place {
    files: TempDir,
    port: u16,
}

/// Killed when it is dropped.
pub(crate) struct Apiserver {
    process: Child,
    client: Client,
    kubeconfig: Kubeconfig,
    /// From its start to its first answer.
    pub(crate) ready: Duration,
}

impl Place {
    pub(crate) fn new(etcd: &Etcd) -> Result<Self> {
        let files = tempfile::tempdir()?;
        let config = etcd.config();
        for (name, pem) in [("etcd-ca.crt", config.ca), ("etcd.crt", config.cert), ("etcd.key", config.key)] {
            fs::write(files.path().join(name), pem.context("etcd has no certificates")?)?;
        }
        let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        Ok(Self { files, port })
    }

    /// Starts it, and returns when it has answered a request that needs its store.
    pub(crate) async fn start(&self, etcd: &Etcd) -> Result<Apiserver> {
        let path = |name: &str| self.files.path().join(name).to_string_lossy().into_owned();
        let log = File::options().create(true).append(true).open(path("log"))?;
        let mut command = Command::new(tools::diolkos()?);
        command.args(["apiserver", "--advertise-address", "127.0.0.1"]);
        command.args(["--listen", &format!("127.0.0.1:{}", self.port), "--cert-dir", &path("pki")]);
        command.args(["--etcd-servers", &etcd.url(), "--etcd-cafile", &path("etcd-ca.crt")]);
        command.args(["--etcd-certfile", &path("etcd.crt"), "--etcd-keyfile", &path("etcd.key")]);
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        let start = Instant::now();
        // Owned from here on, so that no error leaves it behind.
        let process = Running(Some(command.spawn().context("run diolkos apiserver")?));
        self.wait(process, start).await
    }

    async fn wait(&self, mut process: Running, start: Instant) -> Result<Apiserver> {
        let admin = self.files.path().join("pki/admin.kubeconfig");
        loop {
            let why = match Kubeconfig::load(&admin) {
                Err(error) => format!("{error:#}"),
                Ok(kubeconfig) => {
                    let client = Client::connect(&kubeconfig)?;
                    let request = wire::GetRequest { key: Some(namespace("default")), ..Default::default() };
                    match client.raw().get(request).await {
                        Ok(_) => {
                            let ready = start.elapsed();
                            let process = process.0.take().context("it has a process")?;
                            return Ok(Apiserver { process, client, kubeconfig, ready });
                        }
                        Err(status) => status.to_string(),
                    }
                }
            };
            let child = process.0.as_mut().context("it has a process")?;
            if let Some(status) = child.try_wait()? {
                bail!("the apiserver ended ({status}):\n{}", self.log());
            }
            ensure!(start.elapsed() < START, "the apiserver does not answer: {why}\n{}", self.log());
            tokio::time::sleep(LOOK).await;
        }
    }

    fn log(&self) -> String {
        fs::read_to_string(self.files.path().join("log")).unwrap_or_default()
    }
}

/// A process until it has become an [`Apiserver`].
struct Running(Option<Child>);

impl Drop for Running {
    fn drop(&mut self) {
        if let Some(process) = &mut self.0 {
            end(process);
        }
    }
}

impl Drop for Apiserver {
    fn drop(&mut self) {
        end(&mut self.process);
    }
}

fn end(process: &mut Child) {
    let _ = process.kill();
    let _ = process.wait();
}

impl Apiserver {
    /// As the administrator, who has no limits of a user.
    pub(crate) fn client(&self) -> &Client {
        &self.client
    }

    /// The same on a connection of its own.
    pub(crate) fn connect(&self) -> Result<Client> {
        Ok(Client::connect(&self.kubeconfig)?)
    }

    /// Resident memory once it has nothing to do, in bytes.
    pub(crate) async fn resident(&self) -> Result<f64> {
        tokio::time::sleep(SETTLE).await;
        let path = format!("/proc/{}/status", self.process.id());
        let status = fs::read_to_string(&path).with_context(|| format!("{path}: the apiserver is gone"))?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let kib = line.with_context(|| format!("no VmRSS in {path}: the apiserver has ended"))?;
        Ok(kib.trim().trim_end_matches("kB").trim().parse::<f64>()? * 1024.0)
    }

    pub(crate) async fn make_namespace(&self, name: &str) -> Result<()> {
        let json = format!(r#"{{"apiVersion":"v1","kind":"Namespace","metadata":{{"name":"{name}"}}}}"#);
        let request = wire::WriteRequest { key: Some(namespace("")), json: json.into(), ..Default::default() };
        self.client.raw().create(request).await.map(drop).with_context(|| format!("make the namespace {name}"))
    }
}

fn namespace(name: &str) -> wire::Key {
    wire::Key { version: "v1".into(), plural: "namespaces".into(), name: name.into(), ..Default::default() }
}

/// A pod's address; without a name that of all pods of a namespace.
pub(crate) fn pod_key(namespace: &str, name: &str) -> wire::Key {
    let (namespace, name) = (namespace.into(), name.into());
    wire::Key { version: "v1".into(), plural: "pods".into(), namespace, name, ..Default::default() }
}

/// A client of etcd itself, on a connection of its own.
pub(crate) async fn raw(etcd: &Etcd) -> Result<etcd_client::Client> {
    let config = etcd.config();
    let (ca, cert, key) = (config.ca, config.cert, config.key);
    let tls = TlsOptions::new()
        .ca_certificate(Certificate::from_pem(ca.context("no CA")?))
        .identity(Identity::from_pem(cert.context("no certificate")?, key.context("no key")?));
    let options = ConnectOptions::new().with_tls(tls);
    etcd_client::Client::connect([etcd.url()], Some(options)).await.context("connect to etcd")
}
