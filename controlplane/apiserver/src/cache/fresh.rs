//! How current an answer is: waiting for a revision, and asking the store which one that must be.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use diolkos_api::status::Failure;
use diolkos_store::{Commit, Range, Revision, StoreError, Write};
use tokio::sync::Mutex;
use tokio::time::timeout;

use super::{Freshness, Shared, TICK_KEY};

/// Reads of the store's revision, shared by those who wait at the same time.
#[derive(Default)]
pub(super) struct Reads {
    /// How many have asked.
    asked: AtomicU64,
    /// The last answer.
    answered: Mutex<Answer>,
    /// The revision of the last tick.
    tick: Mutex<Revision>,
}

#[derive(Default)]
struct Answer {
    /// It was read after so many had asked.
    asked: u64,
    revision: Revision,
}

impl Shared {
    /// Returns when the cache is as current as asked, or says why not.
    pub(super) async fn fresh(&self, freshness: Freshness) -> Result<(), Failure> {
        let (within, tick_after) = (self.limits.fresh_within, self.limits.tick_after);
        if *self.reached.borrow() == 0 && !self.reached_within(1, within).await {
            let trouble = self.trouble.read().unwrap_or_else(std::sync::PoisonError::into_inner).clone();
            return Err(Failure::unavailable(trouble.unwrap_or_else(|| "the cache is being filled".into())));
        }
        match freshness {
            Freshness::Any => Ok(()),
            Freshness::AtLeast(revision) => {
                if self.reached_within(revision, within).await {
                    return Ok(());
                }
                Err(Failure::too_large_resource_version(revision, *self.reached.borrow()))
            }
            Freshness::Latest => {
                let revision = self.latest().await.map_err(|error| unavailable(&error))?;
                if self.reached_within(revision, tick_after).await {
                    return Ok(());
                }
                self.tick(revision).await.map_err(|error| unavailable(&error))?;
                if self.reached_within(revision, within).await {
                    return Ok(());
                }
                let reached = *self.reached.borrow();
                Err(Failure::timeout(format!(
                    "the store is at revision {revision}, but its watch has only sent {reached}"
                )))
            }
        }
    }

    /// The store's revision, read after this was called. Those who ask while one read is under way share the next one.
    pub(super) async fn latest(&self) -> Result<Revision, StoreError> {
        let ticket = self.reads.asked.fetch_add(1, Ordering::SeqCst) + 1;
        let mut answered = self.reads.answered.lock().await;
        if answered.asked >= ticket {
            return Ok(answered.revision);
        }
        let asked = self.reads.asked.load(Ordering::SeqCst);
        self.metrics.revision_reads.add(1);
        let range = Range { prefix: TICK_KEY.into(), limit: 1, ..Range::default() };
        let revision = self.store.range(range).await?.revision;
        *answered = Answer { asked, revision };
        Ok(revision)
    }

    /// Makes the watch send a revision not before this one, when the newest commits touched no key that it follows.
    async fn tick(&self, revision: Revision) -> Result<(), StoreError> {
        let mut last = self.reads.tick.lock().await;
        if *last >= revision || *self.reached.borrow() >= revision {
            return Ok(());
        }
        self.metrics.ticks.add(1);
        let write = Write::Put { key: TICK_KEY.into(), value: revision.to_string().into() };
        if let Commit::Done(done) = self.store.commit(&[], &[write]).await? {
            *last = done;
        }
        Ok(())
    }

    pub(super) async fn reached_at_least(&self, revision: Revision) {
        // The sender lives in `self`, so this cannot fail.
        let _ = self.reached.subscribe().wait_for(|reached| *reached >= revision).await;
    }

    async fn reached_within(&self, revision: Revision, patience: Duration) -> bool {
        timeout(patience, self.reached_at_least(revision)).await.is_ok()
    }
}

fn unavailable(error: &StoreError) -> Failure {
    Failure::unavailable(error.to_string())
}
