//! What the kubelet keeps on the node's disk and in its cgroups for each pod:
//!
//! ```text
//! <root_dir>/pods/<uid>/volumes/<volume>/      emptyDir and configMap volumes
//! <root_dir>/pods/<uid>/etc-hosts              /etc/hosts of all containers of the pod
//! <log_dir>/<namespace>_<name>_<uid>/<container>/<attempt>.log
//! <each cgroup hierarchy><cgroup_root>/pod<uid>/
//! ```

mod cgroups;
mod logs;
mod volumes;

use crate::runtime::{Dns, PodKey};
use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};

pub use cgroups::hierarchies;
pub use volumes::{ConfigMapFiles, config_map_files};

/// The node's directories and cgroups.
#[derive(Clone, Debug)]
pub struct Host {
    root_dir: PathBuf,
    log_dir: PathBuf,
    /// Cgroup path of all pods, below the root of each hierarchy.
    cgroup_root: String,
    /// Mount points of the cgroup hierarchies.
    hierarchies: Vec<PathBuf>,
}

/// An operation on the disk that failed, and where.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("{operation} {path}: {source}")]
    Io { operation: &'static str, path: PathBuf, source: io::Error },
    #[error("hostPath {path}: {message}")]
    HostPath { path: String, message: String },
    #[error("{0}")]
    Config(String),
}

impl Host {
    pub fn new(root_dir: PathBuf, log_dir: PathBuf, cgroup_root: &str, hierarchies: Vec<PathBuf>) -> Host {
        let cgroup_root = format!("/{}", cgroup_root.trim_matches('/'));
        Host { root_dir, log_dir, cgroup_root, hierarchies }
    }

    /// Makes the directories that every pod needs below.
    pub fn prepare(&self) -> Result<(), Error> {
        make_directory(&self.root_dir.join("pods"))?;
        make_directory(&self.log_dir)
    }

    /// Uids of the pods that have a directory or a cgroup here.
    pub fn leftovers(&self) -> BTreeSet<String> {
        let mut uids: BTreeSet<String> = names(&self.root_dir.join("pods")).collect();
        for hierarchy in &self.hierarchies {
            let groups = names(&join(hierarchy, &self.cgroup_root));
            uids.extend(groups.filter_map(|name| name.strip_prefix("pod").map(str::to_owned)));
        }
        uids
    }

    /// The cgroup that holds the containers of a pod.
    pub fn cgroup_parent(&self, uid: &str) -> String {
        format!("{}/pod{uid}", self.cgroup_root.trim_end_matches('/'))
    }

    pub fn pod_dir(&self, uid: &str) -> PathBuf {
        self.root_dir.join("pods").join(uid)
    }

    /// Directory of the logs of a pod.
    pub fn log_directory(&self, pod: &PodKey) -> PathBuf {
        self.log_dir.join(format!("{}_{}_{}", pod.namespace, pod.name, pod.uid))
    }

    /// Makes the log directory of a container; the answer is the log's path relative to the pod's log directory.
    pub fn prepare_log(&self, pod: &PodKey, container: &str, attempt: u32) -> Result<String, Error> {
        make_directory(&self.log_directory(pod).join(container))?;
        Ok(format!("{container}/{attempt}.log"))
    }

    /// Writes /etc/hosts of a pod; the answer is its path.
    pub fn write_hosts(&self, uid: &str, text: &str) -> Result<PathBuf, Error> {
        let path = self.pod_dir(uid).join("etc-hosts");
        make_directory(&self.pod_dir(uid))?;
        std::fs::write(&path, text).map_err(failed("write", &path))?;
        Ok(path)
    }

    /// Removes all that a pod has here, logs included. Succeeds when nothing is there.
    pub fn clean(&self, pod: &PodKey) -> Result<(), Error> {
        let dir = self.pod_dir(&pod.uid);
        volumes::unmount_all(&dir.join("volumes"))?;
        remove_directory(&dir)?;
        if pod.name.is_empty() {
            // Of a pod known only by its directory, the uid finds the logs.
            let suffix = format!("_{}", pod.uid);
            for name in names(&self.log_dir).filter(|name| name.ends_with(&suffix)) {
                remove_directory(&self.log_dir.join(name))?;
            }
        } else {
            remove_directory(&self.log_directory(pod))?;
        }
        let parent = self.cgroup_parent(&pod.uid);
        self.hierarchies.iter().try_for_each(|hierarchy| cgroups::remove(&join(hierarchy, &parent)))
    }
}

/// Name servers, search domains and options of a resolv.conf.
pub fn parse_resolv_conf(text: &str) -> Dns {
    let mut dns = Dns::default();
    for line in text.lines() {
        let line = line.split(['#', ';']).next().unwrap_or_default();
        let mut words = line.split_whitespace().map(str::to_owned);
        match words.next().as_deref() {
            Some("nameserver") => dns.servers.extend(words.next()),
            // The last search line counts.
            Some("search" | "domain") => dns.searches = words.collect(),
            Some("options") => dns.options = words.collect(),
            _ => {}
        }
    }
    // The C library reads three name servers at most.
    dns.servers.truncate(3);
    dns
}

fn names(directory: &Path) -> impl Iterator<Item = String> + use<> {
    let entries = std::fs::read_dir(directory).into_iter().flatten().flatten();
    entries
        .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
        .filter_map(|e| e.file_name().into_string().ok())
}

fn join(hierarchy: &Path, cgroup: &str) -> PathBuf {
    hierarchy.join(cgroup.trim_start_matches('/'))
}

fn make_directory(path: &Path) -> Result<(), Error> {
    std::fs::create_dir_all(path).map_err(failed("create directory", path))
}

fn remove_directory(path: &Path) -> Result<(), Error> {
    match std::fs::remove_dir_all(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(failed("remove directory", path)(error)),
        _ => Ok(()),
    }
}

fn failed(operation: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Error {
    let path = path.to_owned();
    move |source| Error::Io { operation, path, source }
}

#[cfg(test)]
mod tests;
