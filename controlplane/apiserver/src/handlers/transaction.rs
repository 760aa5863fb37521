//! Read, edit, compare-and-swap: how every change of one object is made.

use std::time::Duration;

use bytes::Bytes;
use diolkos_api::status::Failure;
use diolkos_api::wire;
use diolkos_store::{Commit, Entry, Expect, Range, Write};
use serde_json::Value;

use super::{Handlers, Target, reply, store_failure};
use crate::cache::Freshness;

/// How often a change begins anew because another writer was first.
const MAX_ATTEMPTS: u32 = 24;
/// The longest pause before such a new beginning, times the attempt.
const MAX_PAUSE: Duration = Duration::from_millis(2);

/// What an edit makes of an object.
pub(super) enum Edit {
    /// It is as wanted already.
    Keep,
    Put(Value),
    /// The object goes; this is what it was at last.
    Remove(Value),
}

/// An object as the cache or the store has it, `metadata.resourceVersion` included.
pub(crate) struct Current {
    pub object: Value,
    pub revision: i64,
    /// Read from the store, so that a failed check is final.
    fresh: bool,
}

impl Handlers {
    /// Edits the target until nobody else was faster. `edit` may run several times, and sees an object that was read
    /// from the store before its failure counts.
    pub(super) async fn change(
        &self,
        target: &Target,
        dry_run: bool,
        mut edit: impl FnMut(&Current) -> Result<Edit, Failure>,
    ) -> Result<wire::Object, Failure> {
        let key = target.key();
        let mut current = match self.cached(&key).await? {
            Some(current) => current,
            None => self.stored(&key).await?.ok_or_else(|| target.not_found())?,
        };
        let mut taken = Vec::new();
        for attempt in 1..=MAX_ATTEMPTS {
            let edited = match edit(&current) {
                Err(_) | Ok(Edit::Keep) if !current.fresh => {
                    current = self.stored(&key).await?.ok_or_else(|| target.not_found())?;
                    continue;
                }
                edited => edited?,
            };
            let (mut object, remove) = match edited {
                Edit::Keep => return Ok(reply(&current.object, current.revision, Vec::new())),
                Edit::Put(object) => (object, false),
                Edit::Remove(object) => (object, true),
            };
            let new = if remove { None } else { Some(&mut object) };
            let claims = self.addresses.claims(self, &target.kind, Some(&current.object), new, &taken).await?;
            if !remove {
                target.kind.check(&object, Some(&current.object))?;
            }
            if dry_run {
                return Ok(reply(&object, current.revision, Vec::new()));
            }
            let mut expects = vec![Expect::At { key: key.clone(), revision: current.revision }];
            expects.extend(claims.expects);
            let mut writes = vec![if remove {
                Write::Delete { key: key.clone() }
            } else {
                Write::Put { key: key.clone(), value: stored_bytes(&object) }
            }];
            writes.extend(claims.writes);
            match self.store.commit(&expects, &writes).await.map_err(store_failure)? {
                Commit::Done(revision) => {
                    set_version(&mut object, revision);
                    return Ok(reply(&object, revision, Vec::new()));
                }
                Commit::Conflict { key: other, .. } if other != key => taken.push(other),
                Commit::Conflict { current: None, .. } => return Err(target.not_found()),
                Commit::Conflict { current: Some(entry), .. } => current = decode(&entry)?,
            }
            self.metrics.write_conflict();
            tokio::time::sleep(MAX_PAUSE.mul_f64(rand::random::<f64>()) * attempt).await;
        }
        Err(Failure::modified(target.kind.resource(), &target.name))
    }

    /// Creates an object unless its key is taken: `Ok(None)` then.
    pub(super) async fn insert(&self, target: &Target, object: &mut Value) -> Result<Option<i64>, Failure> {
        let key = target.key();
        let asked = object.clone();
        let mut taken = Vec::new();
        for _ in 0..MAX_ATTEMPTS {
            *object = asked.clone();
            let claims = self.addresses.claims(self, &target.kind, None, Some(object), &taken).await?;
            target.kind.check(object, None)?;
            let mut expects = vec![Expect::Absent { key: key.clone() }];
            expects.extend(claims.expects);
            let mut writes = vec![Write::Put { key: key.clone(), value: stored_bytes(object) }];
            writes.extend(claims.writes);
            match self.store.commit(&expects, &writes).await.map_err(store_failure)? {
                Commit::Done(revision) => return Ok(Some(revision)),
                Commit::Conflict { key: other, .. } if other == key => return Ok(None),
                Commit::Conflict { key: other, .. } => taken.push(other),
            }
            self.metrics.write_conflict();
        }
        Err(Failure::unavailable("every address that was tried was taken meanwhile, please try again"))
    }

    /// The newest state of a key, from the store.
    pub(crate) async fn stored(&self, key: &str) -> Result<Option<Current>, Failure> {
        let range = Range { prefix: key.to_owned(), start: key.to_owned(), at: 0, limit: 1 };
        let snapshot = self.store.range(range).await.map_err(store_failure)?;
        snapshot.entries.iter().find(|entry| entry.key == key).map(decode).transpose()
    }

    async fn cached(&self, key: &str) -> Result<Option<Current>, Failure> {
        let Some(cached) = self.cache.get(key, Freshness::Any).await? else { return Ok(None) };
        let object = serde_json::from_slice(&cached.bytes).map_err(|cause| damaged(key, &cause))?;
        Ok(Some(Current { object, revision: cached.revision, fresh: false }))
    }
}

fn decode(entry: &Entry) -> Result<Current, Failure> {
    let mut object = serde_json::from_slice(&entry.value).map_err(|cause| damaged(&entry.key, &cause))?;
    set_version(&mut object, entry.revision);
    Ok(Current { object, revision: entry.revision, fresh: true })
}

fn damaged(key: &str, cause: &serde_json::Error) -> Failure {
    Failure::internal(format!("the stored object at {key} cannot be read: {cause}"))
}

pub(super) fn set_version(object: &mut Value, revision: i64) {
    object["metadata"]["resourceVersion"] = revision.to_string().into();
}

/// The object as it rests: its version is the revision of its key.
pub(crate) fn stored_bytes(object: &Value) -> Bytes {
    let mut object = object.clone();
    if let Some(metadata) = object.get_mut("metadata").and_then(Value::as_object_mut) {
        metadata.shift_remove("resourceVersion");
    }
    Bytes::from(object.to_string())
}
