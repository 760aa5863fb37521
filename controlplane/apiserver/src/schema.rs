//! What merging must know of the types: how a field's list or map merges, in strategic merge patches and in server-side
//! apply, and the type of what is in it.

use std::collections::HashMap;
use std::sync::{Arc, LazyLock};

use diolkos_api::kind::Kind;
use diolkos_api::kind::custom::Custom;
use serde_json::Value;

/// How a list of a strategic merge patch meets the list of the object.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum ListMerge {
    /// The patch's list takes the place of the object's.
    #[default]
    Replace,
    /// Objects with the same value of this key are one.
    ByKey(&'static str),
    /// A set of plain values.
    Set,
}

/// How a list or map is owned and merged by server-side apply.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Owned {
    /// Maps field by field, lists as a whole.
    #[default]
    Plain,
    Atomic,
    Set,
    /// A list of objects, by the values of these fields: "port,protocol".
    ByKeys(&'static str),
}

/// What is known of one field.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Field {
    pub list: ListMerge,
    /// The type of its value, or of the elements of its list or map; "" for one without merging lists.
    pub content: &'static str,
    owned: Owned,
}

/// Published facts of the API, one line a field: type, field, list type, list map keys, strategic merge key, strategy,
/// map type. The field "(whole)" stands for the type.
const LIST_KEYS: &str = include_str!("schema/list-keys.tsv");

/// Fields on the way to what LIST_KEYS tells of: type, field, type of its value or of its list's elements.
const TYPES: &str = include_str!("schema/types.tsv");

/// Fields that objects of Kubernetes' own types always have, empty or not: who first writes into one does not own it.
const ALWAYS: &[&str] = &[
    "metadata",
    "spec",
    "status",
    "template",
    "strategy",
    "updateStrategy",
    "jobTemplate",
    "loadBalancer",
    "nodeInfo",
    "daemonEndpoints",
    "kubeletEndpoint",
    "containers",
];

/// The key field that objects may leave out, and what it is then.
const KEY_DEFAULTS: (&str, &str) = ("protocol", "TCP");

static FIELDS: LazyLock<HashMap<(&'static str, &'static str), Field>> = LazyLock::new(|| {
    let mut fields: HashMap<(&str, &str), Field> = HashMap::new();
    for columns in rows(TYPES) {
        let [kind, field, content] = columns[..] else { continue };
        fields.entry((kind, field)).or_default().content = content;
    }
    for columns in rows(LIST_KEYS) {
        let [kind, field, list, keys, key, strategy, map] = columns[..] else { continue };
        let row = fields.entry((kind, field)).or_default();
        row.list = match (key, strategy.split(',').any(|word| word == "merge")) {
            ("", true) => ListMerge::Set,
            (key, true) => ListMerge::ByKey(key),
            _ => ListMerge::Replace,
        };
        row.owned = match (list, map) {
            ("map", _) => Owned::ByKeys(keys),
            ("set", _) => Owned::Set,
            ("atomic", _) | (_, "atomic") => Owned::Atomic,
            _ => Owned::Plain,
        };
    }
    fields
});

fn rows(table: &'static str) -> impl Iterator<Item = Vec<&'static str>> {
    table.lines().filter(|line| !line.starts_with('#')).map(|line| line.split('\t').collect())
}

/// The name of a kind's type in the tables: the first label of its group, or "core".
pub(crate) fn root(group: &str, version: &str, kind: &str) -> String {
    let group = if group.is_empty() { "core" } else { group.split('.').next().unwrap_or(group) };
    format!("{group}.{version}.{kind}")
}

/// The field of a type, as strategic merge patches see it.
pub(crate) fn field(kind: &str, field: &str) -> Field {
    match FIELDS.get(&(kind, field)) {
        Some(found) => *found,
        None if field == "metadata" => Field { content: "meta.v1.ObjectMeta", ..Field::default() },
        None => Field::default(),
    }
}

/// The whole of a kind's objects.
pub(crate) enum Root {
    /// The name of its type in the tables.
    Known(String),
    Custom(Arc<Custom>),
}

impl Root {
    pub(crate) fn of(kind: &Kind) -> Root {
        if let Some(custom) = kind.custom() {
            return Root::Custom(custom.clone());
        }
        Root::Known(root(&kind.group, &kind.version, &kind.kind))
    }

    pub(crate) fn shape(&self) -> Shape<'_> {
        match self {
            Root::Known(name) => Shape::Known(name, Field::default()),
            Root::Custom(custom) => Shape::Custom { schema: custom.schema(), embedded: true },
        }
    }
}

/// A place in an object, as server-side apply sees it.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Shape<'a> {
    /// A value of a type of the tables.
    Known(&'a str, Field),
    /// A value under a structural schema. `embedded`: an object with metadata of its own.
    Custom { schema: &'a Value, embedded: bool },
}

/// How the elements of a list are told apart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Elements<'a> {
    /// Not at all: the list is one value.
    One,
    ByValue,
    ByKeys(Vec<&'a str>),
}

impl<'a> Shape<'a> {
    pub(crate) fn field(self, name: &str) -> Shape<'a> {
        match self {
            Shape::Known(kind, _) => {
                let found = field(kind, name);
                Shape::Known(found.content, found)
            }
            Shape::Custom { embedded: true, .. } if name == "metadata" => {
                Shape::Known("meta.v1.ObjectMeta", Field::default())
            }
            Shape::Custom { schema, .. } => {
                let declared = schema["properties"].get(name);
                Self::custom(declared.unwrap_or(&schema["additionalProperties"]))
            }
        }
    }

    pub(crate) fn element(self) -> Shape<'a> {
        match self {
            Shape::Known(content, _) => Shape::Known(content, Field::default()),
            Shape::Custom { schema, .. } => Self::custom(&schema["items"]),
        }
    }

    fn custom(schema: &'a Value) -> Shape<'a> {
        Shape::Custom { schema, embedded: schema["x-kubernetes-embedded-resource"] == true }
    }

    /// A map that is one value, whatever is in it.
    pub(crate) fn is_atomic_map(self) -> bool {
        match self {
            Shape::Known(kind, own) => own.owned == Owned::Atomic || field(kind, "(whole)").owned == Owned::Atomic,
            Shape::Custom { schema, .. } => schema["x-kubernetes-map-type"] == "atomic",
        }
    }

    pub(crate) fn elements(self) -> Elements<'a> {
        match self {
            Shape::Known(_, Field { owned: Owned::ByKeys(keys), .. }) => Elements::ByKeys(keys.split(',').collect()),
            Shape::Known(_, Field { owned: Owned::Set, .. }) => Elements::ByValue,
            Shape::Known(..) => Elements::One,
            Shape::Custom { schema, .. } => match schema["x-kubernetes-list-type"].as_str() {
                Some("set") => Elements::ByValue,
                Some("map") => {
                    let keys = schema["x-kubernetes-list-map-keys"].as_array().into_iter().flatten();
                    Elements::ByKeys(keys.filter_map(Value::as_str).collect())
                }
                _ => Elements::One,
            },
        }
    }

    /// What a key of a list's elements is where an element leaves it out.
    pub(crate) fn key_default(self, key: &str) -> Option<Value> {
        match self {
            Shape::Known(..) if key == KEY_DEFAULTS.0 => Some(KEY_DEFAULTS.1.into()),
            Shape::Known(..) => None,
            Shape::Custom { schema, .. } => schema["items"]["properties"][key].get("default").cloned(),
        }
    }

    /// A field of this that is there even when nobody wrote it.
    pub(crate) fn always_has(self, name: &str) -> bool {
        matches!(self, Shape::Known(..)) && ALWAYS.contains(&name)
    }
}
