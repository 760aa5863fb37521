//! Finds or brings what is missing.
//!
//! Compilers and headers are installed by apt. Servers and tools (etcd, containerd, kubectl ..) are
//! downloaded and unpacked under target/tools, so that no system service is started or displaced. It
//! looks, brings what is missing, and looks again until nothing is.

use std::fs;
use std::io::{self, BufRead, IsTerminal, Write};
use std::path::PathBuf;
use std::process::Command;

use clap::Args;
use serde_json::{Value, json};

use crate::Result;
use crate::packages;
use crate::progress::Progress;
use crate::toolchain::{self, Toolchain};
use crate::workspace::{cargo, on_path, privileged, tools, unpacked, write};

const BPF_LINKER: &str = "0.13.0";
/// Rounds of looking and bringing: the eBPF compiler tells which LLVM it wants only once it is there.
const ROUNDS: usize = 6;

/// A package that is unpacked, and a program it has to contain.
const UNPACKED: [(&str, &str); 11] = [
    ("etcd-server", "etcd"),
    ("etcd-client", "etcdctl"),
    ("containerd", "containerd"),
    ("runc", "runc"),
    ("kubernetes-client", "kubectl"),
    ("iperf3", "iperf3"),
    ("busybox-static", "busybox"),
    ("bpftool", "bpftool"),
    ("nftables", "nft"),
    ("iptables", "iptables-nft-restore"),
    ("containernetworking-plugins", "../lib/cni/loopback"),
];

/// An installed package, and how we see that we need not ask dpkg for it.
const INSTALLED: [(&str, Seen); 6] = [
    ("g++", Seen::Program("g++")),
    ("protobuf-compiler", Seen::Program("protoc")),
    ("libprotobuf-dev", Seen::File("/usr/include/google/protobuf/descriptor.proto")),
    ("iproute2", Seen::Program("ip")),
    ("util-linux", Seen::Program("nsenter")),
    ("git", Seen::Program("git")),
];

enum Seen {
    Program(&'static str),
    File(&'static str),
}

#[derive(Args, Default)]
pub(crate) struct Arguments {
    /// Bring what is missing without asking
    #[arg(long)]
    pub(crate) yes: bool,
}

pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    let toolchain = ensure(arguments)?;
    eprintln!("setup: everything is there (eBPF compiler {}, LLVM {})", toolchain.rustc.display(), toolchain.llvm);
    Ok(())
}

/// Everything is there when this returns. Takes milliseconds when it was there before.
pub(crate) fn ensure(arguments: &Arguments) -> Result<Toolchain> {
    if let Some(toolchain) = verified() {
        return Ok(toolchain);
    }
    let agreed = arguments.yes || in_ci();
    let mut refreshed = false;
    for _ in 0..ROUNDS {
        let plan = Plan::look();
        if plan.is_empty() {
            let toolchain = Toolchain::find().ok_or_else(toolchain::describe_need)?;
            return remember(toolchain);
        }
        if !packages::is_debian() {
            return Err(format!("this system has no apt, so bring these yourself and try again:\n{}", plan.describe()));
        }
        let stale = plan.source.is_some() || (plan.needs_apt() && !refreshed && !packages::lists_fresh());
        if stale {
            // The exact list is known only from fresh package lists, so it is shown in the next round.
            refreshed = true;
            plan.refresh(agreed)?;
            continue;
        }
        eprint!("setup needs to bring:\n{}", plan.describe());
        agree(agreed)?;
        plan.carry_out()?;
    }
    Err(format!("still missing after {ROUNDS} rounds:\n{}", Plan::look().describe()))
}

/// What is missing now.
#[derive(Default)]
struct Plan {
    /// A line for apt's sources, when its suites lack the compiler.
    source: Option<String>,
    install: Vec<String>,
    unpack: Vec<String>,
    bpf_linker: Option<Linker>,
    /// What only a person can bring.
    by_hand: Vec<String>,
}

/// How bpf-linker is to be built.
struct Linker {
    llvm: u32,
    prefix: String,
}

impl Plan {
    fn look() -> Self {
        let absent = INSTALLED.iter().filter(|(_, seen)| !seen.is_there());
        let mut plan = Self { install: absent.map(|(name, _)| (*name).to_owned()).collect(), ..Self::default() };
        plan.look_for_compiler();
        let debian = packages::is_debian();
        let absent: Vec<&str> = UNPACKED
            .iter()
            .filter(|(_, program)| unpacked(program).is_none() && (debian || !toolchain::has(program)))
            .map(|(package, _)| *package)
            .collect();
        plan.unpack = if debian { packages::with_libraries(&absent) } else { to_strings(&absent) };
        plan
    }

    fn look_for_compiler(&mut self) {
        let debian = packages::is_debian();
        match Toolchain::find() {
            Some(toolchain) => {
                if debian {
                    self.install.extend(packages::missing(&llvm_packages(toolchain.llvm)));
                }
                if !linker_is_for(toolchain.llvm) {
                    self.bpf_linker = Some(Linker { llvm: toolchain.llvm, prefix: toolchain.llvm_prefix() });
                }
            }
            None if debian => {
                if !toolchain::debian_candidate_usable() {
                    self.source = packages::security_source();
                }
                let mut wanted = to_strings(&toolchain::DEBIAN_RUST);
                wanted.extend(toolchain::debian_llvm().map(llvm_packages).unwrap_or_default());
                self.install.extend(packages::missing(&wanted));
            }
            None => self.by_hand.push(toolchain::describe_need()),
        }
    }

    fn is_empty(&self) -> bool {
        self.install.is_empty() && self.unpack.is_empty() && self.bpf_linker.is_none() && self.by_hand.is_empty()
    }

    fn describe(&self) -> String {
        let mut lines = String::new();
        let mut add = |what: &str, list: &[String]| {
            if !list.is_empty() {
                lines.push_str(&format!("  {what}: {}\n", list.join(" ")));
            }
        };
        add("add to apt's sources", self.source.as_slice());
        add("install by apt", &self.install);
        add("unpack under target/tools, not installed", &self.unpack);
        let linker = self.bpf_linker.as_ref();
        add(
            "build into target/tools/bin",
            &Vec::from_iter(linker.map(|l| format!("bpf-linker {BPF_LINKER} for LLVM {}", l.llvm))),
        );
        add("bring by hand", &self.by_hand);
        lines
    }

    fn needs_apt(&self) -> bool {
        !self.install.is_empty() || !self.unpack.is_empty()
    }

    /// Brings apt's lists up to date, with the suite that has the compiler.
    fn refresh(&self, agreed: bool) -> Result<()> {
        if let Some(line) = &self.source {
            eprintln!("setup needs Debian's security updates in apt's sources:\n  {line}");
            agree(agreed)?;
            add_source(line)?;
        }
        Progress::new(1).step("refresh apt's package lists", "apt-update", &mut packages::update()?)
    }

    fn carry_out(&self) -> Result<()> {
        let steps = [!self.install.is_empty(), !self.unpack.is_empty(), self.bpf_linker.is_some()];
        let mut progress = Progress::new(steps.iter().filter(|step| **step).count());
        if !self.install.is_empty() {
            let title = format!("install {} packages with apt", self.install.len());
            progress.step(&title, "apt-install", &mut packages::install(&self.install)?)?;
        }
        if !self.unpack.is_empty() {
            let title = format!("unpack {} packages under target/tools", self.unpack.len());
            let root = tools().join("root");
            let mut commands = packages::unpack(&self.unpack, &tools().join("packages"), &root)?;
            progress.steps(&title, "unpack", &mut commands)?;
        }
        if let Some(linker) = &self.bpf_linker {
            let title = format!("build bpf-linker {BPF_LINKER} for LLVM {}", linker.llvm);
            progress.step(&title, "bpf-linker", &mut linker.command())?;
            write(&linker_stamp(), &linker.llvm.to_string())?;
        }
        Ok(())
    }
}

impl Linker {
    fn command(&self) -> Command {
        let mut command = cargo();
        command.args([
            "install",
            "bpf-linker",
            "--version",
            BPF_LINKER,
            "--no-default-features",
            "--locked",
            "--force",
        ]);
        command.arg("--features").arg(format!("llvm-{}", self.llvm)).arg("--root").arg(tools());
        // A target directory of its own: cargo install would otherwise build in the workspace's.
        command.env("CARGO_TARGET_DIR", tools().join("build")).env("LLVM_PREFIX", &self.prefix);
        command.env_remove("RUSTFLAGS").env_remove("CARGO_ENCODED_RUSTFLAGS");
        command
    }
}

impl Seen {
    fn is_there(&self) -> bool {
        match self {
            Self::Program(name) => on_path(name).is_some(),
            Self::File(path) => PathBuf::from(path).exists() || std::env::var_os("PROTOC_INCLUDE").is_some(),
        }
    }
}

fn llvm_packages(major: u32) -> Vec<String> {
    vec![format!("llvm-{major}-dev"), format!("libpolly-{major}-dev"), "zlib1g-dev".into(), "libzstd-dev".into()]
}

fn to_strings(names: &[&str]) -> Vec<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

fn add_source(line: &str) -> Result<()> {
    let staged = tools().join("security.list");
    write(&staged, &format!("{line}\n"))?;
    let target = "/etc/apt/sources.list.d/diolkos-security.list";
    crate::workspace::output(privileged("cp")?.arg(staged).arg(target)).map(drop)
}

/// Asks, unless CI or `--yes` has answered.
fn agree(agreed: bool) -> Result<()> {
    if agreed {
        return Ok(());
    }
    if !io::stdin().is_terminal() {
        return Err("nobody is here to ask: say `--yes` to bring these".into());
    }
    eprint!("Go on? [Y/n] ");
    let _ = io::stderr().flush();
    let mut answer = String::new();
    io::stdin().lock().read_line(&mut answer).map_err(|e| format!("cannot read the answer: {e}"))?;
    let yes = matches!(answer.trim(), "" | "y" | "Y" | "yes");
    if yes { Ok(()) } else { Err("stopped: nothing was changed".into()) }
}

fn in_ci() -> bool {
    std::env::var("CI").is_ok_and(|value| !value.is_empty() && value != "false")
}

fn stamp() -> PathBuf {
    tools().join("verified.json")
}

fn linker_stamp() -> PathBuf {
    tools().join("bpf-linker.llvm")
}

fn linker_is_for(llvm: u32) -> bool {
    if !packages::is_debian() && toolchain::has("bpf-linker") {
        return true;
    }
    unpacked("bpf-linker").is_some()
        && fs::read_to_string(linker_stamp()).is_ok_and(|text| text.trim() == llvm.to_string())
}

/// What the last setup verified, when every part is still there.
fn verified() -> Option<Toolchain> {
    let value: Value = serde_json::from_str(&fs::read_to_string(stamp()).ok()?).ok()?;
    let current = value["version"] == json!(version());
    let programs = value["programs"]
        .as_array()?
        .iter()
        .all(|path| path.as_str().is_some_and(|path| PathBuf::from(path).is_file()));
    let installed = INSTALLED.iter().all(|(_, seen)| seen.is_there());
    if current && programs && installed { Toolchain::from_json(&value["toolchain"]) } else { None }
}

/// Changes when the lists above do, so that an older stamp is not trusted.
fn version() -> String {
    let packages = UNPACKED.iter().map(|(package, _)| *package).collect::<Vec<_>>().join(" ");
    format!("bpf-linker {BPF_LINKER}; {packages}")
}

/// Checks that every program finds its libraries, and writes the stamp.
fn remember(toolchain: Toolchain) -> Result<Toolchain> {
    let mut programs = vec![toolchain.cargo.clone()];
    let libraries = packages::library_directories(&tools().join("root"));
    for (package, name) in UNPACKED {
        let Some(path) = unpacked(name).or_else(|| on_path(name)) else { continue };
        let unresolved = packages::unresolved(&path, &libraries);
        if !unresolved.is_empty() {
            return Err(format!(
                "{name} of {package} lacks {}: install the packages that contain them, or remove {} and run setup again",
                unresolved.join(", "),
                tools().display()
            ));
        }
        programs.push(path);
    }
    programs.extend(unpacked("bpf-linker"));
    let value = json!({ "version": version(), "toolchain": toolchain.to_json(), "programs": programs });
    write(&stamp(), &format!("{value:#}\n"))?;
    Ok(toolchain)
}
