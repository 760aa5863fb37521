//! NetworkPolicy.

use ipnetwork::IpNetwork;
use k8s_openapi::api::networking::v1::NetworkPolicy;
use serde_json::{Value, json};

use super::cell::{AGE, NAME, column, selector};
use super::row::{row, rules};
use super::rule::{At, items, items_mut, set, set_default};
use super::workload::label_selector;
use super::{Causes, Kind, Rules, names};

/// Each accepted policy warns until something enforces them: silence would be taken for protection.
const NOT_ENFORCED: &str = "NetworkPolicy is not enforced";

pub(super) fn network_policy() -> Kind {
    let columns = vec![
        NAME,
        column("Pod-Selector", "The labels of the pods it is about.", |policy, _| {
            selector(&policy["spec"]["podSelector"]).into()
        }),
        AGE,
    ];
    let rules = Rules {
        default,
        validate,
        warnings: |_| vec![NOT_ENFORCED.into()],
        ..rules::<NetworkPolicy>(names::dns_subdomain)
    };
    Kind {
        short_names: vec!["netpol".into()],
        generation: true,
        ..row::<NetworkPolicy>("networkpolicy", columns, rules)
    }
}

fn default(policy: &mut Value) {
    let Some(spec) = policy.get_mut("spec").filter(|spec| spec.is_object()) else { return };
    for direction in ["ingress", "egress"] {
        for rule in items_mut(spec, direction) {
            for port in items_mut(rule, "ports").filter(|port| port.is_object()) {
                set_default(port, "protocol", "TCP");
            }
        }
    }
    let empty = spec["policyTypes"].as_array().map_or(spec["policyTypes"].is_null(), Vec::is_empty);
    if empty {
        let egress = !items(&spec["egress"]).is_empty();
        set(spec, "policyTypes", if egress { json!(["Ingress", "Egress"]) } else { json!(["Ingress"]) });
    }
}

fn validate(policy: &Value, _: Option<&Value>, causes: &mut Causes) {
    let spec = At::root(policy).field("spec");
    label_selector(&spec.field("podSelector"), causes);
    for (direction, peers) in [("ingress", "from"), ("egress", "to")] {
        for rule in spec.field(direction).items() {
            rule.field("ports").items().iter().for_each(|port| validate_port(port, causes));
            rule.field(peers).items().iter().for_each(|peer| validate_peer(peer, causes));
        }
    }
    let types = spec.field("policyTypes");
    if types.items().len() > 2 {
        return types.invalid("may not specify more than two policyTypes", causes);
    }
    for type_ in types.items() {
        if !matches!(type_.text(), "Ingress" | "Egress") {
            causes.unsupported(&types.path, type_.value.clone(), &["Ingress", "Egress"]);
        }
    }
}

fn validate_port(port: &At<'_>, causes: &mut Causes) {
    port.field("protocol").one_of(&["TCP", "UDP", "SCTP"], causes);
    let (first, last) = (port.field("port"), port.field("endPort"));
    match first.value {
        Value::Null if last.is_set() => last.invalid("may not be specified when `port` is not specified", causes),
        Value::Null => {}
        Value::String(name) => {
            if last.is_set() {
                last.invalid("may not be specified when `port` is non-numeric", causes);
            }
            causes.invalid_each(&first.path, name, names::port_name(name));
        }
        _ => {
            first.port(causes);
            if let (Some(from), Some(to)) = (first.number(), last.number())
                && to < from
            {
                causes.invalid(&last.path, from, "must be greater than or equal to `port`");
            }
            last.port(causes);
        }
    }
}

fn validate_peer(peer: &At<'_>, causes: &mut Causes) {
    let (pods, namespaces, block) = (peer.field("podSelector"), peer.field("namespaceSelector"), peer.field("ipBlock"));
    label_selector(&pods, causes);
    label_selector(&namespaces, causes);
    let selects = pods.is_set() || namespaces.is_set();
    if block.is_set() {
        validate_block(&block, causes);
    }
    if !selects && !block.is_set() {
        causes.required(&peer.path, "must specify a peer");
    } else if selects && block.is_set() {
        peer.forbidden("may not specify both ipBlock and another peer", causes);
    }
}

fn validate_block(block: &At<'_>, causes: &mut Causes) {
    let cidr = block.field("cidr");
    if !cidr.required("", causes) {
        return;
    }
    cidr.each(names::cidr, causes);
    let Ok(network) = cidr.text().parse::<IpNetwork>() else { return };
    for except in block.field("except").items() {
        causes.invalid_each(&except.path, except.text(), names::cidr(except.text()));
        if let Ok(part) = except.text().parse::<IpNetwork>()
            && !(contains(network, part) && part.prefix() > network.prefix())
        {
            except.invalid("must be a strict subset of `cidr`", causes);
        }
    }
}

fn contains(network: IpNetwork, part: IpNetwork) -> bool {
    network.is_ipv4() == part.is_ipv4() && network.contains(part.network())
}
