//! OpenAPI: what the API's objects look like and what may be done with them, in version 3 (one document a group version)
//! and version 2 (all in one, as JSON and as protobuf).

mod gnostic;
mod operations;
mod schemas;
mod v2;
mod v3;

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::sync::{Arc, Mutex, PoisonError};

use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use diolkos_api::kind::{Kind, Registry};
use diolkos_api::status::Failure;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, Uri, header};
use serde_json::{Map, Value, json};

use super::etag;
use super::negotiation::accepts;

/// The version of Kubernetes whose API this is.
const VERSION: &str = "v1.36.0";

/// What kubectl before 1.27 asks for, and what newer ones do. Go cannot read the first as the type of an answer.
const GNOSTIC: [&str; 2] = [
    "application/com.github.proto-openapi.spec.v2@v1.0+protobuf",
    "application/com.github.proto-openapi.spec.v2.v1.0+protobuf",
];

/// The documents. They are made when somebody asks for one first, and anew when there are other kinds.
#[derive(Clone)]
pub(super) struct OpenApi {
    registry: Arc<Registry>,
    made: Arc<Mutex<Option<Made>>>,
}

struct Made {
    /// The kinds that it is of.
    print: u64,
    documents: Arc<Documents>,
}

struct Documents {
    /// By the path below `/openapi/v3/`: `apis/apps/v1`.
    v3: BTreeMap<String, Document>,
    v2: Document,
    v2_protobuf: Document,
}

struct Document {
    body: Bytes,
    hash: String,
}

impl OpenApi {
    pub(super) fn new(registry: Arc<Registry>) -> Self {
        Self { registry, made: Arc::default() }
    }

    /// `/openapi/v2`
    pub(super) async fn v2(&self, headers: &HeaderMap) -> Result<Response, Failure> {
        let documents = self.documents().await?;
        if accepts(headers, GNOSTIC[0]) {
            return Ok(documents.v2_protobuf.answer(headers, "application/octet-stream"));
        }
        if accepts(headers, GNOSTIC[1]) {
            return Ok(documents.v2_protobuf.answer(headers, GNOSTIC[1]));
        }
        if accepts(headers, "application/json") {
            return Ok(documents.v2.answer(headers, "application/json"));
        }
        Err(Failure::not_acceptable(&["application/json", GNOSTIC[0], GNOSTIC[1]]))
    }

    /// `/openapi/v3`: where the documents are. A place changes with what is there, so that it may be kept for ever.
    pub(super) async fn index(&self) -> Result<Response, Failure> {
        let documents = self.documents().await?;
        let place = |(path, document): (&String, &Document)| {
            (path.clone(), json!({"serverRelativeURL": format!("/openapi/v3/{path}?hash={}", document.hash)}))
        };
        let paths: Map<String, Value> = documents.v3.iter().map(place).collect();
        let body = json!({"paths": paths}).to_string();
        Ok((StatusCode::OK, [(header::CONTENT_TYPE, "application/json")], body).into_response())
    }

    /// `/openapi/v3/PATH`; `None` when nothing is there.
    pub(super) async fn v3(&self, path: &str, uri: &Uri, headers: &HeaderMap) -> Result<Option<Response>, Failure> {
        let documents = self.documents().await?;
        let Some(document) = documents.v3.get(path) else { return Ok(None) };
        if !accepts(headers, "application/json") {
            return Err(Failure::not_acceptable(&["application/json"]));
        }
        let asked =
            uri.query().into_iter().flat_map(|query| query.split('&')).find_map(|pair| pair.strip_prefix("hash="));
        match asked {
            Some(hash) if hash == document.hash => {
                let mut response = document.answer(headers, "application/json");
                let forever = HeaderValue::from_static("public, immutable, max-age=31536000");
                response.headers_mut().insert(header::CACHE_CONTROL, forever);
                Ok(Some(response))
            }
            None | Some("") => Ok(Some(document.answer(headers, "application/json"))),
            Some(_) => {
                let place = format!("/openapi/v3/{path}?hash={}", document.hash);
                Ok(Some((StatusCode::MOVED_PERMANENTLY, [(header::LOCATION, place)]).into_response()))
            }
        }
    }

    async fn documents(&self) -> Result<Arc<Documents>, Failure> {
        let own = self.clone();
        // It takes a while, for which no other request should wait.
        tokio::task::spawn_blocking(move || own.make()).await.map_err(Failure::internal)?
    }

    fn make(&self) -> Result<Arc<Documents>, Failure> {
        let all: Vec<Arc<Kind>> = self.registry.all().collect();
        let kinds: Vec<&Kind> = all.iter().map(|kind| &**kind).collect();
        let print = fingerprint(&kinds);
        let mut made = self.made.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(made) = made.as_ref().filter(|made| made.print == print) {
            return Ok(made.documents.clone());
        }
        let documents = Arc::new(Documents::of(&kinds)?);
        *made = Some(Made { print, documents: documents.clone() });
        Ok(documents)
    }
}

impl Documents {
    fn of(kinds: &[&Kind]) -> Result<Self, Failure> {
        let schemas = schemas::all(kinds)?;
        let mut versions: BTreeMap<String, Vec<&Kind>> = BTreeMap::new();
        for kind in kinds {
            let root = if kind.group.is_empty() { "api".to_owned() } else { format!("apis/{}", kind.group) };
            versions.entry(format!("{root}/{}", kind.version)).or_default().push(kind);
        }
        let v3 = versions.iter().map(|(path, kinds)| (path.clone(), Document::json(&v3::document(kinds, &schemas))));
        let v3 = v3.collect();
        let v2 = v2::document(kinds, &schemas);
        Ok(Self { v3, v2_protobuf: Document::new(gnostic::document(&v2).into()), v2: Document::json(&v2) })
    }
}

impl Document {
    fn json(value: &Value) -> Self {
        Self::new(value.to_string().into())
    }

    fn new(body: Bytes) -> Self {
        let hash = etag::hash(&body);
        Self { body, hash }
    }

    fn answer(&self, headers: &HeaderMap, content_type: &str) -> Response {
        let tag = format!("\"{}\"", self.hash);
        let about: [(HeaderName, &str); 2] = [(header::ETAG, &tag), (header::VARY, "Accept")];
        if etag::is_known(headers, &tag) {
            return (StatusCode::NOT_MODIFIED, about).into_response();
        }
        (StatusCode::OK, about, [(header::CONTENT_TYPE, content_type)], self.body.clone()).into_response()
    }
}

fn fingerprint(kinds: &[&Kind]) -> u64 {
    let mut hasher = DefaultHasher::new();
    for kind in kinds {
        (&kind.group, &kind.version, &kind.kind, kind.verbs).hash(&mut hasher);
        kind.subresources.iter().for_each(|part| part.name.hash(&mut hasher));
    }
    hasher.finish()
}
