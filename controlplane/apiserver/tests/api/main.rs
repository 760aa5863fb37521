//! The apiserver over real TLS on a loopback port, with the model store behind it.
#![allow(clippy::unwrap_used)]

mod harness;

mod addresses;
mod admission;
mod apply;
mod concurrency;
mod crd;
mod crud;
mod deletion;
mod discovery;
mod encryption;
mod escalation;
mod failures;
mod families;
mod kinds;
mod limits;
mod lists;
mod nodes;
mod quota;
mod openapi;
mod protobuf;
mod rbac;
mod tls;
mod tokens;
mod watch;
