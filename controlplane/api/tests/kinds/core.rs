//! Secrets, accounts, quotas, limits, endpoints, volumes and events.

use serde_json::{Value, json};

use crate::every::object;
use crate::others::{refused, refused_later};
use crate::{created, kind, pod, wrong};

#[test]
fn a_secret_holds_what_its_type_asks_for() {
    let secret = created(object("v1", "Secret"));
    assert_eq!(secret["type"], "Opaque");
    assert_eq!(secret["data"], json!({"k": "c2VjcmV0"}));
    assert_eq!(secret["stringData"], Value::Null);
    let of_type = |type_: &str, data: Value| {
        let mut secret = secret.clone();
        (secret["type"], secret["data"]) = (type_.into(), data);
        wrong(&secret, None)
    };
    assert_eq!(of_type("kubernetes.io/tls", json!({"tls.crt": ""})), ["data[tls.key] Required value"]);
    assert_eq!(
        of_type("kubernetes.io/basic-auth", json!({})),
        ["data[username] Required value", "data[password] Required value"]
    );
    assert_eq!(of_type("kubernetes.io/basic-auth", json!({"username": "eA=="})), Vec::<String>::new());
    assert_eq!(of_type("kubernetes.io/ssh-auth", json!({})), ["data[ssh-privatekey] Required value"]);
    assert_eq!(of_type("kubernetes.io/dockerconfigjson", json!({".dockerconfigjson": "e30="})), Vec::<String>::new());
    let broken = of_type("kubernetes.io/dockerconfigjson", json!({".dockerconfigjson": "eA=="}));
    assert!(
        broken[0].starts_with("data[.dockerconfigjson] Invalid value: \"<secret contents redacted>\""),
        "{broken:?}"
    );
    assert_eq!(
        of_type("kubernetes.io/service-account-token", json!({})),
        ["metadata.annotations[kubernetes.io/service-account.name] Required value"]
    );
    refused_later(&secret, &[("/type", json!("other"), "type Invalid value: \"other\": field is immutable")]);
    let mut fixed = secret.clone();
    fixed["immutable"] = true.into();
    refused_later(
        &fixed,
        &[
            ("/data/k", json!("eA=="), "data Forbidden: field is immutable when `immutable` is set"),
            ("/immutable", json!(false), "immutable Forbidden: field is immutable when `immutable` is set"),
        ],
    );
    let mut large = secret.clone();
    large["data"]["k"] = "A".repeat(1_400_000).into();
    assert_eq!(wrong(&large, None), ["data Too long: may not be more than 1048576 bytes"]);
}

#[test]
fn a_service_account_has_a_token() {
    let kind = kind("v1", "ServiceAccount");
    assert_eq!(kind.subresource("token").unwrap().kind, "TokenRequest");
    let mut account = created(object("v1", "ServiceAccount"));
    account["metadata"]["name"] = "Robot".into();
    assert_eq!(wrong(&account, None).len(), 1);
}

#[test]
fn limits_of_containers_follow_from_each_other() {
    let range = created(object("v1", "LimitRange"));
    let item = &range["spec"]["limits"][0];
    assert_eq!(item["default"], json!({"cpu": "500m", "memory": "1Gi"}));
    assert_eq!(item["defaultRequest"], json!({"cpu": "500m", "memory": "1Gi"}));
    refused(
        &range,
        &[
            (
                "/spec/limits/0/min/cpu",
                json!("3"),
                "spec.limits[0].min[cpu] Invalid value: \"3\": min value 3 is greater than max value 2",
            ),
            (
                "/spec/limits/0/default/cpu",
                json!("5"),
                "spec.limits[0].default[cpu] Invalid value: \"5\": default value 5 is greater than max value 2",
            ),
        ],
    );
    let mut twice = range.clone();
    twice["spec"]["limits"].as_array_mut().unwrap().push(json!({"type": "Container"}));
    assert_eq!(wrong(&twice, None), ["spec.limits[1].type Duplicate value: \"Container\""]);
}

#[test]
fn a_quota_counts_in_whole_numbers() {
    let quota = created(object("v1", "ResourceQuota"));
    assert_eq!(quota["spec"]["hard"]["pods"], "10");
    refused(
        &quota,
        &[
            ("/spec/hard/pods", json!("1500m"), "spec.hard[pods] Invalid value: \"1500m\": must be an integer"),
            (
                "/spec/hard/requests.cpu",
                json!("-1"),
                "spec.hard[requests.cpu] Invalid value: \"-1\": must be greater than or equal to 0",
            ),
            ("/spec/scopes", json!(["Sometimes"]), "spec.scopes Invalid value: [\"Sometimes\"]: unsupported scope"),
        ],
    );
    refused_later(
        &quota,
        &[("/spec/scopes", json!(["Terminating"]), "spec.scopes Invalid value: [\"Terminating\"]: field is immutable")],
    );
    let mut used = quota.clone();
    used["status"] =
        json!({"hard": {"pods": "10", "limits.memory": "4Gi"}, "used": {"pods": "3", "limits.memory": "1Gi"}});
    assert_eq!(crate::every::cells(&used)[1..3], ["pods: 3/10", "limits.memory: 1Gi/4Gi"]);
}

#[test]
fn endpoints_have_addresses_that_packets_may_be_sent_to() {
    let endpoints = created(object("v1", "Endpoints"));
    assert_eq!(endpoints["subsets"][0]["ports"][0]["protocol"], "TCP");
    refused(
        &endpoints,
        &[
            (
                "/subsets/0/addresses",
                json!([]),
                "subsets[0] Required value: must specify `addresses` or `notReadyAddresses`",
            ),
            (
                "/subsets/0/addresses/0/ip",
                json!("127.0.0.1"),
                "subsets[0].addresses[0].ip Invalid value: \"127.0.0.1\": may not be in the loopback range (127.0.0.0/8, ::1/128)",
            ),
            (
                "/subsets/0/ports/0/port",
                json!(0),
                "subsets[0].ports[0].port Invalid value: 0: must be between 1 and 65535, inclusive",
            ),
        ],
    );
    assert!(kind("v1", "Endpoints").deprecation.contains("EndpointSlice"));
}

#[test]
fn a_volume_comes_from_one_place_and_stays_there() {
    let volume = created(object("v1", "PersistentVolume"));
    assert_eq!(volume["spec"]["persistentVolumeReclaimPolicy"], "Retain");
    assert_eq!(volume["spec"]["volumeMode"], "Filesystem");
    assert_eq!(volume["status"]["phase"], "Pending");
    refused(
        &volume,
        &[
            ("/spec/accessModes", json!([]), "spec.accessModes Required value"),
            ("/spec/capacity", json!({}), "spec.capacity Required value"),
            ("/spec/hostPath", json!(null), "spec Required value: must specify a volume type"),
            (
                "/spec/hostPath/path",
                json!("/a/../b"),
                "spec.hostPath.path Invalid value: \"/a/../b\": must not contain '..'",
            ),
            (
                "/spec/nfs",
                json!({"server": "a", "path": "/"}),
                "spec.nfs Forbidden: may not specify more than 1 volume type",
            ),
        ],
    );
    refused_later(
        &volume,
        &[(
            "/spec/hostPath/path",
            json!("/b"),
            "spec.persistentvolumesource Forbidden: spec.persistentvolumesource is immutable after creation",
        )],
    );
}

#[test]
fn a_claim_asks_for_storage_and_keeps_to_it() {
    let claim = created(object("v1", "PersistentVolumeClaim"));
    assert_eq!((&claim["spec"]["volumeMode"], &claim["status"]["phase"]), (&json!("Filesystem"), &json!("Pending")));
    refused(
        &claim,
        &[
            ("/spec/accessModes", json!([]), "spec.accessModes Required value: at least 1 access mode is required"),
            (
                "/spec/accessModes",
                json!(["Anyhow"]),
                "spec.accessModes Unsupported value: \"Anyhow\": supported values: \"ReadOnlyMany\", \"ReadWriteMany\", \"ReadWriteOnce\", \"ReadWriteOncePod\"",
            ),
            ("/spec/resources", json!({}), "spec.resources.requests[storage] Required value"),
            (
                "/spec/resources/requests/storage",
                json!("0"),
                "spec.resources.requests[storage] Invalid value: \"0\": must be greater than zero",
            ),
        ],
    );
    let mut bound = claim.clone();
    bound["spec"]["volumeName"] = "disk".into();
    assert_eq!(wrong(&bound, Some(&claim)), Vec::<String>::new());
    let mut other = bound.clone();
    other["spec"]["volumeName"] = "other".into();
    assert!(wrong(&other, Some(&bound))[0].starts_with("spec Forbidden: spec is immutable after creation except"));
    bound["status"] = json!({"phase": "Bound", "capacity": {"storage": "5Gi"}, "accessModes": ["ReadWriteOnce"]});
    assert_eq!(crate::every::cells(&bound)[1..5], ["Bound", "disk", "5Gi", "RWO"]);
}

#[test]
fn what_a_template_of_pods_or_a_revision_holds_is_checked() {
    let template = created(object("v1", "PodTemplate"));
    assert_eq!(template["template"]["spec"]["restartPolicy"], "Always");
    refused(&template, &[("/template/spec/containers", json!([]), "template.spec.containers Required value")]);
    let revision = created(object("apps/v1", "ControllerRevision"));
    refused(
        &revision,
        &[
            ("/data", json!(null), "data Required value: data is mandatory"),
            ("/revision", json!(-1), "revision Invalid value: -1: must be greater than or equal to 0"),
        ],
    );
    let mut other = revision.clone();
    other["data"] = json!({"a": 1});
    assert!(wrong(&other, Some(&revision))[0].ends_with("field is immutable"));
}

#[test]
fn a_rich_pod_is_complete() {
    let pod = created(object("v1", "Pod"));
    let spec = &pod["spec"];
    assert_eq!(spec["serviceAccount"], "web");
    assert_eq!(spec["volumes"][0]["configMap"]["defaultMode"], 0o644);
    assert_eq!(spec["volumes"][2]["projected"]["sources"][0]["serviceAccountToken"]["expirationSeconds"], 3600);
    assert_eq!(spec["containers"][0]["env"][0]["valueFrom"]["fieldRef"]["apiVersion"], "v1");
    assert_eq!(spec["containers"][0]["env"][2]["valueFrom"]["resourceFieldRef"]["divisor"], "0");
    assert_eq!(spec["initContainers"][1]["startupProbe"]["periodSeconds"], 10);
    assert_eq!(pod["status"]["qosClass"], "Burstable");
}

#[test]
fn everything_in_a_container_has_its_rule() {
    let object = created(object("v1", "Pod"));
    let main = "/spec/containers/0";
    let at = |path: &str| format!("{main}{path}");
    refused(
        &object,
        &[
            (
                &at("/env/0/name"),
                json!("A=B"),
                "spec.containers[0].env[0].name Invalid value: \"A=B\": a valid environment variable name must consist only of printable ASCII characters other than '='",
            ),
            (
                &at("/env/0/valueFrom"),
                json!({}),
                "spec.containers[0].env[0].valueFrom Invalid value: \"\": must specify one of: `fieldRef`, `resourceFieldRef`, `configMapKeyRef`, `secretKeyRef` or `fileKeyRef`",
            ),
            (
                &at("/readinessProbe"),
                json!({"periodSeconds": 5}),
                "spec.containers[0].readinessProbe Required value: must specify a handler type",
            ),
            (
                &at("/readinessProbe/tcpSocket"),
                json!({"port": 80}),
                "spec.containers[0].readinessProbe.tcpSocket Forbidden: may not specify more than 1 handler type",
            ),
            (
                &at("/livenessProbe/successThreshold"),
                json!(2),
                "spec.containers[0].livenessProbe.successThreshold Invalid value: 2: must be 1",
            ),
            (
                &at("/volumeMounts/0/name"),
                json!("nothing"),
                "spec.containers[0].volumeMounts[0].name Not found: \"nothing\"",
            ),
            (
                &at("/volumeMounts/1/mountPath"),
                json!("/etc/web"),
                "spec.containers[0].volumeMounts[1].mountPath Invalid value: \"/etc/web\": must be unique",
            ),
            (
                &at("/volumeMounts/1/subPath"),
                json!("../x"),
                "spec.containers[0].volumeMounts[1].subPath Invalid value: \"../x\": must not contain '..'",
            ),
        ],
    );
}

#[test]
fn everything_in_a_pod_has_its_rule() {
    let object = created(object("v1", "Pod"));
    refused(
        &object,
        &[
            (
                "/spec/volumes/1/hostPath",
                json!({"path": "/x"}),
                "spec.volumes[1].hostPath Forbidden: may not specify more than 1 volume type",
            ),
            (
                "/spec/volumes/0/configMap/items/0/path",
                json!("/abs"),
                "spec.volumes[0].configMap.items[0].path Invalid value: \"/abs\": must be a relative path",
            ),
            (
                "/spec/activeDeadlineSeconds",
                json!(0),
                "spec.activeDeadlineSeconds Invalid value: 0: must be between 1 and 2147483647, inclusive",
            ),
            (
                "/spec/tolerations/0/effect",
                json!("NoSchedule"),
                "spec.tolerations[0].effect Invalid value: \"NoSchedule\": effect must be 'NoExecute' when `tolerationSeconds` is set",
            ),
            (
                "/spec/topologySpreadConstraints/0/maxSkew",
                json!(0),
                "spec.topologySpreadConstraints[0].maxSkew Invalid value: 0: must be greater than zero",
            ),
            (
                "/spec/dnsPolicy",
                json!("None"),
                "spec.dnsConfig.nameservers Required value: must provide at least one DNS nameserver when `dnsPolicy` is None",
            ),
            (
                "/spec/initContainers/0/readinessProbe",
                json!({"exec": {"command": ["x"]}}),
                "spec.initContainers[0].readinessProbe Forbidden: may not be set for init containers without restartPolicy=Always",
            ),
        ],
    );
}

#[test]
fn containers_to_look_into_a_pod_are_added_and_stay() {
    let kind = kind("v1", "Pod");
    let old = created(pod(json!({"containers": [{"name": "c", "image": "a"}]})));
    let mut new = old.clone();
    new["spec"]["containers"][0]["image"] = "b".into();
    new["spec"]["ephemeralContainers"] = json!([{"name": "debug", "image": "tools:1", "targetContainerName": "c"}]);
    kind.prepare_for_part_update("ephemeralcontainers", &mut new, &old);
    assert_eq!(new["spec"]["containers"], old["spec"]["containers"]);
    assert_eq!(new["spec"]["ephemeralContainers"][0]["imagePullPolicy"], "IfNotPresent");
    assert!(kind.check_part("ephemeralcontainers", &new, Some(&old)).is_ok());
    let failure = kind.check_part("ephemeralcontainers", &old, Some(&new)).unwrap_err();
    assert!(failure.to_string().contains("existing ephemeral containers \"debug\" may not be removed"), "{failure}");
    let mut lost = new.clone();
    lost["spec"]["ephemeralContainers"][0]["targetContainerName"] = "d".into();
    let failure = kind.check_part("ephemeralcontainers", &lost, Some(&old)).unwrap_err();
    assert!(failure.to_string().contains("targetContainerName: Not found: \"d\""), "{failure}");
    assert!(wrong(&new, Some(&old))[0].starts_with("spec Forbidden: pod updates may not change"));
}
