//! Machines on one wire, and `diolkos` and kubectl on them.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use diolkos_tests::guard::Guard;
use diolkos_tests::process::Process;
use diolkos_tests::space::{Space, Spaces, finish};
use diolkos_tests::{Families, eventually, network, tools};

/// Longest wait for anything on a busy machine with two cores.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);
/// The address of the first machine.
pub(crate) const FIRST: &str = "172.30.0.1";

/// Fields are dropped in order: namespaces, then files and cgroups.
pub(crate) struct Wire {
    spaces: Spaces,
    guard: Guard,
}

/// One machine: its namespaces and its files.
pub(crate) struct Machine {
    pub(crate) space: Space,
    directory: PathBuf,
    name: String,
}

impl Wire {
    pub(crate) fn new() -> Result<Self> {
        let guard = Guard::new()?;
        let spaces = Spaces::new(guard.make_cgroup("control")?)?;
        network::bridge(spaces.control(), Families::V4)?;
        Ok(Self { spaces, guard })
    }

    /// The machine at [`FIRST`].
    pub(crate) fn first(&self) -> Result<Machine> {
        // Without a default route there is nothing to find the machine's address by.
        self.spaces.control().run(&["ip", "route", "add", "default", "dev", "wire"])?;
        self.machine("first", self.spaces.control().clone())
    }

    /// Another machine.
    pub(crate) fn add(&mut self, number: u32) -> Result<Machine> {
        let name = format!("machine-{number}");
        let space = self.spaces.add(self.guard.make_cgroup(&name)?)?;
        network::uplink(self.spaces.control(), &space, Families::V4, number)?;
        self.machine(&name, space)
    }

    fn machine(&self, name: &str, space: Space) -> Result<Machine> {
        let directory = self.guard.directory().join(name);
        fs::create_dir_all(&directory)?;
        Ok(Machine { space, directory, name: name.into() })
    }

    /// A server on a machine; its standard output is in its log.
    pub(crate) fn start(&self, machine: &Machine, name: &str, arguments: &[&str]) -> Result<Process> {
        let mut argv = vec![tools::diolkos()?.to_string_lossy().into_owned()];
        argv.extend(arguments.iter().map(|argument| (*argument).to_owned()));
        Process::start(&format!("{name}-{}", machine.name), &machine.space, self.guard.directory(), &argv)
    }
}

impl Machine {
    /// A file or directory of this machine.
    pub(crate) fn path(&self, name: &str) -> String {
        self.directory.join(name).to_string_lossy().into_owned()
    }

    /// `diolkos` to its end; what it printed.
    pub(crate) fn diolkos(&self, arguments: &[&str]) -> Result<String> {
        let mut command = self.space.bounded(tools::diolkos()?);
        finish(command.args(arguments), &[&["diolkos"], arguments].concat())
    }

    /// Flags that keep a node's files, programs and cgroups on its own machine.
    pub(crate) fn node_flags(&self, name: &str) -> Vec<String> {
        let group = self.space.cgroup().to_string_lossy().into_owned();
        let below = group.split_once("/diolkos-").map(|(_, rest)| format!("/diolkos-{rest}")).unwrap_or_default();
        [
            ("--node-name", name.to_owned()),
            ("--container-runtime-endpoint", "unix:///run/containerd.sock".to_owned()),
            ("--kubelet-arg", format!("log-dir={}", self.path("pods"))),
            ("--kubelet-arg", format!("cgroup-root={below}/pods")),
            ("--agent-arg", format!("cgroup-root={group}")),
            ("--agent-arg", format!("cni-bin-dir={}", self.path("cni/bin"))),
            ("--agent-arg", format!("cni-conf-dir={}", self.path("cni/net.d"))),
        ]
        .into_iter()
        .flat_map(|(flag, value)| [flag.to_owned(), value])
        .collect()
    }

    /// kubectl with a kubeconfig of this machine.
    pub(crate) fn kubectl(&self, kubeconfig: &str, arguments: &[&str]) -> Result<String> {
        let mut command = self.space.bounded("kubectl");
        command.arg("--kubeconfig").arg(kubeconfig).args(["--request-timeout", "20s"]).args(arguments);
        command.env("HOME", &self.directory).env_remove("KUBECONFIG");
        finish(&mut command, &[&["kubectl"], arguments].concat())
    }

    /// Every file and link below a directory, by name.
    pub(crate) fn files(&self, directory: &str) -> Result<Vec<String>> {
        let listed = self.space.run(&["find", directory, "-mindepth", "1"])?;
        let mut files: Vec<String> = listed.lines().map(str::to_owned).collect();
        files.sort();
        Ok(files)
    }
}

/// Waits for a server to say something in its log, and fails at once when it has ended.
pub(crate) fn said(server: &mut Process, what: &str) -> Result<String> {
    let mut ended = None;
    let found = eventually(what, PATIENCE, || {
        let log = server.log();
        if let Some(line) = log.lines().rfind(|line| line.contains(what)) {
            return Ok(Some(line.to_owned()));
        }
        if let Err(error) = server.check() {
            ended = Some(error);
            return Ok(None);
        }
        anyhow::bail!("it said:\n{}", server.tail())
    })?;
    match (found, ended) {
        (Some(line), _) => Ok(line),
        (None, Some(error)) => Err(error),
        (None, None) => anyhow::bail!("it did not say {what:?}"),
    }
}

/// The permission bits of a file.
pub(crate) fn mode(path: &str) -> Result<u32> {
    use std::os::unix::fs::PermissionsExt as _;
    let metadata = fs::metadata(Path::new(path)).with_context(|| path.to_owned())?;
    ensure!(metadata.is_file(), "{path} is no file");
    Ok(metadata.permissions().mode() & 0o777)
}
