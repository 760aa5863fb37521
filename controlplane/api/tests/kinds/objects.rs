//! Where objects lie, what a write may change of them, and how they are shown.

use diolkos_api::Timestamp;
use diolkos_api::kind::Registry;
use serde_json::{Value, json};

use crate::{created, deployment, kind, pod};

#[test]
fn a_write_changes_only_its_part_of_an_object() {
    let kind = kind("apps/v1", "Deployment");
    let mut old = created(deployment());
    old["metadata"]["uid"] = "1".into();
    old["status"] = json!({"replicas": 3});
    let mut new = old.clone();
    new["status"] = json!({"replicas": 9});
    new["metadata"]["uid"] = "2".into();
    new["metadata"]["labels"] = json!({"a": "b"});
    kind.prepare_for_update(&mut new, &old);
    assert_eq!((&new["status"], &new["metadata"]["uid"]), (&old["status"], &old["metadata"]["uid"]));
    assert_eq!(new["metadata"]["generation"], 1, "labels are not the specification");
    new["spec"]["replicas"] = 5.into();
    kind.prepare_for_update(&mut new, &old);
    assert_eq!(new["metadata"]["generation"], 2);

    let mut status = new.clone();
    status["status"] = json!({"replicas": 5});
    status["metadata"]["labels"] = json!({"c": "d"});
    kind.prepare_for_status_update(&mut status, &old);
    assert_eq!(status["spec"], old["spec"]);
    assert_eq!(status["status"], json!({"replicas": 5}));
    assert_eq!(status["metadata"], old["metadata"]);
}

#[test]
fn keys_lie_where_kubernetes_has_them() {
    let registry = Registry::builtin();
    let deployment = registry.find("apps", "v1", "deployments").unwrap();
    assert_eq!(deployment.key("default", "web"), "/registry/apps/deployments/default/web");
    assert_eq!(deployment.prefix("default"), "/registry/apps/deployments/default/");
    assert_eq!(deployment.prefix(""), "/registry/apps/deployments/");
    let node = registry.find("", "v1", "nodes").unwrap();
    assert_eq!(node.key("", "a"), "/registry/core/nodes/a");
    assert_eq!(registry.find_key("/registry/core/nodes/a").unwrap().kind, "Node");
    for kind in registry.all().filter(|kind| kind.stored) {
        let key = kind.key("default", "web");
        assert_eq!(registry.find_key(&key).unwrap().kind, kind.kind);
        assert!(key.starts_with(&kind.prefix("default")));
    }
    assert!(registry.find_key("/registry/_meta/tick").is_none());
}

#[test]
fn fields_can_be_selected() {
    let kind = kind("v1", "Pod");
    let pod = pod(json!({"nodeName": "n1"}));
    assert_eq!(kind.field(&pod, "spec.nodeName").as_deref(), Some("n1"));
    assert_eq!(kind.field(&pod, "metadata.name").as_deref(), Some("p"));
    assert_eq!(kind.field(&pod, "status.phase").as_deref(), Some(""));
    assert_eq!(kind.field(&pod, "spec.containers"), None);
}

#[test]
fn states_of_pods_are_shown_as_kubectl_shows_them() {
    let now: Timestamp = "2026-11-20T07:10:00Z".parse().unwrap();
    let shown = |pod: &Value| {
        let cells: Vec<String> = kind("v1", "Pod")
            .columns
            .iter()
            .take(4)
            .map(|column| (column.cell)(pod, now).as_str().unwrap_or_default().to_owned())
            .collect();
        cells[1..].join(" ")
    };
    let state =
        |state: Value, restarts: i64| json!({"name": "c", "ready": false, "restartCount": restarts, "state": state});
    let spec = json!({"containers": [{"name": "c"}], "initContainers": [{"name": "i"}]});
    let mut pod = pod(spec);
    pod["status"] = json!({"phase": "Pending"});
    assert_eq!(shown(&pod), "0/1 Pending 0");
    pod["status"]["initContainerStatuses"] = json!([{"name": "i", "state": {"running": {}}, "restartCount": 0}]);
    assert_eq!(shown(&pod), "0/1 Init:0/1 0");
    pod["status"]["initContainerStatuses"][0]["state"] = json!({"terminated": {"exitCode": 1}});
    assert_eq!(shown(&pod), "0/1 Init:ExitCode:1 0");
    pod["status"]["initContainerStatuses"][0]["state"] = json!({"terminated": {"exitCode": 0}});
    let mut crashed = state(json!({"waiting": {"reason": "CrashLoopBackOff"}}), 3);
    crashed["lastState"] = json!({"terminated": {"exitCode": 1, "finishedAt": "2026-11-20T07:05:00Z"}});
    pod["status"]["containerStatuses"] = json!([crashed]);
    assert_eq!(shown(&pod), "0/1 CrashLoopBackOff 3 (5m ago)");
    pod["status"]["containerStatuses"] =
        json!([state(json!({"terminated": {"reason": "Completed", "exitCode": 0}}), 0)]);
    assert_eq!(shown(&pod), "0/1 Completed 0");
    pod["metadata"]["deletionTimestamp"] = "2026-11-20T07:09:00Z".into();
    assert_eq!(shown(&pod), "0/1 Terminating 0");
}

#[test]
fn ages_are_written_in_the_two_units_that_matter() {
    let now: Timestamp = "2026-11-20T07:00:00Z".parse().unwrap();
    let age = |seconds: i64| {
        let then = Timestamp::from_second(now.as_second() - seconds).unwrap();
        let object = json!({"metadata": {"creationTimestamp": then.to_string()}});
        let kind = kind("v1", "ConfigMap");
        let column = kind.columns.iter().find(|column| column.name == "Age").unwrap();
        (column.cell)(&object, now).as_str().unwrap().to_owned()
    };
    let cases = [
        (-5, "<invalid>"),
        (0, "0s"),
        (119, "119s"),
        (120, "2m"),
        (185, "3m5s"),
        (3600, "60m"),
        (4 * 3600 + 60, "4h1m"),
        (30 * 3600, "30h"),
        (3 * 86_400, "3d"),
        (3 * 86_400 + 7200, "3d2h"),
        (400 * 86_400, "400d"),
        (800 * 86_400, "2y70d"),
    ];
    for (seconds, expected) in cases {
        assert_eq!(age(seconds), expected);
    }
}
