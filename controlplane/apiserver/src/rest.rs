//! REST: Kubernetes' paths, parameters and encodings over the same handlers as gRPC.

mod address;
mod aggregated;
mod discovery;
mod etag;
mod negotiation;
mod openapi;
mod parameters;
mod respond;
mod table;
mod watch;

use std::sync::Arc;

use axum::Router;
use axum::extract::{Request, State};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use diolkos_api::kind::Kind;
use diolkos_api::status::Failure;
use diolkos_api::wire;
use http::{HeaderMap, Method, StatusCode, header};
use http_body_util::{BodyExt as _, LengthLimitError, Limited};

use crate::handlers::{Caller, Handlers};
use crate::stack::{Attributes, MAX_BODY_BYTES, Record, User, failure_response};
use address::{Address, OpenApiPath, Place};
use negotiation::{Form, Representation};
use openapi::OpenApi;
use parameters::Parameters;

/// All paths of REST.
pub(crate) fn routes(handlers: Handlers) -> Router {
    let openapi = OpenApi::new(handlers.registry.clone());
    Router::new().fallback(any).with_state((handlers, openapi))
}

async fn any(State((handlers, openapi)): State<(Handlers, OpenApi)>, request: Request) -> Response {
    let caller = Caller {
        user: match request.extensions().get::<User>() {
            Some(user) => user.clone(),
            None => return failure_response(&Failure::unauthorized()),
        },
        agent: agent(request.headers()),
        record: request.extensions().get::<Record>().cloned().unwrap_or_default(),
    };
    match answer(&handlers, &openapi, &caller, request).await {
        Ok(response) => response,
        Err(failure) => failure_response(&failure),
    }
}

async fn answer(
    handlers: &Handlers,
    openapi: &OpenApi,
    caller: &Caller,
    request: Request,
) -> Result<Response, Failure> {
    let (parts, body) = request.into_parts();
    match Address::parse(parts.uri.path()) {
        Some(Address::Object(place)) => {
            if handlers.registry.find(&place.key.group, &place.key.version, &place.key.plural).is_none() {
                handlers.authorize_unknown(caller, verb_of(&parts.method, &place), &place.key)?;
                return Ok(no_such_path());
            }
            let parameters = Parameters::parse(&parts.uri)?;
            let form = Form::of_response(&parts.headers)?;
            let limited = Limited::new(body, MAX_BODY_BYTES);
            let body = limited.collect().await.map_err(|cause| {
                if cause.is::<LengthLimitError>() {
                    handlers.metrics.refused_body();
                    Failure::payload_too_large(MAX_BODY_BYTES)
                } else {
                    Failure::bad_request(format!("the body of the request broke off: {cause}"))
                }
            })?;
            let call =
                Call { handlers, caller, headers: &parts.headers, place, parameters, form, body: body.to_bytes() };
            call.answer(parts.method).await
        }
        other => {
            let verb = parts.method.as_str().to_ascii_lowercase();
            let attributes = Attributes::of_path(verb, parts.uri.path());
            handlers.authorizer.authorize(&caller.user, &attributes, &caller.record)?;
            if parts.method != Method::GET {
                return Err(Failure::method_not_allowed());
            }
            match other {
                Some(Address::Fixed(path)) => discovery::fixed(handlers, path),
                Some(Address::OpenApi(OpenApiPath::V2)) => openapi.v2(&parts.headers).await,
                Some(Address::OpenApi(OpenApiPath::Index)) => openapi.index().await,
                Some(Address::OpenApi(OpenApiPath::V3(path))) => {
                    let answer = openapi.v3(&path, &parts.uri, &parts.headers).await?;
                    Ok(answer.unwrap_or_else(no_such_path))
                }
                Some(Address::Discovery(group)) => {
                    let answer = discovery::answer(handlers, &group, &parts.headers)?;
                    Ok(answer.unwrap_or_else(no_such_path))
                }
                _ => Ok(no_such_path()),
            }
        }
    }
}

/// What the client calls itself.
fn agent(headers: &HeaderMap) -> String {
    headers.get(header::USER_AGENT).and_then(|value| value.to_str().ok()).unwrap_or_default().to_owned()
}

/// What a method asks for at a place.
fn verb_of(method: &Method, place: &Place) -> &'static str {
    let named = !place.key.name.is_empty();
    match *method {
        Method::POST => "create",
        Method::PUT => "update",
        Method::PATCH => "patch",
        Method::DELETE if named => "delete",
        Method::DELETE => "deletecollection",
        _ if named => "get",
        _ => "list",
    }
}

/// As Kubernetes answers paths that nothing is at: plain text.
fn no_such_path() -> Response {
    let headers = [(header::CONTENT_TYPE, "text/plain; charset=utf-8"), (header::X_CONTENT_TYPE_OPTIONS, "nosniff")];
    (StatusCode::NOT_FOUND, headers, "404 page not found\n").into_response()
}

/// One request for objects, taken apart.
struct Call<'a> {
    handlers: &'a Handlers,
    caller: &'a Caller,
    headers: &'a HeaderMap,
    place: Place,
    parameters: Parameters,
    form: Form,
    body: Bytes,
}

impl Call<'_> {
    /// The answer, with what every client of the kind should know.
    async fn answer(self, method: Method) -> Result<Response, Failure> {
        let deprecation = self.kind().map_or_else(|_| String::new(), |kind| kind.deprecation_warning().to_owned());
        let mut response = self.route(method).await?;
        if !deprecation.is_empty() {
            respond::warn(&mut response, &deprecation);
        }
        Ok(response)
    }

    async fn route(self, method: Method) -> Result<Response, Failure> {
        let named = !self.place.key.name.is_empty();
        match method {
            Method::GET if self.parameters.watch => self.watch().await,
            Method::GET if named => self.get().await,
            Method::GET => self.list().await,
            Method::POST => self.create().await,
            Method::PUT if named => self.update().await,
            Method::PATCH if named => self.patch().await,
            Method::DELETE if named => self.delete().await,
            Method::DELETE => self.delete_collection().await,
            _ => Err(Failure::method_not_allowed()),
        }
    }

    async fn get(self) -> Result<Response, Failure> {
        let request = wire::GetRequest {
            key: Some(self.place.key.clone()),
            resource_version: self.parameters.resource_version.clone(),
            omit_managed_fields: false,
        };
        let object = self.handlers.get(self.caller, request).await?;
        self.object(StatusCode::OK, object)
    }

    async fn list(self) -> Result<Response, Failure> {
        let listing = self.handlers.list(self.caller, self.list_request()).await?;
        let kind = self.kind()?;
        respond::listing(kind, listing, &self.form, &self.parameters)
    }

    async fn watch(mut self) -> Result<Response, Failure> {
        // One object is watched as the collection of it alone.
        let name = std::mem::take(&mut self.place.key.name);
        if !name.is_empty() {
            let term = format!("metadata.name={name}");
            let selector = &mut self.parameters.field_selector;
            *selector = if selector.is_empty() { term } else { format!("{selector},{term}") };
        }
        let request = wire::WatchRequest {
            key: Some(self.place.key.clone()),
            label_selector: self.parameters.label_selector.clone(),
            field_selector: self.parameters.field_selector.clone(),
            resource_version: self.parameters.resource_version.clone(),
            resource_version_match: self.parameters.resource_version_match.clone(),
            allow_bookmarks: self.parameters.allow_watch_bookmarks,
            send_initial_events: self.parameters.send_initial_events,
            timeout_seconds: self.parameters.timeout_seconds,
            omit_managed_fields: false,
        };
        let events = self.handlers.watch(self.caller, request).await?;
        Ok(watch::response(self.kind()?, events, &self.form, &self.parameters))
    }

    async fn create(self) -> Result<Response, Failure> {
        let request = self.write_request()?;
        let object = self.handlers.create(self.caller, request).await?;
        self.object(StatusCode::CREATED, object)
    }

    async fn update(self) -> Result<Response, Failure> {
        let request = self.write_request()?;
        let object = self.handlers.update(self.caller, request).await?;
        self.object(StatusCode::OK, object)
    }

    async fn patch(self) -> Result<Response, Failure> {
        let request = wire::PatchRequest {
            key: Some(self.place.key.clone()),
            r#type: negotiation::patch_type(self.headers)?.into(),
            patch: self.body.clone(),
            dry_run: self.parameters.dry_run,
            field_manager: self.parameters.field_manager.clone(),
            field_validation: self.parameters.field_validation.clone(),
            force: self.parameters.force,
        };
        let patched = self.handlers.patch(self.caller, request).await?;
        let code = if patched.created { StatusCode::CREATED } else { StatusCode::OK };
        self.object(code, patched.object)
    }

    async fn delete(self) -> Result<Response, Failure> {
        let object = self.handlers.delete(self.caller, self.delete_request()?).await?;
        let kind = self.kind()?;
        match respond::deleted(&kind, &object)? {
            Some(status) => self.object(StatusCode::OK, status),
            None => self.object(StatusCode::OK, object),
        }
    }

    async fn delete_collection(self) -> Result<Response, Failure> {
        let listing = self.handlers.delete_collection(self.caller, self.delete_request()?).await?;
        respond::listing(self.kind()?, listing, &self.form, &self.parameters)
    }

    fn object(&self, code: StatusCode, object: wire::Object) -> Result<Response, Failure> {
        let kind = self.kind()?;
        respond::object(code, &kind, object, &self.form, &self.parameters)
    }

    fn kind(&self) -> Result<Arc<Kind>, Failure> {
        let key = &self.place.key;
        self.handlers.registry.find(&key.group, &key.version, &key.plural).ok_or_else(Failure::no_such_resource)
    }

    fn list_request(&self) -> wire::ListRequest {
        wire::ListRequest {
            key: Some(self.place.key.clone()),
            label_selector: self.parameters.label_selector.clone(),
            field_selector: self.parameters.field_selector.clone(),
            limit: self.parameters.limit,
            r#continue: self.parameters.continue_token.clone(),
            resource_version: self.parameters.resource_version.clone(),
            resource_version_match: self.parameters.resource_version_match.clone(),
            omit_managed_fields: false,
        }
    }

    fn write_request(&self) -> Result<wire::WriteRequest, Failure> {
        Ok(wire::WriteRequest {
            key: Some(self.place.key.clone()),
            json: negotiation::json_of_body(self.headers, self.body.clone())?,
            dry_run: self.parameters.dry_run,
            field_manager: self.parameters.field_manager.clone(),
            field_validation: self.parameters.field_validation.clone(),
        })
    }

    /// Options come in the body, in parameters, or both; the body counts.
    fn delete_request(&self) -> Result<wire::DeleteRequest, Failure> {
        let mut request = wire::DeleteRequest {
            key: Some(self.place.key.clone()),
            grace_period_seconds: self.parameters.grace_period_seconds,
            propagation_policy: self.parameters.propagation_policy.clone(),
            dry_run: self.parameters.dry_run,
            label_selector: self.parameters.label_selector.clone(),
            field_selector: self.parameters.field_selector.clone(),
            limit: self.parameters.limit,
            r#continue: self.parameters.continue_token.clone(),
            resource_version: self.parameters.resource_version.clone(),
            resource_version_match: self.parameters.resource_version_match.clone(),
            ..wire::DeleteRequest::default()
        };
        if !self.body.is_empty() {
            let json = negotiation::json_of_body(self.headers, self.body.clone())?;
            parameters::read_delete_options(&json, &mut request)?;
        }
        Ok(request)
    }
}

impl Form {
    /// Objects as they are, without rows or metadata only.
    fn is_plain(&self) -> bool {
        self.representation == Representation::Object
    }
}
