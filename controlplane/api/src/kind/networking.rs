//! IPAddress: the claim of a Service on its ClusterIP.

use std::net::IpAddr;

use k8s_openapi::api::networking::v1::IPAddress;
use serde_json::Value;

use super::cell::{AGE, NAME, NONE, column};
use super::rule::text;
use super::{Causes, Kind, Rules, SelectableField, row, rules};

pub(super) fn ip_address() -> Kind {
    let parent = column("ParentRef", "What holds the address.", |object, _| {
        let parent = &object["spec"]["parentRef"];
        if parent.is_null() {
            return NONE.into();
        }
        let parts = [text(&parent["resource"]), text(&parent["group"])];
        let resource = parts.into_iter().filter(|part| !part.is_empty()).collect::<Vec<_>>().join(".");
        let parts = [resource.as_str(), text(&parent["namespace"]), text(&parent["name"])];
        parts.into_iter().filter(|part| !part.is_empty()).collect::<Vec<_>>().join("/").into()
    });
    let rules = Rules { validate, ..rules::<IPAddress>(name) };
    Kind {
        short_names: vec!["ip".into()],
        fields: vec![SelectableField {
            path: "spec.parentRef.name",
            value: |object| text(&object["spec"]["parentRef"]["name"]).to_owned(),
        }],
        ..row::<IPAddress>("ipaddress", vec![NAME, parent, AGE], rules)
    }
}

fn name(value: &str) -> Vec<String> {
    match value.parse::<IpAddr>() {
        Err(_) => vec!["must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)".into()],
        Ok(address) if address.to_string() != value => vec![format!("must be in canonical form (\"{address}\")")],
        Ok(_) => Vec::new(),
    }
}

fn validate(object: &Value, old: Option<&Value>, causes: &mut Causes) {
    let parent = &object["spec"]["parentRef"];
    if parent.is_null() {
        causes.required("spec.parentRef", "");
    }
    for field in ["resource", "name"] {
        if !parent.is_null() && text(&parent[field]).is_empty() {
            causes.required(format!("spec.parentRef.{field}"), "");
        }
    }
    if let Some(old) = old {
        causes.immutable("spec.parentRef", parent, &old["spec"]["parentRef"]);
    }
}
