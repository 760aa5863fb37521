//! The node agent. Read in this order: [`source`], [`index`], [`desired`], [`plan`], [`driver`], [`dataplane`]; the pod
//! network is [`overlay`] and [`pods`]; [`run`] puts all of it together.

pub mod dataplane;
pub mod desired;
pub mod driver;
pub mod index;
pub mod overlay;
pub mod plan;
pub mod pods;
mod run;
pub mod source;

pub use run::{Options, run};
