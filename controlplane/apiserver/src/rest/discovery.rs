//! What there is: groups, versions, kinds, and the fixed paths.

use std::sync::Arc;

use axum::response::{IntoResponse, Response};
use diolkos_api::kind::{Kind, Subresource};
use diolkos_api::status::Failure;
use http::{HeaderMap, HeaderValue, StatusCode, header};
use serde_json::{Value, json};

use super::address::{DiscoveryPath, Fixed};
use super::aggregated;
use super::negotiation::DiscoveryForm;
use crate::handlers::Handlers;

/// The version of Kubernetes whose API this is.
const MINOR: &str = "36";
const GIT_VERSION: &str = concat!("v1.36.0+diolkos-", env!("CARGO_PKG_VERSION"));

/// `None` for a group or version that is not there.
pub(super) fn answer(
    handlers: &Handlers,
    path: &DiscoveryPath,
    headers: &HeaderMap,
) -> Result<Option<Response>, Failure> {
    let groups = groups(handlers);
    let form = DiscoveryForm::of_response(headers)?;
    let value = match path {
        DiscoveryPath::Core | DiscoveryPath::Groups if form == DiscoveryForm::Aggregated => {
            return Ok(Some(aggregated::answer(&groups, *path == DiscoveryPath::Core, headers)));
        }
        DiscoveryPath::Core => json!({
            "kind": "APIVersions",
            "versions": ["v1"],
            "serverAddressByClientCIDRs": [{"clientCIDR": "0.0.0.0/0", "serverAddress": &*handlers.public_address}],
        }),
        DiscoveryPath::Groups => json!({
            "kind": "APIGroupList",
            "apiVersion": "v1",
            "groups": groups.iter().filter(|group| !group.name.is_empty()).map(Group::json).collect::<Vec<_>>(),
        }),
        DiscoveryPath::Group(name) => {
            let Some(group) = groups.iter().find(|group| !name.is_empty() && group.name == *name) else {
                return Ok(None);
            };
            let mut value = group.json();
            value["kind"] = "APIGroup".into();
            value["apiVersion"] = "v1".into();
            value
        }
        DiscoveryPath::GroupVersion { group, version } => {
            let kinds: Vec<_> = groups
                .iter()
                .filter(|own| own.name == *group)
                .flat_map(|own| own.kinds.iter().filter(|kind| kind.version == *version))
                .collect();
            let Some(first) = kinds.first() else { return Ok(None) };
            json!({
                "kind": "APIResourceList",
                "apiVersion": "v1",
                "groupVersion": first.api_version(),
                "resources": kinds.iter().flat_map(|kind| resources(kind)).collect::<Vec<_>>(),
            })
        }
    };
    Ok(Some(match form {
        DiscoveryForm::Yaml => {
            let text = serde_yaml_ng::to_string(&value).map_err(Failure::internal)?;
            (StatusCode::OK, [(header::CONTENT_TYPE, "application/yaml")], text).into_response()
        }
        DiscoveryForm::Json | DiscoveryForm::Aggregated => json_response(&value),
    }))
}

pub(super) fn fixed(handlers: &Handlers, path: Fixed) -> Result<Response, Failure> {
    Ok(match path {
        Fixed::Health => text(StatusCode::OK, "ok".into()),
        Fixed::Ready => {
            let failed = |part: &str, why| format!("[-]{part} failed: {why}\nreadyz check failed\n");
            let cache = handlers.cache.health().map_err(|why| failed("cache", why));
            match cache.and_then(|()| handlers.sealed.health().map_err(|why| failed("encryption", why))) {
                Ok(()) => text(StatusCode::OK, "ok".into()),
                Err(why) => text(StatusCode::INTERNAL_SERVER_ERROR, why),
            }
        }
        Fixed::Metrics => text(StatusCode::OK, handlers.metrics.render(&handlers.cache, handlers.sealed.counts())),
        Fixed::OidcDiscovery => cached(json_response(&handlers.tokens.discovery(&handlers.public_address))),
        Fixed::OidcKeys => {
            let mut response = cached(json_response(&handlers.tokens.jwks()));
            response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/jwk-set+json"));
            response
        }
        Fixed::Version => json_response(&json!({
            "major": "1",
            "minor": MINOR,
            "gitVersion": GIT_VERSION,
            "gitCommit": "",
            "gitTreeState": "clean",
            "buildDate": "1970-01-01T00:00:00Z",
            "goVersion": "",
            "compiler": "rustc",
            "platform": format!("{}/{}", std::env::consts::OS, platform()),
        })),
        Fixed::Root => json_response(&json!({"paths": paths(handlers)})),
    })
}

/// A group with its kinds, in the order of the table.
pub(super) struct Group {
    pub name: String,
    pub kinds: Vec<Arc<Kind>>,
}

impl Group {
    pub(super) fn versions(&self) -> Vec<&str> {
        let mut versions: Vec<&str> = Vec::new();
        for kind in &self.kinds {
            if !versions.contains(&kind.version.as_str()) {
                versions.push(&kind.version);
            }
        }
        versions
    }

    fn json(&self) -> Value {
        let version = |version: &str| json!({"groupVersion": format!("{}/{version}", self.name), "version": version});
        let versions: Vec<Value> = self.versions().into_iter().map(version).collect();
        json!({"name": self.name, "versions": versions, "preferredVersion": versions.first()})
    }
}

pub(super) fn groups(handlers: &Handlers) -> Vec<Group> {
    let mut groups: Vec<Group> = Vec::new();
    for kind in handlers.registry.all() {
        match groups.iter_mut().find(|group| group.name == kind.group) {
            Some(group) => group.kinds.push(kind.clone()),
            None => groups.push(Group { name: kind.group.clone(), kinds: vec![kind.clone()] }),
        }
    }
    groups
}

/// The kind's own row of an APIResourceList, and one for each of its parts.
fn resources(kind: &Kind) -> Vec<Value> {
    let mut own = json!({
        "name": kind.plural,
        "singularName": kind.singular,
        "namespaced": kind.namespaced,
        "kind": kind.kind,
        "verbs": kind.verbs,
    });
    if !kind.short_names.is_empty() {
        own["shortNames"] = json!(kind.short_names);
    }
    if !kind.categories.is_empty() {
        own["categories"] = json!(kind.categories);
    }
    let part = |part: &Subresource| {
        let mut row = json!({
            "name": format!("{}/{}", kind.plural, part.name),
            "singularName": "",
            "namespaced": kind.namespaced,
            "kind": part_kind(kind, part),
            "verbs": part.verbs,
        });
        if !part.group.is_empty() {
            row["group"] = part.group.into();
            row["version"] = part.version.into();
        }
        row
    };
    std::iter::once(own).chain(kind.subresources.iter().map(part)).collect()
}

pub(super) fn part_kind<'a>(kind: &'a Kind, part: &'a Subresource) -> &'a str {
    if part.kind.is_empty() { &kind.kind } else { part.kind }
}

fn paths(handlers: &Handlers) -> Vec<String> {
    let mut paths: Vec<String> = [
        "/.well-known/openid-configuration",
        "/api",
        "/api/v1",
        "/apis",
        "/healthz",
        "/livez",
        "/metrics",
        "/openapi/v2",
        "/openapi/v3",
        "/openid/v1/jwks",
        "/readyz",
        "/version",
    ]
    .map(str::to_owned)
    .to_vec();
    for group in groups(handlers).iter().filter(|group| !group.name.is_empty()) {
        paths.push(format!("/apis/{}", group.name));
        paths.extend(group.versions().iter().map(|version| format!("/apis/{}/{version}", group.name)));
    }
    paths.sort();
    paths
}

/// Clients may keep it for an hour, as in Kubernetes.
fn cached(mut response: Response) -> Response {
    response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("public, max-age=3600"));
    response
}

/// As Go names the architecture.
fn platform() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

fn json_response(value: &Value) -> Response {
    (StatusCode::OK, [(header::CONTENT_TYPE, "application/json")], value.to_string()).into_response()
}

fn text(code: StatusCode, text: String) -> Response {
    let headers = [(header::CONTENT_TYPE, "text/plain; charset=utf-8"), (header::X_CONTENT_TYPE_OPTIONS, "nosniff")];
    (code, headers, text).into_response()
}
