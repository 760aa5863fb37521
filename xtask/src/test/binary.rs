//! Test binaries, found through cargo's own messages.

use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Command, Stdio};

use serde_json::Value;

use super::{SUITES, Suite};
use crate::Result;
use crate::build;
use crate::workspace::{cargo, describe};

const INTEGRATION: &str = "diolkos-tests";
/// More of them, with dependencies that the others do without.
const CLIENTS: &str = "diolkos-clients";
/// Cargo builds dependencies again for another selection that asks for other features of them: with these two it asks
/// for those of the whole workspace.
const PACKAGES: [&str; 4] = ["--package", INTEGRATION, "--package", CLIENTS];
/// Benchmarks of user-space code, or with clients that must not be what limits.
const OPTIMIZED_BENCHES: [&str; 2] = ["control-plane", "programming"];

/// One executable of libtest.
#[derive(Debug)]
pub(crate) struct Binary {
    pub(crate) suite: &'static str,
    /// The cargo target's name.
    pub(crate) name: String,
    /// What its tests' names start with: the target's name, behind the package's for the integration
    /// tests of other crates.
    pub(crate) prefix: String,
    pub(crate) executable: PathBuf,
    /// Its package's directory, where cargo would run it.
    pub(crate) directory: PathBuf,
}

impl Binary {
    /// Compiles and returns the test binaries of all suites. Always the same selection of packages and
    /// targets: with another one cargo would build the dependencies again, with other features.
    pub(crate) fn build_all() -> Result<Vec<Self>> {
        let mut command = cargo();
        command.args(["test", "--locked", "--no-run", "--workspace", "--exclude", "diolkos-programs"]);
        command.args(["--lib", "--bins", "--tests"]);
        let found = compile(&mut command)?;
        Ok(found.iter().filter_map(|message| SUITES.iter().find_map(|suite| Self::of(suite, message))).collect())
    }

    /// Compiles one benchmark, and returns its executable. Most run what is measured in the kernel, so they are compiled
    /// as the tests are. Those that measure code of their own process take the profile and the packages of the release
    /// binaries: with others cargo would build every dependency once more.
    pub(crate) fn build_bench(name: &str) -> Result<PathBuf> {
        let mut command = cargo();
        command.args(["bench", "--locked", "--no-run", "--bench", name]);
        if OPTIMIZED_BENCHES.contains(&name) {
            command.arg("--profile=release").args(build::released());
        } else {
            command.arg("--profile=dev").args(PACKAGES);
        }
        let messages = compile(&mut command)?;
        let executable = messages.iter().find_map(|message| message["executable"].as_str());
        executable.map(PathBuf::from).ok_or_else(|| format!("cargo built no executable for the benchmark {name}"))
    }

    /// Compiles one test binary of diolkos-tests, and returns its executable.
    pub(crate) fn build_test(name: &str) -> Result<PathBuf> {
        let mut command = cargo();
        command.args(["test", "--locked", "--no-run", "--test", name]).args(PACKAGES);
        let messages = compile(&mut command)?;
        let executable = messages.iter().find_map(|message| message["executable"].as_str());
        executable.map(PathBuf::from).ok_or_else(|| format!("cargo built no executable for the tests {name}"))
    }

    /// Those of `tests` that are in this binary, without its prefix.
    pub(crate) fn own(&self, tests: &[String]) -> Vec<String> {
        let prefix = format!("{}::", self.prefix);
        tests.iter().filter_map(|test| test.strip_prefix(&prefix)).map(str::to_owned).collect()
    }

    /// The executable, when it belongs to the suite.
    fn of(suite: &Suite, message: &Value) -> Option<Self> {
        let mut binary = Self::read(message, suite.name)?;
        let package = package(message)?;
        let integration = message["target"]["kind"][0] == "test";
        if [INTEGRATION, CLIENTS].contains(&package) && integration {
            return suite.binaries.contains(&binary.name.as_str()).then_some(binary);
        }
        if integration {
            binary.prefix = format!("{}::{}", package.replace('-', "_"), binary.name);
        }
        suite.binaries.is_empty().then_some(binary)
    }

    fn read(message: &Value, suite: &'static str) -> Option<Self> {
        let name = message["target"]["name"].as_str()?.to_owned();
        let manifest = PathBuf::from(message["manifest_path"].as_str()?);
        Some(Self {
            suite,
            prefix: name.replace('-', "_"),
            name,
            executable: message["executable"].as_str()?.into(),
            directory: manifest.parent()?.into(),
        })
    }
}

/// Its package's name: ids end in `#NAME@VERSION`, or in `/NAME#VERSION`.
fn package(message: &Value) -> Option<&str> {
    let (path, end) = message["package_id"].as_str()?.split_once('#')?;
    end.split_once('@').map(|(name, _)| name).or_else(|| path.rsplit('/').next())
}

/// A test or benchmark, not a plain binary built on the way. A benchmark without libtest's harness has
/// no test profile, so its kind tells.
fn is_harnessed(message: &Value) -> bool {
    let tested = message["profile"]["test"] == true || message["target"]["kind"][0] == "bench";
    tested && message["executable"].is_string()
}

/// Runs `cargo test --no-run` and returns its messages about test executables, in a stable order.
fn compile(command: &mut Command) -> Result<Vec<Value>> {
    command.arg("--message-format=json-render-diagnostics").stdout(Stdio::piped());
    let shown = describe(command);
    let mut child = command.spawn().map_err(|e| format!("cannot run `{shown}`: {e}"))?;
    let stdout = child.stdout.take().ok_or("cargo has no output")?;
    let lines = BufReader::new(stdout).lines().map_while(|line| line.ok());
    let messages = lines.filter_map(|line| serde_json::from_str::<Value>(&line).ok());
    let mut tests: Vec<Value> = messages.filter(is_harnessed).collect();
    let status = child.wait().map_err(|e| format!("cannot wait for `{shown}`: {e}"))?;
    if !status.success() {
        return Err(format!("the tests do not compile: `{shown}` failed ({status})"));
    }
    tests.sort_by_key(|message| (message["manifest_path"].to_string(), message["target"]["name"].to_string()));
    Ok(tests)
}
