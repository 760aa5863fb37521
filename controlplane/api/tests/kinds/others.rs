//! Budgets, roles, certificates, storage, classes and leases.

use serde_json::{Value, json};

use crate::every::{cells, object};
use crate::{created, kind, wrong};

/// Sets a field; `null` removes it. Objects on the way are made.
pub(crate) fn put(object: &mut Value, pointer: &str, value: Value) {
    let mut at = object;
    let mut parts = pointer.split('/').skip(1).peekable();
    while let Some(part) = parts.next() {
        let part = part.replace("~1", "/");
        if parts.peek().is_none() && value.is_null() {
            at.as_object_mut().unwrap().shift_remove(&part);
            return;
        }
        at = match at {
            Value::Array(items) => &mut items[part.parse::<usize>().unwrap()],
            other => {
                if other.is_null() {
                    *other = json!({});
                }
                other.as_object_mut().unwrap().entry(part).or_insert(Value::Null)
            }
        };
    }
    *at = value;
}

/// Each edit of a valid object is refused with this first of all.
pub(crate) fn refused(object: &Value, edits: &[(&str, Value, &str)]) {
    assert_eq!(wrong(object, None), Vec::<String>::new());
    for (pointer, value, expected) in edits {
        let mut edited = object.clone();
        put(&mut edited, pointer, value.clone());
        let problems = wrong(&edited, None);
        assert_eq!(problems.first().map(String::as_str), Some(*expected), "{pointer} = {value}: {problems:?}");
    }
}

/// Each edit of what is there is refused with this first of all.
pub(crate) fn refused_later(object: &Value, edits: &[(&str, Value, &str)]) {
    assert_eq!(wrong(object, Some(object)), Vec::<String>::new());
    for (pointer, value, expected) in edits {
        let mut edited = object.clone();
        put(&mut edited, pointer, value.clone());
        let problems = wrong(&edited, Some(object));
        assert_eq!(problems.first().map(String::as_str), Some(*expected), "{pointer} = {value}: {problems:?}");
    }
}

#[test]
fn a_budget_says_how_many_stay_or_how_many_go() {
    let budget = created(object("policy/v1", "PodDisruptionBudget"));
    assert_eq!(budget["metadata"]["generation"], 1);
    assert_eq!(budget["status"]["disruptionsAllowed"], 0);
    refused(
        &budget,
        &[
            (
                "/spec",
                json!({"minAvailable": 1, "maxUnavailable": 1}),
                "spec Invalid value: {\"minAvailable\":1,\"maxUnavailable\":1}: minAvailable and maxUnavailable cannot be both set",
            ),
            (
                "/spec/minAvailable",
                json!(-1),
                "spec.minAvailable Invalid value: -1: must be greater than or equal to 0",
            ),
            (
                "/spec/minAvailable",
                json!("101%"),
                "spec.minAvailable Invalid value: \"101%\": must not be greater than 100%",
            ),
            (
                "/spec/minAvailable",
                json!("half"),
                "spec.minAvailable Invalid value: \"half\": a valid percent string must be a numeric string followed by an ending '%' (e.g. '1%',  or '93%', regex used for validation is '[0-9]+%')",
            ),
            (
                "/spec/unhealthyPodEvictionPolicy",
                json!("Never"),
                "spec.unhealthyPodEvictionPolicy Unsupported value: \"Never\": supported values: \"AlwaysAllow\", \"IfHealthyBudget\"",
            ),
        ],
    );
}

#[test]
fn roles_name_verbs_groups_and_resources() {
    let role = created(object("rbac.authorization.k8s.io/v1", "Role"));
    refused(
        &role,
        &[
            ("/rules/0/verbs", json!([]), "rules[0].verbs Required value: verbs must contain at least one value"),
            (
                "/rules/0/apiGroups",
                json!([]),
                "rules[0].apiGroups Required value: resource rules must supply at least one api group",
            ),
            (
                "/rules/0/resources",
                json!([]),
                "rules[0].resources Required value: resource rules must supply at least one resource",
            ),
        ],
    );
    let mut paths = role.clone();
    paths["rules"] = json!([{"verbs": ["get"], "nonResourceURLs": ["/version"]}]);
    assert_eq!(
        wrong(&paths, None),
        ["rules[0].nonResourceURLs Invalid value: [\"/version\"]: namespaced rules cannot apply to non-resource URLs"]
    );
    let cluster = created(object("rbac.authorization.k8s.io/v1", "ClusterRole"));
    assert_eq!(wrong(&cluster, None), Vec::<String>::new());
}

#[test]
fn a_binding_keeps_its_role() {
    let binding = created(object("rbac.authorization.k8s.io/v1", "RoleBinding"));
    assert_eq!(binding["subjects"][0]["apiGroup"], "rbac.authorization.k8s.io");
    refused(
        &binding,
        &[
            ("/roleRef/name", json!(""), "roleRef.name Required value"),
            (
                "/subjects/0/kind",
                json!("Robot"),
                "subjects[0].kind Unsupported value: \"Robot\": supported values: \"ServiceAccount\", \"User\", \"Group\"",
            ),
        ],
    );
    let mut other = binding.clone();
    other["roleRef"]["name"] = "admin".into();
    assert!(wrong(&other, Some(&binding))[0].ends_with("cannot change roleRef"));
    let cluster = created(object("rbac.authorization.k8s.io/v1", "ClusterRoleBinding"));
    refused_later(&cluster, &[]);
}

#[test]
fn a_request_for_a_certificate_is_whole_and_stays() {
    let request = created(object("certificates.k8s.io/v1", "CertificateSigningRequest"));
    refused(
        &request,
        &[
            ("/spec/request", json!(""), "spec.request Required value"),
            (
                "/spec/request",
                json!("aGVsbG8="),
                "spec.request Invalid value: \"aGVsbG8=\": PEM block type must be CERTIFICATE REQUEST",
            ),
            ("/spec/usages", json!([]), "spec.usages Required value"),
            (
                "/spec/signerName",
                json!("signer"),
                "spec.signerName Invalid value: \"signer\": must be a fully qualified domain and path of the form \"example.com/signer-name\"",
            ),
            (
                "/spec/expirationSeconds",
                json!(599),
                "spec.expirationSeconds Invalid value: 599: may not specify a duration less than 600 seconds (10 minutes)",
            ),
        ],
    );
    let mut other = request.clone();
    other["spec"]["usages"] = json!(["server auth"]);
    assert!(wrong(&other, Some(&request))[0].ends_with("field is immutable"));
}

#[test]
fn approval_decides_once_and_changes_nothing_else() {
    let kind = kind("certificates.k8s.io/v1", "CertificateSigningRequest");
    let request = created(object("certificates.k8s.io/v1", "CertificateSigningRequest"));
    let condition = |type_: &str| json!({"type": type_, "status": "True", "reason": "r", "message": "m"});
    let mut approved = request.clone();
    approved["spec"]["signerName"] = "example.com/other".into();
    approved["status"] = json!({"conditions": [condition("Approved")], "certificate": "eA=="});
    kind.prepare_for_part_update("approval", &mut approved, &request);
    assert_eq!(approved["spec"], request["spec"]);
    assert_eq!(approved["status"], json!({"conditions": [condition("Approved")]}));
    assert!(kind.check_part("approval", &approved, Some(&request)).is_ok());
    assert_eq!(cells(&approved).last().unwrap(), "Approved");
    let mut denied = approved.clone();
    denied["status"]["conditions"] = json!([condition("Denied")]);
    let failure = kind.check_part("approval", &denied, Some(&approved)).unwrap_err();
    assert!(failure.to_string().contains("updates may not remove a condition of type \"Approved\""), "{failure}");
    denied["status"]["conditions"] = json!([condition("Approved"), condition("Denied")]);
    let failure = kind.check_part("approval", &denied, Some(&approved)).unwrap_err();
    assert!(failure.to_string().contains("Approved and Denied conditions are mutually exclusive"), "{failure}");
}

#[test]
fn a_storage_class_stays_what_it_is() {
    let class = created(object("storage.k8s.io/v1", "StorageClass"));
    assert_eq!((&class["reclaimPolicy"], &class["volumeBindingMode"]), (&json!("Delete"), &json!("Immediate")));
    refused(
        &class,
        &[
            ("/provisioner", json!(""), "provisioner Required value"),
            (
                "/reclaimPolicy",
                json!("Keep"),
                "reclaimPolicy Unsupported value: \"Keep\": supported values: \"Delete\", \"Retain\"",
            ),
            (
                "/volumeBindingMode",
                json!("Later"),
                "volumeBindingMode Unsupported value: \"Later\": supported values: \"Immediate\", \"WaitForFirstConsumer\"",
            ),
        ],
    );
    refused_later(
        &class,
        &[
            (
                "/provisioner",
                json!("example.com/others"),
                "provisioner Forbidden: updates to provisioner are forbidden.",
            ),
            ("/parameters/type", json!("ssd"), "parameters Forbidden: updates to parameters are forbidden."),
            ("/reclaimPolicy", json!("Retain"), "reclaimPolicy Forbidden: updates to reclaimPolicy are forbidden."),
        ],
    );
}

#[test]
fn a_priority_is_the_users_or_the_systems_and_stays() {
    let class = created(object("scheduling.k8s.io/v1", "PriorityClass"));
    assert_eq!(class["preemptionPolicy"], "PreemptLowerPriority");
    refused(
        &class,
        &[
            (
                "/value",
                json!(1_000_000_001),
                "value Forbidden: maximum allowed value of a user defined priority is 1000000000",
            ),
            (
                "/metadata/name",
                json!("system-mine"),
                "metadata.name Forbidden: priority class names with 'system-' prefix are reserved for system use only. error: system-mine is not a known system priority class",
            ),
            (
                "/preemptionPolicy",
                json!("Sometimes"),
                "preemptionPolicy Unsupported value: \"Sometimes\": supported values: \"Never\", \"PreemptLowerPriority\"",
            ),
        ],
    );
    refused_later(&class, &[("/value", json!(5), "value Forbidden: may not be changed in an update.")]);
}

#[test]
fn a_runtime_keeps_its_handler() {
    let class = created(object("node.k8s.io/v1", "RuntimeClass"));
    assert_eq!(class["overhead"]["podFixed"]["cpu"], "1");
    let mut bad = class.clone();
    bad["handler"] = "g_visor".into();
    assert!(wrong(&bad, None)[0].starts_with("handler Invalid value: \"g_visor\": a lowercase RFC 1123 label"));
    refused_later(&class, &[("/handler", json!("runc"), "handler Invalid value: \"runc\": field is immutable")]);
}

#[test]
fn a_lease_lasts_a_while() {
    let lease = created(object("coordination.k8s.io/v1", "Lease"));
    refused(
        &lease,
        &[
            (
                "/spec/leaseDurationSeconds",
                json!(0),
                "spec.leaseDurationSeconds Invalid value: 0: must be greater than 0",
            ),
            (
                "/spec/leaseTransitions",
                json!(-1),
                "spec.leaseTransitions Invalid value: -1: must be greater than or equal to 0",
            ),
        ],
    );
}

#[test]
fn writers_are_told_of_what_nothing_acts_on_yet() {
    let told = |api_version, name| kind(api_version, name).warnings(&json!({}));
    assert_eq!(told("batch/v1", "Job"), ["Job is kept, but no controller acts on it yet"]);
    assert_eq!(told("apps/v1", "Deployment"), [""; 0]);
}
