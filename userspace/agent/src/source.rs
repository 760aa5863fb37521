//! Where the objects come from.

use async_trait::async_trait;
use diolkos_api::client::{self, Client, ListOptions, Piece, Resource};
use futures::StreamExt;
use futures::stream::{self, BoxStream};
use k8s_openapi::api::core::v1::{Node, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;

/// The kinds of objects the agent follows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Services,
    Slices,
    Nodes,
}

/// A change of the objects the agent follows. At first each kind comes whole, and again after the source lost its place:
/// at once, or object by object between [`Change::Listing`] and [`Change::Listed`], so that nobody ever holds all
/// objects. In between come single objects.
#[derive(Clone, Debug)]
pub enum Change {
    Listing(Kind),
    Listed(Kind),
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
        let services = follow(client, Kind::Services, Change::Service, Change::ServiceGone);
        let slices = follow(client, Kind::Slices, Change::Slice, Change::SliceGone);
        let nodes = follow(client, Kind::Nodes, Change::Node, Change::NodeGone);
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
    kind: Kind,
    one: fn(K) -> Change,
    gone: fn(K) -> Change,
) -> BoxStream<'static, Change> {
    client::follow_each::<K>(client.clone(), None, ListOptions::default())
        .map(move |piece| match piece {
            Piece::Listing => Change::Listing(kind),
            Piece::Listed => Change::Listed(kind),
            Piece::Applied(object) => one(object),
            Piece::Deleted(object) => gone(object),
        })
        .boxed()
}
