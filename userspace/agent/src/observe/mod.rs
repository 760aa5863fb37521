//! What the operator's commands read: the pinned maps and links of a node, with or without an agent.

mod error;
mod pins;
mod http;
mod text;
pub mod programs;
pub mod services;
pub mod status;
pub mod monitor;
pub mod trace;

pub use error::ObserveError;
pub use pins::Pins;
