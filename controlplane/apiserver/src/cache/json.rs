//! The three things that are done to stored JSON without decoding it: a revision goes in, managed fields go out, and a
//! few fields are looked up. All are one scan over the bytes.
//!
//! The input is what this apiserver encoded: valid, and without escapes in the names of members. Anything else is
//! answered with `None` or left as it is, never with a panic.

use std::ops::Range;

use bytes::Bytes;
use diolkos_store::Revision;
use serde_json::{Map, Value};

/// The object with `metadata.resourceVersion` set, at the place it had or first in `metadata`. `None` when there is no
/// `metadata` object.
#[must_use]
pub fn with_resource_version(json: &[u8], revision: Revision) -> Option<Bytes> {
    let metadata = metadata(json)?;
    let mut first = true;
    for member in Members::of(json, metadata.start)? {
        let member = member?;
        if member.name(json) == b"resourceVersion" {
            return Some(replaced(json, member.value, &format!("\"{revision}\"")));
        }
        first = false;
    }
    let comma = if first { "" } else { "," };
    let at = metadata.start + 1;
    Some(replaced(json, at..at, &format!("\"resourceVersion\":\"{revision}\"{comma}")))
}

/// The object without `metadata.managedFields`; the same bytes when it has none.
#[must_use]
pub fn without_managed_fields(json: &Bytes) -> Bytes {
    let found = metadata(json).and_then(|metadata| {
        let mut previous_end = metadata.start + 1;
        for member in Members::of(json, metadata.start)? {
            let member = member?;
            if member.name(json) == b"managedFields" {
                let first = previous_end == metadata.start + 1;
                // With the comma before it, or as the first member with the one after it.
                let end = if first { after_comma(json, member.value.end) } else { member.value.end };
                return Some(previous_end..end);
            }
            previous_end = member.value.end;
        }
        None
    });
    found.map_or_else(|| json.clone(), |cut| replaced(json, cut, ""))
}

/// Only the members at these paths (`spec.nodeName`), in one scan. `None` when the JSON is not an object or what is at
/// a path does not parse.
#[must_use]
pub fn prune(json: &[u8], paths: &[&str]) -> Option<Value> {
    let mut object = Map::new();
    for member in Members::of(json, skip_space(json, 0))? {
        let member = member?;
        let name = std::str::from_utf8(member.name(json)).ok()?;
        let below: Vec<&str> = paths.iter().filter_map(|path| below(path, name)).collect();
        if below.is_empty() {
            continue;
        }
        let value = &json[member.value.clone()];
        let value = if below.contains(&"") {
            serde_json::from_slice(value).ok()?
        } else if value.first() == Some(&b'{') {
            prune(value, &below)?
        } else {
            Value::Null
        };
        object.insert(name.to_owned(), value);
    }
    Some(Value::Object(object))
}

/// The rest of a path after its first segment, if that is `name`.
fn below<'a>(path: &'a str, name: &str) -> Option<&'a str> {
    let rest = path.strip_prefix(name)?;
    if rest.is_empty() { Some("") } else { rest.strip_prefix('.') }
}

/// Where the value of the top-level `metadata` is, if that is an object.
fn metadata(json: &[u8]) -> Option<Range<usize>> {
    for member in Members::of(json, skip_space(json, 0))? {
        let member = member?;
        if member.name(json) == b"metadata" {
            return Some(member.value).filter(|value| json[value.start] == b'{');
        }
    }
    None
}

fn replaced(json: &[u8], cut: Range<usize>, with: &str) -> Bytes {
    let mut out = Vec::with_capacity(json.len() - cut.len() + with.len());
    out.extend_from_slice(&json[..cut.start]);
    out.extend_from_slice(with.as_bytes());
    out.extend_from_slice(&json[cut.end..]);
    out.into()
}

/// The members of one object, in order; `Some(None)` once and last when the JSON is not well formed.
struct Members<'a> {
    json: &'a [u8],
    at: usize,
    done: bool,
}

/// Where the name (without quotes) and the value of a member are.
struct Member {
    name: Range<usize>,
    value: Range<usize>,
}

impl Member {
    fn name<'a>(&self, json: &'a [u8]) -> &'a [u8] {
        &json[self.name.clone()]
    }
}

impl<'a> Members<'a> {
    /// Of the object whose `{` is at `open`.
    fn of(json: &'a [u8], open: usize) -> Option<Self> {
        (json.get(open) == Some(&b'{')).then_some(Self { json, at: open + 1, done: false })
    }

    /// The next member, or `Ok(None)` at the end of the object.
    fn advance(&mut self) -> Result<Option<Member>, Malformed> {
        let start = skip_space(self.json, self.at);
        match self.json.get(start).ok_or(Malformed)? {
            b'}' => return Ok(None),
            b'"' => {}
            _ => return Err(Malformed),
        }
        let name = start + 1..end_of_string(self.json, start)? - 1;
        let colon = skip_space(self.json, name.end + 1);
        if self.json.get(colon) != Some(&b':') {
            return Err(Malformed);
        }
        let value_start = skip_space(self.json, colon + 1);
        let value = value_start..end_of_value(self.json, value_start)?;
        self.at = after_comma(self.json, value.end);
        Ok(Some(Member { name, value }))
    }
}

impl Iterator for Members<'_> {
    type Item = Option<Member>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.done {
            return None;
        }
        match self.advance() {
            Ok(Some(member)) => Some(Some(member)),
            Ok(None) => {
                self.done = true;
                None
            }
            Err(Malformed) => {
                self.done = true;
                Some(None)
            }
        }
    }
}

struct Malformed;

fn skip_space(json: &[u8], mut at: usize) -> usize {
    while matches!(json.get(at), Some(b' ' | b'\n' | b'\r' | b'\t')) {
        at += 1;
    }
    at
}

/// After the comma that follows, if one does.
fn after_comma(json: &[u8], at: usize) -> usize {
    let next = skip_space(json, at);
    if json.get(next) == Some(&b',') { next + 1 } else { next }
}

/// The index after the closing quote of the string that begins at `at`.
fn end_of_string(json: &[u8], at: usize) -> Result<usize, Malformed> {
    let mut next = at + 1;
    loop {
        match json.get(next).ok_or(Malformed)? {
            b'"' => return Ok(next + 1),
            b'\\' => next += 2,
            _ => next += 1,
        }
    }
}

fn end_of_value(json: &[u8], at: usize) -> Result<usize, Malformed> {
    match json.get(at).ok_or(Malformed)? {
        b'"' => end_of_string(json, at),
        b'{' | b'[' => end_of_nested(json, at),
        _ => {
            let rest = &json[at..];
            let length = rest.iter().position(|byte| matches!(byte, b',' | b'}' | b']' | b' ' | b'\n' | b'\r' | b'\t'));
            length.filter(|length| *length > 0).map(|length| at + length).ok_or(Malformed)
        }
    }
}

fn end_of_nested(json: &[u8], at: usize) -> Result<usize, Malformed> {
    let (mut depth, mut next) = (0_usize, at);
    loop {
        match json.get(next).ok_or(Malformed)? {
            b'"' => {
                next = end_of_string(json, next)?;
                continue;
            }
            b'{' | b'[' => depth += 1,
            b'}' | b']' => depth -= 1,
            _ => {}
        }
        next += 1;
        if depth == 0 {
            return Ok(next);
        }
    }
}
