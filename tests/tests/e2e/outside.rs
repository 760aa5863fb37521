//! Pods, nodes and a machine that is no part of the cluster: it has no route to pods.

use serde_json::{Value, json};

use crate::fixture::{Fixture, Place, WITNESS, cluster_ips, fixture};

/// Who asks, and the addresses of its node.
fn askers(fixture: &Fixture) -> [(Place<'_>, Vec<String>); 7] {
    let node = |index: usize| fixture.cluster.node(index).addresses().to_vec();
    let (near, far, host) = (&fixture.client, &fixture.far, &fixture.hosts[1]);
    [
        (Place::Pod(near), node(0)),
        (Place::Pod(far), node(1)),
        (Place::Packets(near), node(0)),
        (Place::Packets(far), node(1)),
        (Place::Pod(host), node(1)),
        (Place::Node(0), node(0)),
        (Place::NodePackets(0), node(0)),
    ]
}

#[test]
fn the_outside_sees_pods_under_their_nodes_addresses_and_answers_them() {
    let fixture = fixture();
    for (family, address) in fixture.outside.addresses.iter().enumerate() {
        for (from, node) in askers(&fixture) {
            for how in ["tcp", "udp", "datagrams"] {
                let heard = fixture.probe(from, &[how, address, WITNESS, "3"]);
                assert!(heard.keys().eq([&node[family]]), "{from:?} {how} {address}: {heard:?}");
            }
        }
    }
}

#[test]
fn pods_ping_the_outside() {
    let fixture = fixture();
    for address in &fixture.outside.addresses {
        for pod in [&fixture.client, &fixture.far] {
            let said = fixture.cluster.exec(pod, &["ping", "-c", "2", "-W", "2", address]).unwrap();
            assert!(said.contains("2 packets received"), "{address}: {said}");
        }
    }
}

#[test]
fn a_port_that_nobody_has_outside_is_refused_to_the_pod() {
    let fixture = fixture();
    for address in &fixture.outside.addresses {
        for from in [Place::Pod(&fixture.client), Place::Packets(&fixture.far)] {
            for how in ["tcp", "udp"] {
                let heard = fixture.probe(from, &[how, address, "9", "2"]);
                assert!(heard.keys().eq(["refused"]), "{from:?} {how} {address}: {heard:?}");
            }
        }
    }
}

#[test]
fn a_service_whose_endpoints_are_outside_answers_pods_and_nodes() {
    let mut fixture = fixture();
    let ports = json!([
        { "name": "main", "port": 80, "protocol": "TCP" },
        { "name": "datagrams", "port": 80, "protocol": "UDP" },
    ]);
    let service = json!({
        "apiVersion": "v1", "kind": "Service", "metadata": { "name": "abroad", "namespace": "default" },
        "spec": { "ipFamilyPolicy": "RequireDualStack", "ports": ports },
    });
    fixture.cluster.apply(&service.to_string()).unwrap();
    for (kind, address) in ["IPv4", "IPv6"].into_iter().zip(&fixture.outside.addresses) {
        fixture.cluster.apply(&slice(kind, address).to_string()).unwrap();
    }
    let addresses = cluster_ips(&fixture.cluster, "abroad").unwrap();
    let client = fixture.client.clone();
    for (family, address) in addresses.iter().enumerate() {
        let node = fixture.cluster.node(0).addresses()[family].clone();
        fixture.wait_probe(Place::Pod(&client), &["udp", address, "80", "1"], &node);
        for (from, node) in askers(&fixture) {
            for how in ["tcp", "udp"] {
                let heard = fixture.probe(from, &[how, address, "80", "2"]);
                assert!(heard.keys().eq([&node[family]]), "{from:?} {how} {address}: {heard:?}");
            }
        }
    }
    fixture.cluster.kubectl(&["delete", "service", "abroad"]).unwrap();
    fixture.cluster.kubectl(&["delete", "endpointslice", "-l", "kubernetes.io/service-name=abroad"]).unwrap();
}

fn slice(kind: &str, address: &str) -> Value {
    let port: u16 = WITNESS.parse().unwrap();
    json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
        "metadata": {
            "name": format!("abroad-{}", kind.to_lowercase()), "namespace": "default",
            "labels": { "kubernetes.io/service-name": "abroad" },
        },
        "addressType": kind,
        "endpoints": [{ "addresses": [address] }],
        "ports": [
            { "name": "main", "port": port, "protocol": "TCP" },
            { "name": "datagrams", "port": port, "protocol": "UDP" },
        ],
    })
}
