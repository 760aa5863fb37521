//! JSON Web Tokens signed with ECDSA over P-256 (ES256), and with nothing else: a token that names another algorithm is
//! refused before any key is looked at.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::digest::{SHA256, digest};
use ring::rand::SystemRandom;
use ring::signature::{
    ECDSA_P256_SHA256_FIXED, ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _, UnparsedPublicKey,
};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{PrivatePkcs8KeyDer, SubjectPublicKeyInfoDer};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::pki::AccountKeys;

const ALGORITHM: &str = "ES256";

/// What stands before the point in the encoding of a public key over P-256 (RFC 5480).
const P256: [u8; 26] = [
    0x30, 0x59, 0x30, 0x13, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x08, 0x2a, 0x86, 0x48, 0xce,
    0x3d, 0x03, 0x01, 0x07, 0x03, 0x42, 0x00,
];
/// Bytes of an uncompressed point: 4, x, y.
const POINT: usize = 65;

/// The key that signs, and all whose signatures are taken.
pub(super) struct Keys {
    signing: EcdsaKeyPair,
    signing_id: String,
    public: Vec<Public>,
    random: SystemRandom,
}

struct Public {
    /// As Kubernetes makes it: the base64 of the hash of the key's encoding.
    id: String,
    point: Vec<u8>,
}

#[derive(Serialize, Deserialize)]
struct Header {
    alg: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    kid: String,
    #[serde(default, skip_serializing)]
    crit: Option<Value>,
}

impl Keys {
    pub(super) fn read(keys: &AccountKeys) -> anyhow::Result<Keys> {
        let random = SystemRandom::new();
        let der = PrivatePkcs8KeyDer::from_pem_slice(keys.signing_pem.as_bytes())
            .map_err(|cause| anyhow::anyhow!("{}: no PKCS #8 key: {cause}", keys.signing_name))?;
        let signing = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, der.secret_pkcs8_der(), &random)
            .map_err(|cause| anyhow::anyhow!("{}: no ECDSA key over P-256: {cause}", keys.signing_name))?;
        let own = Public::of(signing.public_key().as_ref().to_vec());
        let signing_id = own.id.clone();
        let mut public = vec![own];
        for (name, pem) in &keys.verify {
            let key = Public::from_pem(pem).map_err(|cause| anyhow::anyhow!("{name}: {cause}"))?;
            if public.iter().all(|own| own.id != key.id) {
                public.push(key);
            }
        }
        Ok(Keys { signing, signing_id, public, random })
    }

    pub(super) fn sign(&self, claims: &impl Serialize) -> Result<String, String> {
        let header = Header { alg: ALGORITHM.into(), kid: self.signing_id.clone(), crit: None };
        let part = |bytes: serde_json::Result<Vec<u8>>| bytes.map(|bytes| URL_SAFE_NO_PAD.encode(bytes));
        let header = part(serde_json::to_vec(&header)).map_err(|cause| cause.to_string())?;
        let claims = part(serde_json::to_vec(claims)).map_err(|cause| cause.to_string())?;
        let signed = format!("{header}.{claims}");
        let signature = self
            .signing
            .sign(&self.random, signed.as_bytes())
            .map_err(|_| "the token could not be signed".to_owned())?;
        Ok(format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature)))
    }

    /// What a token says, if one of the keys signed it.
    pub(super) fn verify<T: DeserializeOwned>(&self, token: &str) -> Result<T, String> {
        let (signed, signature) = token.rsplit_once('.').ok_or("it is no JSON Web Token")?;
        let (header, claims) = signed.split_once('.').ok_or("it is no JSON Web Token")?;
        let bytes = |part: &str| URL_SAFE_NO_PAD.decode(part).map_err(|cause| format!("it cannot be decoded: {cause}"));
        let header: Header =
            serde_json::from_slice(&bytes(header)?).map_err(|cause| format!("its header cannot be read: {cause}"))?;
        if header.alg != ALGORITHM {
            return Err(format!("it is signed with {:?}; only {ALGORITHM} is taken", header.alg));
        }
        if header.crit.is_some() {
            return Err("its header has extensions that are not known".into());
        }
        let signature = bytes(signature)?;
        let mut keys = self.public.iter().filter(|key| header.kid.is_empty() || key.id == header.kid);
        let is_good = keys.any(|key| {
            let key = UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, &key.point);
            key.verify(signed.as_bytes(), &signature).is_ok()
        });
        if !is_good {
            return Err("no key of this cluster signed it".into());
        }
        serde_json::from_slice(&bytes(claims)?).map_err(|cause| format!("its claims cannot be read: {cause}"))
    }

    pub(super) fn jwks(&self) -> Value {
        let key = |key: &Public| {
            let (x, y) = key.point[1..].split_at((POINT - 1) / 2);
            json!({"use": "sig", "kty": "EC", "kid": key.id, "crv": "P-256", "alg": ALGORITHM,
                   "x": URL_SAFE_NO_PAD.encode(x), "y": URL_SAFE_NO_PAD.encode(y)})
        };
        json!({"keys": self.public.iter().map(key).collect::<Vec<_>>()})
    }
}

impl Public {
    fn of(point: Vec<u8>) -> Public {
        let encoded = [&P256[..], &point].concat();
        Public { id: URL_SAFE_NO_PAD.encode(digest(&SHA256, &encoded)), point }
    }

    fn from_pem(pem: &str) -> Result<Public, String> {
        let der = SubjectPublicKeyInfoDer::from_pem_slice(pem.as_bytes())
            .map_err(|cause| format!("no public key in PEM: {cause}"))?;
        match der.as_ref().strip_prefix(&P256[..]) {
            Some(point) if point.len() == POINT && point[0] == 4 => Ok(Public::of(point.to_vec())),
            _ => Err("no ECDSA key over P-256".into()),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn keys(verify: &[&rcgen::KeyPair]) -> (rcgen::KeyPair, Keys) {
        let pair = rcgen::KeyPair::generate().unwrap();
        let account_keys = AccountKeys {
            signing_name: "sa.key".into(),
            signing_pem: pair.serialize_pem(),
            verify: verify.iter().map(|key| ("old.pub".to_owned(), key.public_key_pem())).collect(),
        };
        let keys = Keys::read(&account_keys).unwrap();
        (pair, keys)
    }

    #[test]
    fn a_token_says_what_was_signed_and_only_whole() {
        let (_, keys) = keys(&[]);
        let token = keys.sign(&json!({"a": 1})).unwrap();
        assert_eq!(keys.verify::<Value>(&token).unwrap(), json!({"a": 1}));
        for at in 0..token.len() {
            let mut other = token.clone().into_bytes();
            other[at] = if other[at] == b'A' { b'B' } else { b'A' };
            let other = String::from_utf8(other).unwrap();
            if let Ok(claims) = keys.verify::<Value>(&other) {
                // The last letter of base64 has bits that mean nothing; strict decoding refuses most of them.
                panic!("{other} says {claims}");
            }
        }
        assert!(keys.verify::<Value>(&token[..token.len() - 1]).is_err());
        assert!(keys.verify::<Value>(&format!("{token}.")).is_err());
    }

    #[test]
    fn a_token_without_a_signature_or_with_another_algorithm_is_refused() {
        let (_, keys) = keys(&[]);
        let token = keys.sign(&json!({})).unwrap();
        let claims = token.split('.').nth(1).unwrap();
        for alg in ["none", "None", "HS256", "RS256", "ES384", ""] {
            let header = URL_SAFE_NO_PAD.encode(json!({"alg": alg}).to_string());
            let signature = token.split('.').nth(2).unwrap();
            for signature in ["", signature] {
                let why = keys.verify::<Value>(&format!("{header}.{claims}.{signature}")).unwrap_err();
                assert!(why.contains("only ES256"), "{why}");
            }
        }
    }

    #[test]
    fn tokens_of_an_older_key_are_taken_for_as_long_as_it_is_among_the_keys() {
        let (old_pair, old) = keys(&[]);
        let token = old.sign(&json!({"a": 1})).unwrap();
        let (_, rotated) = keys(&[&old_pair]);
        assert!(rotated.verify::<Value>(&token).is_ok());
        assert_eq!(rotated.jwks()["keys"].as_array().unwrap().len(), 2);
        let (_, stranger) = keys(&[]);
        assert_eq!(stranger.verify::<Value>(&token).unwrap_err(), "no key of this cluster signed it");
    }
}
