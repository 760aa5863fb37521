//! A set of fields, as `fieldsV1` writes it: a tree whose edges are path elements, "f:NAME" for a field, "k:{..}" for an
//! element of a list by its keys, "v:.." by its value.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

/// Levels that a set of a client may have: more than any object has.
const MAX_DEPTH: usize = 128;

/// Fields, and whether this place itself is one of them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Set {
    pub member: bool,
    pub children: BTreeMap<String, Set>,
}

impl Set {
    pub(super) fn is_empty(&self) -> bool {
        !self.member && self.children.is_empty()
    }

    /// Puts what is known of an element below this place, unless that is nothing.
    pub(super) fn put(&mut self, element: String, below: Set) {
        if !below.is_empty() {
            self.children.insert(element, below);
        }
    }

    pub(super) fn add(&mut self, other: &Set) {
        self.member |= other.member;
        for (element, theirs) in &other.children {
            self.children.entry(element.clone()).or_default().add(theirs);
        }
    }

    pub(super) fn subtract(&mut self, other: &Set) {
        self.member &= !other.member;
        for (element, theirs) in &other.children {
            if let Some(own) = self.children.get_mut(element) {
                own.subtract(theirs);
                if own.is_empty() {
                    self.children.remove(element);
                }
            }
        }
    }

    pub(super) fn intersection(&self, other: &Set) -> Set {
        let mut both = Set { member: self.member && other.member, children: BTreeMap::new() };
        for (element, theirs) in &other.children {
            if let Some(own) = self.children.get(element) {
                both.put(element.clone(), own.intersection(theirs));
            }
        }
        both
    }

    /// Takes away a whole branch.
    pub(super) fn forget(&mut self, path: &[&str]) {
        match path {
            [] => {}
            [last] => drop(self.children.remove(*last)),
            [first, rest @ ..] => {
                if let Some(child) = self.children.get_mut(*first) {
                    child.forget(rest);
                    if child.is_empty() {
                        self.children.remove(*first);
                    }
                }
            }
        }
    }

    /// The paths of the members, as messages have them: `.spec.ports[port=80,protocol="TCP"].name`.
    pub(super) fn paths(&self) -> Vec<String> {
        let mut paths = Vec::new();
        self.collect(&mut String::new(), &mut paths);
        paths
    }

    /// One element as messages have it.
    pub(super) fn name(element: &str) -> String {
        readable(element)
    }

    fn collect(&self, path: &mut String, paths: &mut Vec<String>) {
        if self.member {
            paths.push(path.clone());
        }
        for (element, child) in &self.children {
            let length = path.len();
            path.push_str(&readable(element));
            child.collect(path, paths);
            path.truncate(length);
        }
    }

    /// As `fieldsV1` has it.
    pub(super) fn to_json(&self) -> Value {
        let mut fields = Map::new();
        if self.member && !self.children.is_empty() {
            fields.insert(".".into(), Value::Object(Map::new()));
        }
        for (element, child) in &self.children {
            fields.insert(element.clone(), child.to_json());
        }
        Value::Object(fields)
    }

    /// Reads `fieldsV1`, or says why it is none.
    pub(super) fn from_json(fields: &Value) -> Result<Set, String> {
        Self::read(fields, 0).map(|mut set| {
            // The object itself is not a field of it.
            set.member = false;
            set
        })
    }

    fn read(fields: &Value, depth: usize) -> Result<Set, String> {
        let Value::Object(fields) = fields else { return Err(format!("{fields} is no set of fields")) };
        if depth > MAX_DEPTH {
            return Err(format!("the fields nest more than {MAX_DEPTH} levels deep"));
        }
        let mut set = Set { member: fields.is_empty(), children: BTreeMap::new() };
        for (element, below) in fields {
            if element == "." {
                set.member = true;
            } else {
                set.children.insert(canonical(element)?, Self::read(below, depth + 1)?);
            }
        }
        Ok(set)
    }

    /// Whether `fieldsV1` and this set have a member in common: tells without reading all of it.
    pub(super) fn meets(&self, fields: &Value) -> bool {
        let Value::Object(theirs) = fields else { return false };
        if self.member && (theirs.is_empty() || theirs.contains_key(".")) {
            return true;
        }
        self.children.iter().any(|(element, own)| theirs.get(element).is_some_and(|theirs| own.meets(theirs)))
    }
}

pub(super) fn field(name: &str) -> String {
    format!("f:{name}")
}

pub(super) fn by_value(value: &Value) -> String {
    format!("v:{value}")
}

/// An element by its keys, which are put in their order.
pub(super) fn by_keys(mut keys: Vec<(&str, Value)>) -> String {
    keys.sort_by(|a, b| a.0.cmp(b.0));
    let keys: Map<String, Value> = keys.into_iter().map(|(key, value)| (key.to_owned(), value)).collect();
    format!("k:{}", Value::Object(keys))
}

/// A path element as this server writes it, so that equal ones are equal texts.
fn canonical(element: &str) -> Result<String, String> {
    let wrong = || format!("{element:?} is no element of a path");
    match element.split_at_checked(2).ok_or_else(wrong)? {
        ("f:", _) => Ok(element.to_owned()),
        ("i:", index) => index.parse::<u32>().map(|index| format!("i:{index}")).map_err(|_| wrong()),
        ("v:", value) => serde_json::from_str(value).map(|value: Value| by_value(&value)).map_err(|_| wrong()),
        ("k:", keys) => match serde_json::from_str(keys).map_err(|_| wrong())? {
            Value::Object(keys) => Ok(by_keys(keys.iter().map(|(key, value)| (key.as_str(), value.clone())).collect())),
            _ => Err(wrong()),
        },
        _ => Err(wrong()),
    }
}

fn readable(element: &str) -> String {
    let (kind, rest) = element.split_at(element.len().min(2));
    match kind {
        "f:" => format!(".{rest}"),
        "v:" => format!("[={rest}]"),
        "k:" => {
            let keys: Map<String, Value> = serde_json::from_str(rest).unwrap_or_default();
            let keys: Vec<String> = keys.iter().map(|(key, value)| format!("{key}={value}")).collect();
            format!("[{}]", keys.join(","))
        }
        _ => format!("[{rest}]"),
    }
}
