//! Job.

use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::jiff::Timestamp;
use serde_json::{Value, json};

use super::apps::SELECTOR;
use super::cell::{AGE, CONTAINERS, IMAGES, NAME, column, count, duration};
use super::row::{STATUS, row, rules};
use super::rule::{At, items, items_mut, object_at, set, set_default, text};
use super::{Causes, Kind, Rules, SelectableField, names, pod_spec, workload};

/// Most pods at once, and most indices, of a Job whose pods are numbered.
const MAX_INDEXED_PARALLELISM: i64 = 100_000;
/// The labels by which a Job knows its pods; the older names are kept for those who select by them.
const UID_LABEL: &str = "batch.kubernetes.io/controller-uid";
const NAME_LABELS: [&str; 2] = ["job-name", "batch.kubernetes.io/job-name"];
const UID_LABELS: [&str; 2] = ["controller-uid", UID_LABEL];

pub(super) fn job() -> Kind {
    let columns = vec![
        NAME,
        column("Status", "Status of the job.", |job, _| status(job).into()),
        column("Completions", "Pods that succeeded, of those that have to.", |job, _| completions(job).into()),
        column("Duration", "Time required to complete the job.", |job, now| run_time(job, now).into()),
        AGE,
        CONTAINERS,
        IMAGES,
        SELECTOR,
    ];
    let rules = Rules {
        default,
        validate,
        identified: select_own_pods,
        initial_status: |_| Some(json!({})),
        status_writes_labels: false,
        ..rules::<Job>(names::dns_subdomain)
    };
    Kind {
        categories: vec!["all".into()],
        subresources: vec![STATUS],
        fields: vec![SelectableField {
            path: "status.successful",
            value: |job| count(&job["status"]["succeeded"]).to_string(),
        }],
        generation: true,
        ..row::<Job>("job", columns, rules)
    }
}

fn status(job: &Value) -> &'static str {
    let is = |type_: &str| {
        let of_type = |condition: &&Value| condition["type"] == type_;
        items(&job["status"]["conditions"]).iter().find(of_type).is_some_and(|found| found["status"] == "True")
    };
    if is("Complete") {
        "Complete"
    } else if is("Failed") {
        "Failed"
    } else if !job["metadata"]["deletionTimestamp"].is_null() {
        "Terminating"
    } else if is("Suspended") {
        "Suspended"
    } else if is("FailureTarget") {
        "FailureTarget"
    } else if is("SuccessCriteriaMet") {
        "SuccessCriteriaMet"
    } else {
        "Running"
    }
}

fn completions(job: &Value) -> String {
    let (spec, succeeded) = (&job["spec"], count(&job["status"]["succeeded"]));
    match (spec["completions"].as_i64(), count(&spec["parallelism"])) {
        (Some(completions), _) => format!("{succeeded}/{completions}"),
        (None, parallelism) if parallelism > 1 => format!("{succeeded}/1 of {parallelism}"),
        (None, _) => format!("{succeeded}/1"),
    }
}

fn run_time(job: &Value, now: Timestamp) -> String {
    let time = |field: &str| text(&job["status"][field]).parse::<Timestamp>().ok();
    match (time("startTime"), time("completionTime")) {
        (None, _) => String::new(),
        (Some(start), end) => duration(end.unwrap_or(now).as_second() - start.as_second()),
    }
}

fn default(job: &mut Value) {
    let Some(spec) = job.get_mut("spec").filter(|spec| spec.is_object()) else { return };
    workload::default_template(spec);
    if spec["completions"].is_null() && spec["parallelism"].is_null() {
        set(spec, "completions", 1);
    }
    set_default(spec, "parallelism", 1);
    let backoff = if spec["backoffLimitPerIndex"].is_null() { 6 } else { i64::from(i32::MAX) };
    set_default(spec, "backoffLimit", backoff);
    set_default(spec, "completionMode", "NonIndexed");
    if spec["suspend"].is_null() {
        set(spec, "suspend", false);
    }
    let replacement = if spec["podFailurePolicy"].is_null() { "TerminatingOrFailed" } else { "Failed" };
    set_default(spec, "podReplacementPolicy", replacement);
    default_failure_policy(spec);
    let labels = spec["template"]["metadata"]["labels"].clone();
    if labels.as_object().is_some_and(|labels| !labels.is_empty())
        && let Some(metadata) = object_at(job, "metadata")
        && metadata["labels"].as_object().is_none_or(serde_json::Map::is_empty)
    {
        set(metadata, "labels", labels);
    }
}

/// Conditions of pods hold when they are true, unless the policy says otherwise.
pub(super) fn default_failure_policy(spec: &mut Value) {
    let Some(policy) = spec.get_mut("podFailurePolicy") else { return };
    for rule in items_mut(policy, "rules") {
        for condition in items_mut(rule, "onPodConditions").filter(|condition| condition.is_object()) {
            set_default(condition, "status", "True");
        }
    }
}

/// Unless its writer chose a selector, a Job selects the pods that carry its uid.
fn select_own_pods(job: &mut Value) {
    if job["spec"]["manualSelector"] == true || !job["spec"].is_object() {
        return;
    }
    let (name, uid) = (job["metadata"]["name"].clone(), job["metadata"]["uid"].clone());
    let Some(spec) = object_at(job, "spec") else { return };
    // Whoever labels pods so means something else: validation tells.
    if !spec["template"]["metadata"]["labels"]["controller-uid"].is_null() {
        return;
    }
    if let Some(template) = object_at(spec, "template")
        && let Some(metadata) = object_at(template, "metadata")
        && let Some(labels) = object_at(metadata, "labels")
    {
        NAME_LABELS.iter().for_each(|label| set(labels, label, name.clone()));
        UID_LABELS.iter().for_each(|label| set(labels, label, uid.clone()));
    }
    if let Some(selector) = object_at(spec, "selector")
        && let Some(labels) = object_at(selector, "matchLabels")
    {
        set_default(labels, UID_LABEL, uid);
    }
}

fn validate(job: &Value, old: Option<&Value>, causes: &mut Causes) {
    let spec = At::root(job).field("spec");
    validate_spec(&spec, causes);
    let selector = spec.field("selector");
    if !selector.is_set() {
        causes.required(&selector.path, "");
    } else {
        workload::label_selector(&selector, causes);
        let labels = spec.field("template").field("metadata").field("labels");
        let matches = |key: &str| labels.value[key].as_str();
        if workload::parse(selector.value).is_some_and(|parsed| !parsed.matches_with(matches)) {
            labels.invalid("`selector` does not match template `labels`", causes);
        }
        let expected = json!({"matchLabels": {UID_LABEL: job["metadata"]["uid"]}});
        if spec.value["manualSelector"] != true && old.is_none() && *selector.value != expected {
            selector.invalid("`selector` not auto-generated", causes);
        }
    }
    let Some(old) = old else { return };
    for field in
        ["completionMode", "podFailurePolicy", "backoffLimitPerIndex", "managedBy", "successPolicy", "selector"]
    {
        spec.field(field).immutable(&old["spec"][field], causes);
    }
    // The size of a Job with numbered pods may change as a whole.
    let elastic = spec.value["completionMode"] == "Indexed" && spec.value["completions"] == spec.value["parallelism"];
    if !elastic {
        spec.field("completions").immutable(&old["spec"]["completions"], causes);
    }
    let waits = old["spec"]["suspend"] == true && old["status"]["startTime"].is_null();
    if !waits {
        spec.field("template").immutable(&old["spec"]["template"], causes);
    }
}

/// What Jobs and the Jobs of a CronJob have in common.
pub(super) fn validate_spec(spec: &At<'_>, causes: &mut Causes) {
    for field in [
        "parallelism",
        "completions",
        "activeDeadlineSeconds",
        "backoffLimit",
        "ttlSecondsAfterFinished",
        "backoffLimitPerIndex",
        "maxFailedIndexes",
    ] {
        spec.field(field).not_negative(causes);
    }
    spec.field("completionMode").one_of(&["Indexed", "NonIndexed"], causes);
    spec.field("podReplacementPolicy").one_of(&["Failed", "TerminatingOrFailed"], causes);
    if spec.value["completionMode"] == "Indexed" {
        if !spec.field("completions").is_set() {
            causes.required(format!("{}.completions", spec.path), "when completion mode is Indexed");
        }
        let parallelism = spec.field("parallelism");
        if parallelism.number().is_some_and(|number| number > MAX_INDEXED_PARALLELISM) {
            let why =
                format!("must be less than or equal to {MAX_INDEXED_PARALLELISM} when completion mode is Indexed");
            parallelism.invalid(why, causes);
        }
    } else if spec.field("backoffLimitPerIndex").is_set() {
        spec.field("backoffLimitPerIndex").invalid("requires indexed completion mode", causes);
    }
    if spec.field("maxFailedIndexes").is_set() && !spec.field("backoffLimitPerIndex").is_set() {
        let path = format!("{}.backoffLimitPerIndex", spec.path);
        causes.required(path, "when maxFailedIndexes is specified");
    }
    let template = spec.field("template");
    workload::metadata(&template, causes);
    let pod = template.field("spec");
    pod_spec::validate(pod.value, &pod.path, causes);
    let restart = pod.field("restartPolicy");
    if matches!(restart.text(), "" | "Always") {
        causes.required(&restart.path, "valid values: \"OnFailure\", \"Never\"");
    } else {
        restart.one_of(&["OnFailure", "Never"], causes);
    }
    validate_failure_policy(&spec.field("podFailurePolicy"), &restart, causes);
}

fn validate_failure_policy(policy: &At<'_>, restart: &At<'_>, causes: &mut Causes) {
    const MOST_RULES: usize = 20;
    if !policy.is_set() {
        return;
    }
    if restart.text() != "Never" {
        restart.invalid("only \"Never\" is supported when podFailurePolicy is specified", causes);
    }
    let rules = policy.field("rules");
    if rules.items().len() > MOST_RULES {
        return causes.too_many(&rules.path, rules.items().len(), MOST_RULES);
    }
    for rule in rules.items() {
        rule.field("action").required_one_of(&["Count", "FailIndex", "FailJob", "Ignore"], causes);
        let (codes, conditions) = (rule.field("onExitCodes"), rule.field("onPodConditions"));
        match (codes.is_set(), !conditions.is_empty()) {
            (true, true) => rule.invalid("specifying both OnExitCodes and OnPodConditions is not supported", causes),
            (false, false) => {
                rule.invalid("specifying one of OnExitCodes and OnPodConditions is required", causes);
            }
            (true, false) => {
                codes.field("operator").required_one_of(&["In", "NotIn"], causes);
                if codes.field("values").is_empty() {
                    codes.field("values").invalid("at least one value is required", causes);
                }
            }
            (false, true) => {
                for condition in conditions.items() {
                    condition.field("status").required_one_of(&["False", "True", "Unknown"], causes);
                    condition.field("type").each(names::qualified_name, causes);
                }
            }
        }
    }
}
