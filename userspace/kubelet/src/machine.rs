//! The machine itself: its clock, size, names, and whether it runs short of something.

use crate::node::{NodeIdentity, Pressure};
use anyhow::{Context as _, bail};
use diolkos_api::quantity::Quantity;
use k8s_openapi::jiff::Timestamp;
use std::collections::BTreeMap;
use std::path::Path;
use std::time::SystemTime;

/// Pods of a node that does not say.
const DEFAULT_PODS: &str = "110";
/// Below this much available memory the node is under pressure.
const MIN_MEMORY_KIB: u64 = 100 << 10;
/// Below this share of free disk space, in percent, the node is under pressure.
const MIN_DISK_PERCENT: u64 = 5;
/// Above this share of the process ids in use, in percent, the node is under pressure.
const MAX_PIDS_PERCENT: u64 = 90;

/// The wall clock.
pub(crate) fn now() -> Timestamp {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    i128::try_from(since.as_nanos()).ok().and_then(|n| Timestamp::from_nanosecond(n).ok()).unwrap_or_default()
}

/// The capacity as given, completed from the machine.
pub(crate) fn capacity(given: &BTreeMap<String, String>) -> anyhow::Result<BTreeMap<String, String>> {
    let mut capacity = given.clone();
    for (name, value) in given {
        match Quantity::parse(value) {
            Ok(quantity) if !quantity.is_negative() => {}
            Ok(_) => bail!("the capacity {name}={value} is negative"),
            Err(why) => bail!("the capacity {name}={value} is no quantity: {why}"),
        }
    }
    if !capacity.contains_key("cpu") {
        let cpus = std::thread::available_parallelism().context("count the CPUs")?;
        capacity.insert("cpu".to_owned(), cpus.to_string());
    }
    if !capacity.contains_key("memory") {
        let kib = meminfo("MemTotal").context("/proc/meminfo does not tell the memory; give --capacity memory=..")?;
        capacity.insert("memory".to_owned(), format!("{kib}Ki"));
    }
    capacity.entry("pods".to_owned()).or_insert_with(|| DEFAULT_PODS.to_owned());
    Ok(capacity)
}

/// Names and versions of the machine; what cannot be read stays empty.
pub(crate) fn identity(name: String, ips: Vec<String>, capacity: BTreeMap<String, String>) -> NodeIdentity {
    let line = |path: &str| std::fs::read_to_string(path).unwrap_or_default().trim().to_owned();
    let release = std::fs::read_to_string("/etc/os-release").unwrap_or_default();
    let pretty = release.lines().find_map(|line| line.strip_prefix("PRETTY_NAME="));
    NodeIdentity {
        name,
        ips,
        capacity,
        kernel: line("/proc/sys/kernel/osrelease"),
        os_image: pretty.unwrap_or("Linux").trim_matches('"').to_owned(),
        machine_id: line("/etc/machine-id"),
        boot_id: line("/proc/sys/kernel/random/boot_id"),
    }
}

/// What the machine runs short of now.
pub(crate) fn pressure(root_dir: &Path) -> Pressure {
    Pressure { memory: memory_pressure(), disk: disk_pressure(root_dir), pids: pid_pressure() }
}

fn memory_pressure() -> Option<String> {
    let available = meminfo("MemAvailable")?;
    (available < MIN_MEMORY_KIB).then(|| format!("{available} KiB of memory are available, less than {MIN_MEMORY_KIB}"))
}

fn disk_pressure(root_dir: &Path) -> Option<String> {
    let stat = nix::sys::statvfs::statvfs(root_dir).ok()?;
    let percent = stat.blocks_available() * 100 / stat.blocks().max(1);
    let place = root_dir.display();
    (percent < MIN_DISK_PERCENT)
        .then(|| format!("{percent} % of the disk of {place} is free, less than {MIN_DISK_PERCENT} %"))
}

fn pid_pressure() -> Option<String> {
    let load = std::fs::read_to_string("/proc/loadavg").ok()?;
    // The fourth field: runnable tasks, slash, all tasks.
    let tasks: u64 = load.split_whitespace().nth(3)?.split_once('/')?.1.parse().ok()?;
    let limit: u64 = std::fs::read_to_string("/proc/sys/kernel/pid_max").ok()?.trim().parse().ok()?;
    (tasks * 100 > limit * MAX_PIDS_PERCENT).then(|| format!("{tasks} of {limit} process ids are in use"))
}

/// A field of /proc/meminfo, KiB.
fn meminfo(field: &str) -> Option<u64> {
    let text = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find(|line| line.strip_prefix(field).is_some_and(|rest| rest.starts_with(':')))?;
    line.split_whitespace().nth(1)?.parse().ok()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn a_given_capacity_is_checked_and_completed() {
        let given = BTreeMap::from([("cpu".to_owned(), "500m".to_owned())]);
        let capacity = capacity(&given).unwrap();
        assert_eq!((capacity["cpu"].as_str(), capacity["pods"].as_str()), ("500m", "110"));
        assert!(capacity["memory"].ends_with("Ki"));
        for wrong in ["many", "-1"] {
            let given = BTreeMap::from([("cpu".to_owned(), wrong.to_owned())]);
            assert!(super::capacity(&given).unwrap_err().to_string().contains(&format!("cpu={wrong}")));
        }
    }
}
