//! Secret.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use k8s_openapi::api::core::v1::Secret;
use serde_json::Value;

use super::cell::{AGE, NAME, column};
use super::config::{MAX_DATA, immutable_when_set};
use super::row::{row, rules};
use super::rule::{At, object_at, set, set_default, text};
use super::{Causes, Kind, Rules, SelectableField, names};

const ACCOUNT_TOKEN: &str = "kubernetes.io/service-account-token";
const ACCOUNT_NAME: &str = "kubernetes.io/service-account.name";
/// What messages show of a secret.
const REDACTED: &str = "<secret contents redacted>";

/// Types, and the keys that their data has to have.
const REQUIRED_KEYS: [(&str, &[&str]); 4] = [
    ("kubernetes.io/dockercfg", &[".dockercfg"]),
    ("kubernetes.io/dockerconfigjson", &[".dockerconfigjson"]),
    ("kubernetes.io/ssh-auth", &["ssh-privatekey"]),
    ("kubernetes.io/tls", &["tls.crt", "tls.key"]),
];

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
    let data = At::root(secret).field("data");
    let mut size = 0;
    for (key, value) in data.entries() {
        causes.invalid_each(&value.path, key, names::config_key(key));
        size += STANDARD.decode(value.text()).map_or(value.text().len(), |bytes| bytes.len());
    }
    if size > MAX_DATA {
        causes.too_long("data", MAX_DATA);
    }
    validate_type(secret, &data, causes);
    let Some(old) = old else { return };
    if secret["type"] != old["type"] {
        causes.invalid("type", secret["type"].clone(), "field is immutable");
    }
    immutable_when_set(secret, old, &["data"], causes);
}

fn validate_type(secret: &Value, data: &At<'_>, causes: &mut Causes) {
    let type_ = text(&secret["type"]);
    if type_ == ACCOUNT_TOKEN && text(&secret["metadata"]["annotations"][ACCOUNT_NAME]).is_empty() {
        causes.required(format!("metadata.annotations[{ACCOUNT_NAME}]"), "");
    }
    if type_ == "kubernetes.io/basic-auth" && ["username", "password"].iter().all(|key| data.value[*key].is_null()) {
        causes.required("data[username]", "");
        causes.required("data[password]", "");
    }
    let Some((_, keys)) = REQUIRED_KEYS.iter().find(|(own, _)| *own == type_) else { return };
    for key in *keys {
        let value = data.key(key);
        let empty_key = *key == "ssh-privatekey" && value.is_empty();
        if !value.is_set() || empty_key {
            causes.required(&value.path, "");
        } else if key.starts_with(".docker") {
            let json = STANDARD.decode(value.text()).unwrap_or_default();
            if let Err(why) = serde_json::from_slice::<serde_json::Map<String, Value>>(&json) {
                causes.invalid(&value.path, REDACTED, why.to_string());
            }
        }
    }
}
