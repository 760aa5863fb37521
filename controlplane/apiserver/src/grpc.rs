//! gRPC: the wire schema's service over the same handlers as REST.

use std::pin::Pin;

use diolkos_api::status::Failure;
use diolkos_api::wire;
use diolkos_api::wire::api_server::{Api, ApiServer};
use diolkos_api::wire::watch_event::Type;
use futures::stream::{self, Stream, StreamExt as _};
use tonic::{Request, Response, Status};

use crate::cache::CachedObject;
use crate::handlers::{Caller, Event, Handlers, Listing, bookmark};
use crate::stack::{MAX_BODY_BYTES, Record, User};

/// Objects and bytes of one page: far below what clients take in a message.
const PAGE_OBJECTS: usize = 500;
const PAGE_BYTES: usize = 1 << 20;
/// What the envelope of a request may add to its body, in bytes.
const ENVELOPE_BYTES: usize = 64 << 10;
/// Largest message sent, in bytes: a page of one object of the largest size, and more.
const MAX_MESSAGE_BYTES: usize = 64 << 20;

type Pages = Pin<Box<dyn Stream<Item = Result<wire::Page, Status>> + Send>>;

/// The service, for the router.
pub(crate) fn service(handlers: Handlers) -> ApiServer<Service> {
    ApiServer::new(Service { handlers })
        .max_decoding_message_size(MAX_BODY_BYTES + ENVELOPE_BYTES)
        .max_encoding_message_size(MAX_MESSAGE_BYTES)
}

pub(crate) struct Service {
    handlers: Handlers,
}

#[tonic::async_trait]
impl Api for Service {
    type ListStream = Pages;
    type WatchStream = Pin<Box<dyn Stream<Item = Result<wire::WatchEvent, Status>> + Send>>;
    type DeleteCollectionStream = Pages;

    async fn get(&self, request: Request<wire::GetRequest>) -> Result<Response<wire::Object>, Status> {
        let (caller, request) = open(request)?;
        Ok(Response::new(self.handlers.get(&caller, request).await?))
    }

    async fn list(&self, request: Request<wire::ListRequest>) -> Result<Response<Pages>, Status> {
        let (caller, request) = open(request)?;
        let lean = request.omit_managed_fields;
        let listing = self.handlers.list(&caller, request).await?;
        Ok(Response::new(pages(listing, lean)))
    }

    async fn watch(&self, request: Request<wire::WatchRequest>) -> Result<Response<Self::WatchStream>, Status> {
        let (caller, request) = open(request)?;
        let key = request.key.clone().unwrap_or_default();
        let lean = request.omit_managed_fields;
        let events = self.handlers.watch(&caller, request).await?;
        let kind = self.handlers.registry.find(&key.group, &key.version, &key.plural);
        let kind = kind.ok_or_else(Failure::no_such_resource)?;
        let events = events.map(move |event| {
            let (what, json, revision) = match event {
                Event::Change { what, object } => (what, json(&object, lean), object.revision),
                Event::Bookmark { revision, initial_events_end } => {
                    (Type::Bookmark, bookmark(&kind, revision, initial_events_end), revision)
                }
                Event::Failed(failure) => (Type::Error, failure.to_json().into(), 0),
            };
            let object = wire::Object { json, resource_version: revision, warnings: Vec::new() };
            Ok(wire::WatchEvent { r#type: what.into(), object: Some(object) })
        });
        Ok(Response::new(Box::pin(events)))
    }

    async fn create(&self, request: Request<wire::WriteRequest>) -> Result<Response<wire::Object>, Status> {
        let (caller, request) = open(request)?;
        Ok(Response::new(self.handlers.create(&caller, request).await?))
    }

    async fn update(&self, request: Request<wire::WriteRequest>) -> Result<Response<wire::Object>, Status> {
        let (caller, request) = open(request)?;
        Ok(Response::new(self.handlers.update(&caller, request).await?))
    }

    async fn patch(&self, request: Request<wire::PatchRequest>) -> Result<Response<wire::Object>, Status> {
        let (caller, request) = open(request)?;
        Ok(Response::new(self.handlers.patch(&caller, request).await?.object))
    }

    async fn delete(&self, request: Request<wire::DeleteRequest>) -> Result<Response<wire::Object>, Status> {
        let (caller, request) = open(request)?;
        Ok(Response::new(self.handlers.delete(&caller, request).await?))
    }

    async fn delete_collection(&self, request: Request<wire::DeleteRequest>) -> Result<Response<Pages>, Status> {
        let (caller, request) = open(request)?;
        let deleted = self.handlers.delete_collection(&caller, request).await?;
        Ok(Response::new(pages(deleted, false)))
    }
}

fn open<T>(request: Request<T>) -> Result<(Caller, T), Status> {
    let extensions = request.extensions();
    let user = extensions.get::<User>().cloned().ok_or_else(Failure::unauthorized)?;
    let record = extensions.get::<Record>().cloned().unwrap_or_default();
    let agent = request.metadata().get("user-agent").and_then(|value| value.to_str().ok()).unwrap_or_default().into();
    Ok((Caller { user, agent, record }, request.into_inner()))
}

fn json(object: &CachedObject, lean: bool) -> bytes::Bytes {
    if lean { object.lean() } else { object.bytes.clone() }
}

/// At least one page, so that the version of an empty list is known too.
fn pages(listing: Listing, lean: bool) -> Pages {
    let revision = listing.revision;
    let chunks = split(listing.items, |object| object.bytes.len());
    let last = chunks.len() - 1;
    let pages = chunks.into_iter().enumerate().map(move |(index, objects)| {
        let item = |object: CachedObject| wire::Object {
            json: json(&object, lean),
            resource_version: object.revision,
            warnings: Vec::new(),
        };
        let mut page = wire::Page {
            items: objects.into_iter().map(item).collect(),
            resource_version: revision,
            ..wire::Page::default()
        };
        if index == last {
            page.r#continue = listing.continue_token.clone();
            page.remaining = listing.remaining.unwrap_or(0);
        }
        Ok(page)
    });
    Box::pin(stream::iter(pages))
}

/// Parts that fit into one message each; one empty part of nothing.
fn split<T>(items: Vec<T>, size: impl Fn(&T) -> usize) -> Vec<Vec<T>> {
    let mut parts = vec![Vec::new()];
    let mut bytes = 0;
    for item in items {
        let own = size(&item);
        let full = parts
            .last()
            .is_some_and(|part: &Vec<T>| part.len() >= PAGE_OBJECTS || (!part.is_empty() && bytes + own > PAGE_BYTES));
        if full {
            parts.push(Vec::new());
            bytes = 0;
        }
        bytes += own;
        if let Some(part) = parts.last_mut() {
            part.push(item);
        }
    }
    parts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_hold_neither_too_many_objects_nor_too_many_bytes() {
        let sizes = |count: usize, size: usize| -> Vec<usize> {
            split(vec![size; count], |size| *size).iter().map(Vec::len).collect()
        };
        assert_eq!(sizes(0, 1), [0]);
        assert_eq!(sizes(1001, 1), [500, 500, 1]);
        assert_eq!(sizes(3, PAGE_BYTES), [1, 1, 1]);
        assert_eq!(sizes(1, PAGE_BYTES * 2), [1]);
    }
}
