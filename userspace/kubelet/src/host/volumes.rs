//! Volumes on disk.

use super::{Error, Host, failed, make_directory};
use crate::desired::{ConfigFile, Volume, VolumeSource};
use crate::runtime::PodKey;
use k8s_openapi::api::core::v1::ConfigMap;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use std::collections::BTreeMap;
use std::io;
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

/// Files of a ConfigMap or projected volume by their path in it: content and mode.
pub type ConfigMapFiles = BTreeMap<String, (Vec<u8>, u32)>;

impl Host {
    /// Where a volume is on the host.
    pub fn volume_path(&self, pod: &PodKey, volume: &Volume) -> PathBuf {
        match &volume.source {
            VolumeSource::HostPath { path, .. } => PathBuf::from(path),
            _ => self.pod_dir(&pod.uid).join("volumes").join(&volume.name),
        }
    }

    /// Makes a volume ready, again and again with the same result. `files` is the content of a ConfigMap or projected volume.
    pub fn prepare_volume(&self, pod: &PodKey, volume: &Volume, files: &ConfigMapFiles) -> Result<(), Error> {
        let path = self.volume_path(pod, volume);
        match &volume.source {
            VolumeSource::EmptyDir { memory, limit_bytes } => empty_dir(&path, *memory, *limit_bytes),
            VolumeSource::ConfigMap { .. } | VolumeSource::Projected { .. } => write_files(&path, files),
            VolumeSource::HostPath { path, kind } => host_path(path, kind),
            VolumeSource::Unsupported => Err(Error::Config(format!("volume {} is not supported", volume.name))),
        }
    }

    /// A file of a volume that was written before, and since when it is there; `None` when it is not.
    pub fn volume_file(&self, pod: &PodKey, volume: &Volume, path: &str) -> Option<(Vec<u8>, SystemTime)> {
        let file = self.volume_path(pod, volume).join(path);
        let written = std::fs::metadata(&file).and_then(|meta| meta.modified()).ok()?;
        Some((std::fs::read(&file).ok()?, written))
    }

    /// The path of a part of a volume, links followed; a part that lies outside of the volume is refused. A directory
    /// that is not there is made.
    pub fn resolve_sub_path(&self, volume: &Path, sub_path: &str) -> Result<PathBuf, Error> {
        if sub_path.is_empty() {
            return Ok(volume.to_owned());
        }
        let path = volume.join(sub_path);
        let real = |path: &Path| path.canonicalize().map_err(failed("resolve", path));
        let root = real(volume)?;
        // The deepest part that exists is checked before anything is made below it.
        let existing = path.ancestors().find(|part| part.exists()).unwrap_or(volume);
        if !real(existing)?.starts_with(&root) {
            return Err(Error::Config(format!("subPath {sub_path:?} leaves its volume through a link")));
        }
        if !path.exists() {
            make_directory(&path)?;
        }
        real(&path)
    }
}

/// The files of a ConfigMap volume: all keys, or those that `items` names.
pub fn config_map_files(
    map: Option<&ConfigMap>,
    name: &str,
    optional: bool,
    items: &[ConfigFile],
    mode: u32,
) -> Result<ConfigMapFiles, Error> {
    let Some(map) = map else {
        let message = format!("configmap {name:?} not found");
        return if optional { Ok(ConfigMapFiles::new()) } else { Err(Error::Config(message)) };
    };
    let text = map.data.iter().flatten().map(|(key, value)| (key.clone(), value.clone().into_bytes()));
    let binary = map.binary_data.iter().flatten().map(|(key, value)| (key.clone(), value.0.clone()));
    let mut content: BTreeMap<String, Vec<u8>> = text.chain(binary).collect();
    if items.is_empty() {
        return Ok(content.into_iter().map(|(key, bytes)| (key, (bytes, mode))).collect());
    }
    let mut files = ConfigMapFiles::new();
    for item in items {
        match content.remove(&item.key) {
            Some(bytes) => drop(files.insert(item.path.clone(), (bytes, item.mode.unwrap_or(mode)))),
            None if optional => {}
            None => return Err(Error::Config(format!("configmap {name:?} has no key {:?}", item.key))),
        }
    }
    Ok(files)
}

/// Unmounts the tmpfs volumes below a pod's volume directory.
pub(super) fn unmount_all(volumes: &Path) -> Result<(), Error> {
    for name in super::names(volumes).collect::<Vec<_>>() {
        let path = volumes.join(name);
        if is_mount_point(&path) {
            umount2(&path, MntFlags::MNT_DETACH).map_err(|errno| failed("unmount", &path)(errno.into()))?;
        }
    }
    Ok(())
}

fn empty_dir(path: &Path, memory: bool, limit_bytes: i64) -> Result<(), Error> {
    make_directory(path)?;
    if memory && !is_mount_point(path) {
        let options = if limit_bytes > 0 { format!("size={limit_bytes},mode=0777") } else { "mode=0777".to_owned() };
        let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
        mount(Some("tmpfs"), path, Some("tmpfs"), flags, Some(options.as_str()))
            .map_err(|errno| failed("mount tmpfs on", path)(errno.into()))?;
    }
    // Any user of any container may write, as in Kubernetes.
    std::fs::set_permissions(path, PermissionsExt::from_mode(0o777)).map_err(failed("open to all", path))
}

fn is_mount_point(path: &Path) -> bool {
    use std::os::unix::fs::MetadataExt;
    let device = |path: &Path| std::fs::metadata(path).map(|meta| meta.dev()).ok();
    path.parent().and_then(device) != device(path)
}

fn host_path(path: &str, kind: &str) -> Result<(), Error> {
    let wrong = |message: &str| Error::HostPath { path: path.to_owned(), message: message.to_owned() };
    let found = std::fs::metadata(path).ok();
    match (kind, found) {
        ("", None) | ("DirectoryOrCreate", None) => make_directory(Path::new(path)),
        ("", Some(_)) => Ok(()),
        ("FileOrCreate", None) => std::fs::write(path, "").map_err(failed("create", Path::new(path))),
        (_, None) => Err(wrong("does not exist")),
        ("Directory" | "DirectoryOrCreate", Some(meta)) if !meta.is_dir() => Err(wrong("is not a directory")),
        ("File" | "FileOrCreate", Some(meta)) if !meta.is_file() => Err(wrong("is not a file")),
        ("Socket", Some(meta)) if !meta.file_type().is_socket() => Err(wrong("is not a socket")),
        ("CharDevice", Some(meta)) if !meta.file_type().is_char_device() => Err(wrong("is not a character device")),
        ("BlockDevice", Some(meta)) if !meta.file_type().is_block_device() => Err(wrong("is not a block device")),
        (_, Some(_)) => Ok(()),
    }
}

/// Writes the files in a new directory and turns the link `..data` to it in one step: a reader sees all files old or
/// all files new. Each file is a link through `..data`; one that stays as it was keeps its time.
fn write_files(volume: &Path, files: &ConfigMapFiles) -> Result<(), Error> {
    make_directory(volume)?;
    let data = volume.join("..data");
    let old = std::fs::read_link(&data).ok();
    if old.as_ref().is_some_and(|old| same_files(&volume.join(old), files)) {
        return Ok(());
    }
    let number: u64 = old.as_ref().and_then(|old| old.to_str()?.strip_prefix("..v")?.parse().ok()).unwrap_or(0);
    let version = format!("..v{}", number + 1);
    let fresh = volume.join(&version);
    super::remove_directory(&fresh)?;
    std::fs::DirBuilder::new().mode(0o755).create(&fresh).map_err(failed("create directory", &fresh))?;
    for (path, (bytes, mode)) in files {
        let file = fresh.join(path);
        file.parent().map_or(Ok(()), make_directory)?;
        std::fs::write(&file, bytes).map_err(failed("write", &file))?;
        std::fs::set_permissions(&file, PermissionsExt::from_mode(*mode)).map_err(failed("set the mode of", &file))?;
        if let Some(old) = &old {
            keep_time(&volume.join(old).join(path), &file, bytes).map_err(failed("set the time of", &file))?;
        }
    }
    let next = volume.join("..data_next");
    let _ = std::fs::remove_file(&next);
    symlink(&version, &next).map_err(failed("link", &next))?;
    std::fs::rename(&next, &data).map_err(failed("rename", &next))?;
    link_entries(volume, files)?;
    old.map_or(Ok(()), |old| super::remove_directory(&volume.join(old)))
}

/// The first parts of the paths are links to `..data/<part>`; links of files that went are removed.
fn link_entries(volume: &Path, files: &ConfigMapFiles) -> Result<(), Error> {
    let wanted: Vec<&str> = files.keys().filter_map(|path| path.split('/').next()).collect();
    for entry in std::fs::read_dir(volume).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let name = name.to_string_lossy();
        if !name.starts_with("..") && !wanted.contains(&name.as_ref()) {
            std::fs::remove_file(entry.path()).map_err(failed("remove", &entry.path()))?;
        }
    }
    for part in wanted {
        let link = volume.join(part);
        match symlink(Path::new("..data").join(part), &link) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(failed("link", &link)(error)),
            _ => {}
        }
    }
    Ok(())
}

fn keep_time(old: &Path, new: &Path, bytes: &[u8]) -> io::Result<()> {
    match (std::fs::read(old), std::fs::metadata(old).and_then(|meta| meta.modified())) {
        (Ok(before), Ok(written)) if before == bytes => {
            std::fs::File::options().write(true).open(new)?.set_modified(written)
        }
        _ => Ok(()),
    }
}

fn same_files(directory: &Path, files: &ConfigMapFiles) -> bool {
    let mut found = BTreeMap::new();
    collect(directory, "", &mut found);
    found.len() == files.len() && found.iter().all(|(path, bytes)| files.get(path).is_some_and(|(b, _)| b == bytes))
}

fn collect(directory: &Path, prefix: &str, found: &mut BTreeMap<String, Vec<u8>>) {
    for entry in std::fs::read_dir(directory).into_iter().flatten().flatten() {
        let name = format!("{prefix}{}", entry.file_name().to_string_lossy());
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            collect(&entry.path(), &format!("{name}/"), found);
        } else {
            found.insert(name, std::fs::read(entry.path()).unwrap_or_default());
        }
    }
}
