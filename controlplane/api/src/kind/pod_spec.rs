//! Rules of a pod's specification, in pods and in the templates of their owners.

mod affinity;
mod container;
mod default;
mod probe;
mod volume;

use std::collections::HashSet;

use serde_json::Value;

use super::rule::At;
use super::workload::label_selector;
use super::{Causes, names};

pub(super) use default::{default, default_of_pod};

/// The lists of containers that a pod starts with.
pub(super) const CONTAINER_LISTS: [&str; 2] = ["initContainers", "containers"];

/// Everything that is wrong with a pod specification at `path`.
pub(super) fn validate(spec: &Value, path: &str, causes: &mut Causes) {
    let spec = At::new(spec, path);
    let volumes = volume::validate(&spec.field("volumes"), causes);
    let host_network = spec.value["hostNetwork"] == true;
    if spec.field("containers").is_empty() {
        causes.required(format!("{path}.containers"), "");
    }
    let mut seen = HashSet::new();
    for list in CONTAINER_LISTS {
        for container in spec.field(list).items() {
            container.field("name").unique(&mut seen, causes);
            container::validate(&container, list, &volumes, host_network, causes);
        }
    }
    container::validate_host_ports(&spec, causes);
    spec.field("restartPolicy").one_of(&["Always", "Never", "OnFailure"], causes);
    spec.field("dnsPolicy").one_of(&["ClusterFirst", "ClusterFirstWithHostNet", "Default", "None"], causes);
    validate_dns(&spec, causes);
    spec.field("terminationGracePeriodSeconds").not_negative(causes);
    spec.field("activeDeadlineSeconds").within(1, i32::MAX.into(), causes);
    validate_names(&spec, causes);
    let selector = spec.field("nodeSelector");
    super::meta::labels(selector.value, &selector.path, causes);
    for toleration in spec.field("tolerations").items() {
        validate_toleration(toleration.value, &toleration.path, causes);
    }
    affinity::validate(&spec.field("affinity"), causes);
    validate_spread(&spec.field("topologySpreadConstraints"), causes);
    validate_security(&spec.field("securityContext"), causes);
    validate_hosts(&spec, causes);
    for gate in spec.field("readinessGates").items() {
        let type_ = gate.field("conditionType");
        causes.invalid_each(&type_.path, type_.text(), names::qualified_name(type_.text()));
    }
    let mut gates = HashSet::new();
    for gate in spec.field("schedulingGates").items() {
        let name = gate.field("name");
        causes.invalid_each(&name.path, name.text(), names::qualified_name(name.text()));
        name.unique(&mut gates, causes);
    }
    spec.field("os").field("name").one_of(&["linux", "windows"], causes);
    spec.field("preemptionPolicy").one_of(&["Never", "PreemptLowerPriority"], causes);
    container::validate_amounts(&spec.field("overhead"), causes);
}

/// What is wrong with the containers that were added to a running pod.
pub(super) fn validate_ephemeral(spec: &Value, path: &str, causes: &mut Causes) {
    let spec = At::new(spec, path);
    let volumes: HashSet<&str> =
        spec.field("volumes").items().iter().map(|volume| volume.field("name").text()).collect();
    let mut seen: HashSet<&str> =
        CONTAINER_LISTS.iter().flat_map(|list| spec.field(list).items()).map(|own| own.field("name").text()).collect();
    let targets = seen.clone();
    for container in spec.field("ephemeralContainers").items() {
        container.field("name").unique(&mut seen, causes);
        container::validate(&container, "ephemeralContainers", &volumes, false, causes);
        let target = container.field("targetContainerName");
        if !target.is_empty() && !targets.contains(target.text()) {
            causes.not_found(&target.path, target.text());
        }
        for field in ["ports", "livenessProbe", "readinessProbe", "startupProbe", "lifecycle"] {
            if !container.field(field).is_empty() {
                container.field(field).forbidden("cannot be set for an Ephemeral Container", causes);
            }
        }
        if !container.field("resources").is_empty() {
            container.field("resources").forbidden("cannot be set for an Ephemeral Container", causes);
        }
    }
}

/// Names of other objects, and those of the pod's host.
fn validate_names(spec: &At<'_>, causes: &mut Causes) {
    for field in ["nodeName", "serviceAccountName", "priorityClassName", "runtimeClassName"] {
        spec.field(field).each(names::dns_subdomain, causes);
    }
    for field in ["hostname", "subdomain"] {
        spec.field(field).each(names::dns_label, causes);
    }
    for secret in spec.field("imagePullSecrets").items() {
        secret.field("name").each(names::dns_subdomain, causes);
    }
}

fn validate_dns(spec: &At<'_>, causes: &mut Causes) {
    const MOST_SERVERS: usize = 3;
    const MOST_SEARCHES: usize = 32;
    let config = spec.field("dnsConfig");
    let (servers, searches) = (config.field("nameservers"), config.field("searches"));
    if spec.value["dnsPolicy"] == "None" && servers.is_empty() {
        let why = "must provide at least one DNS nameserver when `dnsPolicy` is None";
        causes.required(format!("{}.dnsConfig.nameservers", spec.path), why);
    }
    if servers.items().len() > MOST_SERVERS {
        servers.invalid(format!("must not have more than {MOST_SERVERS} nameservers"), causes);
    }
    if searches.items().len() > MOST_SEARCHES {
        searches.invalid(format!("must not have more than {MOST_SEARCHES} search paths"), causes);
    }
    for server in servers.items() {
        causes.invalid_each(&server.path, server.text(), names::ip(server.text()));
    }
    for search in searches.items() {
        let name = search.text().trim_end_matches('.');
        if search.text() != "." {
            causes.invalid_each(&search.path, search.text(), names::dns_subdomain(&name.replace('_', "-")));
        }
    }
    for option in config.field("options").items() {
        if option.field("name").is_empty() {
            causes.required(&option.path, "must not be empty");
        }
    }
}

fn validate_hosts(spec: &At<'_>, causes: &mut Causes) {
    for alias in spec.field("hostAliases").items() {
        let ip = alias.field("ip");
        causes.invalid_each(&ip.path, ip.text(), names::ip(ip.text()));
        for name in alias.field("hostnames").items() {
            causes.invalid_each(&name.path, name.text(), names::dns_subdomain(name.text()));
        }
    }
}

fn validate_security(context: &At<'_>, causes: &mut Causes) {
    for field in ["runAsUser", "runAsGroup", "fsGroup"] {
        context.field(field).within(0, i32::MAX.into(), causes);
    }
    for group in context.field("supplementalGroups").items() {
        group.within(0, i32::MAX.into(), causes);
    }
    context.field("fsGroupChangePolicy").one_of(&["Always", "OnRootMismatch"], causes);
    context.field("supplementalGroupsPolicy").one_of(&["Merge", "Strict"], causes);
    container::validate_seccomp(&context.field("seccompProfile"), causes);
    let mut seen = HashSet::new();
    for sysctl in context.field("sysctls").items() {
        let name = sysctl.field("name");
        if name.required("", causes) {
            name.unique(&mut seen, causes);
        }
    }
}

fn validate_spread(constraints: &At<'_>, causes: &mut Causes) {
    let mut seen = HashSet::new();
    for constraint in constraints.items() {
        let skew = constraint.field("maxSkew");
        let number = skew.number().unwrap_or(0);
        if number <= 0 {
            causes.invalid(&skew.path, number, "must be greater than zero");
        }
        let key = constraint.field("topologyKey");
        if key.required("can not be empty", causes) {
            key.each(names::qualified_name, causes);
        }
        let when = constraint.field("whenUnsatisfiable");
        if !matches!(when.text(), "DoNotSchedule" | "ScheduleAnyway") {
            causes.unsupported(&when.path, when.text(), &["DoNotSchedule", "ScheduleAnyway"]);
        }
        if !seen.insert((key.text(), when.text())) {
            let pair = format!("{{{}, {}}}", key.text(), when.text());
            causes.duplicate(format!("{}.{{topologyKey, whenUnsatisfiable}}", constraint.path), pair);
        }
        let domains = constraint.field("minDomains");
        if domains.number().is_some_and(|number| number <= 0) {
            domains.invalid("must be greater than zero", causes);
        }
        if domains.is_set() && when.text() == "ScheduleAnyway" {
            let why = "can only use minDomains if whenUnsatisfiable=DoNotSchedule, not ScheduleAnyway";
            domains.invalid(why, causes);
        }
        for field in ["nodeAffinityPolicy", "nodeTaintsPolicy"] {
            constraint.field(field).one_of(&["Honor", "Ignore"], causes);
        }
        label_selector(&constraint.field("labelSelector"), causes);
    }
}

/// What is wrong with a toleration at `path`.
pub(super) fn validate_toleration(toleration: &Value, path: &str, causes: &mut Causes) {
    let toleration = At::new(toleration, path);
    let (key, operator, value) = (toleration.field("key"), toleration.field("operator"), toleration.field("value"));
    key.each(names::qualified_name, causes);
    if key.is_empty() && operator.text() != "Exists" {
        let why = "operator must be Exists when `key` is empty, which means \"match all values and all keys\"";
        causes.invalid(&operator.path, operator.text(), why);
    }
    let effect = toleration.field("effect");
    if toleration.field("tolerationSeconds").is_set() && effect.text() != "NoExecute" {
        causes.invalid(&effect.path, effect.text(), "effect must be 'NoExecute' when `tolerationSeconds` is set");
    }
    match operator.text() {
        "" | "Equal" => causes.invalid_each(&operator.path, value.text(), names::label_value(value.text())),
        "Exists" if !value.is_empty() => {
            let why = "value must be empty when `operator` is 'Exists'";
            causes.invalid(&operator.path, value.text(), why);
        }
        "Exists" => {}
        other => causes.unsupported(&operator.path, other, &["Equal", "Exists"]),
    }
    effect.one_of(&["NoSchedule", "PreferNoSchedule", "NoExecute"], causes);
}
