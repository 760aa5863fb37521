//! The pod network: pods of one node, pods of different nodes, and what a pod leaves behind.

use anyhow::ensure;
use diolkos_tests::{Cluster, iperf};

use crate::fixture::{PATIENCE, fixture, get, pod};

#[test]
fn pods_on_one_node_reach_each_other() {
    let fixture = fixture();
    assert_eq!(fixture.client.node, fixture.near.node);
    assert_eq!(get(&fixture.cluster, &fixture.client, &fixture.near.address, 8080).unwrap(), "near");
    assert_eq!(get(&fixture.cluster, &fixture.near, &fixture.far.address, 8080).unwrap(), "far");
}

#[test]
fn pods_on_different_nodes_reach_each_other_over_vxlan() {
    let fixture = fixture();
    assert_ne!(fixture.client.node, fixture.far.node);
    let sent = |cluster: &Cluster| {
        let path = "/sys/class/net/diolkos_vxlan/statistics/tx_packets";
        // The machine's /sys shows the machine's network, so the counters are read through a fresh one.
        let script = format!("mount -t sysfs sysfs /mnt && cat /mnt{} && umount /mnt", path.trim_start_matches("/sys"));
        let text = cluster.node(0).exec(&["unshare", "--mount", "sh", "-c", &script]).unwrap();
        text.trim().parse::<u64>().unwrap()
    };
    let before = sent(&fixture.cluster);
    assert_eq!(get(&fixture.cluster, &fixture.client, &fixture.far.address, 8080).unwrap(), "far");
    assert!(sent(&fixture.cluster) > before, "nothing went through the overlay");
}

#[test]
fn pods_and_nodes_reach_each_other() {
    let fixture = fixture();
    for pod in [&fixture.near, &fixture.far] {
        let answer = fixture.cluster.node(0).exec(&["timeout", "3", "busybox", "nc", &pod.address, "8080"]).unwrap();
        assert_eq!(answer.trim(), pod.name);
    }
    for node in fixture.cluster.nodes() {
        let ping = ["ping", "-c", "1", "-W", "2", node.address()];
        fixture.cluster.exec(&fixture.client, &ping).unwrap();
    }
}

#[test]
fn bulk_data_crosses_the_overlay() {
    let fixture = fixture();
    let client = || {
        let mut command = fixture.cluster.exec_command(&fixture.client, "iperf3")?;
        command.args(iperf::arguments(&fixture.far.address, 1));
        Ok(command)
    };
    let gbps = iperf::measure(client).unwrap();
    assert!(gbps > 0.2, "{gbps} Gbit/s: segments do not fit the overlay");
}

#[test]
fn a_deleted_pod_leaves_no_interface_and_its_address_is_silent() {
    let mut fixture = fixture();
    let before = interfaces(&fixture.cluster);
    fixture.cluster.apply(&pod("passing", Some("node-1")).to_string()).unwrap();
    let passing = fixture.cluster.wait_pods("app=passing", 1, PATIENCE).unwrap().remove(0);
    assert_eq!(interfaces(&fixture.cluster), before + 1);
    assert_eq!(get(&fixture.cluster, &fixture.client, &passing.address, 8080).unwrap(), "passing");
    fixture.cluster.kubectl(&["delete", "pod", "passing"]).unwrap();
    let look = |cluster: &mut Cluster| {
        let now = interfaces(cluster);
        ensure!(now == before, "{now} interfaces instead of {before}");
        Ok(())
    };
    fixture.cluster.wait("its interface is gone", PATIENCE, look).unwrap();
    assert!(get(&fixture.cluster, &fixture.client, &passing.address, 8080).is_err());
}

/// Host sides of pods on the first node.
fn interfaces(cluster: &Cluster) -> usize {
    let links = cluster.node(0).exec(&["ip", "-oneline", "link", "show", "type", "veth"]).unwrap();
    links.lines().filter(|line| line.split(": ").nth(1).is_some_and(|name| name.starts_with("di"))).count()
}
