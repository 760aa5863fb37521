//! CustomResourceDefinitions: whether their names are accepted, the kinds that they add to the table, and the end of
//! their objects with them. Looks at all definitions whenever one changes.

mod names;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use diolkos_api::kind::custom;
use diolkos_api::status::Failure;
use diolkos_api::wire;
use diolkos_api::wire::patch_request::Type;
use futures::StreamExt as _;
use serde_json::{Value, json};
use tokio::time::{Instant, sleep_until};

use crate::bootstrap::own_caller;
use crate::cache::{CacheEvent, CachedObject, Freshness, Start, Watch, WatchSpec};
use crate::handlers::Handlers;
use crate::serve::Shutdown;

pub(crate) const GROUP: &str = "apiextensions.k8s.io";
pub(crate) const PLURAL: &str = "customresourcedefinitions";
const PREFIX: &str = "/registry/apiextensions.k8s.io/customresourcedefinitions/";

/// Keeps a definition until its objects are gone.
const FINALIZER: &str = "customresourcecleanup.apiextensions.k8s.io";

/// Pause before what failed, or waits for objects to go, is looked at again.
const RETRY: Duration = Duration::from_secs(1);

/// The definitions as they are known, by their keys.
type Known = BTreeMap<String, Value>;

/// Follows the definitions.
pub(crate) struct Definitions {
    handlers: Handlers,
    known: Known,
    watch: Watch,
}

/// Takes in the definitions that are there: their kinds are served before anybody can ask.
pub(crate) async fn start(handlers: &Handlers) -> Result<Definitions, Failure> {
    handlers.cache.get(PREFIX, Freshness::Latest).await?;
    let (known, watch) = open(handlers).await?;
    serve(handlers, &known);
    Ok(Definitions { handlers: handlers.clone(), known, watch })
}

impl Definitions {
    /// Follows until the server stops.
    pub(crate) async fn run(self, shutdown: Shutdown) {
        tokio::select! {
            () = self.follow() => {}
            () = shutdown.begun() => {}
        }
    }

    async fn follow(mut self) {
        loop {
            let settled = settle(&self.handlers, &self.known).await;
            let again = Instant::now() + RETRY;
            tokio::select! {
                event = self.watch.next() => match event {
                    Some(Ok(event)) => take(&mut self.known, event),
                    _ => self.reopen().await,
                },
                () = sleep_until(again), if !settled => {}
            }
            serve(&self.handlers, &self.known);
        }
    }

    async fn reopen(&mut self) {
        loop {
            tokio::time::sleep(RETRY).await;
            match open(&self.handlers).await {
                Ok(opened) => {
                    (self.known, self.watch) = opened;
                    return;
                }
                Err(failure) => tracing::warn!(%failure, "cannot follow the CustomResourceDefinitions"),
            }
        }
    }
}

/// Everything that is there, and the watch of what comes.
async fn open(handlers: &Handlers) -> Result<(Known, Watch), Failure> {
    let start = Start::State { freshness: Freshness::Any, bookmark: true };
    let spec = WatchSpec { prefix: PREFIX.into(), node: None, filter: None, start, bookmarks: true };
    let mut watch = handlers.cache.watch(spec).await?;
    let mut known = Known::new();
    loop {
        match watch.next().await.transpose()? {
            Some(CacheEvent::Bookmark { initial_events_end: true, .. }) => return Ok((known, watch)),
            Some(event) => take(&mut known, event),
            None => return Err(Failure::unavailable("the watch ended before the present state was in")),
        }
    }
}

fn take(known: &mut Known, event: CacheEvent) {
    match event {
        CacheEvent::Added(object) | CacheEvent::Modified(object) => put(known, &object),
        CacheEvent::Deleted(object) => drop(known.remove(&*object.key)),
        CacheEvent::Bookmark { .. } => {}
    }
}

fn put(known: &mut Known, object: &CachedObject) {
    match serde_json::from_slice(&object.bytes) {
        Ok(definition) => drop(known.insert(object.key.to_string(), definition)),
        Err(cause) => tracing::error!(key = %object.key, %cause, "a CustomResourceDefinition cannot be read"),
    }
}

/// The kinds of all established definitions are in the table, and no others.
fn serve(handlers: &Handlers, known: &Known) {
    let established = known.values().filter(|own| custom::is_established(own));
    let kinds = established.flat_map(custom::kinds).map(Arc::new).collect();
    handlers.registry.set_custom(kinds);
}

/// Brings what the server says of each definition up to date. False when it has to look again without an event.
async fn settle(handlers: &Handlers, known: &Known) -> bool {
    let mut settled = true;
    for definition in known.values() {
        let name = definition["metadata"]["name"].as_str().unwrap_or_default();
        let done = if definition["metadata"]["deletionTimestamp"].is_string() {
            clean(handlers, definition).await
        } else {
            accept(handlers, definition, known).await
        };
        match done {
            Ok(done) => settled &= done,
            // Somebody else was faster, and an event will tell.
            Err(failure) if failure.is_not_found() || failure.is_conflict() => {}
            Err(failure) => {
                tracing::warn!(name, %failure, "cannot settle a CustomResourceDefinition");
                settled = false;
            }
        }
    }
    settled
}

/// Writes which names are accepted.
async fn accept(handlers: &Handlers, definition: &Value, known: &Known) -> Result<bool, Failure> {
    let builtin = handlers.registry.all().filter(|kind| kind.custom().is_none());
    let status = names::status(definition, known.values(), builtin, &crate::handlers::now());
    if let Some(status) = status {
        patch(handlers, definition, "status", json!({"status": status})).await?;
    }
    Ok(true)
}

/// Deletes the objects of a definition that is to go, and lets it go when none is left.
async fn clean(handlers: &Handlers, definition: &Value) -> Result<bool, Failure> {
    let finalizers = definition["metadata"]["finalizers"].as_array().cloned().unwrap_or_default();
    if !finalizers.iter().any(|own| own == FINALIZER) {
        return Ok(true);
    }
    for kind in custom::kinds(definition).iter().filter(|kind| !kind.is_converted()) {
        let key = wire::Key {
            group: kind.group.clone(),
            version: kind.version.clone(),
            plural: kind.plural.clone(),
            ..wire::Key::default()
        };
        // Only what was established ever had objects.
        if handlers.registry.find(&kind.group, &kind.version, &kind.plural).is_none() {
            continue;
        }
        let request = wire::DeleteRequest { key: Some(key), ..wire::DeleteRequest::default() };
        handlers.delete_collection(&own_caller(), request).await?;
        if has_objects(handlers, &kind.prefix("")).await? {
            return Ok(false);
        }
    }
    let rest: Vec<Value> = finalizers.into_iter().filter(|own| own != FINALIZER).collect();
    let version = definition["metadata"]["resourceVersion"].clone();
    let change = json!({"metadata": {"finalizers": rest, "resourceVersion": version}});
    patch(handlers, definition, "", change).await?;
    Ok(true)
}

async fn has_objects(handlers: &Handlers, prefix: &str) -> Result<bool, Failure> {
    let range = diolkos_store::Range { prefix: prefix.into(), limit: 1, ..diolkos_store::Range::default() };
    let snapshot = handlers.store.range(range).await.map_err(crate::handlers::store_failure)?;
    Ok(!snapshot.entries.is_empty())
}

async fn patch(handlers: &Handlers, definition: &Value, part: &str, change: Value) -> Result<(), Failure> {
    let key = wire::Key {
        group: GROUP.into(),
        version: "v1".into(),
        plural: PLURAL.into(),
        name: definition["metadata"]["name"].as_str().unwrap_or_default().into(),
        subresource: part.into(),
        ..wire::Key::default()
    };
    let request = wire::PatchRequest {
        key: Some(key),
        r#type: Type::Merge.into(),
        patch: Bytes::from(change.to_string()),
        ..wire::PatchRequest::default()
    };
    handlers.patch(&own_caller(), request).await.map(drop)
}

/// A definition that is deleted waits for its objects.
pub(crate) fn mark(definition: &mut Value) {
    let finalizers = &mut definition["metadata"]["finalizers"];
    match finalizers.as_array_mut() {
        Some(list) if list.iter().any(|own| own == FINALIZER) => {}
        Some(list) => list.push(FINALIZER.into()),
        None => *finalizers = json!([FINALIZER]),
    }
    let message = "CustomResourceDefinition marked for deletion; CustomResource deletion will begin soon";
    names::set_condition(definition, "Terminating", true, "InstanceDeletionPending", message, &crate::handlers::now());
}
