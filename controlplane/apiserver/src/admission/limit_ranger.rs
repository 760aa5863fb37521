//! LimitRanger: what a namespace's LimitRanges say of containers, pods and claims: usual values for what is left out,
//! least and greatest values, and how far a limit may be above a request.

use std::collections::BTreeMap;

use diolkos_api::quantity::{Amount, Quantity};
use diolkos_api::status::Failure;
use serde_json::{Value, json};

use super::resources::{Amounts, amounts, items, of_pod};
use super::{View, Write};

/// Says what was filled in.
const ANNOTATION: &str = "kubernetes.io/limit-ranger";
/// The lists of containers, and what messages call their members.
const CONTAINERS: [(&str, &str); 2] = [("containers", "container"), ("initContainers", "init container")];

/// Gives the containers of a new pod what the namespace has for those that say nothing.
pub(super) fn admit(write: &Write<'_>, pod: &mut Value, view: &View<'_>) -> Result<(), Failure> {
    if !write.is_of_whole("", "pods") || !write.is_create() || !pod["spec"].is_object() {
        return Ok(());
    }
    let mut notes = Vec::new();
    for range in ranges(write, view) {
        let usual = |field: &str| -> BTreeMap<String, Value> {
            let limits = items(&range["spec"]["limits"]).filter(|limit| limit["type"] == "Container");
            let entries = limits.flat_map(|limit| limit[field].as_object().into_iter().flatten());
            entries.map(|(name, amount)| (name.clone(), amount.clone())).collect()
        };
        let (limits, requests) = (usual("default"), usual("defaultRequest"));
        for (list, called) in CONTAINERS {
            for container in pod["spec"][list].as_array_mut().into_iter().flatten() {
                let name = container["name"].as_str().unwrap_or_default().to_owned();
                for (field, usual, noun) in [("requests", &requests, "request"), ("limits", &limits, "limit")] {
                    let set = complete(container, field, usual);
                    if !set.is_empty() {
                        notes.push(format!("{} {noun} for {called} {name}", set.join(", ")));
                    }
                }
            }
        }
    }
    if !notes.is_empty() {
        pod["metadata"]["annotations"][ANNOTATION] = format!("LimitRanger plugin set: {}", notes.join("; ")).into();
    }
    Ok(())
}

/// Sets what a container leaves out, and returns its names.
fn complete(container: &mut Value, field: &str, usual: &BTreeMap<String, Value>) -> Vec<String> {
    let mut set = Vec::new();
    for (name, amount) in usual {
        if container["resources"][field][name.as_str()].is_null() {
            if !container["resources"].is_object() {
                container["resources"] = json!({});
            }
            container["resources"][field][name.as_str()] = amount.clone();
            set.push(name.clone());
        }
    }
    set
}

/// 403 with all that is beyond the ranges.
pub(super) fn validate(write: &Write<'_>, view: &View<'_>) -> Result<(), Failure> {
    let Some(object) = write.new else { return Ok(()) };
    let is_claim = write.is_of_whole("", "persistentvolumeclaims");
    let is_new_pod = write.is_of_whole("", "pods") && write.is_create();
    if !is_claim && !is_new_pod {
        return Ok(());
    }
    let mut problems = Vec::new();
    for range in ranges(write, view) {
        for limit in items(&range["spec"]["limits"]) {
            let limit = Limit::of(limit);
            match (limit.kind.as_str(), is_claim) {
                ("PersistentVolumeClaim", true) => limit.check_claim(object, &mut problems),
                ("Container", false) => {
                    for container in CONTAINERS.iter().flat_map(|(list, _)| items(&object["spec"][*list])) {
                        let resources = &container["resources"];
                        limit.check(&amounts(&resources["requests"]), &amounts(&resources["limits"]), &mut problems);
                    }
                }
                ("Pod", false) => {
                    let spec = &object["spec"];
                    limit.check(&of_pod(spec, "requests"), &of_pod(spec, "limits"), &mut problems);
                }
                _ => {}
            }
        }
    }
    match problems.as_slice() {
        [] => Ok(()),
        [one] => Err(write.refused(one)),
        many => Err(write.refused(&format!("[{}]", many.join(", ")))),
    }
}

fn ranges(write: &Write<'_>, view: &View<'_>) -> Vec<Value> {
    view.list(&format!("/registry/core/limitranges/{}/", write.namespace))
}

/// One item of a LimitRange.
struct Limit {
    kind: String,
    min: Amounts,
    max: Amounts,
    ratio: Amounts,
}

impl Limit {
    fn of(limit: &Value) -> Limit {
        Limit {
            kind: limit["type"].as_str().unwrap_or_default().to_owned(),
            min: amounts(&limit["min"]),
            max: amounts(&limit["max"]),
            ratio: amounts(&limit["maxLimitRequestRatio"]),
        }
    }

    fn check(&self, requests: &Amounts, limits: &Amounts, problems: &mut Vec<String>) {
        for (name, least) in &self.min {
            problems.extend(self.below(name, *least, requests, limits));
        }
        for (name, most) in &self.max {
            let start = format!("maximum {name} usage per {} is {most}", self.kind);
            match (limits.get(name), requests.get(name)) {
                (None, _) => problems.push(format!("{start}.  No limit is specified")),
                (Some(limit), _) if limit.quantity > most.quantity => {
                    problems.push(format!("{start}, but limit is {limit}"));
                }
                (_, Some(request)) if request.quantity > most.quantity => {
                    problems.push(format!("{start}, but request is {request}"));
                }
                _ => {}
            }
        }
        for (name, most) in &self.ratio {
            problems.extend(self.apart(name, *most, requests.get(name), limits.get(name)));
        }
    }

    fn check_claim(&self, claim: &Value, problems: &mut Vec<String>) {
        let requests = amounts(&claim["spec"]["resources"]["requests"]);
        for (name, least) in &self.min {
            problems.extend(self.below(name, *least, &requests, &Amounts::new()));
        }
        for (name, most) in &self.max {
            let start = format!("maximum {name} usage per {} is {most}", self.kind);
            match requests.get(name) {
                None => problems.push(format!("{start}.  No request is specified")),
                Some(request) if request.quantity > most.quantity => {
                    problems.push(format!("{start}, but request is {request}"));
                }
                Some(_) => {}
            }
        }
    }

    fn below(&self, name: &str, least: Amount, requests: &Amounts, limits: &Amounts) -> Option<String> {
        let start = format!("minimum {name} usage per {} is {least}", self.kind);
        match (requests.get(name), limits.get(name)) {
            (None, _) => Some(format!("{start}.  No request is specified")),
            (Some(request), _) if request.quantity < least.quantity => {
                Some(format!("{start}, but request is {request}"))
            }
            (_, Some(limit)) if limit.quantity < least.quantity => Some(format!("{start}, but limit is {limit}")),
            _ => None,
        }
    }

    /// How far the limit is above the request.
    fn apart(&self, name: &str, most: Amount, request: Option<&Amount>, limit: Option<&Amount>) -> Option<String> {
        let start = format!("{name} max limit to request ratio per {} is {most}", self.kind);
        let given = |amount: Option<&Amount>| amount.filter(|amount| amount.quantity != Quantity::ZERO).copied();
        let Some(request) = given(request) else {
            return Some(format!("{start}, but no request is specified or request is 0"));
        };
        let Some(limit) = given(limit) else {
            return Some(format!("{start}, but no limit is specified or limit is 0"));
        };
        let ratio = limit.quantity.milli() as f64 / request.quantity.milli() as f64;
        (ratio * 1000.0 > most.quantity.milli() as f64).then(|| format!("{start}, but provided ratio is {ratio:.6}"))
    }
}
