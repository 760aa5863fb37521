//! What the authorizers know comes from the watch cache: everything once at the start, then each change. When a watch
//! ends because it was too slow, everything is read anew.

use std::collections::HashSet;
use std::sync::PoisonError;
use std::time::Duration;

use diolkos_api::status::Failure;
use futures::StreamExt as _;

use super::{Authorizer, node, rbac};
use crate::cache::{Cache, CacheEvent, CachedObject, Freshness, Start, Watch, WatchSpec};
use crate::serve::Shutdown;

/// Pause before a watch that failed is opened again.
const RETRY: Duration = Duration::from_millis(200);

/// What is followed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Source {
    Roles,
    Bindings,
    Graph(node::Source),
}

const SOURCES: [(&str, Source); 6] = [
    ("/registry/rbac.authorization.k8s.io/clusterroles/", Source::Roles),
    ("/registry/rbac.authorization.k8s.io/roles/", Source::Roles),
    ("/registry/rbac.authorization.k8s.io/clusterrolebindings/", Source::Bindings),
    ("/registry/rbac.authorization.k8s.io/rolebindings/", Source::Bindings),
    ("/registry/core/pods/", Source::Graph(node::Source::Pods)),
    (node::VOLUMES, Source::Graph(node::Source::Volumes)),
];

/// One open watch for each source.
pub(crate) struct Follower {
    authorizer: Authorizer,
    cache: Cache,
    watches: Vec<(&'static str, Source, Watch)>,
}

/// Opens the watches and takes in what is there now.
pub(super) async fn start(authorizer: &Authorizer, cache: &Cache) -> Result<Follower, Failure> {
    // Whoever waits for the start finds all that was committed before it.
    cache.get(SOURCES[0].0, Freshness::Latest).await?;
    let mut watches = Vec::with_capacity(SOURCES.len());
    for (prefix, source) in SOURCES {
        let watch = open(authorizer, cache, prefix, source).await?;
        watches.push((prefix, source, watch));
    }
    Ok(Follower { authorizer: authorizer.clone(), cache: cache.clone(), watches })
}

impl Follower {
    /// Follows until the server stops.
    pub(crate) async fn run(self, shutdown: Shutdown) {
        let Follower { authorizer, cache, watches } = self;
        let all = futures::future::join_all(
            watches.into_iter().map(|(prefix, source, watch)| follow(&authorizer, &cache, prefix, source, watch)),
        );
        tokio::select! {
            _ = all => {}
            () = shutdown.begun() => {}
        }
    }
}

async fn follow(authorizer: &Authorizer, cache: &Cache, prefix: &'static str, source: Source, mut watch: Watch) {
    loop {
        while let Some(Ok(event)) = watch.next().await {
            match event {
                CacheEvent::Added(object) | CacheEvent::Modified(object) => put(authorizer, source, &object),
                CacheEvent::Deleted(object) => remove(authorizer, source, &object.key),
                CacheEvent::Bookmark { .. } => {}
            }
        }
        watch = loop {
            tokio::time::sleep(RETRY).await;
            match open(authorizer, cache, prefix, source).await {
                Ok(watch) => break watch,
                Err(failure) => tracing::warn!(prefix, %failure, "authorization cannot follow the cache"),
            }
        };
    }
}

/// Everything that is there, in place of what was known.
async fn open(authorizer: &Authorizer, cache: &Cache, prefix: &'static str, source: Source) -> Result<Watch, Failure> {
    let start = Start::State { freshness: Freshness::Any, bookmark: true };
    let spec = WatchSpec { prefix: prefix.to_owned(), node: None, filter: None, start, bookmarks: true };
    let mut watch = cache.watch(spec).await?;
    let mut seen = HashSet::new();
    loop {
        match watch.next().await.transpose()? {
            Some(CacheEvent::Added(object) | CacheEvent::Modified(object)) => {
                put(authorizer, source, &object);
                seen.insert(object.key.to_string());
            }
            Some(CacheEvent::Deleted(object)) => remove(authorizer, source, &object.key),
            Some(CacheEvent::Bookmark { initial_events_end: false, .. }) => {}
            Some(CacheEvent::Bookmark { initial_events_end: true, .. }) => break,
            None => return Err(Failure::unavailable("the watch ended before the present state was in")),
        }
    }
    for key in known(authorizer, source, prefix) {
        if !seen.contains(&key) {
            remove(authorizer, source, &key);
        }
    }
    Ok(watch)
}

fn known(authorizer: &Authorizer, source: Source, prefix: &str) -> Vec<String> {
    match source {
        Source::Roles => authorizer.index().role_keys(prefix),
        Source::Bindings => authorizer.index().binding_keys(prefix),
        Source::Graph(source) => authorizer.graph().keys(source),
    }
}

/// What cannot be read gives nobody anything.
fn put(authorizer: &Authorizer, source: Source, object: &CachedObject) {
    let (namespace, name) = (object.namespace(), object.name());
    match source {
        Source::Graph(source) => {
            let node = node::parse(source, object);
            authorizer.graph.write().unwrap_or_else(PoisonError::into_inner).put(source, &object.key, node);
        }
        Source::Roles | Source::Bindings => {
            match rbac::parse(namespace, name, source == Source::Bindings, &object.bytes) {
                Ok(parsed) => {
                    authorizer.index.write().unwrap_or_else(PoisonError::into_inner).put(&object.key, parsed);
                }
                Err(cause) => {
                    tracing::error!(key = %object.key, %cause, "a role or binding cannot be read and counts for nothing");
                    remove(authorizer, source, &object.key);
                }
            }
        }
    }
}

fn remove(authorizer: &Authorizer, source: Source, key: &str) {
    match source {
        Source::Graph(source) => {
            authorizer.graph.write().unwrap_or_else(PoisonError::into_inner).remove(source, key);
        }
        Source::Roles | Source::Bindings => {
            authorizer.index.write().unwrap_or_else(PoisonError::into_inner).remove(key, source == Source::Bindings);
        }
    }
}
