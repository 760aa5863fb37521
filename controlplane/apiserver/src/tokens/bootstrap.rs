//! Bootstrap tokens: `ID.SECRET`, kept as Secrets in kube-system, with which machines ask for their certificates.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use k8s_openapi::jiff::Timestamp;
use serde_json::Value;

use crate::cache::{Cache, Freshness};
use crate::stack::{AUTHENTICATED, User};

const ID: usize = 6;
const SECRET: usize = 16;
const TYPE: &str = "bootstrap.kubernetes.io/token";
const GROUP: &str = "system:bootstrappers";
const MOST_GROUP: usize = 256;

/// Whether it looks like one.
pub(super) fn is_token(token: &str) -> bool {
    let letters = |part: &str| part.bytes().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit());
    token
        .split_once('.')
        .is_some_and(|(id, secret)| id.len() == ID && secret.len() == SECRET && letters(id) && letters(secret))
}

/// Whose it is, if there is a Secret that says so.
pub(super) async fn check(cache: &Cache, token: &str, now: Timestamp) -> Result<User, String> {
    let (id, secret) = token.split_once('.').unwrap_or_default();
    let key = format!("/registry/core/secrets/kube-system/bootstrap-token-{id}");
    let found = cache.get(&key, Freshness::Any).await.map_err(|failure| failure.to_string())?;
    let found = found.ok_or_else(|| format!("there is no bootstrap token {id}"))?;
    let object: Value = serde_json::from_slice(&found.bytes).map_err(|cause| format!("{key}: {cause}"))?;
    read(&object, id, secret, now)
}

fn read(object: &Value, id: &str, secret: &str, now: Timestamp) -> Result<User, String> {
    let data = |name: &str| -> String {
        let encoded = object["data"][name].as_str().unwrap_or_default();
        STANDARD.decode(encoded).ok().and_then(|bytes| String::from_utf8(bytes).ok()).unwrap_or_default()
    };
    if object["type"] != TYPE {
        return Err(format!("the Secret of bootstrap token {id} is not of type {TYPE}"));
    }
    if object["metadata"]["deletionTimestamp"].is_string() {
        return Err(format!("bootstrap token {id} is being deleted"));
    }
    let (own_id, own_secret) = (data("token-id"), data("token-secret"));
    if own_id != id || !same(own_secret.as_bytes(), secret.as_bytes()) {
        return Err(format!("the secret of bootstrap token {id} is another one"));
    }
    let expiration = data("expiration");
    if !expiration.is_empty() {
        let ends: Timestamp =
            expiration.parse().map_err(|_| format!("the expiration of bootstrap token {id} is no time"))?;
        if ends <= now {
            return Err(format!("bootstrap token {id} has expired"));
        }
    }
    if data("usage-bootstrap-authentication") != "true" {
        return Err(format!("bootstrap token {id} is not for authentication"));
    }
    let extra = data("auth-extra-groups");
    let extra: Vec<&str> = extra.split(',').map(str::trim).filter(|group| !group.is_empty()).collect();
    if let Some(wrong) = extra.iter().find(|group| !is_group(group)) {
        return Err(format!("bootstrap token {id} names the group {wrong:?}, which does not begin with {GROUP}:"));
    }
    let groups = std::iter::once(GROUP).chain(extra).chain([AUTHENTICATED]);
    Ok(User::new(&format!("system:bootstrap:{id}"), groups))
}

fn is_group(group: &str) -> bool {
    let Some(rest) = group.strip_prefix("system:bootstrappers:") else { return false };
    let letter = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit();
    !rest.is_empty()
        && rest.len() <= MOST_GROUP
        && rest.bytes().all(|c| letter(c) || c == b':' || c == b'-')
        && rest.bytes().last().is_some_and(letter)
}

/// Takes as long for every wrong secret of the right length.
fn same(own: &[u8], given: &[u8]) -> bool {
    own.len() == given.len() && own.iter().zip(given).fold(0, |difference, (a, b)| difference | (a ^ b)) == 0
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use serde_json::json;

    use super::*;

    const NOW: Timestamp = Timestamp::constant(1_800_000_000, 0);

    fn secret(changes: &[(&str, &str)]) -> Value {
        let mut data = json!({});
        let fields = [
            ("token-id", "abcdef"),
            ("token-secret", "0123456789abcdef"),
            ("usage-bootstrap-authentication", "true"),
            ("expiration", "2030-01-01T00:00:00Z"),
            ("auth-extra-groups", "system:bootstrappers:kubeadm:default-node-token"),
        ];
        for (name, value) in fields.iter().chain(changes) {
            data[name] = STANDARD.encode(value).into();
        }
        json!({"type": TYPE, "metadata": {}, "data": data})
    }

    #[test]
    fn a_token_is_the_user_of_its_id_and_its_groups() {
        assert!(is_token("abcdef.0123456789abcdef"));
        for other in ["abcdef.0123456789abcde", "ABCDEF.0123456789abcdef", "abcdef-0123456789abcdef", "a.b.c"] {
            assert!(!is_token(other), "{other}");
        }
        let user = read(&secret(&[]), "abcdef", "0123456789abcdef", NOW).unwrap();
        assert_eq!(user.name, "system:bootstrap:abcdef");
        assert_eq!(user.groups, [GROUP, "system:bootstrappers:kubeadm:default-node-token", AUTHENTICATED]);
    }

    #[test]
    fn a_token_that_ended_or_is_for_something_else_is_nobodys() {
        let wrong = [
            ("expiration", "2020-01-01T00:00:00Z"),
            ("expiration", "soon"),
            ("usage-bootstrap-authentication", "false"),
            ("token-id", "abcdeg"),
            ("token-secret", "0123456789abcdeg"),
            ("auth-extra-groups", "system:masters"),
            ("auth-extra-groups", "system:bootstrappers:"),
        ];
        for change in wrong {
            assert!(read(&secret(&[change]), "abcdef", "0123456789abcdef", NOW).is_err(), "{change:?}");
        }
        let mut other = secret(&[]);
        other["type"] = "Opaque".into();
        assert!(read(&other, "abcdef", "0123456789abcdef", NOW).is_err());
    }
}
