//! A pod as the checks see it, and the words they share.

use std::collections::BTreeSet;

use serde_json::Value;

use crate::admission::resources::items;

/// A pod or the template of pods, with the minor version of the standards that it is judged by.
pub(super) struct Pod<'a> {
    pub metadata: &'a Value,
    pub spec: &'a Value,
    pub minor: u32,
    containers: Vec<&'a Value>,
}

impl<'a> Pod<'a> {
    pub(super) fn new(pod: &'a Value, minor: u32) -> Pod<'a> {
        let spec = &pod["spec"];
        let lists = ["initContainers", "containers", "ephemeralContainers"];
        let containers = lists.iter().flat_map(|list| items(&spec[*list])).collect();
        Pod { metadata: &pod["metadata"], spec, minor, containers }
    }

    pub(super) fn containers(&self) -> impl Iterator<Item = &'a Value> + '_ {
        self.containers.iter().copied()
    }

    /// The names of the containers for which something holds.
    pub(super) fn named(&self, mut holds: impl FnMut(&'a Value) -> bool) -> Vec<&'a str> {
        let bad = self.containers().filter(|container| holds(container));
        bad.map(|container| text(&container["name"])).collect()
    }

    /// Security contexts of Linux mean nothing there.
    pub(super) fn is_windows(&self) -> bool {
        self.minor >= 25 && self.spec["os"]["name"] == "windows"
    }

    /// Its root is nobody's root on the node.
    pub(super) fn has_own_users(&self) -> bool {
        self.minor >= 35 && self.spec["hostUsers"] == false
    }
}

/// What a check says of a pod that is beyond its level.
pub(super) struct Problem {
    pub reason: &'static str,
    pub detail: String,
}

impl Problem {
    pub(super) fn new(reason: &'static str, detail: impl Into<String>) -> Option<Problem> {
        Some(Problem { reason, detail: detail.into() })
    }
}

pub(super) fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

/// `"a", "b"`
pub(super) fn quoted<T: AsRef<str>>(names: impl IntoIterator<Item = T>) -> String {
    let names: Vec<String> = names.into_iter().map(|name| format!("\"{}\"", name.as_ref())).collect();
    names.join(", ")
}

pub(super) fn plural<'a>(count: usize, one: &'a str, many: &'a str) -> &'a str {
    if count == 1 { one } else { many }
}

/// `containers "a", "b"`
pub(super) fn containers(names: &[&str]) -> String {
    format!("{} {}", plural(names.len(), "container", "containers"), quoted(names))
}

/// `pod and container "a"`; nothing when neither is to blame.
pub(super) fn setters(pod: bool, names: &[&str]) -> Option<String> {
    match (pod, names.is_empty()) {
        (false, true) => None,
        (true, true) => Some("pod".into()),
        (false, false) => Some(containers(names)),
        (true, false) => Some(format!("pod and {}", containers(names))),
    }
}

/// Who sets what a security context may not have, and the values.
pub(super) fn bad_contexts<'a>(
    pod: &Pod<'a>,
    bad: impl Fn(&'a Value) -> Option<&'a str>,
) -> Option<(String, BTreeSet<&'a str>)> {
    let mut values = BTreeSet::new();
    let of_pod = bad(&pod.spec["securityContext"]);
    values.extend(of_pod);
    let names = pod.named(|container| {
        let value = bad(&container["securityContext"]);
        values.extend(value);
        value.is_some()
    });
    setters(of_pod.is_some(), &names).map(|who| (who, values))
}
