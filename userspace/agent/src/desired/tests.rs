//! Which endpoints serve, and what is refused.
#![allow(clippy::unwrap_used)]

use serde_json::json;

use super::*;

fn object(spec: serde_json::Value) -> Service {
    serde_json::from_value(json!({ "metadata": { "name": "web", "namespace": "default" }, "spec": spec })).unwrap()
}

fn web() -> Service {
    object(json!({ "clusterIP": "10.96.0.1", "clusterIPs": ["10.96.0.1"], "ports": [{ "name": "http", "port": 80 }] }))
}

fn slice(endpoints: serde_json::Value) -> EndpointSlice {
    serde_json::from_value(json!({
        "metadata": { "name": "web-1", "namespace": "default" },
        "addressType": "IPv4", "ports": [{ "name": "http", "port": 8080 }], "endpoints": endpoints,
    }))
    .unwrap()
}

fn port(service: &Service, slices: &[EndpointSlice]) -> DesiredPort {
    let slices: Vec<&EndpointSlice> = slices.iter().collect();
    let desired = super::service(service, &slices, "n1").unwrap().unwrap();
    desired.ports.into_values().next().unwrap()
}

fn refusal(service: &Service, slices: &[EndpointSlice]) -> String {
    let slices: Vec<&EndpointSlice> = slices.iter().collect();
    super::service(service, &slices, "n1").unwrap_err().to_string()
}

fn last_bytes(keys: impl IntoIterator<Item = BackendKey>) -> Vec<u8> {
    keys.into_iter().map(|key| key.address[15]).collect()
}

fn endpoint(address: &str, ready: bool, serving: bool, terminating: bool) -> serde_json::Value {
    let conditions = json!({ "ready": ready, "serving": serving, "terminating": terminating });
    json!({ "addresses": [address], "conditions": conditions })
}

#[test]
fn ready_endpoints_serve_and_the_others_drain() {
    let slices = [slice(json!([
        endpoint("10.244.0.1", true, true, false),
        endpoint("10.244.0.2", false, true, true),
        endpoint("10.244.0.3", false, false, false),
        { "addresses": ["10.244.0.4"] },
    ]))];
    let port = port(&web(), &slices);
    assert_eq!(last_bytes(port.row.into_keys()), [1, 4], "unknown conditions count as ready");
    let draining: Vec<_> = port.draining.iter().map(|(key, terminating)| (key.address[15], *terminating)).collect();
    assert_eq!(draining, [(2, true), (3, false)]);
}

#[test]
fn terminating_endpoints_serve_while_none_is_ready() {
    let slices = [slice(json!([
        endpoint("10.244.0.1", false, true, true),
        endpoint("10.244.0.2", false, false, true),
        endpoint("10.244.0.3", false, true, false),
    ]))];
    let port = port(&web(), &slices);
    assert_eq!(last_bytes(port.row.into_keys()), [1]);
    assert_eq!(last_bytes(port.terminating), [1], "with it out of the slices its pod is gone");
}

#[test]
fn the_slices_port_of_the_same_name_and_protocol_counts() {
    let mut one = slice(json!([endpoint("10.244.0.1", true, true, false)]));
    let ports = json!([
        { "name": "other", "port": 1 }, { "name": "http", "protocol": "UDP", "port": 2 }, { "name": "http", "port": 3 },
    ]);
    one.ports = serde_json::from_value(ports).unwrap();
    let row = port(&web(), &[one.clone()]).row;
    assert_eq!(row.keys().map(|key| key.port).collect::<Vec<_>>(), [3]);
    one.ports = serde_json::from_value(json!([{ "name": "http" }])).unwrap();
    assert!(port(&web(), &[one]).row.is_empty(), "a port that is not said maps to none");
}

#[test]
fn slices_of_another_family_are_not_ours_and_a_foreign_address_in_ours_is_refused() {
    let mut six = slice(json!([endpoint("fd00::1", true, true, false)]));
    six.address_type = "IPv6".into();
    assert!(port(&web(), &[six]).row.is_empty());
    for bad in ["fd00::1", "10.244.0.256", "127.0.0.1", "0.0.0.0", "224.0.0.1", ""] {
        let text = refusal(&web(), &[slice(json!([endpoint(bad, true, true, false)]))]);
        assert!(text.contains("EndpointSlice default/web-1") && text.contains(&format!("{bad:?}")), "{text}");
    }
}

#[test]
fn an_endpoint_in_two_slices_serves_if_one_says_so() {
    let ready = slice(json!([endpoint("10.244.0.1", true, true, false)]));
    let unready = slice(json!([endpoint("10.244.0.1", false, false, true)]));
    for slices in [[ready.clone(), unready.clone()], [unready, ready]] {
        assert_eq!(last_bytes(port(&web(), &slices).row.into_keys()), [1]);
    }
}

#[test]
fn internal_traffic_policy_local_keeps_to_this_node() {
    let mut service = web();
    service.spec.as_mut().unwrap().internal_traffic_policy = Some("Local".into());
    let endpoints = json!([
        { "addresses": ["10.244.0.1"], "nodeName": "n1" }, { "addresses": ["10.244.0.2"], "nodeName": "n2" },
    ]);
    assert_eq!(last_bytes(port(&service, &[slice(endpoints)]).row.into_keys()), [1]);
}

#[test]
fn services_of_others_are_skipped_without_a_refusal() {
    let skipped = [
        json!({ "clusterIP": "None", "clusterIPs": ["None"], "ports": [{ "port": 80, "protocol": "UDP" }] }),
        json!({ "type": "ExternalName", "externalName": "example.org" }),
        json!({ "ports": [{ "port": 80 }] }),
        json!({ "clusterIP": "fd00::1", "clusterIPs": ["fd00::1"], "ports": [{ "port": 80 }] }),
    ];
    for spec in skipped {
        assert_eq!(service(&object(spec.clone()), &[], "n1"), Ok(None), "{spec}");
    }
    let mut labelled = web();
    labelled.metadata.labels = Some([(NOT_OURS[0].to_owned(), "other".to_owned())].into());
    assert_eq!(service(&labelled, &[], "n1"), Ok(None));
}

#[test]
fn what_cannot_be_served_is_refused_with_what_to_do() {
    let of = |ports: serde_json::Value| object(json!({ "clusterIP": "10.96.0.1", "ports": ports }));
    let cases = [
        (of(json!([{ "port": 0 }])), "port 0"),
        (of(json!([{ "port": 65536 }])), "port 65536"),
        (of(json!([{ "port": 80 }, { "port": 53, "protocol": "UDP" }])), "\"UDP\" of port 53"),
        (of(json!([{ "name": "a", "port": 80 }, { "name": "b", "port": 80 }])), "port 80 is there twice"),
        (object(json!({ "clusterIP": "10.96.0", "ports": [{ "port": 80 }] })), "\"10.96.0\""),
        (
            object(json!({ "clusterIP": "10.96.0.1", "sessionAffinity": "ClientIP", "ports": [{ "port": 80 }] })),
            "spec.sessionAffinity",
        ),
    ];
    for (service, said) in cases {
        let text = refusal(&service, &[]);
        assert!(text.contains("Service default/web") && text.contains(said), "{text}");
    }
    let mut bad_port = slice(json!([]));
    bad_port.ports = serde_json::from_value(json!([{ "name": "http", "port": 70000 }])).unwrap();
    assert!(refusal(&web(), &[bad_port]).contains("70000"));
}

#[test]
fn a_row_of_its_limit_is_served_and_a_longer_one_is_refused() {
    let endpoints = |count: u32| {
        let address = |n: u32| Ipv4Addr::from(0x0af4_0000 + n).to_string();
        let all: Vec<_> = (1..=count).map(|n| endpoint(&address(n), true, true, false)).collect();
        [slice(json!(all))]
    };
    assert_eq!(port(&web(), &endpoints(SLOTS_PER_SERVICE)).row.len(), SLOTS_PER_SERVICE as usize);
    let text = refusal(&web(), &endpoints(SLOTS_PER_SERVICE + 1));
    assert!(text.contains("16382 ready endpoints") && text.contains("16381"), "{text}");
}

#[test]
fn nodes_that_contradict_others_are_refused_and_unfinished_ones_wait() {
    let this = ThisNode { name: "n1".into(), pod_cidr: "10.244.1.0/24".parse().unwrap(), overlay_mtu: 1450 };
    let node = |name: &str, ip: &str, cidr: &str| -> NodeObject {
        let addresses = json!([{ "type": "Hostname", "address": "x" }, { "type": "InternalIP", "address": ip }]);
        let object = json!({
            "metadata": { "name": name }, "spec": { "podCIDRs": ["fd00::/64", cidr] }, "status": { "addresses": addresses },
        });
        serde_json::from_value(object).unwrap()
    };
    let waiting: NodeObject = serde_json::from_value(json!({ "metadata": { "name": "n9" } })).unwrap();
    let all = [
        node("n1", "192.0.2.1", "10.244.1.0/24"),
        node("n2", "192.0.2.2", "10.244.2.0/24"),
        node("n3", "192.0.2.3", "10.244.2.0/24"),
        node("n4", "192.0.2.4", "10.244.1.0/24"),
        node("n5", "192.0.2.5", "10.244.16.0/20"),
        node("n6", "fd00::1", "10.244.6.0/24"),
        node("n7", "192.0.2.7", "10.244.7.1/24"),
        waiting,
    ];
    let (desired, refusals) = nodes(&all, &this);
    assert_eq!(desired.keys().map(AsRef::as_ref).collect::<Vec<&str>>(), ["n2"]);
    let n2 = &desired["n2"];
    assert_eq!((n2.node.tunnel_v4, n2.node.mac, n2.node.mtu), ([192, 0, 2, 2], [0x0a, 0xd1, 192, 0, 2, 2], 1450));
    let words: Vec<_> = refusals.iter().map(|refusal| (refusal.object.as_str(), refusal.reason.word())).collect();
    let expected = [
        ("Node n3", "pod_cidr_taken"),
        ("Node n4", "pod_cidr_taken"),
        ("Node n5", "pod_cidr_length"),
        ("Node n6", "no_internal_ip"),
        ("Node n7", "bad_pod_cidr"),
    ];
    assert_eq!(words, expected);
}

#[test]
fn what_is_not_served_of_a_service_is_named() {
    let words = |spec| unserved(&object(spec)).iter().map(Reason::word).collect::<Vec<_>>();
    let dual = json!(["10.96.0.1", "fd00::1"]);
    assert_eq!(words(json!({ "type": "NodePort", "clusterIP": "10.96.0.1" })), ["external_traffic"]);
    assert_eq!(words(json!({ "type": "LoadBalancer", "clusterIPs": ["10.96.0.1"] })), ["external_traffic"]);
    assert_eq!(words(json!({ "clusterIP": "10.96.0.1", "externalIPs": ["192.0.2.1"] })), ["external_ips"]);
    assert_eq!(words(json!({ "clusterIP": "10.96.0.1", "clusterIPs": dual })), ["ipv6"]);
    assert_eq!(words(json!({ "clusterIP": "fd00::1" })), ["ipv6"]);
    for whole in [json!({ "type": "ClusterIP", "clusterIP": "10.96.0.1" }), json!({ "type": "ExternalName" })] {
        assert_eq!(words(whole), [""; 0]);
    }
    let mut labelled = object(json!({ "type": "NodePort", "clusterIP": "10.96.0.1" }));
    labelled.metadata.labels = Some([(NOT_OURS[0].to_owned(), "other".to_owned())].into());
    assert_eq!(unserved(&labelled), []);
}
