//! autoscaling/v1: the share of the CPU is a field, everything newer an annotation.

use k8s_openapi::api::autoscaling::v1::HorizontalPodAutoscaler;
use serde_json::{Map, Value, json};

use super::super::row::{STATUS, row, rules};
use super::super::rule::{items, object_at, set, set_default, text};
use super::super::{Conversion, Kind, Rules, names};
use super::{columns, source};

const METRICS: &str = "autoscaling.alpha.kubernetes.io/metrics";
const CURRENT_METRICS: &str = "autoscaling.alpha.kubernetes.io/current-metrics";
const CONDITIONS: &str = "autoscaling.alpha.kubernetes.io/conditions";
const BEHAVIOR: &str = "autoscaling.alpha.kubernetes.io/behavior";

pub(in crate::kind) fn autoscaler() -> Kind {
    let rules =
        Rules { default, status_writes_labels: false, ..rules::<HorizontalPodAutoscaler>(names::dns_subdomain) };
    Kind {
        short_names: vec!["hpa".into()],
        categories: vec!["all".into()],
        subresources: vec![STATUS],
        conversion: Some(Conversion {
            api_version: "autoscaling/v2",
            to_storage: upgrade,
            from_storage: downgrade,
            field: |path| path,
            validate: |_, _, _| {},
        }),
        ..row::<HorizontalPodAutoscaler>("horizontalpodautoscaler", columns(), rules)
    }
}

fn default(object: &mut Value) {
    if let Some(spec) = object.get_mut("spec").filter(|spec| spec.is_object()) {
        set_default(spec, "minReplicas", 1);
    }
}

/// v1 to v2.
fn upgrade(object: &mut Value) {
    let mut taken = [METRICS, CURRENT_METRICS, CONDITIONS, BEHAVIOR].map(|name| take_annotation(object, name));
    let mut metrics = Vec::new();
    if let Some(spec) = object.get_mut("spec").and_then(Value::as_object_mut) {
        if let Some(share) = spec.shift_remove("targetCPUUtilizationPercentage").filter(|share| !share.is_null()) {
            let target = json!({"type": "Utilization", "averageUtilization": share});
            metrics.push(json!({"type": "Resource", "resource": {"name": "cpu", "target": target}}));
        }
        metrics.extend(items(&taken[0]).iter().map(|metric| upgrade_metric(metric, "target")));
        if !metrics.is_empty() {
            spec.insert("metrics".into(), metrics.into());
        }
        if taken[3].is_object() {
            let behavior = std::mem::take(&mut taken[3]);
            spec.insert("behavior".into(), from_go(behavior));
        }
    }
    let Some(status) = object.get_mut("status").and_then(Value::as_object_mut) else { return };
    let mut current = Vec::new();
    if let Some(share) = status.shift_remove("currentCPUUtilizationPercentage").filter(|share| !share.is_null()) {
        current
            .push(json!({"type": "Resource", "resource": {"name": "cpu", "current": {"averageUtilization": share}}}));
    }
    current.extend(items(&taken[1]).iter().map(|metric| upgrade_metric(metric, "current")));
    if !current.is_empty() {
        status.insert("currentMetrics".into(), current.into());
    }
    if taken[2].is_array() {
        status.insert("conditions".into(), std::mem::take(&mut taken[2]));
    }
}

/// v2 to v1.
fn downgrade(object: &mut Value) {
    let mut annotations = Vec::new();
    if let Some(spec) = object.get_mut("spec").and_then(Value::as_object_mut) {
        let metrics = spec.shift_remove("metrics").unwrap_or_default();
        let (share, others) = split_cpu(&metrics, "target");
        if let Some(share) = share {
            spec.insert("targetCPUUtilizationPercentage".into(), share);
        }
        if !others.is_empty() {
            annotations.push((METRICS, Value::from(others)));
        }
        if let Some(behavior) = spec.shift_remove("behavior").filter(Value::is_object) {
            annotations.push((BEHAVIOR, to_go(behavior)));
        }
    }
    if let Some(status) = object.get_mut("status").and_then(Value::as_object_mut) {
        let current = status.shift_remove("currentMetrics").unwrap_or_default();
        let (share, _) = split_cpu(&current, "current");
        if let Some(share) = share {
            status.insert("currentCPUUtilizationPercentage".into(), share);
        }
        let all: Vec<Value> = items(&current).iter().map(|metric| downgrade_metric(metric, "current")).collect();
        if !all.is_empty() {
            annotations.push((CURRENT_METRICS, all.into()));
        }
        let conditions = status.shift_remove("conditions").filter(|list| !items(list).is_empty());
        annotations.extend(conditions.map(|conditions| (CONDITIONS, conditions)));
        if let Some(Value::Object(status)) = object.get_mut("status") {
            status.entry("currentReplicas").or_insert_with(|| 0.into());
        }
    }
    if annotations.is_empty() {
        return;
    }
    if let Some(metadata) = object_at(object, "metadata")
        && let Some(own) = object_at(metadata, "annotations")
    {
        annotations.into_iter().for_each(|(name, value)| set(own, name, value.to_string()));
    }
}

/// The JSON in an annotation, which goes; null when there is none, or it is no JSON.
fn take_annotation(object: &mut Value, name: &str) -> Value {
    let Some(metadata) = object.get_mut("metadata").and_then(Value::as_object_mut) else { return Value::Null };
    let Some(annotations) = metadata.get_mut("annotations").and_then(Value::as_object_mut) else { return Value::Null };
    let Some(text) = annotations.get(name).and_then(Value::as_str) else { return Value::Null };
    let Ok(value) = serde_json::from_str(text) else { return Value::Null };
    annotations.shift_remove(name);
    if annotations.is_empty() {
        metadata.shift_remove("annotations");
    }
    value
}

/// The first share of the CPU of all pods, and what is left as v1 has it.
fn split_cpu(metrics: &Value, amount: &str) -> (Option<Value>, Vec<Value>) {
    let mut share = None;
    let mut others = Vec::new();
    for metric in items(metrics) {
        let own = &metric["resource"][amount]["averageUtilization"];
        if share.is_none() && metric["type"] == "Resource" && metric["resource"]["name"] == "cpu" && own.is_number() {
            share = Some(own.clone());
        } else {
            others.push(downgrade_metric(metric, amount));
        }
    }
    (share, others)
}

/// The names of the amounts in v1: of `target` and of `current`.
fn amount_name(source: &str, amount: &str, field: &str) -> String {
    if (source, field) == ("object", "averageValue") {
        return field.to_owned();
    }
    let mut name = field.to_owned();
    if let Some(first) = name.get(..1).map(str::to_ascii_uppercase) {
        name.replace_range(..1, &first);
    }
    format!("{amount}{name}")
}

const AMOUNTS: [&str; 3] = ["averageUtilization", "averageValue", "value"];

fn downgrade_metric(metric: &Value, amount: &str) -> Value {
    let mut metric = metric.clone();
    let Some(name) = source(text(&metric["type"])) else { return metric };
    let Some(own) = metric.get_mut(name).and_then(Value::as_object_mut) else { return metric };
    let amounts = own.shift_remove(amount).unwrap_or_default();
    for field in AMOUNTS.into_iter().filter(|field| !amounts[*field].is_null()) {
        own.insert(amount_name(name, amount, field), amounts[field].clone());
    }
    if let Some(identity) = own.shift_remove("metric") {
        let selector = if name == "external" { "metricSelector" } else { "selector" };
        move_into(&identity, "name", own, "metricName");
        move_into(&identity, "selector", own, selector);
    }
    if let Some(object) = own.shift_remove("describedObject") {
        own.insert("target".into(), object);
    }
    metric
}

fn upgrade_metric(metric: &Value, amount: &str) -> Value {
    let mut metric = metric.clone();
    let Some(name) = source(text(&metric["type"])) else { return metric };
    let Some(own) = metric.get_mut(name).and_then(Value::as_object_mut) else { return metric };
    if let Some(object) = own.shift_remove("target") {
        own.insert("describedObject".into(), object);
    }
    let mut identity = Map::new();
    let selector = if name == "external" { "metricSelector" } else { "selector" };
    for (from, to) in [("metricName", "name"), (selector, "selector")] {
        if let Some(value) = own.shift_remove(from) {
            identity.insert(to.into(), value);
        }
    }
    if !identity.is_empty() {
        own.insert("metric".into(), identity.into());
    }
    let mut amounts = Map::new();
    for field in AMOUNTS {
        if let Some(value) = own.shift_remove(&amount_name(name, amount, field)) {
            amounts.insert(field.into(), value);
        }
    }
    if amount == "target" {
        let type_ = match (amounts.contains_key("averageUtilization"), amounts.contains_key("averageValue")) {
            (true, _) => "Utilization",
            (false, true) => "AverageValue",
            (false, false) => "Value",
        };
        amounts.insert("type".into(), type_.into());
    }
    own.insert(amount.into(), amounts.into());
    metric
}

fn move_into(from: &Value, field: &str, to: &mut Map<String, Value>, name: &str) {
    if !from[field].is_null() {
        to.insert(name.into(), from[field].clone());
    }
}

/// The annotation holds the server's own form of the behavior, whose fields begin with capitals.
fn to_go(behavior: Value) -> Value {
    with_first_letters(behavior, str::to_ascii_uppercase)
}

fn from_go(behavior: Value) -> Value {
    with_first_letters(behavior, str::to_ascii_lowercase)
}

fn with_first_letters(value: Value, change: fn(&str) -> String) -> Value {
    match value {
        Value::Object(fields) => fields
            .into_iter()
            .map(|(mut name, value)| {
                if let Some(first) = name.get(..1).map(change) {
                    name.replace_range(..1, &first);
                }
                (name, with_first_letters(value, change))
            })
            .collect::<Map<String, Value>>()
            .into(),
        Value::Array(list) => list.into_iter().map(|value| with_first_letters(value, change)).collect(),
        value => value,
    }
}
