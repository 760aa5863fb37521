//! Acting as somebody else: the `Impersonate-*` headers, for those who may `impersonate`.

use std::collections::BTreeMap;

use axum::extract::{Request, State};
use axum::middleware::Next;
use axum::response::Response;
use diolkos_api::status::Failure;
use http::{HeaderMap, HeaderName};

use super::authentication::ANONYMOUS;
use super::authorization::{Attributes, Authorizer, SERVICE_ACCOUNT};
use super::{AUTHENTICATED, Record, UNAUTHENTICATED, User, is_grpc, refusal};

const USER: &str = "impersonate-user";
const GROUP: &str = "impersonate-group";
const UID: &str = "impersonate-uid";
const EXTRA: &str = "impersonate-extra-";

/// The group of reviews and of what is impersonated beside users and groups.
const AUTHENTICATION: &str = "authentication.k8s.io";

/// Groups of the user of a service account, as its tokens give them.
pub(crate) fn account_groups(namespace: &str) -> [String; 2] {
    ["system:serviceaccounts".into(), format!("system:serviceaccounts:{namespace}")]
}

pub(super) async fn layer(State(authorizer): State<Authorizer>, mut request: Request, next: Next) -> Response {
    let asked = request.headers().keys().any(|name| name.as_str().starts_with("impersonate-"));
    if !asked {
        return next.run(request).await;
    }
    let grpc = is_grpc(&request);
    let Some(user) = request.extensions().get::<User>() else { return refusal(Failure::unauthorized(), grpc) };
    let record = request.extensions().get::<Record>().cloned().unwrap_or_default();
    let other = match impersonate(&authorizer, user, request.headers(), &record) {
        Ok(other) => other,
        Err(failure) => return refusal(failure, grpc),
    };
    let names: Vec<HeaderName> =
        request.headers().keys().filter(|name| name.as_str().starts_with("impersonate-")).cloned().collect();
    for name in names {
        request.headers_mut().remove(name);
    }
    request.extensions_mut().insert(other);
    next.run(request).await
}

/// Whom the headers name, once it is known that `user` may act as each part of it.
fn impersonate(authorizer: &Authorizer, user: &User, headers: &HeaderMap, record: &Record) -> Result<User, Failure> {
    let mut other = named(headers)?;
    for asked in questions(&other) {
        let decision = authorizer.decide(user, &asked);
        if !decision.is_allowed() {
            authorizer.authorize(user, &asked, record)?;
        }
    }
    if let Some((namespace, _)) = account(&other.name)
        && other.groups.is_empty()
    {
        other.groups = account_groups(namespace).to_vec();
    }
    let common = if other.name == ANONYMOUS { UNAUTHENTICATED } else { AUTHENTICATED };
    if !other.is_in(common) {
        other.groups.push(common.to_owned());
    }
    record.impersonated(&other);
    Ok(other)
}

fn named(headers: &HeaderMap) -> Result<User, Failure> {
    let unreadable = |name: &str| Failure::bad_request(format!("the header {name} is no text"));
    let values = |name: &str| -> Result<Vec<String>, Failure> {
        let texts = headers.get_all(name).iter().map(|value| value.to_str().map(str::to_owned));
        texts.collect::<Result<_, _>>().map_err(|_| unreadable(name))
    };
    let name = values(USER)?.into_iter().next().unwrap_or_default();
    let mut extra: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for header in headers.keys() {
        if let Some(key) = header.as_str().strip_prefix(EXTRA) {
            extra.insert(unescape(key), values(header.as_str())?);
        }
    }
    let uid = values(UID)?.into_iter().next().unwrap_or_default();
    let groups = values(GROUP)?;
    if name.is_empty() {
        let what = format!("requested {{uid: {uid:?}, groups: {groups:?}, extra: {extra:?}}}");
        return Err(Failure::internal(format!("{what} without impersonating a user")));
    }
    Ok(User { name, uid, groups, extra })
}

/// What somebody has to be allowed in order to act as `other`.
fn questions(other: &User) -> Vec<Attributes> {
    let ask = |group: &str, resource: &str, name: &str| Attributes {
        verb: "impersonate".into(),
        group: group.to_owned(),
        version: "v1".into(),
        resource: resource.to_owned(),
        name: name.to_owned(),
        ..Attributes::default()
    };
    let user = match account(&other.name) {
        Some((namespace, name)) => Attributes { namespace: namespace.to_owned(), ..ask("", "serviceaccounts", name) },
        None => ask("", "users", &other.name),
    };
    let mut questions = vec![user];
    questions.extend(other.groups.iter().map(|group| ask("", "groups", group)));
    if !other.uid.is_empty() {
        questions.push(ask(AUTHENTICATION, "uids", &other.uid));
    }
    for (key, values) in &other.extra {
        let extra =
            |value: &String| Attributes { subresource: key.clone(), ..ask(AUTHENTICATION, "userextras", value) };
        questions.extend(values.iter().map(extra));
    }
    questions
}

/// Namespace and name of the service account whose user this is.
pub(crate) fn account(user: &str) -> Option<(&str, &str)> {
    user.strip_prefix(SERVICE_ACCOUNT)?.split_once(':').filter(|(_, name)| !name.contains(':'))
}

/// Keys of extras are percent-encoded in names of headers; what is no escape stays.
fn unescape(key: &str) -> String {
    let mut bytes = Vec::with_capacity(key.len());
    let mut rest = key.as_bytes();
    while let Some((first, tail)) = rest.split_first() {
        let escaped = (*first == b'%').then(|| tail.get(..2)).flatten();
        let byte = escaped.and_then(|digits| u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok());
        match byte {
            Some(byte) => {
                bytes.push(byte);
                rest = &tail[2..];
            }
            None => {
                bytes.push(*first);
                rest = tail;
            }
        }
    }
    String::from_utf8_lossy(&bytes).to_ascii_lowercase()
}
