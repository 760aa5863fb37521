//! apiextensions.k8s.io/v1 CustomResourceDefinition.

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use serde_json::{Value, json};

use super::column::Path;
use super::structural;
use crate::kind::cell::{CREATED_AT, NAME};
use crate::kind::row::{STATUS, row, rules};
use crate::kind::rule::{items, object_at, set, set_default, text};
use crate::kind::{Causes, Kind, Rules, names};

/// Groups that are Kubernetes' own: a definition in one says who allowed it.
const PROTECTED: [&str; 2] = ["k8s.io", "kubernetes.io"];
const APPROVED: &str = "api-approved.kubernetes.io";
const COLUMN_TYPES: [&str; 5] = ["boolean", "date", "integer", "number", "string"];
/// Rules in the Common Expression Language.
const VALIDATIONS: &str = "x-kubernetes-validations";

pub(in crate::kind) fn definition() -> Kind {
    let rules = Rules {
        default,
        validate,
        initial_status: |definition| Some(initial_status(definition)),
        carry_over: keep_stored_versions,
        status_writes_labels: false,
        warnings,
        ..rules::<CustomResourceDefinition>(names::dns_subdomain)
    };
    Kind {
        short_names: vec!["crd".into(), "crds".into()],
        categories: vec!["api-extensions".into()],
        subresources: vec![STATUS],
        generation: true,
        ..row::<CustomResourceDefinition>("customresourcedefinition", vec![NAME, CREATED_AT], rules)
    }
}

fn default(definition: &mut Value) {
    let Some(spec) = object_at(definition, "spec") else { return };
    if object_at(spec, "conversion").is_some_and(|conversion| text(&conversion["strategy"]).is_empty()) {
        spec["conversion"]["strategy"] = "None".into();
    }
    if let Some(names) = object_at(spec, "names") {
        let kind = text(&names["kind"]).to_owned();
        if !kind.is_empty() {
            set_default(names, "singular", kind.to_lowercase());
            set_default(names, "listKind", format!("{kind}List"));
        }
    }
}

fn storage_version(definition: &Value) -> Option<&str> {
    items(&definition["spec"]["versions"]).iter().find(|own| own["storage"] == true).map(|own| text(&own["name"]))
}

fn initial_status(definition: &Value) -> Value {
    let stored: Vec<&str> = storage_version(definition).into_iter().collect();
    json!({"conditions": [], "acceptedNames": {"plural": "", "kind": ""}, "storedVersions": stored})
}

/// Objects at rest may be of every version that ever was the one at rest.
fn keep_stored_versions(new: &mut Value, _old: &Value) {
    let Some(stored) = storage_version(new).map(str::to_owned) else { return };
    let mut versions = items(&new["status"]["storedVersions"]).to_vec();
    if !versions.iter().any(|own| *own == *stored) {
        versions.push(stored.into());
        if let Some(status) = object_at(new, "status") {
            set(status, "storedVersions", versions);
        }
    }
}

fn warnings(definition: &Value) -> Vec<String> {
    let mut warnings = Vec::new();
    for (index, version) in items(&definition["spec"]["versions"]).iter().enumerate() {
        if uses_expressions(&version["schema"]["openAPIV3Schema"]) {
            warnings.push(format!(
                "spec.versions[{index}].schema: {VALIDATIONS} are kept, but this server does not evaluate them"
            ));
        }
    }
    warnings
}

fn uses_expressions(schema: &Value) -> bool {
    match schema {
        Value::Object(fields) => fields.contains_key(VALIDATIONS) || fields.values().any(uses_expressions),
        Value::Array(items) => items.iter().any(uses_expressions),
        _ => false,
    }
}

fn validate(definition: &Value, old: Option<&Value>, causes: &mut Causes) {
    let spec = &definition["spec"];
    let (group, plural) = (text(&spec["group"]), text(&spec["names"]["plural"]));
    if text(&definition["metadata"]["name"]) != format!("{plural}.{group}") {
        let name = definition["metadata"]["name"].clone();
        causes.invalid("metadata.name", name, "must be spec.names.plural+\".\"+spec.group");
    }
    validate_group(definition, group, causes);
    match text(&spec["scope"]) {
        "" => causes.required("spec.scope", ""),
        "Cluster" | "Namespaced" => {}
        other => causes.unsupported("spec.scope", other, &["Cluster", "Namespaced"]),
    }
    validate_names(&spec["names"], causes);
    if spec["preserveUnknownFields"] == true {
        causes.invalid(
            "spec.preserveUnknownFields",
            true,
            "cannot set to true, set x-kubernetes-preserve-unknown-fields to true in spec.versions[*].schema instead",
        );
    }
    match text(&spec["conversion"]["strategy"]) {
        "" | "None" => {}
        "Webhook" => causes.forbidden("spec.conversion.strategy", "this server calls no webhooks: it converts by changing the apiVersion alone, so the strategy has to be None"),
        other => causes.unsupported("spec.conversion.strategy", other, &["None"]),
    }
    validate_versions(definition, causes);
    if let Some(old) = old {
        causes.immutable("spec.scope", &spec["scope"], &old["spec"]["scope"]);
        causes.immutable("spec.names.kind", &spec["names"]["kind"], &old["spec"]["names"]["kind"]);
    }
}

fn validate_group(definition: &Value, group: &str, causes: &mut Causes) {
    if group.is_empty() {
        causes.required("spec.group", "");
        return;
    }
    causes.invalid_each("spec.group", group, names::dns_subdomain(group));
    if !group.contains('.') {
        causes.invalid("spec.group", group, "should be a domain with at least one dot");
    }
    let is_protected = |own: &str| group == own || group.ends_with(&format!(".{own}"));
    let annotation = text(&definition["metadata"]["annotations"][APPROVED]);
    if PROTECTED.into_iter().any(is_protected) && annotation.is_empty() {
        let why = format!(
            "protected groups must have approval annotation \"{APPROVED}\", see https://github.com/kubernetes/enhancements/pull/1111"
        );
        causes.required(format!("metadata.annotations[{APPROVED}]"), &why);
    }
}

fn validate_names(own: &Value, causes: &mut Causes) {
    for field in ["plural", "singular", "kind", "listKind"] {
        let (path, name) = (format!("spec.names.{field}"), text(&own[field]));
        if name.is_empty() {
            causes.required(path, "");
        } else if matches!(field, "plural" | "singular") {
            causes.invalid_each(path, name, names::dns_1035_label(name));
        } else {
            let problems = names::dns_1035_label(&name.to_lowercase());
            let problems =
                problems.into_iter().map(|why| format!("may have mixed case, but should otherwise match: {why}"));
            causes.invalid_each(path, name, problems.collect());
        }
    }
    for field in ["shortNames", "categories"] {
        for (index, name) in items(&own[field]).iter().enumerate() {
            causes.invalid_each(format!("spec.names.{field}[{index}]"), text(name), names::dns_1035_label(text(name)));
        }
    }
    if text(&own["kind"]) == text(&own["listKind"]) && !text(&own["kind"]).is_empty() {
        causes.invalid("spec.names.listKind", own["listKind"].clone(), "kind and listKind may not be the same");
    }
}

fn validate_versions(definition: &Value, causes: &mut Causes) {
    let versions = items(&definition["spec"]["versions"]);
    if versions.is_empty() {
        causes.required("spec.versions", "must have at least one version");
    }
    if versions.iter().filter(|version| version["storage"] == true).count() != 1 {
        let names: Vec<Value> = versions.iter().map(|version| version["name"].clone()).collect();
        causes.invalid("spec.versions", names, "must have exactly one version marked as storage version");
    }
    let mut seen = std::collections::HashSet::new();
    for (index, version) in versions.iter().enumerate() {
        let path = format!("spec.versions[{index}]");
        let name = text(&version["name"]);
        if !seen.insert(name) {
            causes.invalid(format!("{path}.name"), name, "must be unique");
        }
        causes.invalid_each(format!("{path}.name"), name, names::dns_1035_label(name));
        match &version["schema"]["openAPIV3Schema"] {
            Value::Null => causes.required(format!("{path}.schema.openAPIV3Schema"), "schemas are required"),
            schema => structural::check(schema, &format!("{path}.schema.openAPIV3Schema"), causes),
        }
        validate_scale(&version["subresources"]["scale"], &format!("{path}.subresources.scale"), causes);
        for (index, column) in items(&version["additionalPrinterColumns"]).iter().enumerate() {
            validate_column(column, &format!("{path}.additionalPrinterColumns[{index}]"), causes);
        }
    }
    for (index, stored) in items(&definition["status"]["storedVersions"]).iter().enumerate() {
        if !versions.iter().any(|version| version["name"] == *stored) {
            let name = text(stored);
            let why = format!(
                "missing from spec.versions; {name} was previously a storage version, and must remain in spec.versions until a storage migration ensures no data remains persisted in {name} and removes {name} from status.storedVersions"
            );
            causes.invalid(format!("status.storedVersions[{index}]"), name, why);
        }
    }
}

fn validate_scale(scale: &Value, path: &str, causes: &mut Causes) {
    if scale.is_null() {
        return;
    }
    for (field, part) in [("specReplicasPath", "spec"), ("statusReplicasPath", "status"), ("labelSelectorPath", "")] {
        let (path, value) = (format!("{path}.{field}"), text(&scale[field]));
        let below = |part: &str| Path::parse(value).is_some_and(|own| own.is_below(part));
        match part {
            "" if value.is_empty() || below("spec") || below("status") => {}
            "" => causes.invalid(path, value, "should be a json path under either .spec or .status"),
            _ if value.is_empty() => causes.required(path, ""),
            part if below(part) => {}
            part => causes.invalid(path, value, format!("should be a json path under .{part}")),
        }
    }
}

fn validate_column(column: &Value, path: &str, causes: &mut Causes) {
    for field in ["name", "type", "jsonPath"] {
        if text(&column[field]).is_empty() {
            causes.required(format!("{path}.{field}"), "");
        }
    }
    let kind = text(&column["type"]);
    if !kind.is_empty() && !COLUMN_TYPES.contains(&kind) {
        causes.unsupported(format!("{path}.type"), kind, &COLUMN_TYPES);
    }
    let json_path = text(&column["jsonPath"]);
    if !json_path.is_empty() && Path::parse(json_path).is_none() {
        causes.invalid(
            format!("{path}.jsonPath"),
            json_path,
            "is no json path that columns may have: fields, indices, [*] and [?(@.field==\"text\")]",
        );
    }
}
