//! Columns of custom objects: the JSONPaths that definitions may use, and cells.

use k8s_openapi::jiff::Timestamp;
use serde_json::{Map, Value, json};

use crate::kind::cell::since;
use crate::kind::rule::text;

/// One column of `kubectl get`.
#[derive(Debug)]
pub(super) struct Column {
    header: Value,
    kind: String,
    path: Path,
}

/// The name, what the definition asks for, or else the age.
pub(super) fn columns(additional: &[Value]) -> Vec<Column> {
    let column = |name: &str, kind: &str, format: &str, description: &str, priority: i64, path: &str| {
        let header =
            json!({"name": name, "type": kind, "format": format, "description": description, "priority": priority});
        Some(Column { header, kind: kind.into(), path: Path::parse(path)? })
    };
    let name = column(
        "Name",
        "string",
        "name",
        "The name, unique among the objects of this kind in a namespace.",
        0,
        ".metadata.name",
    );
    let age = || column("Age", "date", "", "The time since the creation.", 0, ".metadata.creationTimestamp");
    let own = additional.iter().map(|own| {
        let part = |field: &str| text(&own[field]);
        let priority = own["priority"].as_i64().unwrap_or(0);
        column(part("name"), part("type"), part("format"), part("description"), priority, part("jsonPath"))
    });
    if additional.is_empty() {
        [name, age()].into_iter().flatten().collect()
    } else {
        std::iter::once(name).chain(own).flatten().collect()
    }
}

impl Column {
    pub(super) fn header(&self) -> Value {
        self.header.clone()
    }

    pub(super) fn cell(&self, object: &Value, now: Timestamp) -> Value {
        let found = self.path.find(object);
        let Some(first) = found.first() else { return Value::Null };
        match (self.kind.as_str(), first) {
            ("date", Value::String(_)) => since(first, now).into(),
            ("integer" | "number" | "boolean", Value::Number(_) | Value::Bool(_)) => (*first).clone(),
            ("string", _) => {
                let shown = |value: &&Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
                found.iter().map(shown).collect::<Vec<_>>().join(",").into()
            }
            _ => Value::Null,
        }
    }
}

/// A simple JSONPath: `.spec.list[0].name`, `.map['a.b']`, `.conditions[?(@.type=="Ready")].status`, `[*]`.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Path(Vec<Step>);

#[derive(Debug, PartialEq, Eq)]
enum Step {
    Field(String),
    Index(usize),
    Every,
    /// Elements in which a path leads to a text.
    Where(Vec<String>, String),
}

impl Path {
    /// `None` for what is none, or uses more than these forms.
    pub(super) fn parse(path: &str) -> Option<Path> {
        let mut steps = Vec::new();
        let mut rest = path.strip_prefix('$').unwrap_or(path);
        while !rest.is_empty() {
            if let Some(after) = rest.strip_prefix('[') {
                let end = if after.starts_with('?') { after.find(")]")? + 1 } else { after.find(']')? };
                steps.push(bracket(&after[..end])?);
                rest = &after[end + 1..];
            } else {
                let (field, after) = field(rest.strip_prefix('.')?);
                if field.is_empty() {
                    return None;
                }
                steps.push(Step::Field(field));
                rest = after;
            }
        }
        (!steps.is_empty()).then_some(Path(steps))
    }

    pub(super) fn find<'a>(&self, object: &'a Value) -> Vec<&'a Value> {
        let mut found = vec![object];
        for step in &self.0 {
            found = found.into_iter().flat_map(|value| step.follow(value)).collect();
        }
        found
    }

    /// Sets a place that is reached by fields alone, and makes the objects on the way.
    pub(super) fn set(&self, object: &mut Value, value: Value) {
        let mut place = object;
        for step in &self.0 {
            let Step::Field(name) = step else { return };
            if !place.is_object() {
                *place = Value::Object(Map::new());
            }
            place = &mut place[name.as_str()];
        }
        *place = value;
    }

    /// Begins with this field and goes on by fields alone.
    pub(super) fn is_below(&self, first: &str) -> bool {
        self.0.len() > 1
            && self.0[0] == Step::Field(first.into())
            && self.0.iter().all(|step| matches!(step, Step::Field(_)))
    }
}

impl Step {
    fn follow<'a>(&self, value: &'a Value) -> Vec<&'a Value> {
        let elements = || value.as_array().into_iter().flatten();
        match self {
            Step::Field(name) => value.get(name.as_str()).filter(|value| !value.is_null()).into_iter().collect(),
            Step::Index(index) => value.get(*index).into_iter().collect(),
            Step::Every => elements().collect(),
            Step::Where(path, wanted) => {
                let reach = |element: &'a Value| path.iter().try_fold(element, |value, name| value.get(name.as_str()));
                elements().filter(|element| reach(element).is_some_and(|value| value == wanted.as_str())).collect()
            }
        }
    }
}

/// A name up to the next step; a backslash keeps what follows in it.
fn field(text: &str) -> (String, &str) {
    let mut name = String::new();
    let mut letters = text.char_indices();
    while let Some((at, letter)) = letters.next() {
        match letter {
            '.' | '[' => return (name, &text[at..]),
            '\\' => name.extend(letters.next().map(|(_, letter)| letter)),
            letter => name.push(letter),
        }
    }
    (name, "")
}

fn bracket(inside: &str) -> Option<Step> {
    if inside == "*" {
        return Some(Step::Every);
    }
    if let Some(condition) = inside.strip_prefix("?(").and_then(|rest| rest.strip_suffix(')')) {
        let (path, wanted) = condition.split_once("==")?;
        let path = path.trim().strip_prefix("@.")?.split('.').map(str::to_owned).collect();
        return Some(Step::Where(path, quoted(wanted.trim())?.to_owned()));
    }
    match quoted(inside) {
        Some(name) => Some(Step::Field(name.to_owned())),
        None => inside.parse().ok().map(Step::Index),
    }
}

fn quoted(text: &str) -> Option<&str> {
    ['"', '\''].iter().find_map(|quote| text.strip_prefix(*quote)?.strip_suffix(*quote))
}
