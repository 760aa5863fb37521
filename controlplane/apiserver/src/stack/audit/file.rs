//! The file of the audit log. A thread of its own writes, so that no request waits for a disk; what finds the queue full
//! or cannot be written is counted.

use std::fs::{File, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};

use anyhow::Context as _;

use crate::metrics::Metrics;

/// Lines that may wait for the disk.
const QUEUE: usize = 10_000;

/// Where the log is, and how large it gets.
#[derive(Clone, Debug)]
pub struct AuditOptions {
    pub path: PathBuf,
    /// A file that would grow beyond this is renamed and begun anew, in bytes.
    pub max_bytes: u64,
    /// Renamed files that are kept: `audit.log.1` is the newest.
    pub max_backups: usize,
}

/// Takes lines for the file.
#[derive(Clone)]
pub(super) struct Sender {
    lines: SyncSender<String>,
    metrics: Metrics,
}

impl Sender {
    pub(super) fn send(&self, line: String) {
        match self.lines.try_send(line) {
            Ok(()) => {}
            Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) => self.metrics.audit_lost(),
        }
    }
}

pub(super) fn open(options: AuditOptions, metrics: Metrics) -> anyhow::Result<Sender> {
    let log = Log::open(options)?;
    let (sender, receiver) = sync_channel(QUEUE);
    let own = metrics.clone();
    std::thread::Builder::new().name("audit".into()).spawn(move || write(log, &receiver, &own))?;
    Ok(Sender { lines: sender, metrics })
}

fn write(mut log: Log, lines: &Receiver<String>, metrics: &Metrics) {
    while let Ok(line) = lines.recv() {
        if let Err(cause) = log.write(&line) {
            metrics.audit_lost();
            tracing::error!(path = %log.options.path.display(), %cause, "cannot write the audit log");
        }
    }
}

struct Log {
    options: AuditOptions,
    file: File,
    bytes: u64,
}

impl Log {
    fn open(options: AuditOptions) -> anyhow::Result<Log> {
        let file =
            append(&options.path).with_context(|| format!("cannot open the audit log {}", options.path.display()))?;
        let bytes = file.metadata()?.len();
        Ok(Log { options, file, bytes })
    }

    fn write(&mut self, line: &str) -> std::io::Result<()> {
        let length = line.len() as u64 + 1;
        if self.bytes > 0 && self.bytes + length > self.options.max_bytes {
            self.rotate()?;
        }
        self.file.write_all(format!("{line}\n").as_bytes())?;
        self.bytes += length;
        Ok(())
    }

    /// Each file moves up by one, the oldest goes.
    fn rotate(&mut self) -> std::io::Result<()> {
        let name = |number: usize| match number {
            0 => self.options.path.clone(),
            number => {
                let mut name = self.options.path.clone().into_os_string();
                name.push(format!(".{number}"));
                PathBuf::from(name)
            }
        };
        if self.options.max_backups == 0 {
            std::fs::remove_file(name(0))?;
        }
        for number in (0..self.options.max_backups).rev() {
            match std::fs::rename(name(number), name(number + 1)) {
                Err(cause) if cause.kind() != std::io::ErrorKind::NotFound => return Err(cause),
                _ => {}
            }
        }
        self.file = append(&self.options.path)?;
        self.bytes = 0;
        Ok(())
    }
}

fn append(path: &Path) -> std::io::Result<File> {
    OpenOptions::new().create(true).append(true).mode(0o600).open(path)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn a_full_file_is_renamed_and_the_oldest_one_goes() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("audit.log");
        let mut log = Log::open(AuditOptions { path: path.clone(), max_bytes: 20, max_backups: 2 }).unwrap();
        for number in 0..10 {
            log.write(&format!("line {number}")).unwrap();
        }
        let text = |name: &str| std::fs::read_to_string(dir.path().join(name)).unwrap();
        assert_eq!(text("audit.log"), "line 8\nline 9\n");
        assert_eq!(text("audit.log.1"), "line 6\nline 7\n");
        assert_eq!(text("audit.log.2"), "line 4\nline 5\n");
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 3);
        // A new process goes on where the old one ended.
        let mut log = Log::open(AuditOptions { path, max_bytes: 20, max_backups: 0 }).unwrap();
        log.write("line 10").unwrap();
        assert_eq!(text("audit.log"), "line 10\n");
    }
}
