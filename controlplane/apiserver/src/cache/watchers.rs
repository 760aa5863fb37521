//! The open watches, found by what they are interested in.

use std::borrow::Cow;
use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};

use diolkos_api::status::Failure;
use diolkos_store::Revision;
use tokio::sync::mpsc;
use tokio::sync::mpsc::error::TrySendError;

use super::metrics::Metrics;
use super::object::resource_prefix;
use super::watch::{CacheEvent, Event, WatchSpec};
use super::{Filter, Object};

/// The selectable field that watchers are indexed by: 5,000 kubelets that each watch the pods of their own node cost a
/// change of one pod nothing.
pub(super) const NODE_FIELD: &str = "spec.nodeName";

/// All open watches. Each is in one bucket, named by its interest: a resource (`/registry/core/pods/`), a namespace of
/// it (`/registry/core/pods/default/`), one key, or a resource on one node (`/registry/core/pods/\0node-1`).
pub(super) struct Watchers {
    buckets: HashMap<Box<str>, Vec<Watcher>>,
    next: u64,
    count: usize,
    closed: bool,
    queue_events: usize,
    queue_bytes: usize,
}

/// The cache's end of one watch.
struct Watcher {
    id: u64,
    /// What its keys begin with.
    prefix: String,
    filter: Option<Filter>,
    bookmarks: bool,
    queue: mpsc::Sender<CacheEvent>,
    queued: Arc<AtomicUsize>,
    ending: Arc<OnceLock<Failure>>,
}

/// The reader's end of one watch.
pub(super) struct Subscription {
    pub(super) interest: Box<str>,
    pub(super) id: u64,
    pub(super) queue: mpsc::Receiver<CacheEvent>,
    /// Bytes of objects in the queue.
    pub(super) queued: Arc<AtomicUsize>,
    /// What to say after the last event of the queue.
    pub(super) ending: Arc<OnceLock<Failure>>,
}

/// What one watcher sees of a commit.
struct Due<'a> {
    interest: &'a str,
    watcher: &'a Watcher,
    seen: Vec<CacheEvent>,
}

/// What became of the events of a commit.
enum Fate {
    Queued,
    /// The reader is gone.
    Gone,
    /// The queue is full.
    Slow,
}

impl Watchers {
    pub(super) fn new(queue_events: usize, queue_bytes: usize) -> Self {
        Self { buckets: HashMap::new(), next: 0, count: 0, closed: false, queue_events, queue_bytes }
    }

    /// Adds a watch, which gets all events from now on; `None` after [`Watchers::refuse_new`].
    pub(super) fn add(&mut self, spec: &WatchSpec, metrics: &Metrics) -> Option<Subscription> {
        if self.closed {
            return None;
        }
        let (sender, queue) = mpsc::channel(self.queue_events);
        let (queued, ending) = (Arc::new(AtomicUsize::new(0)), Arc::new(OnceLock::new()));
        let id = self.next;
        self.next += 1;
        let watcher = Watcher {
            id,
            prefix: spec.prefix.clone(),
            filter: spec.filter.clone(),
            bookmarks: spec.bookmarks,
            queue: sender,
            queued: Arc::clone(&queued),
            ending: Arc::clone(&ending),
        };
        let interest: Box<str> = match &spec.node {
            Some(node) => on_node(resource_prefix(&spec.prefix), node).into(),
            None => spec.prefix.as_str().into(),
        };
        self.buckets.entry(interest.clone()).or_default().push(watcher);
        self.count += 1;
        metrics.watchers.set(self.count);
        Some(Subscription { interest, id, queue, queued, ending })
    }

    pub(super) fn remove(&mut self, interest: &str, id: u64, metrics: &Metrics) {
        let Entry::Occupied(mut bucket) = self.buckets.entry(interest.into()) else { return };
        let before = bucket.get().len();
        bucket.get_mut().retain(|watcher| watcher.id != id);
        self.count -= before - bucket.get().len();
        if bucket.get().is_empty() {
            bucket.remove();
        }
        metrics.watchers.set(self.count);
    }

    /// Queues the events of one commit, for each watcher all that it is interested in or, when they do not fit, none:
    /// then it is closed.
    pub(super) fn dispatch(&mut self, events: &[Arc<Event>], metrics: &Metrics) {
        let mut due: HashMap<u64, Due<'_>> = HashMap::new();
        let mut closed: Vec<(Box<str>, u64)> = Vec::new();
        for event in events {
            for interest in interests(event) {
                let Some((interest, bucket)) = self.buckets.get_key_value(interest.as_ref()) else { continue };
                for watcher in bucket {
                    let Some(seen) = watcher.sees(event) else { continue };
                    if events.len() > 1 {
                        due.entry(watcher.id)
                            .or_insert_with(|| Due { interest, watcher, seen: vec![] })
                            .seen
                            .push(seen);
                    } else if !self.offer(watcher, &[seen], metrics) {
                        closed.push((interest.clone(), watcher.id));
                    }
                }
            }
        }
        for (id, due) in due {
            if !self.offer(due.watcher, &due.seen, metrics) {
                closed.push((due.interest.into(), id));
            }
        }
        for (interest, id) in closed {
            self.remove(&interest, id, metrics);
        }
    }

    /// Tells all that asked for it which revision they have reached. One whose queue is full can do without.
    pub(super) fn bookmark(&mut self, revision: Revision, metrics: &Metrics) {
        let mut gone: Vec<(Box<str>, u64)> = Vec::new();
        for (interest, bucket) in &self.buckets {
            for watcher in bucket.iter().filter(|watcher| watcher.bookmarks) {
                let bookmark = CacheEvent::Bookmark { revision, initial_events_end: false };
                match watcher.queue.try_send(bookmark) {
                    Ok(()) => metrics.bookmarks.add(1),
                    Err(TrySendError::Full(_)) => {}
                    Err(TrySendError::Closed(_)) => gone.push((interest.clone(), watcher.id)),
                }
            }
        }
        for (interest, id) in gone {
            self.remove(&interest, id, metrics);
        }
    }

    /// Ends all watches after what is queued for them, with a failure or plainly.
    pub(super) fn close_all(&mut self, failure: Option<&Failure>, metrics: &Metrics) {
        for watcher in self.buckets.drain().flat_map(|(_, bucket)| bucket) {
            if let Some(failure) = failure {
                metrics.expired.add(1);
                watcher.ending.get_or_init(|| failure.clone());
            }
        }
        self.count = 0;
        metrics.watchers.set(0);
    }

    pub(super) fn refuse_new(&mut self) {
        self.closed = true;
    }

    /// Queues events; `false` when the watcher must be closed instead.
    fn offer(&self, watcher: &Watcher, seen: &[CacheEvent], metrics: &Metrics) -> bool {
        match watcher.queue_all(seen, self.queue_bytes) {
            Fate::Queued => metrics.delivered.add(seen.len()),
            Fate::Gone => return false,
            Fate::Slow => {
                metrics.slow_closed.add(1);
                tracing::info!(prefix = %watcher.prefix, events = self.queue_events, bytes = self.queue_bytes, "closed a \
                    watch that fell behind");
                return false;
            }
        }
        true
    }
}

impl Watcher {
    fn sees(&self, event: &Event) -> Option<CacheEvent> {
        event.seen_by(&self.prefix, self.filter.as_ref())
    }

    /// All or nothing.
    fn queue_all(&self, seen: &[CacheEvent], limit: usize) -> Fate {
        let bytes: usize = seen.iter().map(CacheEvent::size).sum();
        let before = self.queued.load(Ordering::Relaxed);
        if before > 0 && before + bytes > limit {
            return Fate::Slow;
        }
        match self.queue.try_reserve_many(seen.len()) {
            Ok(permits) => {
                self.queued.fetch_add(bytes, Ordering::Relaxed);
                permits.zip(seen).for_each(|(permit, event)| permit.send(event.clone()));
                Fate::Queued
            }
            Err(TrySendError::Full(())) => Fate::Slow,
            Err(TrySendError::Closed(())) => Fate::Gone,
        }
    }
}

/// The buckets whose watchers may see an event, each once.
fn interests(event: &Event) -> impl Iterator<Item = Cow<'_, str>> {
    let key: &str = &event.object.key;
    let resource = resource_prefix(key);
    let namespace = key[resource.len()..].find('/').map(|slash| &key[..=resource.len() + slash]);
    let node = node_of(&event.object);
    let previous = event.previous.as_deref().map_or("", node_of);
    let nodes = [Some(node), Some(previous).filter(|previous| *previous != node)];
    let nodes = nodes.into_iter().flatten().filter(|node| !node.is_empty());
    let places = [Some(resource), namespace, Some(key)].into_iter().flatten().map(Cow::Borrowed);
    places.chain(nodes.map(move |node| Cow::Owned(on_node(resource, node))))
}

fn node_of(object: &Object) -> &str {
    object.field(NODE_FIELD).unwrap_or("")
}

/// No key holds a zero byte, so this is no prefix or key.
fn on_node(resource: &str, node: &str) -> String {
    format!("{resource}\0{node}")
}
