//! Deployment and ReplicaSet.

use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};
use k8s_openapi::apimachinery::pkg::apis::meta::v1 as meta_v1;
use serde::Deserialize as _;
use serde_json::{Value, json};

use super::cell::{AGE, CONTAINERS, IMAGES, NAME, column, number, wide};
use super::rule::{object_at, set_default, text};
use super::{Causes, Kind, PART_VERBS, Rules, STATUS, SelectableField, Subresource, names, pod_spec, row, rules};
use crate::selector::LabelSelector;

const SCALE: Subresource =
    Subresource { name: "scale", kind: "Scale", group: "autoscaling", version: "v1", verbs: PART_VERBS };
const SELECTOR: super::Column = wide("Selector", "The labels of its pods.", |object, _| selector_text(object).into());

pub(super) fn deployment() -> Kind {
    let columns = vec![
        NAME,
        column("Ready", "Number of the pod with ready state", |object, _| {
            format!("{}/{}", count(&object["status"]["readyReplicas"]), count(&object["spec"]["replicas"])).into()
        }),
        column("Up-to-date", "Pods that have the present template.", |object, _| {
            count(&object["status"]["updatedReplicas"]).into()
        }),
        column("Available", "Pods that are ready for long enough.", |object, _| {
            count(&object["status"]["availableReplicas"]).into()
        }),
        AGE,
        CONTAINERS,
        IMAGES,
        SELECTOR,
    ];
    let rules = Rules {
        default: default_deployment,
        validate: validate_deployment,
        initial_status: |_| Some(json!({})),
        status_writes_labels: false,
        ..rules::<Deployment>(names::dns_subdomain)
    };
    Kind {
        short_names: vec!["deploy".into()],
        categories: vec!["all".into()],
        subresources: vec![SCALE, STATUS],
        generation: true,
        ..row::<Deployment>("deployment", columns, rules)
    }
}

pub(super) fn replica_set() -> Kind {
    let columns = vec![
        NAME,
        number("Desired", "Pods there should be.", |object, _| count(&object["spec"]["replicas"]).into()),
        number("Current", "Pods there are.", |object, _| count(&object["status"]["replicas"]).into()),
        number("Ready", "Pods that are ready.", |object, _| count(&object["status"]["readyReplicas"]).into()),
        AGE,
        CONTAINERS,
        IMAGES,
        SELECTOR,
    ];
    let rules = Rules {
        default: default_workload,
        validate: validate_workload,
        initial_status: |_| Some(json!({"replicas": 0})),
        status_writes_labels: false,
        ..rules::<ReplicaSet>(names::dns_subdomain)
    };
    Kind {
        short_names: vec!["rs".into()],
        categories: vec!["all".into()],
        subresources: vec![SCALE, STATUS],
        fields: vec![SelectableField {
            path: "status.replicas",
            value: |object| count(&object["status"]["replicas"]).to_string(),
        }],
        generation: true,
        ..row::<ReplicaSet>("replicaset", columns, rules)
    }
}

fn default_deployment(object: &mut Value) {
    default_workload(object);
    let Some(spec) = object.get_mut("spec").filter(|spec| spec.is_object()) else { return };
    set_default(spec, "revisionHistoryLimit", 10);
    set_default(spec, "progressDeadlineSeconds", 600);
    let Some(strategy) = object_at(spec, "strategy") else { return };
    set_default(strategy, "type", "RollingUpdate");
    if strategy["type"] == "RollingUpdate"
        && let Some(rolling) = object_at(strategy, "rollingUpdate")
    {
        set_default(rolling, "maxUnavailable", "25%");
        set_default(rolling, "maxSurge", "25%");
    }
}

fn default_workload(object: &mut Value) {
    let Some(spec) = object.get_mut("spec").filter(|spec| spec.is_object()) else { return };
    set_default(spec, "replicas", 1);
    if let Some(template) = spec.pointer_mut("/template/spec") {
        pod_spec::default(template);
    }
}

fn validate_deployment(object: &Value, old: Option<&Value>, causes: &mut Causes) {
    validate_workload(object, old, causes);
    let spec = &object["spec"];
    let strategy = &spec["strategy"];
    let rolling = &strategy["rollingUpdate"];
    match text(&strategy["type"]) {
        "Recreate" if !rolling.is_null() => {
            let why = "may not be specified when strategy `type` is 'Recreate'";
            causes.forbidden("spec.strategy.rollingUpdate", why);
        }
        "Recreate" => {}
        "RollingUpdate" => validate_rolling(rolling, causes),
        other => causes.unsupported("spec.strategy.type", other, &["Recreate", "RollingUpdate"]),
    }
    not_negative(&spec["revisionHistoryLimit"], "spec.revisionHistoryLimit", causes);
    if let Some(deadline) = spec["progressDeadlineSeconds"].as_i64()
        && deadline <= count(&spec["minReadySeconds"])
    {
        causes.invalid("spec.progressDeadlineSeconds", deadline, "must be greater than minReadySeconds");
    }
}

fn validate_rolling(rolling: &Value, causes: &mut Causes) {
    let mut zeros = 0;
    for field in ["maxUnavailable", "maxSurge"] {
        let path = format!("spec.strategy.rollingUpdate.{field}");
        let value = &rolling[field];
        let amount = match value {
            Value::String(share) => share.strip_suffix('%').and_then(|share| share.parse::<i64>().ok()),
            number => number.as_i64(),
        };
        match amount {
            None => causes.invalid(
                &path,
                value.clone(),
                "a valid percent string must be a numeric string followed by an ending '%'",
            ),
            Some(amount) if amount < 0 => {
                causes.invalid(&path, value.clone(), "must be greater than or equal to 0");
            }
            Some(amount) if field == "maxUnavailable" && value.is_string() && amount > 100 => {
                causes.invalid(&path, value.clone(), "must not be greater than 100%");
            }
            Some(amount) => zeros += i32::from(amount == 0),
        }
    }
    if zeros == 2 {
        let value = rolling["maxUnavailable"].clone();
        let why = "may not be 0 when `maxSurge` is 0";
        causes.invalid("spec.strategy.rollingUpdate.maxUnavailable", value, why);
    }
}

/// What Deployments and ReplicaSets have in common.
fn validate_workload(object: &Value, old: Option<&Value>, causes: &mut Causes) {
    let spec = &object["spec"];
    not_negative(&spec["replicas"], "spec.replicas", causes);
    not_negative(&spec["minReadySeconds"], "spec.minReadySeconds", causes);
    validate_selector(spec, causes);
    super::meta::labels(&spec["template"]["metadata"]["labels"], "spec.template.metadata.labels", causes);
    pod_spec::validate(&spec["template"]["spec"], "spec.template.spec", causes);
    let restart = text(&spec["template"]["spec"]["restartPolicy"]);
    if matches!(restart, "Never" | "OnFailure") {
        causes.unsupported("spec.template.spec.restartPolicy", restart, &["Always"]);
    }
    if let Some(old) = old {
        causes.immutable("spec.selector", &spec["selector"], &old["spec"]["selector"]);
    }
}

fn validate_selector(spec: &Value, causes: &mut Causes) {
    let selector = &spec["selector"];
    if selector.is_null() {
        return causes.required("spec.selector", "");
    }
    let parsed = meta_v1::LabelSelector::deserialize(selector)
        .map_err(|error| error.to_string())
        .and_then(|selector| LabelSelector::from_meta(&selector));
    match parsed {
        Err(why) => causes.invalid("spec.selector", selector.clone(), why),
        Ok(parsed) if parsed.is_empty() => {
            causes.invalid("spec.selector", selector.clone(), "empty selector is invalid for deployment");
        }
        Ok(parsed) => {
            let labels = &spec["template"]["metadata"]["labels"];
            if !parsed.matches_with(|key| labels[key].as_str()) {
                let why = "`selector` does not match template `labels`";
                causes.invalid("spec.template.metadata.labels", labels.clone(), why);
            }
        }
    }
}

fn not_negative(value: &Value, field: &str, causes: &mut Causes) {
    if let Some(number) = value.as_i64()
        && number < 0
    {
        causes.invalid(field, number, "must be greater than or equal to 0");
    }
}

fn selector_text(object: &Value) -> String {
    let selector = meta_v1::LabelSelector::deserialize(&object["spec"]["selector"]).unwrap_or_default();
    LabelSelector::from_meta(&selector).map(|selector| selector.to_string()).unwrap_or_default()
}

fn count(value: &Value) -> i64 {
    value.as_i64().unwrap_or(0)
}
