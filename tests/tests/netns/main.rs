//! The agent's kernel dataplane: real programs, maps, links and connections, in namespaces and cgroups of the test's
//! own. Needs root, Linux 6.6 and the built eBPF object.
#![allow(clippy::unwrap_used)]

mod churn;
mod conformance;
mod operations;
mod pins;
mod world;
