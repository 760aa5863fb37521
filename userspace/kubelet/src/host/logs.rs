//! Limits of container logs: a file that has grown too long is moved aside, and only the newest few are kept.

use super::{Error, Host, failed};
use crate::runtime::PodKey;
use std::path::{Path, PathBuf};

/// Longest log file, bytes.
const MAX_LOG_BYTES: u64 = 10 << 20;
/// Files that are kept of one run beside the one being written.
const KEPT_LOGS: usize = 4;

impl Host {
    /// Moves the log of a running container aside when it is too long; the answer is whether it did, and the runtime
    /// must be told then. Names end in a number that grows.
    pub fn rotate_log(&self, pod: &PodKey, container: &str, attempt: u32) -> Result<bool, Error> {
        let path = self.log_directory(pod).join(container).join(format!("{attempt}.log"));
        if std::fs::metadata(&path).map_or(0, |meta| meta.len()) < MAX_LOG_BYTES {
            return Ok(false);
        }
        let mut older = rotated(&path);
        let next = older.last().map_or(1, |(number, _)| number + 1);
        let aside = path.with_extension(format!("log.{next}"));
        std::fs::rename(&path, &aside).map_err(failed("rename", &path))?;
        older.push((next, aside));
        let surplus = older.len().saturating_sub(KEPT_LOGS);
        for (_, file) in older.drain(..surplus) {
            std::fs::remove_file(&file).map_err(failed("remove", &file))?;
        }
        Ok(true)
    }
}

/// The files moved aside, oldest first.
fn rotated(path: &Path) -> Vec<(u64, PathBuf)> {
    let Some((directory, name)) = path.parent().zip(path.file_name().and_then(|name| name.to_str())) else {
        return Vec::new();
    };
    let prefix = format!("{name}.");
    let entries = std::fs::read_dir(directory).into_iter().flatten().flatten();
    let numbered = entries.filter_map(|entry| {
        let number = entry.file_name().to_str()?.strip_prefix(&prefix)?.parse().ok()?;
        Some((number, entry.path()))
    });
    let mut files: Vec<(u64, PathBuf)> = numbered.collect();
    files.sort();
    files
}
