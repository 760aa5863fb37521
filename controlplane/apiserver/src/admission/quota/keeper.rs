//! Keeps `status` of the quotas true: what is used is told soon after each write of this server, and of whatever else
//! changed at every look at all of it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::Ordering;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use diolkos_api::kind::{Kind, Registry};
use diolkos_api::status::Failure;
use diolkos_api::wire;
use diolkos_store::{Commit, Expect, Revision, Write as StoreWrite};
use serde_json::{Map, Value, json};
use tokio::sync::Notify;

use super::{GUARDS, QUOTAS, Quotas, amounts, hard, usage};
use crate::admission::resources::{Amounts, add};
use crate::bootstrap::own_caller;
use crate::cache::Freshness;
use crate::handlers::{Handlers, store_failure};
use crate::serve::Shutdown;

/// How long writes gather before their namespaces are looked at.
const GATHER: Duration = Duration::from_millis(50);
/// How often all quotas are looked at, whatever happened.
const RESYNC: Duration = Duration::from_secs(30);

/// Namespaces with quotas in which something was written, and the revision of it.
#[derive(Default)]
pub(super) struct Waiting {
    namespaces: Mutex<BTreeMap<String, Revision>>,
    news: Notify,
}

impl Waiting {
    fn add(&self, namespace: &str, revision: Revision) {
        let mut namespaces = self.namespaces.lock().unwrap_or_else(PoisonError::into_inner);
        let known = namespaces.entry(namespace.to_owned()).or_default();
        *known = revision.max(*known);
        self.news.notify_one();
    }

    fn take(&self) -> BTreeMap<String, Revision> {
        std::mem::take(&mut *self.namespaces.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Quotas {
    /// Notes a commit of this server.
    pub(in crate::admission) fn committed(&self, writes: &[StoreWrite], revision: Revision) {
        for write in writes {
            let (StoreWrite::Put { key, .. } | StoreWrite::Delete { key }) = write;
            let Some(namespace) = namespace(key) else { continue };
            if key.starts_with(QUOTAS) {
                self.decided.fetch_max(revision, Ordering::AcqRel);
            }
            if key.starts_with(QUOTAS) || !self.cache.peek(&format!("{QUOTAS}{namespace}/")).is_empty() {
                self.waiting.add(namespace, revision);
            }
        }
    }

    /// Follows what is written until the server stops.
    pub(crate) async fn keep(self, handlers: Handlers, shutdown: Shutdown) {
        let keeping = async {
            loop {
                let namespaces = match tokio::time::timeout(RESYNC, self.waiting.news.notified()).await {
                    Ok(()) => {
                        tokio::time::sleep(GATHER).await;
                        self.waiting.take()
                    }
                    Err(_) => self.all(),
                };
                for (namespace, revision) in namespaces {
                    if let Err(failure) = self.tell(&handlers, &namespace, revision).await {
                        tracing::warn!(%namespace, %failure, "cannot tell what of the quotas is used");
                    }
                }
            }
        };
        tokio::select! {
            () = keeping => {}
            () = shutdown.begun() => {}
        }
    }

    /// All namespaces that have quotas, or had some.
    fn all(&self) -> BTreeMap<String, Revision> {
        let of = |prefix: &str| self.cache.peek(prefix).iter().map(|object| object.key.clone()).collect::<Vec<_>>();
        let quotas = of(QUOTAS);
        let guards = of(GUARDS);
        let namespaces: BTreeSet<&str> = quotas
            .iter()
            .filter_map(|key| namespace(key))
            .chain(guards.iter().filter_map(|key| key.strip_prefix(GUARDS)))
            .collect();
        namespaces.into_iter().map(|namespace| (namespace.to_owned(), 0)).collect()
    }

    async fn tell(&self, handlers: &Handlers, namespace: &str, revision: Revision) -> Result<(), Failure> {
        self.cache.reach(if revision == 0 { Freshness::Any } else { Freshness::AtLeast(revision) }).await?;
        let quotas = self.quotas_of(namespace);
        if quotas.is_empty() {
            return self.forget(handlers, namespace).await;
        }
        for mut quota in quotas {
            let status = self.status(&handlers.registry, &quota, namespace);
            if same(&quota["status"], &status) {
                continue;
            }
            let name = quota["metadata"]["name"].as_str().unwrap_or_default().to_owned();
            quota["status"] = status;
            let key = wire::Key {
                version: "v1".into(),
                plural: "resourcequotas".into(),
                namespace: namespace.into(),
                name,
                subresource: "status".into(),
                ..wire::Key::default()
            };
            let json = Bytes::from(quota.to_string());
            let request = wire::WriteRequest { key: Some(key), json, ..wire::WriteRequest::default() };
            match handlers.update(&own_caller(), request).await {
                // Somebody else wrote it: what it is now is looked at again.
                Err(failure) if failure.is_conflict() => self.waiting.add(namespace, 0),
                Err(failure) if failure.is_not_found() => {}
                told => drop(told?),
            }
        }
        Ok(())
    }

    /// What a quota's status should say.
    fn status(&self, registry: &Registry, quota: &Value, namespace: &str) -> Value {
        let hard = hard(quota);
        let mut used = Amounts::new();
        for kind in kinds_of(registry, &hard) {
            add(&mut used, &self.used(quota, &kind, namespace));
        }
        let text = |amounts: &Amounts, name: &String| amounts.get(name).copied().unwrap_or_default().to_string();
        let used: Map<String, Value> = hard.keys().map(|name| (name.clone(), text(&used, name).into())).collect();
        json!({"hard": quota["spec"]["hard"], "used": used})
    }

    /// A namespace without quotas needs no guard.
    async fn forget(&self, handlers: &Handlers, namespace: &str) -> Result<(), Failure> {
        let key = format!("{GUARDS}{namespace}");
        let mut turn = self.turn(namespace).await;
        let Some(guard) = self.cache.peek(&key).pop() else { return Ok(()) };
        let expect = Expect::At { key: key.clone(), revision: guard.revision };
        let commit = handlers.store.commit(&[expect], &[StoreWrite::Delete { key }]).await.map_err(store_failure)?;
        if let Commit::Done(revision) = commit {
            *turn = revision;
        }
        Ok(())
    }
}

/// The namespace in a storage key; `None` for keys of the cluster and keys that are no objects.
fn namespace(key: &str) -> Option<&str> {
    let mut parts = key.strip_prefix("/registry/")?.split('/');
    let group = parts.next().filter(|group| !group.starts_with('_'));
    match (group, parts.next(), parts.next(), parts.next()) {
        (Some(_), Some(_), Some(namespace), Some(_)) => Some(namespace),
        _ => None,
    }
}

/// The kinds that the resources of a quota are about.
fn kinds_of(registry: &Registry, hard: &Amounts) -> Vec<std::sync::Arc<Kind>> {
    let mut plurals: BTreeSet<(String, String)> = BTreeSet::new();
    for plural in ["pods", "services", "persistentvolumeclaims"] {
        plurals.insert(("core".into(), plural.into()));
    }
    for name in hard.keys() {
        let counted = name.strip_prefix("count/").unwrap_or(name);
        let (plural, group) = counted.split_once('.').unwrap_or((counted, "core"));
        plurals.insert((group.to_owned(), plural.to_owned()));
    }
    let found = plurals.iter().filter_map(|(group, plural)| registry.find_key(&format!("/registry/{group}/{plural}/")));
    found.filter(|kind| kind.namespaced && hard.keys().any(|name| usage::is_about(name, kind))).collect()
}

fn same(status: &Value, other: &Value) -> bool {
    ["hard", "used"]
        .iter()
        .all(|field| status[*field].is_object() && amounts(&status[*field]) == amounts(&other[*field]))
}
