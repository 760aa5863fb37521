//! Where things are, and how commands are spawned from here.

use std::env;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::Result;

/// The checkout.
pub(crate) fn root() -> PathBuf {
    let manifest = env::var_os("CARGO_MANIFEST_DIR").unwrap_or_else(|| env!("CARGO_MANIFEST_DIR").into());
    PathBuf::from(manifest).parent().map(Path::to_path_buf).unwrap_or_else(|| PathBuf::from("."))
}

/// What xtask itself writes: tools, eBPF objects, images, logs and results.
pub(crate) fn target() -> PathBuf {
    root().join("target")
}

/// Where cargo puts the binaries that xtask runs.
pub(crate) fn cargo_target() -> PathBuf {
    env::var_os("CARGO_TARGET_DIR").map(PathBuf::from).unwrap_or_else(target)
}

/// Unpacked servers and tools, `bin/bpf-linker`, and what setup verified.
pub(crate) fn tools() -> PathBuf {
    target().join("tools")
}

/// Directories of executables under `tools`, before the machine's own.
pub(crate) fn tool_directories() -> Vec<PathBuf> {
    ["bin", "root/usr/bin", "root/usr/sbin", "root/bin", "root/sbin"].map(|part| tools().join(part)).into()
}

/// The first executable of that name under `tools`.
pub(crate) fn unpacked(name: &str) -> Option<PathBuf> {
    tool_directories().into_iter().map(|directory| directory.join(name)).find(|path| path.is_file())
}

/// The first executable of that name on PATH.
pub(crate) fn on_path(name: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH")?;
    let extra = ["/usr/local/sbin", "/usr/sbin", "/sbin"].map(PathBuf::from);
    env::split_paths(&path).chain(extra).map(|directory| directory.join(name)).find(|path| path.is_file())
}

pub(crate) fn is_root() -> bool {
    fs::metadata("/proc/self").is_ok_and(|meta| meta.uid() == 0)
}

/// `program` as root: as it is when we are root, through sudo (with our environment) otherwise.
pub(crate) fn privileged(program: impl AsRef<Path>) -> Result<Command> {
    if is_root() {
        return Ok(Command::new(program.as_ref()));
    }
    let sudo = on_path("sudo").ok_or("this needs root, and there is no sudo: run it as root")?;
    let mut command = Command::new(sudo);
    // sudo replaces PATH by its own even with -E.
    let path = env::var("PATH").unwrap_or_default();
    command.arg("-E").arg("env").arg(format!("PATH={path}")).arg(program.as_ref());
    Ok(command)
}

/// The cargo that runs us, free of what the outer `cargo run` leaked into the environment.
pub(crate) fn cargo() -> Command {
    let mut command = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    for (name, _) in env::vars_os() {
        let leaked =
            name.to_str().is_some_and(|name| name.starts_with("CARGO_PKG_") || name.starts_with("CARGO_MANIFEST"));
        if leaked {
            command.env_remove(name);
        }
    }
    command.current_dir(root());
    command
}

/// Standard output of a command that has to succeed.
pub(crate) fn output(command: &mut Command) -> Result<String> {
    let shown = describe(command);
    let output = command.output().map_err(|e| format!("cannot run `{shown}`: {e}"))?;
    if !output.status.success() {
        let stderr = String::from_utf8_lossy(&output.stderr);
        return Err(format!("`{shown}` failed ({}): {}", output.status, stderr.trim()));
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Runs a command with our own output, and fails when it fails.
pub(crate) fn pass_through(command: &mut Command) -> Result<()> {
    let shown = describe(command);
    let status = command.status().map_err(|e| format!("cannot run `{shown}`: {e}"))?;
    if status.success() { Ok(()) } else { Err(format!("`{shown}` failed ({status})")) }
}

/// The command line, short enough for a message.
pub(crate) fn describe(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    let line = words.map(|word| word.to_string_lossy().into_owned()).collect::<Vec<_>>().join(" ");
    let mut short: String = line.chars().take(200).collect();
    if short.len() < line.len() {
        short.push('…');
    }
    short
}

/// git in the checkout, whoever owns it.
pub(crate) fn git(arguments: &[&str]) -> Command {
    let mut command = Command::new("git");
    command.args(["-c", "safe.directory=*"]).args(arguments).current_dir(root());
    command
}

/// Hash of the contents of the tracked files as they are now, committed or not.
pub(crate) fn tree() -> Result<String> {
    let index = output(&mut git(&["rev-parse", "--git-path", "index"]))?;
    // A temporary index: neither the user's staged changes nor a running commit notice us.
    let directory = target();
    fs::create_dir_all(&directory).map_err(|e| format!("cannot create {}: {e}", directory.display()))?;
    let copy = directory.join(format!("index.{}", std::process::id()));
    fs::copy(root().join(index.trim()), &copy).map_err(|e| format!("cannot copy git's index: {e}"))?;
    let hash = output(git(&["add", "-u"]).env("GIT_INDEX_FILE", &copy))
        .and_then(|_| output(git(&["write-tree"]).env("GIT_INDEX_FILE", &copy)));
    let _ = fs::remove_file(&copy);
    Ok(hash?.trim().to_owned())
}

/// Tracked and new files that are not ignored, as paths relative to the root.
pub(crate) fn files() -> Result<Vec<PathBuf>> {
    let mut git = git(&["ls-files", "--cached", "--others", "--exclude-standard"]);
    Ok(output(&mut git)?.lines().map(PathBuf::from).filter(|path| root().join(path).is_file()).collect())
}

pub(crate) fn read(path: &Path) -> Result<String> {
    fs::read_to_string(path).map_err(|e| format!("cannot read {}: {e}", path.display()))
}

/// Writes a file and the directories above it.
pub(crate) fn write(path: &Path, content: &str) -> Result<()> {
    let directory = path.parent().unwrap_or(Path::new("."));
    fs::create_dir_all(directory)
        .and_then(|()| fs::write(path, content))
        .map_err(|e| format!("cannot write {}: {e}", path.display()))
}
