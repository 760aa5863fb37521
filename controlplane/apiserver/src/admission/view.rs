//! What the plugins know of the cluster.

use serde_json::Value;

use crate::stack::Attributes;

/// The cluster as the watch cache has it, and what whoever writes may do.
pub(crate) struct View<'a> {
    list: &'a dyn Fn(&str) -> Vec<Value>,
    may: &'a dyn Fn(&Attributes) -> bool,
}

impl<'a> View<'a> {
    /// `list`: the objects under a prefix of storage keys that ends with `/`, or the one at exactly this key.
    pub(crate) fn new(list: &'a dyn Fn(&str) -> Vec<Value>, may: &'a dyn Fn(&Attributes) -> bool) -> Self {
        View { list, may }
    }

    /// The object at a storage key.
    pub(super) fn get(&self, key: &str) -> Option<Value> {
        self.list(key).pop()
    }

    /// The objects under a prefix; one that cannot be read counts for nothing.
    pub(super) fn list(&self, prefix: &str) -> Vec<Value> {
        (self.list)(prefix)
    }

    /// Whether the writer may do this, too.
    pub(super) fn may(&self, asked: &Attributes) -> bool {
        (self.may)(asked)
    }
}

/// The name of the class that was made last of those marked as usual; of several of one second the first by name.
pub(super) fn newest(classes: Vec<Value>, is_usual: impl Fn(&Value) -> bool) -> Option<String> {
    let text = |class: &Value, field: &str| class["metadata"][field].as_str().unwrap_or_default().to_owned();
    let usual = classes.into_iter().filter(is_usual);
    let last = usual.max_by(|one, other| {
        let age = text(one, "creationTimestamp").cmp(&text(other, "creationTimestamp"));
        age.then_with(|| text(other, "name").cmp(&text(one, "name")))
    });
    last.map(|class| text(&class, "name"))
}
