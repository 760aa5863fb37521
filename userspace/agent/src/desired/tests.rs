//! Which endpoints serve, and what is refused.
#![allow(clippy::unwrap_used)]

use std::time::Duration;

use diolkos_abi::address::protocol;
use k8s_openapi::api::core::v1::{Node as NodeObject, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use serde_json::json;

use super::read::NOT_OURS;
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

fn this() -> ThisNode {
    ThisNode {
        name: "n1".into(),
        node_v4: Some([192, 0, 2, 1].into()),
        node_v6: None,
        pod_cidr_v4: Some("10.244.1.0/24".parse().unwrap()),
        pod_cidr_v6: None,
        service_cidrs: vec!["10.96.0.0/16".parse().unwrap()],
        overlay_mtu: 1450,
        on_link: OnLink::default(),
        clock: Clock::of(Duration::from_millis(4)),
    }
}

fn this_dual() -> ThisNode {
    let (node_v6, pod_cidr_v6) = (Some("fd00::1".parse().unwrap()), Some("fd44:0:0:1::/64".parse().unwrap()));
    ThisNode { node_v6, pod_cidr_v6, ..this() }
}

fn read(slices: &[EndpointSlice]) -> Vec<SliceFacts> {
    let mut names = Names::default();
    slices.iter().map(|slice| SliceFacts::read(slice, &mut names)).collect()
}

fn desired(service: &Service, slices: &[EndpointSlice], this: &ThisNode) -> Result<DesiredService, Reason> {
    let slices = read(slices);
    let slices: Vec<&SliceFacts> = slices.iter().collect();
    super::service(&ServiceFacts::read(service, &mut Names::default())?.unwrap(), &slices, this)
}

fn port(service: &Service, slices: &[EndpointSlice]) -> DesiredPort {
    desired(service, slices, &this()).unwrap().ports.into_values().next().unwrap()
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
fn a_tcp_and_a_udp_port_of_one_number_are_two_ports_with_backends_of_their_own() {
    let both = json!([{ "name": "dns", "port": 53, "protocol": "UDP" }, { "name": "dns-tcp", "port": 53 }]);
    let service = object(json!({ "clusterIP": "10.96.0.10", "ports": both }));
    let mut slice = slice(json!([endpoint("10.244.0.1", true, true, false)]));
    slice.ports = serde_json::from_value(both).unwrap();
    let ports = desired(&service, &[slice], &this()).unwrap().ports;
    let protocols: Vec<_> = ports.iter().map(|(key, port)| (key.protocol, port.row.keys().next().unwrap())).collect();
    let backend = |protocol| BackendKey { address: v4_mapped([10, 244, 0, 1]), port: 53, protocol };
    assert_eq!(protocols, [(protocol::TCP, &backend(protocol::TCP)), (protocol::UDP, &backend(protocol::UDP))]);
    assert!(ports.iter().all(|(key, port)| port.frontends[0].protocol == key.protocol));
}

#[test]
fn each_family_has_its_row_from_the_slices_of_its_address_type() {
    let mut dual = web();
    dual.spec.as_mut().unwrap().cluster_ips = Some(vec!["10.96.0.1".into(), "fd96::1".into()]);
    let mut six = slice(json!([endpoint("fd44::7", true, true, false)]));
    six.address_type = "IPv6".into();
    let slices = [slice(json!([endpoint("10.244.0.1", true, true, false)])), six.clone()];
    let both = desired(&dual, &slices, &this_dual()).unwrap();
    let rows: Vec<_> =
        both.ports.iter().map(|(key, port)| (key.family, last_bytes(port.row.keys().copied()))).collect();
    assert_eq!(rows, [(Family::V4, vec![1]), (Family::V6, vec![7])]);
    let addresses = [IpAddr::from([10, 96, 0, 1]), "fd96::1".parse().unwrap()].map(address);
    assert_eq!(both.addresses, addresses.into(), "one marker an address, shared by its ports");
    let single = desired(&dual, &slices, &this()).unwrap();
    assert_eq!(single.ports.len(), 1, "a node without a family leaves it alone");
    assert_eq!(single.addresses, [addresses[0]].into());
    let only_six = object(json!({ "clusterIPs": ["fd96::2"], "ports": [{ "name": "http", "port": 80 }] }));
    assert!(desired(&only_six, &[six], &this()).unwrap().addresses.is_empty());
}

#[test]
fn an_endpoint_that_cannot_be_is_left_out_alone() {
    for bad in ["fd00::1", "10.244.0.256", "127.0.0.1", "0.0.0.0", "224.0.0.1", "169.254.1.1", ""] {
        let facts =
            read(&[slice(json!([endpoint(bad, true, true, false), endpoint("10.244.0.2", true, true, false)]))]);
        assert_eq!(facts[0].endpoints.len(), 1, "{bad}");
        let text = facts[0].left_out[0].to_string();
        assert!(text.contains(&format!("{bad:?}")) && text.contains("IPv4"), "{text}");
    }
    for bad in ["::", "::1", "fe80::1", "ff02::1", "::ffff:10.0.0.1", "10.244.0.1"] {
        let mut six = slice(json!([endpoint(bad, true, true, false)]));
        six.address_type = "IPv6".into();
        let facts = read(&[six]);
        assert!(facts[0].endpoints.is_empty() && facts[0].left_out.len() == 1, "{bad}");
    }
    let mut bad_port = slice(json!([]));
    bad_port.ports = serde_json::from_value(json!([{ "name": "http", "port": 70000 }])).unwrap();
    assert!(read(&[bad_port])[0].left_out[0].to_string().contains("70000"));
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
fn a_client_keeps_its_backend_for_the_time_the_service_says_in_the_programs_unit() {
    let with = |config: serde_json::Value| {
        let spec = json!({
            "clusterIP": "10.96.0.1", "ports": [{ "port": 80 }],
            "sessionAffinity": "ClientIP", "sessionAffinityConfig": config,
        });
        desired(&object(spec), &[], &this()).unwrap().affinity
    };
    let clock = this().clock;
    assert_eq!(with(json!({ "clientIP": { "timeoutSeconds": 60 } })), clock.units(Duration::from_secs(60)));
    assert_eq!(with(json!(null)), clock.units(Duration::from_secs(10_800)), "three hours when it does not say");
    assert_eq!(desired(&web(), &[], &this()).unwrap().affinity, 0);
}

#[test]
fn services_of_others_are_skipped_without_a_refusal() {
    let skipped = [
        json!({ "clusterIP": "None", "clusterIPs": ["None"], "ports": [{ "port": 80, "protocol": "SCTP" }] }),
        json!({ "type": "ExternalName", "externalName": "example.org" }),
        json!({ "ports": [{ "port": 80 }] }),
    ];
    for spec in skipped {
        assert_eq!(ServiceFacts::read(&object(spec.clone()), &mut Names::default()), Ok(None), "{spec}");
    }
    let mut labelled = web();
    labelled.metadata.labels = Some([(NOT_OURS[0].to_owned(), "other".to_owned())].into());
    assert_eq!(ServiceFacts::read(&labelled, &mut Names::default()), Ok(None));
}

#[test]
fn what_cannot_be_served_is_refused_with_what_to_do() {
    let of = |ports: serde_json::Value| object(json!({ "clusterIP": "10.96.0.1", "ports": ports }));
    let cases = [
        (of(json!([{ "port": 0 }])), "port 0"),
        (of(json!([{ "port": 65536 }])), "port 65536"),
        (of(json!([{ "port": 80 }, { "port": 53, "protocol": "SCTP" }])), "\"SCTP\" of port 53"),
        (of(json!([{ "name": "a", "port": 80 }, { "name": "b", "port": 80 }])), "port 80 is there twice"),
        (object(json!({ "clusterIP": "10.96.0", "ports": [{ "port": 80 }] })), "\"10.96.0\""),
        (
            object(json!({ "clusterIP": "10.96.0.1", "sessionAffinity": "Cookie", "ports": [{ "port": 80 }] })),
            "spec.sessionAffinity",
        ),
    ];
    for (service, said) in cases {
        let text = desired(&service, &[], &this()).unwrap_err().to_string();
        assert!(text.contains(said), "{text}");
    }
}

#[test]
fn a_row_of_its_limit_is_served_and_a_longer_one_is_refused() {
    let endpoints = |count: u32| {
        let address = |n: u32| Ipv4Addr::from(0x0af4_0000 + n).to_string();
        let all: Vec<_> = (1..=count).map(|n| endpoint(&address(n), true, true, false)).collect();
        [slice(json!(all))]
    };
    assert_eq!(port(&web(), &endpoints(SLOTS_PER_SERVICE)).row.len(), SLOTS_PER_SERVICE as usize);
    let text = desired(&web(), &endpoints(SLOTS_PER_SERVICE + 1), &this()).unwrap_err().to_string();
    assert!(text.contains("16382 ready endpoints") && text.contains("16381"), "{text}");
}

fn node_object(name: &str, ips: &[&str], cidrs: &[&str]) -> NodeObject {
    let internal = ips.iter().map(|ip| json!({ "type": "InternalIP", "address": ip }));
    let addresses: Vec<_> = [json!({ "type": "Hostname", "address": "x" })].into_iter().chain(internal).collect();
    let object = json!({
        "metadata": { "name": name }, "spec": { "podCIDRs": cidrs }, "status": { "addresses": addresses },
    });
    serde_json::from_value(object).unwrap()
}

type Found = (BTreeMap<Arc<str>, DesiredNode>, Vec<Refusal>);

fn desired_nodes(objects: &[NodeObject], this: &ThisNode) -> Found {
    let facts: Vec<_> =
        objects.iter().map(|node| (node.metadata.name.clone().unwrap(), NodeFacts::read(node))).collect();
    nodes(facts.iter().map(|(name, facts)| (name.as_str(), facts)), this)
}

#[test]
fn nodes_that_contradict_others_are_refused_and_unfinished_ones_wait() {
    let all = [
        node_object("n1", &["192.0.2.1"], &["10.244.1.0/24"]),
        node_object("n2", &["192.0.2.2"], &["fd00:0:0:2::/64", "10.244.2.0/24"]),
        node_object("n3", &["192.0.2.3"], &["10.244.2.0/24"]),
        node_object("n4", &["192.0.2.4"], &["10.244.1.0/24"]),
        node_object("n5", &["192.0.2.5"], &["10.244.16.0/20"]),
        node_object("n6", &["fd00::1"], &["10.244.6.0/24"]),
        node_object("n7", &["192.0.2.7"], &["10.244.7.1/24"]),
        node_object("n8", &["192.0.2.8"], &["fd00:0:0:8::/64"]),
        node_object("n9", &[], &[]),
    ];
    let (desired, refusals) = desired_nodes(&all, &this());
    assert_eq!(desired.keys().map(AsRef::as_ref).collect::<Vec<&str>>(), ["n2"]);
    let n2 = &desired["n2"];
    assert_eq!((n2.node.tunnel_v4, n2.node.mac, n2.node.mtu), ([192, 0, 2, 2], [0x0a, 0xd1, 192, 0, 2, 2], 1450));
    assert_eq!(n2.node.prefix_v6, [0; 16], "this node has no IPv6");
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
fn a_node_of_two_families_has_both_pod_cidrs_and_tunnel_ends() {
    let all = [
        node_object("n2", &["fd00::2", "192.0.2.2", "192.0.2.99"], &["10.244.2.0/24", "fd44:0:0:2::/64"]),
        node_object("n3", &["fd00::3"], &["fd44:0:0:3::/64"]),
    ];
    let (desired, refusals) = desired_nodes(&all, &this_dual());
    assert_eq!(refusals, []);
    let node = desired["n2"].node;
    assert_eq!((node.tunnel_v4, node.prefix_v4), ([192, 0, 2, 2], [10, 244, 2, 0]));
    assert_eq!(Ipv6Addr::from(node.tunnel_v6).to_string(), "fd00::2");
    assert_eq!(Ipv6Addr::from(node.prefix_v6).to_string(), "fd44:0:0:2::");
    let remote: Vec<_> = desired["n2"].remote_cidrs().map(|remote| remote.cidr.to_string()).collect();
    assert_eq!(remote, ["10.244.2.0/24", "fd44:0:0:2::/64"]);
    let six = desired["n3"].node;
    assert_eq!((six.tunnel_v4, six.mtu), ([0; 4], 1430), "a tunnel over IPv6 takes 20 bytes more");
}

#[test]
fn an_address_is_that_of_one_node_and_of_no_pod_and_no_service() {
    let all = [
        node_object("n2", &["192.0.2.3", "192.0.2.2", "fd00::2", "192.0.2.3"], &["10.244.2.0/24"]),
        node_object("n3", &["192.0.2.4", "192.0.2.2", "192.0.2.33"], &["10.244.3.0/24"]),
        node_object("n4", &["192.0.2.2", "10.244.1.7"], &["10.244.4.0/24"]),
        node_object("n5", &["192.0.2.1"], &["10.244.5.0/24"]),
        node_object("n6", &["192.0.2.6", "10.96.0.1"], &["10.244.6.0/24"]),
        node_object("n7", &["192.0.2.7", "127.0.0.1"], &["10.244.7.0/24"]),
    ];
    let (desired, refusals) = desired_nodes(&all, &this());
    let own = |name: &str| -> Vec<String> {
        let addresses = desired[name].addresses.iter();
        addresses.map(|address| Ipv6Addr::from(*address).to_ipv4_mapped().unwrap().to_string()).collect()
    };
    assert_eq!(own("n2"), ["192.0.2.3"], "this node has no IPv6, and n4 is reached by the other");
    assert_eq!(own("n3"), ["192.0.2.4", "192.0.2.33"]);
    assert_eq!(own("n4"), ["192.0.2.2"]);
    assert!(own("n5").is_empty(), "it is this node's");
    assert_eq!(own("n6"), ["192.0.2.6"]);
    assert!(!desired.contains_key("n7"));
    let said: Vec<_> = refusals.iter().map(|refusal| (refusal.object.as_str(), refusal.reason.to_string())).collect();
    let taken = |address: &str, by: &str| {
        format!(
            "InternalIP {address} is that of Node {by} already: it is left out; correct status.addresses of one of them"
        )
    };
    let of_services = "InternalIP 10.96.0.1 lies in the service CIDR: it is left out; correct status.addresses";
    let bad = "InternalIP \"127.0.0.1\" is no unicast address of a host: correct status.addresses";
    let of_pods = "InternalIP 10.244.1.7 lies in this node's pod CIDR: it is left out; correct status.addresses";
    let expected = [
        ("Node n7", bad.to_owned()),
        ("Node n5", taken("192.0.2.1", "n1")),
        ("Node n2", taken("192.0.2.2", "n4")),
        ("Node n3", taken("192.0.2.2", "n4")),
        ("Node n4", of_pods.to_owned()),
        ("Node n6", of_services.to_owned()),
    ];
    assert_eq!(said, expected);
    let dual = [node_object("n2", &["fd00::2", "192.0.2.2"], &["10.244.2.0/24", "fd44:0:0:2::/64"])];
    assert_eq!(desired_nodes(&dual, &this_dual()).0["n2"].addresses.len(), 2);
}

#[test]
fn what_is_not_served_of_a_service_is_named() {
    let words = |mut spec: serde_json::Value| {
        spec["ports"] = json!([{ "port": 80 }]);
        let facts = ServiceFacts::read(&object(spec), &mut Names::default()).unwrap();
        facts.map(|facts| facts.unserved.iter().map(Reason::word).collect::<Vec<_>>()).unwrap_or_default()
    };
    assert_eq!(words(json!({ "type": "NodePort", "clusterIP": "10.96.0.1" })), ["external_traffic"]);
    assert_eq!(words(json!({ "type": "LoadBalancer", "clusterIPs": ["10.96.0.1"] })), ["external_traffic"]);
    assert_eq!(words(json!({ "clusterIP": "10.96.0.1", "externalIPs": ["192.0.2.1"] })), ["external_ips"]);
    for whole in [json!({ "type": "ClusterIP", "clusterIP": "10.96.0.1" }), json!({ "type": "ExternalName" })] {
        assert_eq!(words(whole), [""; 0]);
    }
}
