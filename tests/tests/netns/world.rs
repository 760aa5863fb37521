//! A node: a thread with its own network and mount namespace, a bpf file system and a cgroup. All is gone with it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, MutexGuard, PoisonError};

use aya::programs::links::{FdLink, PinnedLink};
use aya::programs::{ProgramInfo, SchedClassifier, TcAttachType};
use diolkos_abi::config::Config;
use diolkos_agent::dataplane::Dataplane as _;
use diolkos_agent::dataplane::kernel::{self, Facts, Kernel, KernelOptions};
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
    /// The cgroup the process came from.
    pub(crate) home: PathBuf,
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

    /// A dataplane without an overlay, with its programs in place.
    pub(crate) fn open(&self) -> Kernel {
        self.open_with(Config::default())
    }

    pub(crate) fn open_with(&self, config: Config) -> Kernel {
        let mut kernel = Kernel::open(&self.options(config)).unwrap_or_else(|error| panic!("{error}"));
        kernel.put_in_place().unwrap_or_else(|error| panic!("{error}"));
        kernel
    }

    /// The directory of the links' pins.
    pub(crate) fn links(&self) -> PathBuf {
        self.pins().join("links")
    }

    /// The directory of the maps' pins.
    pub(crate) fn maps(&self) -> PathBuf {
        self.pins().join("maps")
    }

    /// The directory of the layout.
    pub(crate) fn pins(&self) -> PathBuf {
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

/// The names in a directory, sorted; none when it is not there.
pub(crate) fn names(directory: &Path) -> Vec<String> {
    let entries = fs::read_dir(directory).into_iter().flatten();
    let mut names: Vec<String> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

/// Link id and program id of a pin. A filter has no link: its id is 0.
pub(crate) fn link(path: &Path) -> (u32, u32) {
    let name = path.file_name().unwrap().to_str().unwrap();
    let is_socket_hook = ["connect", "getpeername", "recvmsg", "sendmsg"].iter().any(|hook| name.starts_with(hook));
    if !has_tcx() && !is_socket_hook {
        return (0, ProgramInfo::from_pin(path).unwrap().id());
    }
    let info = FdLink::from(PinnedLink::from_pin(path).unwrap()).info().unwrap();
    (info.id(), info.program_id())
}

/// Whether devices have links (Linux 6.6), or filters, which cannot be asked for here.
pub(crate) fn has_tcx() -> bool {
    Facts::of_kernel().tcx()
}

/// Asserts how many programs run on a device.
pub(crate) fn assert_attached(ifname: &str, programs: usize) {
    if !has_tcx() {
        return;
    }
    let count = |attach| SchedClassifier::query_tcx(ifname, attach).unwrap().1.len();
    assert_eq!(count(TcAttachType::Ingress) + count(TcAttachType::Egress), programs, "programs on {ifname}");
}

/// The index of a network device.
pub(crate) fn ifindex(name: &str) -> u32 {
    nix::net::if_::if_nametoindex(name).unwrap()
}

fn join(cgroup: &Path) {
    fs::write(cgroup.join("cgroup.procs"), std::process::id().to_string()).expect("a process can be moved");
}
