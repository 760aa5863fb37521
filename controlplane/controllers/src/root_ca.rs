//! Every namespace has the certificate by which its pods know the apiserver.

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::core::v1::ConfigMap;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use k8s_openapi::jiff::Timestamp;

use crate::object::{Action, Key, Object};
use crate::view::View;

/// The ConfigMap that volumes of tokens take the certificate from.
pub const NAME: &str = "kube-root-ca.crt";
const FILE: &str = "ca.crt";
const DESCRIPTION: (&str, &str) = (
    "kubernetes.io/description",
    "Contains a CA bundle that can be used to verify the kube-apiserver when using internal endpoints such as the \
     internal service IP or kubernetes.default.svc. No other usage is guaranteed across distributions of Kubernetes \
     clusters.",
);

/// Publishes the certificate in a namespace that stays, and repairs it there.
pub fn reconcile(view: &View, key: &Key, _: Timestamp) -> Vec<Action> {
    let Some(namespace) = view.namespaces.get("", &key.name) else { return Vec::new() };
    let ca = &view.settings.root_ca;
    if namespace.metadata.deletion_timestamp.is_some() || ca.is_empty() {
        return Vec::new();
    }
    let data = Some(BTreeMap::from([(FILE.to_owned(), ca.clone())]));
    match view.config_maps.get(&key.name, NAME) {
        Some(map) if map.data == data => Vec::new(),
        Some(map) => {
            vec![Action::Update(Object::ConfigMap(Arc::new(ConfigMap { data, ..ConfigMap::clone(map) })))]
        }
        None => {
            let metadata = ObjectMeta {
                name: Some(NAME.into()),
                namespace: Some(key.name.clone()),
                annotations: Some(BTreeMap::from([(DESCRIPTION.0.into(), DESCRIPTION.1.into())])),
                ..ObjectMeta::default()
            };
            vec![Action::Create(Object::ConfigMap(Arc::new(ConfigMap { metadata, data, ..ConfigMap::default() })))]
        }
    }
}
