//! The node agent: sources -> desired -> plan -> dataplane, the CNI server and the overlay device.

pub mod dataplane;
pub mod desired;
pub mod index;
pub mod overlay;
pub mod plan;
pub mod pods;
pub mod source;
