//! Namespace.

use k8s_openapi::api::core::v1::Namespace;
use serde_json::{Value, json};

use super::cell::{AGE, NAME, column};
use super::row::{STATUS, row, rules};
use super::rule::{object_at, set_default, text};
use super::{Causes, Kind, Rules, SelectableField, Subresource, names};

/// The label with which selectors name namespaces.
const NAME_LABEL: &str = "kubernetes.io/metadata.name";

pub(super) fn namespace() -> Kind {
    let columns =
        vec![NAME, column("Status", "The status of the namespace", |object, _| object["status"]["phase"].clone()), AGE];
    let rules = Rules { default, validate, initial_status, ..rules::<Namespace>(names::dns_label) };
    let finalize = Subresource { name: "finalize", kind: "", group: "", version: "", verbs: &["update"] };
    Kind {
        short_names: vec!["ns".into()],
        verbs: &["create", "delete", "get", "list", "patch", "update", "watch"],
        subresources: vec![finalize, STATUS],
        fields: vec![SelectableField {
            path: "status.phase",
            value: |object| text(&object["status"]["phase"]).to_owned(),
        }],
        ..row::<Namespace>("namespace", columns, rules)
    }
}

fn default(object: &mut Value) {
    let name = object["metadata"]["name"].clone();
    if name.is_string()
        && let Some(metadata) = object_at(object, "metadata")
        && let Some(labels) = object_at(metadata, "labels")
    {
        labels[NAME_LABEL] = name;
    }
    // A namespace that is being deleted loses its finalizer last, and must not get it back.
    if object["metadata"]["deletionTimestamp"].is_null()
        && let Some(spec) = object_at(object, "spec")
    {
        set_default(spec, "finalizers", json!(["kubernetes"]));
    }
}

fn validate(object: &Value, _: Option<&Value>, causes: &mut Causes) {
    for (index, finalizer) in super::rule::items(&object["spec"]["finalizers"]).iter().enumerate() {
        let field = format!("spec.finalizers[{index}]");
        causes.invalid_each(field, text(finalizer), names::qualified_name(text(finalizer)));
    }
}

fn initial_status(_: &Value) -> Option<Value> {
    Some(json!({"phase": "Active"}))
}
