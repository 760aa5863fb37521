//! Carrying out at the server what was decided about a request.

use std::sync::Arc;
use std::time::SystemTime;

use diolkos_api::client::Client;
use diolkos_api::status::Failure;
use diolkos_api::wire;
use k8s_openapi::ByteString;
use k8s_openapi::api::certificates::v1::{CertificateSigningRequest, CertificateSigningRequestCondition};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;
use serde_json::{Value, json};

use super::Authority;

/// Approves if the author has one of the permissions; `None` when it has none, which a binding may change.
pub(crate) async fn approve(
    client: &Client,
    request: Arc<CertificateSigningRequest>,
    permissions: &[&str],
) -> Result<Option<Arc<CertificateSigningRequest>>, Failure> {
    for permission in permissions {
        if !is_allowed(client, &request, permission).await? {
            continue;
        }
        let now = diolkos_api::now();
        let now = Some(Time(Timestamp::from_second(now.as_second()).unwrap_or(now)));
        let mut approved = Arc::unwrap_or_clone(request);
        let conditions = approved.status.get_or_insert_default().conditions.get_or_insert_default();
        conditions.push(CertificateSigningRequestCondition {
            type_: "Approved".into(),
            status: "True".into(),
            reason: Some("AutoApproved".into()),
            message: Some("Auto approving kubelet client certificate after SubjectAccessReview.".into()),
            last_update_time: now.clone(),
            last_transition_time: now,
        });
        let api = client.api::<CertificateSigningRequest>(None);
        return api.update_subresource("approval", &approved).await.map(Arc::new).map(Some);
    }
    let (name, user) = (request.metadata.name.as_deref(), request.spec.username.as_deref());
    tracing::info!(request = name, user, ?permissions, "nobody may have this certificate without an approval");
    Ok(None)
}

/// Signs, and gives the certificate to the request.
pub(crate) async fn sign(
    client: &Client,
    authority: &Authority,
    request: Arc<CertificateSigningRequest>,
) -> Result<Arc<CertificateSigningRequest>, Failure> {
    let pem = authority.sign(&request, SystemTime::now()).map_err(Failure::internal)?;
    let mut signed = Arc::unwrap_or_clone(request);
    signed.status.get_or_insert_default().certificate = Some(ByteString(pem.into_bytes()));
    let name = signed.metadata.name.clone();
    let written = client.api::<CertificateSigningRequest>(None).update_status(&signed).await.map(Arc::new)?;
    tracing::info!(request = name, signer = written.spec.signer_name, user = written.spec.username, "signed");
    Ok(written)
}

/// Whether the author of a request may create `certificatesigningrequests/PERMISSION`.
async fn is_allowed(client: &Client, request: &CertificateSigningRequest, permission: &str) -> Result<bool, Failure> {
    let spec = &request.spec;
    let review = json!({
        "apiVersion": "authorization.k8s.io/v1",
        "kind": "SubjectAccessReview",
        "spec": {
            "user": spec.username, "uid": spec.uid, "groups": spec.groups, "extra": spec.extra,
            "resourceAttributes": {
                "group": "certificates.k8s.io", "version": "*", "resource": "certificatesigningrequests",
                "subresource": permission, "verb": "create",
            },
        },
    });
    let key = wire::Key {
        group: "authorization.k8s.io".into(),
        version: "v1".into(),
        plural: "subjectaccessreviews".into(),
        ..wire::Key::default()
    };
    let write = wire::WriteRequest { key: Some(key), json: review.to_string().into(), ..wire::WriteRequest::default() };
    let answer = client.raw().create(write).await.map_err(Failure::from_grpc)?.into_inner();
    let answer: Value = serde_json::from_slice(&answer.json).map_err(Failure::internal)?;
    Ok(answer["status"]["allowed"] == true)
}
