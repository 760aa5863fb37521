//! What can go wrong when a node is looked at.

use std::path::PathBuf;

/// A failed look: where, why, and what to do.
#[derive(Debug, thiserror::Error)]
pub enum ObserveError {
    #[error("no dataplane is pinned below {0}: no agent has run here, or its bpf file system is elsewhere (--bpffs)")]
    NoNode(PathBuf),
    #[error("several nodes are pinned below {path}: {names}; choose one with --node-name")]
    SeveralNodes { path: PathBuf, names: String },
    #[error("{path} is not there: this node has no dataplane of layout {layout}{found}")]
    NoLayout { path: PathBuf, layout: u32, found: String },
    #[error("another monitor runs on this node: end it first, or share its output")]
    AnotherMonitor,
    #[error("{operation} {path}: {source}")]
    Path { operation: &'static str, path: PathBuf, source: std::io::Error },
    #[error("{operation}: {reason}")]
    Kernel { operation: String, reason: String },
}
