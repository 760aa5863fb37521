//! ConfigMap.

use k8s_openapi::api::core::v1::ConfigMap;
use serde_json::Value;

use super::cell::{AGE, NAME, column};
use super::row::{row, rules};
use super::rule::text;
use super::{Causes, Kind, Rules, names};

/// Most bytes of all values of a ConfigMap or Secret together.
pub(super) const MAX_DATA: usize = 1 << 20;

pub(super) fn config_map() -> Kind {
    let columns =
        vec![NAME, column("Data", "How many entries it has.", |object, _| entries(object).count().into()), AGE];
    let rules = Rules { validate, ..rules::<ConfigMap>(names::dns_subdomain) };
    Kind { short_names: vec!["cm".into()], ..row::<ConfigMap>("configmap", columns, rules) }
}

fn validate(object: &Value, old: Option<&Value>, causes: &mut Causes) {
    let mut size = 0;
    for (field, key, value) in entries(object) {
        let path = format!("{field}[{key}]");
        causes.invalid_each(&path, key, names::config_key(key));
        if field == "binaryData" && !object["data"][key].is_null() {
            causes.invalid(path, key, "duplicate of key present in data");
        }
        size += text(value).len();
    }
    if size > MAX_DATA {
        causes.too_long("", MAX_DATA);
    }
    if let Some(old) = old {
        immutable_when_set(object, old, &["data", "binaryData"], causes);
    }
}

/// Data that was declared immutable stays, and stays so.
pub(super) fn immutable_when_set(object: &Value, old: &Value, fields: &[&str], causes: &mut Causes) {
    if old["immutable"] != true {
        return;
    }
    for field in ["immutable"].iter().chain(fields) {
        if object[*field] != old[*field] {
            causes.forbidden(*field, "field is immutable when `immutable` is set");
        }
    }
}

fn entries(object: &Value) -> impl Iterator<Item = (&'static str, &str, &Value)> {
    ["data", "binaryData"].into_iter().flat_map(move |field| {
        object[field].as_object().into_iter().flatten().map(move |(key, value)| (field, key.as_str(), value))
    })
}
