//! One set of verbs, behind gRPC and REST alike. A handler authorizes, does, and answers in the words of the wire
//! schema; failures are Kubernetes' Status.

mod apply;
mod body;
mod create;
mod delete;
mod evict;
mod list;
mod notice;
mod options;
mod patch;
mod review;
mod scale;
mod token;
mod transaction;
mod update;
mod watch;
mod writer;

use std::sync::Arc;

use bytes::Bytes;
use diolkos_api::kind::{Kind, Registry};
use diolkos_api::selector::FieldSelector;
use diolkos_api::status::Failure;
use diolkos_api::wire;
use diolkos_store::{Store, StoreError};
use k8s_openapi::jiff::Timestamp;
use serde_json::Value;

use crate::addresses::ServiceAddresses;
use crate::admission::{Admission, Write};
use crate::cache::Cache;
use crate::encryption::Seen;
use crate::metrics::Metrics;
use crate::stack::{Attributes, Authorizer, Record, User, Users};
use crate::tokens::Tokens;

pub(crate) use list::Listing;
pub(crate) use transaction::{Current, Turns, stored_bytes};
pub(crate) use watch::{Event, Events, bookmark};

/// The verbs. Clones share everything.
#[derive(Clone)]
pub(crate) struct Handlers {
    pub store: Arc<dyn Store>,
    pub cache: Cache,
    pub registry: Arc<Registry>,
    pub addresses: ServiceAddresses,
    pub turns: Turns,
    pub authorizer: Authorizer,
    pub admission: Admission,
    /// How the values rest.
    pub sealed: Seen,
    pub tokens: Tokens,
    pub users: Users,
    pub metrics: Metrics,
    /// HOST:PORT under which clients reach this server, as discovery tells it.
    pub public_address: Arc<str>,
}

/// Who asks, and where the audit line is gathered.
#[derive(Clone)]
pub(crate) struct Caller {
    pub user: User,
    /// What the client calls itself.
    pub agent: String,
    pub record: Record,
}

/// What a request is about, after it was found and allowed.
struct Target {
    /// What rests in the store.
    kind: Arc<Kind>,
    /// What the client speaks of; mostly the same.
    served: Arc<Kind>,
    namespace: String,
    name: String,
    subresource: String,
    verb: &'static str,
    /// Who asks.
    user: Arc<User>,
}

impl Target {
    fn key(&self) -> String {
        self.kind.key(&self.namespace, &self.name)
    }

    fn not_found(&self) -> Failure {
        Failure::not_found(self.served.resource(), &self.name)
    }

    /// The whole of the object that a subresource is of.
    fn whole(&self) -> Target {
        Target {
            kind: self.kind.clone(),
            served: self.served.clone(),
            namespace: self.namespace.clone(),
            name: self.name.clone(),
            subresource: String::new(),
            verb: self.verb,
            user: self.user.clone(),
        }
    }

    /// An object at rest as the client gets it.
    fn serve(&self, object: wire::Object) -> Result<wire::Object, Failure> {
        if !self.served.is_converted() {
            return Ok(object);
        }
        let json = served_bytes(&self.served, &object.json)?;
        Ok(wire::Object { json, ..object })
    }

    fn write<'a>(&'a self, new: Option<&'a Value>, old: Option<&'a Value>) -> Write<'a> {
        Write {
            kind: &self.kind,
            namespace: &self.namespace,
            name: &self.name,
            subresource: &self.subresource,
            verb: self.verb,
            user: &self.user,
            new,
            old,
        }
    }
}

impl Handlers {
    /// Authorizes, then finds the kind. `named`: the request is about one object.
    fn target(
        &self,
        caller: &Caller,
        verb: &'static str,
        key: Option<wire::Key>,
        named: bool,
    ) -> Result<Target, Failure> {
        let key = key.unwrap_or_default();
        let attributes = attributes(verb, &key);
        self.allowed(caller, attributes, verb, key, named)
    }

    /// The same for a collection, of which a field selector chooses: one that names an object asks for that alone.
    fn collection(
        &self,
        caller: &Caller,
        verb: &'static str,
        key: Option<wire::Key>,
        fields: &str,
    ) -> Result<Target, Failure> {
        let key = key.unwrap_or_default();
        let mut attributes = attributes(verb, &key);
        if let Ok(selector) = FieldSelector::parse(fields) {
            if key.name.is_empty() {
                attributes.name = selector.exact("metadata.name").unwrap_or_default().to_owned();
            }
            attributes.selected_node = selector.exact("spec.nodeName").map(str::to_owned);
        }
        self.allowed(caller, attributes, verb, key, false)
    }

    /// Completes what is about to be written. Returns what its writer should know.
    async fn admit(&self, target: &Target, object: &mut Value, old: Option<&Value>) -> Result<Vec<String>, Failure> {
        self.admission.admit(&target.write(None, old), object).await
    }

    /// 403 unless this may be written, by whoever asks.
    fn check_write(&self, target: &Target, new: Option<&Value>, old: Option<&Value>) -> Result<(), Failure> {
        self.admission.validate(&target.write(new, old))?;
        match new {
            Some(new) => self.authorizer.check_grant(&target.user, &target.kind, new, old),
            None => Ok(()),
        }
    }

    /// Who may not ask for a resource is not told whether there is one.
    pub(crate) fn authorize_unknown(
        &self,
        caller: &Caller,
        verb: &'static str,
        key: &wire::Key,
    ) -> Result<(), Failure> {
        let attributes = attributes(verb, key);
        self.authorizer.authorize(&caller.user, &attributes, &caller.record)
    }

    fn allowed(
        &self,
        caller: &Caller,
        attributes: Attributes,
        verb: &'static str,
        key: wire::Key,
        named: bool,
    ) -> Result<Target, Failure> {
        self.authorizer.authorize(&caller.user, &attributes, &caller.record)?;
        let kind = self.registry.find(&key.group, &key.version, &key.plural).ok_or_else(Failure::no_such_resource)?;
        check_verb(&kind, &key.subresource, verb)?;
        if named && key.name.is_empty() {
            return Err(Failure::method_not_allowed());
        }
        if matches!(verb, "list" | "watch" | "deletecollection") && !key.name.is_empty() {
            let name = &key.name;
            return Err(Failure::bad_request(format!(
                "{verb} is of a collection, but names {name:?}: select by field"
            )));
        }
        if kind.namespaced && named && key.namespace.is_empty() {
            return Err(Failure::bad_request("an empty namespace may not be set when a resource name is provided"));
        }
        if !kind.namespaced && !key.namespace.is_empty() {
            return Err(Failure::no_such_resource());
        }
        // Names become parts of storage keys.
        if [&key.namespace, &key.name].into_iter().any(|part| part.contains('/') || part == "." || part == "..") {
            return Err(Failure::bad_request("names may not contain '/', or be '.' or '..'"));
        }
        Ok(Target {
            kind: self.registry.storage(&kind),
            served: kind,
            namespace: key.namespace,
            name: key.name,
            subresource: key.subresource,
            verb,
            user: Arc::new(caller.user.clone()),
        })
    }
}

fn attributes(verb: &'static str, key: &wire::Key) -> Attributes {
    let is_namespace = key.group.is_empty() && key.plural == "namespaces";
    Attributes {
        verb: verb.into(),
        group: key.group.clone(),
        version: key.version.clone(),
        resource: key.plural.clone(),
        subresource: key.subresource.clone(),
        namespace: if is_namespace { key.name.clone() } else { key.namespace.clone() },
        name: key.name.clone(),
        path: String::new(),
        selected_node: None,
    }
}

/// 404 for a part that the kind does not have, 405 for a verb that it does not have.
fn check_verb(kind: &Kind, subresource: &str, verb: &str) -> Result<(), Failure> {
    let verbs = match subresource {
        "" => kind.verbs,
        name => kind.subresource(name).ok_or_else(Failure::no_such_resource)?.verbs,
    };
    if verbs.contains(&verb) { Ok(()) } else { Err(Failure::method_not_allowed()) }
}

/// What the store says when it does not answer, to a client.
pub(crate) fn store_failure(error: StoreError) -> Failure {
    match error {
        StoreError::Compacted { .. } => Failure::expired("The resourceVersion for the provided list is too old."),
        StoreError::Future { asked, current } => Failure::too_large_resource_version(asked, current),
        StoreError::Unavailable { .. } => Failure::unavailable(error.to_string()),
        StoreError::Refused { .. } => Failure::internal(error),
    }
}

/// The bytes of an object at rest as the bytes of a kind that it is served as.
pub(crate) fn served_bytes(kind: &Kind, json: &[u8]) -> Result<Bytes, Failure> {
    let mut object: Value = serde_json::from_slice(json).map_err(Failure::internal)?;
    kind.from_storage(&mut object);
    Ok(Bytes::from(object.to_string()))
}

/// An object as it is served: with its version.
fn reply(object: &Value, revision: i64, warnings: Vec<String>) -> wire::Object {
    wire::Object { json: Bytes::from(object.to_string()), resource_version: revision, warnings }
}

/// The present time as objects hold it: whole seconds.
pub(crate) fn now() -> String {
    rfc3339(diolkos_api::now())
}

fn rfc3339(time: Timestamp) -> String {
    time.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}
