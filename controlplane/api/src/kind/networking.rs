//! IPAddress, the claim of a Service on its ClusterIP, and ServiceCIDR, where those come from.

use std::net::IpAddr;

use k8s_openapi::api::networking::v1::{IPAddress, ServiceCIDR};
use serde_json::{Value, json};

use super::cell::{AGE, NAME, NONE, column};
use super::row::{STATUS, row, rules};
use super::rule::{At, items, text};
use super::{Causes, Kind, Rules, SelectableField, names};

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

pub(super) fn service_cidr() -> Kind {
    let cidrs = column("CIDRs", "The ranges of addresses, one of each family.", |object, _| {
        items(&object["spec"]["cidrs"]).iter().map(text).collect::<Vec<_>>().join(",").into()
    });
    let rules = Rules {
        validate: validate_service_cidr,
        initial_status: |_| Some(json!({})),
        ..rules::<ServiceCIDR>(names::dns_subdomain)
    };
    Kind { subresources: vec![STATUS], ..row::<ServiceCIDR>("servicecidr", vec![NAME, cidrs, AGE], rules) }
}

fn validate_service_cidr(object: &Value, old: Option<&Value>, causes: &mut Causes) {
    let cidrs = At::root(object).field("spec").field("cidrs");
    let own = cidrs.items();
    if own.is_empty() {
        return causes.required(&cidrs.path, "at least one CIDR required");
    }
    if own.len() > 2 {
        return cidrs.invalid("may only hold up to 2 values", causes);
    }
    for cidr in &own {
        causes.invalid_each(&cidr.path, cidr.text(), names::canonical_cidr(cidr.text()));
    }
    if let [first, second] = own.as_slice()
        && first.text().contains(':') == second.text().contains(':')
    {
        let why = "may specify no more than one IP for each IP family, i.e 192.168.0.0/24 and 2001:db8::/96";
        cidrs.invalid(why, causes);
    }
    let Some(old) = old else { return };
    let had = items(&old["spec"]["cidrs"]);
    match (had, own.as_slice()) {
        // The second family may be added later.
        ([had], [first, _]) if first.value != had => first.invalid("field is immutable", causes),
        ([_], [_, _]) => {}
        _ => cidrs.immutable(&old["spec"]["cidrs"], causes),
    }
}
