//! A cluster that has IPv6 and nothing else.

use std::net::IpAddr;

use diolkos_tests::{Cluster, ClusterConfig, Families, Pod};
use serde_json::json;

use crate::fixture::{
    HOST_PORT, Outside, PATIENCE, Place, WITNESS, ask, cluster_ips, deployment, images, on_host_network, pod,
    service_of_both_protocols, tally,
};

struct Six {
    cluster: Cluster,
    near: Pod,
    far: Pod,
    outside: Outside,
    /// Of the Services `web`, over two pods, `hosts`, over one host network, and `empty`.
    services: [String; 3],
}

impl Six {
    fn start() -> Self {
        let families = Families::V6;
        let config = ClusterConfig { nodes: 2, images: images().unwrap(), families, ..ClusterConfig::default() };
        let mut cluster = Cluster::start(&config).unwrap_or_else(|error| panic!("{error:#}"));
        let outside = Outside::start(&mut cluster, families).unwrap();
        for object in [
            pod("near", Some("node-1")),
            pod("far", Some("node-2")),
            on_host_network("host-2", "hosts", "node-2"),
            deployment("web", 2),
            service_of_both_protocols("web", "web", 8080),
            service_of_both_protocols("hosts", "hosts", HOST_PORT),
            service_of_both_protocols("empty", "nobody", 8080),
        ] {
            cluster.apply(&object.to_string()).unwrap();
        }
        let mut wait = |app: &str, count| {
            let pods = cluster.wait_pods(&format!("app={app}"), count, PATIENCE);
            pods.unwrap_or_else(|error| panic!("{:#}", cluster.explain(error)))
        };
        let [near, far] = ["near", "far"].map(|name| wait(name, 1).remove(0));
        wait("web", 2);
        wait("hosts", 1);
        let services = ["web", "hosts", "empty"].map(|name| cluster_ips(&cluster, name).unwrap().remove(0));
        let mut six = Self { cluster, near, far, outside, services };
        six.wait_for("hosts", 1);
        six.wait_for("web", 0);
        six
    }

    /// Waits until both nodes know a Service.
    fn wait_for(&mut self, name: &str, index: usize) {
        let address = self.services[index].clone();
        for node in [0, 1] {
            let look = |cluster: &mut Cluster| {
                let said = ask(cluster, Place::Node(node), &["udp", &address, "80", "4"])?;
                anyhow::ensure!(!said.contains("refused") && !said.contains("timeout"), "it says {said}");
                Ok(())
            };
            self.cluster.wait(&format!("{name} answers on node {node}"), PATIENCE, look).unwrap();
        }
    }

    fn heard(&self, from: Place<'_>, how: &str, address: &str, port: &str, count: &str) -> Vec<String> {
        let said = ask(&self.cluster, from, &[how, address, port, count]);
        tally(&said.unwrap_or_else(|error| panic!("{from:?} {how} {address} {port}: {error:#}"))).into_keys().collect()
    }
}

#[test]
fn a_cluster_of_ipv6_alone_carries_pods_services_and_the_way_outside() {
    let six = Six::start();
    all_addresses_are_ipv6(&six.cluster);
    let places = [
        Place::Pod(&six.near),
        Place::Pod(&six.far),
        Place::Packets(&six.near),
        Place::Packets(&six.far),
        Place::Node(0),
        Place::Node(1),
        Place::NodePackets(0),
    ];
    let [web, hosts, empty] = &six.services;
    let host = HOST_PORT.to_string();
    for from in places {
        for how in ["tcp", "udp"] {
            // That one of two is missed by chance happens once in eight million times.
            let names = six.heard(from, how, web, "80", "24");
            assert!(names.len() == 2 && names.iter().all(|name| name.starts_with("web-")), "{from:?} {how}: {names:?}");
            assert_eq!(six.heard(from, how, hosts, "80", "2"), ["host-2"], "{from:?} {how}");
            assert_eq!(six.heard(from, how, empty, "80", "2"), ["refused"], "{from:?} {how}");
            for pod in [&six.near, &six.far] {
                assert_eq!(six.heard(from, how, &pod.address, "8080", "1"), [pod.name.as_str()], "{from:?} {how}");
            }
            let node = six.cluster.node(1).address();
            assert_eq!(six.heard(from, how, node, &host, "1"), ["host-2"], "{from:?} {how}");
            let node = match from {
                Place::Pod(pod) | Place::Packets(pod) => six.cluster.node_named(&pod.node).unwrap(),
                Place::Node(index) | Place::NodePackets(index) => six.cluster.node(index),
            };
            let seen = six.heard(from, how, &six.outside.addresses[0], WITNESS, "2");
            assert_eq!(seen, [node.address()], "{from:?} {how}");
        }
    }
}

/// Nodes, pods, Services and what stands behind `kubernetes`.
fn all_addresses_are_ipv6(cluster: &Cluster) {
    let list = |kind: &[&str]| diolkos_tests::cluster::items(&cluster.get(kind).unwrap()).cloned().collect::<Vec<_>>();
    let mut addresses: Vec<String> = Vec::new();
    for node in list(&["nodes"]) {
        let of_kind = |address: &&serde_json::Value| address["type"] == "InternalIP";
        let of_node = node["status"]["addresses"].as_array().unwrap().iter().filter(of_kind);
        addresses.extend(of_node.map(|address| address["address"].as_str().unwrap().to_owned()));
        assert_eq!(node["spec"]["podCIDRs"].as_array().unwrap().len(), 1, "{node}");
    }
    for pod in list(&["pods"]) {
        let of_pod = pod["status"]["podIPs"].as_array().unwrap();
        assert_eq!(of_pod.len(), 1, "{pod}");
        addresses.push(of_pod[0]["ip"].as_str().unwrap().to_owned());
    }
    for service in list(&["services"]) {
        assert_eq!(service["spec"]["ipFamilies"], json!(["IPv6"]), "{service}");
        addresses.push(service["spec"]["clusterIP"].as_str().unwrap().to_owned());
    }
    for slice in list(&["endpointslices"]) {
        assert_eq!(slice["addressType"], "IPv6", "{slice}");
        let endpoints = slice["endpoints"].as_array().into_iter().flatten();
        addresses.extend(endpoints.map(|endpoint| endpoint["addresses"][0].as_str().unwrap().to_owned()));
    }
    // Two nodes, five pods, four Services and what stands behind three of them.
    assert_eq!(addresses.len(), 15, "{addresses:?}");
    for address in addresses {
        assert!(matches!(address.parse(), Ok(IpAddr::V6(_))), "{address}");
    }
}
