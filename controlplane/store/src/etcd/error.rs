//! What etcd's failures mean.

use std::error::Error as _;

use tonic::{Code, Status};

use super::Etcd;
use crate::{Revision, StoreError};

impl Etcd {
    pub(super) fn failure(&self, operation: &'static str, asked: Revision, error: &etcd_client::Error) -> StoreError {
        let cause = describe(error);
        let etcd_client::Error::GRpcStatus(status) = error else {
            return self.unavailable(cause);
        };
        let refused = |advice: &str| StoreError::Refused { operation, cause: format!("{cause}{advice}") };
        match status.code() {
            Code::OutOfRange if is_compacted(status) => StoreError::Compacted { asked, oldest: 0 },
            Code::OutOfRange if is_future(status) => StoreError::Future { asked, current: 0 },
            Code::ResourceExhausted if status.message().contains("database space exceeded") => {
                refused(": compact and defragment etcd or raise --quota-backend-bytes, then disarm its NOSPACE alarm")
            }
            Code::PermissionDenied | Code::Unauthenticated => {
                refused(": give a client certificate whose common name etcd allows this")
            }
            Code::InvalidArgument | Code::OutOfRange | Code::Unimplemented | Code::FailedPrecondition => refused(""),
            _ => self.unavailable(cause),
        }
    }
}

/// The message with its causes down to the first one ("connection refused", "unknown certificate authority").
pub(super) fn describe(error: &etcd_client::Error) -> String {
    match error {
        etcd_client::Error::GRpcStatus(status) => with_causes(status.message().to_owned(), status.source()),
        etcd_client::Error::TransportError(error) => with_causes(error.to_string(), error.source()),
        other => other.to_string(),
    }
}

/// Whether an answer was too large to be read, in which case less must be asked for.
pub(super) fn is_too_large(error: &etcd_client::Error) -> bool {
    matches!(error, etcd_client::Error::GRpcStatus(status)
        if status.code() == Code::OutOfRange && status.message().contains("message length too large"))
}

fn is_compacted(status: &Status) -> bool {
    status.message().contains("has been compacted")
}

fn is_future(status: &Status) -> bool {
    status.message().contains("is a future revision")
}

fn with_causes(mut text: String, mut source: Option<&(dyn std::error::Error + 'static)>) -> String {
    while let Some(cause) = source {
        let next = cause.to_string();
        if !text.contains(&next) {
            text = if text.is_empty() { next } else { format!("{text}: {next}") };
        }
        source = cause.source();
    }
    text
}
