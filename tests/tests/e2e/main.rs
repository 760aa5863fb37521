//! The whole system: pods, Services and kubectl on a running cluster of two nodes.
//!
//! The cluster is started by the first test and shared. It ends with the test process.
#![allow(clippy::unwrap_used)]

mod affinity;
mod agent;
mod bad_input;
mod draining;
mod families;
mod fixture;
mod host_network;
mod kubectl;
mod maps;
mod operations;
mod outside;
mod pods;
mod refusals;
mod runtime;
mod services;
mod six;
