//! The API of the cluster, free of I/O but for the client: the wire schema, the kinds and what the apiserver knows of
//! them, the failures, and a typed client.

pub mod client;
pub mod kind;
pub mod kubeconfig;
pub mod lease;
pub mod quantity;
pub mod selector;
pub mod status;
pub mod wire;
