//! Volumes that this kubelet can make.

use k8s_openapi::api::core::v1 as core;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Volume {
    pub name: String,
    pub source: VolumeSource,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum VolumeSource {
    /// On disk, or in memory (tmpfs) up to `limit_bytes` (0: half of the machine's memory).
    EmptyDir {
        memory: bool,
        limit_bytes: i64,
    },
    ConfigMap {
        name: String,
        optional: bool,
        items: Vec<ConfigFile>,
        mode: u32,
    },
    HostPath {
        path: String,
        kind: String,
    },
    /// Refused as a whole; the pod never starts.
    Unsupported,
}

/// One key of a ConfigMap at a path of its own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigFile {
    pub key: String,
    pub path: String,
    pub mode: Option<u32>,
}

/// Mode of files that do not say.
const DEFAULT_MODE: u32 = 0o644;

pub(super) fn read(volume: &core::Volume, problems: &mut Vec<String>) -> Volume {
    let source = if let Some(dir) = &volume.empty_dir {
        let limit = dir.size_limit.as_ref().and_then(|limit| super::container::units(&limit.0));
        VolumeSource::EmptyDir { memory: dir.medium.as_deref() == Some("Memory"), limit_bytes: limit.unwrap_or(0) }
    } else if let Some(map) = &volume.config_map {
        config_map(&volume.name, map, problems)
    } else if let Some(path) = &volume.host_path {
        if !path.path.starts_with('/') {
            problems.push(format!("volume {}: hostPath {:?} is not absolute", volume.name, path.path));
        }
        VolumeSource::HostPath { path: path.path.clone(), kind: path.type_.clone().unwrap_or_default() }
    } else {
        problems.push(format!(
            "volume {}: only emptyDir, configMap and hostPath volumes are supported by this kubelet",
            volume.name
        ));
        VolumeSource::Unsupported
    };
    Volume { name: volume.name.clone(), source }
}

fn config_map(volume: &str, map: &core::ConfigMapVolumeSource, problems: &mut Vec<String>) -> VolumeSource {
    let mode = |mode: Option<i32>| mode.map(|mode| mode.unsigned_abs() & 0o777);
    let items = map.items.iter().flatten();
    let items: Vec<ConfigFile> = items
        .map(|item| ConfigFile { key: item.key.clone(), path: item.path.clone(), mode: mode(item.mode) })
        .collect();
    for item in items.iter().filter(|item| !stays_inside(&item.path)) {
        problems.push(format!("volume {volume}: the path {:?} leaves the volume", item.path));
    }
    VolumeSource::ConfigMap {
        name: map.name.clone(),
        optional: map.optional.unwrap_or(false),
        items,
        mode: mode(map.default_mode).unwrap_or(DEFAULT_MODE),
    }
}

fn stays_inside(path: &str) -> bool {
    !path.is_empty() && !path.starts_with('/') && !path.split('/').any(|part| part == ".." || part.is_empty())
}
