//! Service.

use std::collections::HashSet;
use std::net::IpAddr;

use k8s_openapi::api::core::v1::Service;
use serde_json::{Value, json};

use super::cell::{AGE, NAME, NONE, column, labels, text_or, wide};
use super::rule::{copy_field, copy_part, items, items_mut, object_at, set, set_default, text};
use super::{Causes, Kind, Rules, STATUS, SelectableField, names, row, rules};

/// How long a client stays with its backend, in seconds, when it asks for that without a time.
const DEFAULT_AFFINITY_SECONDS: i64 = 10_800;
/// Longest such time, in seconds.
const MAX_AFFINITY_SECONDS: i64 = 86_400;
/// The ClusterIP of a Service that has none and wants none.
pub const HEADLESS: &str = "None";

pub(super) fn service() -> Kind {
    let columns = vec![
        NAME,
        column("Type", "How the Service is exposed.", |service, _| service["spec"]["type"].clone()),
        column("Cluster-IP", "The address of the Service inside the cluster.", |service, _| {
            text_or(&service["spec"]["clusterIP"], NONE)
        }),
        column("External-IP", "The addresses of the Service outside the cluster.", |service, _| {
            external_addresses(service).into()
        }),
        column("Port(s)", "The ports of the Service.", |service, _| ports(service).into()),
        AGE,
        wide("Selector", "The labels of its pods.", |service, _| labels(&service["spec"]["selector"]).into()),
    ];
    let rules = Rules {
        default,
        validate,
        carry_over,
        initial_status: |_| Some(json!({"loadBalancer": {}})),
        ..rules::<Service>(names::dns_1035_label)
    };
    Kind {
        short_names: vec!["svc".into()],
        categories: vec!["all".into()],
        subresources: vec![STATUS],
        fields: vec![
            SelectableField { path: "spec.clusterIP", value: |service| text(&service["spec"]["clusterIP"]).to_owned() },
            SelectableField { path: "spec.type", value: |service| text(&service["spec"]["type"]).to_owned() },
        ],
        ..row::<Service>("service", columns, rules)
    }
}

/// Whether a Service is to have an address of its own.
fn needs_cluster_ip(service: &Value) -> bool {
    let spec = &service["spec"];
    spec["type"] != "ExternalName" && spec["clusterIP"] != HEADLESS
}

/// A protocol of a port.
pub(super) fn protocol(value: &Value, field: &str, causes: &mut Causes) {
    match text(value) {
        "TCP" | "UDP" | "SCTP" => {}
        "" => causes.required(field, ""),
        other => causes.unsupported(field, other, &["SCTP", "TCP", "UDP"]),
    }
}

fn default(service: &mut Value) {
    let Some(spec) = object_at(service, "spec") else { return };
    for port in items_mut(spec, "ports") {
        set_default(port, "protocol", "TCP");
        if matches!(&port["targetPort"], Value::Null) || port["targetPort"] == 0 || port["targetPort"] == "" {
            let number = port["port"].clone();
            set(port, "targetPort", number);
        }
    }
    match text(&spec["clusterIP"]).to_owned() {
        address if address.is_empty() => {
            if let Some(first) = items(&spec["clusterIPs"]).first().cloned() {
                set(spec, "clusterIP", first);
            }
        }
        address if items(&spec["clusterIPs"]).is_empty() => set(spec, "clusterIPs", json!([address])),
        _ => {}
    }
    set_default(spec, "type", "ClusterIP");
    set_default(spec, "sessionAffinity", "None");
    if spec["sessionAffinity"] == "ClientIP" && spec["sessionAffinityConfig"]["clientIP"]["timeoutSeconds"].is_null() {
        set(spec, "sessionAffinityConfig", json!({"clientIP": {"timeoutSeconds": DEFAULT_AFFINITY_SECONDS}}));
    }
    if spec["type"] != "ExternalName" {
        let family = if text(&spec["clusterIP"]).contains(':') { "IPv6" } else { "IPv4" };
        set_default(spec, "ipFamilies", json!([family]));
        set_default(spec, "ipFamilyPolicy", "SingleStack");
        set_default(spec, "internalTrafficPolicy", "Cluster");
    }
    if matches!(text(&spec["type"]), "NodePort" | "LoadBalancer") {
        set_default(spec, "externalTrafficPolicy", "Cluster");
    }
    if spec["type"] == "LoadBalancer" {
        set_default(spec, "allocateLoadBalancerNodePorts", true);
    }
}

/// Writers leave out what was allocated for them: it stays.
fn carry_over(new: &mut Value, old: &Value) {
    if !needs_cluster_ip(new) || !needs_cluster_ip(old) {
        return;
    }
    if text(&new["spec"]["clusterIP"]).is_empty() {
        for field in ["clusterIP", "clusterIPs"] {
            copy_part(old, new, "spec", field);
        }
    }
    if text(&new["spec"]["type"]) == "ClusterIP" {
        return;
    }
    let olds = items(&old["spec"]["ports"]);
    let Some(spec) = new.get_mut("spec") else { return };
    for port in items_mut(spec, "ports") {
        let same = |old: &&Value| old["port"] == port["port"] && old["protocol"] == port["protocol"];
        if port["nodePort"].is_null()
            && let Some(old) = olds.iter().find(same)
        {
            copy_field(old, port, "nodePort");
        }
    }
}

fn validate(service: &Value, old: Option<&Value>, causes: &mut Causes) {
    let spec = &service["spec"];
    let type_ = text(&spec["type"]);
    if !matches!(type_, "ClusterIP" | "NodePort" | "LoadBalancer" | "ExternalName") {
        causes.unsupported("spec.type", type_, &["ClusterIP", "ExternalName", "LoadBalancer", "NodePort"]);
    }
    if type_ == "ExternalName" {
        let name = text(&spec["externalName"]);
        if name.is_empty() {
            causes.required("spec.externalName", "");
        } else {
            causes.invalid_each("spec.externalName", name, names::dns_subdomain(name.trim_end_matches('.')));
        }
        if !matches!(text(&spec["clusterIP"]), "" | HEADLESS) {
            causes.forbidden("spec.clusterIPs", "may not be set when `type` is 'ExternalName'");
        }
    } else if items(&spec["ports"]).is_empty() && spec["clusterIP"] != HEADLESS {
        causes.required("spec.ports", "");
    }
    validate_ports(items(&spec["ports"]), type_, causes);
    super::meta::labels(&spec["selector"], "spec.selector", causes);
    validate_affinity(spec, causes);
    for field in ["internalTrafficPolicy", "externalTrafficPolicy"] {
        let policy = text(&spec[field]);
        if !matches!(policy, "" | "Cluster" | "Local") {
            causes.unsupported(format!("spec.{field}"), policy, &["Cluster", "Local"]);
        }
    }
    validate_addresses(spec, old, causes);
}

fn validate_ports(ports: &[Value], type_: &str, causes: &mut Causes) {
    let (mut seen_names, mut seen_ports) = (HashSet::new(), HashSet::new());
    for (index, port) in ports.iter().enumerate() {
        let field = format!("spec.ports[{index}]");
        let name = text(&port["name"]);
        if name.is_empty() {
            if ports.len() > 1 {
                causes.required(format!("{field}.name"), "");
            }
        } else {
            causes.invalid_each(format!("{field}.name"), name, names::dns_label(name));
            if !seen_names.insert(name) {
                causes.duplicate(format!("{field}.name"), name);
            }
        }
        let number = port["port"].as_i64().unwrap_or(0);
        for problem in names::port_number(number) {
            causes.invalid(format!("{field}.port"), number, problem);
        }
        protocol(&port["protocol"], &format!("{field}.protocol"), causes);
        match &port["targetPort"] {
            Value::String(name) => {
                causes.invalid_each(format!("{field}.targetPort"), name, names::port_name(name));
            }
            target => {
                for problem in names::port_number(target.as_i64().unwrap_or(0)) {
                    causes.invalid(format!("{field}.targetPort"), target.clone(), problem);
                }
            }
        }
        if port["nodePort"].as_i64().unwrap_or(0) != 0 && !matches!(type_, "NodePort" | "LoadBalancer") {
            let why = format!("may not be used when `type` is '{type_}'");
            causes.forbidden(format!("{field}.nodePort"), &why);
        }
        if !seen_ports.insert((text(&port["protocol"]), number)) {
            let key = json!({"Name": "", "Protocol": port["protocol"], "AppProtocol": null, "Port": number,
                             "TargetPort": 0, "NodePort": 0});
            causes.duplicate(field, key);
        }
    }
}

fn validate_affinity(spec: &Value, causes: &mut Causes) {
    match text(&spec["sessionAffinity"]) {
        "None" => {}
        "ClientIP" => {
            let seconds = spec["sessionAffinityConfig"]["clientIP"]["timeoutSeconds"].as_i64().unwrap_or(0);
            if !(1..=MAX_AFFINITY_SECONDS).contains(&seconds) {
                let why = format!("must be greater than 0 and less than {MAX_AFFINITY_SECONDS}");
                causes.invalid("spec.sessionAffinityConfig.clientIP.timeoutSeconds", seconds, why);
            }
        }
        "" => causes.required("spec.sessionAffinity", ""),
        other => causes.unsupported("spec.sessionAffinity", other, &["ClientIP", "None"]),
    }
}

fn validate_addresses(spec: &Value, old: Option<&Value>, causes: &mut Causes) {
    let addresses = items(&spec["clusterIPs"]);
    for (index, address) in addresses.iter().enumerate() {
        let field = format!("spec.clusterIPs[{index}]");
        match text(address) {
            HEADLESS if addresses.len() == 1 => {}
            HEADLESS => causes.invalid(field, address.clone(), "must be a valid IP address, not 'None'"),
            other if other.parse::<IpAddr>().is_err() => {
                causes.invalid(field, address.clone(), "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)");
            }
            _ => {}
        }
    }
    if let Some(first) = addresses.first()
        && *first != spec["clusterIP"]
    {
        causes.invalid("spec.clusterIPs", spec["clusterIPs"].clone(), "first value must match `clusterIP`");
    }
    for (index, address) in items(&spec["externalIPs"]).iter().enumerate() {
        if text(address).parse::<IpAddr>().is_err() {
            let why = "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)";
            causes.invalid(format!("spec.externalIPs[{index}]"), address.clone(), why);
        }
    }
    if let Some(old) = old.map(|old| &old["spec"])
        && old["type"] != "ExternalName"
        && spec["type"] != "ExternalName"
        && !text(&old["clusterIP"]).is_empty()
        && old["clusterIP"] != spec["clusterIP"]
    {
        causes.invalid("spec.clusterIPs[0]", spec["clusterIPs"].clone(), "may not change once set");
    }
}

fn external_addresses(service: &Value) -> String {
    let spec = &service["spec"];
    let own: Vec<&str> = items(&spec["externalIPs"]).iter().map(text).collect();
    match text(&spec["type"]) {
        "ExternalName" => text(&spec["externalName"]).to_owned(),
        "LoadBalancer" => {
            let ingress = items(&service["status"]["loadBalancer"]["ingress"]).iter();
            let given = ingress.map(|ingress| match text(&ingress["ip"]) {
                "" => text(&ingress["hostname"]),
                address => address,
            });
            let all: Vec<&str> = given.chain(own).filter(|address| !address.is_empty()).collect();
            if all.is_empty() { "<pending>".into() } else { all.join(",") }
        }
        _ if own.is_empty() => NONE.into(),
        _ => own.join(","),
    }
}

fn ports(service: &Value) -> String {
    let port = |port: &Value| {
        let (number, protocol) = (port["port"].as_i64().unwrap_or(0), text(&port["protocol"]));
        match port["nodePort"].as_i64().unwrap_or(0) {
            0 => format!("{number}/{protocol}"),
            node => format!("{number}:{node}/{protocol}"),
        }
    };
    let ports: Vec<String> = items(&service["spec"]["ports"]).iter().map(port).collect();
    if ports.is_empty() { NONE.into() } else { ports.join(",") }
}
