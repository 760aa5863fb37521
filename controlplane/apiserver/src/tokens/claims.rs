//! What a token of a service account says.

use serde::{Deserialize, Serialize};

use crate::stack::authorization::SERVICE_ACCOUNT;

/// How far clocks may be apart, in seconds.
const SKEW: i64 = 10;

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Claims {
    pub aud: Audience,
    pub exp: i64,
    pub iat: i64,
    pub iss: String,
    pub jti: String,
    #[serde(rename = "kubernetes.io")]
    pub private: Private,
    pub nbf: i64,
    pub sub: String,
}

/// One text or a list of them.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(untagged)]
pub(super) enum Audience {
    One(String),
    Many(Vec<String>),
}

/// What Kubernetes adds: the account, and what the token is bound to.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Private {
    pub namespace: String,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub node: Option<Reference>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub pod: Option<Reference>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub secret: Option<Reference>,
    pub serviceaccount: Reference,
}

/// One incarnation of an object.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Reference {
    pub name: String,
    pub uid: String,
}

impl Claims {
    /// What can be said without looking at any object.
    pub(super) fn check(&self, issuer: &str, now: i64) -> Result<(), String> {
        let private = &self.private;
        // Names become parts of storage keys.
        let names = [&private.namespace, &private.serviceaccount.name].into_iter();
        let bound = [&private.node, &private.pod, &private.secret].into_iter().flatten().map(|bound| &bound.name);
        if names.chain(bound).any(|name| name.is_empty() || name.contains('/')) {
            return Err("it names no object".into());
        }
        let subject = format!("{SERVICE_ACCOUNT}{}:{}", private.namespace, private.serviceaccount.name);
        if self.iss != issuer {
            Err(format!("its issuer is {:?}", self.iss))
        } else if self.sub != subject {
            Err(format!("its subject {:?} is not its service account", self.sub))
        } else if self.exp <= now {
            Err("it has expired".into())
        } else if self.nbf > now + SKEW || self.iat > now + SKEW {
            Err("it is not valid yet".into())
        } else {
            Ok(())
        }
    }
}

impl Audience {
    pub(super) fn shared_with(&self, wanted: &[String]) -> Vec<String> {
        let own = match self {
            Audience::One(own) => std::slice::from_ref(own),
            Audience::Many(own) => own.as_slice(),
        };
        wanted.iter().filter(|audience| own.contains(audience)).cloned().collect()
    }
}
