//! Questions to the apiserver: they are answered and never stored.

use k8s_openapi::api::authentication::v1::{SelfSubjectReview, TokenReview};
use k8s_openapi::api::authorization::v1::{
    LocalSubjectAccessReview, SelfSubjectAccessReview, SelfSubjectRulesReview, SubjectAccessReview,
};

use super::cell::{AGE, NAME};
use super::row::{Scope, row, rules};
use super::{Kind, Rules};

pub(super) fn authentication() -> Vec<Kind> {
    vec![review::<SelfSubjectReview>("selfsubjectreview"), review::<TokenReview>("tokenreview")]
}

pub(super) fn authorization() -> Vec<Kind> {
    vec![
        review::<LocalSubjectAccessReview>("localsubjectaccessreview"),
        review::<SelfSubjectAccessReview>("selfsubjectaccessreview"),
        review::<SelfSubjectRulesReview>("selfsubjectrulesreview"),
        review::<SubjectAccessReview>("subjectaccessreview"),
    ]
}

fn review<K>(singular: &str) -> Kind
where
    K: k8s_openapi::Resource + serde::de::DeserializeOwned,
    K::Scope: Scope,
{
    let rules = Rules { status_writes_labels: false, ..rules::<K>(|_| Vec::new()) };
    Kind { verbs: &["create"], stored: false, ..row::<K>(singular, vec![NAME, AGE], rules) }
}
