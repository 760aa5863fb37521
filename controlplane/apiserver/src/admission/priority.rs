//! Priority: a pod has the priority of its class, and there is at most one class for pods that name none.

use diolkos_api::status::Failure;
use serde_json::{Value, json};

use super::{View, Write};

const CLASSES: &str = "/registry/scheduling.k8s.io/priorityclasses/";
const USUAL_POLICY: &str = "PreemptLowerPriority";

/// Resolves the class of a new pod. A later writer may leave out what was resolved.
pub(super) fn admit(write: &Write<'_>, pod: &mut Value, view: &View<'_>) -> Result<(), Failure> {
    if !write.is_of_whole("", "pods") || !pod["spec"].is_object() {
        return Ok(());
    }
    if let Some(old) = write.old {
        for field in ["priority", "preemptionPolicy"] {
            if pod["spec"][field].is_null() && !old["spec"][field].is_null() {
                pod["spec"][field] = old["spec"][field].clone();
            }
        }
        return Ok(());
    }
    let class = match pod["spec"]["priorityClassName"].as_str().unwrap_or_default() {
        "" => default_class(view),
        name => match view.get(&format!("{CLASSES}{name}")) {
            None => return Err(write.refused(&format!("no PriorityClass with name {name} was found"))),
            class => class,
        },
    };
    let class = class.unwrap_or_else(|| json!({"value": 0}));
    let spec = &mut pod["spec"];
    if let Some(name) = class["metadata"]["name"].as_str() {
        spec["priorityClassName"] = name.into();
    }
    let priority = class["value"].as_i64().unwrap_or(0);
    if let Some(given) = spec["priority"].as_i64().filter(|given| *given != priority) {
        return Err(write.refused(&format!(
            "the integer value of priority ({given}) must not be provided in pod spec; priority admission controller \
             computed {priority} from the given PriorityClass name"
        )));
    }
    spec["priority"] = priority.into();
    let policy = class["preemptionPolicy"].as_str().unwrap_or(USUAL_POLICY);
    if let Some(given) = spec["preemptionPolicy"].as_str().filter(|given| *given != policy) {
        return Err(write.refused(&format!(
            "the string value of PreemptionPolicy ({given}) must not be provided in pod spec; priority admission \
             controller computed {policy} from the given PriorityClass name"
        )));
    }
    spec["preemptionPolicy"] = policy.into();
    Ok(())
}

/// A second class may not be that of pods that name none.
pub(super) fn validate(write: &Write<'_>, view: &View<'_>) -> Result<(), Failure> {
    if !write.is_of_whole("scheduling.k8s.io", "priorityclasses") {
        return Ok(());
    }
    if write.new.is_none_or(|class| class["globalDefault"] != true) {
        return Ok(());
    }
    match default_class(view).as_ref().and_then(|class| class["metadata"]["name"].as_str()) {
        Some(other) if other != write.name => {
            Err(write
                .refused(&format!("PriorityClass {other} is already marked as default. Only one default can exist")))
        }
        _ => Ok(()),
    }
}

/// The class of pods that name none; of several, which a race may leave, the lowest.
fn default_class(view: &View<'_>) -> Option<Value> {
    let defaults = view.list(CLASSES).into_iter().filter(|class| class["globalDefault"] == true);
    defaults.min_by_key(|class| class["value"].as_i64().unwrap_or(0))
}
