//! The store of one machine: one SQLite file, for `diolkos up` and wherever etcd would be more than there is to store.
//!
//! One thread writes ([`writer`]) and makes many commits durable with one flush; readers see snapshots and wait for
//! nobody. The file keeps the history too, so that watches resume across a restart of the apiserver.

mod file;
mod reader;
mod writer;

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use async_trait::async_trait;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::spawn_blocking;
use tracing::info;

use self::reader::Readers;
use self::writer::{Request, Writer};
use crate::follow::{self, Follow};
use crate::{Change, Changes, Commit, Expect, Range, Revision, Snapshot, Store, StoreError, Write, limits};

/// Commits that wait for the writer at most; who comes later waits to be heard.
const QUEUE: usize = 1024;

/// A store in one file. Clones share it; the file is closed when the last one is gone.
#[derive(Clone)]
pub struct Local {
    shared: Arc<Shared>,
}

struct Shared {
    requests: mpsc::Sender<Request>,
    readers: Arc<Readers>,
    /// The newest durable revision.
    revision: watch::Receiver<Revision>,
    path: PathBuf,
    /// Held for as long as the store is open: a second process would not see this one's commits in its watches.
    _lock: File,
}

impl Local {
    /// Opens the file at `path`, or makes it, with its directory.
    ///
    /// Refused when another process has it open, when it is not such a file, or when a later release wrote it.
    pub async fn open(path: &Path) -> Result<Self, StoreError> {
        let path = path.to_owned();
        let opened = spawn_blocking(move || Self::open_now(path)).await;
        opened.unwrap_or_else(|gone| Err(StoreError::Refused { operation: "open", cause: gone.to_string() }))
    }

    fn open_now(path: PathBuf) -> Result<Self, StoreError> {
        let lock = file::lock(&path)?;
        let connection = file::open(&path)?;
        let now = file::revision(&connection).map_err(|error| file::failure(&path, "open", &error))?;
        let (requests, received) = mpsc::channel(QUEUE);
        let (published, revision) = watch::channel(now);
        Writer { connection, path: path.clone(), requests: received, held: None, published }.start()?;
        info!(path = %path.display(), revision = now, "the store is open");
        let readers = Arc::new(Readers::new(path.clone()));
        Ok(Self { shared: Arc::new(Shared { requests, readers, revision, path, _lock: lock }) })
    }

    /// The newest durable revision.
    #[must_use]
    pub fn revision(&self) -> Revision {
        *self.shared.revision.borrow()
    }

    /// Raises the revision to at least `revision`, without a change. What restores older contents calls it with what
    /// watchers may have seen, so that none of them goes back in time.
    pub async fn advance(&self, revision: Revision) -> Result<Revision, StoreError> {
        self.ask(|answer| Request::Advance { revision, answer }).await
    }

    async fn ask<T>(
        &self,
        request: impl FnOnce(oneshot::Sender<Result<T, StoreError>>) -> Request,
    ) -> Result<T, StoreError> {
        let (answer, answered) = oneshot::channel();
        self.shared.requests.send(request(answer)).await.map_err(|_| self.ended())?;
        answered.await.map_err(|_| self.ended())?
    }

    /// Runs a read on a thread that may wait for the disk.
    async fn read<T: Send + 'static>(
        &self,
        read: impl FnOnce(&Readers) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let readers = Arc::clone(&self.shared.readers);
        spawn_blocking(move || read(&readers)).await.unwrap_or_else(|_| Err(self.ended()))
    }

    fn ended(&self) -> StoreError {
        file::unavailable(&self.shared.path, "its writer has ended: see the log, and start anew")
    }
}

#[async_trait]
impl Store for Local {
    async fn commit(&self, expects: &[Expect], writes: &[Write]) -> Result<Commit, StoreError> {
        limits::check(expects, writes)?;
        let (expects, writes) = (expects.to_vec(), writes.to_vec());
        self.ask(|answer| Request::Commit { expects, writes, answer }).await
    }

    async fn range(&self, range: Range) -> Result<Snapshot, StoreError> {
        self.read(move |readers| readers.range(&range)).await
    }

    async fn watch(&self, prefix: &str, from: Revision) -> Result<Changes, StoreError> {
        self.read(move |readers| readers.watchable(from)).await?;
        let revision = self.shared.revision.clone();
        let follower = Follower { store: self.clone(), revision, prefix: prefix.to_owned(), position: from };
        Ok(follow::changes(follower))
    }

    async fn compact(&self, revision: Revision) -> Result<(), StoreError> {
        self.ask(|answer| Request::Compact { revision, answer }).await
    }
}

/// One open watch. It reads from the file, however far behind it is, so it holds up nobody.
struct Follower {
    store: Local,
    revision: watch::Receiver<Revision>,
    prefix: String,
    /// All changes up to here were delivered.
    position: Revision,
}

#[async_trait]
impl Follow for Follower {
    async fn next(&mut self) -> Result<Vec<Change>, StoreError> {
        loop {
            let newest = *self.revision.borrow_and_update();
            if self.position < newest {
                let (prefix, position) = (self.prefix.clone(), self.position);
                let (batch, position) = self.store.read(move |readers| readers.after(&prefix, position)).await?;
                self.position = position;
                if !batch.is_empty() {
                    return Ok(batch);
                }
            } else if self.revision.changed().await.is_err() {
                return Err(self.store.ended());
            }
        }
    }
}
