//! Service.

use std::collections::HashSet;
use std::net::IpAddr;

use k8s_openapi::api::core::v1::Service;
use serde_json::{Value, json};

use super::cell::{AGE, NAME, NONE, column, labels, text_or, wide};
use super::row::{STATUS, row, rules};
use super::rule::{copy_field, copy_part, items, items_mut, object_at, set, set_default, text};
use super::{Causes, Kind, Rules, SelectableField, names};

/// How long a client stays with its backend, in seconds, when it asks for that without a time.
const DEFAULT_AFFINITY_SECONDS: i64 = 10_800;
/// Longest such time, in seconds.
const MAX_AFFINITY_SECONDS: i64 = 86_400;
/// The ClusterIP of a Service that has none and wants none.
pub const HEADLESS: &str = "None";
const NO_ADDRESS: &str = "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)";

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
    if spec["sessionAffinity"] == "None"
        && let Some(fields) = spec.as_object_mut()
    {
        fields.shift_remove("sessionAffinityConfig");
    }
    if spec["sessionAffinity"] == "ClientIP" && spec["sessionAffinityConfig"]["clientIP"]["timeoutSeconds"].is_null() {
        set(spec, "sessionAffinityConfig", json!({"clientIP": {"timeoutSeconds": DEFAULT_AFFINITY_SECONDS}}));
    }
    if spec["type"] != "ExternalName" {
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
        for field in ["ipFamilies", "ipFamilyPolicy"] {
            if !spec[field].is_null() {
                causes.forbidden(format!("spec.{field}"), "may not be set when `type` is 'ExternalName'");
            }
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
    let old = old.map(|old| &old["spec"]).filter(|old| old["type"] != "ExternalName");
    if spec["type"] != "ExternalName" {
        let parsed = validate_cluster_ips(spec, old, causes);
        validate_families(spec, &parsed, causes);
        if let Some(old) = old {
            validate_change(spec, old, causes);
        }
    }
    for (index, address) in items(&spec["externalIPs"]).iter().enumerate() {
        if text(address).parse::<IpAddr>().is_err() {
            causes.invalid(format!("spec.externalIPs[{index}]"), address.clone(), NO_ADDRESS);
        }
    }
}

/// The addresses that are such, in their places.
fn validate_cluster_ips(spec: &Value, old: Option<&Value>, causes: &mut Causes) -> Vec<Option<IpAddr>> {
    let (field, addresses) = ("spec.clusterIPs", items(&spec["clusterIPs"]));
    if let Some(first) = addresses.first() {
        if *first != spec["clusterIP"] {
            causes.invalid(field, spec["clusterIPs"].clone(), "first value must match `clusterIP`");
        }
        if *first == HEADLESS {
            if addresses.len() > 1 {
                causes.invalid(field, spec["clusterIPs"].clone(), "'None' must be the first and only value");
            }
            return Vec::new();
        }
    }
    if addresses.len() > 2 {
        causes.invalid(field, spec["clusterIPs"].clone(), "may only hold up to 2 values");
    }
    let known = |address: &Value| old.is_some_and(|old| items(&old["clusterIPs"]).contains(address));
    let parse = |(index, address): (usize, &Value)| {
        let field = format!("spec.clusterIPs[{index}]");
        match text(address).parse::<IpAddr>() {
            Err(_) => causes.invalid(field, address.clone(), NO_ADDRESS),
            Ok(IpAddr::V6(mapped)) if mapped.to_ipv4_mapped().is_some() => {
                causes.invalid(field, address.clone(), "must not be an IPv4-mapped IPv6 address");
            }
            Ok(parsed) if parsed.to_string() != text(address) && !known(address) => {
                causes.invalid(field, address.clone(), format!("must be in canonical form (\"{parsed}\")"));
            }
            Ok(parsed) => return Some(parsed),
        }
        None
    };
    let parsed: Vec<Option<IpAddr>> = addresses.iter().enumerate().map(parse).collect();
    if let [Some(first), Some(second)] = parsed.as_slice()
        && first.is_ipv4() == second.is_ipv4()
    {
        let why = "may specify no more than one IP for each IP family";
        causes.invalid(field, spec["clusterIPs"].clone(), why);
    }
    parsed
}

fn validate_families(spec: &Value, addresses: &[Option<IpAddr>], causes: &mut Causes) {
    let policy = text(&spec["ipFamilyPolicy"]);
    if !matches!(policy, "" | "SingleStack" | "PreferDualStack" | "RequireDualStack") {
        let policies = ["PreferDualStack", "RequireDualStack", "SingleStack"];
        causes.unsupported("spec.ipFamilyPolicy", policy, &policies);
    }
    let mut seen = HashSet::new();
    for (index, family) in items(&spec["ipFamilies"]).iter().map(text).enumerate() {
        let field = format!("spec.ipFamilies[{index}]");
        if !matches!(family, "IPv4" | "IPv6") {
            causes.unsupported(field, family, &["IPv4", "IPv6"]);
        } else if !seen.insert(family) {
            causes.duplicate(field, family);
        }
        if let Some(Some(address)) = addresses.get(index)
            && address.is_ipv4() != (family == "IPv4")
        {
            let why = format!("expected an {family} value as indicated by `ipFamilies[{index}]`");
            causes.invalid(format!("spec.clusterIPs[{index}]"), address.to_string(), why);
        }
    }
}

/// Addresses and families stay, but for the second ones, which the policy SingleStack releases.
fn validate_change(spec: &Value, old: &Value, causes: &mut Causes) {
    for (field, what) in [("clusterIPs", "clusterIP"), ("ipFamilies", "ipFamily")] {
        let (new, had) = (items(&spec[field]), items(&old[field]));
        if had.is_empty() {
            continue;
        }
        if new.is_empty() {
            causes.invalid(format!("spec.{field}[0]"), spec[field].clone(), format!("primary {what} can not be unset"));
        }
        for (index, _) in new.iter().zip(had).enumerate().filter(|(_, (new, had))| new != had) {
            causes.invalid(format!("spec.{field}[{index}]"), spec[field].clone(), "may not change once set");
        }
        if new.len() == 1 && had.len() == 2 && spec["ipFamilyPolicy"] != "SingleStack" {
            let why = format!("must be set to 'SingleStack' when releasing the secondary {what}");
            causes.invalid("spec.ipFamilyPolicy", spec["ipFamilyPolicy"].clone(), why);
        }
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
