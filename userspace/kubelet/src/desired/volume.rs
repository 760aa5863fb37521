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
    /// Files of several sources in one directory.
    Projected {
        sources: Vec<Projection>,
        mode: u32,
    },
    /// Refused as a whole; the pod never starts.
    Unsupported,
}

/// A source of a projected volume.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Projection {
    ConfigMap {
        name: String,
        optional: bool,
        items: Vec<ConfigFile>,
    },
    /// A token of the pod's service account; without an audience for the apiserver.
    Token {
        audience: Option<String>,
        seconds: i64,
        path: String,
    },
    /// A file with a field of the pod.
    Field {
        path: String,
        text: String,
        mode: Option<u32>,
    },
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
/// How long a token is valid that does not say, seconds.
const TOKEN_SECONDS: i64 = 3600;

pub(super) fn read(pod: &core::Pod, volume: &core::Volume, problems: &mut Vec<String>) -> Volume {
    let source = if let Some(dir) = &volume.empty_dir {
        let limit = dir.size_limit.as_ref().and_then(|limit| super::container::units(&limit.0));
        VolumeSource::EmptyDir { memory: dir.medium.as_deref() == Some("Memory"), limit_bytes: limit.unwrap_or(0) }
    } else if let Some(map) = &volume.config_map {
        config_map(&volume.name, map, problems)
    } else if let Some(projected) = &volume.projected {
        project(pod, &volume.name, projected, problems)
    } else if let Some(path) = &volume.host_path {
        if !path.path.starts_with('/') {
            problems.push(format!("volume {}: hostPath {:?} is not absolute", volume.name, path.path));
        }
        VolumeSource::HostPath { path: path.path.clone(), kind: path.type_.clone().unwrap_or_default() }
    } else {
        problems.push(format!(
            "volume {}: only emptyDir, configMap, hostPath and projected volumes are supported by this kubelet",
            volume.name
        ));
        VolumeSource::Unsupported
    };
    Volume { name: volume.name.clone(), source }
}

fn config_map(volume: &str, map: &core::ConfigMapVolumeSource, problems: &mut Vec<String>) -> VolumeSource {
    VolumeSource::ConfigMap {
        name: map.name.clone(),
        optional: map.optional.unwrap_or(false),
        items: files(volume, map.items.as_deref(), problems),
        mode: mode(map.default_mode).unwrap_or(DEFAULT_MODE),
    }
}

fn files(volume: &str, items: Option<&[core::KeyToPath]>, problems: &mut Vec<String>) -> Vec<ConfigFile> {
    let items = items.unwrap_or_default().iter();
    let files: Vec<ConfigFile> = items
        .map(|item| ConfigFile { key: item.key.clone(), path: item.path.clone(), mode: mode(item.mode) })
        .collect();
    files.iter().for_each(|file| check_path(volume, &file.path, problems));
    files
}

fn mode(mode: Option<i32>) -> Option<u32> {
    mode.map(|mode| mode.unsigned_abs() & 0o777)
}

fn project(
    pod: &core::Pod,
    volume: &str,
    projected: &core::ProjectedVolumeSource,
    problems: &mut Vec<String>,
) -> VolumeSource {
    let mut sources = Vec::new();
    for source in projected.sources.iter().flatten() {
        if let Some(token) = &source.service_account_token {
            check_path(volume, &token.path, problems);
            sources.push(Projection::Token {
                audience: token.audience.clone().filter(|audience| !audience.is_empty()),
                seconds: token.expiration_seconds.unwrap_or(TOKEN_SECONDS),
                path: token.path.clone(),
            });
        } else if let Some(map) = &source.config_map {
            sources.push(Projection::ConfigMap {
                name: map.name.clone(),
                optional: map.optional.unwrap_or(false),
                items: files(volume, map.items.as_deref(), problems),
            });
        } else if let Some(api) = &source.downward_api {
            for item in api.items.iter().flatten() {
                check_path(volume, &item.path, problems);
                let field = item.field_ref.as_ref().map(|field| field.field_path.as_str()).unwrap_or_default();
                match field_of(pod, field) {
                    Some(text) => {
                        sources.push(Projection::Field { path: item.path.clone(), text, mode: mode(item.mode) });
                    }
                    None => problems.push(format!("volume {volume}: the field {field:?} is not supported in volumes")),
                }
            }
        } else {
            problems.push(format!(
                "volume {volume}: only serviceAccountToken, configMap and downwardAPI are supported in projected volumes"
            ));
        }
    }
    VolumeSource::Projected { sources, mode: mode(projected.default_mode).unwrap_or(DEFAULT_MODE) }
}

/// Fields of a pod that do not change while it runs.
fn field_of(pod: &core::Pod, path: &str) -> Option<String> {
    let meta = &pod.metadata;
    match path {
        "metadata.name" => meta.name.clone(),
        "metadata.namespace" => meta.namespace.clone(),
        "metadata.uid" => meta.uid.clone(),
        _ => None,
    }
}

fn check_path(volume: &str, path: &str, problems: &mut Vec<String>) {
    if !stays_inside(path) {
        problems.push(format!("volume {volume}: the path {path:?} leaves the volume"));
    }
}

fn stays_inside(path: &str) -> bool {
    !path.is_empty() && !path.starts_with('/') && !path.split('/').any(|part| part == ".." || part.is_empty())
}
