//! Debian's kubectl against the running cluster.

use crate::fixture::{PATIENCE, REPLICAS, deployment, fixture, service};

#[test]
fn kubectl_prints_nodes_pods_and_services() {
    let fixture = fixture();
    let nodes = fixture.cluster.kubectl(&["get", "nodes", "-o", "wide"]).unwrap();
    assert!(nodes.starts_with("NAME ") && nodes.contains("INTERNAL-IP"), "{nodes}");
    assert_eq!(nodes.lines().filter(|line| line.contains(" Ready ")).count(), 2, "{nodes}");
    let pods = fixture.cluster.kubectl(&["get", "pods", "-o", "wide", "-l", "app=web"]).unwrap();
    assert_eq!(
        pods.lines().filter(|line| line.contains("Running") && line.contains("1/1")).count(),
        REPLICAS,
        "{pods}"
    );
    let services = fixture.cluster.kubectl(&["get", "services"]).unwrap();
    assert!(services.contains("CLUSTER-IP") && services.contains(&fixture.web), "{services}");
    let slices = fixture.cluster.kubectl(&["get", "endpointslices"]).unwrap();
    assert!(slices.contains("ADDRESSTYPE") && slices.contains("web-"), "{slices}");
}

#[test]
fn kubectl_applies_what_is_new_and_what_changed_only() {
    let fixture = fixture();
    let mut object = service("applied", "web", 80, 8080);
    let says = |object: &serde_json::Value| fixture.cluster.apply(&object.to_string()).unwrap();
    assert_eq!(says(&object).trim(), "service/applied created");
    assert_eq!(says(&object).trim(), "service/applied unchanged");
    let address = fixture.cluster.service_field("applied", "clusterIP").unwrap();
    object["spec"]["ports"][0]["port"] = 81.into();
    assert_eq!(says(&object).trim(), "service/applied configured");
    assert_eq!(fixture.cluster.service_field("applied", "clusterIP").unwrap(), address);
    assert_eq!(
        fixture.cluster.kubectl(&["delete", "service", "applied"]).unwrap().trim(),
        "service \"applied\" deleted"
    );
}

#[test]
fn kubectl_follows_a_rollout_and_waits_for_deletion() {
    let mut fixture = fixture();
    fixture.cluster.apply(&deployment("rolled", 2).to_string()).unwrap();
    let status = fixture.cluster.kubectl(&["rollout", "status", "deployment/rolled", "--timeout=60s"]).unwrap();
    assert!(status.contains("successfully rolled out"), "{status}");
    fixture.cluster.kubectl(&["delete", "deployment", "rolled", "--wait=true"]).unwrap();
    fixture.cluster.wait_pods("app=rolled", 0, PATIENCE).unwrap();
}
