//! Which of the names that a definition wants are free, as its conditions say it.

use std::collections::HashSet;
use std::sync::Arc;

use diolkos_api::kind::{Kind, custom};
use serde_json::{Value, json};

/// What the status of a definition has to change to; `None` when it is right. `all`: every definition.
pub(super) fn status<'a>(
    definition: &Value,
    all: impl Iterator<Item = &'a Value>,
    builtin: impl Iterator<Item = Arc<Kind>>,
    now: &str,
) -> Option<Value> {
    let taken = Taken::by_others(definition, all, builtin);
    let mut new = definition.clone();
    let wanted = &definition["spec"]["names"];
    match taken.refuse(wanted) {
        None => {
            new["status"]["acceptedNames"] = wanted.clone();
            set_condition(&mut new, "NamesAccepted", true, "NoConflicts", "no conflicts found", now);
            let message = "the initial names have been accepted";
            set_condition(&mut new, "Established", true, "InitialNamesAccepted", message, now);
        }
        Some((reason, message)) => {
            set_condition(&mut new, "NamesAccepted", false, reason, &message, now);
            // What was served once stays served under the names that were accepted.
            if !custom::is_established(definition) {
                let message = "not all names are accepted";
                set_condition(&mut new, "Established", false, "NotAccepted", message, now);
            }
        }
    }
    (new["status"] != definition["status"]).then(|| new["status"].take())
}

/// Sets a condition; its time changes with its status alone.
pub(super) fn set_condition(definition: &mut Value, kind: &str, holds: bool, reason: &str, message: &str, now: &str) {
    let status = if holds { "True" } else { "False" };
    let conditions = &mut definition["status"]["conditions"];
    if !conditions.is_array() {
        *conditions = json!([]);
    }
    let Some(list) = conditions.as_array_mut() else { return };
    let own = list.iter_mut().find(|own| own["type"] == kind);
    let since = own.as_ref().filter(|own| own["status"] == status).map(|own| own["lastTransitionTime"].clone());
    let condition = json!({
        "type": kind,
        "status": status,
        "lastTransitionTime": since.unwrap_or_else(|| now.into()),
        "reason": reason,
        "message": message,
    });
    match own {
        Some(own) => *own = condition,
        None => list.push(condition),
    }
}

/// Names of one group that are in use.
#[derive(Default)]
struct Taken {
    /// Plurals, singulars and short names: what kubectl calls a resource.
    resources: HashSet<String>,
    kinds: HashSet<String>,
}

impl Taken {
    fn by_others<'a>(
        definition: &Value,
        all: impl Iterator<Item = &'a Value>,
        builtin: impl Iterator<Item = Arc<Kind>>,
    ) -> Taken {
        let mut taken = Taken::default();
        let group = &definition["spec"]["group"];
        for other in all {
            if other["spec"]["group"] == *group && other["metadata"]["name"] != definition["metadata"]["name"] {
                taken.add(&other["status"]["acceptedNames"]);
            }
        }
        for kind in builtin.filter(|kind| *group == *kind.group) {
            taken.resources.extend([kind.plural.clone(), kind.singular.clone()]);
            taken.resources.extend(kind.short_names.iter().cloned());
            taken.kinds.extend([kind.kind.clone(), kind.list_kind.clone()]);
        }
        taken
    }

    fn add(&mut self, names: &Value) {
        let text = |field: &str| names[field].as_str().unwrap_or_default().to_owned();
        self.resources.extend([text("plural"), text("singular")]);
        let short = names["shortNames"].as_array().into_iter().flatten();
        self.resources.extend(short.filter_map(|name| name.as_str().map(str::to_owned)));
        self.kinds.extend([text("kind"), text("listKind")]);
    }

    /// Why the names cannot be accepted.
    fn refuse(&self, names: &Value) -> Option<(&'static str, String)> {
        let mut found: Vec<(&str, String)> = Vec::new();
        let mut check = |reason: &'static str, name: &Value, taken: &HashSet<String>| {
            let name = name.as_str().unwrap_or_default();
            if !name.is_empty() && taken.contains(name) {
                found.push((reason, format!("{name:?} is already in use")));
            }
        };
        check("PluralConflict", &names["plural"], &self.resources);
        check("SingularConflict", &names["singular"], &self.resources);
        for name in names["shortNames"].as_array().into_iter().flatten() {
            check("ShortNamesConflict", name, &self.resources);
        }
        check("KindConflict", &names["kind"], &self.kinds);
        check("ListKindConflict", &names["listKind"], &self.kinds);
        match found.as_slice() {
            [] => None,
            [(reason, message)] => Some((reason, message.clone())),
            many => Some(("MultipleConflicts", many.iter().map(|own| own.1.as_str()).collect::<Vec<_>>().join(", "))),
        }
    }
}
