//! CertificateSigningRequest.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use k8s_openapi::api::certificates::v1::CertificateSigningRequest;
use serde_json::{Value, json};

use super::cell::{AGE, NAME, NONE, column, duration};
use super::row::{PART_VERBS, STATUS, part, row, rules};
use super::rule::{At, copy_part, items, object_at, set, text};
use super::{Causes, Kind, Rules, SelectableField, names};

/// Shortest life of a certificate that may be asked for, in seconds.
const MIN_EXPIRATION: i64 = 600;
/// What the keys of certificates may be used for.
const USAGES: [&str; 23] = [
    "any",
    "cert sign",
    "client auth",
    "code signing",
    "content commitment",
    "crl sign",
    "data encipherment",
    "decipher only",
    "digital signature",
    "email protection",
    "encipher only",
    "ipsec end system",
    "ipsec tunnel",
    "ipsec user",
    "key agreement",
    "key encipherment",
    "microsoft sgc",
    "netscape sgc",
    "ocsp signing",
    "s/mime",
    "server auth",
    "signing",
    "timestamping",
];
/// The conditions that only `approval` writes.
const DECISIONS: [&str; 2] = ["Approved", "Denied"];

pub(super) fn certificate_signing_request() -> Kind {
    let columns = vec![
        NAME,
        AGE,
        column("SignerName", "Who is to sign.", |request, _| text(&request["spec"]["signerName"]).into()),
        column("Requestor", "Who asked.", |request, _| text(&request["spec"]["username"]).into()),
        column("RequestedDuration", "How long the certificate is to be valid.", |request, _| {
            match request["spec"]["expirationSeconds"].as_i64() {
                None => NONE.into(),
                Some(seconds) => duration(seconds).into(),
            }
        }),
        column("Condition", "What was decided.", |request, _| condition(request).into()),
    ];
    let rules = Rules {
        validate,
        initial_status: |_| Some(json!({})),
        write_part: write_approval,
        ..rules::<CertificateSigningRequest>(names::dns_subdomain)
    };
    Kind {
        short_names: vec!["csr".into()],
        subresources: vec![part("approval", PART_VERBS), STATUS],
        fields: vec![SelectableField {
            path: "spec.signerName",
            value: |request| text(&request["spec"]["signerName"]).to_owned(),
        }],
        ..row::<CertificateSigningRequest>("certificatesigningrequest", columns, rules)
    }
}

fn has(request: &Value, type_: &str) -> bool {
    items(&request["status"]["conditions"]).iter().any(|condition| condition["type"] == type_)
}

fn condition(request: &Value) -> String {
    let mut shown = match (has(request, "Denied"), has(request, "Approved")) {
        (true, _) => "Denied",
        (false, true) => "Approved",
        (false, false) => "Pending",
    }
    .to_owned();
    if has(request, "Failed") {
        shown.push_str(",Failed");
    }
    if !text(&request["status"]["certificate"]).is_empty() {
        shown.push_str(",Issued");
    }
    shown
}

/// Approval decides and nothing else.
fn write_approval(part: &str, request: &mut Value, sent: &Value) {
    if part != "approval" {
        return;
    }
    copy_part(sent, request, "metadata", "managedFields");
    let conditions = items(&sent["status"]["conditions"]).to_vec();
    if let Some(status) = object_at(request, "status") {
        set(status, "conditions", conditions);
    }
}

fn validate(request: &Value, old: Option<&Value>, causes: &mut Causes) {
    let spec = At::root(request).field("spec");
    let pem = spec.field("request");
    if pem.required("", causes) && !is_request(pem.text()) {
        pem.invalid("PEM block type must be CERTIFICATE REQUEST", causes);
    }
    let usages = spec.field("usages");
    usages.required("", causes);
    let mut seen = std::collections::HashSet::new();
    for usage in usages.items() {
        usage.one_of(&USAGES, causes);
        usage.unique(&mut seen, causes);
    }
    let signer = spec.field("signerName");
    if signer.required("", causes) {
        causes.invalid_each(&signer.path, signer.text(), signer_name(signer.text()));
    }
    let expiration = spec.field("expirationSeconds");
    if expiration.number().is_some_and(|seconds| seconds < MIN_EXPIRATION) {
        expiration.invalid("may not specify a duration less than 600 seconds (10 minutes)", causes);
    }
    validate_conditions(request, causes);
    let Some(old) = old else { return };
    if request["spec"] != old["spec"] {
        causes.invalid("spec", request["spec"].clone(), "field is immutable");
    }
    for decision in DECISIONS.into_iter().chain(["Failed"]) {
        if has(old, decision) && !has(request, decision) {
            let why = format!("updates may not remove a condition of type \"{decision}\"");
            causes.forbidden("status.conditions", &why);
        }
    }
}

fn validate_conditions(request: &Value, causes: &mut Causes) {
    let conditions = At::root(request).field("status").field("conditions");
    let mut seen = std::collections::HashSet::new();
    for condition in conditions.items() {
        let (type_, status) = (condition.field("type"), condition.field("status"));
        type_.required("", causes);
        type_.unique(&mut seen, causes);
        match (type_.text(), status.text()) {
            (_, "") => causes.required(&status.path, ""),
            ("Approved" | "Denied" | "Failed", "True") => {}
            ("Approved" | "Denied" | "Failed", other) => causes.unsupported(&status.path, other, &["True"]),
            _ => status.one_of(&["False", "True", "Unknown"], causes),
        }
    }
    if DECISIONS.iter().all(|decision| has(request, decision)) {
        conditions.invalid("Approved and Denied conditions are mutually exclusive", causes);
    }
}

fn is_request(encoded: &str) -> bool {
    let pem = STANDARD.decode(encoded).ok().and_then(|bytes| String::from_utf8(bytes).ok());
    pem.is_some_and(|pem| {
        let pem = pem.trim();
        ["CERTIFICATE REQUEST", "NEW CERTIFICATE REQUEST"].iter().any(|label| {
            pem.starts_with(&format!("-----BEGIN {label}-----")) && pem.contains(&format!("-----END {label}-----"))
        })
    })
}

/// "example.com/signer"
fn signer_name(name: &str) -> Vec<String> {
    let message = "must be a fully qualified domain and path of the form \"example.com/signer-name\"";
    let Some((domain, path)) = name.split_once('/') else { return vec![message.into()] };
    let mut problems = names::dns_subdomain(domain);
    if !domain.contains('.') {
        problems.push("should be a domain with at least two segments separated by dots".into());
    }
    problems.extend(names::dns_subdomain(path));
    if path.contains('/') { vec![message.into()] } else { problems }
}
