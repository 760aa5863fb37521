//! Whether an object is what its structural schema says, in Kubernetes' words.

use std::collections::{HashMap, HashSet};

use regex::Regex;
use serde_json::Value;

use crate::kind::rule::{items, text};
use crate::kind::{Causes, names};

/// The expressions of a schema, which are compiled once.
pub(super) fn patterns(schema: &Value) -> HashMap<String, Regex> {
    let mut patterns = HashMap::new();
    let mut left = vec![schema];
    while let Some(node) = left.pop() {
        match node {
            Value::Object(fields) => {
                if let Some(pattern) = fields.get("pattern").and_then(Value::as_str)
                    && let Ok(compiled) = Regex::new(pattern)
                {
                    patterns.insert(pattern.to_owned(), compiled);
                }
                left.extend(fields.values());
            }
            Value::Array(items) => left.extend(items),
            _ => {}
        }
    }
    patterns
}

pub(super) fn object(object: &Value, schema: &Value, patterns: &HashMap<String, Regex>, causes: &mut Causes) {
    Checker { patterns }.value(object, schema, "", true, causes);
}

struct Checker<'a> {
    patterns: &'a HashMap<String, Regex>,
}

impl Checker<'_> {
    /// `whole`: an object whose metadata is looked at elsewhere.
    fn value(&self, value: &Value, schema: &Value, path: &str, whole: bool, causes: &mut Causes) {
        if value.is_null() && schema["nullable"] == true {
            return;
        }
        if !has_type(value, schema) {
            let (found, wanted) = (type_of(value), wanted(schema));
            causes.invalid(path, found, format!("{} in body must be of type {wanted}: {found:?}", shown(path)));
            return;
        }
        match value {
            Value::String(text) => self.text(text, schema, path, causes),
            Value::Number(_) => number(value, schema, path, causes),
            Value::Array(list) => self.list(list, schema, path, causes),
            Value::Object(_) => self.fields(value, schema, path, whole, causes),
            _ => {}
        }
        let allowed = items(&schema["enum"]);
        if !allowed.is_empty() && !allowed.contains(value) {
            let allowed: Vec<String> =
                allowed.iter().map(|own| own.as_str().map_or_else(|| own.to_string(), str::to_owned)).collect();
            causes.unsupported(path, value.clone(), &allowed.iter().map(String::as_str).collect::<Vec<_>>());
        }
        self.combined(value, schema, path, causes);
    }

    fn text(&self, value: &str, schema: &Value, path: &str, causes: &mut Causes) {
        let (length, at) = (value.chars().count() as u64, shown(path));
        if schema["maxLength"].as_u64().is_some_and(|most| length > most) {
            let most = schema["maxLength"].as_u64().and_then(|most| usize::try_from(most).ok()).unwrap_or(usize::MAX);
            causes.too_long(path, most);
        }
        if let Some(least) = schema["minLength"].as_u64().filter(|least| length < *least) {
            causes.invalid(path, value, format!("{at} in body should be at least {least} chars long"));
        }
        if let Some(pattern) = schema["pattern"].as_str()
            && self.patterns.get(pattern).is_some_and(|compiled| !compiled.is_match(value))
        {
            causes.invalid(path, value, format!("{at} in body should match '{pattern}'"));
        }
        let format = text(&schema["format"]);
        if !has_format(value, format) {
            causes.invalid(path, value, format!("{at} in body must be of type {format}: {value:?}"));
        }
    }

    fn list(&self, list: &[Value], schema: &Value, path: &str, causes: &mut Causes) {
        let count = list.len() as u64;
        if let Some(most) = schema["maxItems"].as_u64().filter(|most| count > *most) {
            causes.too_many(path, list.len(), usize::try_from(most).unwrap_or(usize::MAX));
        }
        if let Some(least) = schema["minItems"].as_u64().filter(|least| count < *least) {
            let at = shown(path);
            causes.invalid(path, list.len(), format!("{at} in body should have at least {least} items"));
        }
        let keys = items(&schema["x-kubernetes-list-map-keys"]);
        let mut seen = HashSet::new();
        for (index, item) in list.iter().enumerate() {
            let at = format!("{path}[{index}]");
            let id = match text(&schema["x-kubernetes-list-type"]) {
                "set" => Some(item.clone()),
                "map" => Some(keys.iter().map(|key| (text(key).to_owned(), item[text(key)].clone())).collect()),
                _ => None,
            };
            if let Some(id) = id
                && !seen.insert(id.to_string())
            {
                causes.duplicate(at.clone(), id);
            }
            if schema["items"].is_object() {
                self.value(item, &schema["items"], &at, false, causes);
            }
        }
    }

    fn fields(&self, value: &Value, schema: &Value, path: &str, whole: bool, causes: &mut Causes) {
        let Value::Object(fields) = value else { return };
        let join = |name: &str| if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") };
        for name in items(&schema["required"]).iter().map(text) {
            if !fields.contains_key(name) {
                causes.required(join(name), "");
            }
        }
        let count = fields.len() as u64;
        if let Some(most) = schema["maxProperties"].as_u64().filter(|most| count > *most) {
            causes.too_many(path, fields.len(), usize::try_from(most).unwrap_or(usize::MAX));
        }
        if let Some(least) = schema["minProperties"].as_u64().filter(|least| count < *least) {
            let why = format!("{} in body should have at least {least} properties", shown(path));
            causes.invalid(path, fields.len(), why);
        }
        if schema["x-kubernetes-embedded-resource"] == true {
            for name in ["apiVersion", "kind"]
                .into_iter()
                .filter(|name| text(&fields.get(*name).cloned().unwrap_or_default()).is_empty())
            {
                causes.required(join(name), "must not be empty");
            }
        }
        for (name, value) in fields {
            let declared = schema["properties"].get(name);
            match declared.or(Some(&schema["additionalProperties"])).filter(|schema| schema.is_object()) {
                // The rules of metadata are those of every kind; a schema may only narrow names.
                Some(known) if whole && name == "metadata" => {
                    if let Some(known) = known["properties"].get("name") {
                        self.value(&value["name"], known, &join("metadata.name"), false, causes);
                    }
                }
                Some(known) => self.value(value, known, &join(name), false, causes),
                None => {}
            }
        }
    }

    fn combined(&self, value: &Value, schema: &Value, path: &str, causes: &mut Causes) {
        let fits = |schema: &&Value| {
            let mut own = Causes::default();
            self.value(value, schema, path, false, &mut own);
            own.is_empty()
        };
        let count = |field: &str| items(&schema[field]).iter().filter(fits).count();
        let mut refuse = |why: &str| causes.invalid(path, value.clone(), format!("{} in body {why}", shown(path)));
        if schema["allOf"].is_array() && count("allOf") < items(&schema["allOf"]).len() {
            refuse("must validate all the schemas (allOf)");
        }
        if schema["anyOf"].is_array() && count("anyOf") == 0 {
            refuse("must validate at least one schema (anyOf)");
        }
        if schema["oneOf"].is_array() && count("oneOf") != 1 {
            refuse("must validate one and only one schema (oneOf)");
        }
        if schema["not"].is_object() && fits(&&schema["not"]) {
            refuse("must not validate the schema (not)");
        }
    }
}

/// A field as messages call it.
fn shown(path: &str) -> &str {
    if path.is_empty() { "<nil>" } else { path }
}

fn type_of(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(number) if number.is_f64() => "number",
        Value::Number(_) => "integer",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}

fn wanted(schema: &Value) -> &str {
    if schema["x-kubernetes-int-or-string"] == true { "integer,string" } else { text(&schema["type"]) }
}

fn has_type(value: &Value, schema: &Value) -> bool {
    if schema["x-kubernetes-int-or-string"] == true {
        return value.is_i64() || value.is_u64() || value.is_string();
    }
    let whole = |value: &Value| value.as_f64().is_some_and(|number| number.fract() == 0.0);
    match text(&schema["type"]) {
        "" => true,
        "integer" => value.is_i64() || value.is_u64() || whole(value),
        "number" => value.is_number(),
        wanted => wanted == type_of(value),
    }
}

fn number(value: &Value, schema: &Value, path: &str, causes: &mut Causes) {
    let (Some(own), at) = (value.as_f64(), shown(path)) else { return };
    let exclusive = |field: &str| schema[field] == true;
    if let Some(least) = schema["minimum"].as_f64() {
        let bound = &schema["minimum"];
        match exclusive("exclusiveMinimum") {
            true if own <= least => {
                causes.invalid(path, value.clone(), format!("{at} in body should be greater than {bound}"))
            }
            false if own < least => {
                causes.invalid(path, value.clone(), format!("{at} in body should be greater than or equal to {bound}"));
            }
            _ => {}
        }
    }
    if let Some(most) = schema["maximum"].as_f64() {
        let bound = &schema["maximum"];
        match exclusive("exclusiveMaximum") {
            true if own >= most => {
                causes.invalid(path, value.clone(), format!("{at} in body should be less than {bound}"))
            }
            false if own > most => {
                causes.invalid(path, value.clone(), format!("{at} in body should be less than or equal to {bound}"));
            }
            _ => {}
        }
    }
    if let Some(step) = schema["multipleOf"].as_f64().filter(|step| *step != 0.0 && (own / step).fract() != 0.0) {
        causes.invalid(path, value.clone(), format!("{at} in body should be a multiple of {step}"));
    }
    let bits = match text(&schema["format"]) {
        "int32" => i64::from(i32::MIN)..=i64::from(i32::MAX),
        _ => return,
    };
    if value.as_i64().is_none_or(|own| !bits.contains(&own)) {
        causes.invalid(path, value.clone(), format!("{at} in body must be of type int32: {value}"));
    }
}

/// Formats that are known are checked; others say something to people only, as in Kubernetes.
fn has_format(value: &str, format: &str) -> bool {
    match format {
        "date-time" => value.parse::<k8s_openapi::jiff::Timestamp>().is_ok(),
        "date" => value.parse::<k8s_openapi::jiff::civil::Date>().is_ok(),
        "ipv4" => value.parse::<std::net::Ipv4Addr>().is_ok(),
        "ipv6" => value.parse::<std::net::Ipv6Addr>().is_ok(),
        "cidr" => names::cidr(value).is_empty(),
        _ => true,
    }
}
