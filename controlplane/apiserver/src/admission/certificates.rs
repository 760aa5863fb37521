//! CertificateApproval and CertificateSigning: who approves or signs a request needs the right to do so for its signer.
//! CertificateSubjectRestriction: nobody becomes an administrator by a certificate for clients.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use diolkos_api::status::Failure;
use serde_json::Value;
use x509_parser::pem::Pem;
use x509_parser::prelude::{FromDer as _, X509CertificationRequest};

use super::{View, Write};
use crate::pki::ADMIN_GROUP;
use crate::stack::Attributes;

const GROUP: &str = "certificates.k8s.io";
const PLURAL: &str = "certificatesigningrequests";
/// The signer of certificates for clients of the apiserver.
const CLIENT_SIGNER: &str = "kubernetes.io/kube-apiserver-client";

/// `approval` may be written by whom the signer's name is allowed to.
pub(super) fn approval(write: &Write<'_>, view: &View<'_>) -> Result<(), Failure> {
    if !write.is_of(GROUP, PLURAL) || write.subresource != "approval" {
        return Ok(());
    }
    permitted(write, view, "approve")
}

/// So may the certificate, and that there will be none.
pub(super) fn signing(write: &Write<'_>, view: &View<'_>) -> Result<(), Failure> {
    let (Some(new), Some(old)) = (write.new, write.old) else { return Ok(()) };
    if !write.is_of(GROUP, PLURAL) || write.subresource != "status" {
        return Ok(());
    }
    let signed = |request: &Value| request["status"]["certificate"].clone();
    let failed = |request: &Value| {
        let conditions = request["status"]["conditions"].as_array().into_iter().flatten();
        conditions.filter(|condition| condition["type"] == "Failed").cloned().collect::<Vec<_>>()
    };
    if signed(new) == signed(old) && failed(new) == failed(old) {
        return Ok(());
    }
    permitted(write, view, "sign")
}

/// A certificate for clients does not make its bearer one of the administrators, who need no roles.
pub(super) fn subject(write: &Write<'_>, _: &View<'_>) -> Result<(), Failure> {
    let Some(request) = write.new else { return Ok(()) };
    if !write.is_of_whole(GROUP, PLURAL) || !write.is_create() || request["spec"]["signerName"] != CLIENT_SIGNER {
        return Ok(());
    }
    let organizations = organizations(&request["spec"]["request"])
        .map_err(|why| write.refused(&format!("spec.request cannot be read as a certificate request in PEM: {why}")))?;
    if organizations.iter().any(|name| name == ADMIN_GROUP) {
        let why = format!("use of {CLIENT_SIGNER} signer with {ADMIN_GROUP} group is not allowed");
        return Err(write.refused(&why));
    }
    Ok(())
}

fn permitted(write: &Write<'_>, view: &View<'_>, verb: &'static str) -> Result<(), Failure> {
    let request = write.old.or(write.new).unwrap_or(&Value::Null);
    let signer = request["spec"]["signerName"].as_str().unwrap_or_default();
    let domain = signer.split_once('/').map_or(signer, |(domain, _)| domain);
    let may = |name: String| {
        view.may(&Attributes {
            verb: verb.into(),
            group: GROUP.into(),
            version: "v1".into(),
            resource: "signers".into(),
            name,
            ..Attributes::default()
        })
    };
    if may(signer.to_owned()) || may(format!("{domain}/*")) {
        return Ok(());
    }
    Err(write.refused(&format!("user not permitted to {verb} requests with signerName {signer:?}")))
}

fn organizations(request: &Value) -> Result<Vec<String>, String> {
    let pem = STANDARD.decode(request.as_str().unwrap_or_default()).map_err(|cause| cause.to_string())?;
    let (pem, _) = Pem::read(std::io::Cursor::new(pem)).map_err(|cause| cause.to_string())?;
    let (_, request) = X509CertificationRequest::from_der(&pem.contents).map_err(|cause| cause.to_string())?;
    let subject = &request.certification_request_info.subject;
    let text = |name: &x509_parser::x509::AttributeTypeAndValue<'_>| name.as_str().map(str::to_owned);
    subject.iter_organization().map(text).collect::<Result<_, _>>().map_err(|cause| cause.to_string())
}
