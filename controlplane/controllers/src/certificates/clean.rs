//! Cleaning up: a request goes some time after it was decided, or when nobody decides it, or when its certificate has
//! expired. The times are Kubernetes' own.

use std::time::Duration;

use k8s_openapi::api::certificates::v1::CertificateSigningRequest;
use k8s_openapi::jiff::Timestamp;
use x509_parser::pem::parse_x509_pem;

use super::{certificate, conditions};
use crate::object::{Action, Key};
use crate::view::View;

/// An approved or denied request stays so long, in seconds.
const DECIDED: i64 = 3600;
/// And one that nobody has decided.
const PENDING: i64 = 24 * 3600;

/// Removes a request whose time has come.
pub fn reconcile(view: &View, key: &Key, now: Timestamp) -> Vec<Action> {
    let Some(request) = view.certificate_requests.get("", &key.name) else { return Vec::new() };
    let over = ends(request).is_some_and(|end| end <= now.as_second());
    if !over || request.metadata.deletion_timestamp.is_some() {
        return Vec::new();
    }
    view.get(key).map(|object| Action::Delete(object.target())).into_iter().collect()
}

/// When there is something to remove.
pub fn look_again(view: &View, key: &Key, now: Timestamp) -> Option<Duration> {
    let request = view.certificate_requests.get("", &key.name)?;
    let left = ends(request)?.saturating_sub(now.as_second());
    u64::try_from(left).ok().map(|left| Duration::from_secs(left.max(1)))
}

/// The second at which a request goes.
fn ends(request: &CertificateSigningRequest) -> Option<i64> {
    let made = request.metadata.creation_timestamp.as_ref()?.0.as_second();
    let decided = conditions(request).iter().filter(|condition| ["Approved", "Denied"].contains(&&*condition.type_));
    let since = decided.filter_map(|condition| Some(condition.last_update_time.as_ref()?.0.as_second())).max();
    let by_age = match since {
        Some(since) => since + DECIDED,
        None if conditions(request).is_empty() => made + PENDING,
        None => made + DECIDED,
    };
    let expired = certificate(request).and_then(expiry);
    Some(expired.map_or(by_age, |expired| expired.min(by_age)))
}

fn expiry(pem: &[u8]) -> Option<i64> {
    let (_, pem) = parse_x509_pem(pem).ok()?;
    Some(pem.parse_x509().ok()?.validity().not_after.timestamp())
}
