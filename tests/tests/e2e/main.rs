//! The whole system: pods, Services and kubectl on a running cluster of two nodes.
//!
//! The cluster is started by the first test and shared. It ends with the test process.
#![allow(clippy::unwrap_used)]

mod agent;
mod bad_input;
mod fixture;
mod kubectl;
mod maps;
mod pods;
mod runtime;
mod services;
