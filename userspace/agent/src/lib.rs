//! The node agent: sources -> desired -> plan -> dataplane, the CNI server and the overlay device.

mod options;
pub mod clock;
mod run;
pub mod source;
pub mod index;
pub mod desired;
pub mod plan;
pub mod driver;
pub mod sweep;
pub mod dataplane;
pub mod state;
pub mod metrics;
pub mod health;
pub mod observe;
mod devices;
pub mod check;
pub mod overlay;
pub mod pods;
pub mod destroy;

pub use options::{NODE_PORTS, Options, OptionsError, Routing};
pub use run::{run, run_until};
