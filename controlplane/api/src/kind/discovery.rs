//! EndpointSlice.

use std::collections::HashSet;
use std::net::IpAddr;

use k8s_openapi::api::discovery::v1::EndpointSlice;
use serde_json::Value;

use super::cell::{AGE, NAME, column, some_of};
use super::row::{row, rules};
use super::rule::{items, items_mut, set, set_default, text};
use super::{Causes, Kind, Rules, names};

/// Most endpoints of a slice.
const MAX_ENDPOINTS: usize = 1000;
/// Most addresses of an endpoint.
const MAX_ADDRESSES: usize = 100;
/// Most ports of a slice.
const MAX_PORTS: usize = 20_000;

pub(super) fn endpoint_slice() -> Kind {
    let columns = vec![
        NAME,
        column("AddressType", "The type of the addresses: IPv4, IPv6 or FQDN.", |slice, _| {
            slice["addressType"].clone()
        }),
        column("Ports", "The ports that every endpoint exposes.", |slice, _| {
            let port = |port: &Value| match (port["port"].as_i64(), text(&port["name"])) {
                (Some(number), _) => number.to_string(),
                (None, "") => "*".to_owned(),
                (None, name) => name.to_owned(),
            };
            some_of(&items(&slice["ports"]).iter().map(port).collect::<Vec<_>>()).into()
        }),
        column("Endpoints", "The addresses of the endpoints.", |slice, _| {
            let addresses = items(&slice["endpoints"]).iter().flat_map(|endpoint| items(&endpoint["addresses"]));
            some_of(&addresses.map(|address| text(address).to_owned()).collect::<Vec<_>>()).into()
        }),
        AGE,
    ];
    let rules = Rules { default, validate, ..rules::<EndpointSlice>(names::dns_subdomain) };
    Kind { generation: true, ..row::<EndpointSlice>("endpointslice", columns, rules) }
}

fn default(slice: &mut Value) {
    for port in items_mut(slice, "ports") {
        set_default(port, "protocol", "TCP");
        if port["name"].is_null() {
            set(port, "name", "");
        }
    }
}

fn validate(slice: &Value, old: Option<&Value>, causes: &mut Causes) {
    let family = text(&slice["addressType"]);
    match family {
        "IPv4" | "IPv6" | "FQDN" => {}
        "" => causes.required("addressType", ""),
        other => causes.unsupported("addressType", other, &["FQDN", "IPv4", "IPv6"]),
    }
    if let Some(old) = old {
        causes.immutable("addressType", &slice["addressType"], &old["addressType"]);
    }
    let endpoints = items(&slice["endpoints"]);
    if endpoints.len() > MAX_ENDPOINTS {
        causes.too_many("endpoints", endpoints.len(), MAX_ENDPOINTS);
        return;
    }
    for (index, endpoint) in endpoints.iter().enumerate() {
        validate_endpoint(endpoint, family, &format!("endpoints[{index}]"), causes);
    }
    validate_ports(items(&slice["ports"]), causes);
}

fn validate_endpoint(endpoint: &Value, family: &str, field: &str, causes: &mut Causes) {
    let addresses = items(&endpoint["addresses"]);
    let list = format!("{field}.addresses");
    if addresses.is_empty() {
        causes.required(&list, "must contain at least 1 address");
    } else if addresses.len() > MAX_ADDRESSES {
        causes.too_many(&list, addresses.len(), MAX_ADDRESSES);
    }
    for (index, address) in addresses.iter().enumerate() {
        let address = text(address);
        let field = format!("{list}[{index}]");
        match family {
            "IPv4" | "IPv6" => validate_address(address, family, &field, causes),
            "FQDN" => causes.invalid_each(field, address, names::dns_subdomain(address)),
            _ => {}
        }
    }
    let node = text(&endpoint["nodeName"]);
    if !node.is_empty() {
        causes.invalid_each(format!("{field}.nodeName"), node, names::dns_subdomain(node));
    }
    let hostname = text(&endpoint["hostname"]);
    if !hostname.is_empty() {
        causes.invalid_each(format!("{field}.hostname"), hostname, names::dns_label(hostname));
    }
}

fn validate_address(address: &str, family: &str, field: &str, causes: &mut Causes) {
    let parsed = address.parse::<IpAddr>();
    match (&parsed, family) {
        (Ok(IpAddr::V4(_)), "IPv4") | (Ok(IpAddr::V6(_)), "IPv6") => {}
        (_, "IPv4") => return causes.invalid(field, address, "must be a valid IPv4 address"),
        _ => return causes.invalid(field, address, "must be a valid IPv6 address"),
    }
    let Ok(parsed) = parsed else { return };
    // What no packet may be sent to on behalf of a Service, whatever somebody writes into a slice.
    if let Some(why) = special_address(parsed) {
        causes.invalid(field, address, why);
    }
}

/// Why no packet may be sent to an address on behalf of a Service.
pub(super) fn special_address(address: IpAddr) -> Option<&'static str> {
    if address.is_unspecified() {
        return Some("may not be unspecified (0.0.0.0 or ::)");
    }
    if address.is_loopback() {
        return Some("may not be in the loopback range (127.0.0.0/8, ::1/128)");
    }
    let (link_local, link_local_multicast) = match address {
        IpAddr::V4(v4) => (v4.is_link_local(), v4.octets()[..3] == [224, 0, 0]),
        IpAddr::V6(v6) => (v6.is_unicast_link_local(), v6.segments()[0] == 0xff02),
    };
    if link_local {
        return Some("may not be in the link-local range (169.254.0.0/16, fe80::/10)");
    }
    link_local_multicast.then_some("may not be in the link-local multicast range (224.0.0.0/24, ff02::/10)")
}

fn validate_ports(ports: &[Value], causes: &mut Causes) {
    if ports.len() > MAX_PORTS {
        causes.too_many("ports", ports.len(), MAX_PORTS);
        return;
    }
    let mut seen = HashSet::new();
    for (index, port) in ports.iter().enumerate() {
        let name = text(&port["name"]);
        if !name.is_empty() {
            causes.invalid_each(format!("ports[{index}].name"), name, names::dns_label(name));
        }
        if !seen.insert(name) {
            causes.duplicate(format!("ports[{index}].name"), name);
        }
        if let Some(number) = port["port"].as_i64() {
            for problem in names::port_number(number) {
                causes.invalid(format!("ports[{index}].port"), number, problem);
            }
        }
        super::service::protocol(&port["protocol"], &format!("ports[{index}].protocol"), causes);
    }
}
