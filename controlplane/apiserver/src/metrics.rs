//! Counters, in Prometheus' text format at `/metrics`.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use crate::cache::Cache;

/// The counters of one server; clones count together.
#[derive(Clone, Default)]
pub(crate) struct Metrics(Arc<Counters>);

/// What a user may have too much of.
const USER_LIMITS: [&str; 4] = ["in-flight", "rate", "lists", "watches"];

#[derive(Default)]
struct Counters {
    requests: AtomicU64,
    refused_for_load: AtomicU64,
    refused_bodies: AtomicU64,
    unfit_patches: AtomicU64,
    refused_applies: AtomicU64,
    refused_users: [AtomicU64; USER_LIMITS.len()],
    audit_lost: AtomicU64,
    write_conflicts: AtomicU64,
    unauthenticated: AtomicU64,
    tokens_issued: AtomicU64,
    tokens_refused: AtomicU64,
    forbidden: AtomicU64,
    escalations: AtomicU64,
    refused_admissions: Mutex<BTreeMap<&'static str, u64>>,
    watches: AtomicI64,
}

impl Metrics {
    pub(crate) fn request(&self) {
        self.0.requests.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn refused_for_load(&self) {
        self.0.refused_for_load.fetch_add(1, Ordering::Relaxed);
    }

    /// A body was larger than is taken.
    pub(crate) fn refused_body(&self) {
        self.0.refused_bodies.fetch_add(1, Ordering::Relaxed);
    }

    /// A patch could not be applied, or would have made too much of its object.
    pub(crate) fn unfit_patch(&self) {
        self.0.unfit_patches.fetch_add(1, Ordering::Relaxed);
    }

    /// A configuration was not applied: fields of others stood against it, or it was none.
    pub(crate) fn refused_apply(&self) {
        self.0.refused_applies.fetch_add(1, Ordering::Relaxed);
    }

    /// A user had reached one of [`USER_LIMITS`].
    pub(crate) fn refused_user(&self, limit: &str) {
        if let Some(index) = USER_LIMITS.iter().position(|name| *name == limit) {
            self.0.refused_users[index].fetch_add(1, Ordering::Relaxed);
        }
    }

    /// A line of the audit log was not written.
    pub(crate) fn audit_lost(&self) {
        self.0.audit_lost.fetch_add(1, Ordering::Relaxed);
    }

    /// Another writer was first, and the write began anew.
    pub(crate) fn write_conflict(&self) {
        self.0.write_conflicts.fetch_add(1, Ordering::Relaxed);
    }

    /// Nobody known sent a request.
    pub(crate) fn unauthenticated(&self) {
        self.0.unauthenticated.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn token_issued(&self) {
        self.0.tokens_issued.fetch_add(1, Ordering::Relaxed);
    }

    /// A token was looked at and is nobody's.
    pub(crate) fn token_refused(&self) {
        self.0.tokens_refused.fetch_add(1, Ordering::Relaxed);
    }

    /// A request was authenticated and not allowed.
    pub(crate) fn forbidden(&self) {
        self.0.forbidden.fetch_add(1, Ordering::Relaxed);
    }

    /// A role or binding would have given more than its writer has.
    pub(crate) fn escalation(&self) {
        self.0.escalations.fetch_add(1, Ordering::Relaxed);
    }

    /// A plugin of the admission chain refused a write.
    pub(crate) fn refused_admission(&self, plugin: &'static str) {
        *self.0.refused_admissions.lock().unwrap_or_else(PoisonError::into_inner).entry(plugin).or_default() += 1;
    }

    /// Counts an open watch until the guard is dropped.
    pub(crate) fn watch(&self) -> WatchGuard {
        self.0.watches.fetch_add(1, Ordering::Relaxed);
        WatchGuard(self.clone())
    }

    /// The server's counters and those of its cache.
    pub(crate) fn render(&self, cache: &Cache, (stale, unreadable): (usize, usize)) -> String {
        let counters = &self.0;
        let mut text = String::new();
        let mut line = |name: &str, kind: &str, help: &str, value: String| {
            // Writing to a string does not fail.
            let _ = write!(text, "# HELP {name} {help}\n# TYPE {name} {kind}\n{name} {value}\n");
        };
        for (name, help, counter) in self.counted() {
            line(name, "counter", help, counter.load(Ordering::Relaxed).to_string());
        }
        let watches = counters.watches.load(Ordering::Relaxed).to_string();
        line("diolkos_apiserver_watches", "gauge", "Open watches.", watches);
        line(
            "diolkos_apiserver_cache_revision",
            "gauge",
            "The revision the cache holds.",
            cache.revision().to_string(),
        );
        line(
            "diolkos_apiserver_stale_values",
            "gauge",
            "Values that would rest otherwise if they were written now.",
            stale.to_string(),
        );
        line(
            "diolkos_apiserver_unreadable_values",
            "gauge",
            "Values that cannot be decrypted.",
            unreadable.to_string(),
        );
        for (name, help, value) in cache.metrics().rows() {
            let kind = if name.ends_with("_total") { "counter" } else { "gauge" };
            line(&format!("diolkos_{name}"), kind, help, value.to_string());
        }
        text.push_str(&self.limited());
        text.push_str(&self.unadmitted());
        text
    }

    /// The plain counters: name, what they count, and the count.
    fn counted(&self) -> [(&'static str, &'static str, &AtomicU64); 12] {
        let counters = &self.0;
        [
            ("diolkos_apiserver_requests_total", "Requests taken.", &counters.requests),
            (
                "diolkos_apiserver_refused_requests_total",
                "Requests refused because too many were in flight.",
                &counters.refused_for_load,
            ),
            ("diolkos_apiserver_refused_bodies_total", "Bodies too large.", &counters.refused_bodies),
            ("diolkos_apiserver_unfit_patches_total", "Patches that do not fit.", &counters.unfit_patches),
            (
                "diolkos_apiserver_refused_applies_total",
                "Configurations that conflicted with other managers' fields, or could not be read.",
                &counters.refused_applies,
            ),
            ("diolkos_apiserver_lost_audit_lines_total", "Audit lines lost.", &counters.audit_lost),
            (
                "diolkos_apiserver_write_conflicts_total",
                "Writes that began anew because another writer was first.",
                &counters.write_conflicts,
            ),
            (
                "diolkos_apiserver_unauthenticated_requests_total",
                "Requests of nobody known.",
                &counters.unauthenticated,
            ),
            ("diolkos_apiserver_issued_tokens_total", "Tokens signed.", &counters.tokens_issued),
            (
                "diolkos_apiserver_refused_tokens_total",
                "Tokens that are nobody's: of another key, ended, for another audience, or of something that is gone.",
                &counters.tokens_refused,
            ),
            (
                "diolkos_apiserver_forbidden_requests_total",
                "Requests of known users that nothing allows.",
                &counters.forbidden,
            ),
            (
                "diolkos_apiserver_refused_escalations_total",
                "Roles and bindings refused because they give more than their writer has.",
                &counters.escalations,
            ),
        ]
    }

    /// What the plugins of the admission chain refused.
    fn unadmitted(&self) -> String {
        let name = "diolkos_apiserver_refused_admissions_total";
        let refused = self.0.refused_admissions.lock().unwrap_or_else(PoisonError::into_inner);
        let rows: Vec<String> =
            refused.iter().map(|(plugin, count)| format!("{name}{{plugin=\"{plugin}\"}} {count}\n")).collect();
        format!("# HELP {name} Writes refused, by the admission plugin.\n# TYPE {name} counter\n{}", rows.concat())
    }

    /// What users were refused, by the limit they had reached.
    fn limited(&self) -> String {
        let name = "diolkos_apiserver_limited_requests_total";
        let refused = USER_LIMITS.iter().zip(&self.0.refused_users);
        let rows: Vec<String> = refused
            .map(|(limit, counter)| format!("{name}{{limit=\"{limit}\"}} {}\n", counter.load(Ordering::Relaxed)))
            .collect();
        let help = "Requests refused because their user has or asks too much, by what.";
        format!("# HELP {name} {help}\n# TYPE {name} counter\n{}", rows.concat())
    }
}

/// An open watch, for the gauge.
pub(crate) struct WatchGuard(Metrics);

impl Drop for WatchGuard {
    fn drop(&mut self) {
        self.0.0.watches.fetch_sub(1, Ordering::Relaxed);
    }
}
