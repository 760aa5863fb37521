//! Who may do what: a static table in the shape of RBAC's roles and bindings.

mod table;

use diolkos_api::status::{Failure, GroupResource};

use super::User;
use table::{BINDINGS, Binding, Rule, Subject};

/// What is asked: a verb on a resource, or (with an empty resource) on a path.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Attributes {
    /// get, list, watch, create, update, patch, delete, deletecollection.
    pub verb: &'static str,
    pub group: String,
    pub resource: String,
    pub subresource: String,
    pub namespace: String,
    pub name: String,
    pub path: String,
}

impl Attributes {
    pub(crate) fn of_path(verb: &'static str, path: &str) -> Self {
        Attributes { verb, path: path.to_owned(), ..Attributes::default() }
    }

    pub(crate) fn is_read(&self) -> bool {
        matches!(self.verb, "get" | "list" | "watch")
    }
}

/// 403 with Kubernetes' message unless one of the user's roles allows it.
pub(crate) fn authorize(user: &User, asked: &Attributes) -> Result<(), Failure> {
    let allowed = BINDINGS.iter().filter(|binding| binds(binding, user)).flat_map(|binding| binding.rules);
    if allowed.into_iter().any(|rule| allows(rule, user, asked)) {
        return Ok(());
    }
    Err(if asked.resource.is_empty() {
        Failure::forbidden_path(&user.name, asked.verb, &asked.path)
    } else {
        let resource = GroupResource { group: &asked.group, resource: &asked.resource };
        Failure::forbidden(&user.name, asked.verb, resource, &asked.subresource, &asked.namespace, &asked.name)
    })
}

fn binds(binding: &Binding, user: &User) -> bool {
    match binding.subject {
        Subject::User(name) => user.name == name,
        Subject::Group(group) => user.is_in(group),
    }
}

fn allows(rule: &Rule, user: &User, asked: &Attributes) -> bool {
    let lists = |list: &[&str], value: &str| list.iter().any(|entry| *entry == "*" || *entry == value);
    if !lists(rule.verbs, asked.verb) {
        return false;
    }
    if asked.resource.is_empty() {
        let matches = |pattern: &&str| {
            pattern.strip_suffix('*').map_or(**pattern == asked.path, |root| asked.path.starts_with(root))
        };
        return rule.non_resource_urls.iter().any(matches);
    }
    let resource = if asked.subresource.is_empty() {
        asked.resource.clone()
    } else {
        format!("{}/{}", asked.resource, asked.subresource)
    };
    let named = || match rule.resource_names {
        [] => true,
        [table::OWN_NODE] => user.name.strip_prefix("system:node:").is_some_and(|node| node == asked.name),
        names => names.contains(&asked.name.as_str()),
    };
    lists(rule.api_groups, &asked.group) && lists(rule.resources, &resource) && named()
}

#[cfg(test)]
#[path = "authorization/tests.rs"]
mod tests;
