//! Following a collection: a list, and from then on every change.

use std::collections::VecDeque;
use std::time::Duration;

use futures::StreamExt as _;
use futures::stream::BoxStream;
use tonic::Streaming;
use tracing::{debug, warn};

use super::{Api, Client, ListOptions, Resource, parse};
use crate::status::Failure;
use crate::wire;

/// What happened to a collection that is followed.
#[derive(Clone, Debug, PartialEq)]
pub enum Event<K> {
    /// The whole collection: at first, and whenever the changes since the last event are not known. What is not in it
    /// is gone.
    Restarted(Vec<K>),
    /// This object is new, or changed.
    Applied(K),
    /// This object is gone; this is its last state.
    Deleted(K),
}

/// What happened to a collection that is followed object by object.
#[derive(Clone, Debug, PartialEq)]
pub enum Piece<K> {
    /// The whole collection follows, object by object as [`Piece::Applied`]: at first, and whenever the changes since the
    /// last piece are not known. It can begin again before it ended.
    Listing,
    /// The whole collection was there: what was not in it is gone.
    Listed,
    /// This object is new, or changed, or part of the list.
    Applied(K),
    /// This object is gone; this is its last state.
    Deleted(K),
}

/// Follows a collection for ever: lists, watches, resumes a broken watch where it was, and lists again when the server
/// has forgotten that version. While the server is away it tries again with growing pauses, and says so in the log.
pub fn follow<K: Resource>(
    client: Client,
    namespace: Option<String>,
    options: ListOptions,
) -> BoxStream<'static, Event<K>> {
    let events = follow_each(client, namespace, options).scan(None, |list: &mut Option<Vec<K>>, piece| {
        let event = match (piece, &mut *list) {
            (Piece::Listing, _) => {
                *list = Some(Vec::new());
                None
            }
            (Piece::Applied(object), Some(objects)) => {
                objects.push(object);
                None
            }
            (Piece::Listed, list) => Some(Event::Restarted(list.take().unwrap_or_default())),
            (Piece::Applied(object), None) => Some(Event::Applied(object)),
            (Piece::Deleted(object), _) => Some(Event::Deleted(object)),
        };
        std::future::ready(Some(event))
    });
    events.filter_map(std::future::ready).boxed()
}

/// The same, object by object: the collection is never in memory as a whole.
pub fn follow_each<K: Resource>(
    client: Client,
    namespace: Option<String>,
    options: ListOptions,
) -> BoxStream<'static, Piece<K>> {
    let follower = Follower {
        api: client.api(namespace.as_deref()),
        options,
        version: None,
        listed: 0,
        pages: None,
        watch: None,
        ready: VecDeque::new(),
        pause: FIRST_PAUSE,
        failing: false,
    };
    Box::pin(futures::stream::unfold(follower, |mut follower| async move {
        let piece = follower.next().await;
        Some((piece, follower))
    }))
}

const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

struct Follower<K> {
    api: Api<K>,
    options: ListOptions,
    /// The version up to which everything was delivered; `None` before the first list.
    version: Option<i64>,
    /// The version of the list that is coming in.
    listed: i64,
    pages: Option<Streaming<wire::Page>>,
    watch: Option<Streaming<wire::WatchEvent>>,
    ready: VecDeque<Piece<K>>,
    /// How long to wait after the next failure.
    pause: Duration,
    /// The last attempt failed, and the log says so already.
    failing: bool,
}

impl<K: Resource> Follower<K> {
    async fn next(&mut self) -> Piece<K> {
        loop {
            if let Some(event) = self.ready.pop_front() {
                return event;
            }
            if let Err(failure) = self.step().await {
                self.watch = None;
                self.pages = None;
                if failure.is_expired() {
                    debug!(kind = K::KIND, %failure, "listing again");
                    self.version = None;
                } else {
                    self.wait_after(&failure).await;
                }
            }
        }
    }

    /// One step ahead: the list or its next page, the watch or its next message.
    async fn step(&mut self) -> Result<(), Failure> {
        if let Some(pages) = &mut self.pages {
            match pages.message().await.map_err(Failure::from_grpc)? {
                Some(page) => {
                    self.listed = page.resource_version;
                    for object in &page.items {
                        self.deliver(object, Piece::Applied);
                    }
                }
                None => {
                    self.pages = None;
                    self.version = Some(self.listed);
                    self.recovered();
                    self.ready.push_back(Piece::Listed);
                }
            }
            return Ok(());
        }
        let Some(version) = self.version else {
            self.pages = Some(self.api.pages(&self.options).await?);
            self.ready.push_back(Piece::Listing);
            return Ok(());
        };
        let Some(watch) = &mut self.watch else {
            self.watch = Some(self.api.watch(&self.options, version).await?);
            return Ok(());
        };
        match watch.message().await.map_err(Failure::from_grpc)? {
            Some(event) => {
                self.recovered();
                self.take(event)
            }
            // The server ends every watch some time; it goes on from the last version.
            None => {
                self.watch = None;
                tokio::time::sleep(FIRST_PAUSE).await;
                Ok(())
            }
        }
    }

    fn take(&mut self, event: wire::WatchEvent) -> Result<(), Failure> {
        use wire::watch_event::Type;
        let type_ = event.r#type();
        let object = event.object.unwrap_or_default();
        match type_ {
            Type::Added | Type::Modified => self.deliver(&object, Piece::Applied),
            Type::Deleted => self.deliver(&object, Piece::Deleted),
            Type::Bookmark => {}
            Type::Error => return Err(Failure::from_json(&object.json).unwrap_or_else(Failure::internal)),
            Type::Unspecified => return Ok(()),
        }
        if object.resource_version > 0 {
            self.version = Some(object.resource_version);
        }
        Ok(())
    }

    fn deliver(&mut self, object: &wire::Object, piece: fn(K) -> Piece<K>) {
        match parse(&object.json) {
            Ok(object) => self.ready.push_back(piece(object)),
            // It would come again and again, and with it every list; the others must not wait for it.
            Err(failure) => warn!(kind = K::KIND, version = object.resource_version, %failure, "skipping an object"),
        }
    }

    async fn wait_after(&mut self, failure: &Failure) {
        if self.failing {
            debug!(kind = K::KIND, %failure, "still cannot follow");
        } else {
            warn!(kind = K::KIND, %failure, "cannot follow; trying again");
        }
        self.failing = true;
        tokio::time::sleep(self.pause).await;
        self.pause = (self.pause * 2).min(LONGEST_PAUSE);
    }

    fn recovered(&mut self) {
        if self.failing {
            tracing::info!(kind = K::KIND, "following again");
        }
        self.failing = false;
        self.pause = FIRST_PAUSE;
    }
}

impl<K: Resource> Api<K> {
    /// The changes after a version, as the server sends them.
    pub(super) async fn watch(
        &self,
        options: &ListOptions,
        version: i64,
    ) -> Result<Streaming<wire::WatchEvent>, Failure> {
        let request = wire::WatchRequest {
            key: Some(self.key("", "")),
            label_selector: options.label_selector.clone(),
            field_selector: options.field_selector.clone(),
            resource_version: version.to_string(),
            allow_bookmarks: true,
            omit_managed_fields: true,
            ..Default::default()
        };
        let watch = self.wire.get().watch(request).await.map_err(Failure::from_grpc)?;
        Ok(watch.into_inner())
    }
}
