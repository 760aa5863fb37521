//! RuntimeClass: a pod gets the overhead of its class, and goes where the class runs.

use diolkos_api::quantity::Quantity;
use diolkos_api::status::Failure;
use serde_json::{Value, json};

use super::{View, Write};

/// Gives a new pod what its class says.
pub(super) fn admit(write: &Write<'_>, pod: &mut Value, view: &View<'_>) -> Result<(), Failure> {
    let Some(class) = class(write, pod, view)? else { return Ok(()) };
    let overhead = &class["overhead"]["podFixed"];
    if overhead.as_object().is_some_and(|fixed| !fixed.is_empty()) {
        let own = &pod["spec"]["overhead"];
        if own.as_object().is_some_and(|own| !own.is_empty()) && !same_amounts(own, overhead) {
            let why = "pod rejected: Pod's Overhead doesn't match RuntimeClass's defined Overhead";
            return Err(write.refused(why));
        }
        pod["spec"]["overhead"] = overhead.clone();
    }
    let scheduling = &class["scheduling"];
    for (label, value) in scheduling["nodeSelector"].as_object().into_iter().flatten() {
        let own = &pod["spec"]["nodeSelector"][label.as_str()];
        if own.is_string() && own != value {
            let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
            return Err(write.refused(&format!(
                "conflict: runtimeClass.scheduling.nodeSelector[{label}] = {}; pod.spec.nodeSelector[{label}] = {}",
                text(value),
                text(own)
            )));
        }
        pod["spec"]["nodeSelector"][label.as_str()] = value.clone();
    }
    let further = scheduling["tolerations"].as_array().cloned().unwrap_or_default();
    if !further.is_empty() {
        if pod["spec"]["tolerations"].is_null() {
            pod["spec"]["tolerations"] = json!([]);
        }
        if let Some(own) = pod["spec"]["tolerations"].as_array_mut() {
            own.extend(further.into_iter().filter(|toleration| !own.contains(toleration)).collect::<Vec<_>>());
        }
    }
    Ok(())
}

/// A pod has no overhead that its class does not have.
pub(super) fn validate(write: &Write<'_>, view: &View<'_>) -> Result<(), Failure> {
    let Some(pod) = write.new else { return Ok(()) };
    if !write.is_of_whole("", "pods") || !write.is_create() || pod["spec"]["overhead"].is_null() {
        return Ok(());
    }
    let class = class(write, pod, view)?;
    if class.is_none_or(|class| class["overhead"].is_null()) {
        let why = "pod rejected: Pod Overhead set without corresponding RuntimeClass defined Overhead";
        return Err(write.refused(why));
    }
    Ok(())
}

fn class(write: &Write<'_>, pod: &Value, view: &View<'_>) -> Result<Option<Value>, Failure> {
    if !write.is_of_whole("", "pods") || !write.is_create() {
        return Ok(None);
    }
    let Some(name) = pod["spec"]["runtimeClassName"].as_str().filter(|name| !name.is_empty()) else { return Ok(None) };
    match view.get(&format!("/registry/node.k8s.io/runtimeclasses/{name}")) {
        None => Err(write.refused(&format!("pod rejected: RuntimeClass {name:?} not found"))),
        class => Ok(class),
    }
}

fn same_amounts(one: &Value, other: &Value) -> bool {
    let amounts = |list: &Value| -> std::collections::BTreeMap<String, Option<Quantity>> {
        let entries = list.as_object().into_iter().flatten();
        entries
            .map(|(name, amount)| (name.clone(), Quantity::parse(amount.as_str().unwrap_or_default()).ok()))
            .collect()
    };
    amounts(one) == amounts(other)
}
