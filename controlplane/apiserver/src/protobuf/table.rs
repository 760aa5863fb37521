//! Which field has which number and holds what.

use std::collections::HashMap;
use std::sync::LazyLock;

const FIELDS: &str = include_str!("fields.tsv");

/// What a field holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Content {
    Text,
    Number,
    Truth,
    Bytes,
    Time,
    Quantity,
    IntOrString,
    /// JSON, as the bytes of field 1.
    Json,
    /// A type of the table.
    Type(&'static str),
}

/// How often.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Shape {
    /// Always: the zero of its type is written, and says as much as nothing.
    One,
    /// Once or not at all: what is written was set.
    Optional,
    List,
    Map,
    /// A map of lists.
    MapOfLists,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Field {
    /// "" for a type whose fields are those of the type that holds it.
    pub name: &'static str,
    pub shape: Shape,
    pub content: Content,
}

pub(super) type Type = HashMap<u32, Field>;

static TYPES: LazyLock<HashMap<&'static str, Type>> = LazyLock::new(|| {
    let mut types: HashMap<&'static str, Type> = HashMap::new();
    for line in FIELDS.lines().filter(|line| !line.starts_with('#')) {
        let columns: Vec<&'static str> = line.split('\t').collect();
        if let [name, number, field, holds] = columns[..]
            && let Ok(number) = number.parse()
        {
            types.entry(name).or_default().insert(number, self::field(field, holds));
        }
    }
    types
});

/// A type by its name, `core.v1.Pod`.
pub(super) fn find(name: &str) -> Option<&'static Type> {
    TYPES.get(name)
}

fn field(name: &'static str, holds: &'static str) -> Field {
    let shapes = [("map[]", Shape::MapOfLists), ("map", Shape::Map), ("[]", Shape::List), ("*", Shape::Optional)];
    let (shape, content) = shapes
        .into_iter()
        .find_map(|(sign, shape)| holds.strip_prefix(sign).map(|content| (shape, content)))
        .unwrap_or((Shape::One, holds));
    let content = match content {
        "s" => Content::Text,
        "i" => Content::Number,
        "b" => Content::Truth,
        "B" => Content::Bytes,
        "time" => Content::Time,
        "quantity" => Content::Quantity,
        "intstr" => Content::IntOrString,
        "raw" | "fields" => Content::Json,
        name => Content::Type(name),
    };
    Field { name, shape, content }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn every_type_that_a_field_names_is_there() {
        assert!(TYPES.len() > 300, "{}", TYPES.len());
        for (name, fields) in TYPES.iter() {
            for field in fields.values() {
                if let Content::Type(other) = field.content {
                    assert!(find(other).is_some(), "{name}.{}: {other}", field.name);
                }
            }
        }
        assert_eq!(find("apps.v1.DeploymentSpec").unwrap()[&1].shape, Shape::Optional);
        assert_eq!(find("core.v1.Secret").unwrap()[&2].content, Content::Bytes);
    }

    #[test]
    fn every_kind_that_is_served_can_be_read() {
        for kind in diolkos_api::kind::Registry::builtin().all() {
            if kind.group == crate::definitions::GROUP {
                // Clients send definitions as JSON: Kubernetes' table has no types of that group.
                continue;
            }
            let name = super::super::type_name(&kind.api_version(), &kind.kind);
            assert!(find(&name).is_some(), "{name}");
        }
    }
}
