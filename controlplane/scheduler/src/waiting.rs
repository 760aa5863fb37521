//! Pods that wait for a node: which to try next, and when. Pure: it is told the time.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::Pod;

/// The first pause of a pod that fits nowhere; it doubles up to [`LONGEST_PAUSE`].
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(10);
/// Without news of the cluster a pod that fits nowhere is tried again after this long.
const UNASKED: Duration = Duration::from_secs(60);

/// All pods without a node, by uid.
#[derive(Debug, Default)]
pub(crate) struct Waiting {
    pods: HashMap<String, Entry>,
}

#[derive(Debug)]
struct Entry {
    pod: Arc<Pod>,
    attempts: u32,
    /// Not before this, whatever happens.
    earliest: Instant,
    /// At this at the latest.
    due: Instant,
    /// It is being bound.
    busy: bool,
}

impl Waiting {
    /// A pod without a node is new or changed; a change makes it due when its pause is over.
    pub(crate) fn put(&mut self, pod: Arc<Pod>, now: Instant) {
        let uid = pod.metadata.uid.clone().unwrap_or_default();
        match self.pods.get_mut(&uid) {
            Some(entry) => {
                let changed = entry.pod.spec != pod.spec || entry.pod.metadata.labels != pod.metadata.labels;
                entry.pod = pod;
                if changed {
                    entry.due = entry.earliest.max(now);
                }
            }
            None => {
                self.pods.insert(uid, Entry { pod, attempts: 0, earliest: now, due: now, busy: false });
            }
        }
    }

    pub(crate) fn remove(&mut self, uid: &str) {
        self.pods.remove(uid);
    }

    /// Drops all but these.
    pub(crate) fn keep(&mut self, kept: impl Fn(&str) -> bool) {
        self.pods.retain(|uid, _| kept(uid));
    }

    /// The pod that is due and the oldest.
    pub(crate) fn next(&self, now: Instant) -> Option<Arc<Pod>> {
        let due = self.pods.values().filter(|entry| !entry.busy && entry.due <= now);
        let age = |entry: &&Entry| {
            let metadata = &entry.pod.metadata;
            let created = metadata.creation_timestamp.as_ref().map(|time| time.0);
            (entry.attempts, created, metadata.namespace.clone(), metadata.name.clone())
        };
        due.min_by_key(age).map(|entry| entry.pod.clone())
    }

    /// When the next is due; `None` when none waits.
    pub(crate) fn next_due(&self) -> Option<Instant> {
        self.pods.values().filter(|entry| !entry.busy).map(|entry| entry.due).min()
    }

    /// A node was chosen; the pod is no longer tried.
    pub(crate) fn begin(&mut self, uid: &str) {
        if let Some(entry) = self.pods.get_mut(uid) {
            entry.busy = true;
        }
    }

    /// It fits nowhere: wait for news, or for long.
    pub(crate) fn fits_nowhere(&mut self, uid: &str, now: Instant) {
        self.pause(uid, now, UNASKED);
    }

    /// Binding failed: try again after the pause.
    pub(crate) fn failed(&mut self, uid: &str, now: Instant) {
        self.pause(uid, now, Duration::ZERO);
    }

    /// There may be room now.
    pub(crate) fn news(&mut self, now: Instant) {
        for entry in self.pods.values_mut() {
            entry.due = entry.due.min(entry.earliest.max(now));
        }
    }

    fn pause(&mut self, uid: &str, now: Instant, unasked: Duration) {
        let Some(entry) = self.pods.get_mut(uid) else { return };
        let pause = FIRST_PAUSE.saturating_mul(1 << entry.attempts.min(8)).min(LONGEST_PAUSE);
        entry.attempts = entry.attempts.saturating_add(1);
        entry.busy = false;
        entry.earliest = now + pause;
        entry.due = now + pause.max(unasked);
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn pod(name: &str) -> Arc<Pod> {
        let mut pod = Pod::default();
        pod.metadata.name = Some(name.into());
        pod.metadata.uid = Some(name.into());
        Arc::new(pod)
    }

    fn name_of(pod: Option<Arc<Pod>>) -> Option<String> {
        pod.and_then(|pod| pod.metadata.name.clone())
    }

    #[test]
    fn a_pod_that_fits_nowhere_waits_for_news_and_its_pause() {
        let (mut waiting, now) = (Waiting::default(), Instant::now());
        waiting.put(pod("a"), now);
        assert_eq!(name_of(waiting.next(now)).as_deref(), Some("a"));
        waiting.fits_nowhere("a", now);
        assert_eq!(waiting.next_due(), Some(now + UNASKED));
        waiting.news(now);
        assert_eq!(waiting.next_due(), Some(now + FIRST_PAUSE));
        assert_eq!(name_of(waiting.next(now)), None);
        assert_eq!(name_of(waiting.next(now + FIRST_PAUSE)).as_deref(), Some("a"));
    }

    #[test]
    fn others_go_before_a_pod_that_failed() {
        let (mut waiting, now) = (Waiting::default(), Instant::now());
        waiting.put(pod("a"), now);
        waiting.failed("a", now);
        waiting.put(pod("b"), now);
        assert_eq!(name_of(waiting.next(now + LONGEST_PAUSE)).as_deref(), Some("b"));
    }

    #[test]
    fn a_pod_that_is_being_bound_is_not_tried_again() {
        let (mut waiting, now) = (Waiting::default(), Instant::now());
        waiting.put(pod("a"), now);
        waiting.begin("a");
        waiting.put(pod("a"), now);
        assert_eq!(waiting.next(now + UNASKED), None);
        waiting.remove("a");
        assert_eq!(waiting.next_due(), None);
    }

    #[test]
    fn pauses_are_bounded() {
        let (mut waiting, now) = (Waiting::default(), Instant::now());
        waiting.put(pod("a"), now);
        for _ in 0..40 {
            waiting.failed("a", now);
        }
        assert_eq!(waiting.next_due(), Some(now + LONGEST_PAUSE));
    }
}
