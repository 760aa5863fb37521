//! Kernels and the emulator: downloaded by apt under a configuration of their own, unpacked, not installed.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::Kernel;
use crate::Result;
use crate::packages;
use crate::progress::Progress;
use crate::workspace::{on_path, output, tools, unpacked as tools_program, write};

/// Debian's suites with the kernels of the matrix, beside the mirror's other security updates.
const SUITES: [&str; 2] = ["bullseye-security", "bookworm-security"];
/// The keys that sign them come with every Debian.
const KEYS: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";
const EMULATOR: &str = "qemu-system-x86_64";
const EMULATOR_PACKAGES: [&str; 4] = ["qemu-system-x86", "qemu-system-common", "qemu-system-data", "seabios"];

/// What a machine is made of.
pub(super) struct Files {
    pub(super) kernel: PathBuf,
    /// The directory of the kernel's modules.
    pub(super) modules: PathBuf,
    pub(super) emulator: PathBuf,
    /// Where the emulator finds firmware; empty for an installed one.
    pub(super) firmware: Vec<PathBuf>,
    /// Where the emulator finds libraries; empty for an installed one.
    pub(super) libraries: Vec<PathBuf>,
}

/// Brings what is missing.
pub(super) fn ensure(kernel: &Kernel) -> Result<Files> {
    if cfg!(not(target_arch = "x86_64")) {
        return Err("the kernels are those of x86-64 machines, and emulating them elsewhere was not tried".into());
    }
    if unpacked(kernel).is_none() {
        bring_kernel(kernel)?;
    }
    let (image, modules) = unpacked(kernel)
        .ok_or_else(|| format!("no kernel {} below {} after unpacking", kernel.version, root().display()))?;
    let (emulator, firmware, libraries) = match on_path(EMULATOR) {
        Some(installed) => (installed, Vec::new(), Vec::new()),
        None => {
            let own = root().join("usr/bin").join(EMULATOR);
            if !own.is_file() {
                bring_emulator()?;
            }
            let libraries = packages::library_directories(&root());
            let unresolved = packages::unresolved(&own, &libraries);
            if !unresolved.is_empty() {
                return Err(format!("{EMULATOR} lacks {}: install them, or qemu itself", unresolved.join(", ")));
            }
            (own, ["usr/share/qemu", "usr/share/seabios"].map(|part| root().join(part)).into(), libraries)
        }
    };
    Ok(Files { kernel: image, modules, emulator, firmware, libraries })
}

fn directory() -> PathBuf {
    tools().join("kernels")
}

fn root() -> PathBuf {
    directory().join("root")
}

/// Image and modules of the newest unpacked kernel of this version.
fn unpacked(kernel: &Kernel) -> Option<(PathBuf, PathBuf)> {
    let entries = fs::read_dir(root().join("boot")).ok()?.flatten();
    let names = entries.filter_map(|entry| Some(entry.file_name().to_str()?.strip_prefix("vmlinuz-")?.to_owned()));
    let release = newest(names.filter(|release| is_of(release, kernel.version)))?;
    let modules = root().join("lib/modules").join(&release);
    modules.is_dir().then(|| (root().join("boot").join(format!("vmlinuz-{release}")), modules))
}

fn bring_kernel(kernel: &Kernel) -> Result<()> {
    if !packages::is_debian() {
        return Err(format!(
            "this system has no apt: unpack a Debian cloud kernel {} below {}",
            kernel.version,
            root().display()
        ));
    }
    let mut progress = Progress::new(2);
    let apt = Apt::create()?;
    progress.step(
        "refresh the lists of kernels",
        "kernels-update",
        apt.command("apt-get").args(["update", "--quiet"]),
    )?;
    let names = output(apt.command("apt-cache").args(["pkgnames", &format!("linux-image-{}.", kernel.version)]))?;
    let releases = names.lines().filter_map(|name| name.strip_prefix("linux-image-"));
    let cloud = releases.filter(|release| release.ends_with("-cloud-amd64") && is_of(release, kernel.version));
    let release = newest(cloud.map(str::to_owned))
        .ok_or_else(|| format!("{} have no cloud kernel {}", SUITES.join(", "), kernel.version))?;
    let name = format!("linux-image-{release}");
    let mut commands = packages::unpack(std::slice::from_ref(&name), &directory().join("packages"), &root())?;
    if let Some(download) = commands.first_mut() {
        download.env("APT_CONFIG", apt.configuration());
    }
    progress.steps(&format!("unpack {name}"), "kernels-unpack", &mut commands)
}

fn bring_emulator() -> Result<()> {
    let names = packages::with_libraries(&EMULATOR_PACKAGES);
    let mut commands = packages::unpack(&names, &directory().join("packages"), &root())?;
    let title = format!("unpack {} packages of the emulator", names.len());
    Progress::new(1).steps(&title, "kernels-emulator", &mut commands)
}

/// apt with the machine's settings, but sources, lists and cache of our own.
struct Apt {
    directory: PathBuf,
}

impl Apt {
    fn create() -> Result<Self> {
        let apt = Self { directory: directory().join("apt") };
        for part in ["lists/partial", "cache/archives/partial"] {
            let path = apt.directory.join(part);
            fs::create_dir_all(&path).map_err(|e| format!("cannot create {}: {e}", path.display()))?;
        }
        let mirror = packages::security_mirror()
            .ok_or("apt knows no Debian mirror: add Debian's security updates to its sources")?;
        let line = |suite: &&str| format!("deb [signed-by={KEYS}] {mirror} {suite} main\n");
        write(&apt.directory.join("sources.list"), &SUITES.iter().map(line).collect::<String>())?;
        write(&apt.directory.join("status"), "")?;
        write(&apt.configuration(), &apt.settings())?;
        Ok(apt)
    }

    /// Read by apt after the machine's own.
    fn configuration(&self) -> PathBuf {
        self.directory.join("apt.conf")
    }

    fn settings(&self) -> String {
        let path = |part: &str| self.directory.join(part).display().to_string();
        let settings = [
            ("Dir::Etc::sourcelist", path("sources.list")),
            ("Dir::Etc::sourceparts", "/dev/null".into()),
            ("Dir::State::lists", path("lists")),
            ("Dir::State::status", path("status")),
            ("Dir::Cache", path("cache")),
            ("APT::Sandbox::User", String::new()),
        ];
        settings.iter().map(|(name, value)| format!("{name} \"{value}\";\n")).collect()
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command.env("APT_CONFIG", self.configuration());
        command
    }
}

/// Whether a release such as `6.1.0-56-cloud-amd64` is one of `version`, and not a backport of it.
fn is_of(release: &str, version: &str) -> bool {
    release.strip_prefix(version).is_some_and(|rest| rest.starts_with('.')) && !release.contains("deb11")
}

/// The last in the order of their numbers.
fn newest(releases: impl Iterator<Item = String>) -> Option<String> {
    releases.max_by_key(|release| {
        release.split(|c: char| !c.is_ascii_digit()).filter_map(|part| part.parse().ok()).collect::<Vec<u64>>()
    })
}

/// A shell and more in one static program.
pub(super) fn busybox() -> Result<PathBuf> {
    tools_program("busybox").or_else(|| on_path("busybox")).ok_or_else(|| "busybox is missing: run setup".into())
}

/// A module's file, compressed or not.
pub(super) fn read_module(path: &Path) -> Result<Vec<u8>> {
    if path.extension().is_some_and(|extension| extension == "xz") {
        let busybox = busybox()?;
        let run = Command::new(&busybox).arg("xzcat").arg(path).output();
        let run = run.map_err(|e| format!("cannot run {}: {e}", busybox.display()))?;
        return if run.status.success() { Ok(run.stdout) } else { Err(format!("{}: not xz", path.display())) };
    }
    fs::read(path).map_err(|e| format!("cannot read {}: {e}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_release_of_a_version_is_taken() {
        let of = |version: &str| {
            let names = [
                "5.10.0-9-cloud-amd64",
                "5.10.0-46-cloud-amd64",
                "6.1.0-56-cloud-amd64",
                "6.1.0-0.deb11.99-cloud-amd64",
                "6.12.9+deb12-cloud-amd64",
                "6.12.117+deb12-cloud-amd64",
            ];
            newest(names.iter().filter(|name| is_of(name, version)).map(|name| (*name).to_owned()))
        };
        assert_eq!(of("5.10").as_deref(), Some("5.10.0-46-cloud-amd64"));
        assert_eq!(of("6.1").as_deref(), Some("6.1.0-56-cloud-amd64"));
        assert_eq!(of("6.12").as_deref(), Some("6.12.117+deb12-cloud-amd64"));
        assert_eq!(of("6.6"), None);
    }
}
