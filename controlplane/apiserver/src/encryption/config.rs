//! Kubernetes' EncryptionConfiguration: which resources rest encrypted, and with which keys. The first provider of a
//! resource writes, all of them read.

use std::path::Path;

use anyhow::{Context as _, bail, ensure};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use serde::Deserialize;

use super::cipher::{KEY_BYTES, Key, Opened, PREFIX, key_name};

/// Claims, ticks and guards: what is no object of the API is no secret.
const OWN: &str = "/registry/_";

/// What rests how. Without any, everything rests as it is.
#[derive(Default)]
pub(crate) struct EncryptionConfig {
    entries: Vec<Entry>,
}

struct Entry {
    /// Prefixes of storage keys.
    prefixes: Vec<String>,
    providers: Vec<Provider>,
}

enum Provider {
    Sealed(Key),
    Plain,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct File {
    api_version: String,
    kind: String,
    resources: Vec<Resources>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Resources {
    resources: Vec<String>,
    providers: Vec<OneProvider>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct OneProvider {
    aesgcm: Option<Keys>,
    identity: Option<Nothing>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Keys {
    keys: Vec<NamedKey>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct NamedKey {
    name: String,
    secret: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Nothing {}

impl EncryptionConfig {
    /// Reads a file.
    pub(crate) fn load(path: &Path) -> anyhow::Result<EncryptionConfig> {
        let text = std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
        Self::parse(&text).with_context(|| format!("cannot use {}", path.display()))
    }

    /// Reads the YAML of an EncryptionConfiguration.
    pub(crate) fn parse(text: &str) -> anyhow::Result<EncryptionConfig> {
        let file: File = serde_yaml_ng::from_str(text)
            .context("it is no EncryptionConfiguration with the providers aesgcm and identity")?;
        ensure!(
            file.kind == "EncryptionConfiguration" && file.api_version == "apiserver.config.k8s.io/v1",
            "it is a {} of {}: EncryptionConfiguration of apiserver.config.k8s.io/v1 is needed",
            file.kind,
            file.api_version
        );
        let entries = file.resources.into_iter().map(entry).collect::<anyhow::Result<Vec<_>>>()?;
        let mut seen = std::collections::BTreeSet::new();
        for prefix in entries.iter().flat_map(|entry| &entry.prefixes) {
            ensure!(seen.insert(prefix), "the resource of {prefix} is named twice");
        }
        Ok(EncryptionConfig { entries })
    }

    /// The value as it rests.
    pub(super) fn seal(&self, place: &str, value: &Bytes) -> Result<Bytes, String> {
        match self.providers(place).and_then(<[Provider]>::first) {
            Some(Provider::Sealed(key)) => key.seal(place, value),
            Some(Provider::Plain) | None => Ok(value.clone()),
        }
    }

    /// The value as it is read.
    pub(super) fn open(&self, place: &str, value: &Bytes) -> Result<Opened, String> {
        let sealed = value.starts_with(PREFIX.as_bytes());
        let Some(providers) = self.providers(place) else {
            return if sealed { Err(unknown_key(value)) } else { Ok(Opened { value: value.clone(), stale: false }) };
        };
        let mut failure = None;
        for (index, provider) in providers.iter().enumerate() {
            let opened = match provider {
                Provider::Plain => (!sealed).then(|| Ok(value.clone())),
                Provider::Sealed(key) => key.open(place, value),
            };
            match opened {
                Some(Ok(value)) => return Ok(Opened { value, stale: index > 0 }),
                // Another key of this name may follow.
                Some(Err(why)) => failure = Some(why),
                None => {}
            }
        }
        Err(failure.unwrap_or_else(|| {
            if sealed { unknown_key(value) } else { "the value is not encrypted, and identity is no provider".into() }
        }))
    }

    fn providers(&self, place: &str) -> Option<&[Provider]> {
        if place.starts_with(OWN) {
            return None;
        }
        let entry = self.entries.iter().find(|entry| entry.prefixes.iter().any(|prefix| place.starts_with(prefix)));
        entry.map(|entry| entry.providers.as_slice())
    }
}

fn unknown_key(value: &[u8]) -> String {
    format!("the value was sealed with the key {:?}, which is not configured", key_name(value))
}

fn entry(entry: Resources) -> anyhow::Result<Entry> {
    ensure!(!entry.resources.is_empty(), "resources names none");
    let prefixes = entry.resources.iter().map(|resource| prefix(resource)).collect::<anyhow::Result<_>>()?;
    let mut providers = Vec::new();
    for provider in entry.providers {
        match (provider.aesgcm, provider.identity) {
            (Some(keys), None) => {
                ensure!(!keys.keys.is_empty(), "a provider aesgcm has no keys");
                for key in keys.keys {
                    providers.push(Provider::Sealed(self::key(&key)?));
                }
            }
            (None, Some(Nothing {})) => providers.push(Provider::Plain),
            _ => bail!("a provider is one of aesgcm and identity"),
        }
    }
    ensure!(!providers.is_empty(), "{} has no providers", entry.resources.join(", "));
    Ok(Entry { prefixes, providers })
}

/// `secrets`, `deployments.apps`, `*.apps`, `*.*`
fn prefix(resource: &str) -> anyhow::Result<String> {
    let (plural, group) = resource.split_once('.').unwrap_or((resource, ""));
    let word = |text: &str| {
        !text.is_empty()
            && text.bytes().all(|byte| byte.is_ascii_lowercase() || b"-.".contains(&byte) || byte.is_ascii_digit())
    };
    match (plural, group) {
        ("*", "*") => Ok("/registry/".into()),
        ("*", "") if resource == "*." => Ok("/registry/core/".into()),
        ("*", group) if word(group) => Ok(format!("/registry/{group}/")),
        (plural, "") if word(plural) => Ok(format!("/registry/core/{plural}/")),
        (plural, group) if word(plural) && word(group) => Ok(format!("/registry/{group}/{plural}/")),
        _ => bail!("{resource:?} is no resource: it is secrets, deployments.apps, *.apps or *.*"),
    }
}

fn key(key: &NamedKey) -> anyhow::Result<Key> {
    let name = &key.name;
    ensure!(!name.is_empty() && !name.contains(':'), "the name {name:?} of a key is empty or has a colon");
    let secret =
        STANDARD.decode(key.secret.trim()).with_context(|| format!("the secret of the key {name:?} is no base64"))?;
    let count = secret.len();
    let Ok(secret) = <[u8; KEY_BYTES]>::try_from(secret) else {
        bail!("the secret of the key {name:?} has {count} bytes: it must have {KEY_BYTES}");
    };
    Ok(Key::new(name, &secret))
}
