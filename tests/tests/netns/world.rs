//! A node: a thread with its own network and mount namespace, a bpf file system and a cgroup. All is gone with it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, MutexGuard, PoisonError};

use diolkos_abi::config::Config;
use diolkos_agent::dataplane::kernel::{self, Kernel, KernelOptions};
use diolkos_tests::cgroup::Hierarchies;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};
use tempfile::TempDir;

/// Name of the node, with a dot: bpffs refuses names with one.
pub(crate) const NODE: &str = "n1.example";

/// One node at a time: the process is a member of the node's cgroup.
static TURN: Mutex<()> = Mutex::new(());

/// Where a dataplane can live.
pub(crate) struct World {
    pub(crate) bpffs: PathBuf,
    pub(crate) cgroup: PathBuf,
    home: PathBuf,
    _directory: TempDir,
    _turn: MutexGuard<'static, ()>,
}

/// Runs a test as a node, in a thread of its own.
pub(crate) fn on_a_node(test: impl FnOnce(&World) + Send + 'static) {
    let thread = std::thread::spawn(move || {
        let turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
        unshare(CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWNS)
            .expect("this test needs root: it makes network and mount namespaces");
        test(&World::new(turn));
    });
    if let Err(panic) = thread.join() {
        std::panic::resume_unwind(panic);
    }
}

impl World {
    fn new(turn: MutexGuard<'static, ()>) -> Self {
        mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None::<&str>).unwrap();
        let directory = tempfile::tempdir().unwrap();
        let bpffs = directory.path().to_owned();
        mount(Some("bpf"), &bpffs, Some("bpf"), MsFlags::empty(), None::<&str>).expect("a bpf file system");
        ip("link set lo up");
        let root = Hierarchies::find().expect("cgroup2 is mounted").unified;
        let own = fs::read_to_string("/proc/self/cgroup").unwrap();
        let home = root.join(own.lines().find_map(|line| line.strip_prefix("0::/")).expect("our place in cgroup2"));
        let cgroup = root.join(format!("diolkos-netns-{}", std::process::id()));
        fs::create_dir_all(&cgroup).unwrap();
        let world = Self { bpffs, cgroup, home, _directory: directory, _turn: turn };
        join(&world.cgroup);
        world
    }

    /// How the dataplane is opened.
    pub(crate) fn options(&self, config: Config) -> KernelOptions {
        KernelOptions { bpffs: self.bpffs.clone(), node: NODE.into(), cgroup: self.cgroup.clone(), config }
    }

    /// A dataplane without an overlay.
    pub(crate) fn open(&self) -> Kernel {
        Kernel::open(&self.options(Config::default())).unwrap_or_else(|error| panic!("{error}"))
    }

    /// The directory of the links' pins.
    pub(crate) fn links(&self) -> PathBuf {
        self.pins().join("links")
    }

    /// The directory of the maps' pins.
    pub(crate) fn maps(&self) -> PathBuf {
        self.pins().join("maps")
    }

    fn pins(&self) -> PathBuf {
        self.bpffs.join(format!("diolkos/{}/v{}", NODE.replace('.', "_"), diolkos_abi::LAYOUT))
    }
}

impl Drop for World {
    fn drop(&mut self) {
        kernel::remove(&self.bpffs, NODE).expect("the pins can be removed");
        umount2(&self.bpffs, MntFlags::MNT_DETACH).expect("the bpf file system can be unmounted");
        join(&self.home);
        fs::remove_dir(&self.cgroup).expect("the cgroup is empty");
    }
}

/// `ip <arguments>` in the caller's namespace; its output. Panics when it fails.
pub(crate) fn ip(arguments: &str) -> String {
    let output = Command::new("ip").args(arguments.split_whitespace()).output().expect("run ip (iproute2)");
    assert!(output.status.success(), "ip {arguments}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// The index of a network device.
pub(crate) fn ifindex(name: &str) -> u32 {
    nix::net::if_::if_nametoindex(name).unwrap()
}

fn join(cgroup: &Path) {
    fs::write(cgroup.join("cgroup.procs"), std::process::id().to_string()).expect("a process can be moved");
}
