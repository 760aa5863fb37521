//! Pods and the overlay in the kernel: real namespaces, real devices, a model of the dataplane. Needs root.

#![allow(clippy::unwrap_used)]

mod crossing;
mod failures;
mod hosts;
mod lifecycle;
mod overlay;
mod programs;
mod repair;
mod restart;
mod reverse_path;
mod server;
mod spoof;
mod world;
