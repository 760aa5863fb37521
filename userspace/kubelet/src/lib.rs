//! wip
pub mod cluster;
pub mod desired;
pub mod host;
pub mod lifecycle;
pub mod node;
pub mod observed;
pub mod plan;
pub mod probe;
pub mod runtime;
pub mod status;
