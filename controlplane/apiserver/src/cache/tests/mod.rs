//! The cache over the model of a store.

#![allow(clippy::unwrap_used)]

mod freshness;
mod guarantees;
mod histories;
mod json;
mod loss;
mod selection;
mod upkeep;

use std::future::Future;
use std::sync::{Arc, RwLock};
use std::time::Duration;

use diolkos_api::kind::SelectableField;
use diolkos_api::status::Failure;
use diolkos_store::{Changes, Commit, Expect, Model, Range, Revision, Snapshot, Store, StoreError, Write};
use futures::{FutureExt, StreamExt};
use serde_json::Value;

use super::{Cache, CacheEvent, CachedObject, Filter, Freshness, Limits, Object, Start, Watch, WatchSpec};

const PODS: &str = "/registry/core/pods/";

/// Longest wait for anything that must happen.
const PATIENCE: Duration = Duration::from_secs(20);

fn limits() -> Limits {
    Limits {
        fresh_within: Duration::from_millis(300),
        tick_after: Duration::from_millis(10),
        retry_first: Duration::from_millis(1),
        retry_most: Duration::from_millis(5),
        compact_every: None,
        ..Limits::default()
    }
}

/// A filled cache over a fresh store.
async fn start(limits: Limits) -> (Model, Cache) {
    let model = Model::new();
    let cache = over(&model, limits);
    within("the fill", cache.ready()).await;
    (model, cache)
}

fn over(model: &Model, limits: Limits) -> Cache {
    Cache::start(Arc::new(model.clone()), fields, limits)
}

fn fields(resource: &str) -> Vec<SelectableField> {
    match resource {
        "core/pods" => vec![
            SelectableField {
                path: "spec.nodeName",
                value: |pod| pod["spec"]["nodeName"].as_str().unwrap_or_default().to_owned(),
            },
            SelectableField { path: "spec.hostNetwork", value: |pod| (pod["spec"]["hostNetwork"] == true).to_string() },
        ],
        _ => vec![],
    }
}

/// A pod with a label `app` and a node.
fn pod(name: &str, app: &str, node: &str) -> Write {
    let json = serde_json::json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": name, "namespace": "default", "labels": {"app": app}},
        "spec": {"nodeName": node},
    });
    Write::Put { key: key(name), value: json.to_string().into() }
}

fn key(name: &str) -> String {
    format!("{PODS}default/{name}")
}

fn gone(name: &str) -> Write {
    Write::Delete { key: key(name) }
}

async fn commit(model: &Model, writes: &[Write]) -> Revision {
    match model.commit(&[], writes).await.unwrap() {
        Commit::Done(revision) => revision,
        conflict => panic!("{conflict:?}"),
    }
}

fn all_pods(start: Start) -> WatchSpec {
    WatchSpec { prefix: PODS.into(), node: None, filter: None, start, bookmarks: false }
}

fn with_app(app: &'static str) -> Filter {
    Arc::new(move |object: &Object| object.label("app") == Some(app))
}

async fn next(watch: &mut Watch) -> CacheEvent {
    within("the next event", watch.next()).await.expect("the watch goes on").expect("the watch is well")
}

async fn take(watch: &mut Watch, count: usize) -> Vec<String> {
    let mut lines = Vec::new();
    for _ in 0..count {
        lines.push(line(&next(watch).await));
    }
    lines
}

/// Nothing is queued. Only meaningful when the cache has taken all changes.
fn assert_silent(watch: &mut Watch) {
    let queued = watch.next().now_or_never();
    assert!(queued.is_none(), "{queued:?}");
}

/// `added web@5`, with a check of what the client sees.
fn line(event: &CacheEvent) -> String {
    let (verb, object) = match event {
        CacheEvent::Added(object) => ("added", object),
        CacheEvent::Modified(object) => ("modified", object),
        CacheEvent::Deleted(object) => ("deleted", object),
        CacheEvent::Bookmark { revision, initial_events_end: true } => return format!("end of state @{revision}"),
        CacheEvent::Bookmark { revision, .. } => return format!("bookmark @{revision}"),
    };
    let json: Value = serde_json::from_slice(&object.bytes).unwrap();
    assert_eq!(json["metadata"]["resourceVersion"], object.revision.to_string());
    assert_eq!(json["metadata"]["name"], object.name());
    format!("{verb} {}@{}", object.name(), object.revision)
}

/// The cache has taken everything that was committed.
async fn caught_up(model: &Model, cache: &Cache) {
    let revision = model.revision();
    eventually("the cache follows", || cache.revision() >= revision).await;
}

async fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let start = tokio::time::Instant::now();
    while !condition() {
        assert!(start.elapsed() < PATIENCE, "{what}: not within {PATIENCE:?}");
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

async fn within<T>(what: &str, future: impl Future<Output = T>) -> T {
    match tokio::time::timeout(PATIENCE, future).await {
        Ok(value) => value,
        Err(_) => panic!("{what} did not happen within {PATIENCE:?}"),
    }
}

fn names(objects: &[CachedObject]) -> Vec<&str> {
    objects.iter().map(|object| object.name()).collect()
}

fn code<T>(result: Result<T, Failure>) -> u16 {
    match result {
        Ok(_) => 200,
        Err(failure) => failure.code(),
    }
}

/// A store that can be exchanged for another below a running cache.
struct Exchange(RwLock<Model>);

impl Exchange {
    fn of(model: &Model) -> Self {
        Self(RwLock::new(model.clone()))
    }

    fn replace(&self, model: &Model) {
        *self.0.write().unwrap() = model.clone();
    }

    fn now(&self) -> Model {
        self.0.read().unwrap().clone()
    }
}

#[async_trait::async_trait]
impl Store for Exchange {
    async fn commit(&self, expects: &[Expect], writes: &[Write]) -> Result<Commit, StoreError> {
        self.now().commit(expects, writes).await
    }

    async fn range(&self, range: Range) -> Result<Snapshot, StoreError> {
        // As over a network: others get to run meanwhile.
        tokio::task::yield_now().await;
        self.now().range(range).await
    }

    async fn watch(&self, prefix: &str, from: Revision) -> Result<Changes, StoreError> {
        self.now().watch(prefix, from).await
    }

    async fn compact(&self, revision: Revision) -> Result<(), StoreError> {
        self.now().compact(revision).await
    }
}
