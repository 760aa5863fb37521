//! The agent's kernel dataplane: real programs, maps, links and connections, in namespaces and cgroups of the test's
//! own. Needs root and the built eBPF object.
#![allow(clippy::unwrap_used, unreachable_pub)]

mod affinity;
mod answers;
mod check;
mod churn;
mod conformance;
mod crossing;
#[path = "../kernel/dataplane.rs"]
mod dataplane;
mod direct;
mod directly;
mod draining;
mod fixture;
mod full;
mod operations;
mod outside;
mod packets;
mod pair;
mod pins;
mod raw;
#[path = "../../../ebpf/datapath/tests/scenarios/mod.rs"]
mod scenarios;
mod sockets;
mod sweep;
mod talk;
mod upgrade;
mod world;
