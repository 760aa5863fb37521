//! Debian's packages: what is installed, what apt would bring, and unpacking without installing.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, SystemTime};

use crate::Result;
use crate::workspace::{on_path, output, privileged};

/// Older package lists name versions that the mirror may no longer have.
const LISTS_FRESH: Duration = Duration::from_secs(24 * 3600);

/// Is this a system whose packages we know how to bring?
pub(crate) fn is_debian() -> bool {
    ["apt-get", "apt-cache", "dpkg-deb", "dpkg-query"].iter().all(|tool| on_path(tool).is_some())
}

/// Those of `names` that are not installed.
pub(crate) fn missing(names: &[String]) -> Vec<String> {
    let mut query = Command::new("dpkg-query");
    query.args(["--show", "--showformat=${Package} ${db:Status-Status}\\n"]).args(names);
    // It fails when one is unknown, and still lists the others.
    let text = query.output().map(|output| output.stdout).unwrap_or_default();
    let text = String::from_utf8_lossy(&text).into_owned();
    let installed: BTreeSet<&str> = text.lines().filter_map(|line| line.strip_suffix(" installed")).collect();
    names.iter().filter(|name| !installed.contains(name.as_str())).cloned().collect()
}

/// The version apt would install; None when it knows no such package.
pub(crate) fn candidate(name: &str) -> Option<String> {
    let text = output(Command::new("apt-cache").args(["policy", name])).ok()?;
    let version = text.lines().find_map(|line| line.trim().strip_prefix("Candidate: "))?;
    (version != "(none)").then(|| version.to_owned())
}

/// What a package needs, without alternatives and virtual packages.
pub(crate) fn depends(name: &str) -> Vec<String> {
    let query = ["depends", "--no-recommends", "--no-suggests", "--no-conflicts", "--no-breaks", "--no-replaces", name];
    let text = output(Command::new("apt-cache").args(query)).unwrap_or_default();
    let lines = text.lines().filter_map(|line| line.trim().strip_prefix("Depends: "));
    lines.filter(|name| !name.starts_with('<')).map(str::to_owned).collect()
}

/// `names` and the libraries under them that this machine has not installed.
pub(crate) fn with_libraries(names: &[&str]) -> Vec<String> {
    let mut found: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
    let mut next = 0;
    while let Some(name) = found.get(next).cloned() {
        next += 1;
        let libraries: Vec<String> = depends(&name).into_iter().filter(|name| name.starts_with("lib")).collect();
        for library in missing(&libraries) {
            if !found.contains(&library) {
                found.push(library);
            }
        }
    }
    found
}

/// Are apt's lists there and recent?
pub(crate) fn lists_fresh() -> bool {
    let lists = Path::new("/var/lib/apt/lists");
    let Ok(entries) = fs::read_dir(lists) else { return false };
    let there = entries.flatten().any(|entry| entry.file_name().to_string_lossy().ends_with("Release"));
    // A list keeps the mirror's date; every refresh writes into `partial`.
    let modified = fs::metadata(lists.join("partial")).and_then(|meta| meta.modified());
    let age = modified.ok().and_then(|time| SystemTime::now().duration_since(time).ok());
    there && age.is_some_and(|age| age < LISTS_FRESH)
}

pub(crate) fn update() -> Result<Command> {
    let mut command = privileged("apt-get")?;
    command.args(["update", "--quiet"]);
    Ok(command)
}

/// Installs, and refuses when apt would have to remove something for it.
pub(crate) fn install(names: &[String]) -> Result<Command> {
    let mut command = privileged("env")?;
    command.args(["DEBIAN_FRONTEND=noninteractive", "apt-get", "install", "--yes", "--quiet"]);
    command.args(["--no-install-recommends", "--no-remove"]).args(names);
    Ok(command)
}

/// Downloads into `directory` and unpacks under `root`: nothing is installed, no service is started.
pub(crate) fn unpack(names: &[String], directory: &Path, root: &Path) -> Result<Vec<Command>> {
    for path in [directory, root] {
        fs::create_dir_all(path).map_err(|e| format!("cannot create {}: {e}", path.display()))?;
    }
    let mut download = Command::new("apt-get");
    // Without this apt warns, as root, that its own user cannot write into our directory.
    download.args(["-o", "APT::Sandbox::User=", "download", "--quiet"]).args(names).current_dir(directory);
    let mut commands = vec![download];
    for name in names {
        // apt-get download writes NAME_VERSION_ARCH.deb, and we learn the version only then.
        let mut unpack = Command::new("find");
        unpack.args([".", "-maxdepth", "1", "-name", &format!("{name}_*.deb")]);
        unpack.args(["-exec", "dpkg-deb", "--extract", "{}"]).arg(root).arg(";").current_dir(directory);
        commands.push(unpack);
    }
    Ok(commands)
}

/// Directories of shared libraries under an unpacked root.
pub(crate) fn library_directories(root: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for parent in ["usr/lib", "lib"] {
        let Ok(entries) = fs::read_dir(root.join(parent)) else { continue };
        found.extend(entries.flatten().map(|entry| entry.path()).filter(|path| is_multiarch(path)));
    }
    found
}

fn is_multiarch(path: &Path) -> bool {
    path.is_dir() && path.file_name().is_some_and(|name| name.to_string_lossy().ends_with("-linux-gnu"))
}

/// Libraries that `program` wants and the loader does not find.
pub(crate) fn unresolved(program: &Path, libraries: &[PathBuf]) -> Vec<String> {
    let joined = std::env::join_paths(libraries).unwrap_or_default();
    let output = Command::new("ldd").arg(program).env("LD_LIBRARY_PATH", joined).output();
    let text = output.map(|output| output.stdout).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let lines = text.lines().filter(|line| line.contains("not found"));
    lines.filter_map(|line| line.split_whitespace().next()).map(str::to_owned).collect()
}

/// When apt knows Debian's own suite but not its security suite: the line that adds it.
///
/// The eBPF compiler comes with the security updates. The address is the configured mirror's with
/// `-security` appended, which is how Debian's mirrors name it.
pub(crate) fn security_source() -> Option<String> {
    let (suite, uri, known) = security_suite()?;
    (!known).then(|| format!("deb {uri} {suite} main"))
}

/// Where Debian's security updates are.
pub(crate) fn security_mirror() -> Option<String> {
    security_suite().map(|(_, uri, _)| uri)
}

/// The security suite of this system's release, its mirror, and whether apt knows it.
fn security_suite() -> Option<(String, String, bool)> {
    let release = fs::read_to_string("/etc/os-release").ok()?;
    let value =
        |key: &str| release.lines().find_map(|line| line.strip_prefix(key)).map(|value| value.trim_matches('"'));
    if value("ID=") != Some("debian") {
        return None;
    }
    let codename = value("VERSION_CODENAME=")?;
    let suite = format!("{codename}-security");
    let text = output(Command::new("apt-get").args(["indextargets", "--format", "$(RELEASE) $(REPO_URI)"])).ok()?;
    let sources: Vec<(&str, &str)> = text.lines().filter_map(|line| line.split_once(' ')).collect();
    if let Some((_, uri)) = sources.iter().find(|(release, _)| *release == suite) {
        return Some((suite, (*uri).to_owned(), true));
    }
    let (_, uri) = sources.iter().find(|(release, _)| *release == codename)?;
    Some((suite, format!("{}-security", uri.trim_end_matches('/')), false))
}
