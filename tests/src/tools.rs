//! Where the programs are that the harness runs: what `cargo xtask setup` and `build` left in `target`.

use std::env;
use std::ffi::OsString;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};

/// The checkout.
pub fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().map(Path::to_path_buf).unwrap_or_default()
}

/// target/tools
pub fn directory() -> PathBuf {
    root().join("target/tools")
}

/// PATH with the unpacked tools first.
pub fn path() -> OsString {
    let unpacked = ["root/usr/bin", "root/usr/sbin", "root/bin", "root/sbin"].map(|part| directory().join(part));
    let machine = env::var_os("PATH").unwrap_or_default();
    let system = ["/usr/sbin", "/usr/bin", "/sbin", "/bin"].map(PathBuf::from);
    let all = unpacked.into_iter().chain(env::split_paths(&machine)).chain(system);
    env::join_paths(all.filter(|path| !path.as_os_str().is_empty())).unwrap_or(machine)
}

/// Directories of the shared libraries that were unpacked with the tools.
pub fn libraries() -> Vec<PathBuf> {
    let parents = ["root/usr/lib", "root/lib"].map(|part| directory().join(part));
    let entries = parents.iter().filter_map(|parent| parent.read_dir().ok()).flatten().flatten();
    entries.map(|entry| entry.path()).filter(|path| path.to_string_lossy().ends_with("-linux-gnu")).collect()
}

/// A program on [`path`].
pub fn find(name: &str) -> Result<PathBuf> {
    let found = env::split_paths(&path()).map(|directory| directory.join(name)).find(|path| path.is_file());
    found.with_context(|| format!("{name} is not on this machine: run `cargo xtask setup`"))
}

/// The CNI plugins that came with the tools: containerd wants `loopback`.
pub fn cni_plugin(name: &str) -> Result<PathBuf> {
    let found = ["root/usr/lib/cni", "root/opt/cni/bin"].map(|part| directory().join(part).join(name));
    let machine = ["/usr/lib/cni", "/opt/cni/bin"].map(|part| Path::new(part).join(name));
    let found = found.into_iter().chain(machine).find(|path| path.is_file());
    found.with_context(|| format!("the CNI plugin {name} is not on this machine: run `cargo xtask setup`"))
}

/// The release binary `diolkos`; the environment variable DIOLKOS_BIN names another.
pub fn diolkos() -> Result<PathBuf> {
    let path = match env::var_os("DIOLKOS_BIN") {
        Some(path) => PathBuf::from(path),
        None => {
            let target = env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), PathBuf::from);
            target.join("release/diolkos")
        }
    };
    ensure!(path.is_file(), "{} is not there: run `cargo xtask build`", path.display());
    Ok(path)
}
