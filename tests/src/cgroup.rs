//! Cgroups of a cluster in every mounted hierarchy, v1 and v2.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

/// The mounted hierarchies, from mountinfo.
#[derive(Clone, Debug)]
pub struct Hierarchies {
    /// Where cgroup2 is mounted: sockets and the programs attached to them belong to this one.
    pub unified: PathBuf,
    /// v1 controllers.
    pub controllers: Vec<PathBuf>,
}

impl Hierarchies {
    pub fn find() -> Result<Self> {
        let text = fs::read_to_string("/proc/self/mountinfo").context("cannot read /proc/self/mountinfo")?;
        let of_type = |wanted: &str| -> Vec<PathBuf> {
            text.lines().filter_map(parse).filter(|(_, kind)| *kind == wanted).map(|(path, _)| path.into()).collect()
        };
        let unified = of_type("cgroup2").into_iter().next();
        let unified = unified.context("no cgroup2 hierarchy is mounted: mount one at /sys/fs/cgroup/unified")?;
        Ok(Self { unified, controllers: of_type("cgroup") })
    }

    /// That directory in each hierarchy, whether it exists or not.
    pub fn directories(&self, name: &str) -> Vec<PathBuf> {
        self.controllers.iter().chain([&self.unified]).map(|mount| mount.join(name)).collect()
    }

    /// Names at the top of the hierarchies that start with `prefix`.
    pub fn names(&self, prefix: &str) -> Vec<String> {
        let entries = self.directories("").into_iter().filter_map(|mount| fs::read_dir(mount).ok()).flatten().flatten();
        let mut names: Vec<String> = entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
        names.retain(|name| name.starts_with(prefix));
        names.sort();
        names.dedup();
        names
    }
}

/// Mount point and file system type of a line of mountinfo.
fn parse(line: &str) -> Option<(&str, &str)> {
    let (left, right) = line.split_once(" - ")?;
    Some((left.split(' ').nth(4)?, right.split(' ').next()?))
}

/// Removes an empty tree of cgroups, leaves first. What is still in use stays.
pub fn remove(directory: &Path) {
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        if entry.path().is_dir() {
            remove(&entry.path());
        }
    }
    // A leaf with a process in it is refused with EBUSY; the caller looks again.
    let _ = fs::remove_dir(directory);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mountinfo_lines_give_mount_point_and_type() {
        let line = "34 24 0:29 / /sys/fs/cgroup/unified rw,relatime shared:9 - cgroup2 cgroup2 rw,nsdelegate";
        assert_eq!(parse(line), Some(("/sys/fs/cgroup/unified", "cgroup2")));
        assert_eq!(parse("nonsense"), None);
    }
}
