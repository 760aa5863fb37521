//! EndpointSlices.

use std::collections::BTreeSet;

use diolkos_controllers::object::{Key, KindName};
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointSlice};
use proptest::prelude::*;
use serde_json::{Value, json};

use crate::model::Model;

const ONE: &[&str] = &["endpointslice"];

fn service(ports: Value) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": {"name": "web", "namespace": "default", "labels": {"tier": "front"}},
        "spec": {"selector": {"app": "web"}, "ports": ports},
    })
}

fn pod(name: &str, address: &str, port: i32) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": name, "namespace": "default", "labels": {"app": "web"}},
        "spec": {
            "nodeName": "n1",
            "containers": [{"name": "c", "image": "a:1", "ports": [{"name": "http", "containerPort": port}]}],
        },
        "address": address,
    })
}

/// Creates a pod that runs, ready or not.
fn run(model: &mut Model, mut pod: Value, ready: bool) -> Key {
    let address = pod.as_object_mut().unwrap().shift_remove("address").unwrap();
    let key = model.create(pod);
    model.edit(&key, |pod| {
        pod["status"] = json!({
            "phase": "Running", "podIP": address, "podIPs": [{"ip": address}],
            "conditions": [{"type": "Ready", "status": if ready { "True" } else { "False" }}],
        });
    });
    key
}

fn slices(model: &Model) -> Vec<EndpointSlice> {
    model.view.endpoint_slices.iter().map(|slice| EndpointSlice::clone(slice)).collect()
}

fn endpoints(model: &Model) -> Vec<Endpoint> {
    slices(model).into_iter().flat_map(|slice| slice.endpoints.unwrap_or_default()).collect()
}

fn conditions(endpoint: &Endpoint) -> (bool, bool, bool) {
    let conditions = endpoint.conditions.clone().unwrap();
    (conditions.ready.unwrap(), conditions.serving.unwrap(), conditions.terminating.unwrap())
}

#[test]
fn a_slice_says_where_the_pods_are() {
    let mut model = Model::new();
    model.create(json!({"apiVersion": "v1", "kind": "Node",
                        "metadata": {"name": "n1", "labels": {"topology.kubernetes.io/zone": "west"}}}));
    model.create(service(json!([{"name": "web", "port": 80, "targetPort": "http"}])));
    run(&mut model, pod("a", "10.244.1.2", 8080), true);
    run(&mut model, pod("b", "10.244.1.3", 8080), false);
    model.settle(ONE);
    let slice = slices(&model).remove(0);
    assert_eq!(slice.address_type, "IPv4");
    let labels = slice.metadata.labels.unwrap();
    assert_eq!(labels["kubernetes.io/service-name"], "web");
    assert_eq!(labels["endpointslice.kubernetes.io/managed-by"], "endpointslice-controller.k8s.io");
    assert_eq!(labels["tier"], "front");
    assert_eq!(slice.metadata.owner_references.unwrap()[0].kind, "Service");
    let port = &slice.ports.unwrap()[0];
    assert_eq!((port.name.as_deref(), port.port, port.protocol.as_deref()), (Some("web"), Some(8080), Some("TCP")));
    let endpoints = slice.endpoints.unwrap();
    assert_eq!(endpoints[0].addresses, ["10.244.1.2"]);
    assert_eq!((endpoints[0].node_name.as_deref(), endpoints[0].zone.as_deref()), (Some("n1"), Some("west")));
    assert_eq!(endpoints[0].target_ref.as_ref().unwrap().name.as_deref(), Some("a"));
    assert_eq!(conditions(&endpoints[0]), (true, true, false));
    assert_eq!(conditions(&endpoints[1]), (false, false, false));
}

#[test]
fn a_terminating_pod_serves_on_but_is_not_ready() {
    let mut model = Model::new();
    model.create(service(json!([{"port": 80}])));
    let key = run(&mut model, pod("a", "10.244.1.2", 80), true);
    model.edit(&key, |pod| pod["metadata"]["deletionTimestamp"] = "2026-11-20T07:00:30Z".into());
    model.settle(ONE);
    assert_eq!(conditions(&endpoints(&model)[0]), (false, true, true));
    model.remove(&key);
    model.settle(ONE);
    assert_eq!(endpoints(&model), []);
    assert_eq!(slices(&model).len(), 1, "an empty slice says that the Service has nobody");
}

#[test]
fn a_dual_stack_service_has_slices_of_both_families() {
    let mut model = Model::new();
    let mut both = service(json!([{"port": 80}]));
    both["spec"]["ipFamilies"] = json!(["IPv6", "IPv4"]);
    model.create(both);
    model.settle(ONE);
    let types = |model: &Model| slices(model).into_iter().map(|slice| slice.address_type).collect::<BTreeSet<_>>();
    let families = BTreeSet::from(["IPv4".to_owned(), "IPv6".to_owned()]);
    assert_eq!((types(&model), slices(&model).len()), (families.clone(), 2), "each family says that it has nobody");
    let key = run(&mut model, pod("a", "10.244.1.2", 80), true);
    model.edit(&key, |pod| pod["status"]["podIPs"] = json!([{"ip": "10.244.1.2"}, {"ip": "fd00:10:244:1::2"}]));
    run(&mut model, pod("b", "10.244.1.3", 80), true);
    model.settle(ONE);
    let mut held: Vec<(String, String)> = Vec::new();
    for slice in slices(&model) {
        let addresses = slice.endpoints.into_iter().flatten().flat_map(|endpoint| endpoint.addresses);
        held.extend(addresses.map(|address| (slice.address_type.clone(), address)));
    }
    held.sort();
    let expected = [("IPv4", "10.244.1.2"), ("IPv4", "10.244.1.3"), ("IPv6", "fd00:10:244:1::2")];
    assert_eq!(held, expected.map(|(family, address)| (family.to_owned(), address.to_owned())));
    assert_eq!((types(&model), slices(&model).len()), (families, 2));
}

#[test]
fn a_finished_pod_and_one_without_an_address_are_nowhere() {
    let mut model = Model::new();
    model.create(service(json!([{"port": 80}])));
    let key = run(&mut model, pod("a", "10.244.1.2", 80), true);
    model.edit(&key, |pod| pod["status"]["phase"] = "Failed".into());
    let mut waiting = pod("b", "", 80);
    waiting.as_object_mut().unwrap().shift_remove("address");
    model.create(waiting);
    model.settle(ONE);
    assert_eq!(endpoints(&model), []);
}

#[test]
fn a_named_port_is_resolved_for_each_pod() {
    let mut model = Model::new();
    model.create(service(json!([{"name": "web", "port": 80, "targetPort": "http"}])));
    run(&mut model, pod("a", "10.244.1.2", 8080), true);
    run(&mut model, pod("b", "10.244.1.3", 9090), true);
    model.settle(ONE);
    let ports: BTreeSet<_> = slices(&model).into_iter().map(|slice| slice.ports.unwrap()[0].port).collect();
    assert_eq!(ports, BTreeSet::from([Some(8080), Some(9090)]));
}

#[test]
fn slices_of_others_and_services_without_a_selector_are_left_alone() {
    let mut model = Model::new();
    let mut manual = service(json!([{"port": 80}]));
    manual["spec"].as_object_mut().unwrap().remove("selector");
    model.create(manual);
    model.create(json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4", "endpoints": [],
        "metadata": {"name": "manual", "namespace": "default", "labels": {"kubernetes.io/service-name": "web"}},
    }));
    model.settle(ONE);
    assert_eq!(model.log, Vec::<String>::new());
}

#[test]
fn the_slices_of_a_service_that_is_gone_go() {
    let mut model = Model::new();
    let key = model.create(service(json!([{"port": 80}])));
    run(&mut model, pod("a", "10.244.1.2", 80), true);
    model.settle(ONE);
    model.remove(&key);
    model.look("endpointslice", &key);
    assert_eq!(slices(&model), []);
}

#[test]
fn one_change_writes_one_slice() {
    let mut model = Model::new();
    model.create(service(json!([{"port": 80}])));
    let pods: Vec<Key> = (0..250)
        .map(|index| {
            run(&mut model, pod(&format!("p{index}"), &format!("10.244.{}.{}", index / 250, index % 250 + 1), 80), true)
        })
        .collect();
    model.settle(ONE);
    assert_eq!(slices(&model).len(), 3);
    model.log.clear();
    model.remove(&pods[100]);
    model.settle(ONE);
    run(&mut model, pod("new", "10.244.3.1", 80), true);
    model.settle(ONE);
    assert_eq!(model.log.len(), 2, "{:?}", model.log);
    assert_eq!(endpoints(&model).len(), 250);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Whatever comes and goes, the slices hold exactly the pods, each once, and the controller comes to rest.
    #[test]
    fn slices_hold_exactly_the_pods(turns in prop::collection::vec((0..40usize, 0..4u8), 0..60)) {
        let mut model = Model::new();
        model.create(service(json!([{"name": "web", "port": 80, "targetPort": "http"}])));
        for (step, (index, what)) in turns.into_iter().enumerate() {
            let name = format!("p{index}");
            let key = Key::new(KindName::Pod, "default", &name);
            match (what, model.view.get(&key).is_some()) {
                (0, true) => model.remove(&key),
                (1, true) => model.edit(&key, |pod| {
                    pod["metadata"]["deletionTimestamp"] = "2026-11-20T07:00:30Z".into();
                }),
                (_, true) => model.edit(&key, |pod| {
                    pod["status"]["conditions"] = json!([{"type": "Ready", "status": "False"}]);
                }),
                (_, false) => {
                    let port = if index % 5 == 0 { 9090 } else { 8080 };
                    run(&mut model, pod(&name, &format!("10.244.1.{}", index + 1), port), what == 2);
                }
            }
            if step % 3 == 0 {
                model.settle(ONE);
            }
        }
        model.settle(ONE);
        let mut held: Vec<String> = endpoints(&model).into_iter().map(|endpoint| endpoint.addresses[0].clone()).collect();
        let mut expected: Vec<String> =
            model.view.pods.iter().map(|pod| pod.status.clone().unwrap().pod_ip.unwrap()).collect();
        held.sort();
        expected.sort();
        prop_assert_eq!(held, expected);
        for slice in slices(&model) {
            prop_assert!(slice.endpoints.unwrap().len() <= 100);
        }
    }
}
