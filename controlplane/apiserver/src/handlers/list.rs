//! Get and List. The newest state comes from the cache, older revisions from the store.

use std::sync::Arc;

use diolkos_api::kind::Kind;
use diolkos_api::selector::{FieldSelector, LabelSelector};
use diolkos_api::status::{Continue, Failure};
use diolkos_api::wire;
use diolkos_store::{Range, StoreError};

use super::options::{State, state_of_list};
use super::{Caller, Handlers, Target, served_bytes, store_failure};
use crate::cache::{CachedObject, Filter, Freshness, Object};
use crate::stack::What;

/// Entries that are read from the store at once when a selector may leave most of them out.
const SELECTED_PAGE: usize = 500;
/// What Kubernetes says when a list went on for longer than the history is kept.
const CONTINUE_EXPIRED: &str = "The provided continue parameter is too old to display a consistent list result. You \
    can start a new list without the continue parameter, or use the continue token in this response to retrieve the \
    remainder of the results. Continuing with the provided token results in an inconsistent list - objects that were \
    created, modified, or deleted between the time the first chunk was returned and now may show up in the list.";

/// One list, or its next part.
pub(crate) struct Listing {
    pub items: Vec<CachedObject>,
    pub revision: i64,
    /// Not empty when there is more.
    pub continue_token: String,
    /// How much more, when known.
    pub remaining: Option<i64>,
}

/// What a list or watch chooses.
pub(super) struct Selection {
    /// Keys to look at: a collection's, or one object's when the selector names it.
    pub prefix: String,
    pub filter: Option<Filter>,
    /// The node that the selector names by `spec.nodeName`.
    pub node: Option<String>,
}

impl Handlers {
    pub(crate) async fn get(&self, caller: &Caller, request: wire::GetRequest) -> Result<wire::Object, Failure> {
        let target = self.target(caller, "get", request.key, true)?;
        let freshness = freshness(&request.resource_version)?;
        let object = self.cache.get(&target.key(), freshness).await?.ok_or_else(|| target.not_found())?;
        let json = if request.omit_managed_fields { object.lean() } else { object.bytes.clone() };
        let object = wire::Object { json, resource_version: object.revision, warnings: Vec::new() };
        if target.subresource == "scale" { Self::scale_of_reply(&target.kind, &object) } else { target.serve(object) }
    }

    pub(crate) async fn list(&self, caller: &Caller, request: wire::ListRequest) -> Result<Listing, Failure> {
        let target = self.collection(caller, "list", request.key.clone(), &request.field_selector)?;
        self.list_of(caller, &target, request).await
    }

    /// The list of a collection that was found and allowed already.
    pub(super) async fn list_of(
        &self,
        caller: &Caller,
        target: &Target,
        request: wire::ListRequest,
    ) -> Result<Listing, Failure> {
        let _place = self.users.open(&caller.user, What::Lists)?;
        let mut listing = self.list_stored(target, request).await?;
        if target.served.is_converted() {
            for object in &mut listing.items {
                *object = Arc::new(object.served_as(served_bytes(&target.served, &object.bytes)?));
            }
        }
        Ok(listing)
    }

    async fn list_stored(&self, target: &Target, request: wire::ListRequest) -> Result<Listing, Failure> {
        let limit = usize::try_from(request.limit)
            .map_err(|_| Failure::bad_request(format!("limit is {}; it may not be negative", request.limit)))?;
        let selection = selection(&target.served, &target.namespace, &request.label_selector, &request.field_selector)?;
        let collection = target.kind.prefix(&target.namespace);
        let freshness = match state_of_list(&request)? {
            State::Continued => return self.next_page(&collection, &selection, &request.r#continue, limit).await,
            State::At(version) => {
                let page = self.page(&collection, &selection, String::new(), version, limit).await;
                return page.map_err(store_failure);
            }
            State::Current(freshness) => freshness,
        };
        let filter = selection.filter.as_ref();
        let first = self.cache.first(&selection.prefix, filter, freshness, limit).await?;
        let mut listing =
            Listing { items: first.objects, revision: first.revision, continue_token: String::new(), remaining: None };
        if first.left > 0 {
            let last = listing.items.last().map(|object| object.key.to_string()).unwrap_or_default();
            listing.continue_token = token(&collection, &last, listing.revision);
            listing.remaining = filter.is_none().then(|| i64::try_from(first.left).unwrap_or(i64::MAX));
        }
        Ok(listing)
    }

    async fn next_page(
        &self,
        collection: &str,
        selection: &Selection,
        continue_token: &str,
        limit: usize,
    ) -> Result<Listing, Failure> {
        let from = Continue::decode(continue_token)?;
        let at = from.resource_version.max(0);
        let start = format!("{collection}{}", from.start);
        match self.page(collection, selection, start, at, limit).await {
            Err(StoreError::Compacted { .. }) => {
                let rest = Continue { resource_version: -1, start: from.start };
                Err(Failure::expired(CONTINUE_EXPIRED).with_continue(rest.encode()))
            }
            page => page.map_err(store_failure),
        }
    }

    /// A part of the collection as it was at a revision, 0 for the newest.
    async fn page(
        &self,
        collection: &str,
        selection: &Selection,
        start: String,
        at: i64,
        limit: usize,
    ) -> Result<Listing, StoreError> {
        let mut listing = Listing { items: Vec::new(), revision: at, continue_token: String::new(), remaining: None };
        let mut start = start;
        loop {
            let page = match &selection.filter {
                None => limit,
                Some(_) => limit.max(SELECTED_PAGE),
            };
            let range =
                Range { prefix: collection.to_owned(), start: start.clone(), at: listing.revision, limit: page };
            let snapshot = self.store.range(range).await?;
            listing.revision = snapshot.revision;
            let count = snapshot.entries.len();
            for (index, entry) in snapshot.entries.into_iter().enumerate() {
                let key = entry.key.clone();
                let object = self.cache.object(entry);
                if selection.filter.as_ref().is_none_or(|filter| filter(&object)) {
                    listing.items.push(object);
                }
                let left = snapshot.remaining + u64::try_from(count - index - 1).unwrap_or(u64::MAX);
                if limit > 0 && listing.items.len() == limit && left > 0 {
                    listing.continue_token = token(collection, &key, listing.revision);
                    listing.remaining = selection.filter.is_none().then(|| i64::try_from(left).unwrap_or(i64::MAX));
                    return Ok(listing);
                }
                start = key;
            }
            if snapshot.remaining == 0 || count == 0 {
                return Ok(listing);
            }
            start.push('\0');
        }
    }
}

fn token(collection: &str, last: &str, revision: i64) -> String {
    let start = format!("{}\0", last.strip_prefix(collection).unwrap_or(last));
    Continue { resource_version: revision, start }.encode()
}

/// 400 for selectors that do not parse or name fields that the kind does not offer.
pub(super) fn selection(kind: &Kind, namespace: &str, labels: &str, fields: &str) -> Result<Selection, Failure> {
    let labels = LabelSelector::parse(labels).map_err(Failure::bad_request)?;
    let fields = FieldSelector::parse(fields).map_err(Failure::bad_request)?;
    kind.check_field_selector(&fields)?;
    let fields = kind.storage_fields(fields);
    let namespace = match fields.exact("metadata.namespace") {
        Some(named) if namespace.is_empty() => named,
        _ => namespace,
    };
    let prefix = match fields.exact("metadata.name") {
        Some(name) if is_segment(name) && (!kind.namespaced || is_segment(namespace)) => kind.key(namespace, name),
        _ if namespace.is_empty() || is_segment(namespace) => kind.prefix(namespace),
        _ => kind.prefix(""),
    };
    let node = fields.exact("spec.nodeName").filter(|node| !node.is_empty()).map(str::to_owned);
    let filter: Option<Filter> = if labels.is_empty() && fields.is_empty() {
        None
    } else {
        Some(Arc::new(move |object: &Object| {
            labels.matches_with(|key| object.label(key)) && fields.matches(|path| object.field(path).map(str::to_owned))
        }))
    };
    Ok(Selection { prefix, filter, node })
}

fn is_segment(name: &str) -> bool {
    !name.is_empty() && !name.contains('/')
}

/// "" is the newest state, "0" whatever is at hand, another version that one or a later one.
pub(super) fn freshness(version: &str) -> Result<Freshness, Failure> {
    match version {
        "" => Ok(Freshness::Latest),
        "0" => Ok(Freshness::Any),
        version => parse_version(version).map(Freshness::AtLeast),
    }
}

pub(super) fn parse_version(version: &str) -> Result<i64, Failure> {
    version.parse::<u64>().ok().and_then(|version| i64::try_from(version).ok()).ok_or_else(|| {
        Failure::bad_request(format!(
            "invalid resource version: resourceVersion: Invalid value: \"{version}\": strconv.ParseUint: parsing \
             \"{version}\": invalid syntax"
        ))
    })
}
