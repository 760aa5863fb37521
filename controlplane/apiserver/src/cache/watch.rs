//! One watch: what it asks for, what it gets, and how a change looks to it.

use std::pin::Pin;
use std::sync::atomic::Ordering;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll, ready};

use diolkos_api::status::Failure;
use diolkos_store::Revision;
use futures::Stream;
use tokio::time::{Instant, MissedTickBehavior, interval_at};

use super::watchers::{NODE_FIELD, Subscription};
use super::{CachedObject, Filter, Freshness, Object, Shared};

/// What to watch.
#[derive(Clone)]
pub struct WatchSpec {
    /// A resource (`/registry/core/pods/`), a namespace of it (`/registry/core/pods/default/`) or one key.
    pub prefix: String,
    /// Only objects whose `spec.nodeName` is this. Such watches are indexed, so that thousands of them cost little.
    pub node: Option<String>,
    /// Only objects for which this holds; one that begins or ceases to match is told as added or deleted.
    pub filter: Option<Filter>,
    pub start: Start,
    /// Whether to send bookmarks about once a minute.
    pub bookmarks: bool,
}

impl WatchSpec {
    /// The index only finds the watch; its filter decides, also over what was before it.
    fn with_node_in_filter(mut self) -> Self {
        if let Some(node) = self.node.clone() {
            let inner = self.filter.take();
            self.filter = Some(Arc::new(move |object: &Object| {
                object.field(NODE_FIELD) == Some(&node) && inner.as_ref().is_none_or(|inner| inner(object))
            }));
        }
        self
    }
}

/// Where a watch begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Start {
    /// After this revision: 410 when the changes since then are not all known any more, 504 when it is in the future.
    /// All changes of a commit have its revision, so a client can only resume between commits: no commit may write two
    /// objects of one resource.
    After(Revision),
    /// With all present objects as added, then what changes. `bookmark`: a bookmark with `initial_events_end` tells
    /// where the present objects end.
    State { freshness: Freshness, bookmark: bool },
    /// With what changes from now on.
    Now(Freshness),
}

/// What a watch yields.
#[derive(Clone, Debug)]
pub enum CacheEvent {
    Added(CachedObject),
    Modified(CachedObject),
    /// The last state of the object, with the revision of its deletion (or of its leaving the selection).
    Deleted(CachedObject),
    /// Every change up to this revision was sent.
    Bookmark {
        revision: Revision,
        initial_events_end: bool,
    },
}

impl CacheEvent {
    /// The revision to resume from after this event.
    #[must_use]
    pub fn revision(&self) -> Revision {
        match self {
            Self::Added(object) | Self::Modified(object) | Self::Deleted(object) => object.revision,
            Self::Bookmark { revision, .. } => *revision,
        }
    }

    #[must_use]
    pub fn object(&self) -> Option<&CachedObject> {
        match self {
            Self::Added(object) | Self::Modified(object) | Self::Deleted(object) => Some(object),
            Self::Bookmark { .. } => None,
        }
    }

    pub(super) fn size(&self) -> usize {
        self.object().map_or(0, |object| object.bytes.len())
    }
}

/// An open watch. It ends plainly when its reader fell behind or the server shuts down: watch again from the last
/// revision. It ends with 410 when changes may be missing: list again.
pub struct Watch {
    shared: Arc<Shared>,
    prefix: String,
    filter: Option<Filter>,
    backlog: Backlog,
    initial_events_end: Option<Revision>,
    subscription: Subscription,
    done: bool,
}

/// What was before the subscription began; the selection is made when it is read.
enum Backlog {
    Objects(std::vec::IntoIter<CachedObject>),
    Events(std::vec::IntoIter<Arc<Event>>),
}

pub(super) async fn open(shared: &Arc<Shared>, spec: WatchSpec) -> Result<Watch, Failure> {
    let freshness = match spec.start {
        Start::After(revision) => Freshness::AtLeast(revision),
        Start::State { freshness, .. } | Start::Now(freshness) => freshness,
    };
    let spec = spec.with_node_in_filter();
    shared.fresh(freshness).await?;
    // From here to the end of the block no change can come between the backlog and the subscription.
    let mut state = shared.write();
    let mut initial_events_end = None;
    let backlog = match spec.start {
        Start::After(revision) => {
            let start = state.history_start(&spec.prefix);
            if revision < start {
                shared.metrics.expired.add(1);
                return Err(Failure::too_old_resource_version(revision, start));
            }
            Backlog::Events(state.history(&spec.prefix, revision).into_iter())
        }
        Start::State { bookmark, .. } => {
            let (objects, revision) = state.list(&spec.prefix);
            initial_events_end = bookmark.then_some(revision);
            Backlog::Objects(objects.into_iter())
        }
        Start::Now(_) => Backlog::Events(Vec::new().into_iter()),
    };
    let subscription = state.watchers.add(&spec, &shared.metrics);
    let subscription = subscription.ok_or_else(|| Failure::unavailable("the server is shutting down"))?;
    drop(state);
    let (shared, prefix, filter) = (Arc::clone(shared), spec.prefix, spec.filter);
    Ok(Watch { shared, prefix, filter, backlog, initial_events_end, subscription, done: false })
}

/// Sends bookmarks for as long as the cache lives.
pub(super) async fn run_bookmarks(shared: Arc<Shared>) {
    let every = shared.limits.bookmark_every;
    let mut ticks = interval_at(Instant::now() + every, every);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let mut state = shared.write();
        let revision = state.revision();
        if revision > 0 {
            state.watchers.bookmark(revision, &shared.metrics);
        }
    }
}

impl Stream for Watch {
    type Item = Result<CacheEvent, Failure>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = &mut *self;
        if this.done {
            return Poll::Ready(None);
        }
        if let Some(event) = this.backlog.next(&this.prefix, this.filter.as_ref()) {
            return Poll::Ready(Some(Ok(event)));
        }
        if let Some(revision) = this.initial_events_end.take() {
            return Poll::Ready(Some(Ok(CacheEvent::Bookmark { revision, initial_events_end: true })));
        }
        match ready!(this.subscription.queue.poll_recv(context)) {
            Some(event) => {
                this.subscription.queued.fetch_sub(event.size(), Ordering::Relaxed);
                Poll::Ready(Some(Ok(event)))
            }
            None => {
                this.done = true;
                Poll::Ready(this.subscription.ending.get().cloned().map(Err))
            }
        }
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        let Subscription { interest, id, .. } = &self.subscription;
        self.shared.write().watchers.remove(interest, *id, &self.shared.metrics);
    }
}

impl Backlog {
    fn next(&mut self, prefix: &str, filter: Option<&Filter>) -> Option<CacheEvent> {
        match self {
            Self::Objects(objects) => objects.find(|object| matches(object, prefix, filter)).map(CacheEvent::Added),
            Self::Events(events) => events.find_map(|event| event.seen_by(prefix, filter)),
        }
    }
}

/// A change of one key, as the history keeps it.
pub(super) struct Event {
    pub(super) revision: Revision,
    /// The new state; of a deletion the last one, with the deletion's revision.
    pub(super) object: CachedObject,
    /// The state before, so that a selection can be seen to begin or cease to match.
    pub(super) previous: Option<CachedObject>,
    deleted: bool,
    /// The state before with this revision, made for the first watch whose selection the object left.
    left: OnceLock<CachedObject>,
}

impl Event {
    pub(super) fn put(revision: Revision, object: CachedObject, previous: Option<CachedObject>) -> Self {
        Self { revision, object, previous, deleted: false, left: OnceLock::new() }
    }

    pub(super) fn delete(revision: Revision, previous: CachedObject) -> Self {
        let object = Arc::new(previous.at(revision));
        Self { revision, object, previous: Some(previous), deleted: true, left: OnceLock::new() }
    }

    /// How the change looks to a watch of a prefix and a selection; `None` when it does not concern it.
    pub(super) fn seen_by(&self, prefix: &str, filter: Option<&Filter>) -> Option<CacheEvent> {
        let before = self.previous.as_ref().filter(|previous| matches(previous, prefix, filter));
        let after = Some(&self.object).filter(|object| !self.deleted && matches(object, prefix, filter));
        match (before, after) {
            (None, None) => None,
            (None, Some(object)) => Some(CacheEvent::Added(Arc::clone(object))),
            (Some(_), Some(object)) => Some(CacheEvent::Modified(Arc::clone(object))),
            (Some(_), None) if self.deleted => Some(CacheEvent::Deleted(Arc::clone(&self.object))),
            (Some(previous), None) => {
                let left = self.left.get_or_init(|| Arc::new(previous.at(self.revision)));
                Some(CacheEvent::Deleted(Arc::clone(left)))
            }
        }
    }
}

fn matches(object: &Object, prefix: &str, filter: Option<&Filter>) -> bool {
    let within = if prefix.ends_with('/') { object.key.starts_with(prefix) } else { *object.key == *prefix };
    within && object.is_watchable() && filter.is_none_or(|filter| filter(object))
}
