//! What the operator's commands read: the pinned maps and links of a node, with or without an agent.

mod error;
mod pins;

pub use error::ObserveError;
pub use pins::Pins;
