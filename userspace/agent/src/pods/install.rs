//! What container runtimes look for: the plugin in their directory of binaries, and the network's configuration.

use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use serde_json::json;

use super::call::ANNOTATIONS;
use super::error::PodsError;
use super::protocol::Version;

/// Name of the plugin's binary, which is the `type` in the configuration.
const PLUGIN: &str = "diolkos-cni";
/// The configuration's file. Runtimes take the first by name.
const CONFLIST: &str = "10-diolkos.conflist";
/// containerd before 1.7 asks this plugin to bring up `lo`; ours answers for it when called by this name.
const LOOPBACK: &str = "loopback";

/// What goes where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Install {
    /// The built plugin.
    pub binary: PathBuf,
    /// The runtime's directory of plugins (`/opt/cni/bin`).
    pub bin_dir: PathBuf,
    /// The runtime's directory of networks (`/etc/cni/net.d`).
    pub conf_dir: PathBuf,
    /// Where the agent listens.
    pub socket: PathBuf,
}

/// Installs the plugin, then the configuration. The configuration comes last, and only once the agent can serve: its
/// presence is what makes a runtime report the node's network as ready. Safe to repeat; writes only differences.
pub fn install(install: &Install) -> Result<(), PodsError> {
    let binary = fs::read(&install.binary).map_err(failed("read", &install.binary))?;
    for directory in [&install.bin_dir, &install.conf_dir] {
        fs::create_dir_all(directory).map_err(failed("create the directory", directory))?;
    }
    put(&install.bin_dir.join(PLUGIN), &binary, 0o755)?;
    let loopback = install.bin_dir.join(LOOPBACK);
    if !loopback.exists() || is_ours(&loopback) {
        put(&loopback, &binary, 0o755)?;
    }
    put(&install.conf_dir.join(CONFLIST), conflist(&install.socket).as_bytes(), 0o644)
}

/// The configuration. Its version is what containerd before 2.0 accepts; runtimes that know more choose from the list.
fn conflist(socket: &Path) -> String {
    let list = json!({
        "cniVersion": Version::DEFAULT.as_str(),
        "cniVersions": [Version::V1_0_0.as_str(), Version::V1_1_0.as_str()],
        "name": "diolkos",
        "plugins": [{
            "type": PLUGIN,
            "agentSocket": socket.to_string_lossy(),
            "capabilities": { ANNOTATIONS: true },
        }],
    });
    format!("{list:#}\n")
}

/// Writes a file whole: a runtime that reads or runs it meanwhile has the old one or the new one.
fn put(path: &Path, bytes: &[u8], mode: u32) -> Result<(), PodsError> {
    let present = fs::read(path).is_ok_and(|present| present == bytes);
    let mode_fits = fs::metadata(path).is_ok_and(|meta| meta.permissions().mode() & 0o777 == mode);
    if present && mode_fits {
        return Ok(());
    }
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let unready = path.with_file_name(format!(".{name}.new"));
    let write = || -> io::Result<()> {
        fs::write(&unready, bytes)?;
        fs::set_permissions(&unready, fs::Permissions::from_mode(mode))?;
        fs::File::open(&unready)?.sync_all()?;
        fs::rename(&unready, path)
    };
    write().map_err(failed("write", path))
}

/// An older plugin of ours, told by a text that only ours contains.
fn is_ours(path: &Path) -> bool {
    let mark = MARK.as_bytes();
    fs::read(path).is_ok_and(|bytes| bytes.windows(mark.len()).any(|window| window == mark))
}

/// Stands in the plugin's binary; its test checks that.
const MARK: &str = "diolkos CNI plugin";

fn failed(operation: &'static str, path: &Path) -> impl FnOnce(io::Error) -> PodsError {
    let path = path.to_owned();
    move |source| PodsError::Io { operation, path, source }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use serde_json::Value;

    use super::*;

    fn prepared(directory: &Path) -> Install {
        let binary = directory.join("built");
        fs::write(&binary, format!("ELF {MARK} 1")).unwrap();
        Install {
            binary,
            bin_dir: directory.join("opt/bin"),
            conf_dir: directory.join("etc/net.d"),
            socket: "/run/diolkos/cni.sock".into(),
        }
    }

    #[test]
    fn the_plugin_is_executable_and_the_configuration_names_the_socket() {
        let dir = tempfile::tempdir().unwrap();
        let what = prepared(dir.path());
        install(&what).unwrap();
        install(&what).unwrap();
        for name in [PLUGIN, LOOPBACK] {
            let mode = fs::metadata(what.bin_dir.join(name)).unwrap().permissions().mode();
            assert_eq!(mode & 0o777, 0o755, "{name}");
        }
        let text = fs::read_to_string(what.conf_dir.join(CONFLIST)).unwrap();
        let list: Value = serde_json::from_str(&text).unwrap();
        assert_eq!((&list["cniVersion"], &list["cniVersions"]), (&json!("1.0.0"), &json!(["1.0.0", "1.1.0"])));
        assert_eq!(list["plugins"][0]["agentSocket"], "/run/diolkos/cni.sock");
        assert_eq!(fs::read_dir(&what.conf_dir).unwrap().count(), 1, "nothing half-written is left");
    }

    #[test]
    fn a_loopback_plugin_of_others_is_left_alone_and_ours_is_renewed() {
        let dir = tempfile::tempdir().unwrap();
        let what = prepared(dir.path());
        fs::create_dir_all(&what.bin_dir).unwrap();
        fs::write(what.bin_dir.join(LOOPBACK), "another").unwrap();
        install(&what).unwrap();
        assert_eq!(fs::read(what.bin_dir.join(LOOPBACK)).unwrap(), b"another");

        fs::write(what.bin_dir.join(LOOPBACK), format!("ELF {MARK} 0")).unwrap();
        install(&what).unwrap();
        assert_eq!(fs::read(what.bin_dir.join(LOOPBACK)).unwrap(), fs::read(&what.binary).unwrap());
    }

    #[test]
    fn without_the_plugin_no_configuration_is_written() {
        let dir = tempfile::tempdir().unwrap();
        let what = Install { binary: dir.path().join("absent"), ..prepared(dir.path()) };
        let error = install(&what).unwrap_err().to_string();
        assert!(error.contains("absent"), "{error}");
        assert!(!what.conf_dir.exists());
    }
}
