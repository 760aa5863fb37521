//! Node.

use k8s_openapi::api::core::v1::Node;
use serde_json::Value;

use super::cell::{AGE, NAME, NONE, column, text_or, wide};
use super::row::{STATUS, row, rules};
use super::rule::{items, set_default, text};
use super::{Causes, Kind, Rules, SelectableField, names};
use crate::quantity::{self, Quantity};

const ROLE_PREFIX: &str = "node-role.kubernetes.io/";

pub(super) fn node() -> Kind {
    let columns = vec![
        NAME,
        column("Status", "The status of the node", |node, _| status(node).into()),
        column("Roles", "The roles of the node", |node, _| roles(node).into()),
        AGE,
        column("Version", "Kubelet Version reported by the node.", |node, _| {
            text(&node["status"]["nodeInfo"]["kubeletVersion"]).into()
        }),
        wide("Internal-IP", "The address of the node inside the cluster.", |node, _| address(node, "InternalIP")),
        wide("External-IP", "The address of the node from outside.", |node, _| address(node, "ExternalIP")),
        wide("OS-Image", "OS Image reported by the node from /etc/os-release.", |node, _| info(node, "osImage")),
        wide("Kernel-Version", "Kernel Version reported by the node from 'uname -r'.", |node, _| {
            info(node, "kernelVersion")
        }),
        wide("Container-Runtime", "Runtime and version reported by the node.", |node, _| {
            info(node, "containerRuntimeVersion")
        }),
    ];
    let rules = Rules { default, validate, ..rules::<Node>(names::dns_subdomain) };
    Kind {
        short_names: vec!["no".into()],
        subresources: vec![STATUS],
        fields: vec![SelectableField {
            path: "spec.unschedulable",
            value: |node| (node["spec"]["unschedulable"] == true).to_string(),
        }],
        ..row::<Node>("node", columns, rules)
    }
}

fn default(node: &mut Value) {
    let Some(status) = node.get_mut("status") else { return };
    for field in ["capacity", "allocatable"] {
        if let Some(list) = status.get_mut(field) {
            quantity::write_as_text(list);
        }
    }
    if status["capacity"].is_object() {
        let capacity = status["capacity"].clone();
        set_default(status, "allocatable", capacity);
    }
}

fn validate(node: &Value, old: Option<&Value>, causes: &mut Causes) {
    for (index, taint) in items(&node["spec"]["taints"]).iter().enumerate() {
        let field = format!("spec.taints[{index}]");
        causes.invalid_each(format!("{field}.key"), text(&taint["key"]), names::qualified_name(text(&taint["key"])));
        causes.invalid_each(format!("{field}.value"), text(&taint["value"]), names::label_value(text(&taint["value"])));
        match text(&taint["effect"]) {
            "NoSchedule" | "PreferNoSchedule" | "NoExecute" => {}
            "" => causes.required(format!("{field}.effect"), ""),
            other => {
                causes.unsupported(format!("{field}.effect"), other, &["NoSchedule", "PreferNoSchedule", "NoExecute"])
            }
        }
    }
    let cidrs = items(&node["spec"]["podCIDRs"]);
    for (index, cidr) in cidrs.iter().enumerate() {
        if text(cidr).parse::<ipnetwork::IpNetwork>().is_err() || !text(cidr).contains('/') {
            let why = "must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)";
            causes.invalid(format!("spec.podCIDRs[{index}]"), cidr.clone(), why);
        }
    }
    if let (Some(first), Some(single)) = (cidrs.first(), node["spec"]["podCIDR"].as_str())
        && text(first) != single
    {
        causes.invalid("spec.podCIDRs[0]", first.clone(), "must equal spec.podCIDR");
    }
    for field in ["capacity", "allocatable"] {
        for (name, value) in node["status"][field].as_object().into_iter().flatten() {
            if let Err(why) = Quantity::parse(text(value)) {
                causes.invalid(format!("status.{field}.{name}"), value.clone(), why);
            }
        }
    }
    if let Some(old) = old {
        let (new, old) = (&node["spec"]["podCIDRs"], &old["spec"]["podCIDRs"]);
        if !items(old).is_empty() && new != old {
            causes.forbidden("spec.podCIDRs", "node updates may not change podCIDR except from \"\" to valid");
        }
    }
}

fn status(node: &Value) -> String {
    let ready = items(&node["status"]["conditions"]).iter().find(|condition| condition["type"] == "Ready");
    let mut status = match ready {
        Some(condition) if condition["status"] == "True" => "Ready",
        Some(_) => "NotReady",
        None => "Unknown",
    }
    .to_owned();
    if node["spec"]["unschedulable"] == true {
        status.push_str(",SchedulingDisabled");
    }
    status
}

fn roles(node: &Value) -> String {
    let labels = node["metadata"]["labels"].as_object().into_iter().flatten();
    let role = |(key, value): (&String, &Value)| match key.strip_prefix(ROLE_PREFIX) {
        Some("") => None,
        Some(role) => Some(role.to_owned()),
        None if key == "kubernetes.io/role" => Some(text(value).to_owned()),
        None => None,
    };
    let mut roles: Vec<String> = labels.filter_map(role).collect();
    roles.sort();
    roles.dedup();
    if roles.is_empty() { NONE.into() } else { roles.join(",") }
}

fn address(node: &Value, type_: &str) -> Value {
    let found = items(&node["status"]["addresses"]).iter().find(|address| address["type"] == type_);
    text_or(found.map_or(&Value::Null, |address| &address["address"]), NONE)
}

fn info(node: &Value, field: &str) -> Value {
    text_or(&node["status"]["nodeInfo"][field], "<unknown>")
}
