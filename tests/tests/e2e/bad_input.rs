//! What cannot work is refused with its reason, and nothing of it is kept.

use serde_json::json;

use crate::fixture::{fixture, get, service};

#[test]
fn a_service_port_out_of_range_is_refused_with_its_field() {
    let fixture = fixture();
    let mut wrong = service("wrong", "web", 80, 8080);
    wrong["spec"]["ports"][0]["port"] = 70000.into();
    let error = format!("{:#}", fixture.cluster.apply(&wrong.to_string()).unwrap_err());
    assert!(error.contains("spec.ports[0].port") && error.contains("70000"), "{error}");
    assert!(error.contains("between 1 and 65535"), "{error}");
    let error = format!("{:#}", fixture.cluster.get(&["service", "wrong"]).unwrap_err());
    assert!(error.contains("NotFound"), "{error}");
}

#[test]
fn a_slice_with_an_address_of_the_wrong_family_is_refused_with_its_field() {
    let fixture = fixture();
    let slice = json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
        "metadata": { "name": "wrong", "namespace": "default", "labels": { "kubernetes.io/service-name": "web" } },
        "addressType": "IPv4",
        "endpoints": [{ "addresses": ["2001:db8::1"] }],
        "ports": [{ "name": "main", "port": 8080, "protocol": "TCP" }],
    });
    let error = format!("{:#}", fixture.cluster.apply(&slice.to_string()).unwrap_err());
    assert!(error.contains("endpoints[0].addresses[0]") && error.contains("2001:db8::1"), "{error}");
    // The Service it claims to belong to is as it was.
    assert!(get(&fixture.cluster, &fixture.client, &fixture.web, 80).is_ok());
}

#[test]
fn a_certificate_of_a_foreign_authority_is_refused() {
    let fixture = fixture();
    let directory = fixture.cluster.directory().join("foreign");
    let (pki, file) = (directory.to_string_lossy().into_owned(), directory.join("foreign.kubeconfig"));
    let binary = diolkos_tests::tools::diolkos().unwrap();
    let (binary, file) = (binary.to_string_lossy(), file.to_string_lossy());
    let control = fixture.cluster.control();
    control.run(&[&binary, "pki", "init", "--cert-dir", &pki, "--san", "172.30.0.1"]).unwrap();
    let server = "https://172.30.0.1:6443";
    let identity = ["--user", "kubernetes-admin", "--group", "system:masters"];
    let issue = [&*binary, "pki", "kubeconfig", "--cert-dir", &pki, "--server", server, "--output", &file];
    control.run(&[&issue[..], &identity[..]].concat()).unwrap();
    // The server is not to blame: it is trusted, and it does not trust us.
    let error =
        control.run(&["kubectl", "--kubeconfig", &file, "--insecure-skip-tls-verify", "get", "nodes"]).unwrap_err();
    let error = format!("{error:#}");
    assert!(["certificate", "nauthorized", "tls"].iter().any(|word| error.contains(word)), "{error}");
}
