//! Counters, in Prometheus' text format at `/metrics`.

use std::fmt::Write as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};

use crate::cache::Cache;

/// The counters of one server; clones count together.
#[derive(Clone, Default)]
pub(crate) struct Metrics(Arc<Counters>);

#[derive(Default)]
struct Counters {
    requests: AtomicU64,
    refused_for_load: AtomicU64,
    write_conflicts: AtomicU64,
    watches: AtomicI64,
}

impl Metrics {
    pub(crate) fn request(&self) {
        self.0.requests.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn refused_for_load(&self) {
        self.0.refused_for_load.fetch_add(1, Ordering::Relaxed);
    }

    /// Another writer was first, and the write began anew.
    pub(crate) fn write_conflict(&self) {
        self.0.write_conflicts.fetch_add(1, Ordering::Relaxed);
    }

    /// Counts an open watch until the guard is dropped.
    pub(crate) fn watch(&self) -> WatchGuard {
        self.0.watches.fetch_add(1, Ordering::Relaxed);
        WatchGuard(self.clone())
    }

    /// The server's counters and those of its cache.
    pub(crate) fn render(&self, cache: &Cache) -> String {
        let counters = &self.0;
        let mut text = String::new();
        let mut line = |name: &str, kind: &str, help: &str, value: String| {
            // Writing to a string does not fail.
            let _ = write!(text, "# HELP {name} {help}\n# TYPE {name} {kind}\n{name} {value}\n");
        };
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed).to_string();
        line("diolkos_apiserver_requests_total", "counter", "Requests taken.", read(&counters.requests));
        line(
            "diolkos_apiserver_refused_requests_total",
            "counter",
            "Requests refused because too many were in flight.",
            read(&counters.refused_for_load),
        );
        line(
            "diolkos_apiserver_write_conflicts_total",
            "counter",
            "Writes that began anew because another writer was first.",
            read(&counters.write_conflicts),
        );
        let watches = counters.watches.load(Ordering::Relaxed).to_string();
        line("diolkos_apiserver_watches", "gauge", "Open watches.", watches);
        line(
            "diolkos_apiserver_cache_revision",
            "gauge",
            "The revision the cache holds.",
            cache.revision().to_string(),
        );
        for (name, help, value) in cache.metrics().rows() {
            let kind = if name.ends_with("_total") { "counter" } else { "gauge" };
            line(&format!("diolkos_{name}"), kind, help, value.to_string());
        }
        text
    }
}

/// An open watch, for the gauge.
pub(crate) struct WatchGuard(Metrics);

impl Drop for WatchGuard {
    fn drop(&mut self) {
        self.0.0.watches.fetch_sub(1, Ordering::Relaxed);
    }
}
