//! Where the objects come from.

use async_trait::async_trait;
use diolkos_api::client::{self, Client, Event, ListOptions, Resource};
use futures::StreamExt;
use futures::stream::{self, BoxStream};
use k8s_openapi::api::core::v1::{Node, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;

/// A change of the objects the agent follows. The first change of each kind is the full snapshot, and so is every
/// later one after the source lost its place; in between come single objects.
#[derive(Clone, Debug)]
pub enum Change {
    Services(Vec<Service>),
    Service(Service),
    ServiceGone(Service),
    Slices(Vec<EndpointSlice>),
    Slice(EndpointSlice),
    SliceGone(EndpointSlice),
    Nodes(Vec<Node>),
    Node(Node),
    NodeGone(Node),
}

/// Yields the changes of Services, EndpointSlices and Nodes. [`crate::index::Index::in_sync`] says when all three
/// snapshots are in.
#[async_trait]
pub trait Source: Send {
    /// The next change; nothing when there will be none. Dropping the future loses nothing.
    async fn next(&mut self) -> Option<Change>;
}

/// The project's own API, over gRPC.
pub struct Grpc(BoxStream<'static, Change>);

impl Grpc {
    /// Follows the objects; connects, and connects again, by itself.
    pub fn new(client: &Client) -> Self {
        let services = follow(client, Change::Services, Change::Service, Change::ServiceGone);
        let slices = follow(client, Change::Slices, Change::Slice, Change::SliceGone);
        let nodes = follow(client, Change::Nodes, Change::Node, Change::NodeGone);
        Self(stream::select(services, stream::select(slices, nodes)).boxed())
    }
}

#[async_trait]
impl Source for Grpc {
    async fn next(&mut self) -> Option<Change> {
        self.0.next().await
    }
}

/// Replays changes and ends; for tests.
pub struct Replay(std::collections::VecDeque<Change>);

impl Replay {
    pub fn new(changes: impl IntoIterator<Item = Change>) -> Self {
        Self(changes.into_iter().collect())
    }
}

#[async_trait]
impl Source for Replay {
    async fn next(&mut self) -> Option<Change> {
        self.0.pop_front()
    }
}

fn follow<K: Resource>(
    client: &Client,
    all: fn(Vec<K>) -> Change,
    one: fn(K) -> Change,
    gone: fn(K) -> Change,
) -> BoxStream<'static, Change> {
    client::follow::<K>(client.clone(), None, ListOptions::default())
        .map(move |event| match event {
            Event::Restarted(objects) => all(objects),
            Event::Applied(object) => one(object),
            Event::Deleted(object) => gone(object),
        })
        .boxed()
}
