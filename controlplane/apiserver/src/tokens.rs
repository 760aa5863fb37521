//! Tokens: those of service accounts, which this server signs, and those with which machines join.

mod bootstrap;
mod claims;
mod jwt;

use std::sync::Arc;

use diolkos_api::status::Failure;
use k8s_openapi::jiff::Timestamp;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::cache::{Cache, Freshness};
use crate::metrics::Metrics;
use crate::pki::AccountKeys;
use crate::stack::{AUTHENTICATED, User, account_groups};
use claims::{Audience, Claims, Private};

pub(crate) use claims::Reference;

/// Who signs tokens, unless the server is told otherwise: as Kubernetes' usual clusters.
pub const DEFAULT_ISSUER: &str = "https://kubernetes.default.svc.cluster.local";

/// Least time that a token is asked for, in seconds, as in Kubernetes.
pub(crate) const LEAST_SECONDS: i64 = 600;
/// Most time, in seconds, as in Kubernetes.
pub(crate) const MOST_SECONDS: i64 = 1 << 32;
/// How much longer the token of something that is being deleted goes on, in seconds.
const LEAVING_SECONDS: i64 = 60;
/// Longest token that is looked at, in bytes.
const MAX_TOKEN: usize = 16 << 10;

/// What tokens say, beside the keys.
#[derive(Clone, Debug, Default)]
pub struct TokenOptions {
    /// `iss`, and where OIDC clients look for the keys; [`DEFAULT_ISSUER`] when it is "".
    pub issuer: String,
    /// `aud` of tokens for this server; the issuer when there are none.
    pub audiences: Vec<String>,
}

/// Signs and checks tokens.
#[derive(Clone)]
pub(crate) struct Tokens {
    cache: Cache,
    keys: Arc<jwt::Keys>,
    issuer: Arc<str>,
    audiences: Arc<[String]>,
    metrics: Metrics,
}

/// What a token is made for.
pub(crate) struct Order {
    pub namespace: String,
    pub account: Reference,
    /// "Pod", "Secret" or "Node", and which one.
    pub bound: Option<(&'static str, Reference)>,
    /// The node of the pod.
    pub node: Option<Reference>,
    pub audiences: Vec<String>,
    pub seconds: i64,
}

/// Whom a token is of, and the audiences that it shares with those that were asked for.
pub(crate) struct Bearer {
    pub user: User,
    pub audiences: Vec<String>,
}

/// What is left of an object that a token names.
#[derive(Deserialize)]
struct Head {
    metadata: Metadata,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Metadata {
    uid: String,
    #[serde(default)]
    deletion_timestamp: Option<String>,
}

impl Tokens {
    pub(crate) fn new(
        cache: Cache,
        keys: &AccountKeys,
        options: &TokenOptions,
        metrics: Metrics,
    ) -> anyhow::Result<Tokens> {
        let issuer = if options.issuer.is_empty() { DEFAULT_ISSUER } else { &options.issuer };
        let audiences = if options.audiences.is_empty() { vec![issuer.to_owned()] } else { options.audiences.clone() };
        let keys = Arc::new(jwt::Keys::read(keys)?);
        Ok(Tokens { cache, keys, issuer: issuer.into(), audiences: audiences.into(), metrics })
    }

    /// The audiences of this server.
    pub(crate) fn audiences(&self) -> &[String] {
        &self.audiences
    }

    /// A new token, and when it ends.
    pub(crate) fn issue(&self, order: Order) -> Result<(String, Timestamp), Failure> {
        let now = diolkos_api::now().as_second();
        let ends = now + order.seconds;
        let (mut pod, mut secret, mut node) = (None, None, order.node);
        match order.bound {
            Some(("Pod", reference)) => pod = Some(reference),
            Some(("Secret", reference)) => secret = Some(reference),
            Some((_, reference)) => node = Some(reference),
            None => {}
        }
        let claims = Claims {
            aud: Audience::Many(order.audiences),
            exp: ends,
            iat: now,
            iss: self.issuer.to_string(),
            jti: uuid::Uuid::new_v4().to_string(),
            private: Private {
                namespace: order.namespace.clone(),
                node,
                pod,
                secret,
                serviceaccount: order.account.clone(),
            },
            nbf: now,
            sub: format!("{}{}:{}", crate::stack::authorization::SERVICE_ACCOUNT, order.namespace, order.account.name),
        };
        let token = self.keys.sign(&claims).map_err(Failure::internal)?;
        self.metrics.token_issued();
        Ok((token, Timestamp::from_second(ends).unwrap_or(Timestamp::MAX)))
    }

    /// Whose token this is; `Err` says, for the log, why it is nobody's. `audiences`: for whom it has to be made.
    pub(crate) async fn check(&self, token: &str, audiences: &[String]) -> Result<Bearer, String> {
        let checked = if token.len() > MAX_TOKEN {
            Err(format!("it is longer than {MAX_TOKEN} bytes"))
        } else if bootstrap::is_token(token) {
            self.check_bootstrap(token, audiences).await
        } else {
            self.check_account(token, audiences).await
        };
        if checked.is_err() {
            self.metrics.token_refused();
        }
        checked
    }

    /// Such a token names no audience: it is for this server alone.
    async fn check_bootstrap(&self, token: &str, audiences: &[String]) -> Result<Bearer, String> {
        let own: Vec<String> = audiences.iter().filter(|asked| self.audiences.contains(asked)).cloned().collect();
        if own.is_empty() {
            return Err("it is for another audience".into());
        }
        let user = bootstrap::check(&self.cache, token, diolkos_api::now()).await?;
        Ok(Bearer { user, audiences: own })
    }

    async fn check_account(&self, token: &str, audiences: &[String]) -> Result<Bearer, String> {
        let claims: Claims = self.keys.verify(token)?;
        let now = diolkos_api::now().as_second();
        claims.check(&self.issuer, now)?;
        let shared = claims.aud.shared_with(audiences);
        if shared.is_empty() {
            return Err("it is for another audience".into());
        }
        let private = &claims.private;
        let (namespace, account) = (&private.namespace, &private.serviceaccount);
        self.is_there(&format!("/registry/core/serviceaccounts/{namespace}/{}", account.name), account, now).await?;
        for (plural, reference) in [("pods", &private.pod), ("secrets", &private.secret)] {
            if let Some(reference) = reference {
                let key = format!("/registry/core/{plural}/{namespace}/{}", reference.name);
                self.is_there(&key, reference, now).await?;
            }
        }
        // The node of a pod may be gone before it; a token of a node alone is not.
        if let (Some(node), None) = (&private.node, &private.pod) {
            self.is_there(&format!("/registry/core/nodes/{}", node.name), node, now).await?;
        }
        Ok(Bearer { user: user(&claims), audiences: shared })
    }

    /// The object that a token names is still the one that it was made for. What the cache does not know yet is looked
    /// up once more when it has everything.
    async fn is_there(&self, key: &str, reference: &Reference, now: i64) -> Result<(), String> {
        let mut why = String::new();
        for freshness in [Freshness::Any, Freshness::Latest] {
            let found = self.cache.get(key, freshness).await.map_err(|failure| failure.to_string())?;
            match found {
                Some(object) => match serde_json::from_slice::<Head>(&object.bytes) {
                    Ok(head) if head.metadata.uid != reference.uid => {
                        why = format!("{key} has another uid than the one it was made for");
                    }
                    Ok(head) => {
                        return is_leaving(&head, now).map_or(Ok(()), |_| Err(format!("{key} is being deleted")));
                    }
                    Err(cause) => why = format!("{key} cannot be read: {cause}"),
                },
                None => why = format!("{key} is gone"),
            }
        }
        Err(why)
    }

    /// What OIDC clients read first.
    pub(crate) fn discovery(&self, public_address: &str) -> Value {
        json!({
            "issuer": &*self.issuer,
            "jwks_uri": format!("https://{public_address}/openid/v1/jwks"),
            "response_types_supported": ["id_token"],
            "subject_types_supported": ["public"],
            "id_token_signing_alg_values_supported": ["ES256"],
        })
    }

    /// The public keys.
    pub(crate) fn jwks(&self) -> Value {
        self.keys.jwks()
    }
}

/// The object was to be gone longer ago than its tokens go on.
fn is_leaving(head: &Head, now: i64) -> Option<()> {
    let end: Timestamp = head.metadata.deletion_timestamp.as_deref()?.parse().ok()?;
    (end.as_second() + LEAVING_SECONDS < now).then_some(())
}

fn user(claims: &Claims) -> User {
    let private = &claims.private;
    let groups = account_groups(&private.namespace);
    let mut user = User::new(&claims.sub, groups.iter().map(String::as_str).chain([AUTHENTICATED]));
    user.uid.clone_from(&private.serviceaccount.uid);
    let mut extra = |name: &str, value: String| {
        user.extra.insert(format!("authentication.kubernetes.io/{name}"), vec![value]);
    };
    extra("credential-id", format!("JTI={}", claims.jti));
    for (what, reference) in [("pod", &private.pod), ("node", &private.node)] {
        if let Some(reference) = reference {
            extra(&format!("{what}-name"), reference.name.clone());
            extra(&format!("{what}-uid"), reference.uid.clone());
        }
    }
    user
}
