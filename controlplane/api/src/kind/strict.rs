//! Strict decoding without a schema of our own: an object is read as its type, and on the way each field the type does
//! not know is noted, and a value of a wrong type is told in the words of Kubernetes' decoder.

mod node;

use std::fmt;

use serde::de::DeserializeOwned;
use serde_json::Value;

/// Most unknown fields that are reported of one object.
const MAX_UNKNOWN: usize = 64;

/// The paths of the fields that `K` does not have, in order: "spec.ports[0].foo". Fails with what does not fit.
/// `version` is that of `K`, which messages name.
pub(super) fn decode<K: DeserializeOwned>(object: &Value, version: &'static str) -> Result<Vec<String>, String> {
    let mut state = State { version, ..State::default() };
    match K::deserialize(node::Node::root(object, &mut state)) {
        Ok(_) => Ok(state.unknown),
        Err(Mismatch(why)) => Err(why),
    }
}

/// Where the reading is, and what it met.
#[derive(Default)]
struct State {
    version: &'static str,
    /// With the indices of lists: as unknown fields are named.
    path: String,
    /// Without them: as wrong types are named.
    fields: Vec<String>,
    unknown: Vec<String>,
}

impl State {
    fn unknown(&mut self, key: &str) {
        if self.unknown.len() < MAX_UNKNOWN {
            let dot = if self.path.is_empty() { "" } else { "." };
            self.unknown.push(format!("{}{dot}{key}", self.path));
        }
    }

    /// Enters a field; returns what [`State::leave`] takes.
    fn enter(&mut self, key: &str) -> usize {
        let length = self.path.len();
        if length > 0 {
            self.path.push('.');
        }
        self.path.push_str(key);
        length
    }

    fn leave(&mut self, length: usize) {
        self.path.truncate(length);
    }

    /// The name of a type in messages: its package is called as its version.
    fn type_name(&self, name: &str) -> String {
        let version = match name {
            "ObjectMeta" | "LabelSelector" | "LabelSelectorRequirement" | "OwnerReference" | "ManagedFieldsEntry" => {
                "v1"
            }
            _ => self.version,
        };
        format!("{version}.{name}")
    }
}

/// Why an object is not one of its type.
#[derive(Debug)]
struct Mismatch(String);

impl serde::de::Error for Mismatch {
    fn custom<T: fmt::Display>(message: T) -> Self {
        Self(message.to_string())
    }
}

impl fmt::Display for Mismatch {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

impl std::error::Error for Mismatch {}
