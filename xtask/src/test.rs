//! Runs the suites. A suite that cannot run has failed.

use clap::Args;

use crate::Result;
use crate::build;
use crate::kernels;
use crate::results::{Outcome, Results};
use crate::workspace::is_root;

mod binary;
pub(crate) mod libtest;

pub(crate) use binary::Binary;

/// A suite: its test binaries, and how they have to run.
pub(crate) struct Suite {
    pub(crate) name: &'static str,
    /// Binaries of diolkos-tests and diolkos-clients; none for `unit`, which is every other crate.
    binaries: &'static [&'static str],
    /// Creates namespaces, loads programs or starts servers: root, and one test at a time.
    system: bool,
    /// Seconds it may take on two cores; after twice as long it is stopped.
    budget: u64,
}

pub(crate) const SUITES: [Suite; 9] = [
    Suite { name: "unit", binaries: &[], system: false, budget: 180 },
    Suite { name: "kernel", binaries: &["kernel"], system: true, budget: 90 },
    Suite { name: kernels::SUITE, binaries: &[kernels::SUITE], system: false, budget: 150 },
    Suite { name: "store", binaries: &["store", "kube_rs"], system: true, budget: 60 },
    Suite { name: "netns", binaries: &["netns", "pods"], system: true, budget: 180 },
    Suite { name: "kubectl", binaries: &["kubectl"], system: true, budget: 90 },
    Suite { name: "up", binaries: &["up"], system: true, budget: 150 },
    Suite { name: "cri", binaries: &["cri"], system: true, budget: 90 },
    Suite { name: "e2e", binaries: &["harness", "e2e"], system: true, budget: 540 },
];

impl Suite {
    /// Is `binary::path::to::test` one of this suite's?
    pub(crate) fn holds(&self, test: &str) -> bool {
        let binary = test.split("::").next().unwrap_or_default();
        match self.binaries {
            [] => !SUITES.iter().any(|suite| suite.binaries.contains(&binary)),
            names => names.contains(&binary),
        }
    }
}

#[derive(Args)]
pub(crate) struct Arguments {
    /// unit, kernel, kernels, store, netns, kubectl, up, cri, e2e; all when none is named
    #[arg(value_parser = SUITES.map(|suite| suite.name))]
    suites: Vec<String>,
    /// Bring what is missing without asking
    #[arg(long)]
    yes: bool,
}

pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    let chosen: Vec<&Suite> = SUITES
        .iter()
        .filter(|suite| arguments.suites.is_empty() || arguments.suites.iter().any(|name| name == suite.name))
        .collect();
    for suite in &chosen {
        eprintln!("{:8} at most {} s once built", suite.name, suite.budget);
    }
    build::everything(arguments.yes)?;
    let mut results = Results::of_this_tree()?;
    let binaries = Binary::build_all()?;
    let mut outcomes = Vec::new();
    let mut problems = Vec::new();
    for suite in chosen {
        match run_suite(suite, &binaries, None) {
            Ok(mut done) => outcomes.append(&mut done),
            Err(problem) => problems.push(format!("suite {} could not run: {problem}", suite.name)),
        }
    }
    finish(&mut results, &outcomes, &problems)
}

/// Runs one suite, or of it only the tests named. Prints a line a test as it ends.
pub(crate) fn run_suite(suite: &Suite, binaries: &[Binary], only: Option<&[String]>) -> Result<Vec<Outcome>> {
    if suite.system && !is_root() && crate::workspace::on_path("sudo").is_none() {
        return Err("it needs root: run it as root or with sudo".into());
    }
    eprintln!("== {}", suite.name);
    if suite.name == kernels::SUITE {
        return kernels::run_suite(binaries, only);
    }
    for name in suite.binaries {
        if !binaries.iter().any(|binary| binary.suite == suite.name && binary.name == *name) {
            return Err(format!("there is no test binary {name}.rs in tests/tests or tests/clients/tests"));
        }
    }
    let mut outcomes = Vec::new();
    for binary in binaries.iter().filter(|binary| binary.suite == suite.name) {
        let exact = only.map(|tests| binary.own(tests));
        if exact.as_ref().is_some_and(Vec::is_empty) {
            continue;
        }
        outcomes.append(&mut libtest::run(suite, binary, exact.as_deref().unwrap_or_default())?);
    }
    if outcomes.is_empty() { Err("it has no tests".into()) } else { Ok(outcomes) }
}

fn finish(results: &mut Results, outcomes: &[Outcome], problems: &[String]) -> Result<()> {
    results.add(outcomes);
    let saved = results.save();
    let failed: Vec<&Outcome> = outcomes.iter().filter(|outcome| !outcome.passed).collect();
    for outcome in &failed {
        eprintln!("failed: {} {}", outcome.suite, outcome.test);
    }
    for problem in problems {
        eprintln!("failed: {problem}");
    }
    match &saved {
        Ok(path) => eprintln!("results: {}", path.display()),
        Err(problem) => eprintln!("warning: {problem}"),
    }
    let lost = failed.len() + problems.len();
    println!("{} passed, {lost} failed", outcomes.len() - failed.len());
    // That was the last line, and it says all: the failure is the exit code.
    if lost == 0 { Ok(()) } else { Err(String::new()) }
}
