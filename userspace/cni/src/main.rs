//! The CNI plugin: one call to the node's agent.
//!
//! The runtime's environment and standard input go to the agent as one line of JSON over a unix socket; its answer is
//! printed. The agent decides everything, except what must work without it: VERSION, and DEL, which succeeds with the
//! agent away (the agent collects what is left when it is back) so that pods can be deleted while it is upgraded.
//!
//! Called by the name `loopback` it answers for the plugin that container runtimes use for `lo`.

mod agent;
mod environment;
mod loopback;

use std::process::ExitCode;

use serde_json::{Value, json};

use agent::Trouble;
use environment::Call;

/// The versions of the CNI specification that the agent speaks.
const VERSIONS: [&str; 3] = ["0.4.0", "1.0.0", "1.1.0"];
/// What an error says its version is where the call's is unknown: every runtime reads it.
const FALLBACK_VERSION: &str = "1.0.0";

fn main() -> ExitCode {
    let name = std::env::args().next().unwrap_or_default();
    let called_as_loopback = name.rsplit('/').next() == Some("loopback");
    let answer = match Call::read() {
        Ok(call) if called_as_loopback => loopback::answer(&call),
        Ok(call) => answer(&call),
        Err(failure) => Err(failure),
    };
    match answer {
        Ok(Value::Null) => ExitCode::SUCCESS,
        Ok(result) => {
            println!("{result}");
            ExitCode::SUCCESS
        }
        Err(failure) => {
            println!("{}", failure.to_json());
            ExitCode::FAILURE
        }
    }
}

fn answer(call: &Call) -> Result<Value, Failure> {
    if call.command == "VERSION" {
        return Ok(json!({ "cniVersion": "1.1.0", "supportedVersions": VERSIONS }));
    }
    let socket = call.config.get("agentSocket").and_then(Value::as_str).ok_or_else(|| {
        call.failure(code::INVALID_CONFIG, "the network configuration has no agentSocket: let the agent write it")
    })?;
    match agent::call(socket, &call.to_request()) {
        Ok(Ok(result)) => Ok(result),
        Ok(Err(error)) => Err(Failure::Given(error)),
        Err(Trouble::Away(_)) if call.command == "DEL" => Ok(Value::Null),
        Err(Trouble::Away(reason) | Trouble::Silent(reason)) if call.command == "STATUS" => {
            Err(call.failure(code::NOT_AVAILABLE, &reason))
        }
        Err(Trouble::Away(reason) | Trouble::Silent(reason)) => Err(call.failure(code::TRY_AGAIN_LATER, &reason)),
        Err(Trouble::Garbled(reason)) => Err(call.failure(code::DECODE, &reason)),
    }
}

/// Error codes of the CNI specification.
mod code {
    pub(crate) const INCOMPATIBLE_VERSION: u32 = 1;
    pub(crate) const INVALID_ENVIRONMENT: u32 = 4;
    pub(crate) const IO: u32 = 5;
    pub(crate) const DECODE: u32 = 6;
    pub(crate) const INVALID_CONFIG: u32 = 7;
    pub(crate) const TRY_AGAIN_LATER: u32 = 11;
    /// STATUS: ADD would fail.
    pub(crate) const NOT_AVAILABLE: u32 = 50;
}

/// An error to print.
enum Failure {
    /// The agent's, printed as it came.
    Given(Value),
    Own {
        version: String,
        code: u32,
        message: String,
    },
}

impl Failure {
    fn to_json(&self) -> Value {
        match self {
            Self::Given(error) => error.clone(),
            Self::Own { version, code, message } => json!({ "cniVersion": version, "code": code, "msg": message }),
        }
    }
}
