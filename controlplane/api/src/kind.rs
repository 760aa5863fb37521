//! What the apiserver knows of each kind: a table that is built at run time, so that more rows can come later.

mod prepare;
mod registry;
mod row;

mod cell;
mod meta;
pub mod names;
mod rule;
mod strict;

mod account;
mod apps;
mod apps_sets;
mod autoscaling;
mod certificates;
mod claim;
mod config;
mod coordination;
mod cron_job;
pub mod custom;
mod discovery;
mod endpoints;
mod event;
mod ingress;
mod job;
mod namespace;
mod network_policy;
mod networking;
mod node;
mod pod;
mod pod_column;
mod pod_spec;
mod policy;
mod quota;
mod rbac;
mod review;
mod scheduling;
mod secret;
pub mod service;
mod storage;
mod workload;

use std::sync::Arc;

use k8s_openapi::jiff::Timestamp;
use serde_json::{Map, Value, json};

use custom::Custom;

use crate::selector::FieldSelector;
use crate::status::{Failure, GroupResource, StatusCause};

pub use registry::Registry;
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
    /// Its objects rest in the store. Of other kinds an object is answered at once and never kept.
    pub stored: bool,
    /// What every answer warns of; "" for nothing.
    pub deprecation: &'static str,
    /// Objects rest as another version or in another group, and change on their way out and in.
    conversion: Option<Conversion>,
    rules: Rules,
    /// What a CustomResourceDefinition says of it.
    custom: Option<Arc<Custom>>,
}

/// How the objects of a kind rest that is not the kind they rest as.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Conversion {
    /// `apiVersion` of the objects at rest; their kind has the same name.
    pub(crate) api_version: &'static str,
    pub(crate) to_storage: fn(&mut Value),
    pub(crate) from_storage: fn(&mut Value),
    /// The path of a selectable field in the objects at rest.
    pub(crate) field: fn(&str) -> &str,
    /// What is asked of an object at rest beside its own rules, because it was written as this kind.
    pub(crate) validate: fn(&Value, Option<&Value>, &mut Causes),
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
    /// Completes a new object whose name, uid and time are known.
    pub(crate) identified: fn(&mut Value),
    /// Whether a write to `status` may change labels and annotations too.
    pub(crate) status_writes_labels: bool,
    /// What a write to a subresource other than `status` and `finalize` changes: the first object is what is there, the
    /// second what the writer sent.
    pub(crate) write_part: fn(&str, &mut Value, &Value),
    /// Says what is wrong with what a subresource was written to, new and old; `None` when the rules of the whole apply.
    pub(crate) validate_part: Option<fn(&str, &Value, &Value, &mut Causes)>,
    /// What a writer should know, though it is accepted.
    pub(crate) warnings: fn(&Value) -> Vec<String>,
    /// Reads the object as its type: the fields the type does not have, or why it is not of the type.
    pub(crate) decode: fn(&Value, &'static str) -> Result<Vec<String>, String>,
    /// Reads the object as plain clients do.
    pub(crate) readable: fn(&Value) -> Result<(), String>,
    /// The version of the type, as its own messages name it.
    pub(crate) version: &'static str,
}

/// Kinds that are kept and checked while nothing acts on them yet: their writers are told. Group, kind, and what is so.
const IDLE: [(&str, &str, &str); 8] = [
    ("", "PersistentVolumeClaim", "is not bound by any controller yet"),
    ("", "ReplicationController", NO_CONTROLLER),
    ("apps", "DaemonSet", NO_CONTROLLER),
    ("apps", "StatefulSet", NO_CONTROLLER),
    ("autoscaling", "HorizontalPodAutoscaler", NO_CONTROLLER),
    ("batch", "CronJob", NO_CONTROLLER),
    ("batch", "Job", NO_CONTROLLER),
    (
        "policy",
        "PodDisruptionBudget",
        "has no controller yet: evictions of its pods are refused until its status is written",
    ),
];
const NO_CONTROLLER: &str = "is kept, but no controller acts on it yet";

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
        match &self.custom {
            Some(custom) => custom.default(object),
            None => (self.rules.default)(object),
        }
    }

    /// Everything that is wrong with an object, with the field it is wrong in. `old` is what it replaces.
    pub fn validate(&self, object: &Value, old: Option<&Value>) -> Vec<StatusCause> {
        self.validate_write("", object, old)
    }

    /// [`Kind::validate`] as the failure to answer with.
    pub fn check(&self, object: &Value, old: Option<&Value>) -> Result<(), Failure> {
        self.check_part("", object, old)
    }

    /// The same for a write to a subresource, "" for the object itself.
    pub fn check_part(&self, part: &str, object: &Value, old: Option<&Value>) -> Result<(), Failure> {
        let causes = self.validate_write(part, object, old);
        if causes.is_empty() {
            return Ok(());
        }
        Err(Failure::invalid(self, object["metadata"]["name"].as_str().unwrap_or_default(), causes))
    }

    fn validate_write(&self, part: &str, object: &Value, old: Option<&Value>) -> Vec<StatusCause> {
        let mut causes = Causes::default();
        if let Err(why) = self.decode(object) {
            // Nothing else can be relied on: the fields do not have the types of the kind.
            causes.add("FieldValueInvalid", "", why);
            return causes.into_vec();
        }
        meta::validate(self, object, old, &mut causes);
        if let Some(custom) = &self.custom {
            custom.validate(object, &mut causes);
            return causes.into_vec();
        }
        match (self.rules.validate_part, old) {
            // A binding is the one change of a pod's node that is allowed.
            _ if part == "binding" => (self.rules.validate)(object, None, &mut causes),
            (Some(validate), Some(old)) if !part.is_empty() => validate(part, object, old, &mut causes),
            _ => (self.rules.validate)(object, old, &mut causes),
        }
        causes.into_vec()
    }

    /// What is wrong with an object at rest that was written as this kind, beside what its kind at rest says.
    pub fn check_converted(&self, object: &Value, old: Option<&Value>) -> Result<(), Failure> {
        let mut causes = Causes::default();
        if let Some(conversion) = self.conversion {
            (conversion.validate)(object, old, &mut causes);
        }
        if causes.is_empty() {
            return Ok(());
        }
        let name = object["metadata"]["name"].as_str().unwrap_or_default();
        Err(Failure::invalid(self, name, causes.into_vec()))
    }

    /// The cells of an object's row, in the order of `columns`.
    pub fn cells(&self, object: &Value, now: Timestamp) -> Vec<Value> {
        if let Some(custom) = &self.custom {
            return custom.cells(object, now);
        }
        let cells = |object: &Value| self.columns.iter().map(|column| (column.cell)(object, now)).collect();
        if !self.is_converted() {
            return cells(object);
        }
        // Rows are worked out from what rests.
        let mut stored = object.clone();
        self.to_storage(&mut stored);
        cells(&stored)
    }

    /// What the writer of an object should know, though it is accepted.
    pub fn warnings(&self, object: &Value) -> Vec<String> {
        let mut warnings = (self.rules.warnings)(object);
        let idle = IDLE.iter().find(|(group, kind, _)| (*group, *kind) == (self.group.as_str(), self.kind.as_str()));
        warnings.extend(idle.map(|(_, kind, why)| format!("{kind} {why}")));
        warnings
    }

    /// What its definition says, for a kind that has one.
    pub fn custom(&self) -> Option<&Arc<Custom>> {
        self.custom.as_ref()
    }

    /// Name, type, format, description and priority of each column.
    pub fn headers(&self) -> Vec<Value> {
        if let Some(custom) = &self.custom {
            return custom.headers();
        }
        let header = |column: &Column| {
            json!({
                "name": column.name,
                "type": column.type_,
                "format": column.format,
                "description": column.description,
                "priority": column.priority,
            })
        };
        self.columns.iter().map(header).collect()
    }

    /// What every answer warns of; "" for nothing.
    pub fn deprecation_warning(&self) -> &str {
        self.custom.as_ref().map_or(self.deprecation, |custom| custom.deprecation())
    }

    /// Takes out what a writer sent and the kind does not have: of custom kinds, what their schema does not name. Other
    /// kinds keep every field.
    pub fn prune(&self, object: &mut Value) {
        if let Some(custom) = &self.custom {
            custom.prune(object);
        }
    }

    /// Somebody still has to clean up before a deleted object may go: `metadata.finalizers`, and for namespaces
    /// `spec.finalizers`.
    pub fn has_finalizers(&self, object: &Value) -> bool {
        let any = |list: &Value| list.as_array().is_some_and(|list| !list.is_empty());
        any(&object["metadata"]["finalizers"])
            || (self.subresource("finalize").is_some() && any(&object["spec"]["finalizers"]))
    }

    /// Whether every typed client can read what is about to rest. The other checks see to it, each in its words; one
    /// object that slipped through would stop all who list its kind.
    pub fn check_readable(&self, object: &Value) -> Result<(), Failure> {
        let readable = match &self.custom {
            Some(_) => Custom::readable(object),
            None => (self.rules.readable)(object),
        };
        readable.map_err(|why| Failure::bad_request(format!("the {} cannot be kept: {why}", self.kind)))
    }

    /// The paths of the fields of an object that its kind does not have, as strict decoding refuses them.
    pub fn unknown_fields(&self, object: &Value) -> Vec<String> {
        self.decode(object).unwrap_or_default()
    }

    /// Why an object cannot be one of this kind: a field of a wrong type.
    pub fn check_types(&self, object: &Value) -> Result<(), Failure> {
        self.read(object).map(drop)
    }

    /// [`Kind::check_types`] and [`Kind::unknown_fields`] in one go.
    pub fn read(&self, object: &Value) -> Result<Vec<String>, Failure> {
        self.decode(object).map_err(|why| {
            let (kind, version) = (&self.kind, &self.version);
            Failure::bad_request(format!("{kind} in version \"{version}\" cannot be handled as a {kind}: {why}"))
        })
    }

    /// `apiVersion` of the objects at rest.
    pub fn storage_api_version(&self) -> String {
        match (&self.custom, self.conversion) {
            (Some(custom), _) => custom.storage_api_version().to_owned(),
            (None, Some(conversion)) => conversion.api_version.to_owned(),
            (None, None) => self.api_version(),
        }
    }

    /// Objects rest as another kind than this.
    pub fn is_converted(&self) -> bool {
        let rests_apart = |custom: &Arc<Custom>| custom.storage_api_version() != self.api_version();
        self.conversion.is_some() || self.custom.as_ref().is_some_and(rests_apart)
    }

    /// From what clients of this kind send to what rests.
    pub fn to_storage(&self, object: &mut Value) {
        if let Some(conversion) = self.conversion {
            (conversion.to_storage)(object);
            rule::set(object, "apiVersion", conversion.api_version);
        } else if self.custom.is_some() {
            rule::set(object, "apiVersion", self.storage_api_version());
        }
    }

    /// From what rests to what clients of this kind get.
    pub fn from_storage(&self, object: &mut Value) {
        if let Some(conversion) = self.conversion {
            (conversion.from_storage)(object);
            rule::set(object, "apiVersion", self.api_version());
        } else if self.custom.is_some() {
            rule::set(object, "apiVersion", self.api_version());
        }
    }

    /// A selector of this kind's fields as one of the fields at rest.
    pub fn storage_fields(&self, selector: FieldSelector) -> FieldSelector {
        match self.conversion {
            Some(conversion) => selector.with_paths(conversion.field),
            None => selector,
        }
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

    fn decode(&self, object: &Value) -> Result<Vec<String>, String> {
        match &self.custom {
            Some(custom) => custom.decode(object),
            None => (self.rules.decode)(object, self.rules.version),
        }
    }
}
