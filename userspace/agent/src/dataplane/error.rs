//! What can go wrong between the agent and the dataplane.

use std::io;
use std::path::PathBuf;

/// The result of a dataplane operation.
pub type Result<T> = std::result::Result<T, Error>;

/// A failed operation: where, on what, why, and what to do.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The map has no room. Nothing was written.
    #[error("map {map} is full: its capacity is {capacity} entries, {operation} of {key} does not fit; {advice}")]
    Full { map: &'static str, operation: Operation, key: String, capacity: u32, advice: &'static str },
    /// The key lies outside the map. Nothing was written.
    #[error("{operation} of {key} in map {map}: outside its {capacity} elements; the caller and the map disagree")]
    OutOfRange { map: &'static str, operation: Operation, key: String, capacity: u32 },
    /// The kernel refused.
    #[error("{operation} of {key} in map {map}: {source}")]
    Map { map: &'static str, operation: Operation, key: String, source: io::Error },
    /// A pinned map has another shape than the programs want.
    #[error(
        "pinned map {path} is {found}, but this build's programs want {wanted}: it was left by another build with the \
         same layout number; stop that agent and remove the directory above it"
    )]
    Shape { path: PathBuf, found: String, wanted: String },
    /// A program could not be attached, replaced or detached.
    #[error("attach {program} to {target}: {source}")]
    Attach { program: &'static str, target: String, source: anyhow::Error },
    /// The kernel or the machine lacks what the programs need.
    #[error("{what}: {advice}")]
    Unsupported { what: String, advice: &'static str },
    /// The programs were refused, by the loader or by the verifier.
    #[error("load the eBPF programs: {0}")]
    Load(String),
    /// A pin, a directory or a device file.
    #[error("{operation} {path}: {source}")]
    Path { operation: &'static str, path: PathBuf, source: io::Error },
}

/// What was tried.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    Insert,
    Remove,
    Write,
    Read,
}

impl std::fmt::Display for Operation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Insert => "insert",
            Self::Remove => "remove",
            Self::Write => "write",
            Self::Read => "read",
        })
    }
}
