//! PriorityClass and RuntimeClass: what pods name to be scheduled and run as others decided.

use k8s_openapi::api::node::v1::RuntimeClass;
use k8s_openapi::api::scheduling::v1::PriorityClass;
use serde_json::Value;

use super::cell::{AGE, NAME, column, count, number};
use super::row::{row, rules};
use super::rule::{At, set_default, text};
use super::{Causes, Column, Kind, Rules, names, pod_spec};
use crate::quantity::{self, Quantity};

/// The highest priority that is not the system's.
const MAX_USER_PRIORITY: i64 = 1_000_000_000;
const SYSTEM_PREFIX: &str = "system-";
/// The classes of the system and their priorities.
const SYSTEM_CLASSES: [(&str, i64); 2] =
    [("system-cluster-critical", 2_000_000_000), ("system-node-critical", 2_000_001_000)];

pub(super) fn priority_class() -> Kind {
    let columns = vec![
        NAME,
        number("Value", "The priority of its pods.", |class, _| count(&class["value"]).into()),
        Column {
            type_: "boolean",
            ..column("Global-Default", "Whether it is that of pods that name none.", |class, _| {
                (class["globalDefault"] == true).into()
            })
        },
        AGE,
        column("PreemptionPolicy", "Whether its pods make room for themselves.", |class, _| {
            text(&class["preemptionPolicy"]).into()
        }),
    ];
    let rules = Rules {
        default: |class| set_default(class, "preemptionPolicy", "PreemptLowerPriority"),
        validate: validate_priority,
        ..rules::<PriorityClass>(names::dns_subdomain)
    };
    Kind { short_names: vec!["pc".into()], generation: true, ..row::<PriorityClass>("priorityclass", columns, rules) }
}

pub(super) fn runtime_class() -> Kind {
    let columns = vec![
        NAME,
        column("Handler", "What of the runtime's configuration its pods run with.", |class, _| {
            text(&class["handler"]).into()
        }),
        AGE,
    ];
    let rules =
        Rules { default: default_runtime, validate: validate_runtime, ..rules::<RuntimeClass>(names::dns_subdomain) };
    row::<RuntimeClass>("runtimeclass", columns, rules)
}

fn validate_priority(class: &Value, old: Option<&Value>, causes: &mut Causes) {
    let root = At::root(class);
    let (name, value) = (text(&class["metadata"]["name"]), count(&class["value"]));
    if name.starts_with(SYSTEM_PREFIX) {
        if !SYSTEM_CLASSES.contains(&(name, value)) {
            let reason = match SYSTEM_CLASSES.iter().find(|(own, _)| *own == name) {
                Some((_, own)) => format!("value of {name} PriorityClass must be {own}"),
                None => format!("{name} is not a known system priority class"),
            };
            let why = format!(
                "priority class names with '{SYSTEM_PREFIX}' prefix are reserved for system use only. error: {reason}"
            );
            causes.forbidden("metadata.name", &why);
        }
    } else if value > MAX_USER_PRIORITY {
        let why = format!("maximum allowed value of a user defined priority is {MAX_USER_PRIORITY}");
        causes.forbidden("value", &why);
    }
    root.field("preemptionPolicy").one_of(&["Never", "PreemptLowerPriority"], causes);
    let Some(old) = old else { return };
    if value != count(&old["value"]) {
        causes.forbidden("value", "may not be changed in an update.");
    }
    root.field("preemptionPolicy").immutable(&old["preemptionPolicy"], causes);
}

fn default_runtime(class: &mut Value) {
    if let Some(fixed) = class.pointer_mut("/overhead/podFixed") {
        quantity::write_as_text(fixed);
    }
}

fn validate_runtime(class: &Value, old: Option<&Value>, causes: &mut Causes) {
    let root = At::root(class);
    let handler = root.field("handler");
    causes.invalid_each(&handler.path, handler.text(), names::dns_label(handler.text()));
    for (_, amount) in root.field("overhead").field("podFixed").entries() {
        match Quantity::parse(amount.text()) {
            Err(why) => amount.invalid(why, causes),
            Ok(parsed) if parsed.is_negative() => amount.invalid("must be greater than or equal to 0", causes),
            Ok(_) => {}
        }
    }
    let scheduling = root.field("scheduling");
    let selector = scheduling.field("nodeSelector");
    super::meta::labels(selector.value, &selector.path, causes);
    for toleration in scheduling.field("tolerations").items() {
        pod_spec::validate_toleration(toleration.value, &toleration.path, causes);
    }
    if let Some(old) = old {
        handler.immutable(&old["handler"], causes);
    }
}
