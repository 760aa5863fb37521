//! Every namespace has a service account for pods that name none.

use std::sync::Arc;

use k8s_openapi::api::core::v1::ServiceAccount;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use k8s_openapi::jiff::Timestamp;

use crate::object::{Action, Key, Object};
use crate::view::View;

/// The account of pods that name none.
pub const DEFAULT: &str = "default";

/// Makes the account of a namespace that stays.
pub fn reconcile(view: &View, key: &Key, _: Timestamp) -> Vec<Action> {
    let Some(namespace) = view.namespaces.get("", &key.name) else { return Vec::new() };
    if namespace.metadata.deletion_timestamp.is_some() || view.service_accounts.get(&key.name, DEFAULT).is_some() {
        return Vec::new();
    }
    let metadata =
        ObjectMeta { name: Some(DEFAULT.into()), namespace: Some(key.name.clone()), ..ObjectMeta::default() };
    vec![Action::Create(Object::ServiceAccount(Arc::new(ServiceAccount { metadata, ..ServiceAccount::default() })))]
}
