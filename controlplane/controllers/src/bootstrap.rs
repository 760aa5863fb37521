//! Bootstrap tokens: what `cluster-info` says is signed with each of them, and those that have expired are removed.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use diolkos_api::bootstrap_token::{
    BootstrapToken, INFO_ENTRY, INFO_NAME, INFO_NAMESPACE, SIGNATURE_PREFIX, entry, expiration,
};
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use k8s_openapi::jiff::Timestamp;

use crate::object::{Action, Key, KindName, Object};
use crate::view::View;

/// The one object that is signed.
pub(crate) fn info_key() -> Key {
    Key::new(KindName::ConfigMap, INFO_NAMESPACE, INFO_NAME)
}

/// Gives `cluster-info` the signatures of the tokens that sign, and of no others.
pub fn sign(view: &View, key: &Key, now: Timestamp) -> Vec<Action> {
    let Some(info) = info(view, key) else { return Vec::new() };
    let mut data = info.data.clone().unwrap_or_default();
    let Some(text) = data.get(INFO_ENTRY).cloned() else { return Vec::new() };
    data.retain(|name, _| !name.starts_with(SIGNATURE_PREFIX));
    data.extend(signatures(view, &text, now));
    if info.data.as_ref() == Some(&data) {
        return Vec::new();
    }
    let signed = ConfigMap { data: Some(data), ..ConfigMap::clone(info) };
    vec![Action::Update(Object::ConfigMap(Arc::new(signed)))]
}

/// When the first of the signing tokens expires.
pub fn sign_again(view: &View, key: &Key, now: Timestamp) -> Option<Duration> {
    info(view, key)?;
    view.tokens.iter().filter(|secret| signs(secret, now)).filter_map(|secret| left(secret, now)).min()
}

/// Removes a token that has expired.
pub fn clean(view: &View, key: &Key, now: Timestamp) -> Vec<Action> {
    let Some(secret) = view.tokens.get(&key.namespace, &key.name) else { return Vec::new() };
    let expired = expiration(secret).is_some_and(|end| end <= now);
    if !expired || secret.metadata.deletion_timestamp.is_some() {
        return Vec::new();
    }
    vec![Action::Delete(Object::Secret(Arc::clone(secret)).target())]
}

/// When a token expires.
pub fn clean_again(view: &View, key: &Key, now: Timestamp) -> Option<Duration> {
    left(view.tokens.get(&key.namespace, &key.name)?, now)
}

fn info<'a>(view: &'a View, key: &Key) -> Option<&'a Arc<ConfigMap>> {
    let info = view.config_maps.get(&key.namespace, &key.name).filter(|_| *key == info_key())?;
    info.metadata.deletion_timestamp.is_none().then_some(info)
}

fn signatures(view: &View, text: &str, now: Timestamp) -> BTreeMap<String, String> {
    let tokens = view.tokens.iter().filter(|secret| signs(secret, now)).filter_map(|secret| BootstrapToken::of(secret));
    tokens.map(|token| (format!("{SIGNATURE_PREFIX}{}", token.id), token.sign(text))).collect()
}

fn signs(secret: &Secret, now: Timestamp) -> bool {
    secret.metadata.deletion_timestamp.is_none()
        && entry(secret, "usage-bootstrap-signing").as_deref() == Some("true")
        && expiration(secret).is_none_or(|end| end > now)
}

fn left(secret: &Secret, now: Timestamp) -> Option<Duration> {
    let left = expiration(secret)?.as_millisecond().saturating_sub(now.as_millisecond());
    // At its end, not before it.
    Some(Duration::from_millis(u64::try_from(left).unwrap_or_default().saturating_add(1)))
}
