//! Read, edit, compare-and-swap: how every change of one object is made.

use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::sync::Arc;

use bytes::Bytes;
use diolkos_api::status::Failure;
use diolkos_api::wire;
use diolkos_store::{Commit, Entry, Expect, Range, Write};
use serde_json::Value;
use tokio::sync::{Mutex, OwnedMutexGuard};

use super::{Handlers, Target, reply, store_failure};
use crate::addresses::{Claims, Held, repair};
use crate::admission::Charge;
use crate::cache::Freshness;
use crate::encryption::is_sealed;
use crate::patch;

/// How often a change begins anew because another writer was first.
const MAX_ATTEMPTS: u32 = 16;

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

/// What is committed, and the object that the client gets.
struct Change {
    object: Value,
    expects: Vec<Expect>,
    writes: Vec<Write>,
    claims: Claims,
    charge: Charge,
    warnings: Vec<String>,
}

/// Writers of one key that were too slow once wait for each other, so that each of them gets its turn within a few
/// attempts.
#[derive(Clone)]
pub(crate) struct Turns(Arc<[Arc<Mutex<()>>]>);

/// Locks of [`Turns`]; keys share them by their hash.
const TURNS: usize = 64;

impl Turns {
    pub(crate) fn new() -> Turns {
        Turns((0..TURNS).map(|_| Arc::default()).collect())
    }

    async fn wait(&self, key: &str) -> OwnedMutexGuard<()> {
        let mut hasher = DefaultHasher::new();
        key.hash(&mut hasher);
        let index = usize::try_from(hasher.finish() % TURNS as u64).unwrap_or(0);
        self.0[index].clone().lock_owned().await
    }
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
        let mut turn = None;
        for _ in 0..MAX_ATTEMPTS {
            let change = match self.prepare(target, &current, &mut edit, &taken).await {
                // What the cache had may be old: only a look into the store makes this an answer.
                Err(_) | Ok(None) if !current.fresh => {
                    current = self.stored(&key).await?.ok_or_else(|| target.not_found())?;
                    continue;
                }
                change => change?,
            };
            let Some(mut change) = change else {
                return Ok(reply(&current.object, current.revision, Vec::new()));
            };
            if dry_run {
                return Ok(reply(&change.object, current.revision, change.warnings));
            }
            let charged = self.commit_charged(change.expects, change.writes, change.claims, change.charge).await?;
            match charged {
                Commit::Done(revision) => {
                    set_version(&mut change.object, revision);
                    return Ok(reply(&change.object, revision, change.warnings));
                }
                Commit::Conflict { key: other, .. } if other != key => taken.push(other),
                Commit::Conflict { current: None, .. } => return Err(target.not_found()),
                Commit::Conflict { current: Some(entry), .. } => current = decode(&entry)?,
            }
            self.metrics.write_conflict();
            if turn.is_none() {
                turn = Some(self.turns.wait(&key).await);
            }
        }
        Err(Failure::modified(target.kind.resource(), &target.name))
    }

    /// The commit that an edit asks for; `None` when nothing is to be done.
    async fn prepare(
        &self,
        target: &Target,
        current: &Current,
        edit: &mut impl FnMut(&Current) -> Result<Edit, Failure>,
        taken: &[String],
    ) -> Result<Option<Change>, Failure> {
        let key = target.key();
        let old = &current.object;
        let expects = vec![Expect::At { key: key.clone(), revision: current.revision }];
        let (mut warnings, mut charge) = (Vec::new(), Charge::default());
        let edit = match edit(current)? {
            // With the key of today.
            Edit::Keep if self.is_rewritten(target) => Edit::Put(old.clone()),
            edit => edit,
        };
        let (object, write, claims) = match edit {
            Edit::Keep => return Ok(None),
            Edit::Remove(object) => {
                self.check_write(target, None, Some(old))?;
                let claims = self.addresses.claims(self, &target.kind, Some(old), None, taken).await?;
                (object, Write::Delete { key }, claims)
            }
            Edit::Put(mut object) => {
                warnings = self.admit(target, &mut object, Some(old)).await?;
                if target.subresource.is_empty() && matches!(target.verb, "update" | "patch") {
                    target.kind.count_generation(&mut object, old);
                }
                if object == *old && !self.is_rewritten(target) {
                    return Ok(None);
                }
                let claims = self.addresses.claims(self, &target.kind, Some(old), Some(&mut object), taken).await?;
                target.kind.check_part(&target.subresource, &object, Some(old))?;
                self.check_write(target, Some(&object), Some(old))?;
                check_rest(target, &object)?;
                charge = self.admission.charge(&target.write(Some(&object), Some(old))).await?;
                let write = Write::Put { key, value: stored_bytes(&object) };
                (object, write, claims)
            }
        };
        Ok(Some(Change { object, expects, writes: vec![write], claims, charge, warnings }))
    }

    /// A write of what is there already counts when it would rest otherwise now.
    fn is_rewritten(&self, target: &Target) -> bool {
        matches!(target.verb, "update" | "patch") && self.sealed.is_stale(&target.key())
    }

    /// Creates an object unless its key is taken: `Ok(None)` then. `namespace`: what the object's namespace was found
    /// to be; it is looked at again when that is no longer so.
    pub(super) async fn insert(
        &self,
        target: &Target,
        object: &mut Value,
        mut namespace: Option<Expect>,
    ) -> Result<Option<i64>, Failure> {
        let key = target.key();
        let asked = object.clone();
        let mut taken = Vec::new();
        for _ in 0..MAX_ATTEMPTS {
            *object = asked.clone();
            let claims = self.addresses.claims(self, &target.kind, None, Some(object), &taken).await?;
            target.kind.check(object, None)?;
            self.check_write(target, Some(object), None)?;
            check_rest(target, object)?;
            let charge = self.admission.charge(&target.write(Some(object), None)).await?;
            let mut expects = vec![Expect::Absent { key: key.clone() }];
            expects.extend(namespace.clone());
            let write = Write::Put { key: key.clone(), value: stored_bytes(object) };
            match self.commit_charged(expects, vec![write], claims, charge).await? {
                Commit::Done(revision) => return Ok(Some(revision)),
                Commit::Conflict { key: other, .. } if other == key => return Ok(None),
                Commit::Conflict { key: other, .. } if names(&namespace, &other) => {
                    namespace = self.check_namespace(target, true).await?;
                }
                Commit::Conflict { key: other, .. } => taken.push(other),
            }
            self.metrics.write_conflict();
        }
        Err(Failure::unavailable("every address that was tried was taken meanwhile, please try again"))
    }

    /// [`Handlers::commit`] with what holds the quotas.
    async fn commit_charged(
        &self,
        mut expects: Vec<Expect>,
        mut writes: Vec<Write>,
        claims: Claims,
        charge: Charge,
    ) -> Result<Commit, Failure> {
        expects.extend(charge.expects.iter().cloned());
        writes.extend(charge.writes.iter().cloned());
        let commit = self.commit(expects, writes, claims).await?;
        self.admission.settle(charge, &commit).await?;
        Ok(commit)
    }

    /// Commits an object with the addresses that it claims or releases. When it cannot be written, what was claimed
    /// ahead of it is given back; when nobody knows whether it was, that is left to [`repair`].
    async fn commit(
        &self,
        mut expects: Vec<Expect>,
        mut writes: Vec<Write>,
        claims: Claims,
    ) -> Result<Commit, Failure> {
        let mut held = Vec::new();
        for (key, value) in claims.ahead {
            let (absent, write) = (Expect::Absent { key: key.clone() }, Write::Put { key: key.clone(), value });
            match self.store.commit(&[absent], &[write]).await.map_err(store_failure)? {
                Commit::Done(revision) => {
                    expects.push(Expect::At { key: key.clone(), revision });
                    held.push(Held { key, revision });
                }
                conflict => {
                    repair::give_back(self, &held).await;
                    return Ok(conflict);
                }
            }
        }
        expects.extend(claims.expects);
        writes.extend(claims.writes);
        let commit = self.store.commit(&expects, &writes).await.map_err(store_failure)?;
        if let Commit::Done(revision) = commit {
            self.admission.committed(&writes, revision);
        }
        let left = if matches!(commit, Commit::Done(_)) { &claims.behind } else { &held };
        repair::give_back(self, left).await;
        Ok(commit)
    }

    /// The newest state of a key, from the store.
    pub(crate) async fn stored(&self, key: &str) -> Result<Option<Current>, Failure> {
        let range = Range { prefix: key.to_owned(), start: key.to_owned(), at: 0, limit: 1 };
        let snapshot = self.store.range(range).await.map_err(store_failure)?;
        snapshot.entries.iter().find(|entry| entry.key == key).map(decode).transpose()
    }

    pub(crate) async fn cached(&self, key: &str) -> Result<Option<Current>, Failure> {
        let Some(cached) = self.cache.get(key, Freshness::Any).await? else { return Ok(None) };
        let object = serde_json::from_slice(&cached.bytes).map_err(|cause| damaged(key, &cause))?;
        Ok(Some(Current { object, revision: cached.revision, fresh: false }))
    }
}

/// What rests must be readable, by this server and by every client, or it could not even be deleted.
fn check_rest(target: &Target, object: &Value) -> Result<(), Failure> {
    patch::check_depth(object)?;
    target.kind.check_readable(object)
}

fn names(expect: &Option<Expect>, other: &str) -> bool {
    matches!(expect, Some(Expect::Absent { key } | Expect::At { key, .. }) if key == other)
}

fn decode(entry: &Entry) -> Result<Current, Failure> {
    if is_sealed(&entry.value) {
        let key = &entry.key;
        return Err(Failure::internal(format!("the value at {key} cannot be decrypted: /readyz says why")));
    }
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
