//! What makes sure that nothing of a cluster stays behind.
//!
//! The servers of a cluster run in one process namespace whose first process is told by the kernel to
//! die with us; with it go all processes, and with them the mounts, network namespaces and devices,
//! which nothing else holds. Directories and cgroups are left, and the reaper removes those: a process
//! of its own session that waits for the end of a pipe whose other end only we hold. A drop, a panic,
//! Ctrl-C and SIGKILL are therefore the same to it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};

use crate::cgroup::{self, Hierarchies};
use crate::eventually;

/// What names of directories and cgroups start with: PREFIX, our process id, a number.
const PREFIX: &str = "diolkos-";
/// Removing containers' cgroups waits for their last process to be gone.
const REAPING: Duration = Duration::from_secs(30);

/// Waits for the pipe's end, then removes: $1 is the directory, the rest are cgroups.
const REAPER: &str = r#"trap '' INT TERM HUP QUIT
cat > /dev/null
directory=$1; shift
for attempt in $(seq 200); do
    left=
    for group in "$@"; do
        [ -d "$group" ] && find "$group" -depth -type d -exec rmdir {} + 2> /dev/null
        [ -d "$group" ] && left=yes
    done
    [ -z "$left" ] && rm -rf --one-file-system "$directory" 2> /dev/null && [ ! -e "$directory" ] && exit 0
    sleep 0.1
done
exit 1"#;

/// A cluster's name, its directory and cgroups; all are gone after the drop.
pub struct Guard {
    name: String,
    directory: PathBuf,
    hierarchies: Hierarchies,
    reaper: Child,
    pipe: Option<ChildStdin>,
}

impl Guard {
    /// Cleans up after runs that were killed with their reaper, then makes directory and cgroups.
    pub fn new() -> Result<Self> {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        ensure!(nix::unistd::geteuid().is_root(), "the cluster harness makes namespaces: run it as root");
        let hierarchies = Hierarchies::find()?;
        remove_stale(&hierarchies);
        let name = format!("{PREFIX}{}-{}", std::process::id(), NUMBER.fetch_add(1, Ordering::Relaxed));
        let directory = std::env::temp_dir().join(&name);
        let (reaper, pipe) = spawn_reaper(&directory, &hierarchies.directories(&name))?;
        let guard = Self { name, directory, hierarchies, reaper, pipe: Some(pipe) };
        fs::create_dir_all(guard.directory.join("log"))
            .with_context(|| format!("cannot create {}", guard.directory.display()))?;
        guard.make_cgroup("")?;
        Ok(guard)
    }

    /// Unique on this machine.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// For files of the cluster.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// A cgroup below the cluster's in the unified hierarchy, created when missing.
    pub fn make_cgroup(&self, below: &str) -> Result<PathBuf> {
        let path = self.hierarchies.unified.join(&self.name).join(below);
        fs::create_dir_all(&path).with_context(|| format!("cannot create the cgroup {}", path.display()))?;
        Ok(path)
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        drop(self.pipe.take());
        let ended = eventually("the reaper", REAPING, || {
            self.reaper.try_wait()?.filter(|status| status.success()).context("it still removes cgroups")
        });
        if let Err(error) = ended {
            eprintln!("left behind: {} and cgroups {}: {error:#}", self.directory.display(), self.name);
        }
    }
}

fn spawn_reaper(directory: &Path, cgroups: &[PathBuf]) -> Result<(Child, ChildStdin)> {
    let mut reaper = Command::new("setsid")
        .args(["sh", "-c", REAPER, "diolkos-reaper"])
        .arg(directory)
        .args(cgroups)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .context("cannot start the reaper by setsid")?;
    let pipe = reaper.stdin.take().context("the reaper has no pipe")?;
    Ok((reaper, pipe))
}

/// Removes what names a process that is gone.
fn remove_stale(hierarchies: &Hierarchies) {
    for name in hierarchies.names(PREFIX).iter().filter(|name| is_stale(name)) {
        hierarchies.directories(name).iter().for_each(|directory| cgroup::remove(directory));
    }
    for entry in fs::read_dir(std::env::temp_dir()).into_iter().flatten().flatten() {
        if is_stale(&entry.file_name().to_string_lossy()) {
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}

fn is_stale(name: &str) -> bool {
    let mut parts = name.strip_prefix(PREFIX).unwrap_or_default().split('-').map(str::parse::<u32>);
    match (parts.next(), parts.next(), parts.next()) {
        (Some(Ok(pid)), Some(Ok(_)), None) => !Path::new(&format!("/proc/{pid}")).exists(),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_of_gone_processes_are_stale() {
        assert!(is_stale("diolkos-4294967295-0"));
        assert!(!is_stale(&format!("diolkos-{}-0", std::process::id())));
        assert!(!is_stale("diolkos-agent-0"));
        assert!(!is_stale("diolkos-1"));
        assert!(!is_stale("something"));
    }
}
