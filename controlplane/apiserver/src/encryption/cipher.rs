//! One value: sealed with AES-256-GCM under a key derived for it alone, or plain.

use bytes::Bytes;
use rand::RngCore as _;
use ring::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use ring::hkdf::{HKDF_SHA256, KeyType, Prk};

/// How the values that are not plain begin.
pub(super) const PREFIX: &str = "k8s:enc:";
/// Provider and version of ours; the name of the key and a colon follow.
const SCHEME: &str = "k8s:enc:aesgcm:v2:";
/// Bytes of a configured key.
pub(super) const KEY_BYTES: usize = 32;
/// Random bytes from which the key of a value is derived: so many that no two values ever share one.
const SALT_BYTES: usize = 32;
/// What the derived keys are for.
const PURPOSE: &[u8] = b"diolkos value at rest";

/// A configured key.
pub(super) struct Key {
    pub name: String,
    root: Prk,
}

/// A value that could be read.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Opened {
    pub value: Bytes,
    /// It would be written otherwise now.
    pub stale: bool,
}

impl Key {
    pub(super) fn new(name: &str, secret: &[u8; KEY_BYTES]) -> Key {
        Key { name: name.to_owned(), root: Prk::new_less_safe(HKDF_SHA256, secret) }
    }

    /// `place` is the storage key, under which alone the value can be opened.
    pub(super) fn seal(&self, place: &str, value: &[u8]) -> Result<Bytes, String> {
        let mut salt = [0; SALT_BYTES];
        rand::rng().fill_bytes(&mut salt);
        let key = self.derive(&salt)?;
        let start = format!("{SCHEME}{}:", self.name);
        let mut body = value.to_vec();
        key.seal_in_place_append_tag(nonce(), Aad::from(place.as_bytes()), &mut body)
            .map_err(|_| format!("the value of {place} is too large to be encrypted"))?;
        Ok([start.as_bytes(), &salt, &body].concat().into())
    }

    /// `None` when the value was not sealed with a key of this name.
    pub(super) fn open(&self, place: &str, value: &[u8]) -> Option<Result<Bytes, String>> {
        let rest = value.strip_prefix(SCHEME.as_bytes())?.strip_prefix(self.name.as_bytes())?.strip_prefix(b":")?;
        let wrong = || {
            format!(
                "the value cannot be decrypted with the key {:?}: it was sealed with another key or for another place, or it is damaged",
                self.name
            )
        };
        let opened = rest.split_at_checked(SALT_BYTES).ok_or_else(wrong).and_then(|(salt, body)| {
            let mut body = body.to_vec();
            let key = self.derive(salt)?;
            let plain = key.open_in_place(nonce(), Aad::from(place.as_bytes()), &mut body).map_err(|_| wrong())?;
            Ok(Bytes::copy_from_slice(plain))
        });
        Some(opened)
    }

    fn derive(&self, salt: &[u8]) -> Result<LessSafeKey, String> {
        let mut key = [0; KEY_BYTES];
        let derived = self.root.expand(&[PURPOSE, salt], Length).and_then(|derived| derived.fill(&mut key));
        let unbound = derived.and_then(|()| UnboundKey::new(&AES_256_GCM, &key));
        unbound.map(LessSafeKey::new).map_err(|_| "no key could be derived".into())
    }
}

/// A key seals one value, so that its only nonce may be the same always.
fn nonce() -> Nonce {
    Nonce::assume_unique_for_key([0; 12])
}

struct Length;

impl KeyType for Length {
    fn len(&self) -> usize {
        KEY_BYTES
    }
}

/// The name of the key that a value says it was sealed with.
pub(super) fn key_name(value: &[u8]) -> String {
    let start = String::from_utf8_lossy(&value[..value.len().min(256)]).into_owned();
    start.split(':').nth(4).unwrap_or_default().to_owned()
}
