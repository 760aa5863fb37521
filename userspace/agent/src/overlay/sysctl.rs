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

/// Whether the kernel has IPv6.
pub(crate) fn has_ipv6() -> bool {
    Path::new(V6).exists()
}

/// Packets of one device leave through another.
pub(crate) fn forward_v4() -> Result<(), SysctlError> {
    set(Path::new("/proc/sys/net/ipv4/ip_forward"), "1")
}

/// Packets of one device leave through another. A host that forwards hears no router advertisements unless it is told
/// to (`accept_ra` 2), so devices that heard them go on doing so: the node's default route may come from there.
pub(crate) fn forward_v6() -> Result<(), SysctlError> {
    let forwarding = PathBuf::from(V6).join("all/forwarding");
    if read(&forwarding).is_ok_and(|present| present == "1") {
        return Ok(());
    }
    for entry in fs::read_dir(V6).into_iter().flatten().flatten() {
        let accept = entry.path().join("accept_ra");
        if entry.file_name() != "all" && read(&accept).is_ok_and(|present| present == "1") {
            set(&accept, "2")?;
        }
    }
    set(&forwarding, "1")
}

/// Strict reverse path filtering drops what our programs redirect, since they bypass the routes it asks. The kernel
/// takes the larger of the device's value and `all`'s, and 2 (loose) is the largest: it holds whatever `all` says.
pub(crate) fn loosen_reverse_path(device: &str) -> Result<(), SysctlError> {
    set(&PathBuf::from(V4).join(device).join("rp_filter"), "2")
}

/// `all` decides for the devices that are not ours, so it is changed only where it says strict (1).
pub(crate) fn loosen_strict_reverse_path_of_all() -> Result<(), SysctlError> {
    let path = PathBuf::from(V4).join("all/rp_filter");
    match read(&path) {
        Ok(present) if present != "1" => Ok(()),
        _ => set(&path, "2"),
    }
}

/// A device of ours has the addresses it is given and no others, asks nobody whether they are free, and learns nothing
/// from routers. To be set before it comes up.
pub(crate) fn quiet(device: &str) -> Result<(), SysctlError> {
    let settings = [("disable_ipv6", "0"), ("addr_gen_mode", "1"), ("accept_ra", "0"), ("accept_dad", "0")];
    set_all(V6, device, &settings)
}

/// What a pod sends changes neither the node's routes nor its neighbours: no redirects, no router advertisements, no
/// source routes; and the node answers for nobody but itself.
pub(crate) fn distrust(device: &str) -> Result<(), SysctlError> {
    // Those of IPv4 hold whatever `all` says, because the node forwards; a proxy that `all` switches on is the
    // operator's own.
    set_all(V4, device, &[("accept_redirects", "0"), ("accept_source_route", "0"), ("proxy_arp", "0")])?;
    set_all(V6, device, &[("accept_redirects", "0"), ("accept_source_route", "0"), ("proxy_ndp", "0")])
}

const V4: &str = "/proc/sys/net/ipv4/conf";
const V6: &str = "/proc/sys/net/ipv6/conf";

/// Nothing, where the kernel has not the family.
fn set_all(family: &str, device: &str, settings: &[(&str, &str)]) -> Result<(), SysctlError> {
    if !Path::new(family).exists() {
        return Ok(());
    }
    settings.iter().try_for_each(|(name, value)| set(&PathBuf::from(family).join(device).join(name), value))
}

/// Writes only a difference: /proc/sys may be read-only where the node is set up already.
fn set(path: &Path, value: &str) -> Result<(), SysctlError> {
    let failed = |source| SysctlError { path: path.to_owned(), value: value.to_owned(), source };
    if read(path).map_err(failed)? == value {
        return Ok(());
    }
    fs::write(path, value).map_err(failed)
}

fn read(path: &Path) -> io::Result<String> {
    Ok(fs::read_to_string(path)?.trim().to_owned())
}
