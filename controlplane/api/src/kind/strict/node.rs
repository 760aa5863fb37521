//! A value that is read as a type, as serde asks for it.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::de::value::BorrowedStrDeserializer;
use serde::de::{DeserializeSeed, Deserializer, IntoDeserializer as _, MapAccess, SeqAccess, Visitor};
use serde::forward_to_deserialize_any;
use serde_json::Value;

use super::{Mismatch, State};
use crate::quantity::Quantity;

/// A value and the place it is at.
pub(super) struct Node<'de, 's> {
    value: &'de Value,
    state: &'s mut State,
    /// The struct whose field this is.
    owner: &'static str,
    /// Nothing is read: the failure is to name the type that was asked for.
    probe: bool,
}

impl<'de, 's> Node<'de, 's> {
    pub(super) fn root(value: &'de Value, state: &'s mut State) -> Self {
        Self { value, state, owner: "", probe: false }
    }

    fn mismatch<T>(&self, type_: &str) -> Result<T, Mismatch> {
        let what = match self.value {
            Value::Null => "null",
            Value::Bool(_) => "bool",
            Value::String(_) => "string",
            Value::Array(_) => "array",
            Value::Object(_) => "object",
            Value::Number(number) if is_number(type_) => return self.wrong(&format!("number {number}"), type_),
            Value::Number(_) => "number",
        };
        self.wrong(what, type_)
    }

    fn wrong<T>(&self, what: &str, type_: &str) -> Result<T, Mismatch> {
        if self.probe {
            return Err(Mismatch(type_.to_owned()));
        }
        let fields = self.state.fields.join(".");
        if fields.is_empty() {
            return Err(Mismatch(format!("json: cannot unmarshal {what} into Go value of type {type_}")));
        }
        let owner = self.owner;
        Err(Mismatch(format!("json: cannot unmarshal {what} into Go struct field {owner}.{fields} of type {type_}")))
    }

    fn integer<V: Visitor<'de>>(self, type_: &str, least: i64, most: i64, visitor: V) -> Result<V::Value, Mismatch> {
        let number = if self.value.is_null() { Some(0) } else { self.value.as_i64() };
        match number.filter(|number| !self.probe && (least..=most).contains(number)) {
            Some(number) => visitor.visit_i64(number),
            None => self.mismatch(type_),
        }
    }

    /// A value that decodes itself from a text, or from anything else as if it were one.
    fn itself<V: Visitor<'de>>(self, type_: &'static str, visitor: V) -> Result<V::Value, Mismatch> {
        let text = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        match (type_, self.value) {
            ("Quantity", Value::Null) => visitor.visit_newtype_struct(BorrowedStrDeserializer::new("0")),
            ("Quantity", value) => {
                let amount = text(value);
                Quantity::parse(&amount).map_err(Mismatch)?;
                visitor.visit_newtype_struct(amount.into_deserializer())
            }
            ("Time" | "MicroTime", Value::String(time)) => {
                let format =
                    if type_ == "Time" { "2006-01-02T15:04:05Z07:00" } else { "2006-01-02T15:04:05.000000Z07:00" };
                if time.parse::<k8s_openapi::jiff::Timestamp>().is_err() {
                    let why = format!("parsing time {time:?} as {format:?}: cannot parse {time:?} as \"2006\"");
                    return Err(Mismatch(why));
                }
                visitor.visit_newtype_struct(BorrowedStrDeserializer::new(time))
            }
            ("Time" | "MicroTime", value) => {
                let what = match value {
                    Value::Bool(_) => "bool",
                    Value::Array(_) => "array",
                    Value::Object(_) => "object",
                    _ => "number",
                };
                Err(Mismatch(format!("json: cannot unmarshal {what} into Go value of type string")))
            }
            _ => visitor.visit_newtype_struct(self.value).map_err(|error| Mismatch(error.to_string())),
        }
    }
}

fn is_number(type_: &str) -> bool {
    type_.starts_with("int") || type_.starts_with("float")
}

/// What the elements of a list or map are, asked of the visitor that wants them.
fn probed<T>(asked: Result<T, Mismatch>) -> String {
    asked.err().map(|Mismatch(name)| name).unwrap_or_default()
}

impl<'de> Deserializer<'de> for Node<'de, '_> {
    type Error = Mismatch;

    /// Numbers or texts, and in schemas of definitions a schema, a list of them, or a truth.
    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Mismatch> {
        match self.value {
            _ if self.probe => self.mismatch("intstr.IntOrString"),
            Value::String(text) => visitor.visit_borrowed_str(text),
            Value::Number(number) if number.as_i64().is_some_and(|number| i32::try_from(number).is_ok()) => {
                visitor.visit_i64(number.as_i64().unwrap_or_default())
            }
            Value::Number(number) => {
                Err(Mismatch(format!("json: cannot unmarshal number {number} into Go value of type int32")))
            }
            Value::Null => visitor.visit_i64(0),
            Value::Bool(truth) => visitor.visit_bool(*truth).map_err(|own: Mismatch| own.or_number("bool")),
            Value::Array(items) => {
                let items = Items { items: items.iter().enumerate(), state: self.state, owner: self.owner };
                visitor.visit_seq(items).map_err(|own: Mismatch| own.or_number("array"))
            }
            Value::Object(entries) => {
                let entries = entries.iter();
                let fields = Fields { entries, state: self.state, owner: self.owner, known: None, value: None };
                visitor.visit_map(fields).map_err(|own: Mismatch| own.or_number("object"))
            }
        }
    }

    fn deserialize_bool<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Mismatch> {
        match self.value {
            Value::Bool(value) if !self.probe => visitor.visit_bool(*value),
            Value::Null if !self.probe => visitor.visit_bool(false),
            _ => self.mismatch("bool"),
        }
    }

    fn deserialize_i32<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Mismatch> {
        self.integer("int32", i32::MIN.into(), i32::MAX.into(), visitor)
    }

    fn deserialize_i64<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Mismatch> {
        self.integer("int64", i64::MIN, i64::MAX, visitor)
    }

    fn deserialize_f64<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Mismatch> {
        match self.value.as_f64().filter(|_| !self.probe) {
            Some(number) => visitor.visit_f64(number),
            None => self.mismatch("float64"),
        }
    }

    fn deserialize_string<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Mismatch> {
        match self.value {
            Value::String(text) if !self.probe => visitor.visit_borrowed_str(text),
            Value::Null if !self.probe => visitor.visit_borrowed_str(""),
            _ => self.mismatch("string"),
        }
    }

    /// Bytes in base64: what else is a text is asked for as an owned one.
    fn deserialize_str<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Mismatch> {
        match self.value {
            Value::String(text) if !self.probe => match STANDARD.decode(text) {
                Ok(_) => visitor.visit_borrowed_str(text),
                Err(cause) => Err(Mismatch(format!("illegal base64 data at input byte {}", wrong_byte(text, &cause)))),
            },
            Value::Null if !self.probe => visitor.visit_borrowed_str(""),
            _ => self.mismatch("[]uint8"),
        }
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Mismatch> {
        if self.value.is_null() && !self.probe { visitor.visit_none() } else { visitor.visit_some(self) }
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(self, name: &'static str, visitor: V) -> Result<V::Value, Mismatch> {
        match name {
            _ if self.probe => self.mismatch(name),
            "Quantity" | "Time" | "MicroTime" => self.itself(name, visitor),
            // Anything may be in these.
            _ => visitor.visit_newtype_struct(self.value).map_err(|error| Mismatch(error.to_string())),
        }
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Mismatch> {
        match self.value {
            Value::Array(items) if !self.probe => {
                visitor.visit_seq(Items { items: items.iter().enumerate(), state: self.state, owner: self.owner })
            }
            value => {
                let version = self.state.version;
                let mut state = State { version, ..State::default() };
                let element = probed(visitor.visit_seq(Probe { value, state: &mut state }));
                self.mismatch(&format!("[]{element}"))
            }
        }
    }

    fn deserialize_map<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Mismatch> {
        match self.value {
            Value::Object(entries) if !self.probe => visitor.visit_map(Fields {
                entries: entries.iter(),
                state: self.state,
                owner: self.owner,
                known: None,
                value: None,
            }),
            value => {
                let version = self.state.version;
                let mut state = State { version, ..State::default() };
                let element = probed(visitor.visit_map(Probe { value, state: &mut state }));
                self.mismatch(&format!("map[string]{element}"))
            }
        }
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        name: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Mismatch> {
        match self.value {
            Value::Object(entries) if !self.probe => visitor.visit_map(Fields {
                entries: entries.iter(),
                state: self.state,
                owner: name,
                known: Some(fields),
                value: None,
            }),
            _ => {
                let type_ = self.state.type_name(name);
                self.mismatch(&type_)
            }
        }
    }

    fn deserialize_ignored_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Mismatch> {
        visitor.visit_unit()
    }

    forward_to_deserialize_any! {
        i8 i16 i128 u8 u16 u32 u64 u128 f32 char bytes byte_buf unit unit_struct tuple tuple_struct enum identifier
    }
}

impl Mismatch {
    /// A type that takes no `found` at all is a number or a text, and Kubernetes tells of the number.
    fn or_number(self, found: &str) -> Mismatch {
        if self.0.starts_with("invalid type") {
            return Mismatch(format!("json: cannot unmarshal {found} into Go value of type int32"));
        }
        self
    }
}

/// Where decoding stops: after whole quanta at a missing padding, else at the byte that is wrong.
fn wrong_byte(text: &str, cause: &base64::DecodeError) -> usize {
    match cause {
        base64::DecodeError::InvalidByte(at, _) | base64::DecodeError::InvalidLastSymbol(at, _) => *at,
        base64::DecodeError::InvalidLength(_) | base64::DecodeError::InvalidPadding => text.len() / 4 * 4,
    }
}

/// The fields of a struct, or with `known: None` the entries of a map.
struct Fields<'de, 's> {
    entries: serde_json::map::Iter<'de>,
    state: &'s mut State,
    owner: &'static str,
    known: Option<&'static [&'static str]>,
    value: Option<(&'de str, &'de Value)>,
}

impl<'de> MapAccess<'de> for Fields<'de, '_> {
    type Error = Mismatch;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, Mismatch> {
        for (key, value) in self.entries.by_ref() {
            if let Some(known) = self.known {
                if !known.contains(&key.as_str()) {
                    self.state.unknown(key);
                    continue;
                }
                // The typed object insists on its own names here; which ones an object gives itself is checked elsewhere.
                let names_itself = known.starts_with(&["apiVersion", "kind"]) && (key == "apiVersion" || key == "kind");
                if names_itself && (value.is_string() || value.is_null()) {
                    continue;
                }
            }
            self.value = Some((key, value));
            return seed.deserialize(BorrowedStrDeserializer::new(key)).map(Some);
        }
        Ok(None)
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, Mismatch> {
        let (key, value) = self.value.take().unwrap_or(("", &Value::Null));
        let length = self.state.enter(key);
        if self.known.is_some() {
            self.state.fields.push(key.to_owned());
        }
        let node = Node { value, state: &mut *self.state, owner: self.owner, probe: false };
        let read = seed.deserialize(node);
        self.state.leave(length);
        if self.known.is_some() {
            self.state.fields.pop();
        }
        read
    }
}

struct Items<'de, 's> {
    items: std::iter::Enumerate<std::slice::Iter<'de, Value>>,
    state: &'s mut State,
    owner: &'static str,
}

impl<'de> SeqAccess<'de> for Items<'de, '_> {
    type Error = Mismatch;

    fn next_element_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<Option<T::Value>, Mismatch> {
        let Some((index, value)) = self.items.next() else { return Ok(None) };
        if value.is_null() {
            // Where a null is a field it is dropped before anything rests. In a list it would stay, and other readers of the
            // type refuse it.
            let mut state = State { version: self.state.version, ..State::default() };
            let asked = seed.deserialize(Node { value, state: &mut state, owner: "", probe: true }).map(drop);
            return Node { value, state: &mut *self.state, owner: self.owner, probe: false }
                .wrong("null", &probed(asked));
        }
        let length = self.state.path.len();
        self.state.path.push_str(&format!("[{index}]"));
        let read = seed.deserialize(Node { value, state: &mut *self.state, owner: self.owner, probe: false });
        self.state.leave(length);
        read.map(Some)
    }
}

/// One element that only says of which type it was to be.
struct Probe<'de, 's> {
    value: &'de Value,
    state: &'s mut State,
}

impl<'de> SeqAccess<'de> for Probe<'de, '_> {
    type Error = Mismatch;

    fn next_element_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<Option<T::Value>, Mismatch> {
        let node = Node { value: self.value, state: &mut *self.state, owner: "", probe: true };
        seed.deserialize(node).map(Some)
    }
}

impl<'de> MapAccess<'de> for Probe<'de, '_> {
    type Error = Mismatch;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, Mismatch> {
        seed.deserialize(BorrowedStrDeserializer::new("")).map(Some)
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, Mismatch> {
        seed.deserialize(Node { value: self.value, state: &mut *self.state, owner: "", probe: true })
    }
}
