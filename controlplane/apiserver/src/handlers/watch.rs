//! Watch: events of the cache as the wire has them.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use diolkos_api::kind::Kind;
use diolkos_api::status::Failure;
use diolkos_api::wire;
use diolkos_api::wire::watch_event::Type;
use futures::stream::{self, Stream, StreamExt as _};
use serde_json::json;

use super::list::{freshness, parse_version, selection};
use super::options::check_watch;
use super::{Caller, Handlers, served_bytes};
use crate::cache::{CacheEvent, CachedObject, Freshness, Start, WatchSpec};
use crate::stack::What;

/// A watch without `timeoutSeconds` ends after this, and up to twice as much: clients that began together do not come
/// back together.
const MIN_TIMEOUT: Duration = Duration::from_secs(1800);
/// The longest time that a client may ask for.
const MAX_TIMEOUT: Duration = Duration::from_secs(24 * 3600);

/// What happens, until the watch ends.
pub(crate) type Events = Pin<Box<dyn Stream<Item = Event> + Send>>;

/// One event of a watch.
pub(crate) enum Event {
    Change {
        what: Type,
        object: CachedObject,
    },
    Bookmark {
        revision: i64,
        initial_events_end: bool,
    },
    /// The last event.
    Failed(Failure),
}

impl Handlers {
    pub(crate) async fn watch(&self, caller: &Caller, request: wire::WatchRequest) -> Result<Events, Failure> {
        let target = self.collection(caller, "watch", request.key.clone(), &request.field_selector)?;
        let place = self.users.open(&caller.user, What::Watches)?;
        let selection = selection(&target.served, &target.namespace, &request.label_selector, &request.field_selector)?;
        let spec = WatchSpec {
            prefix: selection.prefix,
            node: selection.node,
            filter: selection.filter,
            start: start(&request)?,
            bookmarks: request.allow_bookmarks,
        };
        let watch = match self.cache.watch(spec).await {
            Ok(watch) => watch,
            // As Kubernetes tells it: the watch begins, and its first event is that it cannot go on.
            Err(failure) if failure.is_expired() => {
                return Ok(Box::pin(stream::iter([Event::Failed(failure)])));
            }
            Err(failure) => return Err(failure),
        };
        let open = (self.metrics.watch(), place);
        let served = target.served;
        let events = watch.map(move |event| {
            // The gauge counts the watch for as long as this closure lives.
            let _open = &open;
            convert(
                &served,
                match event {
                    Ok(CacheEvent::Added(object)) => Event::Change { what: Type::Added, object },
                    Ok(CacheEvent::Modified(object)) => Event::Change { what: Type::Modified, object },
                    Ok(CacheEvent::Deleted(object)) => Event::Change { what: Type::Deleted, object },
                    Ok(CacheEvent::Bookmark { revision, initial_events_end }) => {
                        Event::Bookmark { revision, initial_events_end }
                    }
                    Err(failure) => Event::Failed(failure),
                },
            )
        });
        Ok(Box::pin(events.take_until(tokio::time::sleep(timeout(request.timeout_seconds)))))
    }
}

/// The event as clients of `kind` get it.
fn convert(kind: &Kind, event: Event) -> Event {
    match event {
        Event::Change { what, object } if kind.is_converted() => match served_bytes(kind, &object.bytes) {
            Ok(bytes) => Event::Change { what, object: Arc::new(object.served_as(bytes)) },
            Err(failure) => Event::Failed(failure),
        },
        event => event,
    }
}

/// The object of a bookmark.
pub(crate) fn bookmark(kind: &Kind, revision: i64, initial_events_end: bool) -> Bytes {
    let mut object = json!({
        "kind": kind.kind,
        "apiVersion": kind.api_version(),
        "metadata": {"resourceVersion": revision.to_string()},
    });
    if initial_events_end {
        object["metadata"]["annotations"] = json!({"k8s.io/initial-events-end": "true"});
    }
    Bytes::from(object.to_string())
}

fn start(request: &wire::WatchRequest) -> Result<Start, Failure> {
    check_watch(request)?;
    let version = request.resource_version.as_str();
    if request.send_initial_events {
        return Ok(Start::State { freshness: freshness(version)?, bookmark: request.allow_bookmarks });
    }
    match version {
        "" => Ok(Start::State { freshness: Freshness::Latest, bookmark: false }),
        "0" => Ok(Start::State { freshness: Freshness::Any, bookmark: false }),
        version => Ok(Start::After(parse_version(version)?)),
    }
}

fn timeout(seconds: i64) -> Duration {
    match u64::try_from(seconds) {
        Ok(seconds) if seconds > 0 => Duration::from_secs(seconds).min(MAX_TIMEOUT),
        _ => MIN_TIMEOUT.mul_f64(1.0 + rand::random::<f64>()),
    }
}
