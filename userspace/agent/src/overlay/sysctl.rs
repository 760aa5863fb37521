//! Settings under /proc/sys/net, which are those of the calling thread's network namespace.

use std::path::{Path, PathBuf};
use std::{fs, io};

/// A setting that could not be read or written.
#[derive(Debug, thiserror::Error)]
#[error("cannot set {} to {value}: {source}; set it on the node, or let the agent write /proc/sys/net", path.display())]
pub struct SysctlError {
    pub path: PathBuf,
    pub value: String,
    pub source: io::Error,
}

/// Packets of one device leave through another.
pub(crate) fn forward() -> Result<(), SysctlError> {
    set(Path::new("/proc/sys/net/ipv4/ip_forward"), "1")
}

/// Strict reverse path filtering drops what our programs redirect, since they bypass the routes it asks. The kernel
/// takes the larger of the device's value and `all`'s, and 2 (loose) is the largest: it holds whatever `all` says.
pub(crate) fn loosen_reverse_path(device: &str) -> Result<(), SysctlError> {
    set(&PathBuf::from(format!("/proc/sys/net/ipv4/conf/{device}/rp_filter")), "2")
}

/// `all` decides for the devices that are not ours, so it is changed only where it says strict (1).
pub(crate) fn loosen_strict_reverse_path_of_all() -> Result<(), SysctlError> {
    let path = Path::new("/proc/sys/net/ipv4/conf/all/rp_filter");
    match fs::read_to_string(path) {
        Ok(present) if present.trim() != "1" => Ok(()),
        _ => set(path, "2"),
    }
}

/// Writes only a difference: /proc/sys may be read-only where the node is set up already.
fn set(path: &Path, value: &str) -> Result<(), SysctlError> {
    let failed = |source| SysctlError { path: path.to_owned(), value: value.to_owned(), source };
    if fs::read_to_string(path).map_err(failed)?.trim() == value {
        return Ok(());
    }
    fs::write(path, value).map_err(failed)
}
