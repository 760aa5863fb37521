//! Event, in the core group and in events.k8s.io: the same objects, some of whose fields have two names.

use k8s_openapi::api::core::v1::Event;
use k8s_openapi::api::events::v1::Event as NewEvent;
use k8s_openapi::jiff::Timestamp;
use serde_json::{Map, Value};

use super::cell::{NAME, column, count, since, wide};
use super::row::{row, rules};
use super::rule::{At, text};
use super::{Causes, Column, Conversion, Kind, Rules, SelectableField, names};

/// The names of fields in the core group, and in events.k8s.io.
const RENAMED: [(&str, &str); 7] = [
    ("involvedObject", "regarding"),
    ("message", "note"),
    ("source", "deprecatedSource"),
    ("firstTimestamp", "deprecatedFirstTimestamp"),
    ("lastTimestamp", "deprecatedLastTimestamp"),
    ("count", "deprecatedCount"),
    ("reportingComponent", "reportingController"),
];
/// Selectable fields in events.k8s.io, and where they rest.
const PATHS: [(&str, &str); 8] = [
    ("regarding.kind", "involvedObject.kind"),
    ("regarding.namespace", "involvedObject.namespace"),
    ("regarding.name", "involvedObject.name"),
    ("regarding.uid", "involvedObject.uid"),
    ("regarding.apiVersion", "involvedObject.apiVersion"),
    ("regarding.resourceVersion", "involvedObject.resourceVersion"),
    ("regarding.fieldPath", "involvedObject.fieldPath"),
    ("reportingController", "reportingComponent"),
];
/// Longest texts of events.k8s.io, in bytes.
const MAX_REASON: usize = 128;
const MAX_NOTE: usize = 1024;

/// At rest, and in the core group.
pub(super) fn core() -> Kind {
    let rules = Rules { validate: validate_namespace, ..rules::<Event>(names::dns_subdomain) };
    Kind { short_names: vec!["ev".into()], fields: fields(), ..row::<Event>("event", columns(), rules) }
}

/// The same objects in events.k8s.io.
pub(super) fn events() -> Kind {
    let rules = rules::<NewEvent>(names::dns_subdomain);
    let of_path = |path: &'static str| SelectableField { path, value: |_| String::new() };
    let mut fields: Vec<SelectableField> = PATHS.map(|(path, _)| of_path(path)).to_vec();
    fields.extend(["reason", "type", "source"].map(of_path));
    Kind {
        short_names: vec!["ev".into()],
        storage_group: "core".into(),
        fields,
        conversion: Some(Conversion {
            api_version: "v1",
            to_storage: |event| rename(event, |name| RENAMED.iter().find(|(_, new)| *new == name).map(|(old, _)| *old)),
            from_storage: |event| {
                rename(event, |name| RENAMED.iter().find(|(old, _)| *old == name).map(|(_, new)| *new));
            },
            field: |path| PATHS.iter().find(|(new, _)| *new == path).map_or(path, |(_, old)| old),
            validate: validate_new,
        }),
        ..row::<NewEvent>("event", columns(), rules)
    }
}

/// Renames fields where they stand.
fn rename(event: &mut Value, new: impl Fn(&str) -> Option<&'static str>) {
    let Some(fields) = event.as_object_mut() else { return };
    let renamed: Map<String, Value> = std::mem::take(fields)
        .into_iter()
        .map(|(name, value)| (new(&name).map_or(name, str::to_owned), value))
        .collect();
    *fields = renamed;
}

/// Of the objects at rest.
fn columns() -> Vec<Column> {
    vec![
        column("Last Seen", "The time since it happened last.", |event, now| last_seen(event, now).into()),
        column("Type", "Normal or Warning.", |event, _| text(&event["type"]).into()),
        column("Reason", "What happened, in a word.", |event, _| text(&event["reason"]).into()),
        column("Object", "What it happened to.", |event, _| {
            let object = &event["involvedObject"];
            let kind = text(&object["kind"]).to_lowercase();
            let name = text(&object["name"]);
            if name.is_empty() { kind.into() } else { format!("{kind}/{name}").into() }
        }),
        wide("Subobject", "The part of it that it happened to.", |event, _| {
            text(&event["involvedObject"]["fieldPath"]).into()
        }),
        wide("Source", "Who says so.", |event, _| source(event).into()),
        column("Message", "What happened.", |event, _| text(&event["message"]).trim().into()),
        wide("First Seen", "The time since it happened first.", |event, now| first_seen(event, now).into()),
        wide("Count", "How often it happened.", |event, _| times(event).into()),
        Column { priority: 1, ..NAME },
    ]
}

fn first_seen(event: &Value, now: Timestamp) -> String {
    let first = if event["firstTimestamp"].is_null() { &event["eventTime"] } else { &event["firstTimestamp"] };
    since(first, now)
}

fn last_seen(event: &Value, now: Timestamp) -> String {
    if !event["series"].is_null() {
        return since(&event["series"]["lastObservedTime"], now);
    }
    if event["lastTimestamp"].is_null() { first_seen(event, now) } else { since(&event["lastTimestamp"], now) }
}

fn times(event: &Value) -> i64 {
    if event["series"].is_null() { count(&event["count"]).max(1) } else { count(&event["series"]["count"]) }
}

fn source(event: &Value) -> String {
    let either = |first: &Value, second: &Value| {
        let first = text(first);
        if first.is_empty() { text(second).to_owned() } else { first.to_owned() }
    };
    let component = either(&event["source"]["component"], &event["reportingComponent"]);
    let host = either(&event["source"]["host"], &event["reportingInstance"]);
    if host.is_empty() { component } else { format!("{component}, {host}") }
}

fn fields() -> Vec<SelectableField> {
    vec![
        SelectableField { path: "involvedObject.kind", value: |event| of(event, "kind") },
        SelectableField { path: "involvedObject.namespace", value: |event| of(event, "namespace") },
        SelectableField { path: "involvedObject.name", value: |event| of(event, "name") },
        SelectableField { path: "involvedObject.uid", value: |event| of(event, "uid") },
        SelectableField { path: "involvedObject.apiVersion", value: |event| of(event, "apiVersion") },
        SelectableField { path: "involvedObject.resourceVersion", value: |event| of(event, "resourceVersion") },
        SelectableField { path: "involvedObject.fieldPath", value: |event| of(event, "fieldPath") },
        SelectableField { path: "reason", value: |event| text(&event["reason"]).to_owned() },
        SelectableField { path: "reportingComponent", value: |event| text(&event["reportingComponent"]).to_owned() },
        SelectableField { path: "source", value: |event| text(&event["source"]["component"]).to_owned() },
        SelectableField { path: "type", value: |event| text(&event["type"]).to_owned() },
    ]
}

fn of(event: &Value, field: &str) -> String {
    text(&event["involvedObject"][field]).to_owned()
}

/// An event is in the namespace of what it is about; what has none has its events in "default".
fn validate_namespace(event: &Value, old: Option<&Value>, causes: &mut Causes) {
    let root = At::root(event);
    let namespace = text(&event["metadata"]["namespace"]);
    let about = root.field("involvedObject").field("namespace");
    let fine = match about.text() {
        "" => matches!(namespace, "default" | "kube-system") || namespace.is_empty(),
        about => about == namespace,
    };
    if !fine && old.is_none() {
        causes.invalid(&about.path, about.text(), "does not match event.namespace");
    }
}

/// The rules that writers of events.k8s.io have to follow beside those of the core group; paths are those of the core
/// group, as in Kubernetes.
fn validate_new(event: &Value, old: Option<&Value>, causes: &mut Causes) {
    let root = At::root(event);
    // What came from the core group has no such time.
    if event["eventTime"].is_null() {
        if old.is_none() {
            causes.required("eventTime", "");
        }
        return;
    }
    let controller = At::new(&event["reportingComponent"], "reportingController");
    controller.required_each(names::qualified_name, causes);
    let instance = root.field("reportingInstance");
    if instance.required("", causes) && instance.text().len() > MAX_REASON {
        instance.invalid(format!("can have at most {MAX_REASON} characters"), causes);
    }
    for field in ["action", "reason"] {
        let field = root.field(field);
        if field.required("", causes) && field.text().len() > MAX_REASON {
            field.invalid(format!("can have at most {MAX_REASON} characters"), causes);
        }
    }
    let type_ = root.field("type");
    if !matches!(type_.text(), "Normal" | "Warning") {
        causes.invalid("type", type_.text(), "has invalid value: ");
    }
    if text(&event["message"]).len() > MAX_NOTE {
        causes.invalid("message", "", format!("can have at most {MAX_NOTE} characters"));
    }
    if let Some(old) = old {
        for field in ["involvedObject", "reason", "reportingInstance", "type", "eventTime", "action", "related"] {
            root.field(field).immutable(&old[field], causes);
        }
        At::new(&event["message"], "note").immutable(&old["message"], causes);
    }
}
