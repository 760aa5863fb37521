//! The one thread that writes: it takes what waits, makes it one transaction with one flush, and then answers.

use std::path::PathBuf;
use std::thread;

use rusqlite::{Connection, OptionalExtension as _, TransactionBehavior};
use tokio::sync::{mpsc, oneshot, watch};
use tracing::{error, warn};

use super::file::{self, PLACES};
use super::reader::entry;
use crate::{Commit, Entry, Expect, Revision, StoreError, Write};

/// Most commits, and most bytes of values, that one flush makes durable.
const GROUP: usize = 256;
const GROUP_BYTES: usize = 8 << 20;

/// Versions that one transaction of a compaction removes: commits wait no longer than for that.
const COMPACTED_AT_ONCE: i64 = 500;

/// Pages (4 KiB) that it gives back to the file system at once.
const FREED_AT_ONCE: i64 = 1000;

type Answer<T> = oneshot::Sender<Result<T, StoreError>>;

pub(super) enum Request {
    Commit { expects: Vec<Expect>, writes: Vec<Write>, answer: Answer<Commit> },
    Compact { revision: Revision, answer: Answer<()> },
    Advance { revision: Revision, answer: Answer<Revision> },
}

pub(super) struct Writer {
    pub(super) connection: Connection,
    pub(super) path: PathBuf,
    pub(super) requests: mpsc::Receiver<Request>,
    /// The request that ended the last group.
    pub(super) held: Option<Request>,
    /// Where watches learn that there is more.
    pub(super) published: watch::Sender<Revision>,
}

enum Next {
    Request(Request),
    Nothing,
    /// Nobody can ask any more.
    Over,
}

/// One commit of a group, with who waits for it.
struct Pending {
    expects: Vec<Expect>,
    writes: Vec<Write>,
    answer: Answer<Commit>,
}

impl Writer {
    pub(super) fn start(self) -> Result<(), StoreError> {
        let named = thread::Builder::new().name("store-writer".into());
        let started = named.spawn(move || self.run());
        started.map(drop).map_err(|error| StoreError::Refused { operation: "open", cause: error.to_string() })
    }

    fn run(mut self) {
        // What a compaction that was cut short left behind.
        let mut garbage = true;
        loop {
            match self.next(garbage) {
                Next::Request(Request::Commit { expects, writes, answer }) => {
                    self.group(Pending { expects, writes, answer });
                }
                Next::Request(Request::Compact { revision, answer }) => {
                    let outcome = self.compact(revision);
                    garbage |= outcome.is_ok();
                    // Who asked may be gone; the compaction holds all the same. So below.
                    let _ = answer.send(outcome);
                }
                Next::Request(Request::Advance { revision, answer }) => {
                    let _ = answer.send(self.advance(revision));
                }
                Next::Nothing => garbage = self.remove_some(),
                Next::Over => break,
            }
        }
        // Leaves one whole file behind, for who copies it.
        if let Err(error) = self.connection.pragma(None, "wal_checkpoint", "TRUNCATE", |_| Ok(())) {
            warn!(path = %self.path.display(), %error, "the log of the store stays beside it until the next start");
        }
    }

    /// What to do next; without a request, it waits for one only when there is no garbage to remove meanwhile.
    fn next(&mut self, garbage: bool) -> Next {
        if let Some(request) = self.held.take() {
            return Next::Request(request);
        }
        if !garbage {
            return self.requests.blocking_recv().map_or(Next::Over, Next::Request);
        }
        match self.requests.try_recv() {
            Ok(request) => Next::Request(request),
            Err(mpsc::error::TryRecvError::Empty) => Next::Nothing,
            Err(mpsc::error::TryRecvError::Disconnected) => Next::Over,
        }
    }

    /// Makes `first` and the commits that wait behind it one transaction; a request of another kind is held back.
    fn group(&mut self, first: Pending) {
        let mut bytes = first.bytes();
        let mut group = vec![first];
        while group.len() < GROUP && bytes < GROUP_BYTES {
            match self.requests.try_recv() {
                Ok(Request::Commit { expects, writes, answer }) => {
                    let next = Pending { expects, writes, answer };
                    bytes += next.bytes();
                    group.push(next);
                }
                other => {
                    self.held = other.ok();
                    break;
                }
            }
        }
        self.commit(group);
    }

    fn commit(&mut self, group: Vec<Pending>) {
        match self.try_commit(&group) {
            Ok((outcomes, revision)) => {
                self.published.send_if_modified(|last| std::mem::replace(last, revision) != revision);
                for (pending, outcome) in group.into_iter().zip(outcomes) {
                    let _ = pending.answer.send(Ok(outcome));
                }
            }
            Err(failure) => {
                error!(path = %self.path.display(), commits = group.len(), error = %failure, "the store cannot write");
                for pending in group {
                    let _ = pending.answer.send(Err(file::failure(&self.path, "commit", &failure)));
                }
            }
        }
    }

    /// All of the group, each seeing those before it, or nothing.
    fn try_commit(&mut self, group: &[Pending]) -> Result<(Vec<Commit>, Revision), rusqlite::Error> {
        let transaction = self.connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        let before = file::revision(&transaction)?;
        let mut revision = before;
        let mut outcomes = Vec::with_capacity(group.len());
        for pending in group {
            outcomes.push(apply(&transaction, pending, &mut revision)?);
        }
        if revision != before {
            file::set_number(&transaction, "revision", revision)?;
        }
        transaction.commit()?;
        Ok((outcomes, revision))
    }

    /// Forbids reading before `revision`; what can no longer be read is removed when nothing else is to be done.
    fn compact(&mut self, revision: Revision) -> Result<(), StoreError> {
        let told = |error: rusqlite::Error| file::failure(&self.path, "compact", &error);
        let current = file::revision(&self.connection).map_err(told)?;
        if revision > current {
            return Err(StoreError::Future { asked: revision, current });
        }
        if revision > file::compacted(&self.connection).map_err(told)? {
            file::set_number(&self.connection, "compacted", revision).map_err(told)?;
        }
        Ok(())
    }

    fn advance(&mut self, revision: Revision) -> Result<Revision, StoreError> {
        let told = |error: rusqlite::Error| file::failure(&self.path, "advance", &error);
        let current = file::revision(&self.connection).map_err(told)?;
        if revision > current {
            file::set_number(&self.connection, "revision", revision).map_err(told)?;
            self.published.send_replace(revision);
        }
        Ok(revision.max(current))
    }

    /// Removes some versions that ended before the oldest readable revision, and gives back room that is free. Whether
    /// there may be more to do.
    fn remove_some(&mut self) -> bool {
        let removed = (|| {
            let compacted = file::compacted(&self.connection)?;
            let mut delete = self
                .connection
                .prepare_cached("DELETE FROM change WHERE id IN (SELECT id FROM change WHERE ended <= ?1 LIMIT ?2)")?;
            let removed = delete.execute((compacted, COMPACTED_AT_ONCE))?;
            self.connection.pragma(None, "incremental_vacuum", FREED_AT_ONCE, |_| Ok(()))?;
            let free: i64 = self.connection.pragma_query_value(None, "freelist_count", |row| row.get(0))?;
            Ok::<_, rusqlite::Error>(removed > 0 || free > 0)
        })();
        match removed {
            Ok(more) => more,
            Err(error) => {
                warn!(path = %self.path.display(), %error, "compacted history stays until the next compaction");
                false
            }
        }
    }
}

impl Pending {
    fn bytes(&self) -> usize {
        let values = self.writes.iter().map(|write| match write {
            Write::Put { value, .. } => value.len(),
            Write::Delete { .. } => 0,
        });
        values.sum()
    }
}

/// One commit. Raises `revision` when it changes something.
fn apply(connection: &Connection, pending: &Pending, revision: &mut Revision) -> Result<Commit, rusqlite::Error> {
    for expect in &pending.expects {
        let (key, wanted) = match expect {
            Expect::Absent { key } => (key, None),
            Expect::At { key, revision } => (key, Some(*revision)),
        };
        let found = present(connection, key)?;
        if found != wanted {
            return Ok(Commit::Conflict { key: key.clone(), current: read(connection, key)? });
        }
    }
    let next = *revision + 1;
    let mut place = 0;
    for write in &pending.writes {
        place += change(connection, write, next, place)?;
    }
    if place > 0 {
        *revision = next;
    }
    Ok(Commit::Done(*revision))
}

/// Makes one change at `revision`. How many places it took: none when it deleted what was not there.
fn change(connection: &Connection, write: &Write, revision: Revision, place: i64) -> Result<i64, rusqlite::Error> {
    let end = "UPDATE change SET ended = ?2 WHERE key = ?1 AND ended IS NULL";
    let was_there = connection.prepare_cached(end)?.execute((write.key(), revision))? > 0;
    let (value, ended) = match write {
        Write::Put { value, .. } => (Some(value.as_ref()), None),
        Write::Delete { .. } if was_there => (None, Some(revision)),
        Write::Delete { .. } => return Ok(0),
    };
    let add = "INSERT INTO change (id, key, value, ended) VALUES (?1, ?2, ?3, ?4)";
    connection.prepare_cached(add)?.execute((revision * PLACES + place, write.key(), value, ended))?;
    Ok(1)
}

/// The revision of a key's present version.
fn present(connection: &Connection, key: &str) -> Result<Option<Revision>, rusqlite::Error> {
    let select = "SELECT id FROM change WHERE key = ?1 AND ended IS NULL";
    let id: Option<i64> = connection.prepare_cached(select)?.query_one([key], |row| row.get(0)).optional()?;
    Ok(id.map(|id| id / PLACES))
}

fn read(connection: &Connection, key: &str) -> Result<Option<Entry>, rusqlite::Error> {
    let select = "SELECT key, value, id FROM change WHERE key = ?1 AND ended IS NULL";
    connection.prepare_cached(select)?.query_one([key], entry).optional()
}
