//! Generated from `proto/cluster.proto`.
#![allow(unreachable_pub, unused_qualifications, clippy::all)]

tonic::include_proto!("diolkos.v1");
