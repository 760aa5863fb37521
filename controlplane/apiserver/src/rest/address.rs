//! What a path means.

use diolkos_api::wire::Key;

/// What is at a path.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Address {
    Object(Place),
    /// What there is: groups, versions, kinds.
    Discovery(DiscoveryPath),
    OpenApi(OpenApiPath),
    Fixed(Fixed),
}

/// A document of OpenAPI.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum OpenApiPath {
    V2,
    /// `/openapi/v3`
    Index,
    /// `/openapi/v3/PATH`
    V3(String),
}

/// A collection, an object or a part of one.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Place {
    pub key: Key,
}

#[derive(Debug, PartialEq, Eq)]
pub(super) enum DiscoveryPath {
    /// `/api`
    Core,
    /// `/apis`
    Groups,
    /// `/apis/G`
    Group(String),
    /// `/api/v1` or `/apis/G/V`
    GroupVersion { group: String, version: String },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fixed {
    Root,
    Health,
    Ready,
    Version,
    Metrics,
    OidcDiscovery,
    OidcKeys,
}

impl Address {
    /// `None` where nothing is.
    pub(super) fn parse(path: &str) -> Option<Address> {
        let segments: Vec<String> =
            path.split('/').filter(|segment| !segment.is_empty()).map(decode).collect::<Option<_>>()?;
        let segments: Vec<&str> = segments.iter().map(String::as_str).collect();
        match segments.as_slice() {
            [] => Some(Address::Fixed(Fixed::Root)),
            ["healthz" | "livez", ..] => Some(Address::Fixed(Fixed::Health)),
            ["readyz", ..] => Some(Address::Fixed(Fixed::Ready)),
            ["version"] => Some(Address::Fixed(Fixed::Version)),
            ["metrics"] => Some(Address::Fixed(Fixed::Metrics)),
            ["openapi", "v2"] => Some(Address::OpenApi(OpenApiPath::V2)),
            ["openapi", "v3"] => Some(Address::OpenApi(OpenApiPath::Index)),
            ["openapi", "v3", path @ ..] => Some(Address::OpenApi(OpenApiPath::V3(path.join("/")))),
            [".well-known", "openid-configuration"] => Some(Address::Fixed(Fixed::OidcDiscovery)),
            ["openid", "v1", "jwks"] => Some(Address::Fixed(Fixed::OidcKeys)),
            ["api"] => Some(Address::Discovery(DiscoveryPath::Core)),
            ["apis"] => Some(Address::Discovery(DiscoveryPath::Groups)),
            ["apis", group] => Some(Address::Discovery(DiscoveryPath::Group((*group).to_owned()))),
            ["api", version, rest @ ..] => below("", version, rest),
            ["apis", group, version, rest @ ..] => below(group, version, rest),
            _ => None,
        }
    }
}

fn below(group: &str, version: &str, rest: &[&str]) -> Option<Address> {
    let place = |namespace: &str, plural: &str, name: &str, subresource: &str| {
        let key = Key {
            group: group.to_owned(),
            version: version.to_owned(),
            plural: plural.to_owned(),
            namespace: namespace.to_owned(),
            name: name.to_owned(),
            subresource: subresource.to_owned(),
        };
        Some(Address::Object(Place { key }))
    };
    match rest {
        [] => {
            let (group, version) = (group.to_owned(), version.to_owned());
            Some(Address::Discovery(DiscoveryPath::GroupVersion { group, version }))
        }
        // The parts of a namespace itself.
        ["namespaces", name, part @ ("status" | "finalize")] if group.is_empty() => place("", "namespaces", name, part),
        ["namespaces", namespace, plural] => place(namespace, plural, "", ""),
        ["namespaces", namespace, plural, name] => place(namespace, plural, name, ""),
        ["namespaces", namespace, plural, name, part] => place(namespace, plural, name, part),
        [plural] => place("", plural, "", ""),
        [plural, name] => place("", plural, name, ""),
        [plural, name, part] => place("", plural, name, part),
        _ => None,
    }
}

/// `%2F` and its like; `None` for what is no UTF-8 or no escape.
fn decode(segment: &str) -> Option<String> {
    if !segment.contains('%') {
        return Some(segment.to_owned());
    }
    let mut bytes = Vec::with_capacity(segment.len());
    let mut rest = segment.as_bytes();
    while let Some((first, tail)) = rest.split_first() {
        rest = tail;
        if *first == b'%' {
            let digits = std::str::from_utf8(rest.get(..2)?).ok()?;
            bytes.push(u8::from_str_radix(digits, 16).ok()?);
            rest = &rest[2..];
        } else {
            bytes.push(*first);
        }
    }
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn object(path: &str) -> [String; 6] {
        match Address::parse(path) {
            Some(Address::Object(Place { key })) => {
                [key.group, key.version, key.plural, key.namespace, key.name, key.subresource]
            }
            other => panic!("{path} is {other:?}"),
        }
    }

    #[test]
    fn paths_name_collections_objects_and_parts() {
        assert_eq!(object("/api/v1/pods"), ["", "v1", "pods", "", "", ""]);
        assert_eq!(object("/api/v1/nodes/n1"), ["", "v1", "nodes", "", "n1", ""]);
        assert_eq!(object("/api/v1/nodes/n1/status"), ["", "v1", "nodes", "", "n1", "status"]);
        assert_eq!(object("/api/v1/namespaces/a/pods/b/binding"), ["", "v1", "pods", "a", "b", "binding"]);
        assert_eq!(object("/apis/apps/v1/namespaces/a/deployments"), ["apps", "v1", "deployments", "a", "", ""]);
    }

    #[test]
    fn a_namespace_is_an_object_and_a_place() {
        assert_eq!(object("/api/v1/namespaces"), ["", "v1", "namespaces", "", "", ""]);
        assert_eq!(object("/api/v1/namespaces/a"), ["", "v1", "namespaces", "", "a", ""]);
        assert_eq!(object("/api/v1/namespaces/a/status"), ["", "v1", "namespaces", "", "a", "status"]);
        assert_eq!(object("/api/v1/namespaces/a/pods"), ["", "v1", "pods", "a", "", ""]);
    }

    #[test]
    fn escapes_are_decoded_and_broken_ones_are_nothing() {
        assert_eq!(object("/api/v1/nodes/a%2Fb")[4], "a/b");
        assert_eq!(Address::parse("/api/v1/nodes/a%zz"), None);
        assert_eq!(Address::parse("/api/v1/nodes/%ff"), None);
    }

    #[test]
    fn what_is_nowhere_is_nothing() {
        assert_eq!(Address::parse("/logs"), None);
        assert_eq!(Address::parse("/api/v1/namespaces/a/pods/b/c/d"), None);
    }
}
