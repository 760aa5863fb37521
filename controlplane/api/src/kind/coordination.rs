//! Lease.

use k8s_openapi::api::coordination::v1::Lease;
use serde_json::Value;

use super::cell::{AGE, NAME, column};
use super::row::{row, rules};
use super::{Causes, Kind, Rules, names};

pub(super) fn lease() -> Kind {
    let holder = column("Holder", "The holder of the current lease", |object, _| {
        object["spec"]["holderIdentity"].as_str().unwrap_or_default().into()
    });
    let rules = Rules { validate, ..rules::<Lease>(names::dns_subdomain) };
    row::<Lease>("lease", vec![NAME, holder, AGE], rules)
}

fn validate(object: &Value, _: Option<&Value>, causes: &mut Causes) {
    let spec = &object["spec"];
    if let Some(seconds) = spec["leaseDurationSeconds"].as_i64()
        && seconds <= 0
    {
        causes.invalid("spec.leaseDurationSeconds", seconds, "must be greater than 0");
    }
    if let Some(transitions) = spec["leaseTransitions"].as_i64()
        && transitions < 0
    {
        causes.invalid("spec.leaseTransitions", transitions, "must be greater than or equal to 0");
    }
}
