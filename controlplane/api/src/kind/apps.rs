//! Deployment, ReplicaSet and ReplicationController.

use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};
use k8s_openapi::api::core::v1::ReplicationController;
use serde_json::{Value, json};

use super::cell::{AGE, CONTAINERS, IMAGES, NAME, column, count, labels, number, selector, wide};
use super::row::{SCALE, STATUS, row, rules};
use super::rule::{At, object_at, set_default};
use super::workload::{self, at_most_all, int_or_percent, matches_all};
use super::{Causes, Column, Kind, Rules, SelectableField, names};

pub(super) const SELECTOR: Column =
    wide("Selector", "The labels of its pods.", |object, _| selector(&object["spec"]["selector"]).into());

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
    let mut columns = replica_columns();
    columns.push(SELECTOR);
    let rules = Rules {
        default: workload::default,
        validate: validate_replica_set,
        initial_status: |_| Some(json!({"replicas": 0})),
        status_writes_labels: false,
        ..rules::<ReplicaSet>(names::dns_subdomain)
    };
    Kind {
        short_names: vec!["rs".into()],
        categories: vec!["all".into()],
        subresources: vec![SCALE, STATUS],
        fields: vec![REPLICAS],
        generation: true,
        ..row::<ReplicaSet>("replicaset", columns, rules)
    }
}

pub(super) fn replication_controller() -> Kind {
    let mut columns = replica_columns();
    columns.push(wide("Selector", "The labels of its pods.", |object, _| labels(&object["spec"]["selector"]).into()));
    let rules = Rules {
        default: default_replication_controller,
        validate: validate_replication_controller,
        initial_status: |_| Some(json!({"replicas": 0})),
        status_writes_labels: false,
        ..rules::<ReplicationController>(names::dns_subdomain)
    };
    Kind {
        short_names: vec!["rc".into()],
        categories: vec!["all".into()],
        subresources: vec![SCALE, STATUS],
        fields: vec![REPLICAS],
        generation: true,
        ..row::<ReplicationController>("replicationcontroller", columns, rules)
    }
}

const REPLICAS: SelectableField =
    SelectableField { path: "status.replicas", value: |object| count(&object["status"]["replicas"]).to_string() };

fn replica_columns() -> Vec<Column> {
    vec![
        NAME,
        number("Desired", "Pods there should be.", |object, _| count(&object["spec"]["replicas"]).into()),
        number("Current", "Pods there are.", |object, _| count(&object["status"]["replicas"]).into()),
        number("Ready", "Pods that are ready.", |object, _| count(&object["status"]["readyReplicas"]).into()),
        AGE,
        CONTAINERS,
        IMAGES,
    ]
}

fn default_deployment(object: &mut Value) {
    workload::default(object);
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

fn default_replication_controller(object: &mut Value) {
    workload::default(object);
    let labels = object["spec"]["template"]["metadata"]["labels"].clone();
    if labels.as_object().is_none_or(serde_json::Map::is_empty) {
        return;
    }
    for part in ["spec", "metadata"] {
        let field = if part == "spec" { "selector" } else { "labels" };
        if let Some(part) = object.get_mut(part).filter(|part| part.is_object())
            && part[field].as_object().map_or(part[field].is_null(), serde_json::Map::is_empty)
        {
            part[field] = labels.clone();
        }
    }
}

fn validate_deployment(object: &Value, old: Option<&Value>, causes: &mut Causes) {
    let spec = At::root(object).field("spec");
    spec.field("replicas").not_negative(causes);
    workload::validate_selector(&spec, "deployment", causes);
    workload::validate_template(&spec.field("template"), "ReplicaSet", causes);
    let strategy = spec.field("strategy");
    let rolling = strategy.field("rollingUpdate");
    match strategy.field("type").text() {
        "Recreate" if rolling.is_set() => {
            rolling.forbidden("may not be specified when strategy `type` is 'Recreate'", causes);
        }
        "Recreate" => {}
        "RollingUpdate" => validate_rolling(&rolling, causes),
        other => causes.unsupported("spec.strategy.type", other, &["Recreate", "RollingUpdate"]),
    }
    spec.field("minReadySeconds").not_negative(causes);
    spec.field("revisionHistoryLimit").not_negative(causes);
    let deadline = spec.field("progressDeadlineSeconds");
    deadline.not_negative(causes);
    if deadline.number().is_some_and(|seconds| seconds <= count(&spec.value["minReadySeconds"])) {
        deadline.invalid("must be greater than minReadySeconds", causes);
    }
    if let Some(old) = old {
        spec.field("selector").immutable(&old["spec"]["selector"], causes);
    }
}

fn validate_rolling(rolling: &At<'_>, causes: &mut Causes) {
    let (unavailable, surge) = (rolling.field("maxUnavailable"), rolling.field("maxSurge"));
    let most_unavailable = int_or_percent(&unavailable, causes);
    let most_surge = int_or_percent(&surge, causes);
    if most_unavailable.is_some_and(|amount| amount.is_zero()) && most_surge.is_some_and(|amount| amount.is_zero()) {
        unavailable.invalid("may not be 0 when `maxSurge` is 0", causes);
    }
    at_most_all(&unavailable, most_unavailable, causes);
}

fn validate_replica_set(object: &Value, old: Option<&Value>, causes: &mut Causes) {
    let spec = At::root(object).field("spec");
    spec.field("replicas").not_negative(causes);
    spec.field("minReadySeconds").not_negative(causes);
    // Kubernetes says "deployment" here too.
    workload::validate_selector(&spec, "deployment", causes);
    workload::validate_template(&spec.field("template"), "ReplicaSet", causes);
    if let Some(old) = old {
        spec.field("selector").immutable(&old["spec"]["selector"], causes);
    }
}

fn validate_replication_controller(object: &Value, _: Option<&Value>, causes: &mut Causes) {
    let spec = At::root(object).field("spec");
    spec.field("minReadySeconds").not_negative(causes);
    let (selector, template) = (spec.field("selector"), spec.field("template"));
    if selector.required("", causes) {
        super::meta::labels(selector.value, &selector.path, causes);
    }
    spec.field("replicas").not_negative(causes);
    if !template.required("", causes) {
        return;
    }
    let labels = template.field("metadata").field("labels");
    if !selector.is_empty() && !matches_all(selector.value, labels.value) {
        labels.invalid("`selector` does not match template `labels`", causes);
    }
    workload::validate_template(&template, "ReplicationController", causes);
}
