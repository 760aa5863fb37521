//! The level `restricted`: what hardened pods do without.

use std::collections::BTreeSet;

use serde_json::Value;

use super::baseline;
use super::pod::{Pod, Problem, bad_contexts, containers, plural, quoted, setters, text};
use crate::admission::resources::items;

const VOLUMES: [&str; 9] = [
    "configMap",
    "csi",
    "downwardAPI",
    "emptyDir",
    "ephemeral",
    "image",
    "persistentVolumeClaim",
    "projected",
    "secret",
];

pub(super) fn escalation(pod: &Pod<'_>) -> Option<Problem> {
    let names = pod.named(|container| container["securityContext"]["allowPrivilegeEscalation"] != false);
    if pod.is_windows() || names.is_empty() {
        return None;
    }
    let detail = format!("{} must set securityContext.allowPrivilegeEscalation=false", containers(&names));
    Problem::new("allowPrivilegeEscalation != false", detail)
}

pub(super) fn capabilities(pod: &Pod<'_>) -> Option<Problem> {
    if pod.minor < 22 {
        return baseline::capabilities(pod);
    }
    if pod.is_windows() {
        return None;
    }
    let of = |container: &'_ Value| container["securityContext"]["capabilities"].clone();
    let kept = pod.named(|container| items(&of(container)["drop"]).all(|name| name != "ALL"));
    let mut added = BTreeSet::new();
    let adding = pod.named(|container| {
        let own = of(container);
        let bad: Vec<String> =
            items(&own["add"]).map(text).filter(|name| *name != "NET_BIND_SERVICE").map(str::to_owned).collect();
        let is_bad = !bad.is_empty();
        added.extend(bad);
        is_bad
    });
    let mut details = Vec::new();
    if !kept.is_empty() {
        details.push(format!("{} must set securityContext.capabilities.drop=[\"ALL\"]", containers(&kept)));
    }
    if !adding.is_empty() {
        let what = quoted(&added);
        details.push(format!("{} must not include {what} in securityContext.capabilities.add", containers(&adding)));
    }
    if details.is_empty() { None } else { Problem::new("unrestricted capabilities", details.join("; ")) }
}

pub(super) fn volumes(pod: &Pod<'_>) -> Option<Problem> {
    let (mut names, mut kinds) = (Vec::new(), BTreeSet::new());
    for volume in items(&pod.spec["volumes"]) {
        let mut fields =
            volume.as_object().into_iter().flat_map(|fields| fields.keys()).filter(|field| *field != "name");
        if let Some(kind) = fields.next()
            && !VOLUMES.contains(&kind.as_str())
        {
            names.push(text(&volume["name"]));
            kinds.insert(kind.as_str());
        }
    }
    if names.is_empty() {
        return None;
    }
    let detail = format!(
        "{} {} {} {} {}",
        plural(names.len(), "volume", "volumes"),
        quoted(&names),
        plural(names.len(), "uses", "use"),
        plural(kinds.len(), "restricted volume type", "restricted volume types"),
        quoted(&kinds)
    );
    Problem::new("restricted volume types", detail)
}

pub(super) fn non_root(pod: &Pod<'_>) -> Option<Problem> {
    const REASON: &str = "runAsNonRoot != true";
    if pod.has_own_users() {
        return None;
    }
    let own = |context: &Value| context["runAsNonRoot"].as_bool();
    let of_pod = own(&pod.spec["securityContext"]);
    let explicit = pod.named(|container| own(&container["securityContext"]) == Some(false));
    if let Some(who) = setters(of_pod == Some(false), &explicit) {
        return Problem::new(REASON, format!("{who} must not set securityContext.runAsNonRoot=false"));
    }
    let silent = pod.named(|container| own(&container["securityContext"]).is_none() && of_pod != Some(true));
    if silent.is_empty() {
        return None;
    }
    Problem::new(REASON, format!("pod or {} must set securityContext.runAsNonRoot=true", containers(&silent)))
}

pub(super) fn user(pod: &Pod<'_>) -> Option<Problem> {
    if pod.minor < 23 || pod.has_own_users() {
        return None;
    }
    let root = |context: &Value| context["runAsUser"] == 0;
    let names = pod.named(|container| root(&container["securityContext"]));
    let who = setters(root(&pod.spec["securityContext"]), &names)?;
    Problem::new("runAsUser=0", format!("{who} must not set runAsUser=0"))
}

pub(super) fn seccomp(pod: &Pod<'_>) -> Option<Problem> {
    const REASON: &str = "seccompProfile";
    if pod.is_windows() {
        return None;
    }
    if let Some((who, values)) = bad_contexts(pod, baseline::bad_seccomp) {
        let detail = format!("{who} must not set securityContext.seccompProfile.type to {}", quoted(&values));
        return Problem::new(REASON, detail);
    }
    let set = |context: &Value| context["seccompProfile"].is_object();
    if set(&pod.spec["securityContext"]) {
        return None;
    }
    let silent = pod.named(|container| !set(&container["securityContext"]));
    if silent.is_empty() {
        return None;
    }
    let detail = format!(
        "pod or {} must set securityContext.seccompProfile.type to \"RuntimeDefault\" or \"Localhost\"",
        containers(&silent)
    );
    Problem::new(REASON, detail)
}
