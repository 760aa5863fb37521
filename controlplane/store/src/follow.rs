//! A watch as a stream of batches, which ends with its first error.

use async_trait::async_trait;
use futures::{StreamExt, stream};

use crate::{Change, Changes, StoreError};

/// One open watch.
#[async_trait]
pub(crate) trait Follow: Send + 'static {
    /// The changes of the next commits, at least one; waits for them.
    async fn next(&mut self) -> Result<Vec<Change>, StoreError>;
}

pub(crate) fn changes(follower: impl Follow) -> Changes {
    let batches = stream::unfold(Some(follower), |follower| async move {
        let mut follower = follower?;
        match follower.next().await {
            Ok(batch) => Some((Ok(batch), Some(follower))),
            Err(error) => Some((Err(error), None)),
        }
    });
    batches.boxed()
}
