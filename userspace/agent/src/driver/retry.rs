//! What failed is tried again, each time later.

use std::collections::BTreeMap;
use std::time::Duration;

use super::Subject;
use crate::desired::ServiceName;

/// The first pause; each further one is twice as long.
const FIRST: Duration = Duration::from_secs(1);
/// The longest pause.
const LONGEST: Duration = Duration::from_secs(60);

/// Failed subjects. Times are since the agent's start.
#[derive(Debug, Default)]
pub(super) struct Retries(BTreeMap<Subject, Retry>);

#[derive(Debug)]
struct Retry {
    pause: Duration,
    due: Duration,
    /// Taken by [`Retries::take_due`] or [`Retries::take_services`]: not due again unless it fails again.
    running: bool,
}

impl Retries {
    /// A try failed: the next one comes after a pause, longer than the last.
    pub(super) fn failed(&mut self, subject: Subject, now: Duration) {
        let pause = self.0.get(&subject).map_or(FIRST, |last| (last.pause * 2).min(LONGEST));
        self.0.insert(subject, Retry { pause, due: now + pause, running: false });
    }

    /// A try succeeded.
    pub(super) fn done(&mut self, subject: &Subject) {
        self.0.remove(subject);
    }

    /// Whether a try is allowed now: there was no failure, or its pause is over.
    pub(super) fn is_due(&self, subject: &Subject, now: Duration) -> bool {
        self.0.get(subject).is_none_or(|retry| retry.due <= now)
    }

    /// Whether a failed subject's pause is over; it counts as tried from now on.
    pub(super) fn take_due(&mut self, subject: &Subject, now: Duration) -> bool {
        let Some(retry) = self.0.get_mut(subject).filter(|retry| !retry.running && retry.due <= now) else {
            return false;
        };
        retry.running = true;
        true
    }

    /// The failed services whose pause is over; they count as tried from now on.
    pub(super) fn take_services(&mut self, now: Duration) -> Vec<ServiceName> {
        let due = self.0.iter_mut().filter(|(_, retry)| !retry.running && retry.due <= now);
        due.filter_map(|(subject, retry)| {
            let Subject::Service(name) = subject else { return None };
            retry.running = true;
            Some(name.clone())
        })
        .collect()
    }

    /// When the next pause is over.
    pub(super) fn next(&self) -> Option<Duration> {
        self.0.values().filter(|retry| !retry.running).map(|retry| retry.due).min()
    }
}
