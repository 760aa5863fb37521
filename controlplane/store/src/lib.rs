//! Where objects rest: keys, values and one revision counter, with compare-and-swap, reads at a revision and a watch.
//!
//! Only the apiserver uses a store. Keys are `/registry/{group|core}/{plural}/[{namespace}/]{name}`; a value is the
//! object's JSON without `metadata.resourceVersion`, which is the key's modification revision.

mod etcd;
mod follow;
mod limits;
mod local;
mod model;

use std::pin::Pin;

use async_trait::async_trait;
use bytes::Bytes;
use futures::Stream;

pub use etcd::{Etcd, EtcdConfig};
pub use limits::{MAX_COMMIT_BYTES, MAX_COMMIT_OPERATIONS};
pub use local::Local;
pub use model::Model;

/// A point in the store's history. The first write makes revision 1 or later; 0 is "before everything".
pub type Revision = i64;

/// What must hold of a key for a commit to happen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Expect {
    /// The key is not there.
    Absent { key: String },
    /// The key's last change has this revision.
    At { key: String, revision: Revision },
}

/// One change of a commit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Write {
    Put {
        key: String,
        value: Bytes,
    },
    /// Deleting what is not there changes nothing.
    Delete {
        key: String,
    },
}

impl Write {
    /// The key that is written.
    #[must_use]
    pub fn key(&self) -> &str {
        match self {
            Self::Put { key, .. } | Self::Delete { key } => key,
        }
    }
}

/// A key with its value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    pub key: String,
    pub value: Bytes,
    /// The revision of the last change of this key.
    pub revision: Revision,
}

/// The outcome of [`Store::commit`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Commit {
    /// All writes happened, at this revision; one that changed nothing (no writes, or deletes of what was not there)
    /// has the store's present revision.
    Done(Revision),
    /// No write happened: this expectation (the first of the list that failed) does not hold. `current` is what the
    /// key holds instead, `None` when it is absent.
    Conflict { key: String, current: Option<Entry> },
}

/// What to read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Range {
    /// Keys that begin with this.
    pub prefix: String,
    /// The first key to return, inclusive; "" for the first of the prefix.
    pub start: String,
    /// The revision to read at; 0 for the newest, which is then a linearizable read.
    pub at: Revision,
    /// Most entries to return; 0 for all (an implementation still reads page by page).
    pub limit: usize,
}

/// The answer to a [`Range`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Snapshot {
    /// In order of their keys.
    pub entries: Vec<Entry>,
    /// The revision that was read.
    pub revision: Revision,
    /// Keys of the prefix at or after `start` that `limit` left out.
    pub remaining: u64,
}

/// A change of one key. All changes of one commit carry the same revision and arrive together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    Put(Entry),
    Delete { key: String, revision: Revision },
}

impl Change {
    /// The key that changed.
    #[must_use]
    pub fn key(&self) -> &str {
        match self {
            Self::Put(entry) => &entry.key,
            Self::Delete { key, .. } => key,
        }
    }

    /// The revision of the commit that changed it.
    #[must_use]
    pub fn revision(&self) -> Revision {
        match self {
            Self::Put(entry) => entry.revision,
            Self::Delete { revision, .. } => *revision,
        }
    }
}

/// The changes of one or more whole commits, in order: no commit is ever split between two batches.
pub type Changes = Pin<Box<dyn Stream<Item = Result<Vec<Change>, StoreError>> + Send>>;

/// Why the store did not answer.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The history before `oldest` (0 when not known) is gone: list again and watch from there.
    #[error("the store has compacted revision {asked}{}", match oldest { 0 => String::new(), n => format!("; the oldest it holds is {n}") })]
    Compacted { asked: Revision, oldest: Revision },
    /// The store has not reached this revision; it is at `current` (0 when not known).
    #[error("revision {asked} is in the future{}", match current { 0 => String::new(), n => format!("; the store is at {n}") })]
    Future { asked: Revision, current: Revision },
    /// The store cannot be reached, or lost its leader: whether a write happened is not known. Worth another try.
    #[error("the store at {endpoints} does not answer: {cause}")]
    Unavailable { endpoints: String, cause: String },
    /// The store refused: a request or value too large, a full disk, missing permission.
    #[error("the store refused {operation}: {cause}")]
    Refused { operation: &'static str, cause: String },
}

/// A store. [`Etcd`] is the production one, [`Local`] one file for one machine, [`Model`] a model in memory for tests; all pass the same
/// conformance suite.
#[async_trait]
pub trait Store: Send + Sync + 'static {
    /// Checks all `expects` and makes all `writes`, or none. No key may be written twice. Refused beyond
    /// [`MAX_COMMIT_BYTES`] or [`MAX_COMMIT_OPERATIONS`].
    async fn commit(&self, expects: &[Expect], writes: &[Write]) -> Result<Commit, StoreError>;

    /// Reads a range of keys at one revision.
    async fn range(&self, range: Range) -> Result<Snapshot, StoreError>;

    /// All changes of keys under `prefix` after revision `from`, which must still be readable: [`StoreError::Compacted`]
    /// or [`StoreError::Future`] when it is not (0 is before all history). Ends only with an error; a lost connection
    /// is an error, and the caller watches again from the last revision it saw.
    async fn watch(&self, prefix: &str, from: Revision) -> Result<Changes, StoreError>;

    /// Forgets the history before `revision`, which stays readable. Doing it again changes nothing.
    async fn compact(&self, revision: Revision) -> Result<(), StoreError>;
}
