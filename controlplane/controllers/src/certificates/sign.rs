//! Signing: what was approved gets its certificate, or a condition that says why it does not.

use std::sync::Arc;

use k8s_openapi::api::certificates::v1::{CertificateSigningRequest, CertificateSigningRequestCondition};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;

use super::{Asked, Signer, certificate, has};
use crate::object::{Action, Key, Object};
use crate::view::View;

/// Signs what is approved, not failed, and for one of our signers.
pub fn reconcile(view: &View, key: &Key, now: Timestamp) -> Vec<Action> {
    let Some(request) = view.certificate_requests.get("", &key.name) else { return Vec::new() };
    let wanted = has(request, "Approved") && !has(request, "Denied") && !has(request, "Failed");
    let Some(signer) = Signer::of(request).filter(|_| wanted && view.settings.signs) else { return Vec::new() };
    if certificate(request).is_some() || request.metadata.deletion_timestamp.is_some() {
        return Vec::new();
    }
    let usages = request.spec.usages.as_deref().unwrap_or_default();
    let why = match Asked::read(request) {
        Err(why) => Some(why),
        Ok(asked) if asked.organizations.len() > 1 => Some("more than one organization is not supported".into()),
        Ok(asked) => signer.refusal(&asked, usages).map(str::to_owned),
    };
    match why {
        None => vec![Action::Sign(Arc::clone(request))],
        Some(why) => vec![refuse(request, why, now)],
    }
}

fn refuse(request: &CertificateSigningRequest, why: String, now: Timestamp) -> Action {
    let now = Some(Time(Timestamp::from_second(now.as_second()).unwrap_or(now)));
    let mut request = request.clone();
    let conditions = request.status.get_or_insert_default().conditions.get_or_insert_default();
    conditions.push(CertificateSigningRequestCondition {
        type_: "Failed".into(),
        status: "True".into(),
        reason: Some("SignerValidationFailure".into()),
        message: Some(why),
        last_update_time: now.clone(),
        last_transition_time: now,
    });
    Action::UpdateStatus(Object::CertificateSigningRequest(Arc::new(request)))
}
