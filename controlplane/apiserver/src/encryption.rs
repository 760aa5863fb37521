//! Encryption at rest: a store whose values are what the configuration says of their resource, over a store that has
//! them encrypted. Each value has a key of its own, derived from the configured one and 32 random bytes, and is bound to
//! its storage key, so that values cannot be swapped.

mod cipher;
mod config;

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use bytes::Bytes;
use diolkos_store::{Change, Changes, Commit, Entry, Expect, Range, Revision, Snapshot, Store, StoreError, Write};
use futures::StreamExt as _;

use self::cipher::{Opened, PREFIX};

pub(crate) use self::config::EncryptionConfig;

/// Most keys that `/readyz` names.
const MAX_NAMED: usize = 10;

/// A store that encrypts. Clones are the same.
#[derive(Clone)]
pub(crate) struct Encrypted {
    store: Arc<dyn Store>,
    seen: Seen,
}

/// What was seen of the values, and how they are read and written.
#[derive(Clone)]
pub(crate) struct Seen {
    config: Arc<EncryptionConfig>,
    keys: Arc<Mutex<BTreeMap<String, Remark>>>,
}

/// What is to be known of a value, of this revision of its key.
struct Remark {
    revision: Revision,
    what: State,
}

enum State {
    /// It is not as it would be written now.
    Stale,
    /// It cannot be read, and why.
    Unreadable(String),
}

impl Encrypted {
    pub(crate) fn new(store: Arc<dyn Store>, config: EncryptionConfig) -> Encrypted {
        Encrypted { store, seen: Seen { config: Arc::new(config), keys: Arc::default() } }
    }

    /// What becomes known of the values that pass.
    pub(crate) fn seen(&self) -> Seen {
        self.seen.clone()
    }
}

impl Seen {
    /// The value of a key would be written otherwise now: with another key, or encrypted at all.
    pub(crate) fn is_stale(&self, key: &str) -> bool {
        matches!(self.keys().get(key), Some(Remark { what: State::Stale, .. }))
    }

    /// Values that would be written otherwise now, and values that cannot be read.
    pub(crate) fn counts(&self) -> (usize, usize) {
        let keys = self.keys();
        let stale = keys.values().filter(|remark| matches!(remark.what, State::Stale)).count();
        (stale, keys.len() - stale)
    }

    /// For `/readyz`: the keys whose values cannot be read, with the reasons.
    pub(crate) fn health(&self) -> Result<(), String> {
        let keys = self.keys();
        let unreadable = keys.iter().filter_map(|(key, remark)| match &remark.what {
            State::Unreadable(why) => Some(format!("{key}: {why}")),
            State::Stale => None,
        });
        let all: Vec<String> = unreadable.collect();
        match all.len() {
            0 => Ok(()),
            count if count > MAX_NAMED => {
                Err(format!("{}; and {} more", all[..MAX_NAMED].join("; "), count - MAX_NAMED))
            }
            _ => Err(all.join("; ")),
        }
    }

    /// The value as it is read. One that cannot be is left as it is, which is no object: only that key suffers.
    fn open(&self, mut entry: Entry) -> Entry {
        let what = match self.config.open(&entry.key, &entry.value) {
            Ok(Opened { value, stale }) => {
                entry.value = value;
                stale.then_some(State::Stale)
            }
            Err(why) => Some(State::Unreadable(why)),
        };
        self.remark(&entry.key, entry.revision, what);
        entry
    }

    /// A page of an old revision says nothing of the present.
    fn remark(&self, key: &str, revision: Revision, what: Option<State>) {
        let mut keys = self.keys();
        if keys.get(key).is_some_and(|known| known.revision > revision) {
            return;
        }
        match what {
            None => drop(keys.remove(key)),
            Some(what) => {
                let known = keys.insert(key.to_owned(), Remark { revision, what });
                let news = known.is_none_or(|known| known.revision < revision);
                if let (true, Some(Remark { what: State::Unreadable(why), .. })) = (news, keys.get(key)) {
                    tracing::error!(key, revision, "{why}: this object is left out until it can be read");
                }
            }
        }
    }

    fn open_change(&self, change: Change) -> Change {
        match change {
            Change::Put(entry) => Change::Put(self.open(entry)),
            Change::Delete { key, revision } => {
                self.remark(&key, revision, None);
                Change::Delete { key, revision }
            }
        }
    }

    fn keys(&self) -> MutexGuard<'_, BTreeMap<String, Remark>> {
        self.keys.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[async_trait]
impl Store for Encrypted {
    async fn commit(&self, expects: &[Expect], writes: &[Write]) -> Result<Commit, StoreError> {
        let config = &self.seen.config;
        let sealed = writes.iter().map(|write| match write {
            Write::Put { key, value } => Ok(Write::Put { key: key.clone(), value: config.seal(key, value)? }),
            Write::Delete { key } => Ok(Write::Delete { key: key.clone() }),
        });
        let sealed: Vec<Write> = sealed
            .collect::<Result<_, String>>()
            .map_err(|cause| StoreError::Refused { operation: "to encrypt a value", cause })?;
        Ok(match self.store.commit(expects, &sealed).await? {
            Commit::Conflict { key, current } => {
                Commit::Conflict { key, current: current.map(|entry| self.seen.open(entry)) }
            }
            done @ Commit::Done(_) => done,
        })
    }

    async fn range(&self, range: Range) -> Result<Snapshot, StoreError> {
        let mut snapshot = self.store.range(range).await?;
        snapshot.entries = snapshot.entries.into_iter().map(|entry| self.seen.open(entry)).collect();
        Ok(snapshot)
    }

    async fn watch(&self, prefix: &str, from: Revision) -> Result<Changes, StoreError> {
        let (changes, seen) = (self.store.watch(prefix, from).await?, self.seen.clone());
        Ok(Box::pin(
            changes.map(move |batch| {
                batch.map(|batch| batch.into_iter().map(|change| seen.open_change(change)).collect())
            }),
        ))
    }

    async fn compact(&self, revision: Revision) -> Result<(), StoreError> {
        self.store.compact(revision).await
    }
}

/// Whether a value rests encrypted, by whatever key.
pub(crate) fn is_sealed(value: &Bytes) -> bool {
    value.starts_with(PREFIX.as_bytes())
}
