//! PodSecurity: the levels of the Pod Security Standards that a namespace's labels ask for. `enforce` refuses pods;
//! `warn` tells the writer, of pods and of what makes pods; `audit` leaves a line in the log.

mod baseline;
mod pod;
mod restricted;

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use diolkos_api::status::{Failure, StatusCause};
use serde_json::Value;

use self::pod::{Pod, Problem};
use super::resources::items;
use super::{View, Write};

const PREFIX: &str = "pod-security.kubernetes.io/";
/// Most pods that are looked at when a namespace asks for more.
const MAX_PODS: usize = 3000;
/// Parts of a pod that say nothing of what it may.
const IGNORED_PARTS: [&str; 8] = ["exec", "attach", "binding", "eviction", "log", "portforward", "proxy", "status"];

/// How much a pod may, from most to least.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Level {
    Privileged,
    Baseline,
    Restricted,
}

/// A level of one version of the standards.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Standard {
    level: Level,
    /// The minor version; nothing is the latest.
    minor: Option<u32>,
}

const UNRESTRICTED: Standard = Standard { level: Level::Privileged, minor: None };

impl std::fmt::Display for Standard {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let level = match self.level {
            Level::Privileged => "privileged",
            Level::Baseline => "baseline",
            Level::Restricted => "restricted",
        };
        match self.minor {
            None => write!(formatter, "{level}:latest"),
            Some(minor) => write!(formatter, "{level}:v1.{minor}"),
        }
    }
}

/// What the labels of a namespace ask for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Policy {
    enforce: Standard,
    audit: Standard,
    warn: Standard,
}

impl Policy {
    /// A label that cannot be read asks for the strictest that is enforced; for nothing where it would only be told.
    fn of(namespace: &Value) -> (Policy, Vec<StatusCause>) {
        let labels = &namespace["metadata"]["labels"];
        let mut causes = Vec::new();
        let mut read = |mode: &str, fallback: Level| {
            let mut standard = UNRESTRICTED;
            let label = format!("{PREFIX}{mode}");
            let mut known = false;
            if let Some(value) = labels[label.as_str()].as_str() {
                let level = level(value);
                known = level.is_some();
                standard.level = level.unwrap_or_else(|| {
                    causes.push(unreadable(&label, value, "must be one of privileged, baseline, restricted"));
                    fallback
                });
            }
            let label = format!("{label}-version");
            if let Some(value) = labels[label.as_str()].as_str() {
                standard.minor = minor(value).unwrap_or_else(|| {
                    causes.push(unreadable(&label, value, "must be \"latest\" or \"v1.x\""));
                    None
                });
            }
            (standard, known)
        };
        let (enforce, known) = read("enforce", Level::Restricted);
        let (audit, _) = read("audit", Level::Privileged);
        let (mut warn, _) = read("warn", Level::Privileged);
        // Who enforces a level wants to hear of it, where only makers of pods are written.
        let says = |label: &str| labels[format!("{PREFIX}{label}")].is_string();
        if !says("warn") && known && enforce.level > warn.level {
            warn.level = enforce.level;
            if !says("warn-version") {
                warn.minor = enforce.minor;
            }
        }
        (Policy { enforce, audit, warn }, causes)
    }
}

fn level(name: &str) -> Option<Level> {
    match name {
        "privileged" => Some(Level::Privileged),
        "baseline" => Some(Level::Baseline),
        "restricted" => Some(Level::Restricted),
        _ => None,
    }
}

fn minor(version: &str) -> Option<Option<u32>> {
    if version == "latest" {
        return Some(None);
    }
    let digits = version.strip_prefix("v1.")?;
    let plain = digits == "0" || !digits.starts_with('0');
    let number = digits.bytes().all(|byte| byte.is_ascii_digit()) && plain;
    digits.parse().ok().filter(|_| number).map(Some)
}

fn unreadable(label: &str, value: &str, why: &str) -> StatusCause {
    StatusCause {
        reason: Some("FieldValueInvalid".into()),
        message: Some(format!("Invalid value: {value:?}: {why}")),
        field: Some(format!("metadata.labels[{label}]")),
    }
}

/// 403 for a pod beyond the level that its namespace enforces, 422 for a namespace that asks for a level nobody knows.
pub(super) fn validate(write: &Write<'_>, view: &View<'_>) -> Result<(), Failure> {
    let Some(object) = write.new else { return Ok(()) };
    if write.is_of_whole("", "namespaces") {
        let (_, causes) = Policy::of(object);
        let before = write.old.map(|old| Policy::of(old).1).unwrap_or_default();
        if !causes.is_empty() && causes != before {
            return Err(Failure::invalid(write.kind, write.name, causes));
        }
        return Ok(());
    }
    if !is_judged_pod(write, object) {
        return Ok(());
    }
    let policy = policy(write, view);
    let problems = problems(policy.audit, object);
    if !problems.is_empty() {
        let (namespace, name, detail) = (write.namespace, write.name, details(&problems));
        tracing::info!(%namespace, pod = %name, "would violate PodSecurity \"{}\": {detail}", policy.audit);
    }
    let problems = self::problems(policy.enforce, object);
    if problems.is_empty() {
        return Ok(());
    }
    Err(write.refused(&format!("violates PodSecurity \"{}\": {}", policy.enforce, details(&problems))))
}

/// What the writer should know of a pod, of what makes pods, and of a namespace that asks for more.
pub(super) fn warn(write: &Write<'_>, view: &View<'_>) -> Vec<String> {
    let Some(object) = write.new else { return Vec::new() };
    if write.is_of_whole("", "namespaces") {
        return standing(write, object, view);
    }
    let pod = if write.is_of("", "pods") {
        is_judged_pod(write, object).then_some(object)
    } else if write.subresource.is_empty() && !write.is_delete() {
        template(write, object)
    } else {
        None
    };
    let Some(pod) = pod else { return Vec::new() };
    let standard = policy(write, view).warn;
    let problems = problems(standard, pod);
    if problems.is_empty() {
        return Vec::new();
    }
    vec![format!("would violate PodSecurity \"{standard}\": {}", details(&problems))]
}

fn policy(write: &Write<'_>, view: &View<'_>) -> Policy {
    let namespace = view.get(&format!("/registry/core/namespaces/{}", write.namespace));
    Policy::of(&namespace.unwrap_or(Value::Null)).0
}

/// New, or with other containers than before.
fn is_judged_pod(write: &Write<'_>, pod: &Value) -> bool {
    if !write.is_of("", "pods") || write.is_delete() || IGNORED_PARTS.contains(&write.subresource) {
        return false;
    }
    let Some(old) = write.old else { return true };
    let images = |pod: &Value, list: &str| -> BTreeMap<String, String> {
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        items(&pod["spec"][list]).map(|container| (text(&container["name"]), text(&container["image"]))).collect()
    };
    ["containers", "initContainers", "ephemeralContainers"].iter().any(|list| images(pod, list) != images(old, list))
}

/// The pods that an object makes.
fn template<'a>(write: &Write<'_>, object: &'a Value) -> Option<&'a Value> {
    let template = match (write.kind.group.as_str(), write.kind.plural.as_str()) {
        ("", "podtemplates") => &object["template"],
        ("", "replicationcontrollers") | ("apps", "daemonsets" | "deployments" | "replicasets" | "statefulsets") => {
            &object["spec"]["template"]
        }
        ("batch", "jobs") => &object["spec"]["template"],
        ("batch", "cronjobs") => &object["spec"]["jobTemplate"]["spec"]["template"],
        _ => return None,
    };
    template["spec"].is_object().then_some(template)
}

/// The pods of a namespace that are beyond what it begins to enforce.
fn standing(write: &Write<'_>, namespace: &Value, view: &View<'_>) -> Vec<String> {
    let Some(old) = write.old else { return Vec::new() };
    let (new, before) = (Policy::of(namespace).0.enforce, Policy::of(old).0.enforce);
    let stricter = new.minor != before.minor || new.level > before.level;
    if new == before || new.level == Level::Privileged || !stricter {
        return Vec::new();
    }
    let pods = view.list(&format!("/registry/core/pods/{}/", write.name));
    let mut found: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for pod in pods.iter().take(MAX_PODS) {
        let problems = problems(new, pod);
        if !problems.is_empty() {
            let reasons: Vec<&str> = problems.iter().map(|problem| problem.reason).collect();
            let name = pod["metadata"]["name"].as_str().unwrap_or_default().to_owned();
            found.entry(reasons.join(", ")).or_default().push(name);
        }
    }
    let mut warnings = Vec::new();
    if pods.len() > MAX_PODS {
        warnings.push(format!(
            "new PodSecurity enforce level only checked against the first {MAX_PODS} of {} existing pods",
            pods.len()
        ));
    }
    if !found.is_empty() {
        let name = write.name;
        warnings
            .push(format!("existing pods in namespace \"{name}\" violate the new PodSecurity enforce level \"{new}\""));
    }
    let mut lines: Vec<String> = found
        .into_iter()
        .map(|(reasons, mut names)| {
            names.sort();
            match names.as_slice() {
                [one] => format!("{one}: {reasons}"),
                [first, _] => format!("{first} (and 1 other pod): {reasons}"),
                many => format!("{} (and {} other pods): {reasons}", many[0], many.len() - 1),
            }
        })
        .collect();
    lines.sort();
    warnings.extend(lines);
    warnings
}

type Check = fn(&Pod<'_>) -> Option<Problem>;

/// What of a pod is beyond a level, in the order in which Kubernetes tells it.
fn problems(standard: Standard, object: &Value) -> Vec<Problem> {
    const BASELINE: [Check; 12] = [
        baseline::app_armor,
        baseline::capabilities,
        baseline::host_namespaces,
        baseline::host_paths,
        baseline::host_ports,
        baseline::probe_hosts,
        baseline::privileged,
        baseline::proc_mount,
        baseline::selinux,
        baseline::seccomp,
        baseline::sysctls,
        baseline::host_process,
    ];
    /// Without what the further checks ask more of.
    const RESTRICTED: [Check; 14] = [
        baseline::app_armor,
        baseline::host_namespaces,
        baseline::host_ports,
        baseline::probe_hosts,
        baseline::privileged,
        baseline::selinux,
        baseline::sysctls,
        baseline::host_process,
        restricted::escalation,
        restricted::capabilities,
        baseline::unmasked,
        restricted::volumes,
        restricted::non_root,
        restricted::user,
    ];
    let pod = Pod::new(object, standard.minor.unwrap_or(u32::MAX));
    let checks: Vec<Check> = match standard.level {
        Level::Privileged => Vec::new(),
        Level::Baseline => BASELINE.to_vec(),
        Level::Restricted => RESTRICTED.into_iter().chain([restricted::seccomp as Check]).collect(),
    };
    checks.into_iter().filter_map(|check| check(&pod)).collect()
}

/// `reason (detail), reason (detail)`
fn details(problems: &[Problem]) -> String {
    let texts: Vec<String> =
        problems.iter().map(|problem| format!("{} ({})", problem.reason, problem.detail)).collect();
    texts.join(", ")
}
