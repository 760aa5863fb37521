//! The level `baseline`: no known way from a pod to its node.

use std::collections::BTreeSet;

use serde_json::Value;

use super::pod::{Pod, Problem, bad_contexts, containers, plural, quoted, setters, text};
use crate::admission::resources::items;

const CAPABILITIES: [&str; 13] = [
    "AUDIT_WRITE",
    "CHOWN",
    "DAC_OVERRIDE",
    "FOWNER",
    "FSETID",
    "KILL",
    "MKNOD",
    "NET_BIND_SERVICE",
    "SETFCAP",
    "SETGID",
    "SETPCAP",
    "SETUID",
    "SYS_CHROOT",
];
/// What may be set, and the first minor version of the standards that says so.
const SYSCTLS: [(&str, u32); 12] = [
    ("kernel.shm_rmid_forced", 0),
    ("net.ipv4.ip_local_port_range", 0),
    ("net.ipv4.tcp_syncookies", 0),
    ("net.ipv4.ping_group_range", 0),
    ("net.ipv4.ip_unprivileged_port_start", 0),
    ("net.ipv4.ip_local_reserved_ports", 27),
    ("net.ipv4.tcp_keepalive_time", 29),
    ("net.ipv4.tcp_fin_timeout", 29),
    ("net.ipv4.tcp_keepalive_intvl", 29),
    ("net.ipv4.tcp_keepalive_probes", 29),
    ("net.ipv4.tcp_rmem", 32),
    ("net.ipv4.tcp_wmem", 32),
];
/// As for sysctls.
const SELINUX_TYPES: [(&str, u32); 5] =
    [("", 0), ("container_t", 0), ("container_init_t", 0), ("container_kvm_t", 0), ("container_engine_t", 31)];
const APPARMOR: &str = "container.apparmor.security.beta.kubernetes.io/";

pub(super) fn app_armor(pod: &Pod<'_>) -> Option<Problem> {
    let bad = |context: &Value| {
        let profile = &context["appArmorProfile"];
        profile.is_object() && !matches!(text(&profile["type"]), "RuntimeDefault" | "Localhost")
    };
    let kind = |context: &Value| text(&context["appArmorProfile"]["type"]).to_owned();
    let mut values = BTreeSet::new();
    let mut who = Vec::new();
    if bad(&pod.spec["securityContext"]) {
        who.push("pod".to_owned());
        values.insert(kind(&pod.spec["securityContext"]));
    }
    let names = pod.named(|container| {
        let is_bad = bad(&container["securityContext"]);
        values.extend(is_bad.then(|| kind(&container["securityContext"])));
        is_bad
    });
    who.extend((!names.is_empty()).then(|| containers(&names)));
    let allowed = |value: &str| matches!(value, "" | "runtime/default") || value.starts_with("localhost/");
    let mut annotations: Vec<String> = pod.metadata["annotations"]
        .as_object()
        .into_iter()
        .flatten()
        .filter(|(key, value)| key.starts_with(APPARMOR) && !allowed(text(value)))
        .map(|(key, value)| format!("{key}={:?}", text(value)))
        .collect();
    annotations.sort();
    who.extend((!annotations.is_empty()).then(|| plural(annotations.len(), "annotation", "annotations").to_owned()));
    if who.is_empty() {
        return None;
    }
    let values: Vec<String> = values.into_iter().chain(annotations).collect();
    let reason = plural(values.len(), "forbidden AppArmor profile", "forbidden AppArmor profiles");
    let detail = format!("{} must not set AppArmor profile type to {}", who.join(" and "), quoted(&values));
    Problem::new(reason, detail)
}

pub(super) fn capabilities(pod: &Pod<'_>) -> Option<Problem> {
    let mut added = BTreeSet::new();
    let names = pod.named(|container| {
        let add = items(&container["securityContext"]["capabilities"]["add"]).map(text);
        let bad: Vec<&str> = add.filter(|name| !CAPABILITIES.contains(name)).collect();
        added.extend(bad.iter().copied());
        !bad.is_empty()
    });
    let detail =
        format!("{} must not include {} in securityContext.capabilities.add", containers(&names), quoted(&added));
    if names.is_empty() { None } else { Problem::new("non-default capabilities", detail) }
}

pub(super) fn host_namespaces(pod: &Pod<'_>) -> Option<Problem> {
    let shared = ["hostNetwork", "hostPID", "hostIPC"].into_iter().filter(|field| pod.spec[*field] == true);
    let shared: Vec<String> = shared.map(|field| format!("{field}=true")).collect();
    if shared.is_empty() { None } else { Problem::new("host namespaces", shared.join(", ")) }
}

pub(super) fn host_paths(pod: &Pod<'_>) -> Option<Problem> {
    let volumes = items(&pod.spec["volumes"]).filter(|volume| volume["hostPath"].is_object());
    let names: Vec<&str> = volumes.map(|volume| text(&volume["name"])).collect();
    let detail = format!("{} {}", plural(names.len(), "volume", "volumes"), quoted(&names));
    if names.is_empty() { None } else { Problem::new("hostPath volumes", detail) }
}

pub(super) fn host_ports(pod: &Pod<'_>) -> Option<Problem> {
    let mut ports = BTreeSet::new();
    let names = pod.named(|container| {
        let own = items(&container["ports"]).filter_map(|port| port["hostPort"].as_i64());
        let bad: Vec<String> = own.filter(|port| *port != 0).map(|port| port.to_string()).collect();
        let is_bad = !bad.is_empty();
        ports.extend(bad);
        is_bad
    });
    if names.is_empty() {
        return None;
    }
    let detail = format!(
        "{} {} {} {}",
        containers(&names),
        plural(names.len(), "uses", "use"),
        plural(ports.len(), "hostPort", "hostPorts"),
        ports.into_iter().collect::<Vec<_>>().join(", ")
    );
    Problem::new("hostPort", detail)
}

/// Probes and hooks reach out from the node's network.
pub(super) fn probe_hosts(pod: &Pod<'_>) -> Option<Problem> {
    if pod.minor < 34 {
        return None;
    }
    const HANDLERS: [&str; 5] =
        ["/livenessProbe", "/readinessProbe", "/startupProbe", "/lifecycle/postStart", "/lifecycle/preStop"];
    let mut hosts = BTreeSet::new();
    let names: BTreeSet<&str> = pod
        .named(|container| {
            let handlers = HANDLERS.iter().filter_map(|path| container.pointer(path));
            let own = handlers.flat_map(|handler| [&handler["httpGet"]["host"], &handler["tcpSocket"]["host"]]);
            let bad: Vec<&str> = own.map(text).filter(|host| !host.is_empty()).collect();
            hosts.extend(bad.iter().copied());
            !bad.is_empty()
        })
        .into_iter()
        .collect();
    if names.is_empty() {
        return None;
    }
    let names: Vec<&str> = names.into_iter().collect();
    let detail = format!(
        "{} {} {} {}",
        containers(&names),
        plural(names.len(), "uses", "use"),
        plural(hosts.len(), "probe or lifecycle host", "probe or lifecycle hosts"),
        quoted(&hosts)
    );
    Problem::new("probe or lifecycle host", detail)
}

pub(super) fn privileged(pod: &Pod<'_>) -> Option<Problem> {
    let names = pod.named(|container| container["securityContext"]["privileged"] == true);
    let detail = format!("{} must not set securityContext.privileged=true", containers(&names));
    if names.is_empty() { None } else { Problem::new("privileged", detail) }
}

/// All of /proc is harmless where root is nobody.
pub(super) fn proc_mount(pod: &Pod<'_>) -> Option<Problem> {
    if pod.has_own_users() { None } else { unmasked(pod) }
}

pub(super) fn unmasked(pod: &Pod<'_>) -> Option<Problem> {
    let mut kinds = BTreeSet::new();
    let names = pod.named(|container| {
        let own = container["securityContext"]["procMount"].as_str().filter(|kind| *kind != "Default");
        kinds.extend(own);
        own.is_some()
    });
    let detail = format!("{} must not set securityContext.procMount to {}", containers(&names), quoted(&kinds));
    if names.is_empty() { None } else { Problem::new("procMount", detail) }
}

pub(super) fn selinux(pod: &Pod<'_>) -> Option<Problem> {
    let known = |name: &str| SELINUX_TYPES.iter().any(|(own, since)| *own == name && *since <= pod.minor);
    let (mut types, mut user, mut role) = (BTreeSet::new(), false, false);
    let mut bad = |context: &'_ Value| {
        let options = &context["seLinuxOptions"];
        let kind = text(&options["type"]);
        let (has_user, has_role) = (!text(&options["user"]).is_empty(), !text(&options["role"]).is_empty());
        if !known(kind) {
            types.insert(kind.to_owned());
        }
        (user, role) = (user || has_user, role || has_role);
        !known(kind) || has_user || has_role
    };
    let of_pod = bad(&pod.spec["securityContext"]);
    let names = pod.named(|container| bad(&container["securityContext"]));
    let who = setters(of_pod, &names)?;
    let mut what = Vec::new();
    if !types.is_empty() {
        what.push(format!("{} {}", plural(types.len(), "type", "types"), quoted(&types)));
    }
    what.extend(user.then(|| "user may not be set".to_owned()));
    what.extend(role.then(|| "role may not be set".to_owned()));
    let detail = format!("{who} set forbidden securityContext.seLinuxOptions: {}", what.join("; "));
    Problem::new("seLinuxOptions", detail)
}

pub(super) fn seccomp(pod: &Pod<'_>) -> Option<Problem> {
    let (who, values) = bad_contexts(pod, bad_seccomp)?;
    let detail = format!("{who} must not set securityContext.seccompProfile.type to {}", quoted(&values));
    Problem::new("seccompProfile", detail)
}

/// A profile that confines nothing.
pub(super) fn bad_seccomp(context: &Value) -> Option<&str> {
    let profile = context["seccompProfile"].as_object()?;
    let kind = profile.get("type").map_or("", text);
    (!matches!(kind, "RuntimeDefault" | "Localhost")).then_some(kind)
}

pub(super) fn sysctls(pod: &Pod<'_>) -> Option<Problem> {
    let known = |name: &str| SYSCTLS.iter().any(|(own, since)| *own == name && *since <= pod.minor);
    let set = items(&pod.spec["securityContext"]["sysctls"]).map(|sysctl| text(&sysctl["name"]));
    let bad: Vec<&str> = set.filter(|name| !known(name)).collect();
    if bad.is_empty() { None } else { Problem::new("forbidden sysctls", bad.join(", ")) }
}

pub(super) fn host_process(pod: &Pod<'_>) -> Option<Problem> {
    let bad = |context: &Value| context["windowsOptions"]["hostProcess"] == true;
    let names = pod.named(|container| bad(&container["securityContext"]));
    let who = setters(bad(&pod.spec["securityContext"]), &names)?;
    Problem::new("hostProcess", format!("{who} must not set securityContext.windowsOptions.hostProcess=true"))
}
