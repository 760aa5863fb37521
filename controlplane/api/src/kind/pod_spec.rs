//! Defaults and rules of a pod's specification, in pods and in the templates of their owners.

use std::collections::HashSet;

use serde_json::{Value, json};

use super::rule::{items, items_mut, object_at, set, set_default, text};
use super::{Causes, names};
use crate::quantity::{self, Quantity};

/// The lists of containers of a pod.
pub(super) const CONTAINER_LISTS: [&str; 2] = ["initContainers", "containers"];

/// The defaults that templates get too.
pub(super) fn default(spec: &mut Value) {
    if !spec.is_object() {
        return;
    }
    for list in CONTAINER_LISTS {
        items_mut(spec, list).for_each(default_container);
    }
    items_mut(spec, "volumes").for_each(default_volume);
    set_default(spec, "restartPolicy", "Always");
    set_default(spec, "terminationGracePeriodSeconds", 30);
    set_default(spec, "dnsPolicy", "ClusterFirst");
    set_default(spec, "securityContext", json!({}));
    set_default(spec, "schedulerName", "default-scheduler");
}

/// The defaults that only pods themselves get.
pub(super) fn default_of_pod(spec: &mut Value) {
    if !spec.is_object() {
        return;
    }
    set_default(spec, "enableServiceLinks", true);
    let host_network = spec["hostNetwork"] == true;
    for list in CONTAINER_LISTS {
        for container in items_mut(spec, list) {
            for port in items_mut(container, "ports") {
                if host_network && port["hostPort"].as_i64().unwrap_or(0) == 0 {
                    let number = port["containerPort"].clone();
                    set(port, "hostPort", number);
                }
            }
            request_what_is_limited(container);
        }
    }
}

fn default_container(container: &mut Value) {
    if !container.is_object() {
        return;
    }
    for port in items_mut(container, "ports") {
        set_default(port, "protocol", "TCP");
    }
    if let Some(resources) = object_at(container, "resources") {
        for field in ["limits", "requests"] {
            if let Some(list) = resources.get_mut(field) {
                quantity::write_as_text(list);
            }
        }
    }
    set_default(container, "terminationMessagePath", "/dev/termination-log");
    set_default(container, "terminationMessagePolicy", "File");
    set_default(container, "imagePullPolicy", pull_policy(text(&container["image"])));
    for probe in ["livenessProbe", "readinessProbe", "startupProbe"] {
        if let Some(probe) = container.get_mut(probe) {
            default_probe(probe);
        }
    }
    for variable in items_mut(container, "env") {
        if let Some(reference) = variable.pointer_mut("/valueFrom/fieldRef") {
            set_default(reference, "apiVersion", "v1");
        }
    }
}

/// What is not tagged, or tagged "latest", may change and is always pulled.
fn pull_policy(image: &str) -> &'static str {
    let name = image.rsplit('/').next().unwrap_or_default();
    if name.contains('@') {
        return "IfNotPresent";
    }
    match name.split_once(':') {
        None | Some((_, "latest")) => "Always",
        Some(_) => "IfNotPresent",
    }
}

fn default_probe(probe: &mut Value) {
    for (field, value) in
        [("timeoutSeconds", 1), ("periodSeconds", 10), ("successThreshold", 1), ("failureThreshold", 3)]
    {
        if probe[field].as_i64().unwrap_or(0) == 0 {
            set(probe, field, value);
        }
    }
    if let Some(get) = probe.get_mut("httpGet") {
        set_default(get, "path", "/");
        set_default(get, "scheme", "HTTP");
    }
}

fn default_volume(volume: &mut Value) {
    if volume.as_object().is_some_and(|fields| fields.len() == 1 && fields.contains_key("name")) {
        set(volume, "emptyDir", json!({}));
    }
    for source in ["configMap", "secret", "downwardAPI", "projected"] {
        if let Some(source) = volume.get_mut(source) {
            set_default(source, "defaultMode", 0o644);
        }
    }
    if let Some(path) = volume.get_mut("hostPath")
        && path["type"].is_null()
    {
        set(path, "type", "");
    }
}

fn request_what_is_limited(container: &mut Value) {
    let Some(resources) = container.get_mut("resources") else { return };
    let Some(limits) = resources["limits"].as_object().cloned() else { return };
    if let Some(requests) = object_at(resources, "requests") {
        for (name, limit) in limits {
            set_default(requests, &name, limit);
        }
    }
}

/// Everything that is wrong with a pod specification at `path`.
pub(super) fn validate(spec: &Value, path: &str, causes: &mut Causes) {
    let volumes = validate_volumes(items(&spec["volumes"]), path, causes);
    if items(&spec["containers"]).is_empty() {
        causes.required(format!("{path}.containers"), "");
    }
    let mut seen = HashSet::new();
    for list in CONTAINER_LISTS {
        for (index, container) in items(&spec[list]).iter().enumerate() {
            let field = format!("{path}.{list}[{index}]");
            let name = text(&container["name"]);
            if !name.is_empty() && !seen.insert(name) {
                causes.duplicate(format!("{field}.name"), name);
            }
            validate_container(container, &volumes, &field, causes);
        }
    }
    one_of(&spec["restartPolicy"], &format!("{path}.restartPolicy"), &["Always", "Never", "OnFailure"], causes);
    let policies = ["ClusterFirst", "ClusterFirstWithHostNet", "Default", "None"];
    one_of(&spec["dnsPolicy"], &format!("{path}.dnsPolicy"), &policies, causes);
    if let Some(seconds) = spec["terminationGracePeriodSeconds"].as_i64()
        && seconds < 0
    {
        let field = format!("{path}.terminationGracePeriodSeconds");
        causes.invalid(field, seconds, "must be greater than or equal to 0");
    }
    let node = text(&spec["nodeName"]);
    if !node.is_empty() {
        causes.invalid_each(format!("{path}.nodeName"), node, names::dns_subdomain(node));
    }
    super::meta::labels(&spec["nodeSelector"], &format!("{path}.nodeSelector"), causes);
    for (index, toleration) in items(&spec["tolerations"]).iter().enumerate() {
        validate_toleration(toleration, &format!("{path}.tolerations[{index}]"), causes);
    }
}

fn validate_volumes<'a>(volumes: &'a [Value], path: &str, causes: &mut Causes) -> HashSet<&'a str> {
    let mut seen = HashSet::new();
    for (index, volume) in volumes.iter().enumerate() {
        let field = format!("{path}.volumes[{index}].name");
        let name = text(&volume["name"]);
        if name.is_empty() {
            causes.required(&field, "");
        } else {
            causes.invalid_each(&field, name, names::dns_label(name));
        }
        if !seen.insert(name) {
            causes.duplicate(field, name);
        }
    }
    seen
}

fn validate_container(container: &Value, volumes: &HashSet<&str>, field: &str, causes: &mut Causes) {
    let name = text(&container["name"]);
    if name.is_empty() {
        causes.required(format!("{field}.name"), "");
    } else {
        causes.invalid_each(format!("{field}.name"), name, names::dns_label(name));
    }
    let image = text(&container["image"]);
    if image.is_empty() {
        causes.required(format!("{field}.image"), "");
    } else if image.trim() != image {
        causes.invalid(format!("{field}.image"), image, "must not have leading or trailing whitespace");
    }
    let policies = ["Always", "IfNotPresent", "Never"];
    one_of(&container["imagePullPolicy"], &format!("{field}.imagePullPolicy"), &policies, causes);
    validate_ports(items(&container["ports"]), field, causes);
    for (index, variable) in items(&container["env"]).iter().enumerate() {
        if text(&variable["name"]).is_empty() {
            causes.required(format!("{field}.env[{index}].name"), "");
        }
        if !text(&variable["value"]).is_empty() && variable["valueFrom"].is_object() {
            let why = "may not be specified when `value` is not empty";
            causes.invalid(format!("{field}.env[{index}].valueFrom"), "", why);
        }
    }
    let mut mounted = HashSet::new();
    for (index, mount) in items(&container["volumeMounts"]).iter().enumerate() {
        let (name, mount_path) = (text(&mount["name"]), text(&mount["mountPath"]));
        let field = format!("{field}.volumeMounts[{index}]");
        if name.is_empty() {
            causes.required(format!("{field}.name"), "");
        } else if !volumes.contains(name) {
            causes.add("FieldValueNotFound", format!("{field}.name"), format!("Not found: \"{name}\""));
        }
        if mount_path.is_empty() {
            causes.required(format!("{field}.mountPath"), "");
        } else if !mounted.insert(mount_path) {
            causes.invalid(format!("{field}.mountPath"), mount_path, "must be unique");
        }
    }
    validate_resources(&container["resources"], &format!("{field}.resources"), causes);
}

fn validate_ports(ports: &[Value], field: &str, causes: &mut Causes) {
    let mut seen = HashSet::new();
    for (index, port) in ports.iter().enumerate() {
        let field = format!("{field}.ports[{index}]");
        let name = text(&port["name"]);
        if !name.is_empty() {
            causes.invalid_each(format!("{field}.name"), name, names::port_name(name));
            if !seen.insert(name) {
                causes.duplicate(format!("{field}.name"), name);
            }
        }
        match port["containerPort"].as_i64() {
            None | Some(0) => causes.required(format!("{field}.containerPort"), ""),
            Some(number) => port_number(number, format!("{field}.containerPort"), causes),
        }
        if let Some(number) = port["hostPort"].as_i64().filter(|number| *number != 0) {
            port_number(number, format!("{field}.hostPort"), causes);
        }
        super::service::protocol(&port["protocol"], &format!("{field}.protocol"), causes);
    }
}

fn port_number(number: i64, field: String, causes: &mut Causes) {
    for problem in names::port_number(number) {
        causes.invalid(field.clone(), number, problem);
    }
}

fn validate_resources(resources: &Value, field: &str, causes: &mut Causes) {
    for list in ["limits", "requests"] {
        for (name, value) in resources[list].as_object().into_iter().flatten() {
            let field = format!("{field}.{list}.{name}");
            match Quantity::parse(text(value)) {
                Err(why) => causes.invalid(field, value.clone(), why),
                Ok(amount) if amount.is_negative() => {
                    causes.invalid(field, value.clone(), "must be greater than or equal to 0");
                }
                Ok(_) => {}
            }
        }
    }
    for (name, request) in resources["requests"].as_object().into_iter().flatten() {
        let limit = &resources["limits"][name];
        if let (Ok(requested), Ok(limited)) = (Quantity::parse(text(request)), Quantity::parse(text(limit)))
            && requested > limited
        {
            let why = format!("must be less than or equal to {name} limit of {}", text(limit));
            causes.invalid(format!("{field}.requests"), request.clone(), why);
        }
    }
}

fn validate_toleration(toleration: &Value, field: &str, causes: &mut Causes) {
    let key = text(&toleration["key"]);
    if !key.is_empty() {
        causes.invalid_each(format!("{field}.key"), key, names::qualified_name(key));
    }
    let operator = text(&toleration["operator"]);
    if key.is_empty() && operator != "Exists" {
        let why = "operator must be Exists when `key` is empty, which means \"match all values and all keys\"";
        causes.invalid(format!("{field}.operator"), operator, why);
    }
    if !matches!(operator, "" | "Equal" | "Exists") {
        causes.unsupported(format!("{field}.operator"), operator, &["Equal", "Exists"]);
    }
    let effects = ["NoSchedule", "PreferNoSchedule", "NoExecute"];
    one_of(&toleration["effect"], &format!("{field}.effect"), &effects, causes);
}

/// The text is one of these, or not there.
fn one_of(value: &Value, field: &str, supported: &[&str], causes: &mut Causes) {
    let value = text(value);
    if !value.is_empty() && !supported.contains(&value) {
        causes.unsupported(field, value, supported);
    }
}
