//! Secret.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use k8s_openapi::api::core::v1::Secret;
use serde_json::Value;

use super::cell::{AGE, NAME, column};
use super::rule::{object_at, set, set_default, text};
use super::{Causes, Kind, Rules, SelectableField, names, row, rules};

/// Most bytes of all values together.
const MAX_DATA: usize = 1 << 20;

pub(super) fn secret() -> Kind {
    let columns = vec![
        NAME,
        column("Type", "What its data is for.", |secret, _| text(&secret["type"]).into()),
        column("Data", "How many entries it has.", |secret, _| {
            secret["data"].as_object().map_or(0, serde_json::Map::len).into()
        }),
        AGE,
    ];
    let rules = Rules { default, validate, ..rules::<Secret>(names::dns_subdomain) };
    Kind {
        fields: vec![SelectableField { path: "type", value: |secret| text(&secret["type"]).to_owned() }],
        ..row::<Secret>("secret", columns, rules)
    }
}

/// What is written in plain text rests with the other data.
fn default(secret: &mut Value) {
    set_default(secret, "type", "Opaque");
    if !secret["stringData"].is_object() {
        return;
    }
    let Some(plain) = secret.as_object_mut().and_then(|fields| fields.shift_remove("stringData")) else { return };
    let Some(data) = object_at(secret, "data") else { return };
    for (key, value) in plain.as_object().into_iter().flatten() {
        set(data, key, STANDARD.encode(text(value)));
    }
}

fn validate(secret: &Value, old: Option<&Value>, causes: &mut Causes) {
    let mut size = 0;
    for (key, value) in secret["data"].as_object().into_iter().flatten() {
        causes.invalid_each(format!("data[{key}]"), key, names::config_key(key));
        size += STANDARD.decode(text(value)).map_or(text(value).len(), |bytes| bytes.len());
    }
    if size > MAX_DATA {
        causes.add("FieldValueTooLong", "data", format!("Too long: may not be more than {MAX_DATA} bytes"));
    }
    let Some(old) = old else { return };
    if secret["type"] != old["type"] {
        causes.invalid("type", secret["type"].clone(), "field is immutable");
    }
    if old["immutable"] == true {
        for field in ["immutable", "data"] {
            if secret[field] != old[field] {
                causes.forbidden(field, "field is immutable when `immutable` is set");
            }
        }
    }
}
