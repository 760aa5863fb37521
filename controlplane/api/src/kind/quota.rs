//! LimitRange and ResourceQuota.

use std::collections::HashSet;

use k8s_openapi::api::core::v1::{LimitRange, ResourceQuota};
use serde_json::{Value, json};

use super::cell::{AGE, CREATED_AT, NAME, column};
use super::row::{STATUS, row, rules};
use super::rule::{At, items_mut, object_at, set_default, text};
use super::{Causes, Kind, Rules, names};
use crate::quantity::{self, Quantity};

/// What a quota may be about.
const SCOPES: [&str; 7] = [
    "BestEffort",
    "CrossNamespacePodAffinity",
    "NotBestEffort",
    "NotTerminating",
    "PriorityClass",
    "Terminating",
    "VolumeAttributesClass",
];
/// What is counted in whole numbers.
const COUNTED: [&str; 9] = [
    "pods",
    "services",
    "replicationcontrollers",
    "resourcequotas",
    "secrets",
    "configmaps",
    "persistentvolumeclaims",
    "services.nodeports",
    "services.loadbalancers",
];

pub(super) fn limit_range() -> Kind {
    let rules =
        Rules { default: default_limits, validate: validate_limits, ..rules::<LimitRange>(names::dns_subdomain) };
    Kind { short_names: vec!["limits".into()], ..row::<LimitRange>("limitrange", vec![NAME, CREATED_AT], rules) }
}

pub(super) fn resource_quota() -> Kind {
    let columns = vec![
        NAME,
        column(
            "Request",
            "Request represents a minimum amount of cpu/memory that a container may consume.",
            |quota, _| used(quota, false).into(),
        ),
        column(
            "Limit",
            "Limits control the maximum amount of cpu/memory that a container may use independent of contention on the \
             node.",
            |quota, _| used(quota, true).into(),
        ),
        AGE,
    ];
    let rules = Rules {
        default: default_quota,
        validate: validate_quota,
        initial_status: |_| Some(json!({})),
        ..rules::<ResourceQuota>(names::dns_subdomain)
    };
    Kind {
        short_names: vec!["quota".into()],
        subresources: vec![STATUS],
        ..row::<ResourceQuota>("resourcequota", columns, rules)
    }
}

/// "pods: 1/10, requests.cpu: 500m/2"
fn used(quota: &Value, limits: bool) -> String {
    let status = &quota["status"];
    let mut hard: Vec<(&String, &Value)> = status["hard"].as_object().into_iter().flatten().collect();
    hard.retain(|(name, _)| name.starts_with("limits.") == limits);
    hard.sort_by_key(|(name, _)| name.as_str());
    let shown = hard.iter().map(|(name, hard)| {
        let used = text(&status["used"][name.as_str()]);
        format!("{name}: {}/{}", if used.is_empty() { "0" } else { used }, text(hard))
    });
    shown.collect::<Vec<_>>().join(", ")
}

fn default_limits(range: &mut Value) {
    let Some(spec) = range.get_mut("spec") else { return };
    for item in items_mut(spec, "limits").filter(|item| item.is_object()) {
        for list in ["max", "min", "default", "defaultRequest", "maxLimitRequestRatio"] {
            if let Some(list) = item.get_mut(list) {
                quantity::write_as_text(list);
            }
        }
        if item["type"] != "Container" {
            continue;
        }
        for (from, to) in [("max", "default"), ("default", "defaultRequest"), ("min", "defaultRequest")] {
            let Some(amounts) = item[from].as_object().cloned() else { continue };
            let Some(list) = object_at(item, to) else { continue };
            for (name, amount) in amounts {
                set_default(list, &name, amount);
            }
        }
    }
}

fn validate_limits(range: &Value, _: Option<&Value>, causes: &mut Causes) {
    let mut seen = HashSet::new();
    for item in At::root(range).field("spec").field("limits").items() {
        let type_ = item.field("type");
        causes.invalid_each(&type_.path, type_.text(), names::qualified_name(type_.text()));
        type_.unique(&mut seen, causes);
        for list in ["max", "min", "default", "defaultRequest", "maxLimitRequestRatio"] {
            item.field(list).entries().iter().for_each(|(name, amount)| resource(name, amount, causes));
        }
        if type_.text() == "Pod" {
            for list in ["default", "defaultRequest"] {
                if !item.field(list).is_empty() {
                    item.field(list).forbidden("may not be specified when `type` is 'Pod'", causes);
                }
            }
        }
        validate_order(&item, causes);
    }
}

/// Each amount that an item says is to be at most another: their lists, and how messages name them.
fn validate_order(item: &At<'_>, causes: &mut Causes) {
    let amount = |list: &str, name: &str| {
        let at = item.field(list).key(name);
        Quantity::parse(at.text()).ok().map(|amount| (at.text().to_owned(), amount))
    };
    let ordered = [
        ("min", "max", "min", "min value", "max value"),
        ("min", "defaultRequest", "defaultRequest", "min value", "default request value"),
        ("defaultRequest", "max", "defaultRequest", "default request value", "max value"),
        ("defaultRequest", "default", "defaultRequest", "default request value", "default limit value"),
        ("min", "default", "default", "min value", "default value"),
        ("default", "max", "default", "default value", "max value"),
    ];
    let lists = ["max", "min", "default", "defaultRequest"];
    let mut all: Vec<&str> = lists.iter().flat_map(|list| item.field(list).entries()).map(|(name, _)| name).collect();
    all.sort_unstable();
    all.dedup();
    for name in all {
        for (less, more, place, less_name, more_name) in ordered {
            if let (Some((less_text, less)), Some((more_text, more))) = (amount(less, name), amount(more, name))
                && less > more
            {
                let why = format!("{less_name} {less_text} is greater than {more_name} {more_text}");
                item.field(place).key(name).invalid(why, causes);
            }
        }
        let ratio = item.field("maxLimitRequestRatio").key(name);
        if Quantity::parse(ratio.text()).is_ok_and(|ratio| ratio < Quantity::from_units(1)) {
            ratio.invalid(format!("ratio {} is less than 1", ratio.text()), causes);
        }
    }
}

/// An amount of a resource: its name, and a number of 0 or more.
fn resource(name: &str, amount: &At<'_>, causes: &mut Causes) {
    causes.invalid_each(&amount.path, name, names::qualified_name(name));
    match Quantity::parse(amount.text()) {
        Err(why) => amount.invalid(why, causes),
        Ok(parsed) if parsed.is_negative() => amount.invalid("must be greater than or equal to 0", causes),
        Ok(parsed) if (COUNTED.contains(&name) || name.starts_with("count/")) && parsed.milli() % 1000 != 0 => {
            amount.invalid("must be an integer", causes);
        }
        Ok(_) => {}
    }
}

fn default_quota(quota: &mut Value) {
    for list in ["/spec/hard", "/status/hard", "/status/used"] {
        if let Some(list) = quota.pointer_mut(list) {
            quantity::write_as_text(list);
        }
    }
}

fn validate_quota(quota: &Value, old: Option<&Value>, causes: &mut Causes) {
    let spec = At::root(quota).field("spec");
    let hard = spec.field("hard").entries();
    hard.iter().for_each(|(name, amount)| resource(name, amount, causes));
    let scopes = spec.field("scopes");
    for scope in scopes.items() {
        if !SCOPES.contains(&scope.text()) {
            scopes.invalid("unsupported scope", causes);
        }
    }
    for expression in spec.field("scopeSelector").field("matchExpressions").items() {
        let (scope, values) = (expression.field("scopeName"), expression.field("values"));
        if !SCOPES.contains(&scope.text()) {
            scope.invalid("unsupported scope", causes);
        }
        match expression.field("operator").text() {
            "In" | "NotIn" if values.is_empty() => {
                let why = "must be at least one value when `operator` is 'In' or 'NotIn' for scope selector";
                causes.required(&values.path, why);
            }
            "Exists" | "DoesNotExist" if !values.is_empty() => {
                let why = "must be no value when `operator` is 'Exists' or 'DoesNotExist' for scope selector";
                values.invalid(why, causes);
            }
            "In" | "NotIn" | "Exists" | "DoesNotExist" => {}
            other => causes.invalid(format!("{}.operator", expression.path), other, "not a valid selector operator"),
        }
    }
    if let Some(old) = old {
        let sorted = |scopes: &Value| {
            let mut scopes: Vec<String> = super::rule::items(scopes).iter().map(|scope| text(scope).into()).collect();
            scopes.sort();
            scopes
        };
        if sorted(scopes.value) != sorted(&old["spec"]["scopes"]) {
            scopes.invalid("field is immutable", causes);
        }
    }
}
