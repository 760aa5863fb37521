//! Builds the offline container images without Docker.

use clap::Args;

use crate::Result;
use crate::setup;
use crate::workspace::{cargo, pass_through};

#[derive(Args)]
pub(crate) struct Arguments {
    /// Bring what is missing without asking
    #[arg(long)]
    yes: bool,
}

pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    setup::ensure(&setup::Arguments { yes: arguments.yes })?;
    pass_through(cargo().args(["run", "--locked", "--quiet", "--package", "diolkos-tests", "--example", "images"]))
}
