//! Questions to the apiserver: they are answered and never stored.

use k8s_openapi::api::authentication::v1::{SelfSubjectReview, TokenReview};
use k8s_openapi::api::authorization::v1::{
    LocalSubjectAccessReview, SelfSubjectAccessReview, SelfSubjectRulesReview, SubjectAccessReview,
};

use super::cell::{AGE, NAME};
use super::{Kind, Rules, rules};

/// All of them.
pub(super) fn reviews() -> [Kind; 6] {
    [
        review::<SelfSubjectReview>("selfsubjectreview", false),
        review::<TokenReview>("tokenreview", false),
        review::<LocalSubjectAccessReview>("localsubjectaccessreview", true),
        review::<SelfSubjectAccessReview>("selfsubjectaccessreview", false),
        review::<SelfSubjectRulesReview>("selfsubjectrulesreview", false),
        review::<SubjectAccessReview>("subjectaccessreview", false),
    ]
}

fn review<K>(singular: &str, namespaced: bool) -> Kind
where
    K: k8s_openapi::Resource + serde::Serialize + serde::de::DeserializeOwned,
{
    Kind {
        group: K::GROUP.into(),
        storage_group: K::GROUP.into(),
        version: K::VERSION.into(),
        kind: K::KIND.into(),
        list_kind: format!("{}List", K::KIND),
        plural: K::URL_PATH_SEGMENT.into(),
        singular: singular.into(),
        short_names: Vec::new(),
        categories: Vec::new(),
        namespaced,
        verbs: &["create"],
        subresources: Vec::new(),
        columns: vec![NAME, AGE],
        fields: Vec::new(),
        generation: false,
        rules: Rules { status_writes_labels: false, ..rules::<K>(|_| Vec::new()) },
    }
}
