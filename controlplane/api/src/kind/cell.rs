//! Cells that several kinds show.

use k8s_openapi::jiff::Timestamp;
use serde_json::Value;

use super::Column;
use super::rule::{items, text};

/// What is shown for nothing.
pub(super) const NONE: &str = "<none>";

pub(super) const NAME: Column = Column {
    name: "Name",
    type_: "string",
    format: "name",
    description: "The name, unique among the objects of this kind in a namespace.",
    priority: 0,
    cell: |object, _| object["metadata"]["name"].clone(),
};

pub(super) const AGE: Column = Column {
    name: "Age",
    type_: "string",
    format: "",
    description: "The time since the creation.",
    priority: 0,
    cell: |object, now| since(&object["metadata"]["creationTimestamp"], now).into(),
};

/// A column of texts that is always shown.
pub(super) const fn column(
    name: &'static str,
    description: &'static str,
    cell: fn(&Value, Timestamp) -> Value,
) -> Column {
    Column { name, type_: "string", format: "", description, priority: 0, cell }
}

/// A column of texts that `-o wide` adds.
pub(super) const fn wide(
    name: &'static str,
    description: &'static str,
    cell: fn(&Value, Timestamp) -> Value,
) -> Column {
    Column { name, type_: "string", format: "", description, priority: 1, cell }
}

/// A column of numbers.
pub(super) const fn number(
    name: &'static str,
    description: &'static str,
    cell: fn(&Value, Timestamp) -> Value,
) -> Column {
    Column { name, type_: "integer", format: "", description, priority: 0, cell }
}

/// As kinds are shown that have no columns of their own: with the time itself, not the age.
pub(super) const CREATED_AT: Column = Column {
    name: "Created At",
    type_: "date",
    format: "",
    description: "The time of the creation.",
    priority: 0,
    cell: |object, _| object["metadata"]["creationTimestamp"].clone(),
};

pub(super) const CONTAINERS: Column = wide("Containers", "Names of each container in the template.", |object, _| {
    container_fields(&object["spec"]["template"]["spec"], "name").into()
});

pub(super) const IMAGES: Column =
    wide("Images", "Images referenced by each container in the template.", |object, _| {
        container_fields(&object["spec"]["template"]["spec"], "image").into()
    });

/// The text, or `otherwise` when there is none.
pub(super) fn text_or(value: &Value, otherwise: &str) -> Value {
    match text(value) {
        "" => otherwise.into(),
        text => text.into(),
    }
}

/// `a=b,c=d` in the order of the keys, as kubectl prints labels.
pub(super) fn labels(labels: &Value) -> String {
    let mut pairs: Vec<String> = labels
        .as_object()
        .into_iter()
        .flatten()
        .map(|(key, value)| if text(value).is_empty() { key.clone() } else { format!("{key}={}", text(value)) })
        .collect();
    pairs.sort();
    if pairs.is_empty() { NONE.into() } else { pairs.join(",") }
}

/// Up to three items, and how many more there are.
pub(super) fn some_of(list: &[String]) -> String {
    const SHOWN: usize = 3;
    if list.is_empty() {
        return "<unset>".into();
    }
    let shown = list[..list.len().min(SHOWN)].join(",");
    if list.len() > SHOWN { format!("{shown} + {} more...", list.len() - SHOWN) } else { shown }
}

/// The time since a timestamp of an object, as "5m3s".
pub(super) fn since(timestamp: &Value, now: Timestamp) -> String {
    match text(timestamp).parse::<Timestamp>() {
        Ok(then) => duration(now.as_second() - then.as_second()),
        Err(_) => "<unknown>".into(),
    }
}

/// Seconds, in the two largest units that matter.
pub(super) fn duration(seconds: i64) -> String {
    const MINUTE: i64 = 60;
    const HOUR: i64 = 60 * MINUTE;
    const DAY: i64 = 24 * HOUR;
    const YEAR: i64 = 365 * DAY;
    let pair = |large: i64, large_unit: &str, small: i64, small_unit: &str| {
        if small == 0 { format!("{large}{large_unit}") } else { format!("{large}{large_unit}{small}{small_unit}") }
    };
    match seconds {
        ..=-2 => "<invalid>".into(),
        -1 => "0s".into(),
        s if s < 2 * MINUTE => format!("{s}s"),
        s if s < 10 * MINUTE => pair(s / MINUTE, "m", s % MINUTE, "s"),
        s if s < 3 * HOUR => format!("{}m", s / MINUTE),
        s if s < 8 * HOUR => pair(s / HOUR, "h", s % HOUR / MINUTE, "m"),
        s if s < 2 * DAY => format!("{}h", s / HOUR),
        s if s < 8 * DAY => pair(s / DAY, "d", s % DAY / HOUR, "h"),
        s if s < 2 * YEAR => format!("{}d", s / DAY),
        s if s < 8 * YEAR => pair(s / YEAR, "y", s % YEAR / DAY, "d"),
        s => format!("{}y", s / YEAR),
    }
}

pub(super) fn container_fields(pod_spec: &Value, field: &str) -> String {
    let fields: Vec<&str> = items(&pod_spec["containers"]).iter().map(|container| text(&container[field])).collect();
    fields.join(",")
}

/// A number, 0 when it is missing.
pub(super) fn count(value: &Value) -> i64 {
    value.as_i64().unwrap_or(0)
}

/// A label selector as kubectl prints it.
pub(super) fn selector(selector: &Value) -> String {
    use k8s_openapi::apimachinery::pkg::apis::meta::v1 as meta;
    use serde::Deserialize as _;

    if selector.is_null() {
        return NONE.into();
    }
    let parsed = meta::LabelSelector::deserialize(selector)
        .map_err(|error| error.to_string())
        .and_then(|selector| crate::selector::LabelSelector::from_meta(&selector));
    match parsed {
        Err(_) => "<error>".into(),
        Ok(selector) if selector.is_empty() => NONE.into(),
        Ok(selector) => selector.to_string(),
    }
}

/// "True", "False", or "<unset>".
pub(super) fn truth(value: &Value) -> &'static str {
    match value.as_bool() {
        Some(true) => "True",
        Some(false) => "False",
        None => "<unset>",
    }
}
