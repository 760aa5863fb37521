//! The address families of a Service, as Kubernetes settles them: from what the writer asked for, what the Service had,
//! and what the cluster has. Pure.

use diolkos_api::kind::service::HEADLESS;
use diolkos_api::status::StatusCause;
use serde_json::{Value, json};

use super::range::Family;

const SINGLE: &str = "SingleStack";
const PREFER: &str = "PreferDualStack";
const REQUIRE: &str = "RequireDualStack";

/// Sets `ipFamilyPolicy` and `ipFamilies` of a Service that is no ExternalName, and cuts `clusterIPs` to them. `own`:
/// the families of the cluster, its first one first. What is wrong with the types or the form of the fields is left to
/// the rules of the kind.
pub(super) fn settle(service: &mut Value, old: Option<&Value>, own: &[Family]) -> Vec<StatusCause> {
    let old = old.map(|old| &old["spec"]).filter(|old| old["type"] != "ExternalName");
    let spec = &mut service["spec"];
    if old.is_some_and(|old| keeps_preference(spec, old)) {
        return Vec::new();
    }
    let headless = spec["clusterIP"] == HEADLESS;
    let free = headless && spec["selector"].as_object().is_none_or(serde_json::Map::is_empty);
    if spec["ipFamilyPolicy"].is_null() {
        let had = old.map(|old| &old["ipFamilyPolicy"]).filter(|policy| policy.is_string());
        let default = if free { REQUIRE } else { SINGLE };
        spec["ipFamilyPolicy"] = had.cloned().unwrap_or_else(|| default.into());
    }
    let single = spec["ipFamilyPolicy"] == SINGLE;
    if headless && texts(&spec["ipFamilies"]).is_empty() {
        adopt_families(spec, old);
    }
    let mut causes = Vec::new();
    if let Some(old) = old {
        reduce(spec, old, single, &mut causes);
    }
    if single {
        for (field, what) in [("clusterIPs", "cluster IPs"), ("ipFamilies", "IP families")] {
            if texts(&spec[field]).len() == 2 {
                let why = format!("must be 'RequireDualStack' or 'PreferDualStack' when multiple {what} are specified");
                causes.push(invalid("spec.ipFamilyPolicy", &spec["ipFamilyPolicy"], &why));
            }
        }
    }
    infer(spec, own, &mut causes);
    if !causes.is_empty() {
        return causes;
    }
    if !free {
        causes = unknown_to_the_cluster(spec, own);
    }
    if causes.is_empty() {
        complete(spec, own, free, single);
    }
    causes
}

/// The families as the settled Service names them.
pub(super) fn of(service: &Value) -> Vec<Family> {
    texts(&service["spec"]["ipFamilies"]).into_iter().filter_map(Family::parse).collect()
}

/// A Service that prefers two families and is not touched in this is as it was, also when the cluster has won or lost a
/// family since.
fn keeps_preference(spec: &Value, old: &Value) -> bool {
    let same = |field: &str| spec[field] == old[field];
    spec["ipFamilyPolicy"] == PREFER
        && ["ipFamilyPolicy", "type", "clusterIPs", "ipFamilies"].into_iter().all(same)
        && !texts(&spec["ipFamilies"]).is_empty()
}

/// A headless Service has no addresses that would tell its families: a writer who leaves them out means those it has.
fn adopt_families(spec: &mut Value, old: Option<&Value>) {
    if let Some(had) = old.filter(|old| !texts(&old["ipFamilies"]).is_empty()) {
        spec["ipFamilies"] = had["ipFamilies"].clone();
    }
}

/// The second address and family go when the writer says SingleStack, and only then.
fn reduce(spec: &mut Value, old: &Value, single: bool, causes: &mut Vec<StatusCause>) {
    for (field, what) in [("clusterIPs", "cluster IP"), ("ipFamilies", "IP family")] {
        let given = texts(&spec[field]).len();
        if single && given > 1 && spec[field] == old[field] {
            spec[field] = json!([spec[field][0]]);
        } else if !single && given > 0 && given < texts(&old[field]).len() {
            let why = format!("must be 'SingleStack' to release the secondary {what}");
            causes.push(invalid("spec.ipFamilyPolicy", &spec["ipFamilyPolicy"], &why));
        }
    }
}

/// Families that the addresses tell.
fn infer(spec: &mut Value, own: &[Family], causes: &mut Vec<StatusCause>) {
    let addresses = spec["clusterIPs"].clone();
    let mut families: Vec<String> = texts(&spec["ipFamilies"]).into_iter().map(str::to_owned).collect();
    for (index, address) in texts(&addresses).into_iter().enumerate().skip(families.len()) {
        let Ok(address) = address.parse() else { return };
        let family = Family::of(address);
        if !own.contains(&family) {
            let why = format!("{} is not configured on this cluster", family.name());
            causes.push(invalid(&format!("spec.clusterIPs[{index}]"), &addresses, &why));
        }
        families.push(family.name().into());
    }
    if !families.is_empty() {
        spec["ipFamilies"] = json!(families);
    }
}

fn unknown_to_the_cluster(spec: &Value, own: &[Family]) -> Vec<StatusCause> {
    let mut causes = Vec::new();
    if spec["ipFamilyPolicy"] == REQUIRE && own.len() < 2 {
        let why = "this cluster is not configured for dual-stack services";
        causes.push(invalid("spec.ipFamilyPolicy", &spec["ipFamilyPolicy"], why));
    }
    for (index, name) in texts(&spec["ipFamilies"]).into_iter().enumerate() {
        if Family::parse(name).is_some_and(|family| !own.contains(&family)) {
            causes.push(invalid(&format!("spec.ipFamilies[{index}]"), &name.into(), "not configured on this cluster"));
        }
    }
    causes
}

/// The cluster's first family when none was asked for, and the other one when two are wanted and there. Who writes the
/// endpoints of a headless Service without a selector may do so for a family that the cluster does not have.
fn complete(spec: &mut Value, own: &[Family], free: bool, single: bool) {
    let mut families: Vec<String> = texts(&spec["ipFamilies"]).into_iter().map(str::to_owned).collect();
    if let (true, Some(first)) = (families.is_empty(), own.first()) {
        families.push(first.name().into());
    }
    if let (false, [only]) = (single, families.as_slice())
        && let Some(other) = Family::parse(only).map(Family::other)
        && (free || own.contains(&other))
    {
        families.push(other.name().into());
    }
    spec["ipFamilies"] = json!(families);
}

fn texts(list: &Value) -> Vec<&str> {
    list.as_array().into_iter().flatten().filter_map(Value::as_str).collect()
}

fn invalid(field: &str, value: &Value, why: &str) -> StatusCause {
    StatusCause {
        field: Some(field.into()),
        message: Some(format!("Invalid value: {value}: {why}")),
        reason: Some("FieldValueInvalid".into()),
    }
}

#[cfg(test)]
#[path = "families/tests.rs"]
mod tests;
