//! ResourceQuota: what is in a namespace stays within its quotas, exactly, however many writers there are. Each write
//! that uses something puts a guard of its namespace in the same commit and expects the guard that it counted under:
//! of two that counted the same, one begins anew. What is used is counted from the watch cache, which has to be as new
//! as the guard; what is deleted is free at once.

mod keeper;
mod scope;
mod usage;

#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use diolkos_api::kind::Kind;
use diolkos_api::quantity::Quantity;
use diolkos_api::status::Failure;
use diolkos_store::{Commit, Expect, Revision, Write as StoreWrite};
use serde_json::{Value, json};
use tokio::sync::OwnedMutexGuard;

use self::usage::Usage;
use super::Write;
use super::resources::{Amounts, add, amounts, written};
use crate::cache::{Cache, Freshness};

pub(super) const NAME: &str = "ResourceQuota";
const QUOTAS: &str = "/registry/core/resourcequotas/";
/// Guards of namespaces; no objects of the API.
const GUARDS: &str = "/registry/_quota/";
/// Locks of namespaces, which share them by their hash.
const TURNS: usize = 64;

/// The quotas of one server. Clones are the same.
#[derive(Clone)]
pub(crate) struct Quotas {
    cache: Cache,
    /// Writers of one namespace count one after the other, so that none of this server loses to another of it. The
    /// lock holds the revision of the last one's commit.
    turns: Arc<[Arc<tokio::sync::Mutex<Revision>>]>,
    /// What objects use, by the prefix of their resource and namespace, then by key: each version is read once.
    known: Arc<Mutex<HashMap<String, Known>>>,
    waiting: Arc<keeper::Waiting>,
    /// The revision of the last commit of this server that wrote what a quota allows.
    decided: Arc<AtomicI64>,
}

type Known = HashMap<Arc<str>, (Revision, Arc<Usage>)>;

/// What a commit has to expect and write so that quotas hold; nothing where there are none.
#[derive(Default)]
pub(crate) struct Charge {
    pub expects: Vec<Expect>,
    pub writes: Vec<StoreWrite>,
    turn: Option<OwnedMutexGuard<Revision>>,
}

impl Quotas {
    pub(super) fn new(cache: Cache) -> Quotas {
        let turns = (0..TURNS).map(|_| Arc::default()).collect();
        Quotas { cache, turns, known: Arc::default(), waiting: Arc::default(), decided: Arc::default() }
    }

    /// 403 when a write uses more than is left. The charge is to be committed with the write.
    pub(super) async fn charge(&self, write: &Write<'_>) -> Result<Charge, Failure> {
        let Some(new) = write.new.filter(|_| is_counted(write)) else { return Ok(Charge::default()) };
        let decided = self.decided.load(Ordering::Acquire);
        if decided > 0 {
            self.cache.reach(Freshness::AtLeast(decided)).await?;
        }
        if self.quotas_about(write).is_empty() {
            return Ok(Charge::default());
        }
        let wanted = Wanted::of(write, new);
        if wanted.more.is_empty() {
            return Ok(Charge::default());
        }
        let turn = self.turn(write.namespace).await;
        self.cache.reach(if *turn == 0 { Freshness::Any } else { Freshness::AtLeast(*turn) }).await?;
        // The guard first: what is counted is then at least as new.
        let key = format!("{GUARDS}{}", write.namespace);
        let guard = self.cache.peek(&key).pop().map(|guard| guard.revision);
        for quota in self.quotas_about(write) {
            check(write, &quota, &wanted, || self.used(&quota, write.kind, write.namespace))?;
        }
        let value = Bytes::from(json!({"counted": write.kind.key(write.namespace, write.name)}).to_string());
        let expect = match guard {
            Some(revision) => Expect::At { key: key.clone(), revision },
            None => Expect::Absent { key: key.clone() },
        };
        Ok(Charge { expects: vec![expect], writes: vec![StoreWrite::Put { key, value }], turn: Some(turn) })
    }

    /// What became of a commit with a charge. After another server's charge the cache is waited for.
    pub(super) async fn settle(&self, charge: Charge, commit: &Commit) -> Result<(), Failure> {
        match (charge.turn, commit) {
            (Some(mut turn), Commit::Done(revision)) => *turn = *revision,
            (Some(_), Commit::Conflict { key, current }) if key.starts_with(GUARDS) => {
                let seen = current.as_ref().map_or(Freshness::Latest, |entry| Freshness::AtLeast(entry.revision));
                self.cache.reach(seen).await?;
            }
            _ => {}
        }
        Ok(())
    }

    async fn turn(&self, namespace: &str) -> OwnedMutexGuard<Revision> {
        let mut hasher = DefaultHasher::new();
        namespace.hash(&mut hasher);
        let index = usize::try_from(hasher.finish() % TURNS as u64).unwrap_or(0);
        self.turns[index].clone().lock_owned().await
    }

    /// The quotas of the write's namespace that are about its kind.
    fn quotas_about(&self, write: &Write<'_>) -> Vec<Value> {
        let mut quotas = self.quotas_of(write.namespace);
        quotas.retain(|quota| hard(quota).keys().any(|name| usage::is_about(name, write.kind)));
        quotas
    }

    fn quotas_of(&self, namespace: &str) -> Vec<Value> {
        let cached = self.cache.peek(&format!("{QUOTAS}{namespace}/"));
        cached.iter().filter_map(|quota| serde_json::from_slice(&quota.bytes).ok()).collect()
    }

    /// What the objects of a kind use of a quota.
    fn used(&self, quota: &Value, kind: &Kind, namespace: &str) -> Amounts {
        let prefix = kind.prefix(namespace);
        if !usage::is_measured(kind) {
            let one = usage::of(kind, &Value::Null);
            let mut sum = Amounts::new();
            if scope::fits(quota, &one) {
                (0..self.cache.peek(&prefix).len()).for_each(|_| add(&mut sum, &one.amounts));
            }
            return sum;
        }
        let mut sum = Amounts::new();
        for usage in self.usages(kind, &prefix) {
            if scope::fits(quota, &usage) {
                add(&mut sum, &usage.amounts);
            }
        }
        sum
    }

    fn usages(&self, kind: &Kind, prefix: &str) -> Vec<Arc<Usage>> {
        let objects = self.cache.peek(prefix);
        let mut all = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let mut before = all.remove(prefix).unwrap_or_default();
        let mut known = Known::with_capacity(objects.len());
        let mut usages = Vec::with_capacity(objects.len());
        for object in objects {
            let usage = match before.remove(&object.key) {
                Some((revision, usage)) if revision == object.revision => usage,
                _ => {
                    let value = serde_json::from_slice(&object.bytes).unwrap_or(Value::Null);
                    Arc::new(usage::of(kind, &value))
                }
            };
            usages.push(usage.clone());
            known.insert(object.key.clone(), (object.revision, usage));
        }
        all.insert(prefix.to_owned(), known);
        usages
    }
}

/// Only what is made uses something, but for the kinds of which a change may use more.
fn is_counted(write: &Write<'_>) -> bool {
    let grows = write.is_create() || usage::is_measured(write.kind);
    write.kind.namespaced && write.kind.stored && write.subresource.is_empty() && !write.is_delete() && grows
}

fn hard(quota: &Value) -> Amounts {
    amounts(&quota["spec"]["hard"])
}

/// What a write uses.
struct Wanted {
    usage: Usage,
    /// Beyond what is there already.
    more: Amounts,
}

impl Wanted {
    fn of(write: &Write<'_>, new: &Value) -> Wanted {
        let usage = usage::of(write.kind, new);
        let before = write.old.map(|old| usage::of(write.kind, old)).unwrap_or_default();
        let mut more = Amounts::new();
        for (name, amount) in &usage.amounts {
            let known = before.amounts.get(name).copied().unwrap_or_default();
            if amount.quantity > known.quantity {
                more.insert(name.clone(), *amount - known);
            }
        }
        Wanted { usage, more }
    }
}

/// 403 when a quota does not have what is wanted, or its containers do not say what they need of it.
fn check(write: &Write<'_>, quota: &Value, wanted: &Wanted, used: impl FnOnce() -> Amounts) -> Result<(), Failure> {
    if !scope::fits(quota, &wanted.usage) {
        return Ok(());
    }
    let name = quota["metadata"]["name"].as_str().unwrap_or_default();
    let hard = hard(quota);
    if let Some(pod) = write.new.filter(|_| write.is_of("", "pods") && write.is_create())
        && pod["spec"]["resources"].is_null()
        && let Some(missing) = usage::unsaid(&pod["spec"], hard.keys())
    {
        return Err(write.refused(&format!("failed quota: {name}: must specify {missing}")));
    }
    let asked: Vec<&String> = wanted.more.keys().filter(|name| hard.contains_key(*name)).collect();
    if asked.is_empty() {
        return Ok(());
    }
    let used = used();
    let beyond = |name: &&&String| {
        let of = |amounts: &Amounts| amounts.get(**name).map_or(Quantity::ZERO, |amount| amount.quantity);
        of(&used) + of(&wanted.more) > of(&hard)
    };
    let exceeded: Vec<&String> = asked.iter().filter(beyond).copied().collect();
    if exceeded.is_empty() {
        return Ok(());
    }
    let text = |amounts: &Amounts| written(amounts, exceeded.iter().copied());
    Err(write.refused(&format!(
        "exceeded quota: {name}, requested: {}, used: {}, limited: {}",
        text(&wanted.more),
        text(&used),
        text(&hard)
    )))
}
