//! What a pod's specification says where its writer says nothing.

use serde_json::{Value, json};

use super::super::rule::{copy_field, items_mut, object_at, set, set_default, text};
use super::CONTAINER_LISTS;
use crate::quantity;

/// How long the token of a service account is valid in a volume, in seconds.
const TOKEN_SECONDS: i64 = 3600;

/// The defaults that templates get too.
pub(in crate::kind) fn default(spec: &mut Value) {
    if !spec.is_object() {
        return;
    }
    for list in CONTAINER_LISTS.into_iter().chain(["ephemeralContainers"]) {
        items_mut(spec, list).for_each(default_container);
    }
    items_mut(spec, "volumes").for_each(default_volume);
    set_default(spec, "restartPolicy", "Always");
    set_default(spec, "terminationGracePeriodSeconds", 30);
    set_default(spec, "dnsPolicy", "ClusterFirst");
    set_default(spec, "securityContext", json!({}));
    set_default(spec, "schedulerName", "default-scheduler");
    if let Some(overhead) = spec.get_mut("overhead") {
        quantity::write_as_text(overhead);
    }
    // The account has an older name too, which says the same.
    match (text(&spec["serviceAccountName"]).is_empty(), text(&spec["serviceAccount"]).is_empty()) {
        (false, true) => set(spec, "serviceAccount", spec["serviceAccountName"].clone()),
        (true, false) => set(spec, "serviceAccountName", spec["serviceAccount"].clone()),
        _ => {}
    }
}

/// The defaults that only pods themselves get.
pub(in crate::kind) fn default_of_pod(spec: &mut Value) {
    if !spec.is_object() {
        return;
    }
    if spec["enableServiceLinks"].is_null() {
        set(spec, "enableServiceLinks", true);
    }
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
        if let Some(probe) = container.get_mut(probe).filter(|probe| probe.is_object()) {
            default_probe(probe);
        }
    }
    for hook in ["postStart", "preStop"] {
        if let Some(get) = container.pointer_mut(&format!("/lifecycle/{hook}/httpGet")) {
            default_get(get);
        }
    }
    for variable in items_mut(container, "env") {
        if let Some(reference) = variable.pointer_mut("/valueFrom/fieldRef") {
            set_default(reference, "apiVersion", "v1");
        }
        if let Some(reference) = variable.pointer_mut("/valueFrom/resourceFieldRef").filter(|own| own.is_object()) {
            default_divisor(reference);
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
        default_get(get);
    }
    if let Some(grpc) = probe.get_mut("grpc").filter(|grpc| grpc.is_object())
        && grpc["service"].is_null()
    {
        set(grpc, "service", "");
    }
}

fn default_get(get: &mut Value) {
    set_default(get, "path", "/");
    set_default(get, "scheme", "HTTP");
}

fn default_divisor(reference: &mut Value) {
    match &reference["divisor"] {
        Value::Null => set(reference, "divisor", "0"),
        Value::Number(number) => set(reference, "divisor", number.to_string()),
        _ => {}
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
    if let Some(path) = volume.get_mut("hostPath").filter(|path| path.is_object())
        && path["type"].is_null()
    {
        set(path, "type", "");
    }
    if let Some(dir) = volume.get_mut("emptyDir")
        && dir["sizeLimit"].is_number()
    {
        let limit = dir["sizeLimit"].to_string();
        set(dir, "sizeLimit", limit);
    }
    if let Some(api) = volume.get_mut("downwardAPI") {
        items_mut(api, "items").for_each(default_file);
    }
    if let Some(projected) = volume.get_mut("projected") {
        for source in items_mut(projected, "sources") {
            if let Some(token) = source.get_mut("serviceAccountToken") {
                set_default(token, "expirationSeconds", TOKEN_SECONDS);
            }
            if let Some(api) = source.get_mut("downwardAPI") {
                items_mut(api, "items").for_each(default_file);
            }
        }
    }
    if let Some(claim) = volume.pointer_mut("/ephemeral/volumeClaimTemplate") {
        super::super::claim::default(claim);
    }
}

/// A file of the downward API.
fn default_file(file: &mut Value) {
    if let Some(reference) = file.get_mut("fieldRef") {
        set_default(reference, "apiVersion", "v1");
    }
    if let Some(reference) = file.get_mut("resourceFieldRef").filter(|own| own.is_object()) {
        default_divisor(reference);
    }
}

fn request_what_is_limited(container: &mut Value) {
    let Some(resources) = container.get_mut("resources") else { return };
    let limits = resources["limits"].clone();
    for (name, _) in limits.as_object().into_iter().flatten() {
        if let Some(requests) = object_at(resources, "requests")
            && requests[name.as_str()].is_null()
        {
            copy_field(&limits, requests, name);
        }
    }
}
