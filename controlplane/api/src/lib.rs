//! The API of the cluster, free of I/O but for the client: the wire schema, the kinds and what the apiserver knows of
//! them, the failures, and a typed client.

pub mod bootstrap_token;
pub mod client;
pub mod kind;
pub mod kubeconfig;
pub mod lease;
pub mod quantity;
pub mod selector;
pub mod status;
pub mod wire;

pub use k8s_openapi::jiff::Timestamp;

/// The time by this machine's clock.
pub fn now() -> Timestamp {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    i128::try_from(since.as_nanos())
        .ok()
        .and_then(|nanoseconds| Timestamp::from_nanosecond(nanoseconds).ok())
        .unwrap_or(Timestamp::UNIX_EPOCH)
}
