//! The node agent: sources -> desired -> plan -> dataplane, the CNI server and the overlay device.

mod run;
pub mod source;
pub mod index;
pub mod desired;
pub mod plan;
pub mod driver;
pub mod dataplane;
pub mod overlay;
pub mod pods;

pub use run::{Options, run};
