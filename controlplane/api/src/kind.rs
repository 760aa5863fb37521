//! What the apiserver knows of each kind: a table that is built at run time, so that more rows can come later.

mod account;
mod apps;
mod cell;
mod config;
mod coordination;
mod discovery;
mod meta;
pub mod names;
mod namespace;
mod networking;
mod node;
mod pod;
mod pod_column;
mod pod_spec;
mod rbac;
mod review;
mod secret;
mod rule;
pub mod service;
mod strict;

use std::collections::HashMap;
use std::sync::Arc;

use k8s_openapi::jiff::Timestamp;
use serde_json::{Map, Value};

use crate::selector::FieldSelector;
use crate::status::{Failure, GroupResource, StatusCause};

pub use rule::Causes;

/// One kind: its names, its place in the store, its columns and its rules.
#[derive(Debug)]
pub struct Kind {
    /// "" for the core group.
    pub group: String,
    /// The group's segment of storage keys: "core" for the core group.
    pub storage_group: String,
    pub version: String,
    /// "Pod"
    pub kind: String,
    /// "PodList"
    pub list_kind: String,
    /// "pods"
    pub plural: String,
    /// "pod"
    pub singular: String,
    pub short_names: Vec<String>,
    pub categories: Vec<String>,
    pub namespaced: bool,
    /// What may be done with the object itself, as discovery lists it.
    pub verbs: &'static [&'static str],
    pub subresources: Vec<Subresource>,
    /// As `kubectl get` prints them.
    pub columns: Vec<Column>,
    /// What field selectors may name beside `metadata.name` and `metadata.namespace`.
    pub fields: Vec<SelectableField>,
    /// `metadata.generation` counts the changes of everything but metadata and status.
    pub generation: bool,
    rules: Rules,
}

/// A part of an object with an address of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Subresource {
    /// "status"
    pub name: &'static str,
    /// What it takes and returns, when not the object itself: "Binding".
    pub kind: &'static str,
    /// The group of `kind`, when not the group of the object: "autoscaling".
    pub group: &'static str,
    pub version: &'static str,
    pub verbs: &'static [&'static str],
}

/// A column of `kubectl get`.
#[derive(Clone, Copy, Debug)]
pub struct Column {
    pub name: &'static str,
    /// "string" or "integer"
    pub type_: &'static str,
    /// "name" for the name, else "".
    pub format: &'static str,
    pub description: &'static str,
    /// 0 always, 1 with `-o wide`.
    pub priority: i32,
    /// The cell of an object at a time.
    pub cell: fn(&Value, Timestamp) -> Value,
}

/// A field that a selector may name.
#[derive(Clone, Copy, Debug)]
pub struct SelectableField {
    pub path: &'static str,
    /// Its value, "" when it is not set.
    pub value: fn(&Value) -> String,
}

/// The functions of a kind. All are pure; `Kind`'s methods add what is common to all kinds.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rules {
    /// Fills the fields that the writer left out.
    pub(crate) default: fn(&mut Value),
    /// Says what is wrong; the second object is the one to be replaced.
    pub(crate) validate: fn(&Value, Option<&Value>, &mut Causes),
    /// What `metadata.name` may be.
    pub(crate) name: fn(&str) -> Vec<String>,
    /// What `status` is at creation; `None` leaves what the writer sent.
    pub(crate) initial_status: fn(&Value) -> Option<Value>,
    /// Completes an update from the object it replaces: what was allocated and the writer left out.
    pub(crate) carry_over: fn(&mut Value, &Value),
    /// Whether a write to `status` may change labels and annotations too.
    pub(crate) status_writes_labels: bool,
    /// Decodes into the typed object and encodes again, or says why it cannot.
    pub(crate) round_trip: fn(&Value) -> Result<Value, String>,
}

/// The verbs of most kinds.
const ALL_VERBS: &[&str] = &["create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"];
const PART_VERBS: &[&str] = &["get", "patch", "update"];

/// `metadata` fields that only the server writes.
const SERVER_FIELDS: [&str; 6] =
    ["uid", "creationTimestamp", "deletionTimestamp", "deletionGracePeriodSeconds", "generation", "selfLink"];

impl Kind {
    /// "v1" or "apps/v1"
    pub fn api_version(&self) -> String {
        if self.group.is_empty() { self.version.clone() } else { format!("{}/{}", self.group, self.version) }
    }

    /// Group and plural.
    pub fn resource(&self) -> GroupResource<'_> {
        GroupResource { group: &self.group, resource: &self.plural }
    }

    /// "Service" or "Deployment.apps"
    pub fn group_kind(&self) -> String {
        if self.group.is_empty() { self.kind.clone() } else { format!("{}.{}", self.kind, self.group) }
    }

    pub fn subresource(&self, name: &str) -> Option<&Subresource> {
        self.subresources.iter().find(|subresource| subresource.name == name)
    }

    /// The storage key of an object; `namespace` is ignored for cluster-scoped kinds.
    pub fn key(&self, namespace: &str, name: &str) -> String {
        if self.namespaced {
            format!("/registry/{}/{}/{namespace}/{name}", self.storage_group, self.plural)
        } else {
            format!("/registry/{}/{}/{name}", self.storage_group, self.plural)
        }
    }

    /// The prefix of the storage keys of a namespace's objects, or of all with "".
    pub fn prefix(&self, namespace: &str) -> String {
        if self.namespaced && !namespace.is_empty() {
            format!("/registry/{}/{}/{namespace}/", self.storage_group, self.plural)
        } else {
            format!("/registry/{}/{}/", self.storage_group, self.plural)
        }
    }

    /// Fills what the writer left out: `apiVersion`, `kind` and the defaults of the kind.
    pub fn default(&self, object: &mut Value) {
        if let Some(fields) = object.as_object_mut() {
            fields.entry("apiVersion").or_insert_with(|| self.api_version().into());
            fields.entry("kind").or_insert_with(|| self.kind.clone().into());
            fields.entry("metadata").or_insert_with(|| Value::Object(Map::new()));
        }
        (self.rules.default)(object);
    }

    /// Everything that is wrong with an object, with the field it is wrong in. `old` is what it replaces.
    pub fn validate(&self, object: &Value, old: Option<&Value>) -> Vec<StatusCause> {
        let mut causes = Causes::default();
        if let Err(why) = (self.rules.round_trip)(object) {
            // Nothing else can be relied on: the fields do not have the types of the kind.
            causes.add("FieldValueInvalid", "", why);
            return causes.into_vec();
        }
        meta::validate(self, object, old, &mut causes);
        (self.rules.validate)(object, old, &mut causes);
        causes.into_vec()
    }

    /// [`Kind::validate`] as the failure to answer with.
    pub fn check(&self, object: &Value, old: Option<&Value>) -> Result<(), Failure> {
        let causes = self.validate(object, old);
        if causes.is_empty() {
            return Ok(());
        }
        Err(Failure::invalid(self, object["metadata"]["name"].as_str().unwrap_or_default(), causes))
    }

    /// Drops what a writer may not set at creation, and sets what every new object has. Identity and time (`uid`,
    /// `creationTimestamp`) are the caller's.
    pub fn prepare_for_create(&self, object: &mut Value) {
        let generation = self.generation;
        if let Some(metadata) = object.get_mut("metadata").and_then(Value::as_object_mut) {
            for field in SERVER_FIELDS.iter().chain(&["resourceVersion"]) {
                metadata.shift_remove(*field);
            }
            if generation {
                metadata.insert("generation".into(), 1.into());
            }
        }
        if let Some(status) = (self.rules.initial_status)(object) {
            rule::set(object, "status", status);
        }
    }

    /// Makes `new` a legal successor of `old`: what only the server or another subresource writes is taken from `old`.
    /// `metadata.resourceVersion` is left as the writer sent it.
    pub fn prepare_for_update(&self, new: &mut Value, old: &Value) {
        for field in SERVER_FIELDS {
            rule::copy_part(old, new, "metadata", field);
        }
        if self.subresource("status").is_some() {
            rule::copy_field(old, new, "status");
        }
        if self.subresource("finalize").is_some() {
            rule::copy_part(old, new, "spec", "finalizers");
        }
        (self.rules.carry_over)(new, old);
        if self.generation
            && self.content_differs(new, old)
            && let Some(metadata) = rule::object_at(new, "metadata")
        {
            let generation = old["metadata"]["generation"].as_i64().unwrap_or(0);
            rule::set(metadata, "generation", generation + 1);
        }
    }

    /// A write to `status`: everything else stays as it was, but for labels and annotations of the kinds that allow it.
    pub fn prepare_for_status_update(&self, new: &mut Value, old: &Value) {
        let sent = std::mem::replace(new, old.clone());
        rule::copy_field(&sent, new, "status");
        rule::copy_part(&sent, new, "metadata", "resourceVersion");
        rule::copy_part(&sent, new, "metadata", "managedFields");
        if self.rules.status_writes_labels {
            rule::copy_part(&sent, new, "metadata", "labels");
            rule::copy_part(&sent, new, "metadata", "annotations");
        }
    }

    /// A write to a namespace's `finalize`: only `spec.finalizers` changes.
    pub fn prepare_for_finalize(&self, new: &mut Value, old: &Value) {
        let sent = std::mem::replace(new, old.clone());
        rule::copy_part(&sent, new, "spec", "finalizers");
        rule::copy_part(&sent, new, "metadata", "resourceVersion");
    }

    /// Somebody still has to clean up before a deleted object may go: `metadata.finalizers`, and for namespaces
    /// `spec.finalizers`.
    pub fn has_finalizers(&self, object: &Value) -> bool {
        let any = |list: &Value| list.as_array().is_some_and(|list| !list.is_empty());
        any(&object["metadata"]["finalizers"])
            || (self.subresource("finalize").is_some() && any(&object["spec"]["finalizers"]))
    }

    /// The paths of the fields of an object that its kind does not have, as strict decoding refuses them.
    pub fn unknown_fields(&self, object: &Value) -> Vec<String> {
        match self.typed(object) {
            Ok(known) => strict::unknown_fields(object, &known),
            Err(_) => Vec::new(),
        }
    }

    /// Why an object cannot be one of this kind: a field of a wrong type.
    pub fn check_types(&self, object: &Value) -> Result<(), Failure> {
        self.typed(object).map(drop).map_err(|why| {
            let (kind, version) = (&self.kind, &self.version);
            Failure::bad_request(format!("{kind} in version \"{version}\" cannot be handled as a {kind}: {why}"))
        })
    }

    /// The value of a field for field selectors; `None` for a path that this kind does not offer.
    pub fn field(&self, object: &Value, path: &str) -> Option<String> {
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        match path {
            "metadata.name" => Some(text(&object["metadata"]["name"])),
            "metadata.namespace" if self.namespaced => Some(text(&object["metadata"]["namespace"])),
            _ => self.fields.iter().find(|field| field.path == path).map(|field| (field.value)(object)),
        }
    }

    /// Fails with 400 for a selector that names a field this kind does not offer.
    pub fn check_field_selector(&self, selector: &FieldSelector) -> Result<(), Failure> {
        match selector.terms().iter().find(|term| self.field(&Value::Null, &term.path).is_none()) {
            None => Ok(()),
            Some(term) => Err(Failure::bad_request(format!("field label not supported: {}", term.path))),
        }
    }

    /// The typed round trip of an object as the kind's defaults would leave it: they also write numbers as texts where
    /// writers say `cpu: 2`.
    fn typed(&self, object: &Value) -> Result<Value, String> {
        let mut complete = object.clone();
        self.default(&mut complete);
        (self.rules.round_trip)(&complete)
    }

    fn content_differs(&self, new: &Value, old: &Value) -> bool {
        let content = |object: &Value| -> HashMap<String, Value> {
            let fields = object.as_object().into_iter().flatten();
            let own = fields.filter(|(key, _)| !matches!(key.as_str(), "metadata" | "status" | "apiVersion" | "kind"));
            own.map(|(key, value)| (key.clone(), value.clone())).collect()
        };
        content(new) != content(old)
    }
}

/// All kinds.
#[derive(Clone, Debug, Default)]
pub struct Registry {
    kinds: Vec<Arc<Kind>>,
}

impl Registry {
    /// The kinds that are compiled in.
    pub fn builtin() -> Self {
        let kinds = [
            config::config_map(),
            namespace::namespace(),
            node::node(),
            pod::pod(),
            service::service(),
            apps::deployment(),
            apps::replica_set(),
            coordination::lease(),
            discovery::endpoint_slice(),
            networking::ip_address(),
            secret::secret(),
            account::service_account(),
            rbac::cluster_role(),
            rbac::cluster_role_binding(),
            rbac::role(),
            rbac::role_binding(),
        ];
        Self { kinds: kinds.into_iter().chain(review::reviews()).map(Arc::new).collect() }
    }

    /// By the names of a REST path.
    pub fn find(&self, group: &str, version: &str, plural: &str) -> Option<Arc<Kind>> {
        let same = |kind: &&Arc<Kind>| kind.plural == plural && kind.group == group && kind.version == version;
        self.kinds.iter().find(same).cloned()
    }

    /// By the names that an object gives itself: ("apps/v1", "Deployment").
    pub fn find_kind(&self, api_version: &str, kind: &str) -> Option<Arc<Kind>> {
        self.kinds.iter().find(|own| own.kind == kind && own.api_version() == api_version).cloned()
    }

    /// The kind whose objects rest under this storage key.
    pub fn find_key(&self, key: &str) -> Option<Arc<Kind>> {
        let mut parts = key.strip_prefix("/registry/")?.split('/');
        let (group, plural) = (parts.next()?, parts.next()?);
        self.kinds.iter().find(|kind| kind.storage_group == group && kind.plural == plural).cloned()
    }

    pub fn all(&self) -> impl Iterator<Item = &Arc<Kind>> {
        self.kinds.iter()
    }
}

/// A row of the table for a typed object, with what most kinds have in common.
fn row<K>(singular: &str, columns: Vec<Column>, rules: Rules) -> Kind
where
    K: k8s_openapi::ListableResource + serde::Serialize + serde::de::DeserializeOwned,
    K::Scope: Scope,
{
    Kind {
        group: K::GROUP.into(),
        storage_group: if K::GROUP.is_empty() { "core".into() } else { K::GROUP.into() },
        version: K::VERSION.into(),
        kind: K::KIND.into(),
        list_kind: K::LIST_KIND.into(),
        plural: K::URL_PATH_SEGMENT.into(),
        singular: singular.into(),
        short_names: Vec::new(),
        categories: Vec::new(),
        namespaced: K::Scope::NAMESPACED,
        verbs: ALL_VERBS,
        subresources: Vec::new(),
        columns,
        fields: Vec::new(),
        generation: false,
        rules,
    }
}

/// Rules that ask nothing of an object but the types of its fields.
fn rules<K>(name: fn(&str) -> Vec<String>) -> Rules
where
    K: serde::Serialize + serde::de::DeserializeOwned,
{
    Rules {
        default: |_| {},
        validate: |_, _, _| {},
        name,
        initial_status: |_| None,
        carry_over: |_, _| {},
        status_writes_labels: true,
        round_trip: strict::round_trip::<K>,
    }
}

trait Scope {
    const NAMESPACED: bool;
}

impl Scope for k8s_openapi::NamespaceResourceScope {
    const NAMESPACED: bool = true;
}

impl Scope for k8s_openapi::ClusterResourceScope {
    const NAMESPACED: bool = false;
}

/// The subresource that holds `status`.
const STATUS: Subresource = Subresource { name: "status", kind: "", group: "", version: "", verbs: PART_VERBS };
