//! Requests for certificates, and bootstrap tokens.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use diolkos_api::bootstrap_token::BootstrapToken;
use diolkos_controllers::certificates::{
    AGENT_CLIENT, Authority, AuthorityFiles, CLIENT, KUBELET_CLIENT, KUBELET_SERVING,
};
use diolkos_controllers::object::{Key, Object};
use proptest::prelude::*;
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, KeyPair};
use serde_json::{Value, json};
use std::time::{Duration, SystemTime};
use x509_parser::pem::parse_x509_pem;

use crate::model::Model;

const ALL: &[&str] = &["csrapproving", "csrsigning"];
const NODE_USAGES: [&str; 2] = ["digital signature", "client auth"];

/// The PEM of a request.
fn pem(name: &str, organization: &str, names: &[&str]) -> String {
    let mut params = CertificateParams::new(names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>()).unwrap();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    params.distinguished_name.push(DnType::OrganizationName, organization);
    params.serialize_request(&KeyPair::generate().unwrap()).unwrap().pem().unwrap()
}

fn request(signer: &str, user: &str, pem: &str, usages: &[&str]) -> Value {
    json!({
        "apiVersion": "certificates.k8s.io/v1", "kind": "CertificateSigningRequest",
        "metadata": {"name": "csr-1"},
        "spec": {"signerName": signer, "request": STANDARD.encode(pem), "usages": usages, "username": user},
    })
}

fn add(model: &mut Model, signer: &str, user: &str, pem: &str, usages: &[&str]) -> Key {
    let key = model.create(request(signer, user, pem, usages));
    // The server says who asks; a creation by the model would not.
    model.edit(&key, |request| request["spec"]["username"] = user.into());
    key
}

fn conditions(model: &Model, key: &Key) -> Vec<String> {
    let Some(Object::CertificateSigningRequest(request)) = model.view.get(key) else { return Vec::new() };
    let conditions = request.status.as_ref().and_then(|status| status.conditions.clone()).unwrap_or_default();
    conditions
        .into_iter()
        .map(|condition| format!("{} {}", condition.type_, condition.message.unwrap_or_default()))
        .collect()
}

#[test]
fn a_machine_with_a_token_gets_the_certificate_of_its_node() {
    let mut model = Model::new();
    model.permissions = vec!["nodeclient"];
    let node = pem("system:node:n1", "system:nodes", &[]);
    let key = add(&mut model, KUBELET_CLIENT, "system:bootstrap:abcdef", &node, &NODE_USAGES);
    model.settle(ALL);
    assert_eq!(model.log, ["approve csr-1 nodeclient", "sign csr-1"]);
    assert_eq!(conditions(&model, &key), ["Approved "]);
}

#[test]
fn a_node_renews_its_own_certificate_and_its_agents() {
    for (signer, name, organization, asked) in [
        (KUBELET_CLIENT, "system:node:n1", "system:nodes", "approve csr-1 selfnodeclient or nodeclient"),
        (AGENT_CLIENT, "system:diolkos:agent:n1", "system:diolkos-agents", "approve csr-1 selfnodeclient"),
    ] {
        let mut model = Model::new();
        model.permissions = vec!["selfnodeclient"];
        add(&mut model, signer, "system:node:n1", &pem(name, organization, &[]), &NODE_USAGES);
        model.settle(ALL);
        assert_eq!(model.log, [asked, "sign csr-1"]);
    }
}

#[test]
fn who_may_not_have_it_waits_for_an_administrator() {
    let mut model = Model::new();
    let node = pem("system:node:n1", "system:nodes", &[]);
    let key = add(&mut model, KUBELET_CLIENT, "system:node:n2", &node, &NODE_USAGES);
    assert_eq!(model.look("csrapproving", &key), 1, "it asks, and may not");
    assert_eq!(model.look("csrsigning", &key), 0);
    assert_eq!(conditions(&model, &key), Vec::<String>::new());
}

/// Each is approved by nobody, and when somebody does, refused with its reason.
#[test]
fn what_a_signer_does_not_sign_is_told_why() {
    let node = |names: &[&str]| pem("system:node:n1", "system:nodes", names);
    let agent = pem("system:diolkos:agent:n1", "system:diolkos-agents", &[]);
    let cases: [(&str, String, &[&str], &str); 9] = [
        (
            KUBELET_CLIENT,
            pem("system:node:n1", "system:masters", &[]),
            &NODE_USAGES,
            "organization is not system:nodes",
        ),
        (
            KUBELET_CLIENT,
            pem("kubernetes-admin", "system:nodes", &[]),
            &NODE_USAGES,
            "does not begin with system:node:",
        ),
        (KUBELET_CLIENT, pem("system:node:", "system:nodes", &[]), &NODE_USAGES, "does not begin with system:node:"),
        (KUBELET_CLIENT, node(&["n1.example"]), &NODE_USAGES, "DNS subjectAltNames"),
        (KUBELET_CLIENT, node(&["192.0.2.1"]), &NODE_USAGES, "IP subjectAltNames"),
        (KUBELET_CLIENT, node(&[]), &["client auth", "server auth"], "usages did not match"),
        (AGENT_CLIENT, node(&[]), &NODE_USAGES, "organization"),
        (KUBELET_SERVING, node(&[]), &["digital signature", "server auth"], "subjectAltName is required"),
        (CLIENT, agent.clone(), &["server auth"], "usages did not match"),
    ];
    for (signer, pem, usages, why) in cases {
        let mut model = Model::new();
        model.permissions = vec!["nodeclient", "selfnodeclient"];
        let key = add(&mut model, signer, "system:node:n1", &pem, usages);
        model.settle(ALL);
        assert_eq!(model.log, Vec::<String>::new(), "{why}");
        model.edit(&key, |request| request["status"]["conditions"] = json!([{"type": "Approved", "status": "True"}]));
        model.settle(ALL);
        let told = conditions(&model, &key);
        assert!(told.len() == 2 && told[1].starts_with("Failed") && told[1].contains(why), "{why}: {told:?}");
    }
    let mut model = Model::new();
    model.permissions = vec!["selfnodeclient", "nodeclient"];
    add(&mut model, AGENT_CLIENT, "system:node:n2", &agent, &NODE_USAGES);
    model.settle(ALL);
    assert_eq!(model.log, Vec::<String>::new(), "an agent's certificate is for its own node");
}

#[test]
fn a_request_of_another_signer_or_one_that_is_denied_is_left_alone() {
    let mut model = Model::new();
    model.permissions = vec!["nodeclient", "selfnodeclient"];
    let node = pem("system:node:n1", "system:nodes", &[]);
    let key = add(&mut model, "example.com/other", "system:node:n1", &node, &NODE_USAGES);
    model.edit(&key, |request| request["status"]["conditions"] = json!([{"type": "Approved", "status": "True"}]));
    model.settle(ALL);
    model.remove(&key);
    let key = add(&mut model, KUBELET_CLIENT, "system:node:n1", &node, &NODE_USAGES);
    model.edit(&key, |request| request["status"]["conditions"] = json!([{"type": "Denied", "status": "True"}]));
    model.settle(ALL);
    model.view.settings.signs = false;
    model.edit(&key, |request| request["status"]["conditions"] = json!([{"type": "Approved", "status": "True"}]));
    model.settle(ALL);
    assert_eq!(model.log, Vec::<String>::new());
}

#[test]
fn old_requests_go() {
    let node = pem("system:node:n1", "system:nodes", &[]);
    let condition = |type_: &str| json!([{"type": type_, "status": "True", "lastUpdateTime": "2026-11-20T07:00:00Z"}]);
    for (conditions, life) in [(json!([]), 24 * 3600), (condition("Approved"), 3600), (condition("Denied"), 3600)] {
        let mut model = Model::new();
        let key = add(&mut model, KUBELET_CLIENT, "system:bootstrap:abcdef", &node, &NODE_USAGES);
        model.edit(&key, |request| request["status"]["conditions"] = conditions.clone());
        model.pass(life - 1);
        model.settle(&["csrcleaner"]);
        assert!(model.view.get(&key).is_some(), "{conditions} after {life} s");
        model.pass(1);
        model.settle(&["csrcleaner"]);
        assert!(model.view.get(&key).is_none(), "{conditions} after {life} s");
    }
}

#[test]
fn a_certificate_says_what_was_asked_and_is_valid_as_long_as_allowed() {
    let dir = tempfile::tempdir().unwrap();
    let (cert, key) = (dir.path().join("ca.crt"), dir.path().join("ca.key"));
    let pair = KeyPair::generate().unwrap();
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.distinguished_name.push(DnType::CommonName, "test-ca");
    std::fs::write(&cert, params.self_signed(&pair).unwrap().pem()).unwrap();
    std::fs::write(&key, pair.serialize_pem()).unwrap();
    let duration = Duration::from_secs(7200);
    let authority = Authority::new(AuthorityFiles { certificate: cert, key, duration });
    let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000);
    for (asked, lasts) in [(Value::Null, 7200), (json!(600), 600), (json!(86_400), 7200)] {
        let mut object = request(KUBELET_CLIENT, "u", &pem("system:node:n1", "system:nodes", &[]), &NODE_USAGES);
        object["spec"]["expirationSeconds"] = asked;
        let signed = authority.sign(&serde_json::from_value(object).unwrap(), now).unwrap();
        let (_, pem) = parse_x509_pem(signed.as_bytes()).unwrap();
        let certificate = pem.parse_x509().unwrap();
        assert_eq!(certificate.subject().to_string(), "CN=system:node:n1, O=system:nodes");
        assert!(!certificate.is_ca());
        assert_eq!(certificate.validity().not_before.timestamp(), 1_800_000_000 - (lasts / 10).min(300));
        assert_eq!(certificate.validity().not_after.timestamp(), 1_800_000_000 + lasts);
        let usage = certificate.extended_key_usage().unwrap().unwrap().value;
        assert!(usage.client_auth && !usage.server_auth);
    }
}

fn token(model: &mut Model, token: &str, expiration: &str, signing: bool) -> Key {
    let (id, secret) = token.split_once('.').unwrap();
    model.create(json!({
        "apiVersion": "v1", "kind": "Secret", "type": "bootstrap.kubernetes.io/token",
        "metadata": {"name": format!("bootstrap-token-{id}"), "namespace": "kube-system"},
        "data": {
            "token-id": STANDARD.encode(id), "token-secret": STANDARD.encode(secret),
            "expiration": STANDARD.encode(expiration),
            "usage-bootstrap-signing": STANDARD.encode(if signing { "true" } else { "false" }),
        },
    }))
}

fn info(model: &mut Model) -> Key {
    model.create(json!({
        "apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "cluster-info", "namespace": "kube-public"},
        "data": {"kubeconfig": "where it is", "note": "kept", "jws-kubeconfig-gone00": "old"},
    }))
}

fn data(model: &Model, key: &Key) -> std::collections::BTreeMap<String, String> {
    match model.view.get(key) {
        Some(Object::ConfigMap(info)) => info.data.clone().unwrap_or_default(),
        _ => panic!("no {key}"),
    }
}

#[test]
fn cluster_info_is_signed_with_each_token_until_it_expires() {
    const BOTH: &[&str] = &["bootstrapsigner", "tokencleaner"];
    let mut model = Model::new();
    let key = info(&mut model);
    let first = token(&mut model, "aaaaaa.0123456789abcdef", "2026-11-20T08:00:00Z", true);
    token(&mut model, "bbbbbb.0123456789abcdef", "", true);
    token(&mut model, "cccccc.0123456789abcdef", "", false);
    model.settle(BOTH);
    let names: Vec<String> = data(&model, &key).into_keys().collect();
    assert_eq!(names, ["jws-kubeconfig-aaaaaa", "jws-kubeconfig-bbbbbb", "kubeconfig", "note"]);
    let own: BootstrapToken = "aaaaaa.0123456789abcdef".parse().unwrap();
    assert_eq!(own.check("where it is", &data(&model, &key)), Ok(()));
    model.edit(&key, |info| info["data"]["kubeconfig"] = "elsewhere".into());
    model.settle(BOTH);
    assert_eq!(own.check("elsewhere", &data(&model, &key)), Ok(()));
    model.pass(3600);
    model.settle(BOTH);
    assert!(model.view.get(&first).is_none(), "the expired token is gone");
    assert!(!data(&model, &key).contains_key("jws-kubeconfig-aaaaaa"));
    assert!(data(&model, &key).contains_key("jws-kubeconfig-bbbbbb"));
}

proptest! {
    /// However tokens and requests come and go, each look leads to a state in which there is nothing left to do.
    #[test]
    fn certificates_and_tokens_settle(
        tokens in prop::collection::vec((0..6u8, any::<bool>(), 0..3u8), 1..12),
        may in any::<bool>(), seconds in 0..100_000i64,
    ) {
        let mut model = Model::new();
        model.permissions = if may { vec!["nodeclient"] } else { Vec::new() };
        info(&mut model);
        add(&mut model, CLIENT, "system:bootstrap:aaaaaa", &pem("x", "y", &[]), &["client auth"]);
        for (id, signing, end) in tokens {
            let text = format!("aaaaa{id}.0123456789abcdef");
            let key = Key::new(diolkos_controllers::object::KindName::Secret, "kube-system", &format!("bootstrap-token-aaaaa{id}"));
            if model.view.get(&key).is_some() {
                model.remove(&key);
            } else {
                token(&mut model, &text, ["", "2026-11-20T08:00:00Z", "no time"][usize::from(end)], signing);
            }
            model.pass(seconds / 10);
            model.settle(&["bootstrapsigner", "tokencleaner", "csrsigning", "csrcleaner", "csrapproving"]);
        }
        for name in ["bootstrapsigner", "tokencleaner", "csrsigning", "csrcleaner", "csrapproving"] {
            prop_assert_eq!(model.wanted(name), vec![]);
        }
    }
}
