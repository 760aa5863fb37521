//! One rule of a role: what it allows, and whether it covers another rule.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::Attributes;

/// What may be done, as roles say it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct Rule {
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub verbs: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub api_groups: Vec<String>,
    /// "pods", "pods/status", "*/scale" or "*".
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub resources: Vec<String>,
    /// Empty: every name.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub resource_names: Vec<String>,
    /// Paths; one that ends with `*` stands for all that begin so.
    #[serde(rename = "nonResourceURLs", skip_serializing_if = "Vec::is_empty")]
    pub non_resource_urls: Vec<String>,
}

const ALL: &str = "*";

impl Rule {
    /// Whether the rule allows what is asked.
    pub(crate) fn allows(&self, asked: &Attributes) -> bool {
        if !lists(&self.verbs, &asked.verb) {
            return false;
        }
        if asked.resource.is_empty() {
            return self.non_resource_urls.iter().any(|pattern| is_path(pattern, &asked.path));
        }
        lists(&self.api_groups, &asked.group)
            && self.resources.iter().any(|own| is_resource(own, &asked.resource, &asked.subresource))
            && (self.resource_names.is_empty() || self.resource_names.contains(&asked.name))
    }

    /// How many atoms it has.
    pub(crate) fn size(&self) -> usize {
        let resources = self.api_groups.len().saturating_mul(self.resources.len());
        let named = resources.saturating_mul(self.resource_names.len().max(1));
        self.verbs.len().saturating_mul(named.saturating_add(self.non_resource_urls.len()))
    }

    /// The smallest rules that together say the same: one verb of one resource (and name), or of one path.
    pub(crate) fn atoms(&self) -> Vec<Rule> {
        let mut atoms = Vec::new();
        let one = |text: &String| vec![text.clone()];
        for verb in &self.verbs {
            for (group, resource) in product(&self.api_groups, &self.resources) {
                let atom =
                    Rule { verbs: one(verb), api_groups: one(group), resources: one(resource), ..Rule::default() };
                if self.resource_names.is_empty() {
                    atoms.push(atom);
                } else {
                    let named = |name| Rule { resource_names: one(name), ..atom.clone() };
                    atoms.extend(self.resource_names.iter().map(named));
                }
            }
            let path = |url| Rule { verbs: one(verb), non_resource_urls: one(url), ..Rule::default() };
            atoms.extend(self.non_resource_urls.iter().map(path));
        }
        atoms
    }

    /// Whether whoever has this rule may do all that `other`, an atom, allows.
    fn covers(&self, other: &Rule) -> bool {
        let all = |own: &[String], asked: &[String]| asked.iter().all(|text| lists(own, text));
        let resource = |asked: &String| {
            let (resource, part) = asked.split_once('/').unwrap_or((asked, ""));
            self.resources.iter().any(|own| is_resource(own, resource, part))
        };
        let path = |asked: &String| self.non_resource_urls.iter().any(|own| own == asked || is_path(own, asked));
        let names = if other.resource_names.is_empty() {
            self.resource_names.is_empty()
        } else {
            self.resource_names.is_empty() || other.resource_names.iter().all(|name| self.resource_names.contains(name))
        };
        all(&self.verbs, &other.verbs)
            && all(&self.api_groups, &other.api_groups)
            && other.resources.iter().all(resource)
            && other.non_resource_urls.iter().all(path)
            && names
    }

    /// As Kubernetes prints it in messages: `{APIGroups:[""], Resources:["pods"], Verbs:["get" "list"]}`.
    fn text(&self) -> String {
        let lists = [
            ("APIGroups", &self.api_groups),
            ("Resources", &self.resources),
            ("NonResourceURLs", &self.non_resource_urls),
            ("ResourceNames", &self.resource_names),
            ("Verbs", &self.verbs),
        ];
        let shown = lists.iter().filter(|(_, list)| !list.is_empty());
        let parts: Vec<String> = shown.map(|(name, list)| format!("{name}:{}", quoted(list))).collect();
        format!("{{{}}}", parts.join(", "))
    }
}

/// Atoms of one role that are compared with what its writer has.
pub(crate) const MAX_ATOMS: usize = 10_000;

/// Whether `wanted` has more than [`MAX_ATOMS`].
pub(crate) fn is_too_large(wanted: &[Rule]) -> bool {
    wanted.iter().map(Rule::size).fold(0, usize::saturating_add) > MAX_ATOMS
}

/// The atoms of `wanted` that no rule of `held` covers.
pub(crate) fn missing(held: &[&Rule], wanted: &[Rule]) -> Vec<Rule> {
    let atoms = wanted.iter().flat_map(Rule::atoms);
    atoms.filter(|atom| !held.iter().any(|own| own.covers(atom))).collect()
}

/// Rules as a message lists them: atoms of one resource together, sorted, a line each.
pub(crate) fn text(atoms: &[Rule]) -> String {
    let mut merged: BTreeMap<Rule, Vec<String>> = BTreeMap::new();
    for atom in atoms {
        let verbs = merged.entry(Rule { verbs: Vec::new(), ..atom.clone() }).or_default();
        verbs.extend(atom.verbs.iter().filter(|verb| !verbs.contains(verb)).cloned().collect::<Vec<_>>());
    }
    let mut lines: Vec<String> = merged.into_iter().map(|(rule, verbs)| Rule { verbs, ..rule }.text()).collect();
    lines.sort();
    lines.join("\n")
}

/// As Go's `%q` prints a list of texts.
pub(crate) fn quoted(list: &[String]) -> String {
    let items: Vec<String> = list.iter().map(|text| format!("{text:?}")).collect();
    format!("[{}]", items.join(" "))
}

fn lists(list: &[String], value: &str) -> bool {
    list.iter().any(|own| own == ALL || own == value)
}

/// `*` is every resource and every part; `*/scale` is one part of every resource.
fn is_resource(own: &str, resource: &str, part: &str) -> bool {
    if own == ALL {
        return true;
    }
    match own.split_once('/') {
        None => part.is_empty() && own == resource,
        Some((ALL, own_part)) => !part.is_empty() && own_part == part,
        Some((own_resource, own_part)) => !part.is_empty() && own_resource == resource && own_part == part,
    }
}

fn is_path(pattern: &str, path: &str) -> bool {
    match pattern.strip_suffix(ALL) {
        None => pattern == path,
        Some(root) => path.starts_with(root.trim_end_matches(ALL)),
    }
}

fn product<'a>(left: &'a [String], right: &'a [String]) -> impl Iterator<Item = (&'a String, &'a String)> {
    left.iter().flat_map(move |a| right.iter().map(move |b| (a, b)))
}
