//! What the machine must offer, and where the pins are.

use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use diolkos_abi::LAYOUT;
use diolkos_abi::config::features;
use nix::sys::statfs::{BPF_FS_MAGIC, CGROUP2_SUPER_MAGIC, FsType, statfs};

use super::{KernelOptions, syscall};
use crate::dataplane::{Error, Result};

/// The directories of a node's pins.
pub(super) struct Pins {
    pub(super) maps: PathBuf,
    pub(super) links: PathBuf,
}

impl Pins {
    pub(super) fn create(options: &KernelOptions) -> Result<Self> {
        let layout = node_directory(&options.bpffs, &options.node).join(format!("v{LAYOUT}"));
        let pins = Self { maps: layout.join("maps"), links: layout.join("links") };
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
    match fs::remove_dir_all(&path) {
        Err(source) if source.kind() != io::ErrorKind::NotFound => {
            Err(Error::Path { operation: "remove", path, source })
        }
        _ => Ok(()),
    }
}

/// The features of the running kernel, or what is missing and what to do about it.
pub(super) fn probe(options: &KernelOptions) -> Result<u32> {
    let lacks = |what: String, advice: &'static str| Err(Error::Unsupported { what, advice });
    if !is_on(&options.bpffs, BPF_FS_MAGIC)? {
        let what = format!("{} is not a bpf file system", options.bpffs.display());
        return lacks(what, "mount one there: mount -t bpf bpf <directory>, or name another with --bpffs");
    }
    if !is_on(&options.cgroup, CGROUP2_SUPER_MAGIC)? {
        let what = format!("{} is not a cgroup2 directory", options.cgroup.display());
        return lacks(what, "name one with --cgroup-root; findmnt -t cgroup2 shows where it is mounted");
    }
    require_tcx(syscall::has_tcx())?;
    let set_retval = if syscall::has_set_retval() { features::SET_RETVAL } else { 0 };
    // tcx came later than redirect_peer.
    Ok(set_retval | features::REDIRECT_PEER)
}

/// What a kernel without tcx, or without bpf(2) for us, is told.
fn require_tcx(found: io::Result<bool>) -> Result<()> {
    let (what, advice) = match found {
        Ok(true) => return Ok(()),
        Ok(false) => ("the kernel has no tcx".to_owned(), "Linux 6.6 or newer is needed"),
        Err(error) => match error.raw_os_error() {
            Some(libc::ENOSYS) => ("the kernel has no bpf(2)".into(), "a kernel with CONFIG_BPF_SYSCALL is needed"),
            Some(libc::EPERM | libc::EACCES) => {
                ("bpf(2) is not permitted".into(), "run as root, or with CAP_BPF and CAP_NET_ADMIN")
            }
            _ => (format!("bpf(2) fails: {error}"), "see the kernel's log"),
        },
    };
    Err(Error::Unsupported { what, advice })
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

    #[test]
    fn a_missing_kernel_feature_is_named_with_what_to_do() {
        let of = |errno| Err(io::Error::from_raw_os_error(errno));
        let cases = [
            (Ok(false), "the kernel has no tcx: Linux 6.6 or newer is needed"),
            (of(libc::ENOSYS), "the kernel has no bpf(2): a kernel with CONFIG_BPF_SYSCALL is needed"),
            (of(libc::EPERM), "bpf(2) is not permitted: run as root, or with CAP_BPF and CAP_NET_ADMIN"),
        ];
        for (found, said) in cases {
            assert_eq!(require_tcx(found).unwrap_err().to_string(), said);
        }
        require_tcx(Ok(true)).unwrap();
    }
}
