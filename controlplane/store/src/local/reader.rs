//! Reads: each in one snapshot of the file, on a connection of its own.

use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};

use bytes::Bytes;
use rusqlite::{Connection, Row, params};

use super::file::{self, PLACES};
use crate::{Change, Entry, Range, Revision, Snapshot, StoreError};

/// Idle connections that are kept; a read that finds none opens one.
const IDLE: usize = 4;

/// Changes after which a batch of a watch ends with its commit, and bytes of values likewise.
const BATCH_CHANGES: usize = 1000;
const BATCH_BYTES: usize = 4 << 20;

/// Connections for reading.
pub(super) struct Readers {
    path: PathBuf,
    idle: Mutex<Vec<Connection>>,
}

impl Readers {
    pub(super) fn new(path: PathBuf) -> Self {
        Self { path, idle: Mutex::default() }
    }

    /// See [`crate::Store::range`].
    pub(super) fn range(&self, range: &Range) -> Result<Snapshot, StoreError> {
        self.snapshot("range", |view| {
            view.readable(range.at)?;
            view.range(range).map_err(Failure::Sqlite)
        })
    }

    /// Whether all changes after `from` are still there.
    pub(super) fn watchable(&self, from: Revision) -> Result<(), StoreError> {
        self.snapshot("watch", |view| view.watchable(from))
    }

    /// The changes under `prefix` of the next commits after `position`, and the position after them.
    pub(super) fn after(&self, prefix: &str, position: Revision) -> Result<(Vec<Change>, Revision), StoreError> {
        self.snapshot("watch", |view| {
            view.watchable(position)?;
            view.after(prefix, position).map_err(Failure::Sqlite)
        })
    }

    /// Runs a read in one transaction.
    fn snapshot<T>(
        &self,
        operation: &'static str,
        read: impl FnOnce(&View<'_>) -> Result<T, Failure>,
    ) -> Result<T, StoreError> {
        let told = |error: &rusqlite::Error| file::failure(&self.path, operation, error);
        let idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let mut connection = match idle {
            Some(connection) => connection,
            None => file::open_reader(&self.path).map_err(|error| told(&error))?,
        };
        let outcome = View::open(&mut connection).map_err(Failure::Sqlite).and_then(|view| read(&view));
        match outcome {
            // The next read opens anew: what is wrong may be this connection.
            Err(Failure::Sqlite(error)) => Err(told(&error)),
            Err(Failure::Told(error)) => {
                self.put_back(connection);
                Err(error)
            }
            Ok(value) => {
                self.put_back(connection);
                Ok(value)
            }
        }
    }

    fn put_back(&self, connection: Connection) {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        if idle.len() < IDLE {
            idle.push(connection);
        }
    }
}

enum Failure {
    Sqlite(rusqlite::Error),
    Told(StoreError),
}

/// The file as it is at one moment.
struct View<'a> {
    transaction: rusqlite::Transaction<'a>,
    revision: Revision,
    compacted: Revision,
}

impl<'a> View<'a> {
    fn open(connection: &'a mut Connection) -> Result<Self, rusqlite::Error> {
        let transaction = connection.transaction()?;
        let (revision, compacted) = (file::revision(&transaction)?, file::compacted(&transaction)?);
        Ok(Self { transaction, revision, compacted })
    }

    fn watchable(&self, from: Revision) -> Result<(), Failure> {
        if from == 0 && self.compacted > 0 {
            return Err(Failure::Told(StoreError::Compacted { asked: from, oldest: self.compacted }));
        }
        self.readable(from)
    }

    /// Whether the keys as they were at a revision (0: now) can be read.
    fn readable(&self, at: Revision) -> Result<(), Failure> {
        if at > self.revision {
            return Err(Failure::Told(StoreError::Future { asked: at, current: self.revision }));
        }
        if at != 0 && at < self.compacted {
            return Err(Failure::Told(StoreError::Compacted { asked: at, oldest: self.compacted }));
        }
        Ok(())
    }

    fn range(&self, range: &Range) -> Result<Snapshot, rusqlite::Error> {
        let revision = if range.at == 0 { self.revision } else { range.at };
        let (first, end) = (range.start.as_str().max(&range.prefix), end_of_prefix(&range.prefix));
        // A version is the one of a revision when it was made by then and ended later, or never. Of present ones there is an
        // index, which spares looking at those before them.
        let (from, ended) = if revision == self.revision {
            ("change", "ended IS NULL")
        } else {
            ("change INDEXED BY version", "value IS NOT NULL AND (ended IS NULL OR ended > ?3)")
        };
        let versions = format!(
            "FROM {from} WHERE key >= ?1 AND (?2 IS NULL OR key < ?2) AND id < (?3 + 1) * {PLACES} AND {ended}"
        );
        let limit = if range.limit == 0 { -1 } else { i64::try_from(range.limit).unwrap_or(i64::MAX) };
        let select = format!("SELECT key, value, id {versions} ORDER BY key LIMIT ?4");
        let mut select = self.transaction.prepare_cached(&select)?;
        let entries = select.query_map(params![first, end, revision, limit], entry)?;
        let entries = entries.collect::<Result<Vec<Entry>, _>>()?;
        let mut remaining = 0;
        if range.limit != 0 && entries.len() == range.limit {
            let mut count = self.transaction.prepare_cached(&format!("SELECT count(*) {versions}"))?;
            let all: i64 = count.query_one(params![first, end, revision], |row| row.get(0))?;
            remaining = u64::try_from(all).unwrap_or(0).saturating_sub(entries.len() as u64);
        }
        Ok(Snapshot { entries, revision, remaining })
    }

    fn after(&self, prefix: &str, position: Revision) -> Result<(Vec<Change>, Revision), rusqlite::Error> {
        // By the order of changes, never by key: a watch follows most keys, and few changes are new to it.
        let mut select = self.transaction.prepare_cached(
            "SELECT key, value, id FROM change NOT INDEXED
             WHERE id >= ?1 AND id < ?2 AND key >= ?3 AND (?4 IS NULL OR key < ?4) ORDER BY id",
        )?;
        let (first, end) = ((position + 1) * PLACES, (self.revision + 1) * PLACES);
        let mut rows = select.query(params![first, end, prefix, end_of_prefix(prefix)])?;
        let (mut changes, mut bytes): (Vec<Change>, usize) = (Vec::new(), 0);
        while let Some(row) = rows.next()? {
            let change = change(row)?;
            if let Some(last) = changes.last().map(Change::revision)
                && change.revision() != last
                && (changes.len() >= BATCH_CHANGES || bytes >= BATCH_BYTES)
            {
                return Ok((changes, last));
            }
            bytes += match &change {
                Change::Put(entry) => entry.value.len(),
                Change::Delete { .. } => 0,
            };
            changes.push(change);
        }
        Ok((changes, self.revision))
    }
}

/// A row of key, value, id.
pub(super) fn entry(row: &Row<'_>) -> Result<Entry, rusqlite::Error> {
    let value: Vec<u8> = row.get(1)?;
    Ok(Entry { key: row.get(0)?, value: Bytes::from(value), revision: row.get::<_, i64>(2)? / PLACES })
}

fn change(row: &Row<'_>) -> Result<Change, rusqlite::Error> {
    let value: Option<Vec<u8>> = row.get(1)?;
    let (key, revision) = (row.get(0)?, row.get::<_, i64>(2)? / PLACES);
    Ok(match value {
        Some(value) => Change::Put(Entry { key, value: Bytes::from(value), revision }),
        None => Change::Delete { key, revision },
    })
}

/// The first text after all that begin with `prefix`, in the order of bytes, which is that of characters; `None` when
/// there is none.
fn end_of_prefix(prefix: &str) -> Option<String> {
    let mut end = prefix.to_owned();
    while let Some(last) = end.pop() {
        if let Some(next) = (last..=char::MAX).nth(1) {
            end.push(next);
            return Some(end);
        }
    }
    None
}
