//! Cgroups of pods, in every hierarchy: the runtime makes them and leaves the pod's own behind.

use super::{Error, failed};
use std::io;
use std::path::{Path, PathBuf};

/// Mount points of all cgroup hierarchies (v1 controllers and v2) that this process sees.
pub fn hierarchies() -> Result<Vec<PathBuf>, Error> {
    let path = Path::new("/proc/self/mountinfo");
    let text = std::fs::read_to_string(path).map_err(failed("read", path))?;
    Ok(parse_mountinfo(&text))
}

/// Format: proc(5), `/proc/pid/mountinfo`: the mount point is the fifth field, the type follows " - ".
pub(super) fn parse_mountinfo(text: &str) -> Vec<PathBuf> {
    let mut points: Vec<PathBuf> = Vec::new();
    for line in text.lines() {
        let Some((fields, rest)) = line.split_once(" - ") else { continue };
        let is_cgroup = matches!(rest.split(' ').next(), Some("cgroup" | "cgroup2"));
        if let Some(point) = fields.split(' ').nth(4).filter(|_| is_cgroup) {
            let point = PathBuf::from(point.replace("\\040", " "));
            if !points.contains(&point) {
                points.push(point);
            }
        }
    }
    points
}

/// Removes a cgroup with the groups below it, deepest first. It must have no processes left.
pub(super) fn remove(group: &Path) -> Result<(), Error> {
    for name in super::names(group).collect::<Vec<_>>() {
        remove(&group.join(name))?;
    }
    match std::fs::remove_dir(group) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(failed("remove cgroup", group)(error)),
        _ => Ok(()),
    }
}
