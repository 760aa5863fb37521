//! A model of the store in memory: real revisions, history, compaction and watches, and the failures a store has.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use tokio::sync::watch;

use self::history::History;
use crate::follow::{self, Follow};
use crate::{Change, Changes, Commit, Expect, Range, Revision, Snapshot, Store, StoreError, Write, limits};

mod history;

/// A store in memory, for tests. Clones see the same keys.
#[derive(Clone)]
pub struct Model {
    shared: Arc<Shared>,
}

/// Commits that one batch of a watch holds at most: small, so that tests meet batches with one commit and with several.
const BATCH_COMMITS: usize = 8;

struct Shared {
    state: Mutex<State>,
    /// Wakes the watches; the value only counts.
    changed: watch::Sender<u64>,
}

struct State {
    history: History,
    away: bool,
    held: bool,
    /// How often connections were lost: a watch opened before the last loss fails.
    losses: u64,
}

impl Default for Model {
    fn default() -> Self {
        Self::new()
    }
}

impl Model {
    /// An empty store at revision 1, as etcd starts.
    #[must_use]
    pub fn new() -> Self {
        Self::starting_at(1)
    }

    /// An empty store whose next write is `revision + 1`.
    #[must_use]
    pub fn starting_at(revision: Revision) -> Self {
        let state = State { history: History::starting_at(revision), away: false, held: false, losses: 0 };
        Self { shared: Arc::new(Shared { state: Mutex::new(state), changed: watch::Sender::new(0) }) }
    }

    /// The store goes away (all calls and open watches fail) or comes back with all it had.
    pub fn set_away(&self, away: bool) {
        self.edit(|state| {
            state.away = away;
            state.losses += u64::from(away);
        });
    }

    /// All open watches fail, as if their connections were lost.
    pub fn cut_watches(&self) {
        self.edit(|state| state.losses += 1);
    }

    /// Watches stay open and deliver nothing while held, as those of an etcd member that lags behind.
    pub fn hold_watches(&self, held: bool) {
        self.edit(|state| state.held = held);
    }

    /// The newest revision.
    #[must_use]
    pub fn revision(&self) -> Revision {
        self.shared.lock().history.revision()
    }

    /// Changes the state and wakes all watches.
    fn edit<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        let outcome = change(&mut self.shared.lock());
        self.shared.changed.send_modify(|count| *count += 1);
        outcome
    }
}

#[async_trait]
impl Store for Model {
    async fn commit(&self, expects: &[Expect], writes: &[Write]) -> Result<Commit, StoreError> {
        limits::check(expects, writes)?;
        self.edit(|state| {
            state.reachable()?;
            Ok(state.history.commit(expects, writes))
        })
    }

    async fn range(&self, range: Range) -> Result<Snapshot, StoreError> {
        let state = self.shared.lock();
        state.reachable()?;
        state.history.range(&range)
    }

    async fn watch(&self, prefix: &str, from: Revision) -> Result<Changes, StoreError> {
        let losses = {
            let state = self.shared.lock();
            state.reachable()?;
            state.history.watchable(from)?;
            state.losses
        };
        let follower = Follower {
            changed: self.shared.changed.subscribe(),
            shared: Arc::clone(&self.shared),
            prefix: prefix.to_owned(),
            position: from,
            losses,
        };
        Ok(follow::changes(follower))
    }

    async fn compact(&self, revision: Revision) -> Result<(), StoreError> {
        self.edit(|state| {
            state.reachable()?;
            state.history.compact(revision)
        })
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        // A panic of a test while it holds the lock leaves no half-made commit: all checks come before all changes.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn reachable(&self) -> Result<(), StoreError> {
        if self.away { Err(unavailable("it is away")) } else { Ok(()) }
    }
}

/// One open watch.
struct Follower {
    shared: Arc<Shared>,
    changed: watch::Receiver<u64>,
    prefix: String,
    /// All changes up to here were delivered.
    position: Revision,
    losses: u64,
}

#[async_trait]
impl Follow for Follower {
    async fn next(&mut self) -> Result<Vec<Change>, StoreError> {
        loop {
            self.changed.borrow_and_update();
            if let Some(batch) = self.ready()? {
                return Ok(batch);
            }
            if self.changed.changed().await.is_err() {
                return Err(unavailable("it was dropped"));
            }
        }
    }
}

impl Follower {
    fn ready(&mut self) -> Result<Option<Vec<Change>>, StoreError> {
        let state = self.shared.lock();
        if state.losses != self.losses {
            return Err(unavailable("the connection was lost"));
        }
        if state.held {
            return Ok(None);
        }
        let (batch, position) = state.history.after(&self.prefix, self.position, BATCH_COMMITS)?;
        self.position = position;
        Ok(Some(batch).filter(|batch| !batch.is_empty()))
    }
}

fn unavailable(cause: &str) -> StoreError {
    StoreError::Unavailable { endpoints: "model".into(), cause: cause.into() }
}
