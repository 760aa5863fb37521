//! The Rust compiler that builds the eBPF programs: one with core's source and an LLVM that
//! bpf-linker can be linked with.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::UNIX_EPOCH;

use serde_json::{Value, json};

use crate::packages;
use crate::workspace::{on_path, output};

/// Debian's packages of a current Rust beside the stable distribution's own.
pub(crate) const DEBIAN_RUST: [&str; 4] = ["rustc-web", "cargo-web", "rust-web-src", "rust-web-llvm"];
/// LLVM versions that bpf-linker 0.13 can be built with.
const LLVM: std::ops::RangeInclusive<u32> = 20..=22;
/// The workspace's rust-version.
const OLDEST: (u32, u32) = (1, 95);

pub(crate) struct Toolchain {
    pub(crate) rustc: PathBuf,
    pub(crate) cargo: PathBuf,
    /// A stable compiler that needs RUSTC_BOOTSTRAP=1 to build core.
    pub(crate) bootstrap: bool,
    /// LLVM's major version.
    pub(crate) llvm: u32,
}

impl Toolchain {
    /// The one to use: a nightly of rustup with its source, else Debian's.
    pub(crate) fn find() -> Option<Self> {
        Self::nightly().or_else(Self::debian)
    }

    fn nightly() -> Option<Self> {
        let list = output(Command::new("rustup").args(["toolchain", "list"])).ok()?;
        let names = list.lines().filter_map(|line| line.split_whitespace().next());
        names.filter(|name| name.starts_with("nightly")).find_map(|name| {
            let sysroot = output(Command::new("rustup").args(["run", name, "rustc", "--print", "sysroot"])).ok()?;
            let bin = Path::new(sysroot.trim()).join("bin");
            let found = Self::examine(bin.join("rustc"), bin.join("cargo"), false)?;
            // Its LLVM has to be one that can be had: installed, or known to apt.
            let available =
                Path::new(&found.llvm_prefix()).is_dir() || packages::candidate(&found.llvm_package()).is_some();
            available.then_some(found)
        })
    }

    fn debian() -> Option<Self> {
        Self::examine("/usr/bin/rustc".into(), "/usr/bin/cargo".into(), true)
    }

    fn examine(rustc: PathBuf, cargo: PathBuf, bootstrap: bool) -> Option<Self> {
        if !rustc.is_file() || !cargo.is_file() {
            return None;
        }
        let sysroot = output(Command::new(&rustc).args(["--print", "sysroot"])).ok()?;
        let source = Path::new(sysroot.trim()).join("lib/rustlib/src/rust/library/Cargo.lock");
        let version = output(Command::new(&rustc).arg("-vV")).ok()?;
        let field = |name: &str| version.lines().find_map(|line| line.strip_prefix(name));
        let llvm = field("LLVM version: ")?.split('.').next()?.parse().ok()?;
        let usable = source.is_file() && at_least(field("release: ")?, OLDEST) && LLVM.contains(&llvm);
        usable.then_some(Self { rustc, cargo, bootstrap, llvm })
    }

    pub(crate) fn llvm_prefix(&self) -> String {
        format!("/usr/lib/llvm-{}", self.llvm)
    }

    pub(crate) fn llvm_package(&self) -> String {
        format!("llvm-{}-dev", self.llvm)
    }

    pub(crate) fn to_json(&self) -> Value {
        json!({
            "rustc": self.rustc, "cargo": self.cargo, "bootstrap": self.bootstrap, "llvm": self.llvm,
            "modified": modified(&self.rustc),
        })
    }

    /// None when the compiler is no longer the one that was verified.
    pub(crate) fn from_json(value: &Value) -> Option<Self> {
        let path = |name: &str| value[name].as_str().map(PathBuf::from);
        let found = Self {
            rustc: path("rustc")?,
            cargo: path("cargo")?,
            bootstrap: value["bootstrap"].as_bool()?,
            llvm: u32::try_from(value["llvm"].as_u64()?).ok()?,
        };
        (modified(&found.rustc) == value["modified"].as_u64()).then_some(found)
    }
}

/// The LLVM that Debian's Rust will bring, known before it is installed.
pub(crate) fn debian_llvm() -> Option<u32> {
    let depends = packages::depends("rust-web-llvm");
    depends.iter().find_map(|name| name.strip_prefix("llvm-")?.parse().ok())
}

/// Is the version that apt would bring new enough?
pub(crate) fn debian_candidate_usable() -> bool {
    packages::candidate("rustc-web").is_some_and(|version| at_least(&version, OLDEST))
}

/// For the list of what is needed on systems without apt.
pub(crate) fn describe_need() -> String {
    format!(
        "a Rust compiler with core's source for the eBPF programs: `rustup toolchain install nightly --component \
         rust-src` (LLVM {} to {}), with LLVM's headers and libraries of that version under /usr/lib/llvm-N, and bpf-linker",
        LLVM.start(),
        LLVM.end()
    )
}

/// Does a server of that name exist anywhere: for systems whose packages we do not know.
pub(crate) fn has(name: &str) -> bool {
    on_path(name).is_some()
}

fn at_least(version: &str, oldest: (u32, u32)) -> bool {
    let mut parts = version.split('.').map(|part| part.parse::<u32>().ok());
    match (parts.next().flatten(), parts.next().flatten()) {
        (Some(major), Some(minor)) => (major, minor) >= oldest,
        _ => false,
    }
}

fn modified(path: &Path) -> Option<u64> {
    let time = fs::metadata(path).ok()?.modified().ok()?;
    time.duration_since(UNIX_EPOCH).ok().map(|age| age.as_secs())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_compare_by_number() {
        assert!(at_least("1.96.0", (1, 95)));
        assert!(at_least("1.96.0+dfsg1-1~deb12u2", (1, 95)));
        assert!(at_least("1.100.0-nightly", (1, 95)));
        assert!(!at_least("1.85.0+dfsg3-1", (1, 95)));
        assert!(!at_least("nonsense", (1, 95)));
    }
}
