//! What of ours is on this machine. Files are ours by their names in a directory of ours, or by what stands in them;
//! devices and routes by the marks that the agent gives them.

use std::fmt;
use std::fs::{self, File, TryLockError};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use diolkos_agent::overlay::netlink::{Link, Netlink};
use diolkos_agent::overlay::{ALIAS, our_routes, remove_routes};
use nix::mount::{MntFlags, umount2};

use super::ResetArgs;
use crate::units;

/// What the processes keep in the data directory.
const OWN: [&str; 13] = [
    "pki",
    "store.db",
    "store.db-wal",
    "store.db-shm",
    "store.db-journal",
    "store.db.lock",
    "admin.kubeconfig",
    "scheduler.kubeconfig",
    "controller-manager.kubeconfig",
    "kubelet.kubeconfig",
    "agent.kubeconfig",
    "kubelet",
    "agent",
];
/// Held while a control plane or an agent runs.
const LOCKS: [&str; 2] = ["store.db.lock", "agent/agent.lock"];
/// Stands in the plugin's binary.
const PLUGIN_MARK: &[u8] = b"diolkos CNI plugin";
const PLUGINS: [&str; 2] = ["diolkos-cni", "loopback"];
const CONFLIST: &str = "10-diolkos.conflist";

/// One thing to remove.
#[derive(Debug)]
pub(super) enum Thing {
    Unit(PathBuf),
    File(PathBuf),
    Directory(PathBuf),
    /// A directory in which nothing else is.
    Emptied(PathBuf),
    Mount(PathBuf),
    Device(Link),
    Routes(usize),
}

impl fmt::Display for Thing {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unit(path) => write!(formatter, "systemd unit {}", path.display()),
            Self::File(path) => write!(formatter, "file {}", path.display()),
            Self::Directory(path) => write!(formatter, "directory {} with all that is in it", path.display()),
            Self::Emptied(path) => write!(formatter, "directory {}", path.display()),
            Self::Mount(path) => write!(formatter, "mount at {}", path.display()),
            Self::Device(link) => write!(formatter, "network device {}", link.name),
            Self::Routes(count) => write!(formatter, "{count} routes of protocol 209"),
        }
    }
}

impl Thing {
    pub(super) fn is_unit(&self) -> bool {
        matches!(self, Self::Unit(_))
    }

    /// What is gone by then is no error.
    pub(super) async fn remove(&self) -> anyhow::Result<()> {
        let result = match self {
            Self::Unit(path) | Self::File(path) => fs::remove_file(path),
            Self::Directory(path) => fs::remove_dir_all(path),
            Self::Emptied(path) => fs::remove_dir(path),
            Self::Mount(path) => umount2(path, MntFlags::MNT_DETACH).map_err(std::io::Error::from),
            Self::Device(link) => return Ok(Netlink::open()?.delete_link(link).await?),
            Self::Routes(_) => return Ok(remove_routes(&Netlink::open()?).await?),
        };
        match result {
            Err(cause) if cause.kind() == std::io::ErrorKind::NotFound => Ok(()),
            other => Ok(other?),
        }
    }
}

/// Fails while a process of ours uses the data directory.
pub(super) fn nobody_runs(data_dir: &Path) -> anyhow::Result<()> {
    for name in LOCKS {
        let path = data_dir.join(name);
        let Ok(file) = File::open(&path) else { continue };
        if let Err(TryLockError::WouldBlock) = file.try_lock() {
            bail!(
                "{} is held: stop what runs on this machine first (systemctl stop diolkos diolkos-node)",
                path.display()
            );
        }
    }
    Ok(())
}

/// In the order in which things have to go.
pub(super) async fn find(args: &ResetArgs) -> anyhow::Result<Vec<Thing>> {
    let mut things = Vec::new();
    let units = [units::CONTROL_PLANE, units::NODE].map(|name| args.systemd_units.join(name));
    things.extend(units.into_iter().filter(|path| begins(path, units::HEAD)).map(Thing::Unit));
    let configs = args.config_files.iter().filter(|path| begins(path, "# Written by `diolkos "));
    for path in configs {
        things.push(Thing::File(path.clone()));
        // /etc/diolkos itself; a directory of another name was there before.
        let own = path.parent().filter(|parent| parent.ends_with("diolkos") && is_emptied(parent, &things));
        things.extend(own.map(|parent| Thing::Emptied(parent.to_owned())));
    }
    things.extend(plugins(args));
    things.extend(pins(args)?);
    if let Ok(netlink) = Netlink::open() {
        let links = netlink.links().await.context("cannot list the network devices")?;
        things.extend(links.into_iter().filter(is_ours).map(Thing::Device));
        let routes = our_routes(&netlink).await.context("cannot list the routes")?;
        things.extend((routes > 0).then_some(Thing::Routes(routes)));
    }
    things.extend(mounts(&args.data_dir.join("kubelet"))?.into_iter().map(Thing::Mount));
    let own = OWN.map(|name| args.data_dir.join(name));
    for path in own.into_iter().filter(|path| path.symlink_metadata().is_ok()) {
        things.push(if path.is_dir() { Thing::Directory(path) } else { Thing::File(path) });
    }
    things.extend(is_emptied(&args.data_dir, &things).then(|| Thing::Emptied(args.data_dir.clone())));
    things.extend(args.run_dir.is_dir().then(|| Thing::Directory(args.run_dir.clone())));
    Ok(things)
}

/// The overlay's device, and the hosts' ends of pods.
fn is_ours(link: &Link) -> bool {
    link.alias == ALIAS
}

/// Whether these things are all that is in a directory.
fn is_emptied(directory: &Path, things: &[Thing]) -> bool {
    let goes = |path: PathBuf| {
        things.iter().any(|thing| matches!(thing, Thing::File(own) | Thing::Directory(own) if *own == path))
    };
    fs::read_dir(directory).is_ok_and(|mut entries| entries.all(|entry| entry.is_ok_and(|entry| goes(entry.path()))))
}

fn begins(path: &Path, head: &str) -> bool {
    fs::read_to_string(path).is_ok_and(|text| text.starts_with(head))
}

/// The configuration goes before the plugin: a runtime that finds it calls the plugin.
fn plugins(args: &ResetArgs) -> Vec<Thing> {
    let conflist = args.cni_conf_dir.join(CONFLIST);
    let mut things: Vec<Thing> = conflist.is_file().then_some(Thing::File(conflist)).into_iter().collect();
    for path in PLUGINS.map(|name| args.cni_bin_dir.join(name)) {
        let marked = |bytes: Vec<u8>| bytes.windows(PLUGIN_MARK.len()).any(|window| window == PLUGIN_MARK);
        things.extend(fs::read(&path).is_ok_and(marked).then_some(Thing::File(path)));
    }
    things
}

fn pins(args: &ResetArgs) -> anyhow::Result<Vec<Thing>> {
    let directory = args.bpffs.join("diolkos");
    let mut things = Vec::new();
    let entries = match fs::read_dir(&directory) {
        Ok(entries) => entries,
        Err(cause) if cause.kind() == std::io::ErrorKind::NotFound => return Ok(things),
        Err(cause) => return Err(cause).with_context(|| format!("cannot list {}", directory.display())),
    };
    // A dot in the node's name is `_` in its directory.
    let wanted = args.node_name.as_ref().map(|name| name.replace('.', "_"));
    for entry in entries {
        let entry = entry?;
        if wanted.as_ref().is_none_or(|wanted| entry.file_name().to_str() == Some(wanted)) {
            things.push(Thing::Directory(entry.path()));
        }
    }
    things.extend(is_emptied(&directory, &things).then(|| Thing::Emptied(directory.clone())));
    Ok(things)
}

/// What is mounted below a directory, the innermost first.
fn mounts(directory: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let text = fs::read_to_string("/proc/self/mountinfo").context("cannot read the mounts")?;
    Ok(mounts_in(&text, directory))
}

fn mounts_in(mountinfo: &str, directory: &Path) -> Vec<PathBuf> {
    let points = mountinfo.lines().filter_map(|line| line.split(' ').nth(4)).map(|point| point.replace("\\040", " "));
    let mut below: Vec<PathBuf> = points.map(PathBuf::from).filter(|point| point.starts_with(directory)).collect();
    below.sort_by_key(|point| std::cmp::Reverse(point.components().count()));
    below
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mounts_go_from_the_inside_out_and_others_stay() {
        let text = "1 0 8:1 / / rw - ext4 a rw\n2 1 0:5 / /d/kubelet/pods/a rw - tmpfs t rw\n\
                    3 1 0:6 / /d/kubelet/pods/a/b\\040c rw - tmpfs t rw\n4 1 0:7 / /d/kubelets rw - tmpfs t rw\n";
        let found = mounts_in(text, Path::new("/d/kubelet"));
        assert_eq!(found, [PathBuf::from("/d/kubelet/pods/a/b c"), PathBuf::from("/d/kubelet/pods/a")]);
    }

    #[test]
    fn a_device_is_ours_by_its_alias_alone() {
        assert!(is_ours(&Link { name: "eth7".into(), alias: ALIAS.into(), ..Link::default() }));
        assert!(!is_ours(&Link { name: "diolkos_vxlan".into(), ..Link::default() }));
    }
}
