//! What the CNI plugin and the agent say to each other: one JSON line each way over a unix socket.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// A call of the plugin: its environment and its standard input.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Request {
    /// `CNI_COMMAND`.
    pub command: String,
    /// `CNI_CONTAINERID`.
    pub container_id: String,
    /// `CNI_NETNS`, a path; empty when DEL comes after the namespace is gone.
    pub netns: String,
    /// `CNI_IFNAME`.
    pub ifname: String,
    /// `CNI_ARGS`.
    pub args: BTreeMap<String, String>,
    /// Standard input: the network's configuration.
    pub config: Map<String, Value>,
}

/// The agent's answer. `Result(Value::Null)` for commands that print nothing.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Reply {
    Result(Value),
    Error(ErrorResult),
}

/// An error as the plugin prints it (CNI specification, section 5, "Error").
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ErrorResult {
    pub cni_version: String,
    /// [`code`].
    pub code: u32,
    pub msg: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub details: String,
}

/// Error codes: below 100 from the specification, the others ours.
pub mod code {
    pub const INCOMPATIBLE_VERSION: u32 = 1;
    pub const UNKNOWN_CONTAINER: u32 = 3;
    /// A variable of the environment is missing or wrong.
    pub const INVALID_ENVIRONMENT: u32 = 4;
    pub const IO: u32 = 5;
    pub const DECODE: u32 = 6;
    pub const INVALID_CONFIG: u32 = 7;
    pub const TRY_AGAIN_LATER: u32 = 11;
    /// STATUS: ADD would fail.
    pub const NOT_AVAILABLE: u32 = 50;
    /// STATUS: pods that are attached may not reach everybody.
    pub const LIMITED: u32 = 51;
    /// The kernel refused a step of ours.
    pub const KERNEL: u32 = 100;
    /// No pod address is left.
    pub const POOL_FULL: u32 = 101;
    /// The interface exists and is not ours.
    pub const INTERFACE_EXISTS: u32 = 102;
    /// CHECK found something that is not as ADD made it.
    pub const CHECK_FAILED: u32 = 103;
}

/// The versions of the specification that we speak.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Version {
    V0_4_0,
    V1_0_0,
    V1_1_0,
}

impl Version {
    pub const ALL: [Self; 3] = [Self::V0_4_0, Self::V1_0_0, Self::V1_1_0];
    /// What containerd before 2.0 accepts too.
    pub const DEFAULT: Self = Self::V1_0_0;

    pub fn as_str(self) -> &'static str {
        match self {
            Self::V0_4_0 => "0.4.0",
            Self::V1_0_0 => "1.0.0",
            Self::V1_1_0 => "1.1.0",
        }
    }

    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|version| version.as_str() == text)
    }
}

/// A container's interface: what ADD, DEL and CHECK are about.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key {
    pub container_id: String,
    pub ifname: String,
}

impl Key {
    /// The longest container id; the specification sets none.
    const MAX_CONTAINER_ID: usize = 128;
    /// `IFNAMSIZ` without the final zero.
    const MAX_IFNAME: usize = 15;

    /// Refuses what the specification refuses: both become part of file and device names.
    pub fn new(container_id: &str, ifname: &str) -> Result<Self, String> {
        let inner = |c: char| c.is_ascii_alphanumeric() || "_.-".contains(c);
        if !container_id.starts_with(|c: char| c.is_ascii_alphanumeric()) || !container_id.chars().all(inner) {
            return Err(format!("CNI_CONTAINERID {container_id:?} must be letters, digits, '_', '.' and '-'"));
        }
        if container_id.len() > Self::MAX_CONTAINER_ID {
            return Err(format!("CNI_CONTAINERID has more than {} characters", Self::MAX_CONTAINER_ID));
        }
        let bad = |c: char| c == '/' || c == ':' || c == '%' || c.is_whitespace() || c.is_control();
        let length = ifname.len();
        if !(1..=Self::MAX_IFNAME).contains(&length) || ifname == "." || ifname == ".." || ifname.contains(bad) {
            return Err(format!("CNI_IFNAME {ifname:?} is no name of a device (1 to 15 characters, no '/', ':', '%')"));
        }
        Ok(Self { container_id: container_id.to_owned(), ifname: ifname.to_owned() })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn a_request_is_one_flat_object() {
        let line = r#"{"command":"ADD","containerId":"c1","netns":"/run/netns/x","ifname":"eth0",
            "args":{"K8S_POD_NAME":"web"},"config":{"cniVersion":"1.0.0","name":"diolkos"}}"#;
        let request: Request = serde_json::from_str(line).unwrap();
        assert_eq!((request.container_id.as_str(), request.args["K8S_POD_NAME"].as_str()), ("c1", "web"));
        assert_eq!(request.config["name"], "diolkos");
    }

    #[test]
    fn a_reply_is_a_result_or_an_error() {
        let error = ErrorResult { cni_version: "1.0.0".into(), code: 11, msg: "later".into(), details: String::new() };
        let text = serde_json::to_string(&Reply::Error(error)).unwrap();
        assert_eq!(text, r#"{"error":{"cniVersion":"1.0.0","code":11,"msg":"later"}}"#);
        assert_eq!(serde_json::to_string(&Reply::Result(Value::Null)).unwrap(), r#"{"result":null}"#);
    }

    #[test]
    fn names_that_could_leave_their_directory_are_refused() {
        assert!(Key::new("0a1b-c_d.e", "eth0").is_ok());
        for id in ["", "../x", "a/b", ".a", "a b", &"a".repeat(129)] {
            assert!(Key::new(id, "eth0").is_err(), "{id:?}");
        }
        for ifname in ["", ".", "..", "a/b", "a b", "a:b", "sixteen-letters-"] {
            assert!(Key::new("c1", ifname).is_err(), "{ifname:?}");
        }
    }
}
