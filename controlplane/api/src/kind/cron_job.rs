//! CronJob.

mod schedule;

use k8s_openapi::api::batch::v1::CronJob;
use serde_json::{Value, json};

use super::cell::{AGE, NAME, NONE, column, container_fields, number, selector, since, text_or, truth, wide};
use super::row::{STATUS, row, rules};
use super::rule::{At, items, set, set_default, text};
use super::{Causes, Column, Kind, Rules, job, names, workload};

/// Longest name: the pods of its Jobs add to it.
const MAX_NAME: usize = 52;

pub(super) fn cron_job() -> Kind {
    let columns = vec![
        NAME,
        column("Schedule", "When Jobs are made, as five fields.", |object, _| object["spec"]["schedule"].clone()),
        column("Timezone", "The time zone of the schedule.", |object, _| text_or(&object["spec"]["timeZone"], NONE)),
        Column {
            type_: "boolean",
            ..column("Suspend", "Whether no Jobs are made.", |object, _| truth(&object["spec"]["suspend"]).into())
        },
        number("Active", "Jobs that run.", |object, _| items(&object["status"]["active"]).len().into()),
        column("Last Schedule", "The time since a Job was made.", |object, now| {
            let last = &object["status"]["lastScheduleTime"];
            if last.is_null() { NONE.into() } else { since(last, now).into() }
        }),
        AGE,
        wide("Containers", "Names of each container in the template.", |object, _| {
            container_fields(pod(object), "name").into()
        }),
        wide("Images", "Images referenced by each container in the template.", |object, _| {
            container_fields(pod(object), "image").into()
        }),
        wide("Selector", "The labels of its pods.", |object, _| {
            selector(&object["spec"]["jobTemplate"]["spec"]["selector"]).into()
        }),
    ];
    let rules = Rules {
        default,
        validate,
        initial_status: |_| Some(json!({})),
        status_writes_labels: false,
        ..rules::<CronJob>(names::dns_subdomain)
    };
    Kind {
        short_names: vec!["cj".into()],
        categories: vec!["all".into()],
        subresources: vec![STATUS],
        generation: true,
        ..row::<CronJob>("cronjob", columns, rules)
    }
}

fn pod(object: &Value) -> &Value {
    &object["spec"]["jobTemplate"]["spec"]["template"]["spec"]
}

fn default(object: &mut Value) {
    let Some(spec) = object.get_mut("spec").filter(|spec| spec.is_object()) else { return };
    set_default(spec, "concurrencyPolicy", "Allow");
    if spec["suspend"].is_null() {
        set(spec, "suspend", false);
    }
    set_default(spec, "successfulJobsHistoryLimit", 3);
    set_default(spec, "failedJobsHistoryLimit", 1);
    if let Some(job) = spec.pointer_mut("/jobTemplate/spec") {
        workload::default_template(job);
        job::default_failure_policy(job);
    }
}

fn validate(object: &Value, old: Option<&Value>, causes: &mut Causes) {
    let name = text(&object["metadata"]["name"]);
    if name.len() > MAX_NAME && old.is_none() {
        causes.invalid("metadata.name", name, format!("must be no more than {MAX_NAME} characters"));
    }
    let spec = At::root(object).field("spec");
    let schedule = spec.field("schedule");
    if schedule.required("", causes) && old.is_none_or(|old| old["spec"]["schedule"] != *schedule.value) {
        validate_schedule(&schedule, causes);
    }
    validate_time_zone(&spec.field("timeZone"), causes);
    for field in ["startingDeadlineSeconds", "successfulJobsHistoryLimit", "failedJobsHistoryLimit"] {
        spec.field(field).not_negative(causes);
    }
    spec.field("concurrencyPolicy").required_one_of(&["Allow", "Forbid", "Replace"], causes);
    let job = spec.field("jobTemplate").field("spec");
    if job.value["manualSelector"] == true {
        let path = format!("{}.manualSelector", job.path);
        causes.unsupported(path, true, &["nil", "false"]);
    }
    job::validate_spec(&job, causes);
}

fn validate_schedule(schedule: &At<'_>, causes: &mut Causes) {
    let text = schedule.text();
    if text.contains("TZ") {
        return schedule.invalid("cannot use TZ or CRON_TZ in schedule, use timeZone field instead", causes);
    }
    if let Err(why) = schedule::check(text) {
        schedule.invalid(why, causes);
    }
}

fn validate_time_zone(zone: &At<'_>, causes: &mut Causes) {
    let Some(name) = zone.value.as_str() else { return };
    let segment = |segment: &str| {
        let inner = |c: char| c.is_ascii_alphanumeric() || "+._-".contains(c);
        segment.starts_with(|c: char| c.is_ascii_alphabetic() || ".-_".contains(c)) && segment.chars().all(inner)
    };
    if name.is_empty() {
        zone.invalid("timeZone must be nil or non-empty string", causes);
    } else if name.eq_ignore_ascii_case("local") {
        zone.invalid("timeZone must be an explicit time zone as defined in https://www.iana.org/time-zones", causes);
    } else if !name.split('/').all(segment) {
        zone.invalid(format!("unknown time zone {name}"), causes);
    }
}
