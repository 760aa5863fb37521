//! Discovery in one answer, as newer clients ask for it.

use axum::response::{IntoResponse, Response};
use diolkos_api::kind::{Kind, Subresource};
use http::{HeaderMap, StatusCode, header};
use serde_json::{Value, json};

use super::discovery::{Group, part_kind};
use super::etag;

const CONTENT_TYPE: &str = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList";

/// The kinds of the core group, or of all others. A client that knows the answer is told that it is still so.
pub(super) fn answer(groups: &[Group], core: bool, headers: &HeaderMap) -> Response {
    let chosen = groups.iter().filter(|group| group.name.is_empty() == core);
    let items: Vec<Value> = chosen
        .map(|group| {
            let version = |version: &str| {
                let kinds = group.kinds.iter().filter(|kind| kind.version == version);
                json!({"version": version, "resources": kinds.map(|kind| aggregated_kind(kind)).collect::<Vec<_>>(),
                       "freshness": "Current"})
            };
            let metadata = if core { json!({}) } else { json!({"name": group.name}) };
            json!({"metadata": metadata, "versions": group.versions().into_iter().map(version).collect::<Vec<_>>()})
        })
        .collect();
    let list = json!({
        "kind": "APIGroupDiscoveryList",
        "apiVersion": "apidiscovery.k8s.io/v2",
        "metadata": {},
        "items": items,
    });
    let body = list.to_string();
    let tag = etag::of(body.as_bytes());
    let about = [(header::ETAG, tag.as_str()), (header::VARY, "Accept"), (header::CACHE_CONTROL, "public")];
    if etag::is_known(headers, &tag) {
        return (StatusCode::NOT_MODIFIED, about).into_response();
    }
    (StatusCode::OK, about, [(header::CONTENT_TYPE, CONTENT_TYPE)], body).into_response()
}

fn aggregated_kind(kind: &Kind) -> Value {
    let part = |part: &Subresource| {
        json!({
            "subresource": part.name,
            "responseKind": {"group": part.group, "version": part.version, "kind": part_kind(kind, part)},
            "verbs": part.verbs,
        })
    };
    let mut value = json!({
        "resource": kind.plural,
        "responseKind": {"group": "", "version": "", "kind": kind.kind},
        "scope": if kind.namespaced { "Namespaced" } else { "Cluster" },
        "singularResource": kind.singular,
        "verbs": kind.verbs,
    });
    let lists = [("shortNames", json!(kind.short_names)), ("categories", json!(kind.categories))];
    for (name, list) in lists.into_iter().chain([("subresources", kind.subresources.iter().map(part).collect())]) {
        if list.as_array().is_some_and(|list| !list.is_empty()) {
            value[name] = list;
        }
    }
    value
}
