//! Kinds that make pods.

use serde_json::{Value, json};

use crate::every::{cells, object};
use crate::others::{refused, refused_later};
use crate::{created, wrong};

#[test]
fn a_replica_set_selects_its_own_pods_for_good() {
    let set = created(object("apps/v1", "ReplicaSet"));
    assert_eq!((&set["spec"]["replicas"], &set["status"]), (&json!(1), &json!({"replicas": 0})));
    refused(
        &set,
        &[
            ("/spec/selector", json!(null), "spec.selector Required value"),
            ("/spec/selector", json!({}), "spec.selector Invalid value: {}: empty selector is invalid for deployment"),
            ("/spec/replicas", json!(-1), "spec.replicas Invalid value: -1: must be greater than or equal to 0"),
            (
                "/spec/template/spec/restartPolicy",
                json!("Never"),
                "spec.template.spec.restartPolicy Unsupported value: \"Never\": supported values: \"Always\"",
            ),
            (
                "/spec/template/spec/activeDeadlineSeconds",
                json!(5),
                "spec.template.spec.activeDeadlineSeconds Forbidden: activeDeadlineSeconds in ReplicaSet is not Supported",
            ),
            (
                "/spec/selector/matchExpressions/0/values",
                json!([]),
                "spec.selector.matchExpressions[0].values Required value: must be specified when `operator` is 'In' or 'NotIn'",
            ),
        ],
    );
}

#[test]
fn a_replication_controller_takes_the_labels_of_its_pods() {
    let controller = created(object("v1", "ReplicationController"));
    assert_eq!(controller["spec"]["selector"], json!({"app": "old"}));
    assert_eq!(controller["metadata"]["labels"], json!({"app": "old"}));
    refused(
        &controller,
        &[
            (
                "/spec/selector",
                json!({"app": "new"}),
                "spec.template.metadata.labels Invalid value: {\"app\":\"old\"}: `selector` does not match template `labels`",
            ),
            ("/spec/template", json!(null), "spec.template Required value"),
        ],
    );
}

#[test]
fn a_stateful_set_is_complete_and_changes_little() {
    let set = created(object("apps/v1", "StatefulSet"));
    let spec = &set["spec"];
    assert_eq!(spec["podManagementPolicy"], "OrderedReady");
    assert_eq!(spec["updateStrategy"], json!({"type": "RollingUpdate", "rollingUpdate": {"partition": 0}}));
    assert_eq!(spec["persistentVolumeClaimRetentionPolicy"], json!({"whenDeleted": "Retain", "whenScaled": "Retain"}));
    let template = &spec["volumeClaimTemplates"][0];
    assert_eq!(
        (&template["kind"], &template["spec"]["volumeMode"]),
        (&json!("PersistentVolumeClaim"), &json!("Filesystem"))
    );
    refused(
        &set,
        &[
            (
                "/spec/podManagementPolicy",
                json!("Any"),
                "spec.podManagementPolicy Invalid value: \"Any\": must be 'OrderedReady' or 'Parallel'",
            ),
            (
                "/spec/updateStrategy/type",
                json!("OnDelete"),
                "spec.updateStrategy.rollingUpdate Invalid value: {\"partition\":0}: only allowed for updateStrategy 'RollingUpdate'",
            ),
        ],
    );
    let why = "spec Forbidden: updates to statefulset spec for fields other than 'replicas', 'ordinals', 'template', \
               'updateStrategy', 'revisionHistoryLimit', 'persistentVolumeClaimRetentionPolicy' and 'minReadySeconds' \
               are forbidden";
    refused_later(&set, &[("/spec/serviceName", json!("other"), why)]);
    let mut scaled = set.clone();
    scaled["spec"]["replicas"] = 3.into();
    assert_eq!(wrong(&scaled, Some(&set)), Vec::<String>::new());
}

#[test]
fn a_daemon_set_replaces_its_pods_one_by_one() {
    let set = created(object("apps/v1", "DaemonSet"));
    assert_eq!(
        set["spec"]["updateStrategy"],
        json!({"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": 1, "maxSurge": 0}})
    );
    let rolling = "/spec/updateStrategy/rollingUpdate";
    refused(
        &set,
        &[
            (
                &format!("{rolling}/maxUnavailable"),
                json!(0),
                "spec.updateStrategy.rollingUpdate.maxUnavailable Required value: cannot be 0 when maxSurge is 0",
            ),
            (
                &format!("{rolling}/maxSurge"),
                json!(1),
                "spec.updateStrategy.rollingUpdate.maxSurge Invalid value: 1: may not be set when maxUnavailable is non-zero",
            ),
            (
                "/spec/updateStrategy/type",
                json!("Never"),
                "spec.updateStrategy Unsupported value: \"Never\": supported values: \"OnDelete\", \"RollingUpdate\"",
            ),
            ("/spec/selector", json!({}), "spec.selector Invalid value: {}: empty selector is invalid for daemonset"),
        ],
    );
}

#[test]
fn a_job_selects_the_pods_that_carry_its_uid() {
    let job = created(object("batch/v1", "Job"));
    let uid = &job["metadata"]["uid"];
    assert_eq!(job["spec"]["selector"], json!({"matchLabels": {"batch.kubernetes.io/controller-uid": uid}}));
    let labels = &job["spec"]["template"]["metadata"]["labels"];
    assert_eq!((&labels["controller-uid"], &labels["job-name"], &labels["app"]), (uid, &json!("once"), &json!("once")));
    assert_eq!(job["metadata"]["labels"], json!({"app": "once"}));
    for (field, value) in [
        ("completions", json!(1)),
        ("parallelism", json!(1)),
        ("backoffLimit", json!(6)),
        ("completionMode", json!("NonIndexed")),
        ("suspend", json!(false)),
        ("podReplacementPolicy", json!("TerminatingOrFailed")),
    ] {
        assert_eq!(job["spec"][field], value, "{field}");
    }
}

#[test]
fn a_job_ends_and_does_not_change() {
    let job = created(object("batch/v1", "Job"));
    refused(
        &job,
        &[
            (
                "/spec/template/spec/restartPolicy",
                json!("Always"),
                "spec.template.spec.restartPolicy Required value: valid values: \"OnFailure\", \"Never\"",
            ),
            (
                "/spec/completionMode",
                json!("Some"),
                "spec.completionMode Unsupported value: \"Some\": supported values: \"Indexed\", \"NonIndexed\"",
            ),
            (
                "/spec/backoffLimitPerIndex",
                json!(1),
                "spec.backoffLimitPerIndex Invalid value: 1: requires indexed completion mode",
            ),
            (
                "/spec/podFailurePolicy",
                json!({"rules": [{"action": "FailJob"}]}),
                "spec.podFailurePolicy.rules[0] Invalid value: {\"action\":\"FailJob\"}: specifying one of OnExitCodes and OnPodConditions is required",
            ),
        ],
    );
    refused_later(&job, &[("/spec/completions", json!(5), "spec.completions Invalid value: 5: field is immutable")]);
    let mut other = job.clone();
    other["spec"]["template"]["spec"]["containers"][0]["image"] = "b".into();
    assert!(wrong(&other, Some(&job))[0].starts_with("spec.template Invalid value"));
    let mut done = job.clone();
    done["status"] = json!({
        "succeeded": 1, "startTime": "2026-11-20T07:00:00Z", "completionTime": "2026-11-20T07:03:05Z",
        "conditions": [{"type": "Complete", "status": "True"}],
    });
    assert_eq!(cells(&done)[1..4], ["Complete", "1/1", "3m5s"]);
}

#[test]
fn a_cron_job_has_a_schedule_that_cron_reads() {
    let cron = created(object("batch/v1", "CronJob"));
    for (field, value) in [
        ("concurrencyPolicy", json!("Allow")),
        ("suspend", json!(false)),
        ("successfulJobsHistoryLimit", json!(3)),
        ("failedJobsHistoryLimit", json!(1)),
    ] {
        assert_eq!(cron["spec"][field], value, "{field}");
    }
    let long = "a".repeat(53);
    refused(
        &cron,
        &[
            ("/spec/schedule", json!(""), "spec.schedule Required value"),
            (
                "/spec/schedule",
                json!("* * *"),
                "spec.schedule Invalid value: \"* * *\": expected exactly 5 fields, found 3: [* * *]",
            ),
            (
                "/spec/schedule",
                json!("TZ=UTC 0 0 * * *"),
                "spec.schedule Invalid value: \"TZ=UTC 0 0 * * *\": cannot use TZ or CRON_TZ in schedule, use timeZone field instead",
            ),
            (
                "/spec/timeZone",
                json!(""),
                "spec.timeZone Invalid value: \"\": timeZone must be nil or non-empty string",
            ),
            (
                "/spec/concurrencyPolicy",
                json!("Queue"),
                "spec.concurrencyPolicy Unsupported value: \"Queue\": supported values: \"Allow\", \"Forbid\", \"Replace\"",
            ),
            (
                "/metadata/name",
                json!(long),
                &format!("metadata.name Invalid value: \"{long}\": must be no more than 52 characters"),
            ),
        ],
    );
    let mut active = cron.clone();
    active["status"] = json!({"active": [{}], "lastScheduleTime": "2026-11-20T07:08:00Z"});
    assert_eq!(cells(&active)[4..6], ["1", "2m"]);
    assert_eq!(active["status"]["active"][0], Value::Object(serde_json::Map::new()));
}
