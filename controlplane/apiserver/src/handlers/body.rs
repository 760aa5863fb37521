//! From the bytes of a request to an object: JSON with its keys in order, duplicates noted, and of the right kind.

use std::fmt;

use diolkos_api::kind::Kind;
use diolkos_api::status::Failure;
use serde::de::{DeserializeSeed, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};

/// What to do about fields that the kind does not have, or that occur twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum FieldValidation {
    Ignore,
    Warn,
    Strict,
}

impl FieldValidation {
    pub(super) fn parse(text: &str) -> Result<Self, Failure> {
        match text {
            "" | "Warn" => Ok(Self::Warn),
            "Ignore" => Ok(Self::Ignore),
            "Strict" => Ok(Self::Strict),
            other => Err(Failure::bad_request(format!(
                "invalid fieldValidation: Unsupported value: \"{other}\": supported values: \"Ignore\", \"Strict\", \"Warn\""
            ))),
        }
    }
}

/// Most duplicate keys that are reported of one document.
const MAX_DUPLICATES: usize = 64;
/// Deepest nesting of a document; the parser has a stack.
const MAX_DEPTH: usize = 120;

/// Reads an object of `kind`: its names are those of the kind, or missing. Returns the warnings too.
pub(super) fn parse(kind: &Kind, json: &[u8], validation: FieldValidation) -> Result<(Value, Vec<String>), Failure> {
    let (object, duplicates) = parse_document(json).map_err(|cause| {
        let text = String::from_utf8_lossy(&json[..json.len().min(256)]);
        Failure::bad_request(format!(
            "the object provided is unrecognized (must be of type {}): couldn't get version/kind; json parse error: \
             {cause} ({text})",
            kind.kind
        ))
    })?;
    check_names(kind, &object)?;
    let warnings = check_fields(kind, &object, duplicates, validation)?;
    Ok((object, warnings))
}

/// 400 for unknown or duplicate fields when strict, their texts as warnings otherwise.
pub(super) fn check_fields(
    kind: &Kind,
    object: &Value,
    duplicates: Vec<String>,
    validation: FieldValidation,
) -> Result<Vec<String>, Failure> {
    let unknown = kind.read(object)?;
    if validation == FieldValidation::Ignore {
        return Ok(Vec::new());
    }
    let unknown = unknown.into_iter().map(|path| format!("unknown field \"{path}\""));
    let duplicate = duplicates.into_iter().map(|path| format!("duplicate field \"{path}\""));
    let problems: Vec<String> = duplicate.chain(unknown).collect();
    if validation == FieldValidation::Strict && !problems.is_empty() {
        return Err(Failure::bad_request(format!(
            "{kind} in version \"{version}\" cannot be handled as a {kind}: strict decoding error: {list}",
            kind = kind.kind,
            version = kind.version,
            list = problems.join(", ")
        )));
    }
    Ok(problems)
}

fn check_names(kind: &Kind, object: &Value) -> Result<(), Failure> {
    let wrong = |what: &str, given: &str, expected: &str| {
        Err(Failure::bad_request(format!(
            "the {what} in the data ({given}) does not match the expected {what} ({expected})"
        )))
    };
    if !object.is_object() {
        return Err(Failure::bad_request(format!(
            "the object provided is unrecognized (must be of type {}): it is not a JSON object",
            kind.kind
        )));
    }
    match (object["apiVersion"].as_str(), object["kind"].as_str()) {
        (Some(given), _) if !given.is_empty() && given != kind.api_version() => {
            wrong("API version", given, &kind.api_version())
        }
        (_, Some(given)) if !given.is_empty() && given != kind.kind => wrong("kind", given, &kind.kind),
        _ => Ok(()),
    }
}

/// Parses JSON; of duplicate keys the last one counts, as in Kubernetes. Returns their paths too.
pub(super) fn parse_document(json: &[u8]) -> Result<(Value, Vec<String>), serde_json::Error> {
    let mut duplicates = Vec::new();
    let mut deserializer = serde_json::Deserializer::from_slice(json);
    let mut path = String::new();
    let value = Seed { path: &mut path, duplicates: &mut duplicates, depth: 0 }.deserialize(&mut deserializer)?;
    deserializer.end()?;
    Ok((value, duplicates))
}

/// Reads a value like `serde_json` does, and notes keys that occur twice.
struct Seed<'a> {
    path: &'a mut String,
    duplicates: &'a mut Vec<String>,
    depth: usize,
}

impl<'de> DeserializeSeed<'de> for Seed<'_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Seed<'_> {
    type Value = Value;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a JSON value")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(Number::from_f64(value).map_or(Value::Null, Value::Number))
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_string<E>(self, value: String) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        if self.depth >= MAX_DEPTH {
            return Err(A::Error::custom(format!("nested deeper than {MAX_DEPTH}")));
        }
        let length = self.path.len();
        let mut list = Vec::new();
        loop {
            self.path.push_str(&format!("[{}]", list.len()));
            let seed = Seed { path: self.path, duplicates: self.duplicates, depth: self.depth + 1 };
            let item = items.next_element_seed(seed)?;
            self.path.truncate(length);
            match item {
                Some(item) => list.push(item),
                None => return Ok(Value::Array(list)),
            }
        }
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Value, A::Error> {
        if self.depth >= MAX_DEPTH {
            return Err(A::Error::custom(format!("nested deeper than {MAX_DEPTH}")));
        }
        let length = self.path.len();
        let mut map = Map::new();
        while let Some(key) = entries.next_key::<String>()? {
            if length > 0 {
                self.path.push('.');
            }
            self.path.push_str(&key);
            if map.contains_key(&key) && self.duplicates.len() < MAX_DUPLICATES {
                self.duplicates.push(self.path.clone());
            }
            let seed = Seed { path: self.path, duplicates: self.duplicates, depth: self.depth + 1 };
            let value = entries.next_value_seed(seed)?;
            map.insert(key, value);
            self.path.truncate(length);
        }
        Ok(Value::Object(map))
    }
}

/// [`drop_nulls`] of an object. Pruning does it for custom kinds, whose schema may allow nulls.
pub(super) fn drop_nulls_of(kind: &Kind, object: &mut Value) {
    if kind.custom().is_none() {
        drop_nulls(object);
    } else if let Some(metadata) = object.get_mut("metadata") {
        drop_nulls(metadata);
    }
}

/// Drops entries of maps that are null: a null is a field that is not set.
pub(super) fn drop_nulls(value: &mut Value) {
    match value {
        Value::Object(map) => {
            map.retain(|_, value| !value.is_null());
            map.values_mut().for_each(drop_nulls);
        }
        Value::Array(items) => items.iter_mut().for_each(drop_nulls),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn duplicate_keys_are_named_by_their_paths_and_the_last_one_counts() {
        let (value, duplicates) = parse_document(br#"{"a":{"b":1,"b":2},"c":[{"d":1,"d":1}],"a":{"b":3}}"#).unwrap();
        assert_eq!(duplicates, ["a.b", "c[0].d", "a"]);
        assert_eq!(value["a"]["b"], 3);
    }

    #[test]
    fn numbers_and_the_order_of_keys_survive() {
        let text = r#"{"z":9007199254740993,"a":-1,"m":18446744073709551615,"f":0.5,"s":"\u0000é"}"#;
        let (value, _) = parse_document(text.as_bytes()).unwrap();
        assert_eq!(value, serde_json::from_str::<Value>(text).unwrap());
        assert_eq!(value.as_object().unwrap().keys().collect::<Vec<_>>(), ["z", "a", "m", "f", "s"]);
    }

    #[test]
    fn a_document_that_nests_too_deeply_is_refused() {
        let text = format!("{}1{}", "[".repeat(200), "]".repeat(200));
        assert!(parse_document(text.as_bytes()).is_err());
        assert!(parse_document(b"{} x").is_err());
    }

    #[test]
    fn nulls_are_dropped_at_every_depth_but_kept_in_lists() {
        let mut value: Value = serde_json::from_str(r#"{"a":null,"b":{"c":null},"d":[null,{"e":null}]}"#).unwrap();
        drop_nulls(&mut value);
        assert_eq!(value.to_string(), r#"{"b":{},"d":[null,{}]}"#);
    }
}
