//! Builds the eBPF objects, then the binaries that embed and run them.

use std::env;
use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Instant;

use clap::Args;

use crate::Result;
use crate::setup;
use crate::toolchain::Toolchain;
use crate::workspace::{cargo, pass_through, root, target, tool_directories};

#[cfg(target_endian = "little")]
const TARGET: &str = "bpfel-unknown-none";
#[cfg(target_endian = "big")]
const TARGET: &str = "bpfeb-unknown-none";

/// BTF is wanted for maps and functions. Without the second linker flag every zeroed struct becomes a
/// call to a loop over bytes. v3 has 32-bit arithmetic and loads from 5.10 on.
const RUSTFLAGS: [&str; 4] =
    ["-Cdebuginfo=2", "-Clink-arg=--btf", "-Clink-arg=--disable-expand-memcpy-in-order", "-Ctarget-cpu=v3"];

/// The objects and what they are called in target/ebpf.
pub(crate) const OBJECTS: [&str; 2] = ["dataplane", "bench"];

/// What an outer cargo or rustup leaves in the environment and another toolchain must not see.
const LEAKED: [&str; 8] = [
    "RUSTUP_TOOLCHAIN",
    "CARGO",
    "RUSTC",
    "RUSTC_WRAPPER",
    "RUSTC_WORKSPACE_WRAPPER",
    "RUSTFLAGS",
    "CARGO_TARGET_DIR",
    "LD_LIBRARY_PATH",
];

#[derive(Args, Default)]
pub(crate) struct Arguments {
    /// Only the eBPF objects
    #[arg(long)]
    pub(crate) ebpf: bool,
    /// Bring what is missing without asking
    #[arg(long)]
    pub(crate) yes: bool,
}

pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    let toolchain = setup::ensure(&setup::Arguments { yes: arguments.yes })?;
    objects(&toolchain)?;
    if arguments.ebpf { Ok(()) } else { binaries() }
}

/// Everything that `demo`, `test` and `bench` run.
pub(crate) fn everything(yes: bool) -> Result<()> {
    run(&Arguments { ebpf: false, yes })
}

/// target/ebpf/*.o. A file is replaced only when its content changed, so that nothing is rebuilt for it.
pub(crate) fn objects(toolchain: &Toolchain) -> Result<()> {
    let start = Instant::now();
    let build = target().join("bpf");
    let mut command = Command::new(&toolchain.cargo);
    for name in LEAKED {
        command.env_remove(name);
    }
    let path = env::var_os("PATH").unwrap_or_default();
    let path = env::join_paths(tool_directories().into_iter().chain(env::split_paths(&path)));
    command
        .env("PATH", path.map_err(|e| format!("PATH: {e}"))?)
        .env("RUSTC", &toolchain.rustc)
        .env("CARGO_ENCODED_RUSTFLAGS", RUSTFLAGS.join("\x1f"))
        .args(["build", "--locked", "--quiet", "--package", "diolkos-programs", "--profile", "ebpf"])
        .args(["--target", TARGET, "-Z", "build-std=core", "--target-dir"])
        .arg(&build)
        .current_dir(root());
    if toolchain.bootstrap {
        command.env("RUSTC_BOOTSTRAP", "1");
    }
    pass_through(&mut command)?;
    for name in OBJECTS {
        install(&build.join(TARGET).join("ebpf").join(name), &object(name))?;
    }
    eprintln!("build: eBPF objects ready in {:.1}s", start.elapsed().as_secs_f64());
    Ok(())
}

/// Where an object is.
pub(crate) fn object(name: &str) -> std::path::PathBuf {
    target().join("ebpf").join(format!("{name}.o"))
}

fn install(from: &Path, to: &Path) -> Result<()> {
    let fail = |e: std::io::Error| format!("cannot bring {} to {}: {e}", from.display(), to.display());
    let content = fs::read(from).map_err(fail)?;
    if fs::read(to).is_ok_and(|present| present == content) {
        return Ok(());
    }
    fs::create_dir_all(to.parent().unwrap_or(Path::new("."))).map_err(fail)?;
    // Renamed into place: a build of the agent in another terminal never reads half a file.
    let staged = to.with_extension("new");
    fs::write(&staged, content).and_then(|()| fs::rename(&staged, to)).map_err(fail)
}

fn binaries() -> Result<()> {
    let start = Instant::now();
    pass_through(cargo().args(["build", "--locked", "--release", "--bins"]).args(released()))?;
    eprintln!("build: binaries ready in {:.1}s", start.elapsed().as_secs_f64());
    Ok(())
}

/// One selection of packages for all that runs in release: another would build dependencies again, with other features.
pub(crate) fn released() -> impl Iterator<Item = &'static str> {
    ["diolkos", "diolkos-cni", "diolkos-tests"].into_iter().flat_map(|name| ["--package", name])
}
