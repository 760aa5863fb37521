//! Benchmarks: tests/benches/NAME.rs, each beside its baselines in one interleaved run.

use std::path::PathBuf;
use std::process::Command;

use clap::Args;
use serde_json::Value;

use crate::Result;
use crate::build;
use crate::test::Binary;
use crate::workspace::{pass_through, privileged, root, target};

#[derive(Args)]
pub(crate) struct Arguments {
    /// Names of files in tests/benches
    #[arg(required = true)]
    names: Vec<String>,
    /// Write the figures here, for one benchmark; otherwise they go to target/results
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Bring what is missing without asking
    #[arg(long)]
    yes: bool,
    /// What the benchmark itself takes, after `--`, for one benchmark
    #[arg(last = true, value_name = "FLAG")]
    flags: Vec<String>,
}

pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    if arguments.json.is_some() && arguments.names.len() > 1 {
        return Err("--json takes one benchmark at a time".into());
    }
    if !arguments.flags.is_empty() && arguments.names.len() > 1 {
        return Err("flags after -- are those of one benchmark".into());
    }
    for name in &arguments.names {
        let source = root().join("tests/benches").join(format!("{name}.rs"));
        if !source.is_file() {
            return Err(format!("there is no benchmark {}", source.display()));
        }
    }
    build::everything(arguments.yes)?;
    for name in &arguments.names {
        let file = match &arguments.json {
            Some(file) => std::path::absolute(file).map_err(|e| format!("{}: {e}", file.display()))?,
            None => target().join("results").join(format!("bench-{name}.json")),
        };
        std::fs::create_dir_all(target().join("results")).map_err(|e| format!("cannot create target/results: {e}"))?;
        pass_through(command(&Binary::build_bench(name)?, &file)?.args(&arguments.flags))?;
        check(name, &file)?;
        eprintln!("bench {name}: {}, and .md and .svg beside it", file.display());
    }
    Ok(())
}

fn command(executable: &std::path::Path, file: &std::path::Path) -> Result<Command> {
    let mut command = privileged(executable)?;
    command.arg("--json").arg(file).current_dir(root());
    for (flag, extension) in [("--markdown", "md"), ("--svg", "svg")] {
        command.arg(flag).arg(file.with_extension(extension));
    }
    Ok(command)
}

/// A benchmark that wrote no rows measured nothing.
fn check(name: &str, file: &std::path::Path) -> Result<()> {
    let value: Value = serde_json::from_str(&crate::workspace::read(file)?)
        .map_err(|e| format!("bench {name} wrote no JSON into {}: {e}", file.display()))?;
    match value["rows"].as_array() {
        Some(rows) if !rows.is_empty() => Ok(()),
        _ => Err(format!("bench {name} wrote no rows into {}", file.display())),
    }
}
