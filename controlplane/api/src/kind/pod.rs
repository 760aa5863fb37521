//! Pod.
use super::cell::NAME;
use super::{Kind, STATUS, names, row, rules};
use k8s_openapi::api::core::v1::Pod;
pub(super) fn pod() -> Kind {
    Kind {
        short_names: vec!["po".into()],
        categories: vec!["all".into()],
        subresources: vec![STATUS],
        generation: true,
        ..row::<Pod>("pod", vec![NAME], rules::<Pod>(names::dns_subdomain))
    }
}
