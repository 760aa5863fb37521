//! `cargo xtask`: everything around the build. Each command is one file; each installs, builds or
//! spawns what the others need, so that a fresh machine needs nothing but this one.

use std::process::ExitCode;

use clap::{Parser, Subcommand};

mod bench;
mod build;
mod campaign;
mod demo;
mod features;
mod image;
mod kernels;
mod schema;
mod setup;
mod test;
mod tidy;

mod elf;
mod packages;
mod progress;
mod results;
mod toolchain;
mod workspace;

/// Failures are sentences for the operator: what, where, what to do. Empty: all was said already.
type Result<T, E = String> = std::result::Result<T, E>;

#[derive(Parser)]
#[command(name = "cargo xtask", about = "Builds, tests, measures and demonstrates Diolkos", version)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Find or bring what is missing: compilers and headers by apt, servers and tools under target/tools
    Setup(setup::Arguments),
    /// Build the eBPF objects into target/ebpf, then the binaries in release
    Build(build::Arguments),
    /// Start a cluster on this machine and measure a Service with iperf3
    Demo(demo::Arguments),
    /// Run test suites; ends with `N passed, N failed`
    Test(test::Arguments),
    /// Join tests/features.toml with the results, run what has none, write the README's table
    Features(features::Arguments),
    /// Run benchmarks, each beside its baselines
    Bench(bench::Arguments),
    /// Run the long size of a test and keep its figures in docs/results
    Campaign(campaign::Arguments),
    /// Run the kernel suites on Debian's 5.10, 6.1 and 6.12 in virtual machines under emulation
    Kernels(kernels::Arguments),
    /// Build the offline container images without Docker
    Image(image::Arguments),
    /// Write the schemas of OpenAPI from the types of k8s-openapi, or check what is there
    Schema(schema::Arguments),
    /// Format, lints, sizes, dependency direction, licences and bans
    Tidy(tidy::Arguments),
}

fn main() -> ExitCode {
    let outcome = match Arguments::parse().command {
        Command::Setup(arguments) => setup::run(&arguments),
        Command::Build(arguments) => build::run(&arguments),
        Command::Demo(arguments) => demo::run(&arguments),
        Command::Test(arguments) => test::run(&arguments),
        Command::Features(arguments) => features::run(&arguments),
        Command::Bench(arguments) => bench::run(&arguments),
        Command::Campaign(arguments) => campaign::run(&arguments),
        Command::Kernels(arguments) => kernels::run(&arguments),
        Command::Image(arguments) => image::run(&arguments),
        Command::Schema(arguments) => schema::run(&arguments),
        Command::Tidy(arguments) => tidy::run(&arguments),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            if !message.is_empty() {
                eprintln!("error: {message}");
            }
            ExitCode::FAILURE
        }
    }
}
