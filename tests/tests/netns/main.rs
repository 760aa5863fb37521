//! The agent's kernel dataplane: real programs, maps, links and connections, in namespaces and cgroups of the test's
//! own. Needs root and the built eBPF object.
#![allow(clippy::unwrap_used, unreachable_pub)]

mod answers;
mod check;
mod churn;
mod conformance;
#[path = "../kernel/dataplane.rs"]
mod dataplane;
mod draining;
mod fixture;
mod operations;
mod packets;
mod pair;
mod pins;
#[path = "../../../ebpf/datapath/tests/scenarios/mod.rs"]
mod scenarios;
mod sweep;
mod upgrade;
mod world;
