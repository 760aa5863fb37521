//! PodDisruptionBudget.

use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use serde_json::{Value, json};

use super::cell::{AGE, NAME, column, count, number};
use super::row::{STATUS, row, rules};
use super::rule::At;
use super::workload::{at_most_all, int_or_percent, label_selector};
use super::{Causes, Kind, Rules, names};

pub(super) fn pod_disruption_budget() -> Kind {
    let columns = vec![
        NAME,
        column("Min Available", "The minimum number of pods that must be available.", |budget, _| {
            amount(&budget["spec"]["minAvailable"])
        }),
        column("Max Unavailable", "The maximum number of pods that may be unavailable.", |budget, _| {
            amount(&budget["spec"]["maxUnavailable"])
        }),
        number("Allowed Disruptions", "Calculated number of pods that may be disrupted at this time.", |budget, _| {
            count(&budget["status"]["disruptionsAllowed"]).into()
        }),
        AGE,
    ];
    let initial =
        |_: &Value| Some(json!({"disruptionsAllowed": 0, "currentHealthy": 0, "desiredHealthy": 0, "expectedPods": 0}));
    let rules = Rules { validate, initial_status: initial, ..rules::<PodDisruptionBudget>(names::dns_subdomain) };
    Kind {
        short_names: vec!["pdb".into()],
        subresources: vec![STATUS],
        generation: true,
        ..row::<PodDisruptionBudget>("poddisruptionbudget", columns, rules)
    }
}

fn amount(amount: &Value) -> Value {
    match amount {
        Value::Null => "N/A".into(),
        Value::String(share) => share.as_str().into(),
        number => number.to_string().into(),
    }
}

fn validate(budget: &Value, _: Option<&Value>, causes: &mut Causes) {
    let spec = At::root(budget).field("spec");
    let (least, most) = (spec.field("minAvailable"), spec.field("maxUnavailable"));
    if least.is_set() && most.is_set() {
        spec.invalid("minAvailable and maxUnavailable cannot be both set", causes);
    }
    for amount in [least, most] {
        let parsed = int_or_percent(&amount, causes);
        at_most_all(&amount, parsed, causes);
    }
    label_selector(&spec.field("selector"), causes);
    spec.field("unhealthyPodEvictionPolicy").one_of(&["AlwaysAllow", "IfHealthyBudget"], causes);
}
