//! Roles and bindings, indexed by what a request asks for: the subject, and the namespace.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use serde::Deserialize;

use super::rule::Rule;
use super::{Attributes, Decision, User};

/// The rules of one role.
pub(crate) type Rules = Arc<[Rule]>;

/// The user of a service account begins so; its namespace and name follow.
pub(crate) const SERVICE_ACCOUNT: &str = "system:serviceaccount:";

/// Which role a binding gives.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
pub(crate) struct RoleRef {
    /// "ClusterRole" or "Role"
    pub kind: String,
    pub name: String,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
struct Subject {
    kind: String,
    name: String,
    #[serde(default)]
    namespace: String,
}

/// A role for some subjects.
#[derive(Debug)]
pub(crate) struct Binding {
    namespace: String,
    name: String,
    role: RoleRef,
    subjects: Vec<Subject>,
}

/// Whom a binding names, as one looks it up.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Who {
    User(String),
    Group(String),
}

/// What was read of one object.
#[derive(Debug)]
pub(crate) enum Parsed {
    Role { namespace: String, name: String, rules: Rules },
    Binding(Box<Binding>),
}

/// All roles and bindings.
#[derive(Debug, Default)]
pub(crate) struct Index {
    /// By namespace ("" for ClusterRoles) and name.
    roles: HashMap<String, HashMap<String, Rules>>,
    /// The namespace and name of each role, by storage key.
    role_keys: BTreeMap<String, (String, String)>,
    /// By storage key.
    bindings: BTreeMap<String, Arc<Binding>>,
    /// By namespace ("" for ClusterRoleBindings) and subject.
    bound: HashMap<String, HashMap<Who, Vec<Arc<Binding>>>>,
}

/// Reads a role or binding of the store. `Err` says what is wrong with it.
pub(crate) fn parse(namespace: &str, name: &str, is_binding: bool, json: &[u8]) -> Result<Parsed, String> {
    #[derive(Deserialize)]
    struct Role {
        #[serde(default)]
        rules: Vec<Rule>,
    }
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct AnyBinding {
        role_ref: RoleRef,
        #[serde(default)]
        subjects: Vec<Subject>,
    }
    let (namespace, name) = (namespace.to_owned(), name.to_owned());
    if is_binding {
        let AnyBinding { role_ref, subjects } = serde_json::from_slice(json).map_err(|cause| cause.to_string())?;
        let binding = Binding { namespace, name, role: role_ref, subjects };
        return Ok(Parsed::Binding(Box::new(binding)));
    }
    let role: Role = serde_json::from_slice(json).map_err(|cause| cause.to_string())?;
    Ok(Parsed::Role { namespace, name, rules: role.rules.into() })
}

impl Index {
    pub(crate) fn put(&mut self, key: &str, parsed: Parsed) {
        match parsed {
            Parsed::Role { namespace, name, rules } => {
                self.role_keys.insert(key.to_owned(), (namespace.clone(), name.clone()));
                self.roles.entry(namespace).or_default().insert(name, rules);
            }
            Parsed::Binding(binding) => {
                self.remove_binding(key);
                let binding: Arc<Binding> = Arc::from(binding);
                for who in subjects(&binding) {
                    let own = self.bound.entry(binding.namespace.clone()).or_default().entry(who).or_default();
                    own.push(binding.clone());
                }
                self.bindings.insert(key.to_owned(), binding);
            }
        }
    }

    pub(crate) fn remove(&mut self, key: &str, is_binding: bool) {
        if is_binding {
            self.remove_binding(key);
        } else if let Some((namespace, name)) = self.role_keys.remove(key)
            && let Some(roles) = self.roles.get_mut(&namespace)
        {
            roles.remove(&name);
            if roles.is_empty() {
                self.roles.remove(&namespace);
            }
        }
    }

    /// The storage keys of the roles under a prefix.
    pub(crate) fn role_keys(&self, prefix: &str) -> Vec<String> {
        self.role_keys.keys().filter(|key| key.starts_with(prefix)).cloned().collect()
    }

    /// The storage keys of the bindings under a prefix.
    pub(crate) fn binding_keys(&self, prefix: &str) -> Vec<String> {
        self.bindings.keys().filter(|key| key.starts_with(prefix)).cloned().collect()
    }

    fn remove_binding(&mut self, key: &str) {
        let Some(binding) = self.bindings.remove(key) else { return };
        let Some(bound) = self.bound.get_mut(&binding.namespace) else { return };
        for who in subjects(&binding) {
            if let Some(list) = bound.get_mut(&who) {
                list.retain(|other| !Arc::ptr_eq(other, &binding));
                if list.is_empty() {
                    bound.remove(&who);
                }
            }
        }
        if bound.is_empty() {
            self.bound.remove(&binding.namespace);
        }
    }

    /// The rules that a binding in `namespace` would give; `None` when there is no such role.
    pub(crate) fn rules(&self, role: &RoleRef, namespace: &str) -> Option<Rules> {
        let namespace = if role.kind == "ClusterRole" { "" } else { namespace };
        self.roles.get(namespace)?.get(&role.name).cloned()
    }

    /// Everything a user may do in a namespace, or with "" at the cluster scope.
    pub(crate) fn rules_of<'a>(&'a self, user: &'a User, namespace: &'a str) -> impl Iterator<Item = &'a Rule> + 'a {
        self.bindings_of(user, namespace).filter_map(|(binding, _)| self.rules_ref(binding)).flatten()
    }

    /// Allows what a rule of the user's roles allows; has no opinion otherwise.
    pub(crate) fn decide(&self, user: &User, asked: &Attributes) -> Decision {
        for (binding, who) in self.bindings_of(user, &asked.namespace) {
            if self.rules_ref(binding).is_some_and(|rules| rules.iter().any(|rule| rule.allows(asked))) {
                return Decision::Allowed(reason(binding, who));
            }
        }
        Decision::NoOpinion(String::new())
    }

    fn rules_ref(&self, binding: &Binding) -> Option<&[Rule]> {
        let namespace = if binding.role.kind == "ClusterRole" { "" } else { binding.namespace.as_str() };
        self.roles.get(namespace)?.get(&binding.role.name).map(AsRef::as_ref)
    }

    fn bindings_of<'a>(&'a self, user: &'a User, namespace: &'a str) -> impl Iterator<Item = (&'a Binding, Who)> + 'a {
        let scopes = [Some(""), Some(namespace).filter(|namespace| !namespace.is_empty())];
        let bound = scopes.into_iter().flatten().filter_map(|scope| self.bound.get(scope));
        let whos = move || {
            let groups = user.groups.iter().map(|group| Who::Group(group.clone()));
            std::iter::once(Who::User(user.name.clone())).chain(groups)
        };
        bound.flat_map(move |bound| {
            whos().flat_map(|who| bound.get(&who).into_iter().flatten().map(move |b| (&**b, who.clone())))
        })
    }
}

fn reason(binding: &Binding, who: Who) -> String {
    let own = if binding.namespace.is_empty() {
        format!("ClusterRoleBinding {:?}", binding.name)
    } else {
        format!("RoleBinding {:?}", format!("{}/{}", binding.name, binding.namespace))
    };
    let subject = match who {
        Who::User(name) => match name.strip_prefix(SERVICE_ACCOUNT).and_then(|rest| rest.split_once(':')) {
            Some((namespace, name)) if names_account(binding, namespace, name) => {
                format!("ServiceAccount {:?}", format!("{name}/{namespace}"))
            }
            _ => format!("User {name:?}"),
        },
        Who::Group(name) => format!("Group {name:?}"),
    };
    format!("RBAC: allowed by {own} of {} {:?} to {subject}", binding.role.kind, binding.role.name)
}

fn names_account(binding: &Binding, namespace: &str, name: &str) -> bool {
    binding.subjects.iter().any(|subject| {
        subject.kind == "ServiceAccount" && subject.name == name && account_namespace(binding, subject) == namespace
    })
}

fn account_namespace<'a>(binding: &'a Binding, subject: &'a Subject) -> &'a str {
    if subject.namespace.is_empty() { &binding.namespace } else { &subject.namespace }
}

/// Each subject once. A service account is its user.
fn subjects(binding: &Binding) -> Vec<Who> {
    let mut whos: Vec<Who> = Vec::with_capacity(binding.subjects.len());
    for subject in &binding.subjects {
        let who = match subject.kind.as_str() {
            "User" => Who::User(subject.name.clone()),
            "Group" => Who::Group(subject.name.clone()),
            "ServiceAccount" => {
                let namespace = account_namespace(binding, subject);
                if namespace.is_empty() {
                    continue;
                }
                Who::User(format!("{SERVICE_ACCOUNT}{namespace}:{}", subject.name))
            }
            _ => continue,
        };
        if !whos.contains(&who) {
            whos.push(who);
        }
    }
    whos
}
