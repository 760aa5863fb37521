//! What the rules of all kinds are written with: a list of causes, and access to parts of objects.

mod at;

use serde_json::Value;

use crate::status::StatusCause;

pub(super) use at::At;

/// What is wrong with an object, field by field.
#[derive(Debug, Default)]
pub struct Causes {
    causes: Vec<StatusCause>,
}

/// Most causes that are reported of one object; one that breaks more rules is told of these first.
const MAX_CAUSES: usize = 64;

impl Causes {
    /// The field has to be there.
    pub fn required(&mut self, field: impl Into<String>, why: &str) {
        let message = if why.is_empty() { "Required value".to_owned() } else { format!("Required value: {why}") };
        self.add("FieldValueRequired", field, message);
    }

    /// The value is not one that the field may have.
    pub fn invalid(&mut self, field: impl Into<String>, value: impl Into<Value>, why: impl AsRef<str>) {
        self.add("FieldValueInvalid", field, format!("Invalid value: {}: {}", value.into(), why.as_ref()));
    }

    /// The value is not one of a fixed few.
    pub fn unsupported(&mut self, field: impl Into<String>, value: impl Into<Value>, supported: &[&str]) {
        let supported: Vec<String> = supported.iter().map(|value| format!("\"{value}\"")).collect();
        let message = format!("Unsupported value: {}: supported values: {}", value.into(), supported.join(", "));
        self.add("FieldValueNotSupported", field, message);
    }

    /// The value occurs twice where it may occur once.
    pub fn duplicate(&mut self, field: impl Into<String>, value: impl Into<Value>) {
        self.add("FieldValueDuplicate", field, format!("Duplicate value: {}", value.into()));
    }

    /// The field may not be set, or not be changed.
    pub fn forbidden(&mut self, field: impl Into<String>, why: &str) {
        self.add("FieldValueForbidden", field, format!("Forbidden: {why}"));
    }

    /// More items than the field may have.
    pub fn too_many(&mut self, field: impl Into<String>, count: usize, most: usize) {
        self.add("FieldValueTooMany", field, format!("Too many: {count}: must have at most {most} items"));
    }

    /// Each problem makes one cause of the same field and value.
    pub fn invalid_each(&mut self, field: impl Into<String>, value: &str, problems: Vec<String>) {
        let field = field.into();
        for problem in problems {
            self.invalid(field.clone(), value, problem);
        }
    }

    /// The value names something that is not there.
    pub fn not_found(&mut self, field: impl Into<String>, value: impl Into<Value>) {
        self.add("FieldValueNotFound", field, format!("Not found: {}", value.into()));
    }

    /// More bytes than the value may have.
    pub fn too_long(&mut self, field: impl Into<String>, most: usize) {
        self.add("FieldValueTooLong", field, format!("Too long: may not be more than {most} bytes"));
    }

    /// May not change: `old` and `new` are the values before and after.
    pub fn immutable(&mut self, field: impl Into<String>, new: &Value, old: &Value) {
        if new != old {
            self.invalid(field, new.clone(), "field is immutable");
        }
    }

    pub(super) fn add(&mut self, reason: &str, field: impl Into<String>, message: String) {
        if self.causes.len() < MAX_CAUSES {
            let field = Some(field.into()).filter(|field| !field.is_empty());
            self.causes.push(StatusCause { reason: Some(reason.into()), message: Some(message), field });
        }
    }

    pub fn is_empty(&self) -> bool {
        self.causes.is_empty()
    }

    pub fn into_vec(self) -> Vec<StatusCause> {
        self.causes
    }
}

/// Makes `field` of `to` what it is in `from`: there with the same value, or not there.
pub(super) fn copy_field(from: &Value, to: &mut Value, field: &str) {
    let Some(fields) = to.as_object_mut() else { return };
    match from.get(field) {
        Some(value) => {
            fields.insert(field.to_owned(), value.clone());
        }
        None => {
            fields.shift_remove(field);
        }
    }
}

/// [`copy_field`] for a field of a part, as `metadata`.
pub(super) fn copy_part(from: &Value, to: &mut Value, part: &str, field: &str) {
    if from[part].get(field).is_none() && to.get(part).is_none() {
        return;
    }
    if let Some(to) = object_at(to, part) {
        copy_field(&from[part], to, field);
    }
}

/// Sets a field of an object; anything else is left for validation to refuse.
pub(super) fn set(object: &mut Value, field: &str, value: impl Into<Value>) {
    if let Some(fields) = object.as_object_mut() {
        fields.insert(field.to_owned(), value.into());
    }
}

/// Sets a field that is missing, null or an empty string.
pub(super) fn set_default(object: &mut Value, field: &str, value: impl Into<Value>) {
    let Some(fields) = object.as_object_mut() else { return };
    if fields.get(field).is_none_or(|present| present.is_null() || present == "") {
        fields.insert(field.to_owned(), value.into());
    }
}

/// The object at `field`, made when it is missing or null; `None` when something else is there.
pub(super) fn object_at<'a>(object: &'a mut Value, field: &str) -> Option<&'a mut Value> {
    let slot = object.as_object_mut()?.entry(field).or_insert(Value::Null);
    if slot.is_null() {
        *slot = Value::Object(serde_json::Map::new());
    }
    slot.is_object().then_some(slot)
}

/// The items of a list, none when it is missing.
pub(super) fn items(list: &Value) -> &[Value] {
    list.as_array().map(Vec::as_slice).unwrap_or_default()
}

/// The items of a list for changing them, none when it is missing.
pub(super) fn items_mut<'a>(object: &'a mut Value, field: &str) -> impl Iterator<Item = &'a mut Value> {
    object.get_mut(field).and_then(Value::as_array_mut).into_iter().flatten()
}

/// The text, "" when it is missing.
pub(super) fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}
