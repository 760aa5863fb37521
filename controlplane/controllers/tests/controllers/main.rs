//! The controllers against a model of the cluster: the real kinds with their defaults and rules, no I/O.
#![allow(clippy::unwrap_used)]

mod certificates;
mod deployments;
mod garbage;
mod model;
mod namespaces;
mod nodes;
mod slices;
mod views;
