//! Containers.

use std::collections::HashSet;

use serde_json::Value;

use super::super::rule::{At, text};
use super::super::{Causes, names};
use super::{CONTAINER_LISTS, probe};
use crate::quantity::Quantity;

/// Where a variable's value may come from.
const SOURCES: [&str; 5] = ["fieldRef", "resourceFieldRef", "configMapKeyRef", "secretKeyRef", "fileKeyRef"];
/// Fields of a pod that a variable may hold.
const FIELDS: [&str; 9] = [
    "metadata.name",
    "metadata.namespace",
    "metadata.uid",
    "spec.nodeName",
    "spec.serviceAccountName",
    "status.hostIP",
    "status.hostIPs",
    "status.podIP",
    "status.podIPs",
];

pub(super) fn validate(
    container: &At<'_>,
    list: &str,
    volumes: &HashSet<&str>,
    host_network: bool,
    causes: &mut Causes,
) {
    container.field("name").required_each(names::dns_label, causes);
    let image = container.field("image");
    if image.required("", causes) && image.text().trim() != image.text() {
        image.invalid("must not have leading or trailing whitespace", causes);
    }
    let policy = container.field("imagePullPolicy");
    policy.one_of(&["Always", "IfNotPresent", "Never"], causes);
    container.field("terminationMessagePolicy").one_of(&["FallbackToLogsOnError", "File"], causes);
    validate_ports(&container.field("ports"), host_network, causes);
    validate_environment(container, causes);
    validate_mounts(container, volumes, causes);
    validate_resources(&container.field("resources"), causes);
    validate_security(&container.field("securityContext"), causes);
    let restart = container.field("restartPolicy");
    match (list, restart.text()) {
        (_, "") | ("initContainers", "Always") => {}
        ("initContainers", other) => causes.unsupported(&restart.path, other, &["Always", "Never", "OnFailure"]),
        _ => restart.one_of(&["Always", "Never", "OnFailure"], causes),
    }
    // An init container that goes on is one like the others.
    if list == "initContainers" && restart.text() != "Always" {
        for field in ["lifecycle", "livenessProbe", "readinessProbe", "startupProbe"] {
            if container.field(field).is_set() {
                let why = "may not be set for init containers without restartPolicy=Always";
                container.field(field).forbidden(why, causes);
            }
        }
    } else if list != "ephemeralContainers" {
        probe::validate(container, causes);
    }
}

fn validate_ports(ports: &At<'_>, host_network: bool, causes: &mut Causes) {
    let mut seen = HashSet::new();
    for port in ports.items() {
        let name = port.field("name");
        if !name.is_empty() {
            name.each(names::port_name, causes);
            name.unique(&mut seen, causes);
        }
        let number = port.field("containerPort");
        match number.number() {
            None | Some(0) => causes.required(&number.path, ""),
            Some(_) => number.port(causes),
        }
        let host = port.field("hostPort");
        if host.number().is_some_and(|number| number != 0) {
            host.port(causes);
            if host_network && host.number() != number.number() {
                let why = "must match `containerPort` when `hostNetwork` is true";
                causes.invalid(&number.path, number.value.clone(), why);
            }
        }
        let protocol = port.field("protocol");
        protocol.required_one_of(&["SCTP", "TCP", "UDP"], causes);
    }
}

/// Two containers of a pod cannot have the same port of the node.
pub(super) fn validate_host_ports(spec: &At<'_>, causes: &mut Causes) {
    let mut seen = HashSet::new();
    for container in CONTAINER_LISTS.iter().flat_map(|list| spec.field(list).items()) {
        for port in container.field("ports").items() {
            let host = port.field("hostPort");
            let Some(number) = host.number().filter(|number| *number != 0) else { continue };
            let protocol = text(&port.value["protocol"]);
            if !seen.insert((number, protocol, text(&port.value["hostIP"]))) {
                causes.duplicate(&host.path, format!("{number}//{protocol}"));
            }
        }
    }
}

fn validate_environment(container: &At<'_>, causes: &mut Causes) {
    for variable in container.field("env").items() {
        variable.field("name").required_each(names::variable, causes);
        let source = variable.field("valueFrom");
        if source.is_set() {
            validate_source(&source, &variable.field("value"), causes);
        }
    }
    for source in container.field("envFrom").items() {
        source.field("prefix").each(names::variable, causes);
        let (config, secret) = (source.field("configMapRef"), source.field("secretRef"));
        match (config.is_set(), secret.is_set()) {
            (false, false) => {
                causes.invalid(&source.path, "", "must specify one of: `configMapRef` or `secretRef`");
            }
            (true, true) => {
                causes.invalid(&source.path, "", "may not have more than one field specified at a time");
            }
            (true, false) => config.field("name").required_each(names::dns_subdomain, causes),
            (false, true) => secret.field("name").required_each(names::dns_subdomain, causes),
        }
    }
}

fn validate_source(source: &At<'_>, value: &At<'_>, causes: &mut Causes) {
    let own: Vec<At<'_>> = SOURCES.iter().map(|field| source.field(field)).filter(At::is_set).collect();
    for reference in &own {
        match reference.path.rsplit('.').next() {
            Some("fieldRef") => validate_field(reference, causes),
            Some("resourceFieldRef") => {
                reference.field("resource").required("", causes);
            }
            Some("configMapKeyRef" | "secretKeyRef") => {
                reference.field("name").each(names::dns_subdomain, causes);
                reference.field("key").required_each(names::config_key, causes);
            }
            _ => {}
        }
    }
    if own.is_empty() {
        let why = "must specify one of: `fieldRef`, `resourceFieldRef`, `configMapKeyRef`, `secretKeyRef` or \
                   `fileKeyRef`";
        causes.invalid(&source.path, "", why);
    } else if !value.is_empty() {
        causes.invalid(&source.path, "", "may not be specified when `value` is not empty");
    } else if own.len() > 1 {
        causes.invalid(&source.path, "", "may not have more than one field specified at a time");
    }
}

fn validate_field(reference: &At<'_>, causes: &mut Causes) {
    reference.field("apiVersion").required("", causes);
    let path = reference.field("fieldPath");
    if !path.required("", causes) {
        return;
    }
    let subscript = |map: &str| {
        let key = path.text().strip_prefix(map)?.strip_prefix("['")?.strip_suffix("']")?;
        Some(key.to_owned())
    };
    if let Some(key) = ["metadata.labels", "metadata.annotations"].into_iter().find_map(subscript) {
        causes.invalid_each(&path.path, &key, names::qualified_name(&key.to_ascii_lowercase()));
    } else if !FIELDS.contains(&path.text()) {
        causes.unsupported(&path.path, path.text(), &FIELDS);
    }
}

fn validate_mounts(container: &At<'_>, volumes: &HashSet<&str>, causes: &mut Causes) {
    let mut mounted = HashSet::new();
    for mount in container.field("volumeMounts").items() {
        let (name, path) = (mount.field("name"), mount.field("mountPath"));
        if name.required("", causes) && !volumes.contains(name.text()) {
            causes.not_found(&name.path, name.text());
        }
        if path.required("", causes) && !mounted.insert(path.text()) {
            path.invalid("must be unique", causes);
        }
        for field in ["subPath", "subPathExpr"] {
            relative(&mount.field(field), causes);
        }
        if !mount.field("subPath").is_empty() && !mount.field("subPathExpr").is_empty() {
            let expression = mount.field("subPathExpr");
            expression.invalid("subPathExpr and subPath are mutually exclusive", causes);
        }
        mount.field("mountPropagation").one_of(&["Bidirectional", "HostToContainer", "None"], causes);
    }
    let mut devices = HashSet::new();
    for device in container.field("volumeDevices").items() {
        let (name, path) = (device.field("name"), device.field("devicePath"));
        if name.required("", causes) && !volumes.contains(name.text()) {
            causes.not_found(&name.path, name.text());
        }
        if path.required("", causes) && !devices.insert(path.text()) {
            path.invalid("must be unique", causes);
        }
        if mounted.contains(path.text()) {
            path.invalid("must not already exist as a path in volumeMounts", causes);
        }
    }
}

/// A path below where it starts.
pub(super) fn relative(path: &At<'_>, causes: &mut Causes) {
    if path.text().starts_with('/') {
        path.invalid("must be a relative path", causes);
    }
    if path.text().split('/').any(|part| part == "..") {
        path.invalid("must not contain '..'", causes);
    }
}

fn validate_resources(resources: &At<'_>, causes: &mut Causes) {
    let (limits, requests) = (resources.field("limits"), resources.field("requests"));
    validate_amounts(&limits, causes);
    validate_amounts(&requests, causes);
    for (name, request) in requests.entries() {
        let limit = &limits.value[name];
        let (Ok(requested), Ok(limited)) = (Quantity::parse(request.text()), Quantity::parse(text(limit))) else {
            continue;
        };
        let whole = name.contains('/') || name.starts_with("hugepages-");
        if whole && requested != limited {
            let why = format!("must be equal to {name} limit of {}", text(limit));
            causes.invalid(&requests.path, request.value.clone(), why);
        } else if requested > limited {
            let why = format!("must be less than or equal to {name} limit of {}", text(limit));
            causes.invalid(&requests.path, request.value.clone(), why);
        }
    }
}

/// Resources by name, none of them less than nothing.
pub(super) fn validate_amounts(list: &At<'_>, causes: &mut Causes) {
    for (name, amount) in list.entries() {
        causes.invalid_each(&list.path, name, names::qualified_name(name));
        match Quantity::parse(amount.text()) {
            Err(why) => causes.invalid(&amount.path, amount.value.clone(), why),
            Ok(parsed) if parsed.is_negative() => {
                causes.invalid(&amount.path, amount.value.clone(), "must be greater than or equal to 0");
            }
            Ok(_) => {}
        }
        if !matches!(name, "cpu" | "memory" | "ephemeral-storage" | "storage" | "pods")
            && !name.contains('/')
            && !name.starts_with("hugepages-")
        {
            causes.invalid(&amount.path, name, "must be a standard resource for containers");
        }
    }
}

fn validate_security(context: &At<'_>, causes: &mut Causes) {
    for field in ["runAsUser", "runAsGroup"] {
        context.field(field).within(0, i32::MAX.into(), causes);
    }
    context.field("procMount").one_of(&["Default", "Unmasked"], causes);
    let escalation = context.field("allowPrivilegeEscalation");
    if *escalation.value == Value::Bool(false) {
        if context.value["privileged"] == true {
            let why = "cannot set `allowPrivilegeEscalation` to false and `privileged` to true";
            causes.invalid(&context.path, context.value.clone(), why);
        }
        let adds = context.field("capabilities").field("add");
        if adds.items().iter().any(|capability| capability.text() == "CAP_SYS_ADMIN") {
            let why = "cannot set `allowPrivilegeEscalation` to false and `capabilities.Add` CAP_SYS_ADMIN";
            causes.invalid(&context.path, context.value.clone(), why);
        }
    }
    validate_seccomp(&context.field("seccompProfile"), causes);
}

/// Which system calls a process may make.
pub(super) fn validate_seccomp(profile: &At<'_>, causes: &mut Causes) {
    if !profile.is_set() {
        return;
    }
    let (type_, path) = (profile.field("type"), profile.field("localhostProfile"));
    type_.required_one_of(&["Localhost", "RuntimeDefault", "Unconfined"], causes);
    match type_.text() {
        "Localhost" if path.is_empty() => {
            causes.required(&path.path, "must be set when seccomp type is Localhost");
        }
        "Localhost" => relative(&path, causes),
        _ if path.is_set() => path.invalid("can only be set when seccomp type is Localhost", causes),
        _ => {}
    }
}
