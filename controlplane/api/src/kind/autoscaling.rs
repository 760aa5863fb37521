//! HorizontalPodAutoscaler. It rests as autoscaling/v2; v1 is converted.

mod v1;

use k8s_openapi::api::autoscaling::v2::HorizontalPodAutoscaler;
use serde_json::{Value, json};

use super::cell::{AGE, NAME, NONE, column, count};
use super::row::{STATUS, row, rules};
use super::rule::{At, copy_field, items, items_mut, set, set_default, text};
use super::workload::label_selector;
use super::{Causes, Column, Kind, Rules, names};
use crate::quantity::Quantity;

pub(super) use v1::autoscaler as autoscaler_v1;

/// Share of the requested CPU that is aimed at, in percent, when nothing else is.
const DEFAULT_CPU_UTILIZATION: i64 = 80;
/// Longest look back before scaling, and longest period of a policy, in seconds.
const MAX_STABILIZATION: i64 = 3600;
const MAX_PERIOD: i64 = 1800;
const UNKNOWN: &str = "<unknown>";

pub(super) fn autoscaler() -> Kind {
    let rules = Rules {
        default,
        validate,
        initial_status: |_| Some(json!({"desiredReplicas": 0})),
        status_writes_labels: false,
        ..rules::<HorizontalPodAutoscaler>(names::dns_subdomain)
    };
    Kind {
        short_names: vec!["hpa".into()],
        categories: vec!["all".into()],
        subresources: vec![STATUS],
        ..row::<HorizontalPodAutoscaler>("horizontalpodautoscaler", columns(), rules)
    }
}

fn columns() -> Vec<Column> {
    vec![
        NAME,
        column("Reference", "What it scales.", |object, _| {
            let target = &object["spec"]["scaleTargetRef"];
            format!("{}/{}", text(&target["kind"]), text(&target["name"])).into()
        }),
        column("Targets", "What it measures, and aims at.", |object, _| targets(object).into()),
        column("MinPods", "Pods there are at least.", |object, _| match object["spec"]["minReplicas"].as_i64() {
            None => "<unset>".into(),
            Some(least) => least.to_string().into(),
        }),
        column("MaxPods", "Pods there are at most.", |object, _| count(&object["spec"]["maxReplicas"]).into()),
        column("Replicas", "Pods there are.", |object, _| count(&object["status"]["currentReplicas"]).into()),
        AGE,
    ]
}

/// The field of a metric that says what it is about.
fn source(type_: &str) -> Option<&'static str> {
    Some(match type_ {
        "ContainerResource" => "containerResource",
        "External" => "external",
        "Object" => "object",
        "Pods" => "pods",
        "Resource" => "resource",
        _ => return None,
    })
}

/// "cpu: 10%/80%, 3/5 + 1 more..."
fn targets(object: &Value) -> String {
    const SHOWN: usize = 2;
    let metrics = items(&object["spec"]["metrics"]);
    if metrics.is_empty() {
        return NONE.into();
    }
    let current = items(&object["status"]["currentMetrics"]);
    let shown = |(index, metric): (usize, &Value)| target(metric, current.get(index).unwrap_or(&Value::Null));
    let list: Vec<String> = metrics.iter().enumerate().map(shown).collect();
    let shown = list[..list.len().min(SHOWN)].join(", ");
    if list.len() > SHOWN { format!("{shown} + {} more...", list.len() - SHOWN) } else { shown }
}

fn target(metric: &Value, current: &Value) -> String {
    let type_ = text(&metric["type"]);
    let Some(source) = source(type_) else { return "<unknown type>".into() };
    let (wanted, has) = (&metric[source]["target"], &current[source]["current"]);
    let amount = |field: &str| (text_of(&has[field]), text_of(&wanted[field]));
    let (value, suffix) = if !wanted["averageValue"].is_null() {
        (amount("averageValue"), if matches!(type_, "External" | "Object") { " (avg)" } else { "" })
    } else if matches!(type_, "Resource" | "ContainerResource") {
        let percent = |value: &Value, none: &str| value.as_i64().map_or(none.to_owned(), |share| format!("{share}%"));
        let shares = (percent(&has["averageUtilization"], UNKNOWN), percent(&wanted["averageUtilization"], "<auto>"));
        (shares, "")
    } else {
        (amount("value"), "")
    };
    let shown = format!("{}/{}{suffix}", value.0, value.1);
    match type_ {
        "Resource" | "ContainerResource" => format!("{}: {shown}", text(&metric[source]["name"])),
        _ => shown,
    }
}

fn text_of(value: &Value) -> String {
    match value {
        Value::Null => UNKNOWN.into(),
        Value::String(text) => text.clone(),
        number => number.to_string(),
    }
}

fn default(object: &mut Value) {
    let Some(spec) = object.get_mut("spec").filter(|spec| spec.is_object()) else { return };
    set_default(spec, "minReplicas", 1);
    let none = spec["metrics"].as_array().map_or(spec["metrics"].is_null(), Vec::is_empty);
    if none {
        let target = json!({"type": "Utilization", "averageUtilization": DEFAULT_CPU_UTILIZATION});
        set(spec, "metrics", json!([{"type": "Resource", "resource": {"name": "cpu", "target": target}}]));
    }
    for metric in items_mut(spec, "metrics") {
        for source in ["resource", "pods", "object", "external", "containerResource"] {
            for field in ["averageValue", "value"] {
                if let Some(value) = metric.pointer_mut(&format!("/{source}/target/{field}"))
                    && value.is_number()
                {
                    *value = value.to_string().into();
                }
            }
        }
    }
    if spec["behavior"].is_object() {
        let behavior = &mut spec["behavior"];
        let up = json!({
            "stabilizationWindowSeconds": 0,
            "selectPolicy": "Max",
            "policies": [{"type": "Pods", "value": 4, "periodSeconds": 15},
                         {"type": "Percent", "value": 100, "periodSeconds": 15}],
        });
        let down = json!({"selectPolicy": "Max", "policies": [{"type": "Percent", "value": 100, "periodSeconds": 15}]});
        default_rules(behavior, "scaleUp", &up);
        default_rules(behavior, "scaleDown", &down);
    }
}

fn default_rules(behavior: &mut Value, field: &str, defaults: &Value) {
    if behavior[field].is_null() {
        return set(behavior, field, defaults.clone());
    }
    let own = &mut behavior[field];
    for (name, _) in defaults.as_object().into_iter().flatten() {
        if own.is_object() && own[name.as_str()].is_null() {
            copy_field(defaults, own, name);
        }
    }
}

fn validate(object: &Value, _: Option<&Value>, causes: &mut Causes) {
    let spec = At::root(object).field("spec");
    let (least, most) = (spec.field("minReplicas"), spec.field("maxReplicas"));
    least.at_least(1, causes);
    let number = most.number().unwrap_or(0);
    if number < 1 {
        causes.invalid(&most.path, number, "must be greater than 0");
    }
    if least.number().is_some_and(|least| number < least) {
        causes.invalid(&most.path, number, "must be greater than or equal to `minReplicas`");
    }
    let target = spec.field("scaleTargetRef");
    validate_reference(&target, causes);
    for metric in spec.field("metrics").items() {
        validate_metric(&metric, causes);
    }
    let behavior = spec.field("behavior");
    for direction in ["scaleUp", "scaleDown"] {
        if behavior.field(direction).is_set() {
            validate_rules(&behavior.field(direction), causes);
        }
    }
}

fn validate_reference(target: &At<'_>, causes: &mut Causes) {
    for field in ["kind", "name"] {
        target.field(field).required_each(names::path_segment, causes);
    }
}

fn validate_metric(metric: &At<'_>, causes: &mut Causes) {
    let type_ = metric.field("type");
    if !type_.required("must specify a metric source type", causes) {
        return;
    }
    let Some(own) = source(type_.text()) else {
        return type_.one_of(&["ContainerResource", "External", "Object", "Pods", "Resource"], causes);
    };
    for other in ["object", "pods", "resource", "containerResource", "external"] {
        let other = metric.field(other);
        if other.is_set() && !other.path.ends_with(&format!(".{own}")) {
            other.forbidden("must populate the given metric source only", causes);
        }
    }
    let source = metric.field(own);
    if !source.is_set() {
        return causes.required(&source.path, "must populate information for the given metric source");
    }
    let target = source.field("target");
    match own {
        "resource" | "containerResource" => {
            source.field("name").required("must specify a resource name", causes);
            if own == "containerResource" {
                source.field("container").required("must specify a container", causes);
            }
            validate_share(&target, causes);
        }
        _ => {
            let name = source.field("metric").field("name");
            if name.required("must specify a metric name", causes) {
                name.each(names::path_segment, causes);
            }
            label_selector(&source.field("metric").field("selector"), causes);
            if own == "object" {
                validate_reference(&source.field("describedObject"), causes);
            }
            validate_amount(&target, own, causes);
        }
    }
}

/// What is aimed at, as a type and an amount above nothing.
fn validate_target(target: &At<'_>, causes: &mut Causes) {
    target.field("type").required_one_of(&["AverageValue", "Utilization", "Value"], causes);
    for field in ["value", "averageValue"] {
        let amount = target.field(field);
        if amount.is_set() && Quantity::parse(amount.text()).is_ok_and(|amount| amount <= Quantity::ZERO) {
            amount.invalid("must be positive", causes);
        }
    }
    if target.field("averageUtilization").number().is_some_and(|share| share < 1) {
        target.field("averageUtilization").invalid("must be greater than 0", causes);
    }
}

fn validate_share(target: &At<'_>, causes: &mut Causes) {
    validate_target(target, causes);
    let (share, amount) = (target.field("averageUtilization"), target.field("averageValue"));
    match (share.is_set(), amount.is_set()) {
        (false, false) => {
            causes.required(&share.path, "must set either a target raw value or a target utilization");
        }
        (true, true) => amount.forbidden("may not set both a target raw value and a target utilization", causes),
        _ => {}
    }
}

fn validate_amount(target: &At<'_>, source: &str, causes: &mut Causes) {
    validate_target(target, causes);
    let (value, average) = (target.field("value"), target.field("averageValue"));
    match (source, value.is_set(), average.is_set()) {
        ("pods", _, false) => causes.required(&average.path, "must specify a positive target averageValue"),
        ("external", true, true) => {
            value.forbidden("may not set both a target value for metric and a per-pod target", causes);
        }
        ("external", false, false) => {
            causes.required(&average.path, "must set either a target value for metric or a per-pod target");
        }
        ("object", false, false) => {
            causes.required(&average.path, "must set either a target value or averageValue");
        }
        _ => {}
    }
}

fn validate_rules(rules: &At<'_>, causes: &mut Causes) {
    let window = rules.field("stabilizationWindowSeconds");
    window.not_negative(causes);
    if window.number().is_some_and(|seconds| seconds > MAX_STABILIZATION) {
        window.invalid(format!("must be less than or equal to {MAX_STABILIZATION}"), causes);
    }
    rules.field("selectPolicy").one_of(&["Disabled", "Max", "Min"], causes);
    let policies = rules.field("policies");
    if policies.is_empty() {
        causes.required(&policies.path, "must specify at least one Policy");
    }
    for policy in policies.items() {
        policy.field("type").one_of(&["Percent", "Pods"], causes);
        policy.field("value").positive(causes);
        let period = policy.field("periodSeconds");
        period.positive(causes);
        if period.number().is_some_and(|seconds| seconds > MAX_PERIOD) {
            period.invalid(format!("must be less than or equal to {MAX_PERIOD}"), causes);
        }
    }
}
