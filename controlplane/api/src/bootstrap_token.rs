//! Bootstrap tokens, `ID.SECRET`: how a machine that knows nothing of a cluster proves that it may join it, and how the
//! cluster proves to that machine that it is the one. The Secrets and the ConfigMap are kubeadm's.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use k8s_openapi::api::core::v1::Secret;
use k8s_openapi::jiff::Timestamp;
use ring::hmac;
use ring::rand::{SecureRandom as _, SystemRandom};

/// Where the Secrets of tokens are, and their type.
pub const TOKEN_NAMESPACE: &str = "kube-system";
pub const TOKEN_TYPE: &str = "bootstrap.kubernetes.io/token";
/// Where everybody reads how to reach the cluster, and the entry that says it.
pub const INFO_NAMESPACE: &str = "kube-public";
pub const INFO_NAME: &str = "cluster-info";
pub const INFO_ENTRY: &str = "kubeconfig";
/// What the entries with signatures are called before the token's id.
pub const SIGNATURE_PREFIX: &str = "jws-kubeconfig-";

const ID_LENGTH: usize = 6;
const SECRET_LENGTH: usize = 16;
const LETTERS: &[u8] = b"0123456789abcdefghijklmnopqrstuvwxyz";

/// A token. Whoever has it may join until it expires, so it is shown only where it is asked for.
#[derive(Clone, PartialEq, Eq)]
pub struct BootstrapToken {
    pub id: String,
    pub secret: String,
}

/// A text that is no token.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "a bootstrap token is six lower case letters or digits, a dot, and sixteen more, such as abcdef.0123456789abcdef"
)]
pub struct NoToken;

/// Why what a cluster says of itself is not believed.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum Disbelief {
    #[error("it is not signed with the token {id}: the token has expired, was deleted, or is another cluster's")]
    NotSigned { id: String },
    #[error("its signature with the token {id} is wrong: the token's secret is another one, or somebody changed it")]
    Wrong { id: String },
}

impl BootstrapToken {
    /// A new one, of this machine's randomness.
    pub fn generate() -> Result<Self, ring::error::Unspecified> {
        let random = SystemRandom::new();
        let letters = |length: usize| -> Result<String, ring::error::Unspecified> {
            let mut text = String::new();
            while text.len() < length {
                let mut byte = [0];
                random.fill(&mut byte)?;
                // Beyond the last multiple of the letters' number some would be more likely than others.
                let [byte] = byte.map(usize::from);
                if byte < 256 / LETTERS.len() * LETTERS.len() {
                    text.push(char::from(LETTERS[byte % LETTERS.len()]));
                }
            }
            Ok(text)
        };
        Ok(Self { id: letters(ID_LENGTH)?, secret: letters(SECRET_LENGTH)? })
    }

    /// The name of the Secret that keeps the token of this id.
    pub fn secret_name(id: &str) -> String {
        format!("bootstrap-token-{id}")
    }

    /// The token of a Secret, if it is one.
    pub fn of(secret: &Secret) -> Option<Self> {
        let token = Self { id: entry(secret, "token-id")?, secret: entry(secret, "token-secret")? };
        let named = secret.metadata.name.as_deref() == Some(&Self::secret_name(&token.id));
        (named && secret.type_.as_deref() == Some(TOKEN_TYPE)).then_some(token)
    }

    /// The signature of a text, as a JWS whose payload is left out (RFC 7515, appendix F).
    pub fn sign(&self, text: &str) -> String {
        let header = URL_SAFE_NO_PAD.encode(format!("{{\"alg\":\"HS256\",\"kid\":\"{}\"}}", self.id));
        let signature = hmac::sign(&self.key(), signed(&header, text).as_bytes());
        format!("{header}..{}", URL_SAFE_NO_PAD.encode(signature))
    }

    /// Whether one of the signatures of a ConfigMap is this token's and that of the text.
    pub fn check(&self, text: &str, data: &BTreeMap<String, String>) -> Result<(), Disbelief> {
        let own = data.get(&format!("{SIGNATURE_PREFIX}{}", self.id));
        let jws = own.ok_or_else(|| Disbelief::NotSigned { id: self.id.clone() })?;
        let wrong = || Disbelief::Wrong { id: self.id.clone() };
        let (header, signature) = jws.split_once("..").ok_or_else(wrong)?;
        let head: serde_json::Value = URL_SAFE_NO_PAD
            .decode(header)
            .ok()
            .and_then(|bytes| serde_json::from_slice(&bytes).ok())
            .ok_or_else(wrong)?;
        // Another algorithm would be the signer's choice of how much to prove.
        if head["alg"] != "HS256" || head["kid"] != self.id.as_str() {
            return Err(wrong());
        }
        let signature = URL_SAFE_NO_PAD.decode(signature).map_err(|_| wrong())?;
        hmac::verify(&self.key(), signed(header, text).as_bytes(), &signature).map_err(|_| wrong())
    }

    fn key(&self) -> hmac::Key {
        hmac::Key::new(hmac::HMAC_SHA256, self.secret.as_bytes())
    }
}

fn signed(header: &str, text: &str) -> String {
    format!("{header}.{}", URL_SAFE_NO_PAD.encode(text))
}

impl FromStr for BootstrapToken {
    type Err = NoToken;

    fn from_str(text: &str) -> Result<Self, NoToken> {
        let (id, secret) = text.trim().split_once('.').ok_or(NoToken)?;
        let letters = |part: &str| part.bytes().all(|letter| LETTERS.contains(&letter));
        let fits = id.len() == ID_LENGTH && secret.len() == SECRET_LENGTH && letters(id) && letters(secret);
        if fits { Ok(Self { id: id.into(), secret: secret.into() }) } else { Err(NoToken) }
    }
}

impl fmt::Display for BootstrapToken {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}.{}", self.id, self.secret)
    }
}

impl fmt::Debug for BootstrapToken {
    /// Without the secret.
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}.<secret>", self.id)
    }
}

/// An entry of a token's Secret, as text.
pub fn entry(secret: &Secret, name: &str) -> Option<String> {
    let bytes = secret.data.as_ref()?.get(name)?;
    String::from_utf8(bytes.0.clone()).ok()
}

/// When a token ends: never, when its Secret does not say; in the past, when it says what is no time.
pub fn expiration(secret: &Secret) -> Option<Timestamp> {
    let text = entry(secret, "expiration").filter(|text| !text.is_empty())?;
    Some(text.parse().unwrap_or(Timestamp::UNIX_EPOCH))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use k8s_openapi::ByteString;
    use serde_json::json;

    use super::*;

    fn token(text: &str) -> BootstrapToken {
        text.parse().unwrap()
    }

    #[test]
    fn a_token_is_an_id_and_a_secret() {
        assert_eq!(token(" abcdef.0123456789abcdef\n").to_string(), "abcdef.0123456789abcdef");
        for wrong in ["", "abcdef", "abcde.0123456789abcdef", "ABCDEF.0123456789abcdef", "abcdef.0123456789abcde!"] {
            assert_eq!(wrong.parse::<BootstrapToken>(), Err(NoToken), "{wrong}");
        }
        let made = BootstrapToken::generate().unwrap();
        assert_eq!(made.to_string().parse(), Ok(made.clone()));
        assert_ne!(made, BootstrapToken::generate().unwrap());
        assert!(!format!("{made:?}").contains(&made.secret));
    }

    /// The signature is made as RFC 7515 says, which `openssl dgst -sha256 -hmac 0123456789abcdef` says too.
    #[test]
    fn a_signature_is_the_one_kubeadm_makes() {
        let jws = token("abcdef.0123456789abcdef").sign("foobar");
        assert_eq!(jws, "eyJhbGciOiJIUzI1NiIsImtpZCI6ImFiY2RlZiJ9..vP6yp00c2BYj5HJYUDAL4DWv3ARRNERQYFDkC15SWnY");
    }

    #[test]
    fn only_the_signature_of_the_token_itself_and_of_the_very_text_is_believed() {
        let own = token("abcdef.0123456789abcdef");
        let named = |jws: String| BTreeMap::from([(format!("{SIGNATURE_PREFIX}abcdef"), jws)]);
        let good = named(own.sign("text"));
        assert_eq!(own.check("text", &good), Ok(()));
        let id = || "abcdef".to_owned();
        assert_eq!(own.check("other", &good), Err(Disbelief::Wrong { id: id() }));
        let guessed = token("abcdef.0123456789abcdeg");
        assert_eq!(guessed.check("text", &good), Err(Disbelief::Wrong { id: id() }));
        let unknown = token("bbcdef.0123456789abcdef");
        assert_eq!(unknown.check("text", &good), Err(Disbelief::NotSigned { id: "bbcdef".into() }));
        let none = URL_SAFE_NO_PAD.encode("{\"alg\":\"none\",\"kid\":\"abcdef\"}");
        for jws in [format!("{none}.."), String::new(), "a.b.c".into(), own.sign("text").replace("..", "...")] {
            assert_eq!(own.check("text", &named(jws.clone())), Err(Disbelief::Wrong { id: id() }), "{jws}");
        }
    }

    #[test]
    fn a_secret_is_a_token_when_name_and_type_say_so() {
        let mut secret: Secret = serde_json::from_value(json!({
            "metadata": {"name": "bootstrap-token-abcdef"}, "type": TOKEN_TYPE,
        }))
        .unwrap();
        let bytes = |text: &str| ByteString(text.as_bytes().to_vec());
        secret.data = Some(BTreeMap::from([
            ("token-id".into(), bytes("abcdef")),
            ("token-secret".into(), bytes("0123456789abcdef")),
            ("expiration".into(), bytes("2030-01-01T00:00:00Z")),
        ]));
        assert_eq!(BootstrapToken::of(&secret), Some(token("abcdef.0123456789abcdef")));
        assert_eq!(expiration(&secret), Some("2030-01-01T00:00:00Z".parse().unwrap()));
        secret.metadata.name = Some("bootstrap-token-other1".into());
        assert_eq!(BootstrapToken::of(&secret), None);
    }
}
