//! A call of the runtime: its environment and standard input.

use std::collections::BTreeMap;
use std::env;
use std::io::{self, Read};

use serde_json::{Map, Value, json};

use crate::{FALLBACK_VERSION, Failure, code};

/// The longest configuration, bytes: what the agent takes, less room for the environment.
const MAX_CONFIG: u64 = (1 << 20) - (1 << 14);

pub(crate) struct Call {
    pub(crate) command: String,
    pub(crate) container_id: String,
    pub(crate) netns: String,
    pub(crate) ifname: String,
    pub(crate) args: BTreeMap<String, String>,
    pub(crate) config: Map<String, Value>,
}

impl Call {
    pub(crate) fn read() -> Result<Self, Failure> {
        let command = variable("CNI_COMMAND");
        if command.is_empty() {
            let usage = "diolkos CNI plugin: called by container runtimes with CNI_COMMAND in the environment and the \
                         network configuration on standard input";
            return Err(own(FALLBACK_VERSION, code::INVALID_ENVIRONMENT, usage.into()));
        }
        let config = configuration()?;
        let mut call = Self {
            command,
            container_id: variable("CNI_CONTAINERID"),
            netns: variable("CNI_NETNS"),
            ifname: variable("CNI_IFNAME"),
            args: BTreeMap::new(),
            config,
        };
        call.args =
            arguments(&variable("CNI_ARGS")).map_err(|message| call.failure(code::INVALID_ENVIRONMENT, &message))?;
        Ok(call)
    }

    /// The version the runtime speaks.
    pub(crate) fn version(&self) -> &str {
        self.config.get("cniVersion").and_then(Value::as_str).unwrap_or(FALLBACK_VERSION)
    }

    pub(crate) fn failure(&self, code: u32, message: &str) -> Failure {
        own(self.version(), code, message.to_owned())
    }

    pub(crate) fn to_request(&self) -> Value {
        json!({
            "command": self.command,
            "containerId": self.container_id,
            "netns": self.netns,
            "ifname": self.ifname,
            "args": self.args,
            "config": self.config,
        })
    }
}

fn own(version: &str, code: u32, message: String) -> Failure {
    Failure::Own { version: version.to_owned(), code, message }
}

fn variable(name: &str) -> String {
    env::var(name).unwrap_or_default()
}

fn configuration() -> Result<Map<String, Value>, Failure> {
    let mut text = Vec::new();
    io::stdin()
        .take(MAX_CONFIG)
        .read_to_end(&mut text)
        .map_err(|error| own(FALLBACK_VERSION, code::IO, format!("cannot read standard input: {error}")))?;
    if text.len() as u64 >= MAX_CONFIG {
        let message = format!("the network configuration has more than {MAX_CONFIG} bytes");
        return Err(own(FALLBACK_VERSION, code::DECODE, message));
    }
    serde_json::from_slice(&text).map_err(|error| {
        own(FALLBACK_VERSION, code::DECODE, format!("the network configuration is no JSON object: {error}"))
    })
}

/// `A=1;B=2`.
fn arguments(text: &str) -> Result<BTreeMap<String, String>, String> {
    let pair = |item: &str| match item.split_once('=') {
        Some((name, value)) => Ok((name.to_owned(), value.to_owned())),
        None => Err(format!("CNI_ARGS: {item:?} is no NAME=VALUE")),
    };
    text.split(';').filter(|item| !item.is_empty()).map(pair).collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::arguments;

    #[test]
    fn arguments_are_pairs_between_semicolons() {
        let args = arguments("IgnoreUnknown=1;K8S_POD_NAME=web;EMPTY=;EQ=a=b;").unwrap();
        assert_eq!((args["K8S_POD_NAME"].as_str(), args["EMPTY"].as_str(), args["EQ"].as_str()), ("web", "", "a=b"));
        assert!(arguments("").unwrap().is_empty());
        assert!(arguments("NOVALUE").unwrap_err().contains("NOVALUE"));
    }
}
