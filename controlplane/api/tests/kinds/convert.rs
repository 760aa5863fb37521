//! Kinds that rest as another: autoscaling/v1 as v2, Events of events.k8s.io as those of the core group.

use diolkos_api::selector::FieldSelector;
use serde_json::{Value, json};

use crate::every::object;
use crate::{created, kind};

/// What an object is at rest, and what its readers get.
fn there_and_back(sent: &Value) -> (Value, Value) {
    let served = kind(sent["apiVersion"].as_str().unwrap(), sent["kind"].as_str().unwrap());
    let mut stored = sent.clone();
    served.default(&mut stored);
    let sent = stored.clone();
    served.to_storage(&mut stored);
    let mut back = stored.clone();
    served.from_storage(&mut back);
    assert_eq!(back, sent);
    (stored, back)
}

#[test]
fn an_autoscaler_of_v1_rests_as_v2() {
    let mut sent = object("autoscaling/v1", "HorizontalPodAutoscaler");
    sent["spec"]["somethingNewer"] = json!({"kept": true});
    let (stored, _) = there_and_back(&sent);
    assert_eq!(stored["apiVersion"], "autoscaling/v2");
    let target = json!({"type": "Utilization", "averageUtilization": 70});
    assert_eq!(stored["spec"]["metrics"], json!([{"type": "Resource", "resource": {"name": "cpu", "target": target}}]));
    assert_eq!(stored["spec"]["targetCPUUtilizationPercentage"], Value::Null);
    assert_eq!(stored["spec"]["somethingNewer"]["kept"], true);
}

#[test]
fn what_v1_has_no_field_for_is_an_annotation_and_comes_back() {
    let v2 = created(object("autoscaling/v2", "HorizontalPodAutoscaler"));
    let v1 = kind("autoscaling/v1", "HorizontalPodAutoscaler");
    let mut shown = v2.clone();
    v1.from_storage(&mut shown);
    assert_eq!(shown["apiVersion"], "autoscaling/v1");
    assert_eq!(shown["spec"]["targetCPUUtilizationPercentage"], 60);
    let annotation = |name: &str| -> Value {
        let text = shown["metadata"]["annotations"][format!("autoscaling.alpha.kubernetes.io/{name}")].as_str();
        serde_json::from_str(text.unwrap()).unwrap()
    };
    let pods = json!({"metricName": "requests", "targetAverageValue": "100"});
    assert_eq!(annotation("metrics"), json!([{"type": "Pods", "pods": pods}]));
    assert_eq!(annotation("behavior")["ScaleDown"]["StabilizationWindowSeconds"], 60);
    assert_eq!(v1.unknown_fields(&shown), Vec::<String>::new());
    v1.to_storage(&mut shown);
    assert_eq!(shown["spec"], v2["spec"]);
    assert_eq!(shown["metadata"], v2["metadata"]);
}

#[test]
fn behavior_and_metrics_of_an_autoscaler_have_defaults_and_limits() {
    let object = created(object("autoscaling/v2", "HorizontalPodAutoscaler"));
    let behavior = &object["spec"]["behavior"];
    assert_eq!(behavior["scaleDown"]["stabilizationWindowSeconds"], 60);
    assert_eq!(behavior["scaleDown"]["policies"], json!([{"type": "Percent", "value": 100, "periodSeconds": 15}]));
    assert_eq!(behavior["scaleUp"]["selectPolicy"], "Max");
    assert_eq!(behavior["scaleUp"]["policies"].as_array().unwrap().len(), 2);
    let mut bare = object.clone();
    bare["spec"] = json!({"scaleTargetRef": {"kind": "Deployment", "name": "web"}, "maxReplicas": 2});
    kind("autoscaling/v2", "HorizontalPodAutoscaler").default(&mut bare);
    assert_eq!(bare["spec"]["minReplicas"], 1);
    assert_eq!(bare["spec"]["metrics"][0]["resource"]["target"]["averageUtilization"], 80);
    crate::others::refused(
        &object,
        &[
            ("/spec/minReplicas", json!(0), "spec.minReplicas Invalid value: 0: must be greater than or equal to 1"),
            (
                "/spec/minReplicas",
                json!(9),
                "spec.maxReplicas Invalid value: 5: must be greater than or equal to `minReplicas`",
            ),
            ("/spec/scaleTargetRef/name", json!(""), "spec.scaleTargetRef.name Required value"),
            (
                "/spec/metrics/0/resource/target/averageUtilization",
                json!(0),
                "spec.metrics[0].resource.target.averageUtilization Invalid value: 0: must be greater than 0",
            ),
            (
                "/spec/metrics/1/type",
                json!("Mood"),
                "spec.metrics[1].type Unsupported value: \"Mood\": supported values: \"ContainerResource\", \"External\", \"Object\", \"Pods\", \"Resource\"",
            ),
            (
                "/spec/behavior/scaleDown/stabilizationWindowSeconds",
                json!(3601),
                "spec.behavior.scaleDown.stabilizationWindowSeconds Invalid value: 3601: must be less than or equal to 3600",
            ),
        ],
    );
}

#[test]
fn an_event_of_either_group_is_one_of_the_other() {
    let mut sent = object("events.k8s.io/v1", "Event");
    sent["somethingNewer"] = 1.into();
    let (stored, _) = there_and_back(&sent);
    assert_eq!(stored["apiVersion"], "v1");
    assert_eq!(stored["involvedObject"]["name"], "web");
    assert_eq!(stored["message"], "assigned to n1");
    assert_eq!(stored["reportingComponent"], "default-scheduler");
    assert_eq!(stored["somethingNewer"], 1);
    assert_eq!(kind("v1", "Event").unknown_fields(&stored), ["somethingNewer"]);
    let events = kind("events.k8s.io/v1", "Event");
    assert_eq!(events.key("default", "web.2"), kind("v1", "Event").key("default", "web.2"));
    let selector = FieldSelector::parse("regarding.name=web,type!=Warning").unwrap();
    assert!(events.check_field_selector(&selector).is_ok());
    let stored_selector = events.storage_fields(selector);
    assert!(stored_selector.matches(|path| kind("v1", "Event").field(&stored, path)));
    assert!(events.check_field_selector(&FieldSelector::parse("involvedObject.name=web").unwrap()).is_err());
}

#[test]
fn events_of_the_newer_group_say_who_reports_what_and_when() {
    let sent = object("events.k8s.io/v1", "Event");
    let (stored, _) = there_and_back(&sent);
    let events = kind("events.k8s.io/v1", "Event");
    assert!(events.check_converted(&stored, None).is_ok());
    for (field, named) in [
        ("eventTime", "eventTime"),
        ("reportingComponent", "reportingController"),
        ("reportingInstance", "reportingInstance"),
        ("action", "action"),
        ("reason", "reason"),
        ("type", "type"),
    ] {
        let mut without = stored.clone();
        without[field] = Value::Null;
        let failure = events.check_converted(&without, None).unwrap_err();
        assert_eq!(failure.causes()[0].field.as_deref(), Some(named));
    }
    let mut elsewhere = created(object("v1", "Event"));
    elsewhere["involvedObject"]["namespace"] = "other".into();
    assert_eq!(
        crate::wrong(&elsewhere, None),
        ["involvedObject.namespace Invalid value: \"other\": does not match event.namespace"]
    );
}
