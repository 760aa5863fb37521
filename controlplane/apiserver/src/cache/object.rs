//! One version of one object: the bytes clients get, and what is needed to choose it.

use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use diolkos_api::kind::SelectableField;
use diolkos_store::{Entry, Revision};
use serde_json::Value;

use super::{ROOT, json};

/// One version of one object.
#[derive(Debug)]
pub struct Object {
    /// `/registry/{group}/{plural}/[{namespace}/]{name}`
    pub key: Arc<str>,
    /// The JSON with `metadata.resourceVersion`.
    pub bytes: Bytes,
    /// The revision in `bytes`: that of the object's last change, or of its deletion.
    pub revision: Revision,
    /// `bytes` without managed fields, made when first asked for.
    lean: OnceLock<Bytes>,
    facts: Facts,
}

/// What is known of a value.
#[derive(Clone, Debug)]
enum Facts {
    /// An object of the API; each version of it is parsed once.
    Object(Arc<Selectable>),
    /// A key of ours that is no object of the API: a claim, a tick.
    Plain,
    /// Neither: somebody else wrote this.
    Broken,
}

/// Texts in one piece: each object has them, and a map of strings takes more memory than what it holds.
#[derive(Debug)]
struct Selectable {
    /// Name and value of each label, then the value of each field.
    text: Box<str>,
    /// Where each of them ends in `text`.
    ends: Box<[u32]>,
    /// The paths of the fields.
    fields: Box<[&'static str]>,
}

impl Selectable {
    /// `None` when they are longer than any object is.
    fn new(labels: &BTreeMap<String, String>, fields: &[(&'static str, String)]) -> Option<Self> {
        let labels = labels.iter().flat_map(|(name, value)| [name.as_str(), value.as_str()]);
        let parts: Vec<&str> = labels.chain(fields.iter().map(|(_, value)| value.as_str())).collect();
        let ends = parts.iter().scan(0, |end, part| {
            *end += part.len();
            Some(u32::try_from(*end).ok())
        });
        Some(Self {
            ends: ends.collect::<Option<_>>()?,
            text: parts.concat().into(),
            fields: fields.iter().map(|(path, _)| *path).collect(),
        })
    }

    fn label(&self, name: &str) -> Option<&str> {
        let labels = (self.ends.len() - self.fields.len()) / 2;
        (0..labels).find(|label| self.part(label * 2) == name).map(|label| self.part(label * 2 + 1))
    }

    fn field(&self, path: &str) -> Option<&str> {
        let field = self.fields.iter().position(|known| *known == path)?;
        Some(self.part(self.ends.len() - self.fields.len() + field))
    }

    fn part(&self, index: usize) -> &str {
        let end = |index: usize| self.ends[index] as usize;
        &self.text[index.checked_sub(1).map_or(0, end)..end(index)]
    }
}

impl Object {
    /// Splices the revision into the value and parses what selectors ask for.
    pub(super) fn parse(entry: Entry, fields: &[SelectableField]) -> Self {
        let Entry { key, value, revision } = entry;
        let (bytes, facts) = if is_plain(&key) {
            (value, Facts::Plain)
        } else {
            match (json::with_resource_version(&value, revision), selectable(&value, fields)) {
                (Some(bytes), Some(selectable)) => (bytes, Facts::Object(Arc::new(selectable))),
                _ => (value, Facts::Broken),
            }
        };
        Self { key: key.into(), bytes, revision, lean: OnceLock::new(), facts }
    }

    /// The same object with another `resourceVersion`: how a deletion, or leaving a selection, is told.
    pub(super) fn at(&self, revision: Revision) -> Self {
        let bytes = match self.facts {
            Facts::Object(_) => {
                json::with_resource_version(&self.bytes, revision).unwrap_or_else(|| self.bytes.clone())
            }
            Facts::Plain | Facts::Broken => self.bytes.clone(),
        };
        Self { key: Arc::clone(&self.key), bytes, revision, lean: OnceLock::new(), facts: self.facts.clone() }
    }

    /// The same version with other bytes: those of another kind that it is served as.
    pub(crate) fn served_as(&self, bytes: Bytes) -> Self {
        let key = Arc::clone(&self.key);
        Self { key, bytes, revision: self.revision, lean: OnceLock::new(), facts: self.facts.clone() }
    }

    /// The JSON without `metadata.managedFields`, which all readers of this version share.
    pub fn lean(&self) -> Bytes {
        self.lean.get_or_init(|| json::without_managed_fields(&self.bytes)).clone()
    }

    /// The value of a label.
    #[must_use]
    pub fn label(&self, key: &str) -> Option<&str> {
        self.selectable()?.label(key)
    }

    /// The value of a selectable field; `metadata.name` and `metadata.namespace` ("" at the cluster scope) always are.
    /// `None` for a path that the kind does not offer.
    #[must_use]
    pub fn field(&self, path: &str) -> Option<&str> {
        match path {
            "metadata.name" => Some(self.name()),
            "metadata.namespace" => Some(self.namespace()),
            _ => self.selectable()?.field(path),
        }
    }

    #[must_use]
    pub fn name(&self) -> &str {
        self.key.rsplit_once('/').map_or(&self.key, |(_, name)| name)
    }

    /// "" at the cluster scope.
    #[must_use]
    pub fn namespace(&self) -> &str {
        let rest = self.key.get(resource_prefix(&self.key).len()..).unwrap_or("");
        rest.split_once('/').map_or("", |(namespace, _)| namespace)
    }

    /// Whether watches tell of it.
    pub(super) fn is_watchable(&self) -> bool {
        matches!(self.facts, Facts::Object(_))
    }

    pub(super) fn is_broken(&self) -> bool {
        matches!(self.facts, Facts::Broken)
    }

    fn selectable(&self) -> Option<&Selectable> {
        match &self.facts {
            Facts::Object(selectable) => Some(selectable),
            Facts::Plain | Facts::Broken => None,
        }
    }
}

/// `core/pods` of `/registry/core/pods/default/web`; `None` for keys that are no objects.
pub(super) fn resource(key: &str) -> Option<&str> {
    if is_plain(key) {
        return None;
    }
    resource_prefix(key).strip_prefix(ROOT)?.strip_suffix('/')
}

/// `/registry/core/pods/` of `/registry/core/pods/default/web`; all of a key that has fewer segments.
pub(super) fn resource_prefix(key: &str) -> &str {
    /// The slash before the name or namespace: `/registry/group/plural/`.
    const SLASHES: usize = 4;
    key.match_indices('/').nth(SLASHES - 1).map_or(key, |(at, _)| &key[..=at])
}

/// Groups that begin with `_` are ours: values there are no objects.
fn is_plain(key: &str) -> bool {
    key.strip_prefix(ROOT).is_none_or(|rest| rest.starts_with('_'))
}

fn selectable(value: &[u8], fields: &[SelectableField]) -> Option<Selectable> {
    const LABELS: &str = "metadata.labels";
    let paths: Vec<&str> = fields.iter().map(|field| field.path).chain([LABELS]).collect();
    let mut pruned = json::prune(value, &paths)?;
    let labels: BTreeMap<String, String> = match pruned.pointer_mut("/metadata/labels").map(Value::take) {
        None | Some(Value::Null) => BTreeMap::new(),
        Some(labels) => serde_json::from_value(labels).ok()?,
    };
    let fields: Vec<(&'static str, String)> = fields.iter().map(|field| (field.path, (field.value)(&pruned))).collect();
    Selectable::new(&labels, &fields)
}
