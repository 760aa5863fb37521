//! What the machine must offer, and where the pins are.

use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use diolkos_abi::LAYOUT;
use diolkos_abi::config::features;
use nix::sys::statfs::{BPF_FS_MAGIC, CGROUP2_SUPER_MAGIC, FsType, statfs};

use super::links::Mechanism;
use super::{KernelOptions, syscall};
use crate::dataplane::{Error, Result};

/// The directories of a node's pins.
pub(super) struct Pins {
    /// The directory of both.
    pub(super) layout: PathBuf,
    pub(super) maps: PathBuf,
    pub(super) links: PathBuf,
}

impl Pins {
    pub(super) fn create(options: &KernelOptions) -> Result<Self> {
        let layout = node_directory(&options.bpffs, &options.node).join(format!("v{LAYOUT}"));
        let pins = Self { maps: layout.join("maps"), links: layout.join("links"), layout };
        for directory in [&pins.maps, &pins.links] {
            // Whoever may open a pin may redirect every connection of the node.
            let made = DirBuilder::new().recursive(true).mode(0o700).create(directory);
            made.map_err(|source| Error::Path { operation: "create", path: directory.clone(), source })?;
        }
        Ok(pins)
    }
}

/// Takes a node's dataplane away: programs are detached and maps forgotten. For uninstalling and for tests.
pub fn remove(bpffs: &Path, node: &str) -> Result<()> {
    let path = node_directory(bpffs, node);
    if matches!(syscall::has_tcx(), Ok(false)) {
        super::links::take_filters_off(&path)?;
    }
    match fs::remove_dir_all(&path) {
        Err(source) if source.kind() != io::ErrorKind::NotFound => {
            Err(Error::Path { operation: "remove", path, source })
        }
        _ => Ok(()),
    }
}

/// The features found out here; the operator chooses the others.
pub(super) const PROBED: u32 = features::SET_RETVAL | features::REDIRECT_PEER;

/// What the running kernel has.
pub(super) struct Machine {
    /// Those of [`PROBED`].
    pub(super) features: u32,
    pub(super) mechanism: Mechanism,
}

/// What the running kernel has, or what is missing and what to do about it.
pub(super) fn probe(options: &KernelOptions) -> Result<Machine> {
    let lacks = |what: String, advice: &'static str| Err(Error::Unsupported { what, advice });
    if !is_on(&options.bpffs, BPF_FS_MAGIC)? {
        let what = format!("{} is not a bpf file system", options.bpffs.display());
        return lacks(what, "mount one there: mount -t bpf bpf <directory>, or name another with --bpffs");
    }
    if !is_on(&options.cgroup, CGROUP2_SUPER_MAGIC)? {
        let what = format!("{} is not a cgroup2 directory", options.cgroup.display());
        return lacks(what, "name one with --cgroup-root; findmnt -t cgroup2 shows where it is mounted");
    }
    let facts = Facts::of_kernel();
    facts.require()?;
    let set_retval = if facts.set_retval { features::SET_RETVAL } else { 0 };
    let mechanism = if facts.tcx() { Mechanism::Tcx } else { Mechanism::Clsact };
    Ok(Machine { features: set_retval | features::REDIRECT_PEER, mechanism })
}

/// The oldest kernel with all that has no fallback: `bpf_redirect_peer` came last.
pub const OLDEST: (u32, u32) = (5, 10);
/// From here on a process in a net_cls or net_prio cgroup does not take sockets out of their cgroup2 directory
/// (8520e224f547).
const UNDISTURBED: (u32, u32) = (5, 15);

/// What was found out about the running kernel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Facts {
    /// As the kernel names itself.
    pub release: String,
    /// Whether bpf(2) knows tcx (6.6), or the error of asking.
    pub bpf: std::result::Result<bool, i32>,
    /// `bpf_set_retval` (5.18).
    pub set_retval: bool,
    /// `SO_NETNS_COOKIE` (5.14).
    pub netns_cookie: bool,
    /// The cgroup v1 controllers in use that share a socket's field with cgroup2.
    pub socket_controllers: Vec<String>,
}

impl Facts {
    /// Those of the kernel we run on.
    pub fn of_kernel() -> Self {
        let release = nix::sys::utsname::uname().map(|name| name.release().to_string_lossy().into_owned());
        let controllers = fs::read_to_string("/proc/cgroups").unwrap_or_default();
        Self {
            release: release.unwrap_or_default(),
            bpf: syscall::has_tcx().map_err(|error| error.raw_os_error().unwrap_or_default()),
            set_retval: syscall::has_set_retval(),
            netns_cookie: matches!(crate::pods::host_netns_cookie(), Ok(Some(_))),
            socket_controllers: socket_controllers(&controllers),
        }
    }

    pub fn version(&self) -> (u32, u32) {
        let mut parts = self.release.split(|c: char| !c.is_ascii_digit()).map(|part| part.parse().unwrap_or(0));
        (parts.next().unwrap_or(0), parts.next().unwrap_or(0))
    }

    pub fn tcx(&self) -> bool {
        self.bpf == Ok(true)
    }

    /// Whether cgroup v1 controllers take sockets out of their cgroup2 directory.
    pub fn sockets_disturbed(&self) -> bool {
        self.version() < UNDISTURBED && !self.socket_controllers.is_empty()
    }

    /// Fails with what this kernel cannot do and nothing makes up for.
    pub fn require(&self) -> Result<()> {
        let (what, advice) = match self.bpf {
            Err(libc::ENOSYS) => ("the kernel has no bpf(2)".into(), "a kernel with CONFIG_BPF_SYSCALL is needed"),
            Err(libc::EPERM | libc::EACCES) => {
                ("bpf(2) is not permitted".into(), "run as root, or with CAP_BPF and CAP_NET_ADMIN")
            }
            Err(errno) => (format!("bpf(2) fails: {}", io::Error::from_raw_os_error(errno)), "see the kernel's log"),
            Ok(_) if self.version() < OLDEST => {
                (format!("the kernel is Linux {}", self.release), "Linux 5.10 or newer is needed")
            }
            Ok(_) if self.sockets_disturbed() => (
                format!("the cgroup v1 controllers {} are in use", self.socket_controllers.join(", ")),
                "before Linux 5.15 they take sockets out of cgroup2, and services would not be translated at sockets: \
                 boot with cgroup_no_v1=net_cls,net_prio, or a newer kernel",
            ),
            Ok(_) => return Ok(()),
        };
        Err(Error::Unsupported { what, advice })
    }
}

/// Those of /proc/cgroups that have a hierarchy of their own.
fn socket_controllers(cgroups: &str) -> Vec<String> {
    let rows = cgroups.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
    let used = rows.filter_map(|row| match row[..] {
        [name @ ("net_cls" | "net_prio"), hierarchy, ..] if hierarchy != "0" => Some(name.to_owned()),
        _ => None,
    });
    used.collect()
}

/// bpffs refuses names with a dot, and a node's name has no underscore.
pub(crate) fn node_directory(bpffs: &Path, node: &str) -> PathBuf {
    bpffs.join("diolkos").join(node.replace('.', "_"))
}

fn is_on(path: &Path, magic: FsType) -> Result<bool> {
    match statfs(path) {
        Ok(found) => Ok(found.filesystem_type() == magic),
        Err(errno) => Err(Error::Path { operation: "look at", path: path.into(), source: errno.into() }),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn facts(release: &str) -> Facts {
        Facts {
            release: release.into(),
            bpf: Ok(false),
            set_retval: false,
            netns_cookie: false,
            socket_controllers: Vec::new(),
        }
    }

    #[test]
    fn what_a_kernel_lacks_is_named_with_what_to_do() {
        let cases = [
            (Facts { bpf: Err(libc::ENOSYS), ..facts("6.1.0") }, "the kernel has no bpf(2): a kernel with CONFIG_BPF"),
            (
                Facts { bpf: Err(libc::EPERM), ..facts("6.1.0") },
                "bpf(2) is not permitted: run as root, or with CAP_BPF",
            ),
            (facts("5.4.0-150-generic"), "the kernel is Linux 5.4.0-150-generic: Linux 5.10 or newer is needed"),
            (
                Facts { socket_controllers: vec!["net_cls".into()], ..facts("5.10.0-46-cloud-amd64") },
                "the cgroup v1 controllers net_cls are in use: before Linux 5.15",
            ),
        ];
        for (facts, said) in cases {
            let text = facts.require().unwrap_err().to_string();
            assert!(text.starts_with(said), "{text}");
        }
        for release in ["5.10.0-46-cloud-amd64", "6.1.0", "10.0"] {
            facts(release).require().unwrap();
        }
        Facts { socket_controllers: vec!["net_cls".into()], ..facts("6.1.0") }.require().unwrap();
    }

    #[test]
    fn only_controllers_in_a_hierarchy_are_in_use() {
        let text = "#subsys_name\thierarchy\tnum_cgroups\tenabled\nnet_cls\t4\t1\t1\nnet_prio\t0\t1\t1\ncpu\t2\t1\t1\n";
        assert_eq!(socket_controllers(text), ["net_cls"]);
    }
}
