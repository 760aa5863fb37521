//! Endpoints: what EndpointSlices replace.

use k8s_openapi::api::core::v1::Endpoints;
use serde_json::Value;

use super::cell::{AGE, NAME, NONE, column, count};
use super::discovery::special_address;
use super::row::{row, rules};
use super::rule::{At, items, items_mut, set_default, text};
use super::{Causes, Kind, Rules, names};

pub(super) fn endpoints() -> Kind {
    let columns = vec![
        NAME,
        column("Endpoints", "The addresses and ports of all its subsets.", |endpoints, _| shown(endpoints).into()),
        AGE,
    ];
    let rules = Rules { default, validate, ..rules::<Endpoints>(names::dns_subdomain) };
    Kind {
        short_names: vec!["ep".into()],
        deprecation: "v1 Endpoints is deprecated in v1.33+; use discovery.k8s.io/v1 EndpointSlice",
        ..row::<Endpoints>("endpoints", columns, rules)
    }
}

fn shown(endpoints: &Value) -> String {
    const SHOWN: usize = 3;
    let subsets = items(&endpoints["subsets"]);
    if subsets.is_empty() {
        return NONE.into();
    }
    let mut all = Vec::new();
    for subset in subsets {
        let addresses = items(&subset["addresses"]).iter().map(|address| text(&address["ip"]));
        match items(&subset["ports"]) {
            [] => all.extend(addresses.map(str::to_owned)),
            ports => {
                for port in ports {
                    let number = count(&port["port"]);
                    all.extend(addresses.clone().map(|ip| {
                        if ip.contains(':') { format!("[{ip}]:{number}") } else { format!("{ip}:{number}") }
                    }));
                }
            }
        }
    }
    let list = all[..all.len().min(SHOWN)].join(",");
    if all.len() > SHOWN { format!("{list} + {} more...", all.len() - SHOWN) } else { list }
}

fn default(endpoints: &mut Value) {
    for subset in items_mut(endpoints, "subsets") {
        for port in items_mut(subset, "ports").filter(|port| port.is_object()) {
            set_default(port, "protocol", "TCP");
        }
    }
}

fn validate(endpoints: &Value, _: Option<&Value>, causes: &mut Causes) {
    for subset in At::root(endpoints).field("subsets").items() {
        let (ready, waiting) = (subset.field("addresses"), subset.field("notReadyAddresses"));
        if ready.is_empty() && waiting.is_empty() {
            causes.required(&subset.path, "must specify `addresses` or `notReadyAddresses`");
        }
        for address in ready.items().iter().chain(&waiting.items()) {
            validate_address(address, causes);
        }
        let ports = subset.field("ports").items();
        for port in &ports {
            let name = port.field("name");
            if ports.len() > 1 && name.is_empty() {
                causes.required(&name.path, "");
            }
            name.each(names::dns_label, causes);
            let number = port.field("port");
            let value = number.number().unwrap_or(0);
            for problem in names::port_number(value) {
                causes.invalid(&number.path, value, problem);
            }
            port.field("protocol").required_one_of(&["SCTP", "TCP", "UDP"], causes);
            port.field("appProtocol").each(names::qualified_name, causes);
        }
    }
}

fn validate_address(address: &At<'_>, causes: &mut Causes) {
    let ip = address.field("ip");
    causes.invalid_each(&ip.path, ip.text(), names::ip(ip.text()));
    if let Some(why) = ip.text().parse().ok().and_then(special_address) {
        ip.invalid(why, causes);
    }
    address.field("hostname").each(names::dns_label, causes);
    address.field("nodeName").each(names::dns_subdomain, causes);
}
