//! Bodies in Kubernetes' protobuf, as kubectl sends some since 1.32: read into the JSON that they would be.
//!
//! A body is `k8s\0` and a `runtime.Unknown`, which says what the bytes in it are. Go writes the zeros of fields that
//! are always there, which JSON leaves out; what is behind a pointer is written when it was set.

mod table;
mod wire;

#[cfg(test)]
mod tests;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use diolkos_api::status::Failure;
use k8s_openapi::jiff::Timestamp;
use serde_json::{Map, Value};

use table::{Content, Field, Shape};
use wire::{Fields, Malformed, Scalar, packed};

/// How such a body begins.
const MAGIC: &[u8] = b"k8s\0";
/// Messages in messages; the deepest of the API have a third of it.
const MAX_DEPTH: usize = 60;

/// The JSON of a body; 400 for what cannot be read.
pub(crate) fn to_json(body: &[u8]) -> Result<Bytes, Failure> {
    let Some(unknown) = body.strip_prefix(MAGIC) else {
        return Err(Failure::bad_request(
            "provided data does not appear to be a protobuf message, expected prefix [107 56 115 0]",
        ));
    };
    let wrong = |why: Malformed| Failure::bad_request(format!("cannot read the protobuf of the body: {why}"));
    let unknown = Unknown::read(unknown).map_err(wrong)?;
    let name = type_name(&unknown.api_version, &unknown.kind);
    if table::find(&name).is_none() {
        return Err(Failure::bad_request(format!(
            "no kind \"{}\" is registered for version \"{}\" in protobuf",
            unknown.kind, unknown.api_version
        )));
    }
    let mut object = Map::new();
    object.insert("kind".into(), unknown.kind.into());
    object.insert("apiVersion".into(), unknown.api_version.into());
    read_into(&mut object, &name, unknown.raw, 0).map_err(wrong)?;
    Ok(Bytes::from(Value::Object(object).to_string()))
}

/// `core.v1.Pod` of ("v1", "Pod"). Options of deletions are one type in every group.
fn type_name(api_version: &str, kind: &str) -> String {
    if kind == "DeleteOptions" {
        return "meta.v1.DeleteOptions".into();
    }
    let (group, version) = api_version.split_once('/').unwrap_or(("core", api_version));
    format!("{}.{version}.{kind}", group.split('.').next().unwrap_or(group))
}

/// What wraps every object.
#[derive(Default)]
struct Unknown<'a> {
    api_version: String,
    kind: String,
    raw: &'a [u8],
}

impl<'a> Unknown<'a> {
    fn read(message: &'a [u8]) -> Result<Self, Malformed> {
        let mut unknown = Self::default();
        for field in Fields::of(message) {
            match field? {
                (1, Scalar::Bytes(type_meta)) => {
                    for field in Fields::of(type_meta) {
                        match field? {
                            (1, Scalar::Bytes(text)) => unknown.api_version = self::text(text)?,
                            (2, Scalar::Bytes(text)) => unknown.kind = self::text(text)?,
                            _ => {}
                        }
                    }
                }
                (2, Scalar::Bytes(raw)) => unknown.raw = raw,
                (3, Scalar::Bytes(encoding)) if !encoding.is_empty() => {
                    return Err(Malformed("it is encoded once more, which is not supported".into()));
                }
                _ => {}
            }
        }
        Ok(unknown)
    }
}

/// Reads the fields of a message of a type into an object. Unknown ones are passed over, as Kubernetes does.
fn read_into(object: &mut Map<String, Value>, name: &str, message: &[u8], depth: usize) -> Result<(), Malformed> {
    if depth > MAX_DEPTH {
        return Err(Malformed(format!("messages are nested deeper than {MAX_DEPTH}")));
    }
    let fields = table::find(name);
    for field in Fields::of(message) {
        let (number, value) = field?;
        let Some(field) = fields.and_then(|fields| fields.get(&number)) else { continue };
        read_field(object, field, value, depth).map_err(|Malformed(why)| {
            if field.name.is_empty() { Malformed(why) } else { Malformed(format!("{}: {why}", field.name)) }
        })?;
    }
    Ok(())
}

fn read_field(
    object: &mut Map<String, Value>,
    field: &Field,
    value: Scalar<'_>,
    depth: usize,
) -> Result<(), Malformed> {
    if let (Content::Type(name), "") = (field.content, field.name) {
        return read_into(object, name, bytes(value)?, depth + 1);
    }
    match field.shape {
        Shape::One => {
            let value = one(object.get(field.name), field.content, value, depth)?;
            if is_zero(&value) {
                object.shift_remove(field.name);
            } else {
                object.insert(field.name.into(), value);
            }
        }
        Shape::Optional => {
            let value = one(object.get(field.name), field.content, value, depth)?;
            object.insert(field.name.into(), value);
        }
        Shape::List => {
            let list = object.entry(field.name).or_insert_with(|| Value::Array(Vec::new()));
            let Value::Array(list) = list else { return Ok(()) };
            match (field.content, value) {
                (Content::Number, Scalar::Bytes(bytes)) => {
                    list.extend(packed(bytes)?.into_iter().map(|number| Value::from(number.cast_signed())));
                }
                (content, value) => list.push(one(None, content, value, depth)?),
            }
        }
        Shape::Map | Shape::MapOfLists => {
            let map = object.entry(field.name).or_insert_with(|| Value::Object(Map::new()));
            let Value::Object(map) = map else { return Ok(()) };
            let (key, value) = entry(field, bytes(value)?, depth)?;
            map.insert(key, value);
        }
    }
    Ok(())
}

/// An entry of a map. What is not written is the zero of its type.
fn entry(field: &Field, message: &[u8], depth: usize) -> Result<(String, Value), Malformed> {
    let (mut key, mut value) = (String::new(), None);
    for part in Fields::of(message) {
        match part? {
            (1, Scalar::Bytes(bytes)) => key = text(bytes)?,
            (2, part) if field.shape == Shape::MapOfLists => {
                let mut items = Vec::new();
                for item in Fields::of(bytes(part)?) {
                    if let (1, item) = item? {
                        items.push(one(None, field.content, item, depth)?);
                    }
                }
                value = Some(Value::Array(items));
            }
            (2, part) => value = Some(one(None, field.content, part, depth)?),
            _ => {}
        }
    }
    let zero = || match (field.shape, field.content) {
        (Shape::MapOfLists, _) => Value::Array(Vec::new()),
        (_, Content::Text | Content::Bytes) => "".into(),
        _ => Value::Null,
    };
    Ok((key, value.unwrap_or_else(zero)))
}

/// One value. A message that comes in parts is one: `before` is what was read of it.
fn one(before: Option<&Value>, content: Content, value: Scalar<'_>, depth: usize) -> Result<Value, Malformed> {
    Ok(match (content, value) {
        (Content::Number, Scalar::Number(number)) => number.cast_signed().into(),
        (Content::Truth, Scalar::Number(number)) => (number != 0).into(),
        (Content::Text, value) => text(bytes(value)?)?.into(),
        (Content::Bytes, value) => STANDARD.encode(bytes(value)?).into(),
        (Content::Time, value) => time(bytes(value)?)?,
        (Content::Quantity, value) => first_text(bytes(value)?)?,
        (Content::IntOrString, value) => int_or_string(bytes(value)?)?,
        (Content::Json, value) => json(bytes(value)?)?,
        (Content::Type(name), value) => {
            let mut object = before.and_then(Value::as_object).cloned().unwrap_or_default();
            read_into(&mut object, name, bytes(value)?, depth + 1)?;
            Value::Object(object)
        }
        (Content::Number | Content::Truth, _) => return Err(Malformed("it is no number".into())),
    })
}

/// What Go leaves out of JSON when the field is not behind a pointer.
fn is_zero(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Bool(truth) => !truth,
        Value::Number(number) => number.as_i64() == Some(0),
        Value::String(text) => text.is_empty(),
        Value::Array(_) => false,
        Value::Object(fields) => fields.is_empty(),
    }
}

fn bytes(value: Scalar<'_>) -> Result<&[u8], Malformed> {
    match value {
        Scalar::Bytes(bytes) => Ok(bytes),
        Scalar::Number(_) | Scalar::Fixed => Err(Malformed("it is a number where bytes belong".into())),
    }
}

fn text(bytes: &[u8]) -> Result<String, Malformed> {
    String::from_utf8(bytes.to_vec()).map_err(|_| Malformed("a text is not UTF-8".into()))
}

/// Field 1, a text.
fn first_text(message: &[u8]) -> Result<Value, Malformed> {
    let mut found = Value::Null;
    for field in Fields::of(message) {
        if let (1, Scalar::Bytes(bytes)) = field? {
            found = text(bytes)?.into();
        }
    }
    Ok(found)
}

/// Seconds and nanoseconds since 1970; none at all is no time.
fn time(message: &[u8]) -> Result<Value, Malformed> {
    if message.is_empty() {
        return Ok(Value::Null);
    }
    let (mut seconds, mut nanoseconds) = (0, 0);
    for field in Fields::of(message) {
        match field? {
            (1, Scalar::Number(number)) => seconds = number.cast_signed(),
            (2, Scalar::Number(number)) => nanoseconds = number.cast_signed(),
            _ => {}
        }
    }
    let nanoseconds = i32::try_from(nanoseconds).map_err(|_| Malformed("a time has too many nanoseconds".into()))?;
    let time = Timestamp::new(seconds, nanoseconds).map_err(|why| Malformed(format!("a time is none: {why}")))?;
    // A time in microseconds has all its six digits.
    let format = if time.subsec_nanosecond() == 0 { "%Y-%m-%dT%H:%M:%SZ" } else { "%Y-%m-%dT%H:%M:%S.%6fZ" };
    Ok(time.strftime(format).to_string().into())
}

fn int_or_string(message: &[u8]) -> Result<Value, Malformed> {
    let (mut is_text, mut number, mut string) = (false, 0, String::new());
    for field in Fields::of(message) {
        match field? {
            (1, Scalar::Number(kind)) => is_text = kind == 1,
            (2, Scalar::Number(value)) => number = value.cast_signed(),
            (3, Scalar::Bytes(bytes)) => string = text(bytes)?,
            _ => {}
        }
    }
    Ok(if is_text { string.into() } else { number.into() })
}

/// Field 1, bytes that are JSON.
fn json(message: &[u8]) -> Result<Value, Malformed> {
    let mut found = Value::Null;
    for field in Fields::of(message) {
        if let (1, Scalar::Bytes(bytes)) = field?
            && !bytes.is_empty()
        {
            found = serde_json::from_slice(bytes).map_err(|why| Malformed(format!("JSON in it is none: {why}")))?;
        }
    }
    Ok(found)
}
