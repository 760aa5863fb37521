//! What the kinds that make pods have in common: the template and the selector that has to match it.

use k8s_openapi::apimachinery::pkg::apis::meta::v1 as meta_v1;
use serde::Deserialize as _;
use serde_json::Value;

use super::rule::{At, set_default, text};
use super::{Causes, names, pod_spec};
use crate::selector::LabelSelector;

/// The defaults of `spec.replicas` and of the pods in `spec.template`.
pub(super) fn default(object: &mut Value) {
    let Some(spec) = object.get_mut("spec").filter(|spec| spec.is_object()) else { return };
    set_default(spec, "replicas", 1);
    default_template(spec);
}

/// The defaults of the pods in `template`.
pub(super) fn default_template(spec: &mut Value) {
    if let Some(template) = spec.pointer_mut("/template/spec") {
        pod_spec::default(template);
    }
}

/// A selector that has to be there, select something, and match the labels of the template. `what` it is of.
pub(super) fn validate_selector(spec: &At<'_>, what: &str, causes: &mut Causes) {
    let selector = spec.field("selector");
    if !selector.is_set() {
        return causes.required(&selector.path, "");
    }
    label_selector(&selector, causes);
    let Some(parsed) = parse(selector.value) else { return };
    if parsed.is_empty() {
        return selector.invalid(format!("empty selector is invalid for {what}"), causes);
    }
    let labels = spec.field("template").field("metadata").field("labels");
    if !parsed.matches_with(|key| labels.value[key].as_str()) {
        labels.invalid("`selector` does not match template `labels`", causes);
    }
}

/// A selector by labels and expressions.
pub(super) fn label_selector(selector: &At<'_>, causes: &mut Causes) {
    let exact = selector.field("matchLabels");
    super::meta::labels(exact.value, &exact.path, causes);
    for expression in selector.field("matchExpressions").items() {
        let (operator, values) = (expression.field("operator"), expression.field("values"));
        match operator.text() {
            "In" | "NotIn" if values.is_empty() => {
                causes.required(&values.path, "must be specified when `operator` is 'In' or 'NotIn'");
            }
            "In" | "NotIn" => {}
            "Exists" | "DoesNotExist" if !values.is_empty() => {
                values.forbidden("may not be specified when `operator` is 'Exists' or 'DoesNotExist'", causes);
            }
            "Exists" | "DoesNotExist" => {}
            _ => causes.invalid(&operator.path, operator.text(), "not a valid selector operator"),
        }
        let key = expression.field("key");
        causes.invalid_each(&key.path, key.text(), names::qualified_name(key.text()));
        for value in values.items() {
            causes.invalid_each(&value.path, value.text(), names::label_value(value.text()));
        }
    }
}

/// The selector, if it is one.
pub(super) fn parse(selector: &Value) -> Option<LabelSelector> {
    let selector = meta_v1::LabelSelector::deserialize(selector).ok()?;
    LabelSelector::from_meta(&selector).ok()
}

/// The template of pods that run for ever. `what` makes them.
pub(super) fn validate_template(template: &At<'_>, what: &str, causes: &mut Causes) {
    metadata(template, causes);
    let spec = template.field("spec");
    pod_spec::validate(spec.value, &spec.path, causes);
    let restart = spec.field("restartPolicy");
    if matches!(restart.text(), "Never" | "OnFailure") {
        causes.unsupported(&restart.path, restart.text(), &["Always"]);
    }
    if spec.field("activeDeadlineSeconds").is_set() {
        let why = format!("activeDeadlineSeconds in {what} is not Supported");
        spec.field("activeDeadlineSeconds").forbidden(&why, causes);
    }
}

/// Labels and annotations of a template.
pub(super) fn metadata(template: &At<'_>, causes: &mut Causes) {
    let metadata = template.field("metadata");
    let labels = metadata.field("labels");
    super::meta::labels(labels.value, &labels.path, causes);
    let annotations = metadata.field("annotations");
    super::meta::annotations(annotations.value, &annotations.path, causes);
}

/// A count or a share: "3", 3 or "25%". Says which, when it is one that may be.
pub(super) fn int_or_percent(amount: &At<'_>, causes: &mut Causes) -> Option<Amount> {
    match amount.value {
        Value::Null => None,
        Value::String(share) => {
            let number = share.strip_suffix('%').filter(|digits| digits.bytes().all(|c| c.is_ascii_digit()));
            match number.and_then(|number| number.parse().ok()) {
                Some(percent) => Some(Amount::Percent(percent)),
                None => {
                    let why = "a valid percent string must be a numeric string followed by an ending '%' (e.g. '1%',  or \
                               '93%', regex used for validation is '[0-9]+%')";
                    amount.invalid(why, causes);
                    None
                }
            }
        }
        number => {
            amount.not_negative(causes);
            number.as_i64().filter(|number| *number >= 0).map(Amount::Count)
        }
    }
}

/// What [`int_or_percent`] read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Amount {
    Count(i64),
    Percent(i64),
}

impl Amount {
    pub(super) fn is_zero(self) -> bool {
        matches!(self, Self::Count(0) | Self::Percent(0))
    }
}

/// A share of at most everything.
pub(super) fn at_most_all(amount: &At<'_>, parsed: Option<Amount>, causes: &mut Causes) {
    if let Some(Amount::Percent(percent)) = parsed
        && percent > 100
    {
        amount.invalid("must not be greater than 100%", causes);
    }
}

/// What a ReplicationController selects by: labels alone.
pub(super) fn matches_all(selector: &Value, labels: &Value) -> bool {
    selector.as_object().into_iter().flatten().all(|(key, value)| text(&labels[key]) == text(value))
}
