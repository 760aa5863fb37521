#![allow(clippy::unwrap_used)]

use serde_json::json;

use super::super::tests::{PODS, World};
use super::*;

fn plain() -> Value {
    json!({"metadata": {"name": "p"}, "spec": {"containers": [{"name": "c", "image": "i"}]}})
}

fn hardened() -> Value {
    json!({"metadata": {"name": "p"}, "spec": {
        "securityContext": {"runAsNonRoot": true, "seccompProfile": {"type": "RuntimeDefault"}},
        "containers": [{"name": "c", "image": "i", "securityContext": {
            "allowPrivilegeEscalation": false, "capabilities": {"drop": ["ALL"]}}}],
        "volumes": [{"name": "v", "emptyDir": {}}],
    }})
}

fn with(mut pod: Value, pointer: &str, value: Value) -> Value {
    let (parent, field) = pointer.rsplit_once('/').unwrap();
    pod.pointer_mut(parent).unwrap()[field] = value;
    pod
}

fn told(level: Level, minor: Option<u32>, pod: &Value) -> String {
    details(&problems(Standard { level, minor }, pod))
}

fn namespace(labels: Value) -> Value {
    let labels: serde_json::Map<String, Value> =
        labels.as_object().unwrap().iter().map(|(mode, value)| (format!("{PREFIX}{mode}"), value.clone())).collect();
    json!({"metadata": {"name": "default", "labels": labels}})
}

fn world(labels: Value) -> World {
    World::default().with("/registry/core/namespaces/default", namespace(labels))
}

#[test]
fn a_plain_pod_is_baseline_and_a_hardened_one_restricted() {
    assert_eq!(told(Level::Baseline, None, &plain()), "");
    assert_eq!(told(Level::Restricted, None, &hardened()), "");
    assert_eq!(
        told(Level::Restricted, None, &plain()),
        "allowPrivilegeEscalation != false (container \"c\" must set securityContext.allowPrivilegeEscalation=false), \
         unrestricted capabilities (container \"c\" must set securityContext.capabilities.drop=[\"ALL\"]), \
         runAsNonRoot != true (pod or container \"c\" must set securityContext.runAsNonRoot=true), \
         seccompProfile (pod or container \"c\" must set securityContext.seccompProfile.type to \"RuntimeDefault\" or \
         \"Localhost\")"
    );
}

/// Where something is set, to what, and what baseline says of it.
fn ways() -> Vec<(&'static str, Value, &'static str)> {
    let context = "/spec/containers/0/securityContext";
    vec![
        ("/spec/hostNetwork", json!(true), "host namespaces (hostNetwork=true)"),
        ("/spec/volumes", json!([{"name": "v", "hostPath": {"path": "/"}}]), "hostPath volumes (volume \"v\")"),
        (
            "/spec/containers/0/ports",
            json!([{"containerPort": 80, "hostPort": 80}, {"hostPort": 81}]),
            "hostPort (container \"c\" uses hostPorts 80, 81)",
        ),
        (
            "/spec/containers/0/livenessProbe",
            json!({"httpGet": {"host": "10.0.0.1"}}),
            "probe or lifecycle host (container \"c\" uses probe or lifecycle host \"10.0.0.1\")",
        ),
        (
            context,
            json!({"privileged": true}),
            "privileged (container \"c\" must not set securityContext.privileged=true)",
        ),
        (
            context,
            json!({"capabilities": {"add": ["SYS_ADMIN", "CHOWN"]}}),
            "non-default capabilities (container \"c\" must not include \"SYS_ADMIN\" in \
             securityContext.capabilities.add)",
        ),
        (
            context,
            json!({"procMount": "Unmasked"}),
            "procMount (container \"c\" must not set securityContext.procMount to \"Unmasked\")",
        ),
        (
            context,
            json!({"seccompProfile": {"type": "Unconfined"}}),
            "seccompProfile (container \"c\" must not set securityContext.seccompProfile.type to \"Unconfined\")",
        ),
        (
            context,
            json!({"seLinuxOptions": {"type": "spc_t", "user": "u"}}),
            "seLinuxOptions (container \"c\" set forbidden securityContext.seLinuxOptions: type \"spc_t\"; user may \
             not be set)",
        ),
        (
            context,
            json!({"appArmorProfile": {"type": "Unconfined"}}),
            "forbidden AppArmor profile (container \"c\" must not set AppArmor profile type to \"Unconfined\")",
        ),
        (
            context,
            json!({"windowsOptions": {"hostProcess": true}}),
            "hostProcess (container \"c\" must not set securityContext.windowsOptions.hostProcess=true)",
        ),
        (
            "/spec/securityContext",
            json!({"sysctls": [{"name": "kernel.msgmax", "value": "1"}]}),
            "forbidden sysctls (kernel.msgmax)",
        ),
        (
            "/metadata/annotations",
            json!({"container.apparmor.security.beta.kubernetes.io/c": "unconfined"}),
            "forbidden AppArmor profile (annotation must not set AppArmor profile type to \
             \"container.apparmor.security.beta.kubernetes.io/c=\"unconfined\"\")",
        ),
    ]
}

#[test]
fn each_way_to_the_node_is_beyond_both_levels_in_kubernetes_words() {
    for (pointer, value, expected) in ways() {
        let pod = with(plain(), pointer, value.clone());
        assert_eq!(told(Level::Baseline, None, &pod), expected);
        assert_ne!(told(Level::Restricted, None, &with(hardened(), pointer, value)), "");
        assert_eq!(told(Level::Privileged, None, &pod), "");
    }
    for list in ["initContainers", "ephemeralContainers"] {
        let pod =
            with(plain(), &format!("/spec/{list}"), json!([{"name": "i", "securityContext": {"privileged": true}}]));
        assert!(told(Level::Baseline, None, &pod).contains("container \"i\""));
    }
}

#[test]
fn what_a_container_says_counts_before_what_the_pod_says() {
    let context = "/spec/containers/0/securityContext";
    for (field, value, expected) in [
        (
            "runAsNonRoot",
            json!(false),
            "runAsNonRoot != true (container \"c\" must not set securityContext.runAsNonRoot=false)",
        ),
        ("runAsUser", json!(0), "runAsUser=0 (container \"c\" must not set runAsUser=0)"),
        (
            "seccompProfile",
            json!({"type": "Unconfined"}),
            "seccompProfile (container \"c\" must not set securityContext.seccompProfile.type to \"Unconfined\")",
        ),
        (
            "capabilities",
            json!({"drop": ["NET_RAW"], "add": ["CHOWN", "NET_BIND_SERVICE"]}),
            "unrestricted capabilities (container \"c\" must set securityContext.capabilities.drop=[\"ALL\"]; \
             container \"c\" must not include \"CHOWN\" in securityContext.capabilities.add)",
        ),
    ] {
        assert_eq!(told(Level::Restricted, None, &with(hardened(), &format!("{context}/{field}"), value)), expected);
    }
    let nfs = with(hardened(), "/spec/volumes", json!([{"name": "v", "nfs": {}}, {"name": "w", "hostPath": {}}]));
    assert_eq!(
        told(Level::Restricted, None, &nfs),
        "restricted volume types (volumes \"v\", \"w\" use restricted volume types \"hostPath\", \"nfs\")"
    );
}

#[test]
fn a_version_of_the_standards_is_what_it_was() {
    let probe = with(plain(), "/spec/containers/0/livenessProbe", json!({"tcpSocket": {"host": "h"}}));
    assert_eq!(told(Level::Baseline, Some(33), &probe), "");
    assert_ne!(told(Level::Baseline, Some(34), &probe), "");
    let root = with(hardened(), "/spec/containers/0/securityContext/runAsUser", json!(0));
    assert_eq!(told(Level::Restricted, Some(22), &root), "");
    assert_ne!(told(Level::Restricted, Some(23), &root), "");
    let nobody = with(root, "/spec/hostUsers", json!(false));
    assert_ne!(told(Level::Restricted, Some(34), &nobody), "");
    assert_eq!(told(Level::Restricted, Some(35), &nobody), "");
    let windows = with(plain(), "/spec/os", json!({"name": "windows"}));
    assert!(told(Level::Restricted, None, &windows).starts_with("runAsNonRoot != true"), "the rest is of Linux");
}

#[test]
fn labels_choose_the_level_and_one_that_nobody_knows_the_strictest() {
    let of = |labels: Value| Policy::of(&namespace(labels)).0;
    let standard = |level: Level, minor: Option<u32>| Standard { level, minor };
    let none = of(json!({}));
    assert_eq!((none.enforce, none.warn, none.audit), (UNRESTRICTED, UNRESTRICTED, UNRESTRICTED));
    let enforced = of(json!({"enforce": "baseline", "enforce-version": "v1.30"}));
    assert_eq!(enforced.enforce, standard(Level::Baseline, Some(30)));
    assert_eq!(enforced.warn, enforced.enforce, "who enforces hears of it");
    let both = of(json!({"enforce": "baseline", "warn": "privileged"}));
    assert_eq!(both.warn, UNRESTRICTED);
    let wrong = of(json!({"enforce": "Baseline", "warn": "x", "audit": "y", "audit-version": "1.30"}));
    assert_eq!(
        (wrong.enforce.level, wrong.warn.level, wrong.audit.level),
        (Level::Restricted, Level::Privileged, Level::Privileged)
    );
}

#[test]
fn a_namespace_refuses_and_warns_of_pods_beyond_its_levels() {
    let strict = world(json!({"enforce": "baseline", "warn": "restricted"}));
    let host = with(plain(), "/spec/hostNetwork", json!(true));
    assert_eq!(
        strict.create("PodSecurity", PODS, host.clone()).unwrap_err(),
        "pods \"p\" is forbidden: violates PodSecurity \"baseline:latest\": host namespaces (hostNetwork=true)"
    );
    let (_, warnings) = strict.decide("PodSecurity", PODS, None, &plain()).unwrap();
    assert_eq!(warnings.len(), 1);
    assert!(warnings[0].starts_with("would violate PodSecurity \"restricted:latest\": allowPrivilegeEscalation"));
    let labelled = with(host.clone(), "/metadata/labels", json!({"a": "b"}));
    assert!(strict.update("PodSecurity", PODS, &host, labelled).is_ok(), "what it may did not change");
    let other = with(host.clone(), "/spec/containers/0/image", json!("j"));
    assert!(strict.update("PodSecurity", PODS, &host, other.clone()).is_err());
    assert!(strict.update("PodSecurity", ("", "pods/status"), &host, other).is_ok());
    assert!(world(json!({})).create("PodSecurity", PODS, host.clone()).is_ok());

    let deployment = json!({"metadata": {"name": "d"}, "spec": {"template": host.clone()}});
    let (_, warnings) = strict.decide("PodSecurity", ("apps", "deployments"), None, &deployment).unwrap();
    assert!(warnings[0].contains("host namespaces (hostNetwork=true)"), "{warnings:?}");
    let job = json!({"metadata": {"name": "j"}, "spec": {"jobTemplate": {"spec": {"template": host}}}});
    let (_, warnings) = strict.decide("PodSecurity", ("batch", "cronjobs"), None, &job).unwrap();
    assert_eq!(warnings.len(), 1);
}

#[test]
fn a_namespace_that_asks_for_more_is_told_of_its_pods() {
    let host = with(plain(), "/spec/hostPID", json!(true));
    let world = World::default()
        .with("/registry/core/pods/default/a", with(host.clone(), "/metadata/name", json!("a")))
        .with("/registry/core/pods/default/b", with(host, "/metadata/name", json!("b")))
        .with("/registry/core/pods/default/c", plain());
    let what = ("", "namespaces");
    let change = |old: Value, new: Value| world.decide("PodSecurity", what, Some(&namespace(old)), &namespace(new));
    let (_, warnings) = change(json!({}), json!({"enforce": "baseline"})).unwrap();
    assert_eq!(
        warnings,
        [
            "existing pods in namespace \"default\" violate the new PodSecurity enforce level \"baseline:latest\"",
            "a (and 1 other pod): host namespaces",
        ]
    );
    let (_, warnings) = change(json!({"enforce": "restricted"}), json!({"enforce": "baseline"})).unwrap();
    assert_eq!(warnings, [""; 0], "it asks for less");

    let failure = change(json!({}), json!({"enforce": "strict"})).unwrap_err();
    assert_eq!(failure.code(), 422);
    let cause = &failure.causes()[0];
    assert_eq!(cause.field.as_deref(), Some("metadata.labels[pod-security.kubernetes.io/enforce]"));
    assert_eq!(
        cause.message.as_deref(),
        Some("Invalid value: \"strict\": must be one of privileged, baseline, restricted")
    );
    assert!(change(json!({"enforce": "strict"}), json!({"enforce": "strict"})).is_ok(), "it was so before");
}
