//! The watch cache: every object of the store as the bytes that clients get, kept current by one watch, with a short
//! history for watches that resume.
//!
//! An object is parsed once when it changes (labels and selectable fields) and its `resourceVersion` is spliced into
//! the stored JSON; reading and watching never encode anything. What a watcher can rely on, and the tests are named
//! after it: its events are ordered, unique, atomic (a commit is queued whole or not at all), reliable (none is
//! missing), resumable, bookmarkable, and it never goes back in time.

mod compact;
mod fill;
mod fresh;
pub mod json;
mod metrics;
mod object;
mod ring;
mod state;
mod watch;
mod watchers;

#[cfg(test)]
mod tests;

use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::Duration;

use bytes::Bytes;
use diolkos_api::kind::SelectableField;
use diolkos_api::status::Failure;
use diolkos_store::{Entry, Revision, Store};
use tokio::task::AbortHandle;

use self::fresh::Reads;
use self::state::State;

use crate::encryption::is_sealed;

pub use self::metrics::Metrics;
pub use self::object::Object;
pub use self::state::First;
pub use self::watch::{CacheEvent, Start, Watch, WatchSpec};

/// All keys of the cluster begin with this; the cache watches it.
pub const ROOT: &str = "/registry/";

/// One version of one object. A clone is a reference.
pub type CachedObject = Arc<Object>;

/// Chooses objects by their labels and fields ([`Object::label`], [`Object::field`]). `None` where one is asked for
/// chooses all.
pub type Filter = Arc<dyn Fn(&Object) -> bool + Send + Sync>;

/// How current an answer must be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Freshness {
    /// Whatever the cache holds, also while the store is away (`resourceVersion=0`).
    Any,
    /// This revision or a later one (`resourceVersion=N`); 504 when it does not come in time.
    AtLeast(Revision),
    /// All that was committed before the call, by anyone (no `resourceVersion`); 503 while the store is away.
    Latest,
}

/// The bounds of a cache.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Events kept for each resource; a watch from before them is answered with 410.
    pub ring_events: usize,
    /// Bytes of objects in the kept events of each resource.
    pub ring_bytes: usize,
    /// Events that may wait for one watcher; one that falls further behind is closed.
    pub queue_events: usize,
    /// Bytes of objects that may wait for one watcher.
    pub queue_bytes: usize,
    /// How often watchers that asked for bookmarks get one.
    pub bookmark_every: Duration,
    /// How long a read waits for the revision it needs.
    pub fresh_within: Duration,
    /// How long a read of the latest state waits before it makes the store send something: a write of [`TICK_KEY`].
    pub tick_after: Duration,
    /// The first pause before a lost store is tried again.
    pub retry_first: Duration,
    /// The longest: each pause is twice the one before.
    pub retry_most: Duration,
    /// How often the store's history is compacted, and the least age of what is compacted; `None` leaves that to others.
    pub compact_every: Option<Duration>,
}

/// Written so that the watch delivers a revision when nothing else under [`ROOT`] is.
pub const TICK_KEY: &str = "/registry/_meta/tick";

impl Default for Limits {
    fn default() -> Self {
        Self {
            ring_events: 10_000,
            ring_bytes: 32 << 20,
            queue_events: 1024,
            queue_bytes: 32 << 20,
            bookmark_every: Duration::from_secs(60),
            fresh_within: Duration::from_secs(3),
            tick_after: Duration::from_millis(50),
            retry_first: Duration::from_millis(50),
            retry_most: Duration::from_secs(1),
            compact_every: Some(Duration::from_secs(300)),
        }
    }
}

/// The cache of one store. Clones are the same cache; the last one dropped ends its tasks and watches.
#[derive(Clone)]
pub struct Cache {
    inner: Arc<Inner>,
}

struct Inner {
    shared: Arc<Shared>,
    tasks: Vec<AbortHandle>,
}

/// The selectable fields of a resource, `core/pods`.
type FieldsOf = dyn Fn(&str) -> Vec<SelectableField> + Send + Sync;

/// What the cache's tasks and watches share.
struct Shared {
    store: Arc<dyn Store>,
    fields: Box<FieldsOf>,
    limits: Limits,
    state: RwLock<State>,
    /// The state's revision for those who wait for one; 0 until the cache is filled.
    reached: tokio::sync::watch::Sender<Revision>,
    /// Why the cache does not follow the store at present.
    trouble: RwLock<Option<String>>,
    reads: Reads,
    metrics: Metrics,
}

impl Cache {
    /// Starts to fill the cache from the store and to follow it. `fields` names the selectable fields of a resource,
    /// given as `core/pods`. Needs a tokio runtime.
    pub fn start(
        store: Arc<dyn Store>,
        fields: impl Fn(&str) -> Vec<SelectableField> + Send + Sync + 'static,
        limits: Limits,
    ) -> Self {
        let shared = Arc::new(Shared {
            store,
            fields: Box::new(fields),
            state: RwLock::new(State::new(&limits)),
            limits,
            reached: tokio::sync::watch::Sender::new(0),
            trouble: RwLock::new(Some("the cache is being filled from the store".into())),
            reads: Reads::default(),
            metrics: Metrics::default(),
        });
        let mut tasks = vec![
            tokio::spawn(fill::run(Arc::clone(&shared))).abort_handle(),
            tokio::spawn(watch::run_bookmarks(Arc::clone(&shared))).abort_handle(),
        ];
        if let Some(every) = shared.limits.compact_every {
            tasks.push(tokio::spawn(compact::run(Arc::clone(&shared), every)).abort_handle());
        }
        Self { inner: Arc::new(Inner { shared, tasks }) }
    }

    /// Waits until the cache is filled for the first time. Reads before that wait too, but only for
    /// [`Limits::fresh_within`].
    pub async fn ready(&self) {
        self.shared().reached_at_least(1).await;
    }

    /// Whether the cache follows the store; the error says why not, for `/readyz`.
    pub fn health(&self) -> Result<(), String> {
        self.shared().trouble.read().unwrap_or_else(PoisonError::into_inner).clone().map_or(Ok(()), Err)
    }

    /// The revision of what the cache holds; 0 before it is filled.
    #[must_use]
    pub fn revision(&self) -> Revision {
        self.shared().read().revision()
    }

    /// The object at a key. A key under `/registry/_...` (claims, ticks) has its value as it was stored.
    pub async fn get(&self, key: &str, freshness: Freshness) -> Result<Option<CachedObject>, Failure> {
        self.shared().fresh(freshness).await?;
        let found = self.shared().read().get(key);
        match found {
            Some(object) if object.is_broken() => Err(broken(key, &object.bytes)),
            found => Ok(found),
        }
    }

    /// Waits until the cache is as current as this.
    pub(crate) async fn reach(&self, freshness: Freshness) -> Result<(), Failure> {
        self.shared().fresh(freshness).await
    }

    /// [`Cache::list`] of what is there at this moment.
    pub(crate) fn peek(&self, prefix: &str) -> Vec<CachedObject> {
        let (mut objects, _) = self.shared().read().list(prefix);
        objects.retain(|object| !object.is_broken());
        objects
    }

    /// The objects under a prefix that ends with `/`, or the one at exactly this key, in order of their keys and as
    /// they were at the returned revision. An object that cannot be read is left out.
    pub async fn list(
        &self,
        prefix: &str,
        filter: Option<&Filter>,
        freshness: Freshness,
    ) -> Result<(Vec<CachedObject>, Revision), Failure> {
        self.shared().fresh(freshness).await?;
        let (mut objects, revision) = self.shared().read().list(prefix);
        objects.retain(|object| !object.is_broken() && filter.is_none_or(|filter| filter(object)));
        Ok((objects, revision))
    }

    /// The first objects of [`Cache::list`], as many as `limit` (0 for all), and how many more there are.
    pub async fn first(
        &self,
        prefix: &str,
        filter: Option<&Filter>,
        freshness: Freshness,
        limit: usize,
    ) -> Result<First, Failure> {
        let limit = if limit == 0 { usize::MAX } else { limit };
        if filter.is_none() {
            self.shared().fresh(freshness).await?;
            return Ok(self.shared().read().first(prefix, limit));
        }
        // A filter takes time, for which nobody should wait who writes the state.
        let (mut objects, revision) = self.list(prefix, filter, freshness).await?;
        let left = objects.len().saturating_sub(limit);
        objects.truncate(limit);
        Ok(First { objects, left, revision })
    }

    /// Follows the changes of some objects.
    pub async fn watch(&self, spec: WatchSpec) -> Result<Watch, Failure> {
        watch::open(self.shared(), spec).await
    }

    /// An entry of the store (of a page that was read at an older revision) as the cache would hold it.
    #[must_use]
    pub fn object(&self, entry: Entry) -> CachedObject {
        Arc::new(self.shared().parse(entry))
    }

    /// What the cache counts.
    #[must_use]
    pub fn metrics(&self) -> &Metrics {
        &self.shared().metrics
    }

    /// Ends all watches, each with a last bookmark if it asked for bookmarks, and refuses new ones. Reads go on.
    pub fn shutdown(&self) {
        self.shared().write().shutdown(&self.shared().metrics);
    }

    fn shared(&self) -> &Arc<Shared> {
        &self.inner.shared
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.tasks.iter().for_each(AbortHandle::abort);
        self.shared.write().shutdown(&self.shared.metrics);
    }
}

impl Shared {
    fn read(&self) -> RwLockReadGuard<'_, State> {
        self.state.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, State> {
        self.state.write().unwrap_or_else(PoisonError::into_inner)
    }

    fn parse(&self, entry: Entry) -> Object {
        let fields = object::resource(&entry.key).map(|resource| (self.fields)(resource)).unwrap_or_default();
        let object = Object::parse(entry, &fields);
        if object.is_broken() {
            self.metrics.broken.add(1);
            tracing::error!(key = %object.key, revision = object.revision, "the store holds what is not a JSON object \
                with metadata: repair or delete this key; it is left out of lists and watches");
        }
        object
    }
}

fn broken(key: &str, value: &Bytes) -> Failure {
    if is_sealed(value) {
        return Failure::internal(format!("the value at {key} cannot be decrypted: /readyz says why"));
    }
    Failure::internal(format!("the store holds at {key} what is not a JSON object with metadata"))
}
