//! Failures, as Kubernetes says them: one `Status` object with reason, code and causes, the same over gRPC and REST.
