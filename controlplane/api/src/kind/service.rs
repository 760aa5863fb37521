//! Service.

use k8s_openapi::api::core::v1::Service;
use serde_json::Value;

use super::cell::NAME;
use super::{Causes, Kind, STATUS, names, row, rules};

pub(super) fn service() -> Kind {
    Kind {
        short_names: vec!["svc".into()],
        categories: vec!["all".into()],
        subresources: vec![STATUS],
        ..row::<Service>("service", vec![NAME], rules::<Service>(names::dns_1035_label))
    }
}

pub(super) fn protocol(value: &Value, field: &str, causes: &mut Causes) {
    match super::rule::text(value) {
        "TCP" | "UDP" | "SCTP" => {}
        "" => causes.required(field, ""),
        other => causes.unsupported(field, other, &["SCTP", "TCP", "UDP"]),
    }
}
