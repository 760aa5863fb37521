//! `metadata.managedFields`: who wrote which fields, when, and how.

use serde_json::{Map, Value, json};

use super::set::Set;

/// Most entries of updates that an object keeps; the oldest become one, as in Kubernetes.
pub(super) const MAX_UPDATERS: usize = 10;

/// The manager of what is too old to be told apart.
pub(super) const ANCIENT: &str = "ancient-changes";

const APPLY: &str = "Apply";
const UPDATE: &str = "Update";
const FIELDS_TYPE: &str = "FieldsV1";

/// Who writes, and through what.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Writer {
    pub manager: String,
    pub applies: bool,
    /// Of the object as it rests.
    pub api_version: String,
    /// "" for the object itself.
    pub subresource: String,
}

impl Writer {
    /// Appliers are the same in every version.
    fn is(&self, other: &Writer) -> bool {
        self.manager == other.manager
            && self.applies == other.applies
            && self.subresource == other.subresource
            && (self.applies || self.api_version == other.api_version)
    }

    /// As a conflict names it.
    pub(super) fn described(&self, time: Option<&str>) -> String {
        let mut text = format!("{:?}", self.manager);
        if !self.subresource.is_empty() {
            text.push_str(&format!(" with subresource {:?}", self.subresource));
        }
        if !self.applies {
            text.push_str(&format!(" using {}", self.api_version));
            if let Some(time) = time {
                text.push_str(&format!(" at {time}"));
            }
        }
        text
    }
}

#[derive(Clone, Debug)]
pub(super) struct Entry {
    pub writer: Writer,
    pub time: Option<String>,
    fields: Fields,
}

/// Read when it is looked into: most writes touch the fields of few managers.
#[derive(Clone, Debug)]
enum Fields {
    Unread(Value),
    Read(Set),
}

impl Entry {
    pub(super) fn new(writer: Writer, time: Option<String>, set: Set) -> Entry {
        Entry { writer, time, fields: Fields::Read(set) }
    }

    pub(super) fn set(&mut self) -> &mut Set {
        if let Fields::Unread(fields) = &self.fields {
            self.fields = Fields::Read(Set::from_json(fields).unwrap_or_default());
        }
        match &mut self.fields {
            Fields::Read(set) => set,
            // Nothing above leaves it unread.
            Fields::Unread(_) => unreachable!("the fields of {} were just read", self.writer.manager),
        }
    }

    pub(super) fn meets(&self, set: &Set) -> bool {
        match &self.fields {
            Fields::Unread(fields) => set.meets(fields),
            Fields::Read(own) => !own.intersection(set).is_empty(),
        }
    }

    fn is_empty(&self) -> bool {
        match &self.fields {
            Fields::Unread(fields) => fields.as_object().is_none_or(Map::is_empty),
            Fields::Read(set) => set.is_empty(),
        }
    }

    fn to_json(&self) -> Value {
        let mut entry = json!({
            "manager": self.writer.manager,
            "operation": if self.writer.applies { APPLY } else { UPDATE },
            "apiVersion": self.writer.api_version,
        });
        if let Some(time) = &self.time {
            entry["time"] = time.clone().into();
        }
        entry["fieldsType"] = FIELDS_TYPE.into();
        entry["fieldsV1"] = match &self.fields {
            Fields::Unread(fields) => fields.clone(),
            Fields::Read(set) => set.to_json(),
        };
        if !self.writer.subresource.is_empty() {
            entry["subresource"] = self.writer.subresource.clone().into();
        }
        entry
    }
}

/// What an object at rest has. Entries that cannot be read are left out: they were never checked by this server.
pub(super) fn at_rest(managed_fields: &Value) -> Vec<Entry> {
    managed_fields.as_array().into_iter().flatten().filter_map(|entry| read(entry).ok()).collect()
}

/// What a client sent, or why it is no list of entries.
pub(super) fn sent(managed_fields: &Value) -> Result<Vec<Entry>, String> {
    let list = managed_fields.as_array().ok_or("managedFields is no list")?;
    list.iter()
        .map(|entry| {
            let mut entry = read(entry)?;
            if let Fields::Unread(fields) = &entry.fields {
                entry.fields = Fields::Read(Set::from_json(fields)?);
            }
            Ok(entry)
        })
        .collect()
}

fn read(entry: &Value) -> Result<Entry, String> {
    let text = |field: &str| entry[field].as_str().unwrap_or_default().to_owned();
    let applies = match entry["operation"].as_str() {
        Some(APPLY) => true,
        Some(UPDATE) => false,
        _ => return Err("operation must be `Apply` or `Update`".into()),
    };
    if text("apiVersion").is_empty() {
        return Err("apiVersion must not be empty".into());
    }
    if text("fieldsType") != FIELDS_TYPE {
        return Err(format!("invalid fieldsType {:?}", text("fieldsType")));
    }
    let writer =
        Writer { manager: text("manager"), applies, api_version: text("apiVersion"), subresource: text("subresource") };
    let fields = match &entry["fieldsV1"] {
        Value::Null => Value::Object(Map::new()),
        fields => fields.clone(),
    };
    Ok(Entry { writer, time: entry["time"].as_str().map(str::to_owned), fields: Fields::Unread(fields) })
}

/// The list that takes all ownership away: empty, or one empty entry.
pub(super) fn is_reset(managed_fields: &Value) -> bool {
    match managed_fields.as_array().map(Vec::as_slice) {
        Some([]) => true,
        Some([entry]) => entry.as_object().is_some_and(|fields| fields.values().all(Value::is_null)),
        _ => false,
    }
}

/// The entry of a writer, made when there is none.
pub(super) fn of<'a>(entries: &'a mut Vec<Entry>, writer: &Writer) -> &'a mut Entry {
    let at = position(entries, writer).unwrap_or_else(|| {
        entries.push(Entry::new(writer.clone(), None, Set::default()));
        entries.len() - 1
    });
    &mut entries[at]
}

pub(super) fn position(entries: &[Entry], writer: &Writer) -> Option<usize> {
    entries.iter().position(|entry| entry.writer.is(writer))
}

/// Makes the oldest updates one while there are too many.
pub(super) fn cap(entries: &mut Vec<Entry>) {
    let mut updaters: Vec<Writer> = {
        let mut updaters: Vec<&Entry> = entries.iter().filter(|entry| !entry.writer.applies).collect();
        updaters.sort_by(|a, b| (&a.time, &a.writer.manager).cmp(&(&b.time, &b.writer.manager)));
        updaters.iter().map(|entry| entry.writer.clone()).collect()
    };
    let mut count = updaters.len();
    let mut buckets: Vec<Writer> = Vec::new();
    for writer in updaters.drain(..) {
        if count <= MAX_UPDATERS {
            return;
        }
        let bucket = Writer { manager: ANCIENT.into(), subresource: String::new(), ..writer.clone() };
        let Some(first) = buckets.iter().position(|first| first.api_version == writer.api_version) else {
            buckets.push(writer);
            continue;
        };
        // What came first of a version is where the others go.
        let first = std::mem::replace(&mut buckets[first], bucket.clone());
        if let Some(at) = position(entries, &first) {
            entries[at].writer = bucket.clone();
        }
        if let Some(at) = position(entries, &writer) {
            let mut old = entries.remove(at);
            let target = of(entries, &bucket);
            let set = old.set().clone();
            target.set().add(&set);
            target.time = old.time;
            count -= 1;
        }
    }
}

/// As objects have it: appliers first, the oldest first.
pub(super) fn to_json(mut entries: Vec<Entry>) -> Value {
    entries.retain(|entry| !entry.is_empty());
    entries.sort_by(|a, b| {
        let rank = |entry: &Entry| (!entry.writer.applies, entry.time.clone(), entry.writer.manager.clone());
        let place = |entry: &Entry| (entry.writer.api_version.clone(), entry.writer.subresource.clone());
        (rank(a), place(a)).cmp(&(rank(b), place(b)))
    });
    Value::Array(entries.iter().map(Entry::to_json).collect())
}
