//! StatefulSet, DaemonSet and the revisions of both.

use k8s_openapi::api::apps::v1::{ControllerRevision, DaemonSet, StatefulSet};
use serde_json::{Value, json};

use super::apps::SELECTOR;
use super::cell::{AGE, CONTAINERS, IMAGES, NAME, NONE, column, count, labels, number};
use super::row::{SCALE, STATUS, row, rules};
use super::rule::{At, items, items_mut, object_at, set_default, text};
use super::workload::{self, at_most_all, int_or_percent};
use super::{Causes, Kind, Rules, claim, names};

pub(super) fn stateful_set() -> Kind {
    let columns = vec![
        NAME,
        column("Ready", "Number of the pod with ready state", |object, _| {
            format!("{}/{}", count(&object["status"]["readyReplicas"]), count(&object["spec"]["replicas"])).into()
        }),
        AGE,
        CONTAINERS,
        IMAGES,
    ];
    let rules = Rules {
        default: default_stateful_set,
        validate: validate_stateful_set,
        initial_status: |_| Some(json!({"replicas": 0, "availableReplicas": 0})),
        status_writes_labels: false,
        ..rules::<StatefulSet>(names::dns_subdomain)
    };
    Kind {
        short_names: vec!["sts".into()],
        categories: vec!["all".into()],
        subresources: vec![SCALE, STATUS],
        generation: true,
        ..row::<StatefulSet>("statefulset", columns, rules)
    }
}

pub(super) fn daemon_set() -> Kind {
    let columns = vec![
        NAME,
        number("Desired", "Nodes that should run its pod.", |set, _| {
            count(&set["status"]["desiredNumberScheduled"]).into()
        }),
        number("Current", "Nodes that run its pod.", |set, _| count(&set["status"]["currentNumberScheduled"]).into()),
        number("Ready", "Nodes whose pod is ready.", |set, _| count(&set["status"]["numberReady"]).into()),
        number("Up-to-date", "Nodes whose pod has the present template.", |set, _| {
            count(&set["status"]["updatedNumberScheduled"]).into()
        }),
        number("Available", "Nodes whose pod is ready for long enough.", |set, _| {
            count(&set["status"]["numberAvailable"]).into()
        }),
        column("Node Selector", "The labels of the nodes that run it.", |set, _| {
            labels(&set["spec"]["template"]["spec"]["nodeSelector"]).into()
        }),
        AGE,
        CONTAINERS,
        IMAGES,
        SELECTOR,
    ];
    let initial = |_: &Value| {
        Some(json!({"currentNumberScheduled": 0, "numberMisscheduled": 0, "desiredNumberScheduled": 0,
                    "numberReady": 0}))
    };
    let rules = Rules {
        default: default_daemon_set,
        validate: validate_daemon_set,
        initial_status: initial,
        status_writes_labels: false,
        ..rules::<DaemonSet>(names::dns_subdomain)
    };
    Kind {
        short_names: vec!["ds".into()],
        categories: vec!["all".into()],
        subresources: vec![STATUS],
        generation: true,
        ..row::<DaemonSet>("daemonset", columns, rules)
    }
}

pub(super) fn controller_revision() -> Kind {
    let columns = vec![
        NAME,
        column("Controller", "Controller of the object", |object, _| controller(object).into()),
        column("Revision", "The number of the state it keeps.", |object, _| count(&object["revision"]).into()),
        AGE,
    ];
    let rules = Rules { validate: validate_revision, ..rules::<ControllerRevision>(names::dns_subdomain) };
    row::<ControllerRevision>("controllerrevision", columns, rules)
}

/// "daemonset.apps/web"
fn controller(object: &Value) -> String {
    let owner = items(&object["metadata"]["ownerReferences"]).iter().find(|owner| owner["controller"] == true);
    let Some(owner) = owner else { return NONE.into() };
    let group = text(&owner["apiVersion"]).rsplit_once('/').map_or(String::new(), |(group, _)| format!(".{group}"));
    format!("{}{group}/{}", text(&owner["kind"]).to_lowercase(), text(&owner["name"]))
}

fn default_stateful_set(object: &mut Value) {
    workload::default(object);
    let Some(spec) = object.get_mut("spec").filter(|spec| spec.is_object()) else { return };
    set_default(spec, "podManagementPolicy", "OrderedReady");
    set_default(spec, "revisionHistoryLimit", 10);
    if let Some(strategy) = object_at(spec, "updateStrategy") {
        set_default(strategy, "type", "RollingUpdate");
        if strategy["type"] == "RollingUpdate"
            && let Some(rolling) = object_at(strategy, "rollingUpdate")
        {
            set_default(rolling, "partition", 0);
        }
    }
    if let Some(retention) = object_at(spec, "persistentVolumeClaimRetentionPolicy") {
        set_default(retention, "whenDeleted", "Retain");
        set_default(retention, "whenScaled", "Retain");
    }
    for template in items_mut(spec, "volumeClaimTemplates").filter(|template| template.is_object()) {
        set_default(template, "apiVersion", "v1");
        set_default(template, "kind", "PersistentVolumeClaim");
        claim::default(template);
        if let Some(status) = object_at(template, "status") {
            set_default(status, "phase", "Pending");
        }
    }
}

fn default_daemon_set(object: &mut Value) {
    let Some(spec) = object.get_mut("spec").filter(|spec| spec.is_object()) else { return };
    workload::default_template(spec);
    set_default(spec, "revisionHistoryLimit", 10);
    let Some(strategy) = object_at(spec, "updateStrategy") else { return };
    set_default(strategy, "type", "RollingUpdate");
    if strategy["type"] == "RollingUpdate"
        && let Some(rolling) = object_at(strategy, "rollingUpdate")
    {
        set_default(rolling, "maxUnavailable", 1);
        set_default(rolling, "maxSurge", 0);
    }
}

fn validate_stateful_set(object: &Value, old: Option<&Value>, causes: &mut Causes) {
    let spec = At::root(object).field("spec");
    let policy = spec.field("podManagementPolicy");
    if policy.required("", causes) && !matches!(policy.text(), "OrderedReady" | "Parallel") {
        policy.invalid("must be 'OrderedReady' or 'Parallel'", causes);
    }
    validate_stateful_strategy(&spec.field("updateStrategy"), causes);
    let retention = spec.field("persistentVolumeClaimRetentionPolicy");
    for field in ["whenDeleted", "whenScaled"] {
        retention.field(field).one_of(&["Delete", "Retain"], causes);
    }
    for field in ["replicas", "minReadySeconds", "revisionHistoryLimit"] {
        spec.field(field).not_negative(causes);
    }
    spec.field("ordinals").field("start").not_negative(causes);
    workload::validate_selector(&spec, "statefulset", causes);
    workload::validate_template(&spec.field("template"), "StatefulSet", causes);
    let Some(old) = old else { return };
    let mut fixed = object["spec"].clone();
    for field in [
        "replicas",
        "ordinals",
        "template",
        "updateStrategy",
        "revisionHistoryLimit",
        "persistentVolumeClaimRetentionPolicy",
        "minReadySeconds",
    ] {
        super::rule::copy_field(&old["spec"], &mut fixed, field);
    }
    if fixed != old["spec"] {
        let why = "updates to statefulset spec for fields other than 'replicas', 'ordinals', 'template', \
                   'updateStrategy', 'revisionHistoryLimit', 'persistentVolumeClaimRetentionPolicy' and \
                   'minReadySeconds' are forbidden";
        causes.forbidden("spec", why);
    }
}

fn validate_stateful_strategy(strategy: &At<'_>, causes: &mut Causes) {
    let rolling = strategy.field("rollingUpdate");
    match strategy.field("type").text() {
        "" => causes.required(format!("{}.type", strategy.path), ""),
        "OnDelete" if rolling.is_set() => {
            rolling.invalid("only allowed for updateStrategy 'RollingUpdate'", causes);
        }
        "OnDelete" => {}
        "RollingUpdate" => {
            rolling.field("partition").not_negative(causes);
            let unavailable = rolling.field("maxUnavailable");
            let most = int_or_percent(&unavailable, causes);
            if most.is_some_and(workload::Amount::is_zero) {
                unavailable.invalid("cannot be 0", causes);
            }
            at_most_all(&unavailable, most, causes);
        }
        _ => strategy.invalid("must be 'RollingUpdate' or 'OnDelete'", causes),
    }
}

fn validate_daemon_set(object: &Value, old: Option<&Value>, causes: &mut Causes) {
    let spec = At::root(object).field("spec");
    workload::validate_selector(&spec, "daemonset", causes);
    workload::validate_template(&spec.field("template"), "DaemonSet", causes);
    spec.field("minReadySeconds").not_negative(causes);
    let strategy = spec.field("updateStrategy");
    match strategy.field("type").text() {
        "OnDelete" => {}
        "RollingUpdate" => validate_daemon_rolling(&strategy.field("rollingUpdate"), causes),
        other => causes.unsupported(&strategy.path, other, &["OnDelete", "RollingUpdate"]),
    }
    spec.field("revisionHistoryLimit").not_negative(causes);
    if let Some(old) = old {
        spec.field("selector").immutable(&old["spec"]["selector"], causes);
    }
}

fn validate_daemon_rolling(rolling: &At<'_>, causes: &mut Causes) {
    if !rolling.is_set() {
        return causes.required(&rolling.path, "");
    }
    let (unavailable, surge) = (rolling.field("maxUnavailable"), rolling.field("maxSurge"));
    let most_unavailable = int_or_percent(&unavailable, causes);
    let most_surge = int_or_percent(&surge, causes);
    at_most_all(&unavailable, most_unavailable, causes);
    at_most_all(&surge, most_surge, causes);
    let (Some(most_unavailable), Some(most_surge)) = (most_unavailable, most_surge) else { return };
    match (most_unavailable.is_zero(), most_surge.is_zero()) {
        (false, false) => surge.invalid("may not be set when maxUnavailable is non-zero", causes),
        (true, true) => causes.required(&unavailable.path, "cannot be 0 when maxSurge is 0"),
        _ => {}
    }
}

fn validate_revision(object: &Value, old: Option<&Value>, causes: &mut Causes) {
    let root = At::root(object);
    let data = root.field("data");
    if !data.is_set() {
        causes.required("data", "data is mandatory");
    }
    root.field("revision").not_negative(causes);
    if let Some(old) = old {
        data.immutable(&old["data"], causes);
    }
}
