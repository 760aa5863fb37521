//! The work queue of one controller: every key at most once, with growing pauses for keys that fail. Pure: it is told
//! the time.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::time::{Duration, Instant};

use crate::object::Key;

const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

/// Keys to be looked at: now, in order, or at a time.
#[derive(Debug, Default)]
pub(crate) struct Queue {
    ready: VecDeque<Key>,
    /// What is queued, and when it is due; `None` is now.
    queued: HashMap<Key, Option<Instant>>,
    later: BTreeMap<(Instant, u64), Key>,
    failures: HashMap<Key, u32>,
    counter: u64,
}

impl Queue {
    /// Look at this key as soon as possible.
    pub(crate) fn add(&mut self, key: Key) {
        if !matches!(self.queued.get(&key), Some(None)) {
            self.queued.insert(key.clone(), None);
            self.ready.push_back(key);
        }
    }

    /// Look at this key at that time, or earlier if it is queued for earlier.
    pub(crate) fn add_at(&mut self, key: Key, due: Instant) {
        let sooner = match self.queued.get(&key) {
            None => true,
            Some(None) => false,
            Some(Some(queued)) => due < *queued,
        };
        if sooner {
            self.counter += 1;
            self.queued.insert(key.clone(), Some(due));
            self.later.insert((due, self.counter), key);
        }
    }

    /// The key failed: look again after a pause that doubles from failure to failure.
    pub(crate) fn failed(&mut self, key: Key, now: Instant) -> Duration {
        let failures = self.failures.entry(key.clone()).or_default();
        let pause = FIRST_PAUSE.saturating_mul(1 << (*failures).min(20)).min(LONGEST_PAUSE);
        *failures = failures.saturating_add(1);
        self.add_at(key, now + pause);
        pause
    }

    pub(crate) fn succeeded(&mut self, key: &Key) {
        self.failures.remove(key);
    }

    /// The next key that is due.
    pub(crate) fn take(&mut self, now: Instant) -> Option<Key> {
        while let Some(entry) = self.later.first_entry().filter(|entry| entry.key().0 <= now) {
            let (due, _) = *entry.key();
            let key = entry.remove();
            // An entry that was overtaken by an earlier one means nothing any more.
            if self.queued.get(&key) == Some(&Some(due)) {
                self.queued.insert(key.clone(), None);
                self.ready.push_back(key);
            }
        }
        let key = self.ready.pop_front()?;
        self.queued.remove(&key);
        Some(key)
    }

    /// When there will be something to take; `None` when nothing waits.
    pub(crate) fn next_due(&self, now: Instant) -> Option<Instant> {
        if self.ready.is_empty() { self.later.keys().next().map(|(due, _)| *due) } else { Some(now) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::object::KindName;

    fn key(name: &str) -> Key {
        Key::new(KindName::Pod, "default", name)
    }

    #[test]
    fn a_key_is_queued_once_and_in_order() {
        let (mut queue, now) = (Queue::default(), Instant::now());
        for name in ["a", "b", "a"] {
            queue.add(key(name));
        }
        let taken: Vec<_> = std::iter::from_fn(|| queue.take(now)).collect();
        assert_eq!(taken, [key("a"), key("b")]);
        assert_eq!(queue.next_due(now), None);
    }

    #[test]
    fn pauses_double_up_to_a_minute_and_begin_anew_after_a_success() {
        let (mut queue, now) = (Queue::default(), Instant::now());
        let pauses: Vec<_> = (0..12).map(|_| queue.failed(key("a"), now)).collect();
        assert_eq!(pauses[..3], [FIRST_PAUSE, FIRST_PAUSE * 2, FIRST_PAUSE * 4]);
        assert_eq!(pauses[11], LONGEST_PAUSE);
        queue.succeeded(&key("a"));
        assert_eq!(queue.failed(key("a"), now), FIRST_PAUSE);
    }

    #[test]
    fn news_overtake_a_pause() {
        let (mut queue, now) = (Queue::default(), Instant::now());
        queue.failed(key("a"), now);
        assert_eq!(queue.take(now), None);
        queue.add(key("a"));
        assert_eq!(queue.take(now), Some(key("a")));
        assert_eq!(queue.take(now + LONGEST_PAUSE), None, "the pause was overtaken");
    }

    #[test]
    fn what_is_due_later_comes_when_it_is_due() {
        let (mut queue, now) = (Queue::default(), Instant::now());
        let due = now + Duration::from_secs(5);
        queue.add_at(key("a"), due + Duration::from_secs(1));
        queue.add_at(key("a"), due);
        assert_eq!(queue.next_due(now), Some(due));
        assert_eq!(queue.take(due), Some(key("a")));
        assert_eq!(queue.take(due + Duration::from_secs(2)), None);
    }
}
