//! Probes, and the hooks of a container's life: both do one of a few things.

use serde_json::Value;

use super::super::rule::At;
use super::super::{Causes, names};

/// What a probe or hook may do.
const HANDLERS: [&str; 5] = ["exec", "httpGet", "tcpSocket", "grpc", "sleep"];

/// The probes and hooks of a container.
pub(super) fn validate(container: &At<'_>, causes: &mut Causes) {
    for name in ["livenessProbe", "readinessProbe", "startupProbe"] {
        let probe = container.field(name);
        if !probe.is_set() {
            continue;
        }
        validate_handler(&probe, "must specify a handler type", causes);
        for field in ["initialDelaySeconds", "timeoutSeconds", "periodSeconds", "successThreshold", "failureThreshold"]
        {
            probe.field(field).not_negative(causes);
        }
        let grace = probe.field("terminationGracePeriodSeconds");
        if grace.number().is_some_and(|seconds| seconds <= 0) {
            grace.invalid("must be greater than 0", causes);
        }
        let threshold = probe.field("successThreshold");
        if name != "readinessProbe" && threshold.number().is_some_and(|number| number > 1) {
            threshold.invalid("must be 1", causes);
        }
        if name == "readinessProbe" && grace.is_set() {
            grace.invalid("must not be set for readinessProbes", causes);
        }
    }
    for hook in ["postStart", "preStop"] {
        let hook = container.field("lifecycle").field(hook);
        if hook.is_set() {
            validate_handler(&hook, "must specify a handler type", causes);
        }
    }
}

/// Exactly one of what may be done, and that rightly.
fn validate_handler(handler: &At<'_>, none: &str, causes: &mut Causes) {
    let mut count = 0;
    for name in HANDLERS {
        let own = handler.field(name);
        if !own.is_set() {
            continue;
        }
        count += 1;
        if count > 1 {
            own.forbidden("may not specify more than 1 handler type", causes);
            continue;
        }
        match name {
            "exec" => {
                own.field("command").required("", causes);
            }
            "httpGet" => {
                own.field("path").required("", causes);
                validate_port(&own.field("port"), causes);
                own.field("scheme").one_of(&["HTTP", "HTTPS"], causes);
                for header in own.field("httpHeaders").items() {
                    let name = header.field("name");
                    causes.invalid_each(&name.path, name.text(), header_name(name.text()));
                }
            }
            "tcpSocket" => validate_port(&own.field("port"), causes),
            "grpc" => own.field("port").port(causes),
            _ => own.field("seconds").not_negative(causes),
        }
    }
    if count == 0 {
        causes.required(&handler.path, none);
    }
}

fn validate_port(port: &At<'_>, causes: &mut Causes) {
    match port.value {
        Value::String(name) => causes.invalid_each(&port.path, name, names::port_name(name)),
        value => {
            let number = value.as_i64().unwrap_or(0);
            for problem in names::port_number(number) {
                causes.invalid(&port.path, number, problem);
            }
        }
    }
}

fn header_name(name: &str) -> Vec<String> {
    let message = "a valid HTTP header must consist of alphanumeric characters or '-' (e.g. 'X-Header-Name', regex used \
                   for validation is '[-A-Za-z0-9]+')";
    let valid = !name.is_empty() && name.bytes().all(|c| c.is_ascii_alphanumeric() || c == b'-');
    if valid { Vec::new() } else { vec![message.into()] }
}
