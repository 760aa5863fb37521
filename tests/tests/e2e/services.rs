//! Services: who answers, what a socket sees, and what becomes of them when pods come and go.

use std::process::Stdio;

use anyhow::ensure;
use serde_json::json;

use crate::fixture::{Fixture, PATIENCE, Place, REPLICAS, deployment, fixture, get, loop_script, service, tally};

#[test]
fn a_service_spreads_connections_over_all_its_pods() {
    let fixture = fixture();
    let answers = fixture.answers(&fixture.web, 80, 120);
    assert_eq!(answers.get("failed"), None, "{answers:?}");
    assert_eq!(answers.len(), REPLICAS, "{answers:?}");
}

#[test]
fn a_node_reaches_services_from_its_own_network() {
    let fixture = fixture();
    for node in fixture.cluster.nodes() {
        let answers = tally(&node.exec(&["sh", "-c", &loop_script("busybox nc", &fixture.web, 80, 60)]).unwrap());
        assert_eq!(answers.get("failed"), None, "{}: {answers:?}", node.name());
        assert_eq!(answers.len(), REPLICAS, "{}: {answers:?}", node.name());
    }
}

/// Holds a connection to port 9000 (2328 in hexadecimal) and prints the addresses its socket is connected to, from /proc/net/tcp.
pub(crate) const HELD: &str = "(sleep 2 | busybox nc $0 $1) > /dev/null 2>&1 < /dev/null &
for i in $(seq 40); do
    grep -q ':2328 01 ' /proc/net/tcp && break
    sleep 0.05
done
cat /proc/net/tcp";

#[test]
fn a_pods_socket_is_connected_to_the_backend_itself() {
    let fixture = fixture();
    let table = fixture.cluster.exec(&fixture.client, &["sh", "-c", HELD, &fixture.web, "9000"]).unwrap();
    let remotes = remotes(&table);
    assert!(!remotes.contains(&(fixture.web.clone(), 9000)), "the socket still has the ClusterIP: {remotes:?}");
    assert!(is_backend(&fixture, &remotes), "{remotes:?}");
}

#[test]
fn a_nodes_socket_is_connected_to_the_backend_itself() {
    let fixture = fixture();
    let table = fixture.cluster.node(0).exec(&["sh", "-c", HELD, &fixture.web, "9000"]).unwrap();
    assert!(is_backend(&fixture, &remotes(&table)), "{table}");
}

#[test]
fn a_socket_that_the_hooks_miss_is_translated_packet_by_packet() {
    let fixture = fixture();
    let run = |script: &str, arguments: &[&str]| {
        let mut command = fixture.cluster.command_in_network(&fixture.client, "sh").unwrap();
        let output = command.args(["-c", script]).args(arguments).stdin(Stdio::null()).output().unwrap();
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    let remotes = remotes(&run(HELD, &[&fixture.web, "9000"]));
    assert!(remotes.contains(&(fixture.web.clone(), 9000)), "the socket was translated: {remotes:?}");
    let answers = tally(&run(&loop_script("busybox nc", &fixture.web, 80, 120), &[]));
    assert_eq!(answers.get("failed"), None, "{answers:?}");
    assert_eq!(answers.len(), REPLICAS, "{answers:?}");
}

#[test]
fn a_pod_reaches_itself_through_its_service() {
    let mut fixture = fixture();
    let addresses = fixture.serve("near", "near", 8080, &json!({ "ipFamilyPolicy": "RequireDualStack" }));
    let near = fixture.near.clone();
    for address in &addresses {
        fixture.wait_probe(Place::Pod(&near), &["tcp", address, "80", "1"], "near");
        for from in [Place::Pod(&near), Place::Packets(&near)] {
            for how in ["tcp", "udp", "datagrams"] {
                let heard = fixture.probe(from, &[how, address, "80", "10"]);
                assert!(heard.keys().eq(["near"]), "{from:?} {how} {address}: {heard:?}");
            }
        }
    }
    fixture.cluster.kubectl(&["delete", "service", "near"]).unwrap();
}

#[test]
fn scaling_up_and_down_changes_who_answers() {
    let mut fixture = fixture();
    fixture.cluster.apply(&deployment("scaled", 1).to_string()).unwrap();
    fixture.cluster.apply(&service("scaled", "scaled", 80, 8080).to_string()).unwrap();
    let address = fixture.cluster.service_field("scaled", "clusterIP").unwrap();
    for replicas in [1, 4, 2] {
        fixture.cluster.kubectl(&["scale", "deployment", "scaled", &format!("--replicas={replicas}")]).unwrap();
        let pods = fixture.cluster.wait_pods("app=scaled", replicas, PATIENCE).unwrap();
        let mut expected: Vec<&str> = pods.iter().map(|pod| pod.name.as_str()).collect();
        expected.sort_unstable();
        let client = fixture.client.clone();
        let look = |cluster: &mut diolkos_tests::Cluster| {
            let script = loop_script("nc", &address, 80, 60);
            let answers = tally(&cluster.exec(&client, &["sh", "-c", &script])?);
            let seen: Vec<&str> = answers.keys().map(String::as_str).collect();
            ensure!(seen == expected, "{seen:?} answer instead of {expected:?}");
            Ok(())
        };
        fixture.cluster.wait(&format!("{replicas} replicas answer"), PATIENCE, look).unwrap();
    }
    fixture.cluster.kubectl(&["delete", "deployment,service", "scaled"]).unwrap();
    fixture.cluster.wait_pods("app=scaled", 0, PATIENCE).unwrap();
}

#[test]
fn a_service_without_pods_refuses_at_once() {
    let mut fixture = fixture();
    fixture.cluster.apply(&service("empty", "nobody", 80, 8080).to_string()).unwrap();
    let address = fixture.cluster.service_field("empty", "clusterIP").unwrap();
    refused(&mut fixture, &address);
    fixture.cluster.kubectl(&["delete", "service", "empty"]).unwrap();
}

#[test]
fn a_deleted_service_no_longer_answers() {
    let mut fixture = fixture();
    fixture.cluster.apply(&service("short-lived", "near", 80, 8080).to_string()).unwrap();
    let address = fixture.cluster.service_field("short-lived", "clusterIP").unwrap();
    fixture.wait_answer(&address, 80);
    fixture.cluster.kubectl(&["delete", "service", "short-lived"]).unwrap();
    let client = fixture.client.clone();
    let look = |cluster: &mut diolkos_tests::Cluster| {
        ensure!(get(cluster, &client, &address, 80).is_err(), "it still answers");
        Ok(())
    };
    fixture.cluster.wait("the deleted Service is silent", PATIENCE, look).unwrap();
}

/// Waits until connects from the client fail with "refused" instead of running into their time limit.
fn refused(fixture: &mut Fixture, address: &str) {
    let client = fixture.client.clone();
    let look = |cluster: &mut diolkos_tests::Cluster| {
        let error = get(cluster, &client, address, 80).err();
        let said = error.map(|error| format!("{error:#}")).unwrap_or_default();
        ensure!(said.contains("refused"), "a connect says {said:?}");
        Ok(())
    };
    fixture.cluster.wait(&format!("{address} refuses"), PATIENCE, look).unwrap();
}

/// Is one of the remote addresses a pod of `web`?
fn is_backend(fixture: &Fixture, remotes: &[(String, u16)]) -> bool {
    let pods = fixture.cluster.pods("app=web").unwrap();
    remotes.iter().any(|(address, port)| *port == 9000 && pods.iter().any(|pod| pod.address == *address))
}

/// Remote address and port of each line of /proc/net/tcp: hexadecimal words in the CPU's order.
fn remotes(table: &str) -> Vec<(String, u16)> {
    let fields = table.lines().filter_map(|line| line.split_whitespace().nth(2)?.split_once(':'));
    let parsed = fields.filter_map(|(address, port)| {
        let address = u32::from_str_radix(address, 16).ok()?.to_ne_bytes();
        Some((std::net::Ipv4Addr::from(address).to_string(), u16::from_str_radix(port, 16).ok()?))
    });
    parsed.collect()
}
