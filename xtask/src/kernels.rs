//! The kernel suites on Debian's older kernels, in virtual machines under emulation.
//!
//! The very test binaries that run on this machine run there, packed with their libraries into an initial file system.
//! Their results are entries like all others, `kernels::linux_6_1::TEST`.

use clap::Args;

use crate::Result;
use crate::build;
use crate::results::{Outcome, Results};
use crate::test::Binary;

mod archive;
mod guest;
mod machine;
mod packages;
mod table;

/// A kernel of the matrix.
pub(crate) struct Kernel {
    /// As the operator and the table name it.
    pub(crate) version: &'static str,
    /// What its tests' names start with.
    pub(crate) module: &'static str,
}

/// The oldest that is supported, the two of Debian's current releases.
pub(crate) const KERNELS: [Kernel; 3] = [
    Kernel { version: "5.10", module: "linux_5_10" },
    Kernel { version: "6.1", module: "linux_6_1" },
    Kernel { version: "6.12", module: "linux_6_12" },
];

/// The kernel whose run is part of `cargo xtask test`.
const SHORT: &str = "6.1";
/// The suite's name, and what all its tests' names start with.
pub(crate) const SUITE: &str = "kernels";
/// The test binaries that run in a machine, and which of their tests, by parts of their names; all when none is said.
const INSIDE: [(&str, &[&str]); 2] = [("kernel", &[]), ("netns", NETNS)];
/// The others take minutes under emulation, or want more of a machine than its initial file system has.
const NETNS: &[&str] = &[
    "check::",
    "conformance::",
    "pins::",
    "upgrade::",
    "sockets::",
    "refuses_at_once",
    "through_service_and_overlay",
    "by_their_own_addresses_beside_masquerade",
];

#[derive(Args)]
pub(crate) struct Arguments {
    /// 5.10, 6.1, 6.12; all when none is named
    #[arg(value_parser = KERNELS.map(|kernel| kernel.version))]
    kernels: Vec<String>,
    /// Run only the tests whose names contain this
    #[arg(long, value_name = "TEXT")]
    filter: Option<String>,
    /// Take the table of verified instructions that comes out for the one to hold from now on
    #[arg(long)]
    update: bool,
    /// Bring what is missing without asking
    #[arg(long)]
    yes: bool,
}

pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    build::run(&build::Arguments { ebpf: true, yes: arguments.yes })?;
    let binaries = Binary::build_all()?;
    let mut results = Results::of_this_tree()?;
    let mut outcomes = Vec::new();
    let mut measured = table::Table::default();
    for kernel in &KERNELS {
        if arguments.kernels.is_empty() || arguments.kernels.iter().any(|version| version == kernel.version) {
            let filter = arguments.filter.iter().cloned().collect();
            let ran = boot(kernel, &binaries, &machine::Selection { tests: filter, exact: false })?;
            measured.add(kernel.version, &ran.notes);
            outcomes.extend(ran.outcomes);
        }
    }
    results.add(&outcomes);
    if let Err(problem) = results.save() {
        eprintln!("warning: {problem}");
    }
    measured.compare(arguments.update)?;
    let failed = outcomes.iter().filter(|outcome| !outcome.passed).count();
    println!("{} passed, {failed} failed", outcomes.len() - failed);
    if failed == 0 { Ok(()) } else { Err(String::new()) }
}

/// The suite of `cargo xtask test` and `features`: one kernel, or those of the tests named.
pub(crate) fn run_suite(binaries: &[Binary], only: Option<&[String]>) -> Result<Vec<Outcome>> {
    let mut outcomes = Vec::new();
    for kernel in &KERNELS {
        let prefix = format!("{SUITE}::{}::", kernel.module);
        let tests: Option<Vec<String>> =
            only.map(|tests| tests.iter().filter_map(|test| test.strip_prefix(&prefix)).map(str::to_owned).collect());
        let selection = match tests {
            Some(tests) if tests.is_empty() => continue,
            Some(tests) => machine::Selection { tests, exact: true },
            None if kernel.version != SHORT => continue,
            None => machine::Selection { tests: Vec::new(), exact: false },
        };
        let ran = boot(kernel, binaries, &selection)?;
        if only.is_none() {
            let mut measured = table::Table::default();
            measured.add(kernel.version, &ran.notes);
            measured.compare(false)?;
        }
        outcomes.extend(ran.outcomes);
    }
    Ok(outcomes)
}

fn boot(kernel: &Kernel, binaries: &[Binary], selection: &machine::Selection) -> Result<machine::Ran> {
    let find = |(name, own): &(&str, &'static [&'static str])| {
        let binary = binaries.iter().find(|binary| binary.name == *name && binary.suite == *name);
        binary.map(|binary| (binary, *own)).ok_or_else(|| format!("the test binary {name} is missing"))
    };
    let inside = INSIDE.iter().map(find).collect::<Result<Vec<_>>>()?;
    let files = packages::ensure(kernel)?;
    let image = guest::build(kernel, &files, &inside, selection)?;
    machine::run(kernel, &files, &image)
}
