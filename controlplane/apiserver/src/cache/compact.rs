//! Forgets old history in the store, so that it does not grow without bound.

use std::sync::Arc;
use std::time::Duration;

use diolkos_store::Revision;
use tokio::time::{MissedTickBehavior, interval};

use super::Shared;

/// Decides what to compact: at each turn what was the present at the turn before. So all history is kept for one turn
/// at least and two at most, whatever the rate of writes, and with several apiservers taking turns of their own.
#[derive(Debug, Default)]
pub(super) struct Compactor {
    previous: Option<Revision>,
    compacted: Revision,
}

impl Compactor {
    /// The revision to compact at, now that the store is at `current`; `None` when there is nothing to forget.
    pub(super) fn turn(&mut self, current: Revision) -> Option<Revision> {
        self.previous.replace(current).filter(|previous| *previous > self.compacted)
    }

    pub(super) fn done(&mut self, revision: Revision) {
        self.compacted = self.compacted.max(revision);
    }
}

/// Never ends.
pub(super) async fn run(shared: Arc<Shared>, every: Duration) {
    let mut compactor = Compactor::default();
    let mut turns = interval(every);
    turns.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        turns.tick().await;
        let Ok(current) = shared.latest().await else { continue };
        let Some(revision) = compactor.turn(current) else { continue };
        match shared.store.compact(revision).await {
            Ok(()) => {
                compactor.done(revision);
                shared.metrics.compactions.add(1);
                tracing::debug!(revision, "compacted the store");
            }
            Err(error) => tracing::warn!(revision, %error, "the store's history was not compacted; trying again later"),
        }
    }
}
