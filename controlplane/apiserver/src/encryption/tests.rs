#![allow(clippy::unwrap_used)]

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;

use super::cipher::Opened;
use super::config::EncryptionConfig;

const SECRET: &str = "/registry/core/secrets/default/a";

fn key(number: u8) -> String {
    STANDARD.encode([number; 32])
}

/// The configuration of secrets with these providers.
fn secrets(providers: &str) -> EncryptionConfig {
    EncryptionConfig::parse(&file(&format!("- resources: [secrets]\n  providers:\n{providers}"))).unwrap()
}

fn file(resources: &str) -> String {
    format!("apiVersion: apiserver.config.k8s.io/v1\nkind: EncryptionConfiguration\nresources:\n{resources}")
}

fn aesgcm(keys: &[(&str, u8)]) -> String {
    let keys: Vec<String> =
        keys.iter().map(|(name, number)| format!("{{name: {name}, secret: {}}}", key(*number))).collect();
    format!("  - aesgcm: {{keys: [{}]}}\n", keys.join(", "))
}

const IDENTITY: &str = "  - identity: {}\n";

#[test]
fn a_value_is_opened_where_it_was_sealed_and_nowhere_else() {
    let config = secrets(&aesgcm(&[("one", 1)]));
    let value = Bytes::from_static(b"{\"data\":\"treasure\"}");
    let sealed = config.seal(SECRET, &value).unwrap();
    assert!(sealed.starts_with(b"k8s:enc:aesgcm:v2:one:"));
    assert!(!sealed.windows(8).any(|part| part == b"treasure"));
    assert_eq!(config.open(SECRET, &sealed), Ok(Opened { value: value.clone(), stale: false }));
    assert_ne!(config.seal(SECRET, &value).unwrap(), sealed, "each write has a key of its own");
    let moved = config.open("/registry/core/secrets/default/b", &sealed).unwrap_err();
    assert!(moved.contains("for another place"), "{moved}");
    for index in [30, sealed.len() - 1] {
        let mut damaged = sealed.to_vec();
        damaged[index] ^= 1;
        assert!(config.open(SECRET, &damaged.into()).is_err(), "{index}");
    }
    for length in 0..sealed.len() {
        assert!(config.open(SECRET, &sealed.slice(..length)).is_err(), "{length}");
    }
    // Other resources rest as they are.
    let map = "/registry/core/configmaps/default/a";
    assert_eq!(config.seal(map, &value), Ok(value.clone()));
    assert_eq!(config.open(map, &value), Ok(Opened { value, stale: false }));
}

#[test]
fn the_first_provider_writes_and_all_of_them_read() {
    let value = Bytes::from_static(b"{}");
    let opened = |config: &EncryptionConfig, sealed: &Bytes| config.open(SECRET, sealed).map(|opened| opened.stale);
    let plain = secrets(&format!("{IDENTITY}{}", aesgcm(&[("old", 1)])));
    let old = secrets(&format!("{}{IDENTITY}", aesgcm(&[("old", 1)])));
    let both = secrets(&format!("{}{IDENTITY}", aesgcm(&[("new", 2), ("old", 1)])));
    let new = secrets(&aesgcm(&[("new", 2)]));
    assert_eq!(plain.seal(SECRET, &value).unwrap(), value);
    assert_eq!(opened(&old, &value), Ok(true), "plain text is to be encrypted");
    let by_old = old.seal(SECRET, &value).unwrap();
    assert_eq!(
        (opened(&old, &by_old), opened(&both, &by_old), opened(&plain, &by_old)),
        (Ok(false), Ok(true), Ok(true))
    );
    let by_new = both.seal(SECRET, &value).unwrap();
    assert_eq!((opened(&both, &by_new), opened(&new, &by_new)), (Ok(false), Ok(false)));
    let why = new.open(SECRET, &by_old).unwrap_err();
    assert_eq!(why, "the value was sealed with the key \"old\", which is not configured");
    assert!(new.open(SECRET, &value).unwrap_err().contains("not encrypted"));
    assert!(EncryptionConfig::default().open(SECRET, &by_old).is_err(), "nothing is taken for plain text");
    // A key that was replaced under its name.
    let replaced = secrets(&aesgcm(&[("old", 3)]));
    assert!(replaced.open(SECRET, &by_old).unwrap_err().contains("cannot be decrypted with the key \"old\""));
    assert_eq!(opened(&secrets(&aesgcm(&[("old", 3), ("old", 1)])), &by_old), Ok(true));
}

#[test]
fn resources_are_chosen_by_name_and_group() {
    let keys = format!("  providers:\n{}", aesgcm(&[("one", 1)]));
    for (resource, sealed, plain) in [
        ("secrets", "/registry/core/secrets/a/b", "/registry/core/secretsx/a/b"),
        ("deployments.apps", "/registry/apps/deployments/a/b", "/registry/core/deployments/a/b"),
        ("'*.apps'", "/registry/apps/statefulsets/a/b", "/registry/core/pods/a/b"),
        ("'*.'", "/registry/core/pods/a/b", "/registry/apps/deployments/a/b"),
        ("'*.*'", "/registry/apps/deployments/a/b", "/registry/_meta/tick"),
    ] {
        let config = EncryptionConfig::parse(&file(&format!("- resources: [{resource}]\n{keys}"))).unwrap();
        let value = Bytes::from_static(b"{}");
        assert_ne!(config.seal(sealed, &value).unwrap(), value, "{resource}");
        assert_eq!(config.seal(plain, &value).unwrap(), value, "{resource}");
    }
}

#[test]
fn a_configuration_that_cannot_be_meant_is_refused() {
    let keys = aesgcm(&[("one", 1)]);
    let short = STANDARD.encode([1; 16]);
    for (text, why) in [
        ("kind: Other".to_owned(), "no EncryptionConfiguration"),
        (file("- resources: [secrets]\n  providers:\n  - secretbox: {keys: []}\n"), "no EncryptionConfiguration"),
        (file(&format!("- resources: []\n  providers:\n{keys}")), "names none"),
        (file("- resources: [secrets]\n  providers: []\n"), "has no providers"),
        (file(&format!("- resources: [secrets, secrets]\n  providers:\n{keys}")), "named twice"),
        (file(&format!("- resources: [Secrets]\n  providers:\n{keys}")), "is no resource"),
        (file("- resources: [secrets]\n  providers:\n  - aesgcm: {keys: []}\n"), "has no keys"),
        (
            file(&format!(
                "- resources: [secrets]\n  providers:\n  - aesgcm: {{keys: [{{name: a, secret: {short}}}]}}\n"
            )),
            "has 16 bytes: it must have 32",
        ),
        (
            file(&format!(
                "- resources: [secrets]\n  providers:\n  - aesgcm: {{keys: [{{name: 'a:b', secret: {}}}]}}\n",
                key(1)
            )),
            "has a colon",
        ),
    ] {
        let failure = EncryptionConfig::parse(&text).err().map(|cause| format!("{cause:#}")).unwrap_or_default();
        assert!(failure.contains(why), "{text}: {failure}");
    }
}
