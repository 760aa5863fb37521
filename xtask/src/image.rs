//! Builds the offline container images without Docker.

use std::process::Command;

use clap::Args;

use crate::Result;
use crate::build;
use crate::workspace::{cargo_target, pass_through};

#[derive(Args)]
pub(crate) struct Arguments {
    /// Bring what is missing without asking
    #[arg(long)]
    yes: bool,
}

pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    build::everything(arguments.yes)?;
    pass_through(&mut Command::new(cargo_target().join("release/images")))
}
