//! Writes the schemas that the apiserver publishes.

use clap::Args;

use crate::Result;
use crate::workspace::{cargo, pass_through, root};

/// The file, below the root of the repository.
const DEFINITIONS: &str = "controlplane/apiserver/src/rest/openapi/definitions.json";

#[derive(Args)]
pub(crate) struct Arguments {
    /// Only say whether the file is what the types say
    #[arg(long)]
    pub(crate) check: bool,
}

pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    let path = root().join(DEFINITIONS);
    let mut command = cargo();
    command.args(["run", "--locked", "--quiet", "--package", "diolkos-schema", "--"]);
    if arguments.check {
        command.arg("--check");
    }
    pass_through(command.arg(path))
}
