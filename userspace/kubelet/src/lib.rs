//! The kubelet of Diolkos: runs the pods that are bound to one node through a CRI runtime, and reports the node and
//! the pods to the control plane.
//!
//! Its shape is `sources -> desired -> plan -> driver`. What follows from what is seen is decided by pure functions
//! ([`desired`], [`lifecycle`], [`plan`], [`status`], [`node`]); the runtime and the control plane are traits, each
//! with the real implementation and a model. Nothing that the kubelet needs to know survives only in its memory: a
//! kubelet that starts anew finds running pods by their labels and goes on with them.

pub mod certificate;
pub mod cluster;
pub mod desired;
pub mod driver;
pub mod heartbeat;
pub mod host;
pub mod lifecycle;
mod machine;
pub mod node;
pub mod observed;
pub mod plan;
pub mod probe;
mod run;
pub mod runtime;
pub mod status;

pub use run::{Options, Settings, run, run_until, run_with};
