//! Policies, ingresses, their classes, and the ranges of addresses.

use serde_json::json;

use crate::every::object;
use crate::others::{refused, refused_later};
use crate::{created, kind};

#[test]
fn a_network_policy_is_complete_and_warns_that_nobody_enforces_it() {
    let policy = created(object("networking.k8s.io/v1", "NetworkPolicy"));
    assert_eq!(policy["spec"]["policyTypes"], json!(["Ingress", "Egress"]));
    assert_eq!(policy["spec"]["ingress"][0]["ports"][0]["protocol"], "TCP");
    assert_eq!(policy["metadata"]["generation"], 1);
    let warnings = kind("networking.k8s.io/v1", "NetworkPolicy").warnings(&policy);
    assert_eq!(warnings, ["NetworkPolicy is not enforced"]);
    let peer = "/spec/ingress/0/from/0";
    refused(
        &policy,
        &[
            (peer, json!({}), "spec.ingress[0].from[0] Required value: must specify a peer"),
            (
                peer,
                json!({"podSelector": {}, "ipBlock": {"cidr": "10.0.0.0/8"}}),
                "spec.ingress[0].from[0] Forbidden: may not specify both ipBlock and another peer",
            ),
            (
                peer,
                json!({"ipBlock": {"cidr": "10.0.0.0"}}),
                "spec.ingress[0].from[0].ipBlock.cidr Invalid value: \"10.0.0.0\": must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)",
            ),
            (
                peer,
                json!({"ipBlock": {"cidr": "10.0.0.0/8", "except": ["10.0.0.0/8"]}}),
                "spec.ingress[0].from[0].ipBlock.except[0] Invalid value: \"10.0.0.0/8\": must be a strict subset of `cidr`",
            ),
            (
                "/spec/ingress/0/ports/0",
                json!({"endPort": 5}),
                "spec.ingress[0].ports[0].endPort Invalid value: 5: may not be specified when `port` is not specified",
            ),
            (
                "/spec/ingress/0/ports/0",
                json!({"port": "http", "endPort": 5}),
                "spec.ingress[0].ports[0].endPort Invalid value: 5: may not be specified when `port` is non-numeric",
            ),
            (
                "/spec/ingress/0/ports/0",
                json!({"port": 70000}),
                "spec.ingress[0].ports[0].port Invalid value: 70000: must be between 1 and 65535, inclusive",
            ),
            (
                "/spec/policyTypes",
                json!(["Sideways"]),
                "spec.policyTypes Unsupported value: \"Sideways\": supported values: \"Ingress\", \"Egress\"",
            ),
        ],
    );
}

#[test]
fn an_ingress_routes_hosts_and_paths_to_services() {
    let ingress = created(object("networking.k8s.io/v1", "Ingress"));
    assert_eq!(ingress["status"], json!({"loadBalancer": {}}));
    let path = "/spec/rules/0/http/paths/0";
    refused(
        &ingress,
        &[
            ("/spec", json!({}), "spec Invalid value: []: either `defaultBackend` or `rules` must be specified"),
            (
                "/spec/rules/0/host",
                json!("10.0.0.1"),
                "spec.rules[0].host Invalid value: \"10.0.0.1\": must be a DNS name, not an IP address",
            ),
            ("/spec/rules/0/http/paths", json!([]), "spec.rules[0].http.paths Required value"),
            (
                &format!("{path}/pathType"),
                json!(null),
                "spec.rules[0].http.paths[0].pathType Required value: pathType must be specified",
            ),
            (
                &format!("{path}/path"),
                json!("web"),
                "spec.rules[0].http.paths[0].path Invalid value: \"web\": must be an absolute path",
            ),
            (
                &format!("{path}/path"),
                json!("/a//b"),
                "spec.rules[0].http.paths[0].path Invalid value: \"/a//b\": must not contain '//'",
            ),
            (
                &format!("{path}/path"),
                json!("/a/.."),
                "spec.rules[0].http.paths[0].path Invalid value: \"/a/..\": cannot end with '/..'",
            ),
            (
                &format!("{path}/backend"),
                json!({}),
                "spec.rules[0].http.paths[0].backend Invalid value: \"\": resource or service backend is required",
            ),
            (
                &format!("{path}/backend/service/port"),
                json!({}),
                "spec.rules[0].http.paths[0].backend Required value: port name or number is required",
            ),
            (
                "/metadata/annotations",
                json!({"kubernetes.io/ingress.class": "x"}),
                "metadata.annotations[kubernetes.io/ingress.class] Invalid value: \"x\": can not be set when the class field is also set",
            ),
        ],
    );
}

#[test]
fn an_ingress_class_keeps_its_controller() {
    let class = created(object("networking.k8s.io/v1", "IngressClass"));
    assert_eq!(class["spec"]["parameters"]["scope"], "Cluster");
    refused(
        &class,
        &[
            (
                "/spec/controller",
                json!("front"),
                "spec.controller Invalid value: \"front\": must be a domain-prefixed path (such as \"acme.io/foo\")",
            ),
            (
                "/spec/parameters/scope",
                json!("Namespace"),
                "spec.parameters.namespace Required value: `parameters.scope` is set to 'Namespace'",
            ),
        ],
    );
    refused_later(
        &class,
        &[(
            "/spec/controller",
            json!("example.com/b"),
            "spec.controller Invalid value: \"example.com/b\": field is immutable",
        )],
    );
}

#[test]
fn ranges_of_addresses_are_one_of_each_family_and_stay() {
    let range = created(object("networking.k8s.io/v1", "ServiceCIDR"));
    refused(
        &range,
        &[
            ("/spec/cidrs", json!([]), "spec.cidrs Required value: at least one CIDR required"),
            (
                "/spec/cidrs",
                json!(["10.97.0.1/16"]),
                "spec.cidrs[0] Invalid value: \"10.97.0.1/16\": must be in canonical form (\"10.97.0.0/16\")",
            ),
            (
                "/spec/cidrs",
                json!(["10.97.0.0/16", "10.98.0.0/16"]),
                "spec.cidrs Invalid value: [\"10.97.0.0/16\",\"10.98.0.0/16\"]: may specify no more than one IP for each IP family, i.e 192.168.0.0/24 and 2001:db8::/96",
            ),
        ],
    );
    refused_later(
        &range,
        &[("/spec/cidrs", json!(["10.98.0.0/16"]), "spec.cidrs Invalid value: [\"10.98.0.0/16\"]: field is immutable")],
    );
    let mut both = range.clone();
    both["spec"]["cidrs"] = json!(["10.97.0.0/16", "fd00:97::/112"]);
    assert_eq!(crate::wrong(&both, Some(&range)), Vec::<String>::new());
}

#[test]
fn addresses_name_what_holds_them() {
    let address = created(object("networking.k8s.io/v1", "IPAddress"));
    refused(
        &address,
        &[
            ("/spec/parentRef", json!(null), "spec.parentRef Required value"),
            ("/spec/parentRef/resource", json!(""), "spec.parentRef.resource Required value"),
        ],
    );
}
