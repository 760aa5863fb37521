//! The node agent: sources -> desired -> plan -> dataplane, the CNI server and the overlay device.

pub mod dataplane;
pub mod overlay;
pub mod pods;
