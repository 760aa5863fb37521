//! The agent's kernel dataplane: real programs, maps, links and connections, in namespaces and cgroups of the test's
//! own. Needs root and the built eBPF object.
#![allow(clippy::unwrap_used)]

mod churn;
mod conformance;
mod fixture;
mod operations;
mod packets;
mod pins;
mod upgrade;
mod world;
