//! What the cache counts.

use std::sync::atomic::{AtomicU64, Ordering};

/// One count; it also goes down where its name says so.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    pub(super) fn add(&self, count: usize) {
        self.0.fetch_add(count as u64, Ordering::Relaxed);
    }

    pub(super) fn set(&self, count: usize) {
        self.0.store(count as u64, Ordering::Relaxed);
    }

    #[must_use]
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// The counters of one cache.
#[derive(Debug, Default)]
pub struct Metrics {
    /// Changes taken from the store.
    pub changes: Counter,
    /// Watches that are open now.
    pub watchers: Counter,
    /// Events queued for watchers.
    pub delivered: Counter,
    /// Watches closed because their reader fell behind.
    pub slow_closed: Counter,
    /// Watches refused or closed with 410.
    pub expired: Counter,
    /// Bookmarks queued for watchers.
    pub bookmarks: Counter,
    /// Times the store's watch was opened again after a loss.
    pub resumes: Counter,
    /// Times everything was read from the store.
    pub fills: Counter,
    /// Linearizable reads of the store's revision.
    pub revision_reads: Counter,
    /// Writes of the tick key.
    pub ticks: Counter,
    /// Compactions of the store.
    pub compactions: Counter,
    /// Values that were not objects.
    pub broken: Counter,
}

impl Metrics {
    /// Name, help and value of each, as Prometheus calls them. `watch_cache_watchers` is a gauge, all others are
    /// counters.
    #[must_use]
    pub fn rows(&self) -> [(&'static str, &'static str, u64); 12] {
        [
            ("watch_cache_changes_total", "Changes taken from the store", self.changes.get()),
            ("watch_cache_watchers", "Watches that are open now", self.watchers.get()),
            ("watch_cache_delivered_total", "Events queued for watchers", self.delivered.get()),
            ("watch_cache_slow_closed_total", "Watches closed because they fell behind", self.slow_closed.get()),
            ("watch_cache_expired_total", "Watches refused or closed with 410", self.expired.get()),
            ("watch_cache_bookmarks_total", "Bookmarks queued for watchers", self.bookmarks.get()),
            ("watch_cache_resumes_total", "Watches of the store opened again", self.resumes.get()),
            ("watch_cache_fills_total", "Times everything was read from the store", self.fills.get()),
            ("watch_cache_revision_reads_total", "Reads of the store's revision", self.revision_reads.get()),
            ("watch_cache_ticks_total", "Writes of the tick key", self.ticks.get()),
            ("watch_cache_compactions_total", "Compactions of the store", self.compactions.get()),
            ("watch_cache_broken_total", "Values in the store that were not objects", self.broken.get()),
        ]
    }
}
