//! Containers are containerd's, objects are etcd's.

use anyhow::ensure;
use diolkos_tests::Cluster;

use crate::fixture::{PATIENCE, fixture};

#[test]
fn pods_run_as_containers_of_containerd() {
    let fixture = fixture();
    for pod in fixture.cluster.pods("app=web").unwrap() {
        let node = fixture.cluster.node_named(&pod.node).unwrap();
        assert!(node.container_pid(&pod.container).unwrap() > 1);
        assert_eq!(fixture.cluster.exec(&pod, &["hostname"]).unwrap().trim(), pod.name);
        let addresses = fixture.cluster.exec(&pod, &["ip", "address", "show", "eth0"]).unwrap();
        assert!(addresses.contains(&format!("{}/32", pod.address)), "{addresses}");
    }
}

#[test]
fn a_container_that_dies_is_started_again() {
    let mut fixture = fixture();
    let victim = fixture.cluster.pods("app=web").unwrap().remove(0);
    fixture.cluster.exec(&victim, &["kill", "-KILL", "1"]).ok();
    let node = fixture.cluster.node_named(&victim.node).unwrap();
    let pid = node.container_pid(&victim.container).unwrap().to_string();
    // The first process of a namespace ignores the signal from inside; this one comes from outside.
    node.exec(&["sh", "-c", &format!("kill -KILL {pid}")]).unwrap();
    let look = |cluster: &mut Cluster| {
        let pod = cluster.get(&["pod", &victim.name])?;
        let status = &pod["status"]["containerStatuses"][0];
        ensure!(status["restartCount"].as_u64() >= Some(1) && status["ready"] == true, "its container is {status}");
        Ok(())
    };
    fixture.cluster.wait("the container runs again", PATIENCE, look).unwrap();
    fixture.cluster.wait_pods("app=web", crate::fixture::REPLICAS, PATIENCE).unwrap();
    let pods = fixture.cluster.pods("app=web").unwrap();
    let now = pods.iter().find(|pod| pod.name == victim.name).unwrap();
    assert_eq!(now.address, victim.address, "a pod keeps its address when its container restarts");
    fixture.wait_answer(&victim.address, 8080);
}

#[test]
fn objects_outlive_the_apiserver_in_etcd() {
    let mut fixture = fixture();
    let uid = |cluster: &Cluster| cluster.get(&["service", "web"]).map(|service| service["metadata"]["uid"].clone());
    let before = uid(&fixture.cluster).unwrap();
    let apiserver = fixture.cluster.control_plane_mut("apiserver").unwrap();
    apiserver.kill().unwrap();
    let answers = fixture.answers(&fixture.web, 80, 30);
    fixture.cluster.control_plane_mut("apiserver").unwrap().restart().unwrap();
    assert_eq!(answers.get("failed"), None, "Services need no apiserver: {answers:?}");
    let after = fixture.cluster.wait("the apiserver answers again", PATIENCE, |cluster| uid(cluster)).unwrap();
    assert_eq!(before, after);
    fixture.cluster.wait_ready().unwrap();
}
