//! Pod.

use k8s_openapi::api::core::v1::{Pod, PodTemplate};
use serde_json::{Value, json};

use super::cell::{AGE, NAME, NONE, column, container_fields, labels, text_or, wide};
use super::pod_spec::CONTAINER_LISTS;
use super::row::{PART_VERBS, STATUS, part, row, rules};
use super::rule::{At, copy_part, items, items_mut, set, text};
use super::{Causes, Kind, Rules, SelectableField, Subresource, names, pod_column, pod_spec, workload};
use crate::quantity::Quantity;

pub(super) fn pod() -> Kind {
    let columns = vec![
        NAME,
        column("Ready", "The aggregate readiness state of this pod for accepting traffic.", |pod, now| {
            pod_column::summary(pod, now).ready.into()
        }),
        column("Status", "The aggregate status of the containers in this pod.", |pod, now| {
            pod_column::summary(pod, now).status.into()
        }),
        column("Restarts", "How often its containers were started again, and when last.", |pod, now| {
            pod_column::summary(pod, now).restarts.into()
        }),
        AGE,
        wide("IP", "The address of the pod.", |pod, _| text_or(&pod["status"]["podIP"], NONE)),
        wide("Node", "The node the pod is on.", |pod, _| text_or(&pod["spec"]["nodeName"], NONE)),
        wide("Nominated Node", "The node that is being freed for the pod.", |pod, _| {
            text_or(&pod["status"]["nominatedNodeName"], NONE)
        }),
        wide("Readiness Gates", "Which of the conditions it also waits for are true.", |pod, _| {
            pod_column::readiness_gates(pod).into()
        }),
    ];
    let binding = Subresource { name: "binding", kind: "Binding", group: "", version: "", verbs: &["create"] };
    let eviction =
        Subresource { name: "eviction", kind: "Eviction", group: "policy", version: "v1", verbs: &["create"] };
    let rules = Rules {
        default,
        validate,
        initial_status,
        write_part,
        validate_part: Some(validate_part),
        ..rules::<Pod>(names::dns_subdomain)
    };
    Kind {
        short_names: vec!["po".into()],
        categories: vec!["all".into()],
        subresources: vec![binding, part("ephemeralcontainers", PART_VERBS), eviction, STATUS],
        fields: fields(),
        generation: true,
        ..row::<Pod>("pod", columns, rules)
    }
}

pub(super) fn pod_template() -> Kind {
    let columns = vec![
        NAME,
        column("Containers", "Names of each container in the template.", |object, _| {
            container_fields(&object["template"]["spec"], "name").into()
        }),
        column("Images", "Images referenced by each container in the template.", |object, _| {
            container_fields(&object["template"]["spec"], "image").into()
        }),
        column("Pod Labels", "The labels for the pod template.", |object, _| {
            labels(&object["template"]["metadata"]["labels"]).into()
        }),
    ];
    let rules = Rules {
        default: workload::default_template,
        validate: |object, _, causes| {
            let template = At::root(object).field("template");
            workload::metadata(&template, causes);
            let spec = template.field("spec");
            pod_spec::validate(spec.value, &spec.path, causes);
        },
        ..rules::<PodTemplate>(names::dns_subdomain)
    };
    Kind { generation: true, ..row::<PodTemplate>("podtemplate", columns, rules) }
}

fn default(pod: &mut Value) {
    if let Some(spec) = pod.get_mut("spec") {
        pod_spec::default(spec);
        pod_spec::default_of_pod(spec);
    }
}

fn validate(pod: &Value, old: Option<&Value>, causes: &mut Causes) {
    let Some(old) = old else {
        return pod_spec::validate(&pod["spec"], "spec", causes);
    };
    // What stands is not judged again by the rules of today, but for what may change.
    for list in CONTAINER_LISTS {
        for (index, container) in items(&pod["spec"][list]).iter().enumerate() {
            if text(&container["image"]).is_empty() {
                causes.required(format!("spec.{list}[{index}].image"), "");
            }
        }
    }
    if fixed_part(&pod["spec"]) != fixed_part(&old["spec"]) {
        causes.forbidden(
            "spec",
            "pod updates may not change fields other than `spec.containers[*].image`,\
             `spec.initContainers[*].image`,`spec.activeDeadlineSeconds`,`spec.tolerations` (only additions to \
             existing tolerations),`spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was previously \
             negative)",
        );
    }
    let new = items(&pod["spec"]["tolerations"]);
    if !items(&old["spec"]["tolerations"]).iter().all(|toleration| new.contains(toleration)) {
        causes.forbidden("spec.tolerations", "existing toleration can not be modified except its tolerationSeconds");
    }
}

/// Containers to look into a running pod with are added by a subresource of their own.
fn write_part(part: &str, pod: &mut Value, sent: &Value) {
    if part == "ephemeralcontainers" {
        copy_part(sent, pod, "spec", "ephemeralContainers");
        if let Some(spec) = pod.get_mut("spec") {
            pod_spec::default(spec);
        }
    }
}

fn validate_part(part: &str, pod: &Value, old: &Value, causes: &mut Causes) {
    if part != "ephemeralcontainers" {
        return validate(pod, Some(old), causes);
    }
    let list = At::root(pod).field("spec").field("ephemeralContainers");
    pod_spec::validate_ephemeral(&pod["spec"], "spec", causes);
    let new = items(list.value);
    for had in items(&old["spec"]["ephemeralContainers"]) {
        let name = text(&had["name"]);
        match new.iter().find(|own| own["name"] == had["name"]) {
            None => list.forbidden(&format!("existing ephemeral containers \"{name}\" may not be removed"), causes),
            Some(own) if own != had => {
                list.forbidden(&format!("existing ephemeral containers \"{name}\" may not be changed"), causes);
            }
            Some(_) => {}
        }
    }
}

/// A specification without what updates may change.
fn fixed_part(spec: &Value) -> Value {
    let mut fixed = spec.clone();
    for list in CONTAINER_LISTS {
        for container in items_mut(&mut fixed, list) {
            set(container, "image", Value::Null);
        }
    }
    if let Some(fields) = fixed.as_object_mut() {
        fields.shift_remove("activeDeadlineSeconds");
        fields.shift_remove("tolerations");
    }
    fixed
}

fn initial_status(pod: &Value) -> Option<Value> {
    Some(json!({"phase": "Pending", "qosClass": quality(pod)}))
}

/// The class by which a node chooses what to give up first.
fn quality(pod: &Value) -> &'static str {
    // Defaults may not have been given yet: numbers stand for themselves.
    let amount = |list: &Value, name: &str| {
        let value = &list[name];
        let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        Quantity::parse(&text).ok().filter(|amount| *amount > Quantity::ZERO)
    };
    let (mut any, mut guaranteed) = (false, true);
    for container in CONTAINER_LISTS.into_iter().flat_map(|list| items(&pod["spec"][list])) {
        let resources = &container["resources"];
        for name in ["cpu", "memory"] {
            let limit = amount(&resources["limits"], name);
            // What is limited and not requested is requested as it is limited.
            let request = amount(&resources["requests"], name).or(limit);
            any |= request.is_some();
            guaranteed &= limit.is_some() && request == limit;
        }
    }
    match (any, guaranteed) {
        (false, _) => "BestEffort",
        (true, true) => "Guaranteed",
        (true, false) => "Burstable",
    }
}

fn fields() -> Vec<SelectableField> {
    vec![
        SelectableField { path: "spec.nodeName", value: |pod| text(&pod["spec"]["nodeName"]).into() },
        SelectableField { path: "spec.restartPolicy", value: |pod| text(&pod["spec"]["restartPolicy"]).into() },
        SelectableField { path: "spec.schedulerName", value: |pod| text(&pod["spec"]["schedulerName"]).into() },
        SelectableField {
            path: "spec.serviceAccountName",
            value: |pod| text(&pod["spec"]["serviceAccountName"]).into(),
        },
        SelectableField { path: "spec.hostNetwork", value: |pod| (pod["spec"]["hostNetwork"] == true).to_string() },
        SelectableField { path: "status.phase", value: |pod| text(&pod["status"]["phase"]).into() },
        SelectableField { path: "status.podIP", value: |pod| text(&pod["status"]["podIP"]).into() },
        SelectableField {
            path: "status.nominatedNodeName",
            value: |pod| text(&pod["status"]["nominatedNodeName"]).into(),
        },
    ]
}
