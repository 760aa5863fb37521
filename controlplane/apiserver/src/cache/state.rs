//! What the cache holds: objects, their recent events and the watchers, all at one revision. No I/O.

use std::collections::{BTreeMap, HashMap};
use std::ops::Bound;
use std::sync::Arc;

use diolkos_api::status::Failure;
use diolkos_store::Revision;

use super::metrics::Metrics;
use super::object::resource_prefix;
use super::ring::Ring;
use super::watch::Event;
use super::watchers::Watchers;
use super::{CachedObject, Limits, Object};

pub(super) struct State {
    /// Everything up to here is in `objects`, and queued for the watchers; 0 before the first fill.
    revision: Revision,
    /// The revision of the last fill: no event up to it is known.
    filled: Revision,
    objects: BTreeMap<Arc<str>, CachedObject>,
    /// By resource prefix, so that a busy resource does not push out the history of a quiet one.
    rings: HashMap<Box<str>, Ring>,
    ring_events: usize,
    ring_bytes: usize,
    pub(super) watchers: Watchers,
}

/// The beginning of a list.
#[derive(Debug)]
pub struct First {
    /// In order of their keys.
    pub objects: Vec<CachedObject>,
    /// How many more there are.
    pub left: usize,
    /// The revision of the state that the list is of.
    pub revision: Revision,
}

/// A change of one key, with its object already parsed.
pub(super) enum Update {
    Put(CachedObject),
    Delete { key: String, revision: Revision },
}

impl State {
    pub(super) fn new(limits: &Limits) -> Self {
        Self {
            revision: 0,
            filled: 0,
            objects: BTreeMap::new(),
            rings: HashMap::new(),
            ring_events: limits.ring_events,
            ring_bytes: limits.ring_bytes,
            watchers: Watchers::new(limits.queue_events, limits.queue_bytes),
        }
    }

    pub(super) fn revision(&self) -> Revision {
        self.revision
    }

    pub(super) fn get(&self, key: &str) -> Option<CachedObject> {
        self.objects.get(key).cloned()
    }

    /// The objects under a prefix that ends with `/`, or at exactly this key, and the revision.
    pub(super) fn list(&self, prefix: &str) -> (Vec<CachedObject>, Revision) {
        (self.under(prefix).map(Arc::clone).collect(), self.revision)
    }

    /// The first objects of [`State::list`] that can be read; what is behind them is counted, and not held.
    pub(super) fn first(&self, prefix: &str, limit: usize) -> First {
        let mut first = First { objects: Vec::new(), left: 0, revision: self.revision };
        for object in self.under(prefix).filter(|object| !object.is_broken()) {
            if first.objects.len() < limit {
                first.objects.push(Arc::clone(object));
            } else {
                first.left += 1;
            }
        }
        first
    }

    /// What is under a prefix that ends with `/`, or at exactly this key.
    fn under(&self, prefix: &str) -> impl Iterator<Item = &CachedObject> {
        let all = prefix.ends_with('/');
        let from = self.objects.range::<str, _>((Bound::Included(prefix), Bound::Unbounded));
        let under = from.take_while(move |(key, _)| if all { key.starts_with(prefix) } else { &***key == prefix });
        under.map(|(_, object)| object)
    }

    /// The first revision after which all events of a resource are known.
    pub(super) fn history_start(&self, prefix: &str) -> Revision {
        self.rings.get(resource_prefix(prefix)).map_or(self.filled, Ring::start)
    }

    /// The events of a resource after a revision not before [`State::history_start`], for a prefix within it.
    pub(super) fn history(&self, prefix: &str, after: Revision) -> Vec<Arc<Event>> {
        let ring = self.rings.get(resource_prefix(prefix));
        ring.map_or_else(Vec::new, |ring| ring.after(after).cloned().collect())
    }

    /// Takes all changes of one commit: objects, history and watchers move together. One that is not after the present
    /// revision is a repetition, and skipped.
    pub(super) fn commit(&mut self, revision: Revision, updates: Vec<Update>, metrics: &Metrics) {
        if revision <= self.revision {
            return;
        }
        let events: Vec<Arc<Event>> = updates.into_iter().filter_map(|update| self.update(update)).collect();
        for event in &events {
            let prefix = resource_prefix(&event.object.key);
            if !self.rings.contains_key(prefix) {
                let ring = Ring::new(self.filled, self.ring_events, self.ring_bytes);
                self.rings.insert(prefix.into(), ring);
            }
            if let Some(ring) = self.rings.get_mut(prefix) {
                ring.push(Arc::clone(event));
            }
        }
        self.watchers.dispatch(&events, metrics);
        self.revision = revision;
    }

    /// Takes a whole new content. What happened in between is not known, so open watches end with 410 and history
    /// begins anew: nobody misses a change unknowingly. `false`, and nothing changes, when it is older than what is
    /// held: nobody goes back in time.
    pub(super) fn replace(
        &mut self,
        objects: BTreeMap<Arc<str>, CachedObject>,
        revision: Revision,
        metrics: &Metrics,
    ) -> bool {
        if revision < self.revision {
            return false;
        }
        self.objects = objects;
        self.rings.clear();
        (self.revision, self.filled) = (revision, revision);
        let why = format!("the history up to {revision} was compacted while the server was away from its store");
        self.watchers.close_all(Some(&Failure::expired(why)), metrics);
        true
    }

    /// Ends all watches with a last bookmark, and takes no new ones.
    pub(super) fn shutdown(&mut self, metrics: &Metrics) {
        if self.revision > 0 {
            self.watchers.bookmark(self.revision, metrics);
        }
        self.watchers.close_all(None, metrics);
        self.watchers.refuse_new();
    }

    /// Changes one key; an event when that is of interest to watchers.
    fn update(&mut self, update: Update) -> Option<Arc<Event>> {
        match update {
            Update::Put(object) => {
                let previous = self.objects.insert(Arc::clone(&object.key), Arc::clone(&object));
                let revision = object.revision;
                let known = object.is_watchable() || previous.as_deref().is_some_and(Object::is_watchable);
                known.then(|| Arc::new(Event::put(revision, object, previous)))
            }
            Update::Delete { key, revision } => {
                let previous = self.objects.remove(key.as_str())?;
                previous.is_watchable().then(|| Arc::new(Event::delete(revision, previous)))
            }
        }
    }
}
