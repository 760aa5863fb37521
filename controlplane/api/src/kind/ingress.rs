//! Ingress and IngressClass.

use std::net::IpAddr;

use k8s_openapi::api::networking::v1::{Ingress, IngressClass};
use serde_json::{Value, json};

use super::cell::{AGE, NAME, NONE, column, text_or};
use super::row::{STATUS, row, rules};
use super::rule::{At, items, set_default, text};
use super::{Causes, Kind, Rules, names};

/// The class as it was named before it was a field.
const CLASS_ANNOTATION: &str = "kubernetes.io/ingress.class";
const MAX_CONTROLLER: usize = 250;

pub(super) fn ingress() -> Kind {
    let columns = vec![
        NAME,
        column(
            "Class",
            "The name of the IngressClass resource that should be used for additional configuration",
            |ingress, _| text_or(&ingress["spec"]["ingressClassName"], NONE),
        ),
        column("Hosts", "Hosts that incoming requests are matched against before the ingress rule", |ingress, _| {
            hosts(ingress).into()
        }),
        column("Address", "Address is a list containing ingress points for the load-balancer", |ingress, _| {
            addresses(ingress).into()
        }),
        column("Ports", "Ports of TLS configurations that open", |ingress, _| {
            if items(&ingress["spec"]["tls"]).is_empty() { "80" } else { "80, 443" }.into()
        }),
        AGE,
    ];
    let rules = Rules {
        validate: validate_ingress,
        initial_status: |_| Some(json!({"loadBalancer": {}})),
        ..rules::<Ingress>(names::dns_subdomain)
    };
    Kind {
        short_names: vec!["ing".into()],
        subresources: vec![STATUS],
        generation: true,
        ..row::<Ingress>("ingress", columns, rules)
    }
}

pub(super) fn ingress_class() -> Kind {
    let columns = vec![
        NAME,
        column("Controller", "Controller that is responsible for handling this class", |class, _| {
            text(&class["spec"]["controller"]).into()
        }),
        column("Parameters", "A reference to a resource with additional parameters", |class, _| {
            let parameters = &class["spec"]["parameters"];
            if parameters.is_null() {
                return NONE.into();
            }
            let group = parameters["apiGroup"].as_str().map_or(String::new(), |group| format!(".{group}"));
            format!("{}{group}/{}", text(&parameters["kind"]), text(&parameters["name"])).into()
        }),
        AGE,
    ];
    let rules =
        Rules { default: default_class, validate: validate_class, ..rules::<IngressClass>(names::dns_subdomain) };
    Kind { generation: true, ..row::<IngressClass>("ingressclass", columns, rules) }
}

fn hosts(ingress: &Value) -> String {
    const SHOWN: usize = 3;
    let rules = items(&ingress["spec"]["rules"]);
    let named: Vec<&str> = rules.iter().map(|rule| text(&rule["host"])).filter(|host| !host.is_empty()).collect();
    match named.as_slice() {
        [] => "*".into(),
        named if named.len() > SHOWN => format!("{} + {} more...", named[..SHOWN].join(","), rules.len() - SHOWN),
        named => named.join(","),
    }
}

fn addresses(ingress: &Value) -> String {
    let points = items(&ingress["status"]["loadBalancer"]["ingress"]).iter();
    let mut addresses: Vec<&str> = points
        .map(|point| if text(&point["ip"]).is_empty() { text(&point["hostname"]) } else { text(&point["ip"]) })
        .filter(|address| !address.is_empty())
        .collect();
    addresses.sort_unstable();
    addresses.dedup();
    addresses.join(",")
}

fn validate_ingress(ingress: &Value, old: Option<&Value>, causes: &mut Causes) {
    let annotation = &ingress["metadata"]["annotations"][CLASS_ANNOTATION];
    let spec = At::root(ingress).field("spec");
    let class = spec.field("ingressClassName");
    if old.is_none() && class.is_set() && !annotation.is_null() {
        let path = format!("metadata.annotations[{CLASS_ANNOTATION}]");
        causes.invalid(path, annotation.clone(), "can not be set when the class field is also set");
    }
    let (rules, backend) = (spec.field("rules"), spec.field("defaultBackend"));
    if rules.is_empty() && !backend.is_set() {
        causes.invalid(&spec.path, json!([]), "either `defaultBackend` or `rules` must be specified");
    }
    if backend.is_set() {
        validate_backend(&backend, causes);
    }
    for rule in rules.items() {
        let host = rule.field("host");
        if host.text().parse::<IpAddr>().is_ok() {
            host.invalid("must be a DNS name, not an IP address", causes);
        } else {
            host.each(names::host, causes);
        }
        if rule.field("http").is_set() {
            validate_paths(&rule.field("http").field("paths"), causes);
        }
    }
    for tls in spec.field("tls").items() {
        tls.field("hosts").items().iter().for_each(|host| host.each(names::host, causes));
        tls.field("secretName").each(names::dns_subdomain, causes);
    }
    class.each(names::dns_subdomain, causes);
}

fn validate_paths(paths: &At<'_>, causes: &mut Causes) {
    paths.required("", causes);
    for entry in paths.items() {
        let (path, type_) = (entry.field("path"), entry.field("pathType"));
        if !type_.is_set() {
            causes.required(&type_.path, "pathType must be specified");
        } else {
            match type_.text() {
                "Exact" | "Prefix" => validate_exact_path(&path, causes),
                "ImplementationSpecific" if !path.is_empty() && !path.text().starts_with('/') => {
                    path.invalid("must be an absolute path", causes);
                }
                "ImplementationSpecific" => {}
                other => {
                    let supported = ["Exact", "ImplementationSpecific", "Prefix"];
                    causes.unsupported(&type_.path, other, &supported);
                }
            }
        }
        validate_backend(&entry.field("backend"), causes);
    }
}

fn validate_exact_path(path: &At<'_>, causes: &mut Causes) {
    let text = path.text();
    if !text.starts_with('/') {
        causes.invalid(&path.path, text, "must be an absolute path");
    }
    for sequence in ["//", "/./", "/../", "%2f", "%2F"].into_iter().filter(|sequence| text.contains(sequence)) {
        path.invalid(format!("must not contain '{sequence}'"), causes);
    }
    for suffix in ["/..", "/."].into_iter().filter(|suffix| text.ends_with(suffix)) {
        path.invalid(format!("cannot end with '{suffix}'"), causes);
    }
}

fn validate_backend(backend: &At<'_>, causes: &mut Causes) {
    let (service, resource) = (backend.field("service"), backend.field("resource"));
    match (service.is_set(), resource.is_set()) {
        (true, true) => causes.invalid(&backend.path, "", "cannot set both resource and service backends"),
        (false, false) => causes.invalid(&backend.path, "", "resource or service backend is required"),
        (false, true) => {
            resource.field("kind").required("", causes);
            resource.field("name").required("", causes);
        }
        (true, false) => {
            service.field("name").required_each(names::dns_1035_label, causes);
            let port = service.field("port");
            let (name, number) = (port.field("name"), port.field("number"));
            match (!name.is_empty(), number.number().unwrap_or(0) != 0) {
                (true, true) => causes.invalid(&backend.path, "", "cannot set both port name & port number"),
                (true, false) => name.each(names::port_name, causes),
                (false, true) => number.port(causes),
                (false, false) => causes.required(&backend.path, "port name or number is required"),
            }
        }
    }
}

fn default_class(class: &mut Value) {
    if let Some(parameters) = class.pointer_mut("/spec/parameters") {
        set_default(parameters, "scope", "Cluster");
    }
}

fn validate_class(class: &Value, old: Option<&Value>, causes: &mut Causes) {
    let spec = At::root(class).field("spec");
    let controller = spec.field("controller");
    if controller.text().len() > MAX_CONTROLLER {
        causes.too_long(&controller.path, MAX_CONTROLLER);
    }
    causes.invalid_each(&controller.path, controller.text(), names::domain_path(controller.text()));
    let parameters = spec.field("parameters");
    if parameters.is_set() {
        parameters.field("kind").required_each(names::path_segment, causes);
        parameters.field("name").required_each(names::path_segment, causes);
        let (scope, namespace) = (parameters.field("scope"), parameters.field("namespace"));
        scope.required_one_of(&["Cluster", "Namespace"], causes);
        match scope.text() {
            "Namespace" if namespace.is_empty() => {
                causes.required(&namespace.path, "`parameters.scope` is set to 'Namespace'");
            }
            "Namespace" => namespace.each(names::dns_label, causes),
            "Cluster" if namespace.is_set() => {
                namespace.forbidden("`parameters.scope` is set to 'Cluster'", causes);
            }
            _ => {}
        }
    }
    if let Some(old) = old {
        controller.immutable(&old["spec"]["controller"], causes);
    }
}
