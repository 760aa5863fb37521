//! Namespaces that stand for a machine: the control plane's, and one a node.

use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};

use crate::tools;

/// How long a command may take that a test waits for.
pub const LIMIT: Duration = Duration::from_secs(90);

/// The first process of the cluster: it adopts and reaps what daemons leave behind.
const INIT: &str = "mount -t tmpfs tmpfs /run && ip link set lo up && echo $$ || exit 1
while :; do sleep 3600 & wait $!; done";

/// In a chroot, mounts could not be made private, and whoever enters a container's mount namespace would come
/// out in the machine's root directory. So this leaves the chroot in a mount namespace of its own, and makes the
/// chroot's directory the root of that. $0 is a process inside the chroot, the rest the command to go on with.
const PIVOT: &str = "root=$(readlink /proc/$0/root) && mount --make-rprivate / && mount --rbind \"$root\" \"$root\" &&
cd \"$root\" && pivot_root . mnt && umount -l /mnt || exit 1
exec \"$@\"";

/// Holds a node's namespaces. Its own /run and bpffs are what makes a node forget the others.
const HOLDER: &str =
    "mount -t tmpfs tmpfs /run && mount -t bpf bpf /sys/fs/bpf && ip link set lo up && echo $$ || exit 1
exec sleep infinity";

/// Joins the cgroup $0, then becomes the command.
const JOIN: &str = "echo 0 > \"$0/cgroup.procs\" && exec \"$@\"";

/// A set of namespaces, entered by nsenter: `ip netns exec` would hide cgroups and bpffs.
#[derive(Clone, Debug)]
pub struct Space {
    pid: PathBuf,
    mount: PathBuf,
    net: PathBuf,
    cgroup: PathBuf,
    /// The holder's process id inside the cluster's process namespace.
    holder: u32,
}

impl Space {
    /// The namespaces of a process, given its directory in a /proc.
    fn of(proc: &Path, cgroup: PathBuf, holder: u32) -> Self {
        let namespace = |kind: &str| proc.join("ns").join(kind);
        let (pid, mount, net) = (namespace("pid"), namespace("mnt"), namespace("net"));
        Self { pid, mount, net, cgroup, holder }
    }

    /// A command inside, with the tools on its PATH and in the space's cgroup.
    pub fn command(&self, program: impl AsRef<Path>) -> Command {
        self.command_in(&self.cgroup, program)
    }

    /// A command inside, in another cgroup.
    pub fn command_in(&self, cgroup: &Path, program: impl AsRef<Path>) -> Command {
        let mut command = self.enter();
        command.args(["sh", "-c", JOIN]).arg(cgroup).arg(program.as_ref());
        command
    }

    /// A command inside that is ended after [`LIMIT`]: for what has to answer soon.
    pub fn bounded(&self, program: impl AsRef<Path>) -> Command {
        let mut command = self.command("timeout");
        command.arg("--kill-after=5").arg(LIMIT.as_secs().to_string()).arg(program.as_ref());
        command
    }

    /// nsenter into the namespaces; its next argument is the program.
    pub fn enter(&self) -> Command {
        let mut command = Command::new("nsenter");
        for (kind, path) in [("pid", &self.pid), ("mount", &self.mount), ("net", &self.net)] {
            command.arg(format!("--{kind}={}", path.display()));
        }
        command.arg("--");
        environment(&mut command);
        command
    }

    /// Runs to the end and returns what it printed; an error carries what it complained about.
    pub fn run(&self, argv: &[&str]) -> Result<String> {
        let (program, arguments) = argv.split_first().context("no program to run")?;
        finish(self.bounded(program).args(arguments), argv)
    }

    pub fn cgroup(&self) -> &Path {
        &self.cgroup
    }

    /// Its network namespace, for setns by a thread.
    pub fn network_namespace(&self) -> &Path {
        &self.net
    }

    /// Its mount namespace: the way to its bpffs.
    pub fn mount_namespace(&self) -> &Path {
        &self.mount
    }

    /// The process that holds the namespaces, as a process inside the cluster names it: for `ip link .. netns`.
    pub fn holder(&self) -> u32 {
        self.holder
    }
}

/// Waits for a command and returns its output, or why it failed.
pub fn finish(command: &mut Command, shown: &[&str]) -> Result<String> {
    let output = command.stdin(Stdio::null()).output().with_context(|| format!("cannot run {}", shown.join(" ")))?;
    if !output.status.success() {
        let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        bail!("`{}` failed ({}): {}{}", shown.join(" "), output.status, out.trim(), err.trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// The namespaces of a cluster: the control plane's own, and the process namespace of all.
pub struct Spaces {
    control: Space,
    keeper: Keeper,
    /// Processes that hold the nodes' namespaces; they end with the keeper.
    holders: Vec<Child>,
}

impl Spaces {
    /// `cgroup` is for what runs beside the control plane.
    pub fn new(cgroup: PathBuf) -> Result<Self> {
        let keeper = Keeper::start()?;
        let control = Space::of(&PathBuf::from(format!("/proc/{}", keeper.init)), cgroup, 1);
        Ok(Self { control, keeper, holders: Vec::new() })
    }

    pub fn control(&self) -> &Space {
        &self.control
    }

    /// Namespaces of one more node, connected to nothing yet.
    pub fn add(&mut self, cgroup: PathBuf) -> Result<Space> {
        let mut command = self.control.enter();
        command.args(["unshare", "--mount", "--net", "sh", "-c", HOLDER]);
        let mut child =
            command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().context("cannot start a node's holder")?;
        let holder = first_number(&mut child).context("a node's namespaces could not be made (see above)");
        self.holders.push(child);
        let holder = holder?;
        // Through the root of the first process: its /proc is the one that knows the holder.
        let proc = PathBuf::from(format!("/proc/{}/root/proc/{holder}", self.keeper.init));
        Ok(Space { pid: self.control.pid.clone(), ..Space::of(&proc, cgroup, holder) })
    }
}

impl Drop for Spaces {
    fn drop(&mut self) {
        self.keeper.stop();
        for holder in &mut self.holders {
            let _ = holder.wait();
        }
    }
}

/// The process whose end ends the cluster.
struct Keeper {
    /// The first process of the namespace, as we see it.
    init: u32,
    stop: mpsc::Sender<()>,
    thread: Option<thread::JoinHandle<()>>,
}

impl Keeper {
    /// The kernel's signal on a parent's death is about the parent's thread, so one thread does nothing
    /// but live as long as the cluster.
    fn start() -> Result<Self> {
        let (stop, stopped) = mpsc::channel::<()>();
        let (report, started) = mpsc::channel();
        let thread = thread::spawn(move || {
            let spawned = spawn_init();
            let (outer, result) = match spawned {
                Ok((outer, init)) => (Some(outer), Ok(init)),
                Err(error) => (None, Err(error)),
            };
            let _ = report.send(result);
            // Ends when the sender is used or dropped.
            let _ = stopped.recv();
            if let Some(mut outer) = outer {
                let _ = outer.kill();
                let _ = outer.wait();
            }
        });
        let init = started.recv().context("the cluster's keeper ended")??;
        Ok(Self { init, stop, thread: Some(thread) })
    }

    fn stop(&mut self) {
        let _ = self.stop.send(());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn spawn_init() -> Result<(Child, u32)> {
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL"]);
    if !root_is_mounted()? {
        command.args([
            "unshare",
            "--mount",
            "--propagation",
            "unchanged",
            "nsenter",
            "--mount=/proc/self/ns/mnt",
            "--",
        ]);
        command.args(["sh", "-c", PIVOT]).arg(std::process::id().to_string());
    }
    command.args([
        "unshare",
        "--pid",
        "--fork",
        "--kill-child=KILL",
        "--mount-proc",
        "--mount",
        "--net",
        "sh",
        "-c",
        INIT,
    ]);
    command.stdin(Stdio::null()).stdout(Stdio::piped());
    environment(&mut command);
    let mut outer = command.spawn().context("cannot start setpriv and unshare (package util-linux)")?;
    let init = first_number(&mut outer)
        .context("the cluster's namespaces could not be made (see above)")
        .and_then(|_| child_of(outer.id()));
    if init.is_err() {
        let _ = outer.kill();
        let _ = outer.wait();
    }
    init.map(|init| (outer, init))
}

/// Is our root directory a mount point, as it is everywhere but in a chroot?
fn root_is_mounted() -> Result<bool> {
    let text = std::fs::read_to_string("/proc/self/mountinfo").context("cannot read /proc/self/mountinfo")?;
    Ok(text.lines().any(|line| line.split(' ').nth(4) == Some("/")))
}

fn environment(command: &mut Command) {
    command.env("PATH", tools::path()).env("NO_COLOR", "1");
    command.env("LD_LIBRARY_PATH", std::env::join_paths(tools::libraries()).unwrap_or_default());
}

fn first_number(child: &mut Child) -> Result<u32> {
    let mut line = String::new();
    BufReader::new(child.stdout.take().context("no output")?).read_line(&mut line)?;
    line.trim().parse().with_context(|| format!("it said {line:?}"))
}

/// The one child of a process.
fn child_of(parent: u32) -> Result<u32> {
    let entries = std::fs::read_dir("/proc").context("cannot read /proc")?.flatten();
    let mut pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    let child = pids.find(|pid| {
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        status.lines().any(|line| line.strip_prefix("PPid:").is_some_and(|value| value.trim() == parent.to_string()))
    });
    child.context("unshare has no child")
}
