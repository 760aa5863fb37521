#![allow(clippy::unwrap_used)]

use diolkos_api::kind::Registry;
use diolkos_api::status::Failure;
use serde_json::{Value, json};

use super::{PLUGINS, View, Write};
use crate::stack::{Attributes, User};

/// A cluster for one test: objects by storage key, and what the writer may do.
#[derive(Default)]
pub(super) struct World {
    objects: Vec<(String, Value)>,
    rights: Vec<(&'static str, String)>,
}

impl World {
    pub(super) fn with(mut self, key: &str, object: Value) -> World {
        self.objects.push((key.to_owned(), object));
        self
    }

    pub(super) fn may(mut self, verb: &'static str, name: &str) -> World {
        self.rights.push((verb, name.to_owned()));
        self
    }

    /// What one plugin makes of a write: of "pods", or "pods/status".
    pub(super) fn decide(
        &self,
        plugin: &str,
        what: (&str, &str),
        old: Option<&Value>,
        new: &Value,
    ) -> Result<(Value, Vec<String>), Failure> {
        let (group, plural) = what;
        let (plural, subresource) = plural.split_once('/').unwrap_or((plural, ""));
        let registry = Registry::builtin();
        let kind = registry.find(group, "v1", plural).unwrap();
        let list = |prefix: &str| {
            let found = self
                .objects
                .iter()
                .filter(|(key, _)| if prefix.ends_with('/') { key.starts_with(prefix) } else { key == prefix });
            found.map(|(_, object)| object.clone()).collect()
        };
        let may =
            |asked: &Attributes| self.rights.iter().any(|(verb, name)| *verb == asked.verb && *name == asked.name);
        let view = View::new(&list, &may);
        let user = User::new("somebody", ["system:authenticated"]);
        let verb = if old.is_some() { "update" } else { "create" };
        let name = new["metadata"]["name"].as_str().unwrap_or("x");
        let namespace = if kind.namespaced { "default" } else { "" };
        let write = Write { kind: &kind, namespace, name, subresource, verb, user: &user, new: None, old };
        let plugin = PLUGINS.iter().find(|row| row.name == plugin).unwrap();
        let mut object = new.clone();
        if let Some(mutate) = plugin.mutate {
            mutate(&write, &mut object, &view)?;
        }
        let write = Write { new: Some(&object), ..write };
        if let Some(validate) = plugin.validate {
            validate(&write, &view)?;
        }
        let warnings = plugin.warn.map(|warn| warn(&write, &view)).unwrap_or_default();
        Ok((object, warnings))
    }

    pub(super) fn create(&self, plugin: &str, what: (&str, &str), new: Value) -> Result<Value, String> {
        self.decide(plugin, what, None, &new).map(|(object, _)| object).map_err(|failure| message(&failure))
    }

    pub(super) fn update(&self, plugin: &str, what: (&str, &str), old: &Value, new: Value) -> Result<Value, String> {
        self.decide(plugin, what, Some(old), &new).map(|(object, _)| object).map_err(|failure| message(&failure))
    }
}

fn message(failure: &Failure) -> String {
    assert_eq!(failure.code(), 403);
    failure.status().message.clone().unwrap_or_default()
}

pub(super) const PODS: (&str, &str) = ("", "pods");

pub(super) fn pod(spec: Value) -> Value {
    json!({"metadata": {"name": "web", "namespace": "default"}, "spec": spec})
}

fn class(name: &str, value: i64, default: bool) -> Value {
    json!({"metadata": {"name": name}, "value": value, "globalDefault": default, "preemptionPolicy": "Never"})
}

fn classes() -> World {
    let prefix = "/registry/scheduling.k8s.io/priorityclasses/";
    World::default()
        .with(&format!("{prefix}high"), class("high", 1000, false))
        .with(&format!("{prefix}usual"), class("usual", 10, true))
}

#[test]
fn a_pod_has_the_priority_of_its_class_or_of_the_usual_one() {
    let made = classes().create("Priority", PODS, pod(json!({"priorityClassName": "high"}))).unwrap();
    assert_eq!(made["spec"], json!({"priorityClassName": "high", "priority": 1000, "preemptionPolicy": "Never"}));
    let made = classes().create("Priority", PODS, pod(json!({}))).unwrap();
    assert_eq!(made["spec"], json!({"priorityClassName": "usual", "priority": 10, "preemptionPolicy": "Never"}));
    let made = World::default().create("Priority", PODS, pod(json!({}))).unwrap();
    assert_eq!(made["spec"], json!({"priority": 0, "preemptionPolicy": "PreemptLowerPriority"}));
    let later = World::default().update("Priority", PODS, &made, pod(json!({}))).unwrap();
    assert_eq!(later["spec"], made["spec"], "a later writer may leave it out");
}

#[test]
fn a_pod_does_not_say_its_priority_itself() {
    for (spec, why) in [
        (json!({"priorityClassName": "none"}), "pods \"web\" is forbidden: no PriorityClass with name none was found"),
        (
            json!({"priorityClassName": "high", "priority": 7}),
            "pods \"web\" is forbidden: the integer value of priority (7) must not be provided in pod spec; priority \
             admission controller computed 1000 from the given PriorityClass name",
        ),
        (
            json!({"preemptionPolicy": "PreemptLowerPriority"}),
            "pods \"web\" is forbidden: the string value of PreemptionPolicy (PreemptLowerPriority) must not be \
             provided in pod spec; priority admission controller computed Never from the given PriorityClass name",
        ),
    ] {
        assert_eq!(classes().create("Priority", PODS, pod(spec)).unwrap_err(), why);
    }
}

#[test]
fn one_priority_class_is_the_usual_one() {
    let what = ("scheduling.k8s.io", "priorityclasses");
    assert!(classes().create("Priority", what, class("other", 5, false)).is_ok());
    assert_eq!(
        classes().create("Priority", what, class("other", 5, true)).unwrap_err(),
        "priorityclasses.scheduling.k8s.io \"other\" is forbidden: PriorityClass usual is already marked as default. \
         Only one default can exist"
    );
    let own = class("usual", 10, true);
    assert!(classes().update("Priority", what, &own, own.clone()).is_ok());
}

#[test]
fn a_pod_leaves_a_silent_node_after_five_minutes_unless_it_says_otherwise() {
    let world = World::default();
    let tolerations = |spec: Value| {
        let made = world.create("DefaultTolerationSeconds", PODS, pod(spec)).unwrap();
        made["spec"]["tolerations"].as_array().unwrap().clone()
    };
    let usual =
        |taint: &str| json!({"key": taint, "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 300});
    let (not_ready, unreachable) = (usual("node.kubernetes.io/not-ready"), usual("node.kubernetes.io/unreachable"));
    assert_eq!(tolerations(json!({})), [not_ready.clone(), unreachable.clone()]);
    let own = json!({"key": "node.kubernetes.io/not-ready", "operator": "Exists"});
    assert_eq!(tolerations(json!({"tolerations": [own]})), [own.clone(), unreachable.clone()]);
    let all = json!({"operator": "Exists"});
    assert_eq!(tolerations(json!({"tolerations": [all]})), [all]);
    let scheduling = json!({"operator": "Exists", "effect": "NoSchedule"});
    assert_eq!(tolerations(json!({"tolerations": [scheduling]})), [scheduling, not_ready, unreachable]);
}

#[test]
fn a_pod_gets_what_its_runtime_class_says() {
    let class = json!({
        "metadata": {"name": "vm"}, "handler": "vm",
        "overhead": {"podFixed": {"cpu": "250m", "memory": "64Mi"}},
        "scheduling": {"nodeSelector": {"vm": "yes"}, "tolerations": [{"key": "vm", "operator": "Exists"}]},
    });
    let world = World::default().with("/registry/node.k8s.io/runtimeclasses/vm", class);
    let create = |spec: Value| world.create("RuntimeClass", PODS, pod(spec));
    let made = create(json!({"runtimeClassName": "vm", "nodeSelector": {"a": "b"}})).unwrap();
    assert_eq!(
        made["spec"],
        json!({
            "runtimeClassName": "vm", "nodeSelector": {"a": "b", "vm": "yes"},
            "overhead": {"cpu": "250m", "memory": "64Mi"}, "tolerations": [{"key": "vm", "operator": "Exists"}],
        })
    );
    assert!(create(json!({"runtimeClassName": "vm", "overhead": {"cpu": "0.25", "memory": "64Mi"}})).is_ok());
    for (spec, why) in [
        (json!({"runtimeClassName": "other"}), "pod rejected: RuntimeClass \"other\" not found"),
        (
            json!({"runtimeClassName": "vm", "overhead": {"cpu": "1"}}),
            "pod rejected: Pod's Overhead doesn't match RuntimeClass's defined Overhead",
        ),
        (
            json!({"overhead": {"cpu": "1"}}),
            "pod rejected: Pod Overhead set without corresponding RuntimeClass defined Overhead",
        ),
        (
            json!({"runtimeClassName": "vm", "nodeSelector": {"vm": "no"}}),
            "conflict: runtimeClass.scheduling.nodeSelector[vm] = yes; pod.spec.nodeSelector[vm] = no",
        ),
    ] {
        assert_eq!(create(spec).unwrap_err(), format!("pods \"web\" is forbidden: {why}"));
    }
}

#[test]
fn a_claim_and_an_ingress_that_name_no_class_get_the_newest_usual_one() {
    let usual = |name: &str, made: &str, key: &str| json!({"metadata": {"name": name, "creationTimestamp": made, "annotations": {key: "true"}}});
    let (storage, ingress) =
        ("storageclass.kubernetes.io/is-default-class", "ingressclass.kubernetes.io/is-default-class");
    let world = World::default()
        .with("/registry/storage.k8s.io/storageclasses/a", usual("a", "2026-01-01T00:00:00Z", storage))
        .with("/registry/storage.k8s.io/storageclasses/b", usual("b", "2026-02-01T00:00:00Z", storage))
        .with("/registry/storage.k8s.io/storageclasses/c", usual("c", "2026-02-01T00:00:00Z", storage))
        .with("/registry/storage.k8s.io/storageclasses/d", json!({"metadata": {"name": "d"}}))
        .with("/registry/networking.k8s.io/ingressclasses/web", usual("web", "2026-01-01T00:00:00Z", ingress));
    let claims = ("", "persistentvolumeclaims");
    let named = |spec: Value| world.create("DefaultStorageClass", claims, pod(spec)).unwrap()["spec"].clone();
    assert_eq!(named(json!({})), json!({"storageClassName": "b"}));
    assert_eq!(named(json!({"storageClassName": ""})), json!({"storageClassName": ""}), "none is wanted");
    let ingresses = ("networking.k8s.io", "ingresses");
    let named = |object: Value| world.create("DefaultIngressClass", ingresses, object).unwrap()["spec"].clone();
    assert_eq!(named(pod(json!({}))), json!({"ingressClassName": "web"}));
    let annotated = json!({"metadata": {"annotations": {"kubernetes.io/ingress.class": "old"}}, "spec": {}});
    assert_eq!(named(annotated), json!({}));
    assert_eq!(World::default().create("DefaultStorageClass", claims, pod(json!({}))).unwrap(), pod(json!({})));
}

#[test]
fn a_claim_grows_when_it_is_bound_and_its_class_can() {
    let class = |can: bool| json!({"metadata": {"name": "c"}, "allowVolumeExpansion": can});
    let world = |can: bool| World::default().with("/registry/storage.k8s.io/storageclasses/c", class(can));
    let claim = |size: &str, phase: &str| {
        let spec = json!({"storageClassName": "c", "resources": {"requests": {"storage": size}}});
        json!({"metadata": {"name": "web"}, "spec": spec, "status": {"phase": phase}})
    };
    let resize = |can: bool, phase: &str, size: &str| {
        let what = ("", "persistentvolumeclaims");
        let old = claim("1Gi", phase);
        world(can).update("PersistentVolumeClaimResize", what, &old, claim(size, phase)).map(drop)
    };
    assert_eq!(resize(true, "Bound", "2Gi"), Ok(()));
    assert_eq!(resize(false, "Pending", "1Gi"), Ok(()), "nothing grows");
    assert!(resize(true, "Pending", "2Gi").unwrap_err().contains("only bound persistent volume claims"));
    assert!(resize(false, "Bound", "2Gi").unwrap_err().contains("must support resize"));
}

#[test]
fn a_certificate_is_approved_and_signed_by_whom_its_signer_allows() {
    let old = json!({"metadata": {"name": "web"}, "spec": {"signerName": "example.com/web"}, "status": {}});
    let (approval, status) = (
        ("certificates.k8s.io", "certificatesigningrequests/approval"),
        ("certificates.k8s.io", "certificatesigningrequests/status"),
    );
    let mut signed = old.clone();
    signed["status"]["certificate"] = "abc".into();
    let nobody = World::default();
    assert_eq!(
        nobody.update("CertificateApproval", approval, &old, old.clone()).unwrap_err(),
        "certificatesigningrequests.certificates.k8s.io \"web\" is forbidden: user not permitted to approve requests \
         with signerName \"example.com/web\""
    );
    assert!(
        nobody.update("CertificateSigning", status, &old, signed.clone()).unwrap_err().contains("permitted to sign")
    );
    assert!(nobody.update("CertificateSigning", status, &old, old.clone()).is_ok(), "nothing is signed");
    for name in ["example.com/web", "example.com/*"] {
        let world = World::default().may("approve", name).may("sign", name);
        assert!(world.update("CertificateApproval", approval, &old, old.clone()).is_ok());
        assert!(world.update("CertificateSigning", status, &old, signed.clone()).is_ok());
    }
    let other = World::default().may("approve", "example.com/other").may("sign", "example.org/*");
    assert!(other.update("CertificateApproval", approval, &old, old.clone()).is_err());
    assert!(other.update("CertificateSigning", status, &old, signed).is_err());
}

#[test]
fn no_certificate_for_clients_makes_an_administrator() {
    use base64::Engine as _;
    let request = |organization: &str, signer: &str| {
        let mut parameters = rcgen::CertificateParams::new(Vec::new()).unwrap();
        parameters.distinguished_name.push(rcgen::DnType::CommonName, "somebody");
        parameters.distinguished_name.push(rcgen::DnType::OrganizationName, organization);
        let key = rcgen::KeyPair::generate().unwrap();
        let pem = parameters.serialize_request(&key).unwrap().pem().unwrap();
        let request = base64::engine::general_purpose::STANDARD.encode(pem);
        json!({"metadata": {"name": "web"}, "spec": {"signerName": signer, "request": request}})
    };
    let what = ("certificates.k8s.io", "certificatesigningrequests");
    let ask = |organization: &str, signer: &str| {
        World::default().create("CertificateSubjectRestriction", what, request(organization, signer)).map(drop)
    };
    let client = "kubernetes.io/kube-apiserver-client";
    assert_eq!(
        ask("system:masters", client).unwrap_err(),
        "certificatesigningrequests.certificates.k8s.io \"web\" is forbidden: use of \
         kubernetes.io/kube-apiserver-client signer with system:masters group is not allowed"
    );
    assert_eq!(ask("developers", client), Ok(()));
    assert_eq!(ask("system:masters", "example.com/own"), Ok(()), "whom that signer serves is its own business");
}

fn range(limits: Value) -> World {
    let range = json!({"metadata": {"name": "r"}, "spec": {"limits": limits}});
    World::default().with("/registry/core/limitranges/default/r", range)
}

fn container(requests: Value, limits: Value) -> Value {
    json!({"name": "c", "resources": {"requests": requests, "limits": limits}})
}

#[test]
fn containers_that_say_nothing_get_what_the_namespace_has_for_them() {
    let world = range(json!([{
        "type": "Container", "default": {"cpu": "1", "memory": "1Gi"}, "defaultRequest": {"cpu": "100m"},
    }]));
    let spec = json!({
        "containers": [{"name": "a"}, container(json!({"cpu": "2"}), json!({"cpu": "3"}))],
        "initContainers": [{"name": "i", "resources": {"limits": {"memory": "2Gi"}}}],
    });
    let made = world.create("LimitRanger", PODS, pod(spec)).unwrap();
    assert_eq!(
        made["spec"],
        json!({
            "containers": [
                {"name": "a", "resources": {"requests": {"cpu": "100m"}, "limits": {"cpu": "1", "memory": "1Gi"}}},
                container(json!({"cpu": "2"}), json!({"cpu": "3", "memory": "1Gi"})),
            ],
            "initContainers": [{
                "name": "i", "resources": {"limits": {"memory": "2Gi", "cpu": "1"}, "requests": {"cpu": "100m"}},
            }],
        })
    );
    assert_eq!(
        made["metadata"]["annotations"]["kubernetes.io/limit-ranger"],
        "LimitRanger plugin set: cpu request for container a; cpu, memory limit for container a; memory limit for \
         container c; cpu request for init container i; cpu limit for init container i"
    );
    assert_eq!(world.update("LimitRanger", PODS, &pod(json!({})), pod(json!({}))).unwrap(), pod(json!({})));
}

#[test]
fn what_is_beyond_the_limits_of_a_namespace_is_refused_with_all_reasons() {
    let of = |kind: &str, field: &str, amounts: Value| range(json!([{"type": kind, field: amounts}]));
    let cpu = |value: &str| json!({"cpu": value});
    for (world, request, limit, why) in [
        (of("Container", "min", cpu("1")), cpu("2"), json!({}), ""),
        (
            of("Container", "min", cpu("1")),
            json!({}),
            json!({}),
            "minimum cpu usage per Container is 1.  No request is specified",
        ),
        (
            of("Container", "min", cpu("0.5")),
            cpu("0.1"),
            json!({}),
            "minimum cpu usage per Container is 500m, but request is 100m",
        ),
        (of("Pod", "min", cpu("3")), cpu("1"), json!({}), "minimum cpu usage per Pod is 3, but request is 2"),
        (of("Container", "max", cpu("1")), cpu("1"), cpu("1"), ""),
        (
            of("Container", "max", cpu("1")),
            json!({}),
            json!({}),
            "maximum cpu usage per Container is 1.  No limit is specified",
        ),
        (of("Container", "max", cpu("1")), json!({}), cpu("2"), "maximum cpu usage per Container is 1, but limit is 2"),
        (of("Pod", "max", cpu("1")), json!({}), cpu("1"), "maximum cpu usage per Pod is 1, but limit is 2"),
        (of("Container", "maxLimitRequestRatio", cpu("2")), cpu("1"), cpu("2"), ""),
        (
            of("Container", "maxLimitRequestRatio", cpu("2")),
            cpu("1"),
            cpu("3"),
            "cpu max limit to request ratio per Container is 2, but provided ratio is 3.000000",
        ),
        (
            of("Container", "maxLimitRequestRatio", cpu("2")),
            json!({}),
            cpu("3"),
            "cpu max limit to request ratio per Container is 2, but no request is specified or request is 0",
        ),
        (
            of("Container", "maxLimitRequestRatio", cpu("2")),
            cpu("1"),
            json!({}),
            "cpu max limit to request ratio per Container is 2, but no limit is specified or limit is 0",
        ),
    ] {
        // Two containers: what is wrong with each is told.
        let two = [container(request.clone(), limit.clone()), container(request, limit)];
        let told = world
            .create("LimitRanger", PODS, pod(json!({"containers": two})))
            .map(drop)
            .map_err(|failure| failure.strip_prefix("pods \"web\" is forbidden: ").unwrap().to_owned());
        match why {
            "" => assert_eq!(told, Ok(())),
            why if why.contains("per Pod") => assert_eq!(told, Err(why.into())),
            why => assert_eq!(told, Err(format!("[{why}, {why}]"))),
        }
    }
}

#[test]
fn a_claim_is_as_large_as_its_namespace_allows() {
    let world =
        range(json!([{"type": "PersistentVolumeClaim", "min": {"storage": "1Gi"}, "max": {"storage": "10Gi"}}]));
    let claim = |size: &str| pod(json!({"resources": {"requests": {"storage": size}}}));
    let what = ("", "persistentvolumeclaims");
    let prefix = "persistentvolumeclaims \"web\" is forbidden";
    assert!(world.create("LimitRanger", what, claim("5Gi")).is_ok());
    assert_eq!(
        world.create("LimitRanger", what, claim("1Mi")).unwrap_err(),
        format!("{prefix}: minimum storage usage per PersistentVolumeClaim is 1Gi, but request is 1Mi")
    );
    assert_eq!(
        world.update("LimitRanger", what, &claim("5Gi"), claim("11Gi")).unwrap_err(),
        format!("{prefix}: maximum storage usage per PersistentVolumeClaim is 10Gi, but request is 11Gi")
    );
}

fn account(fields: Value) -> World {
    let mut account = json!({"metadata": {"name": "default"}});
    for (field, value) in fields.as_object().unwrap() {
        account[field] = value.clone();
    }
    World::default().with("/registry/core/serviceaccounts/default/default", account)
}

fn running(mut spec: Value) -> Value {
    spec["containers"] = json!([{"name": "a"}, {"name": "b", "volumeMounts": [
        {"name": "own", "mountPath": "/var/run/secrets/kubernetes.io/serviceaccount"},
    ]}]);
    spec["initContainers"] = json!([{"name": "i"}]);
    let uid = "0a1b2c3d-0000-0000-0000-000000000000";
    json!({"metadata": {"name": "web", "namespace": "default", "uid": uid}, "spec": spec})
}

#[test]
fn a_pod_runs_as_an_account_with_its_token_and_pull_secrets() {
    let world = account(json!({"imagePullSecrets": [{"name": "registry"}]}));
    let made = world.create("ServiceAccount", PODS, running(json!({}))).unwrap();
    let spec = &made["spec"];
    assert_eq!((&spec["serviceAccountName"], &spec["serviceAccount"]), (&json!("default"), &json!("default")));
    assert_eq!(spec["imagePullSecrets"], json!([{"name": "registry"}]));
    let mount = json!([{
        "name": "kube-api-access-0a1b2", "readOnly": true,
        "mountPath": "/var/run/secrets/kubernetes.io/serviceaccount",
    }]);
    assert_eq!((&spec["containers"][0]["volumeMounts"], &spec["initContainers"][0]["volumeMounts"]), (&mount, &mount));
    assert_eq!(spec["containers"][1]["volumeMounts"][0]["name"], "own", "something is there already");
    let volume = &spec["volumes"][0];
    assert_eq!(volume["name"], "kube-api-access-0a1b2");
    let sources = &volume["projected"]["sources"];
    assert_eq!(sources[0], json!({"serviceAccountToken": {"expirationSeconds": 3607, "path": "token"}}));
    assert_eq!(sources[1]["configMap"]["name"], "kube-root-ca.crt");
    assert_eq!(sources[2]["downwardAPI"]["items"][0]["fieldRef"]["fieldPath"], "metadata.namespace");
    let own = running(json!({"imagePullSecrets": [{"name": "mine"}]}));
    assert_eq!(
        world.create("ServiceAccount", PODS, own.clone()).unwrap()["spec"]["imagePullSecrets"],
        own["spec"]["imagePullSecrets"]
    );
}

#[test]
fn a_token_is_mounted_unless_the_pod_or_else_its_account_says_no() {
    for (of_account, of_pod, expected) in [
        (json!({}), json!({}), true),
        (json!({"automountServiceAccountToken": false}), json!({}), false),
        (json!({"automountServiceAccountToken": false}), json!({"automountServiceAccountToken": true}), true),
        (json!({}), json!({"automountServiceAccountToken": false}), false),
    ] {
        let made = account(of_account).create("ServiceAccount", PODS, running(of_pod)).unwrap();
        assert_eq!(made["spec"]["volumes"].is_array(), expected);
    }
}

#[test]
fn no_pod_runs_as_an_account_that_is_not_there_and_no_mirror_pod_as_any() {
    assert_eq!(
        account(json!({})).create("ServiceAccount", PODS, running(json!({"serviceAccountName": "robot"}))).unwrap_err(),
        "pods \"web\" is forbidden: error looking up service account default/robot: serviceaccount \"robot\" not found"
    );
    let mirror = |spec: Value| {
        let mut pod = running(spec);
        pod["metadata"]["annotations"] = json!({"kubernetes.io/config.mirror": "x"});
        World::default().create("ServiceAccount", PODS, pod)
    };
    assert_eq!(mirror(json!({})).unwrap()["spec"].get("serviceAccountName"), None);
    for (spec, why) in [
        (json!({"serviceAccountName": "default"}), "a mirror pod may not reference service accounts"),
        (json!({"volumes": [{"secret": {"secretName": "s"}}]}), "a mirror pod may not reference secrets"),
        (
            json!({"volumes": [{"projected": {"sources": [{"serviceAccountToken": {"path": "t"}}]}}]}),
            "a mirror pod may not use ServiceAccountToken volume projections",
        ),
    ] {
        assert_eq!(mirror(spec).unwrap_err(), format!("pods \"web\" is forbidden: {why}"));
    }
}
