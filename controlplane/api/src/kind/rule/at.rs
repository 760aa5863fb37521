//! A value together with its path: rules are written as what each field must be.

use std::collections::HashSet;

use serde_json::Value;

use super::{Causes, items, text};

/// A value of an object, and how causes name its place: `spec.ports[0].name`.
#[derive(Clone, Debug)]
pub(in crate::kind) struct At<'a> {
    pub(in crate::kind) value: &'a Value,
    pub(in crate::kind) path: String,
}

impl<'a> At<'a> {
    pub(in crate::kind) fn new(value: &'a Value, path: impl Into<String>) -> Self {
        Self { value, path: path.into() }
    }

    /// The whole object.
    pub(in crate::kind) fn root(value: &'a Value) -> Self {
        Self::new(value, "")
    }

    pub(in crate::kind) fn field(&self, name: &str) -> Self {
        let dot = if self.path.is_empty() { "" } else { "." };
        Self { value: &self.value[name], path: format!("{}{dot}{name}", self.path) }
    }

    /// An entry of a map.
    pub(in crate::kind) fn key(&self, key: &str) -> Self {
        Self { value: &self.value[key], path: format!("{}[{key}]", self.path) }
    }

    pub(in crate::kind) fn items(&self) -> Vec<Self> {
        let at = |(index, value)| Self { value, path: format!("{}[{index}]", self.path) };
        items(self.value).iter().enumerate().map(at).collect()
    }

    /// The keys of a map, and its values with the key in brackets.
    pub(in crate::kind) fn entries(&self) -> Vec<(&'a str, Self)> {
        let entries = self.value.as_object().into_iter().flatten();
        entries.map(|(key, value)| (key.as_str(), Self { value, path: format!("{}[{key}]", self.path) })).collect()
    }

    pub(in crate::kind) fn text(&self) -> &'a str {
        text(self.value)
    }

    pub(in crate::kind) fn number(&self) -> Option<i64> {
        self.value.as_i64()
    }

    /// Something is there, though it may be zero or empty.
    pub(in crate::kind) fn is_set(&self) -> bool {
        !self.value.is_null()
    }

    /// Nothing, an empty text, list or map.
    pub(in crate::kind) fn is_empty(&self) -> bool {
        match self.value {
            Value::Null => true,
            Value::String(text) => text.is_empty(),
            Value::Array(items) => items.is_empty(),
            Value::Object(fields) => fields.is_empty(),
            Value::Bool(_) | Value::Number(_) => false,
        }
    }

    /// Something has to be there, and not be empty. Says whether it is.
    pub(in crate::kind) fn required(&self, why: &str, causes: &mut Causes) -> bool {
        if self.is_empty() {
            causes.required(&self.path, why);
        }
        !self.is_empty()
    }

    pub(in crate::kind) fn invalid(&self, why: impl AsRef<str>, causes: &mut Causes) {
        causes.invalid(&self.path, self.value.clone(), why);
    }

    pub(in crate::kind) fn forbidden(&self, why: &str, causes: &mut Causes) {
        causes.forbidden(&self.path, why);
    }

    /// A text, when there is one, that `check` finds nothing wrong with.
    pub(in crate::kind) fn each(&self, check: fn(&str) -> Vec<String>, causes: &mut Causes) {
        if !self.text().is_empty() {
            causes.invalid_each(&self.path, self.text(), check(self.text()));
        }
    }

    /// A text that has to be there, and that `check` finds nothing wrong with.
    pub(in crate::kind) fn required_each(&self, check: fn(&str) -> Vec<String>, causes: &mut Causes) {
        if self.required("", causes) {
            self.each(check, causes);
        }
    }

    /// One of these texts, or nothing.
    pub(in crate::kind) fn one_of(&self, supported: &[&str], causes: &mut Causes) {
        if !self.text().is_empty() && !supported.contains(&self.text()) {
            causes.unsupported(&self.path, self.text(), supported);
        }
    }

    /// One of these texts.
    pub(in crate::kind) fn required_one_of(&self, supported: &[&str], causes: &mut Causes) {
        if self.required("", causes) {
            self.one_of(supported, causes);
        }
    }

    pub(in crate::kind) fn not_negative(&self, causes: &mut Causes) {
        self.at_least(0, causes);
    }

    pub(in crate::kind) fn at_least(&self, least: i64, causes: &mut Causes) {
        if self.number().is_some_and(|number| number < least) {
            self.invalid(format!("must be greater than or equal to {least}"), causes);
        }
    }

    pub(in crate::kind) fn positive(&self, causes: &mut Causes) {
        if self.number().is_some_and(|number| number <= 0) {
            self.invalid("must be greater than 0", causes);
        }
    }

    pub(in crate::kind) fn within(&self, least: i64, most: i64, causes: &mut Causes) {
        if self.number().is_some_and(|number| !(least..=most).contains(&number)) {
            self.invalid(format!("must be between {least} and {most}, inclusive"), causes);
        }
    }

    /// A number of a port, when there is one.
    pub(in crate::kind) fn port(&self, causes: &mut Causes) {
        self.within(1, 65535, causes);
    }

    /// Stays as it was.
    pub(in crate::kind) fn immutable(&self, old: &Value, causes: &mut Causes) {
        causes.immutable(&self.path, self.value, old);
    }

    /// The same text twice in a list, as seen so far.
    pub(in crate::kind) fn unique(&self, seen: &mut HashSet<&'a str>, causes: &mut Causes) {
        if !self.text().is_empty() && !seen.insert(self.text()) {
            causes.duplicate(&self.path, self.text());
        }
    }
}
