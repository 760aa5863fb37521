//! What every change has to satisfy. All checks run; all offenders are reported.

use clap::Args;

use crate::Result;
use crate::build;
use crate::elf;
use crate::features;
use crate::schema;
use crate::workspace::{cargo, files, pass_through, read, root};

mod crates;
mod source;

/// Files that may contain `unsafe`: layouts shared with the kernel, programs in it, and bpf(2).
const UNSAFE: [&str; 4] = [
    "ebpf/abi/src/user.rs",
    "ebpf/programs/src/",
    "userspace/agent/src/dataplane/kernel/syscall.rs",
    "tests/tests/kernel/sockets.rs",
];
/// Names that say nothing about what is inside.
const FORBIDDEN_MODULES: [&str; 4] = ["utils", "common", "helpers", "types"];

#[derive(Args)]
pub(crate) struct Arguments {
    /// Leave out clippy, the slow one
    #[arg(long)]
    quick: bool,
}

pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    let mut problems = Vec::new();
    let mut check = |name: &str, found: Result<Vec<String>>| {
        let found = found.unwrap_or_else(|problem| vec![problem]);
        eprintln!("{} {name}", if found.is_empty() { "ok    " } else { "FAILED" });
        found.iter().for_each(|problem| eprintln!("         {problem}"));
        problems.extend(found);
    };
    check("format", command(&["fmt", "--all", "--check"]));
    check("sources: sizes, unsafe, module names", sources());
    check("dependency direction", crates::direction());
    check("licences and bans", crates::licences());
    check("features", features::load().and_then(|features| features::check_readme(&features)).map(|()| Vec::new()));
    check("no byte loops in the eBPF objects", objects());
    if !arguments.quick {
        check("schemas", schema::run(&schema::Arguments { check: true }).map(|()| Vec::new()));
        check("lints", command(&["clippy", "--locked", "--all-targets", "--", "-D", "warnings"]));
    }
    if problems.is_empty() { Ok(()) } else { Err(format!("{} problems", problems.len())) }
}

fn command(arguments: &[&str]) -> Result<Vec<String>> {
    pass_through(cargo().args(arguments)).map(|()| Vec::new())
}

fn sources() -> Result<Vec<String>> {
    let mut found = Vec::new();
    for path in files()?.iter().filter(|path| path.extension().is_some_and(|extension| extension == "rs")) {
        let shown = path.display().to_string();
        let text = read(&root().join(path))?;
        found.extend(source::sizes(&text).into_iter().map(|problem| format!("{shown}{problem}")));
        if !UNSAFE.iter().any(|allowed| shown.starts_with(allowed)) {
            found.extend(
                source::unsafe_lines(&text)
                    .into_iter()
                    .map(|line| format!("{shown}:{line}: `unsafe` outside its places")),
            );
        }
        let stem = path.file_stem().map(|stem| stem.to_string_lossy().into_owned()).unwrap_or_default();
        let directory =
            path.parent().and_then(|parent| parent.file_name()).map(|name| name.to_string_lossy().into_owned());
        if FORBIDDEN_MODULES.iter().any(|name| *name == stem || directory.as_deref() == Some(name)) {
            found.push(format!("{shown}: a module's name says what is inside"));
        }
    }
    Ok(found)
}

/// A call of memset or memcpy in an eBPF object is a loop over bytes in the packet path.
fn objects() -> Result<Vec<String>> {
    let mut found = Vec::new();
    for name in build::OBJECTS {
        let path = build::object(name);
        let bytes = std::fs::read(&path).map_err(|e| format!("{}: {e}: run `cargo xtask build`", path.display()))?;
        let called = elf::called(&bytes).ok_or_else(|| format!("{} is no eBPF object", path.display()))?;
        let loops = called.iter().filter(|name| name.starts_with("mem") || *name == "bcmp");
        found.extend(loops.map(|function| format!("{}: calls {function}", path.display())));
    }
    Ok(found)
}
