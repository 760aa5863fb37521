//! Defaults, rules and columns of the kinds, beside recordings of kube-apiserver 1.36.
#![allow(clippy::unwrap_used)]

mod convert;
mod core;
mod decode;
mod every;
mod network;
mod objects;
mod others;
mod workloads;

use std::sync::Arc;

use diolkos_api::Timestamp;
use diolkos_api::kind::{Kind, Registry};
use serde_json::{Value, json};

fn recorded(name: &str) -> Value {
    let path = format!("{}/tests/fixtures/{name}.json", env!("CARGO_MANIFEST_DIR"));
    serde_json::from_str(&std::fs::read_to_string(&path).unwrap()).unwrap()
}

fn kind(api_version: &str, kind: &str) -> Arc<Kind> {
    Registry::builtin().find_kind(api_version, kind).unwrap()
}

/// An object as it is stored after its creation.
fn created(object: Value) -> Value {
    let kind = kind(object["apiVersion"].as_str().unwrap(), object["kind"].as_str().unwrap());
    let mut object = object;
    kind.prepare_for_create(&mut object);
    kind.default(&mut object);
    kind.identify(&mut object, "11111111-2222-3333-4444-555555555555", "2026-11-20T07:00:00Z");
    object
}

fn wrong(object: &Value, old: Option<&Value>) -> Vec<String> {
    let kind = kind(object["apiVersion"].as_str().unwrap(), object["kind"].as_str().unwrap());
    let causes = kind.validate(object, old);
    causes
        .into_iter()
        .map(|cause| format!("{} {}", cause.field.unwrap_or_default(), cause.message.unwrap_or_default()))
        .collect()
}

fn service(spec: Value) -> Value {
    json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "web", "namespace": "default"}, "spec": spec})
}

fn pod(spec: Value) -> Value {
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p", "namespace": "default"}, "spec": spec})
}

fn deployment() -> Value {
    json!({
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web", "namespace": "default"},
        "spec": {
            "selector": {"matchLabels": {"app": "web"}},
            "template": {
                "metadata": {"labels": {"app": "web"}},
                "spec": {"containers": [{"name": "c", "image": "nginx:1.1", "ports": [{"containerPort": 80}]}]},
            },
        },
    })
}

fn slice(family: &str, addresses: &[&str]) -> Value {
    json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
        "metadata": {"name": "web-1", "namespace": "default"}, "addressType": family,
        "endpoints": [{"addresses": addresses}], "ports": [{"port": 80}],
    })
}

#[test]
fn tables_are_as_recorded() {
    let now: Timestamp = "2026-11-20T07:07:32Z".parse().unwrap();
    for (api_version, name, file) in [
        ("v1", "Pod", "pods"),
        ("v1", "Service", "services"),
        ("v1", "Node", "nodes"),
        ("v1", "Namespace", "namespaces"),
        ("v1", "Endpoints", "endpoints"),
        ("discovery.k8s.io/v1", "EndpointSlice", "endpointslices"),
    ] {
        let kind = kind(api_version, name);
        let table = recorded(&format!("table_{file}"));
        let columns: Vec<Value> = kind
            .columns
            .iter()
            .map(|c| json!({"name": c.name, "type": c.type_, "format": c.format, "priority": c.priority}))
            .collect();
        assert_eq!(Value::Array(columns), table["columnDefinitions"], "{name}");
        let list = recorded(&format!("list_{file}"));
        for row in table["rows"].as_array().unwrap() {
            let of_row = |object: &&Value| {
                ["name", "namespace"].iter().all(|f| object["metadata"][*f] == row["object"]["metadata"][*f])
            };
            let object = list["items"].as_array().unwrap().iter().find(of_row).unwrap();
            let cells: Vec<Value> = kind.columns.iter().map(|column| (column.cell)(object, now)).collect();
            assert_eq!(Value::Array(cells), row["cells"], "{name}");
        }
    }
}

#[test]
fn what_a_real_apiserver_stored_is_valid_and_complete_here() {
    for (api_version, name, file) in [
        ("v1", "Pod", "list_pods"),
        ("v1", "Service", "list_services"),
        ("v1", "Node", "list_nodes"),
        ("v1", "Namespace", "list_namespaces"),
        ("apps/v1", "Deployment", "list_deployments"),
        ("discovery.k8s.io/v1", "EndpointSlice", "list_endpointslices"),
        ("coordination.k8s.io/v1", "Lease", "list_leases"),
        ("networking.k8s.io/v1", "IPAddress", "list_ipaddresses"),
        ("networking.k8s.io/v1", "ServiceCIDR", "list_servicecidrs"),
        ("v1", "Endpoints", "list_endpoints"),
    ] {
        let kind = kind(api_version, name);
        for item in recorded(file)["items"].as_array().unwrap() {
            let mut object = json!({"apiVersion": api_version, "kind": name});
            object.as_object_mut().unwrap().extend(item.as_object().unwrap().clone());
            let mut defaulted = object.clone();
            kind.default(&mut defaulted);
            assert_eq!(defaulted, object, "{name}: defaults change nothing that is complete");
            assert_eq!(kind.validate(&object, None), vec![], "{name}");
            assert_eq!(kind.validate(&object, Some(&object)), vec![], "{name}");
            assert_eq!(kind.unknown_fields(&object), Vec::<String>::new(), "{name}");
        }
    }
}

#[test]
fn a_service_gets_the_defaults_of_kubernetes() {
    let object = created(service(json!({"ports": [{"port": 80}]})));
    assert_eq!(
        object["spec"],
        json!({
            "ports": [{"port": 80, "protocol": "TCP", "targetPort": 80}], "type": "ClusterIP",
            "sessionAffinity": "None", "internalTrafficPolicy": "Cluster",
        })
    );
    assert_eq!(object["status"], json!({"loadBalancer": {}}));
}

#[test]
fn a_deployment_gets_the_defaults_of_kubernetes() {
    let recorded = recorded("list_deployments")["items"][0].clone();
    let mut object = deployment();
    object["spec"]["template"]["spec"]["containers"] = json!([{"name": "nginx", "image": "nginx:1"}]);
    let object = created(object);
    let mut expected = recorded["spec"].clone();
    expected["replicas"] = 1.into();
    expected["selector"] = json!({"matchLabels": {"app": "web"}});
    expected["template"]["metadata"] = json!({"labels": {"app": "web"}});
    assert_eq!(object["spec"], expected);
    assert_eq!(object["metadata"]["generation"], 1);
    assert_eq!(wrong(&object, None), Vec::<String>::new());
}

#[test]
fn a_pod_gets_the_defaults_of_kubernetes() {
    let object = created(pod(json!({
        "containers": [{
            "name": "c", "image": "example.com:5000/busybox", "ports": [{"containerPort": 80}],
            "resources": {"limits": {"cpu": 1, "memory": "64Mi"}}, "readinessProbe": {"httpGet": {"port": 80}},
        }],
    })));
    let container = &object["spec"]["containers"][0];
    assert_eq!(container["imagePullPolicy"], "Always");
    assert_eq!(container["ports"][0]["protocol"], "TCP");
    assert_eq!(container["resources"]["limits"]["cpu"], "1");
    assert_eq!(container["resources"]["requests"], json!({"cpu": "1", "memory": "64Mi"}));
    assert_eq!(container["readinessProbe"]["httpGet"], json!({"port": 80, "path": "/", "scheme": "HTTP"}));
    assert_eq!(container["readinessProbe"]["periodSeconds"], 10);
    assert_eq!(object["spec"]["restartPolicy"], "Always");
    assert_eq!(object["spec"]["enableServiceLinks"], true);
    assert_eq!(object["status"], json!({"phase": "Pending", "qosClass": "Guaranteed"}));
    assert_eq!(wrong(&object, None), Vec::<String>::new());
}

#[test]
fn a_namespace_gets_its_label_finalizer_and_phase() {
    let object = created(json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "demo"}}));
    assert_eq!(object["metadata"]["labels"]["kubernetes.io/metadata.name"], "demo");
    assert_eq!(object["spec"]["finalizers"], json!(["kubernetes"]));
    assert_eq!(object["status"]["phase"], "Active");
    assert!(kind("v1", "Namespace").has_finalizers(&object));
}

#[test]
fn defaults_are_given_once() {
    for object in [
        service(json!({"ports": [{"port": 80}]})),
        pod(json!({"containers": [{"name": "c", "image": "a"}]})),
        deployment(),
    ] {
        let once = created(object);
        let mut twice = once.clone();
        kind(once["apiVersion"].as_str().unwrap(), once["kind"].as_str().unwrap()).default(&mut twice);
        assert_eq!(once, twice);
    }
}

#[test]
fn each_wrong_field_of_a_service_is_named() {
    let object = created(service(json!({
        "type": "Cluster",
        "selector": {"-a": "b"},
        "sessionAffinity": "Always",
        "ports": [
            {"name": "a", "port": 0}, {"name": "a", "port": 70000, "protocol": "ICMP"},
            {"port": 80, "targetPort": "-x", "nodePort": 30000}, {"name": "c", "port": 80},
        ],
    })));
    let fields: Vec<String> =
        wrong(&object, None).iter().map(|cause| cause.split(' ').next().unwrap().to_owned()).collect();
    for field in [
        "spec.type",
        "spec.selector",
        "spec.sessionAffinity",
        "spec.ports[0].port",
        "spec.ports[1].name",
        "spec.ports[1].port",
        "spec.ports[1].protocol",
        "spec.ports[2].name",
        "spec.ports[2].targetPort",
        "spec.ports[2].nodePort",
        "spec.ports[3]",
    ] {
        assert!(fields.iter().any(|own| own == field), "{field} is not among {fields:?}");
    }
}

#[test]
fn an_invalid_port_of_a_service_is_refused_in_kubernetes_words() {
    let object = created(service(json!({"ports": [{"port": 70000}]})));
    assert_eq!(
        wrong(&object, None),
        [
            "spec.ports[0].port Invalid value: 70000: must be between 1 and 65535, inclusive",
            "spec.ports[0].targetPort Invalid value: 70000: must be between 1 and 65535, inclusive",
        ]
    );
}

#[test]
fn an_update_keeps_the_address_that_the_writer_left_out() {
    let kind = kind("v1", "Service");
    let mut old = created(service(json!({"ports": [{"port": 80}]})));
    old["spec"]["clusterIP"] = "10.96.0.7".into();
    old["spec"]["clusterIPs"] = json!(["10.96.0.7"]);
    let mut new = service(json!({"ports": [{"port": 81}]}));
    kind.default(&mut new);
    kind.prepare_for_update(&mut new, &old);
    assert_eq!(new["spec"]["clusterIPs"], json!(["10.96.0.7"]));
    assert_eq!(wrong(&new, Some(&old)), Vec::<String>::new());
}

#[test]
fn a_client_stays_three_hours_with_its_backend_unless_the_service_says_how_long() {
    let affinity = |config: Value| {
        created(service(json!({"ports": [{"port": 53, "protocol": "UDP"}], "sessionAffinity": "ClientIP",
                               "sessionAffinityConfig": config})))
    };
    let object = affinity(Value::Null);
    assert_eq!(object["spec"]["sessionAffinityConfig"], json!({"clientIP": {"timeoutSeconds": 10800}}));
    assert_eq!(wrong(&object, None), Vec::<String>::new());
    for (seconds, fine) in [(0, false), (1, true), (86_400, true), (86_401, false), (-5, false)] {
        let object = affinity(json!({"clientIP": {"timeoutSeconds": seconds}}));
        let problems = wrong(&object, None);
        assert_eq!(problems.is_empty(), fine, "{seconds}: {problems:?}");
        let field = "spec.sessionAffinityConfig.clientIP.timeoutSeconds";
        assert!(problems.iter().all(|problem| problem.starts_with(field)), "{problems:?}");
    }
    let mut without = affinity(Value::Null);
    without["spec"]["sessionAffinity"] = "None".into();
    kind("v1", "Service").default(&mut without);
    assert_eq!(without["spec"]["sessionAffinityConfig"], Value::Null);
}

#[test]
fn addresses_of_a_service_are_one_of_each_family_and_stay() {
    let with = |spec: Value| {
        let mut object = created(service(json!({"ports": [{"port": 80}]})));
        object["spec"].as_object_mut().unwrap().extend(spec.as_object().unwrap().clone());
        object
    };
    for (spec, problem) in [
        (json!({"clusterIP": "10.0.0.1", "clusterIPs": ["10.0.0.1", "10.0.0.2"]}), "may specify no more than one IP"),
        (json!({"clusterIP": "fd00::0:1", "clusterIPs": ["fd00::0:1"]}), "must be in canonical form (\"fd00::1\")"),
        (json!({"clusterIP": "::ffff:10.0.0.1", "clusterIPs": ["::ffff:10.0.0.1"]}), "IPv4-mapped"),
        (json!({"clusterIP": "None", "clusterIPs": ["None", "fd00::1"]}), "must be the first and only value"),
        (json!({"clusterIP": "fd00::1", "clusterIPs": ["fd00::1"], "ipFamilies": ["IPv4"]}), "expected an IPv4 value"),
        (json!({"ipFamilies": ["IPv6", "IPv6"]}), "Duplicate value"),
        (json!({"ipFamilies": ["IPX"]}), "Unsupported value"),
        (json!({"ipFamilyPolicy": "Any"}), "Unsupported value"),
        (json!({"type": "ExternalName", "externalName": "a.b", "ipFamilies": ["IPv4"]}), "may not be set when"),
    ] {
        let problems = wrong(&with(spec.clone()), None);
        assert!(problems.len() == 1 && problems[0].contains(problem), "{spec}: {problems:?}");
    }
    let had =
        with(json!({"clusterIP": "10.0.0.1", "clusterIPs": ["10.0.0.1", "fd00::1"], "ipFamilies": ["IPv4", "IPv6"],
                          "ipFamilyPolicy": "RequireDualStack"}));
    assert_eq!(wrong(&had, None), Vec::<String>::new());
    let mut other = had.clone();
    other["spec"]["clusterIPs"][1] = "fd00::2".into();
    assert!(wrong(&other, Some(&had))[0].starts_with("spec.clusterIPs[1] Invalid value"));
    let mut fewer = had.clone();
    (fewer["spec"]["clusterIPs"], fewer["spec"]["ipFamilies"]) = (json!(["10.0.0.1"]), json!(["IPv4"]));
    assert_eq!(wrong(&fewer, Some(&had)).len(), 2);
    fewer["spec"]["ipFamilyPolicy"] = "SingleStack".into();
    assert_eq!(wrong(&fewer, Some(&had)), Vec::<String>::new());
}

#[test]
fn a_slice_holds_addresses_of_its_family_only() {
    assert_eq!(wrong(&created(slice("IPv4", &["10.0.0.1"])), None), Vec::<String>::new());
    assert_eq!(wrong(&created(slice("IPv6", &["fd00::1"])), None), Vec::<String>::new());
    assert_eq!(
        wrong(&created(slice("IPv4", &["fd00::1"])), None),
        ["endpoints[0].addresses[0] Invalid value: \"fd00::1\": must be a valid IPv4 address"]
    );
    assert_eq!(
        wrong(&created(slice("IPv6", &["10.0.0.1"])), None),
        ["endpoints[0].addresses[0] Invalid value: \"10.0.0.1\": must be a valid IPv6 address"]
    );
    for special in ["127.0.0.1", "0.0.0.0", "169.254.169.254", "224.0.0.1"] {
        assert_eq!(wrong(&created(slice("IPv4", &[special])), None).len(), 1, "{special}");
    }
}

#[test]
fn the_family_of_a_slice_may_not_change() {
    let (old, new) = (created(slice("IPv4", &[])), created(slice("IPv6", &[])));
    let causes = wrong(&new, Some(&old));
    assert!(causes.contains(&"addressType Invalid value: \"IPv6\": field is immutable".to_owned()), "{causes:?}");
}

#[test]
fn a_deployment_selects_its_own_template_and_for_good() {
    let mut object = created(deployment());
    object["spec"]["template"]["metadata"]["labels"] = json!({"app": "other"});
    assert_eq!(
        wrong(&object, None),
        [
            "spec.template.metadata.labels Invalid value: {\"app\":\"other\"}: `selector` does not match template `labels`"
        ]
    );
    let old = created(deployment());
    let mut new = old.clone();
    new["spec"]["selector"]["matchLabels"] = json!({"app": "web", "tier": "front"});
    new["spec"]["template"]["metadata"]["labels"] = json!({"app": "web", "tier": "front"});
    assert_eq!(
        wrong(&new, Some(&old)),
        ["spec.selector Invalid value: {\"matchLabels\":{\"app\":\"web\",\"tier\":\"front\"}}: field is immutable"]
    );
}

#[test]
fn a_deployment_without_selector_template_or_room_to_move_is_refused() {
    let mut object = created(deployment());
    object["spec"].as_object_mut().unwrap().remove("selector");
    object["spec"]["template"]["spec"]["restartPolicy"] = "Never".into();
    object["spec"]["strategy"]["rollingUpdate"] = json!({"maxSurge": 0, "maxUnavailable": "0%"});
    assert_eq!(
        wrong(&object, None),
        [
            "spec.selector Required value",
            "spec.template.spec.restartPolicy Unsupported value: \"Never\": supported values: \"Always\"",
            "spec.strategy.rollingUpdate.maxUnavailable Invalid value: \"0%\": may not be 0 when `maxSurge` is 0",
        ]
    );
}

#[test]
fn each_wrong_field_of_a_pod_is_named() {
    let object = created(pod(json!({
        "restartPolicy": "Sometimes",
        "volumes": [{"name": "data"}],
        "containers": [
            {"name": "UPPER", "image": "a", "ports": [{"containerPort": 99999, "name": "too-long-a-port-name"}]},
            {"name": "c", "resources": {"limits": {"cpu": "1"}, "requests": {"cpu": "2", "memory": "-1"}}},
            {"name": "c", "image": "a", "volumeMounts": [{"name": "other", "mountPath": "/x"}]},
        ],
    })));
    let fields: Vec<String> =
        wrong(&object, None).iter().map(|cause| cause.split(' ').next().unwrap().to_owned()).collect();
    for field in [
        "spec.containers[0].name",
        "spec.containers[0].ports[0].name",
        "spec.containers[0].ports[0].containerPort",
        "spec.containers[1].image",
        "spec.containers[1].resources.requests[memory]",
        "spec.containers[1].resources.requests",
        "spec.containers[2].name",
        "spec.containers[2].volumeMounts[0].name",
        "spec.restartPolicy",
    ] {
        assert!(fields.iter().any(|own| own == field), "{field} is not among {fields:?}");
    }
}

#[test]
fn of_a_pod_only_image_and_tolerations_may_change() {
    let old = created(pod(json!({"containers": [{"name": "c", "image": "a:1"}]})));
    let mut new = old.clone();
    new["spec"]["containers"][0]["image"] = "a:2".into();
    new["spec"]["tolerations"] = json!([{"operator": "Exists"}]);
    assert_eq!(wrong(&new, Some(&old)), Vec::<String>::new());
    new["spec"]["containers"][0]["command"] = json!(["sh"]);
    let causes = wrong(&new, Some(&old));
    assert_eq!(causes.len(), 1);
    assert!(causes[0].starts_with("spec Forbidden: pod updates may not change fields other than"), "{causes:?}");
}

#[test]
fn names_follow_the_rules_of_their_kind() {
    let named = |object: &Value, name: &str| {
        let mut object = object.clone();
        object["metadata"]["name"] = name.into();
        wrong(&created(object), None).len()
    };
    let service = service(json!({"ports": [{"port": 80}]}));
    let config = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"namespace": "default"}});
    assert_eq!(named(&service, "1web"), 1, "a Service begins with a letter");
    assert_eq!(named(&service, "a.b"), 1);
    assert_eq!(named(&config, "1.web"), 0);
    assert_eq!(named(&config, "Web"), 1);
    assert_eq!(named(&config, &"a".repeat(254)), 1);
    let address = json!({"apiVersion": "networking.k8s.io/v1", "kind": "IPAddress", "metadata": {},
                         "spec": {"parentRef": {"resource": "services", "namespace": "a", "name": "b"}}});
    assert_eq!(named(&address, "10.96.0.1"), 0);
    assert_eq!(named(&address, "010.96.0.1"), 1);
}

#[test]
fn keys_of_a_config_map_are_file_names() {
    let mut object = json!({"apiVersion": "v1", "kind": "ConfigMap",
                            "metadata": {"name": "a", "namespace": "default"}, "data": {"ok.conf": "x"}});
    assert_eq!(wrong(&object, None), Vec::<String>::new());
    object["data"] = json!({"a/b": "x", "..": "y"});
    assert_eq!(wrong(&object, None).len(), 2);
}

#[test]
fn labels_and_owners_are_checked_for_every_kind() {
    let object = json!({
        "apiVersion": "v1", "kind": "ConfigMap",
        "metadata": {
            "name": "a", "namespace": "default", "labels": {"a b": "ok", "ok": "not ok"},
            "ownerReferences": [
                {"apiVersion": "v1", "kind": "Pod", "name": "a", "uid": "1", "controller": true},
                {"apiVersion": "v1", "kind": "Pod", "name": "b", "uid": "", "controller": true},
            ],
        },
    });
    assert_eq!(wrong(&object, None).len(), 4, "{:?}", wrong(&object, None));
}
