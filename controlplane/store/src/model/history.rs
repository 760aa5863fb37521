//! Keys with all their versions: what a store is, without time, connections or tasks.

use std::collections::BTreeMap;
use std::ops::Bound;

use bytes::Bytes;

use crate::{Change, Commit, Entry, Expect, Range, Revision, Snapshot, StoreError, Write};

/// All versions of all keys since the last compaction.
pub(super) struct History {
    revision: Revision,
    /// The oldest revision that can be read; 0 before the first compaction.
    compacted: Revision,
    /// Every key with its versions in order; `None` is a deletion.
    keys: BTreeMap<String, Vec<(Revision, Option<Bytes>)>>,
    /// The changes of every commit after `compacted`.
    log: BTreeMap<Revision, Vec<Change>>,
}

impl History {
    pub(super) fn starting_at(revision: Revision) -> Self {
        Self { revision, compacted: 0, keys: BTreeMap::new(), log: BTreeMap::new() }
    }

    pub(super) fn revision(&self) -> Revision {
        self.revision
    }

    pub(super) fn commit(&mut self, expects: &[Expect], writes: &[Write]) -> Commit {
        for expect in expects {
            let (key, wanted) = match expect {
                Expect::Absent { key } => (key, None),
                Expect::At { key, revision } => (key, Some(*revision)),
            };
            let current = self.entry_at(key, self.revision);
            if current.as_ref().map(|entry| entry.revision) != wanted {
                return Commit::Conflict { key: key.clone(), current };
            }
        }
        let next = self.revision + 1;
        let changes: Vec<Change> = writes.iter().filter_map(|write| self.change(write, next)).collect();
        if !changes.is_empty() {
            for change in &changes {
                let value = match change {
                    Change::Put(entry) => Some(entry.value.clone()),
                    Change::Delete { .. } => None,
                };
                self.keys.entry(change.key().to_owned()).or_default().push((next, value));
            }
            self.log.insert(next, changes);
            self.revision = next;
        }
        Commit::Done(self.revision)
    }

    pub(super) fn range(&self, range: &Range) -> Result<Snapshot, StoreError> {
        self.readable(range.at)?;
        let revision = if range.at == 0 { self.revision } else { range.at };
        let first = range.start.as_str().max(range.prefix.as_str());
        let mut entries: Vec<Entry> = self
            .keys
            .range::<str, _>((Bound::Included(first), Bound::Unbounded))
            .take_while(|(key, _)| key.starts_with(&range.prefix))
            .filter_map(|(key, _)| self.entry_at(key, revision))
            .collect();
        let kept = if range.limit == 0 { entries.len() } else { range.limit.min(entries.len()) };
        let remaining = (entries.len() - kept) as u64;
        entries.truncate(kept);
        Ok(Snapshot { entries, revision, remaining })
    }

    /// The changes under `prefix` of the next commits after `position`, at most so many of them, and the position
    /// after them.
    pub(super) fn after(
        &self,
        prefix: &str,
        position: Revision,
        commits: usize,
    ) -> Result<(Vec<Change>, Revision), StoreError> {
        self.watchable(position)?;
        let mut changes = Vec::new();
        let mut found = 0;
        for (revision, commit) in self.log.range((Bound::Excluded(position), Bound::Unbounded)) {
            let before = changes.len();
            changes.extend(commit.iter().filter(|change| change.key().starts_with(prefix)).cloned());
            found += usize::from(changes.len() > before);
            if found == commits {
                return Ok((changes, *revision));
            }
        }
        Ok((changes, self.revision))
    }

    pub(super) fn compact(&mut self, revision: Revision) -> Result<(), StoreError> {
        if revision > self.revision {
            return Err(StoreError::Future { asked: revision, current: self.revision });
        }
        if revision <= self.compacted {
            return Ok(());
        }
        self.compacted = revision;
        self.log = self.log.split_off(&(revision + 1));
        self.keys.retain(|_, versions| {
            let first = versions.partition_point(|(changed, _)| *changed <= revision).saturating_sub(1);
            versions.drain(..first);
            versions.len() > 1 || versions.iter().any(|(changed, value)| *changed > revision || value.is_some())
        });
        Ok(())
    }

    /// Whether all changes after `from` are still there.
    pub(super) fn watchable(&self, from: Revision) -> Result<(), StoreError> {
        if from == 0 && self.compacted > 0 {
            return Err(StoreError::Compacted { asked: from, oldest: self.compacted });
        }
        self.readable(from)
    }

    /// Whether the keys as they were at a revision (0: now) can be read.
    fn readable(&self, at: Revision) -> Result<(), StoreError> {
        if at > self.revision {
            return Err(StoreError::Future { asked: at, current: self.revision });
        }
        if at != 0 && at < self.compacted {
            return Err(StoreError::Compacted { asked: at, oldest: self.compacted });
        }
        Ok(())
    }

    fn entry_at(&self, key: &str, at: Revision) -> Option<Entry> {
        let versions = self.keys.get(key)?;
        let (revision, value) = versions.iter().rev().find(|(revision, _)| *revision <= at)?;
        Some(Entry { key: key.to_owned(), value: value.clone()?, revision: *revision })
    }

    fn change(&self, write: &Write, revision: Revision) -> Option<Change> {
        match write {
            Write::Put { key, value } => Some(Change::Put(Entry { key: key.clone(), value: value.clone(), revision })),
            Write::Delete { key } => {
                let present = self.entry_at(key, self.revision).is_some();
                present.then(|| Change::Delete { key: key.clone(), revision })
            }
        }
    }
}
