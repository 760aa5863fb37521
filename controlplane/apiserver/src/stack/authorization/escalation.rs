//! Nobody gives what they do not have: the checks on writes of roles and bindings.

use diolkos_api::kind::Kind;
use diolkos_api::status::{Failure, GroupResource};
use serde_json::Value;

use super::{Attributes, Authorizer, RoleRef, Rule, User, rule};
use crate::pki::ADMIN_GROUP;

/// The group of roles and bindings.
pub(crate) const RBAC_GROUP: &str = "rbac.authorization.k8s.io";

impl Authorizer {
    /// 403 when writing `new` in place of `old` would give somebody what the writer does not have, unless the writer
    /// may `escalate` the role or `bind` it.
    pub(crate) fn check_grant(
        &self,
        user: &User,
        kind: &Kind,
        new: &Value,
        old: Option<&Value>,
    ) -> Result<(), Failure> {
        if kind.group != RBAC_GROUP || user.is_in(ADMIN_GROUP) {
            return Ok(());
        }
        match kind.kind.as_str() {
            "Role" | "ClusterRole" => self.check_role(user, kind, new, old),
            "RoleBinding" | "ClusterRoleBinding" => self.check_binding(user, kind, new, old),
            _ => Ok(()),
        }
    }

    fn check_role(&self, user: &User, kind: &Kind, new: &Value, old: Option<&Value>) -> Result<(), Failure> {
        let same = |field: &str| old.is_some_and(|old| old[field] == new[field]);
        if same("rules") && same("aggregationRule") {
            return Ok(());
        }
        let (namespace, name) = (text(&new["metadata"]["namespace"]), text(&new["metadata"]["name"]));
        if self.may(user, "escalate", &kind.plural, namespace, name) {
            return Ok(());
        }
        // Whatever labels select is in an aggregated role: only who may do everything decides on that.
        if new["aggregationRule"].is_object() && !same("aggregationRule") {
            let all = |list: &str| vec![list.to_owned()];
            let everything = [
                Rule { verbs: all("*"), api_groups: all("*"), resources: all("*"), ..Rule::default() },
                Rule { verbs: all("*"), non_resource_urls: all("*"), ..Rule::default() },
            ];
            self.check_held(user, kind, namespace, name, &everything)?;
        }
        let rules: Vec<Rule> = read(kind, name, &new["rules"])?;
        self.check_held(user, kind, namespace, name, &rules)
    }

    fn check_binding(&self, user: &User, kind: &Kind, new: &Value, old: Option<&Value>) -> Result<(), Failure> {
        let same = |field: &str| old.is_some_and(|old| old[field] == new[field]);
        if same("roleRef") && same("subjects") {
            return Ok(());
        }
        let (namespace, name) = (text(&new["metadata"]["namespace"]), text(&new["metadata"]["name"]));
        let role: RoleRef = read(kind, name, &new["roleRef"])?;
        let plural = if role.kind == "ClusterRole" { "clusterroles" } else { "roles" };
        if self.may(user, "bind", plural, namespace, &role.name) {
            return Ok(());
        }
        let rules = self.index().rules(&role, namespace);
        let Some(rules) = rules else {
            return Err(Failure::not_found(GroupResource { group: RBAC_GROUP, resource: plural }, &role.name));
        };
        self.check_held(user, kind, namespace, name, &rules)
    }

    fn may(&self, user: &User, verb: &'static str, resource: &str, namespace: &str, name: &str) -> bool {
        let asked = Attributes {
            verb: verb.into(),
            group: RBAC_GROUP.into(),
            version: "v1".into(),
            resource: resource.to_owned(),
            namespace: namespace.to_owned(),
            name: name.to_owned(),
            ..Attributes::default()
        };
        self.decide(user, &asked).is_allowed()
    }

    fn check_held(
        &self,
        user: &User,
        kind: &Kind,
        namespace: &str,
        name: &str,
        wanted: &[Rule],
    ) -> Result<(), Failure> {
        if rule::is_too_large(wanted) {
            self.metrics.escalation();
            let most = rule::MAX_ATOMS;
            let why =
                format!("its rules multiply to more than {most} permissions: split them, or be allowed to escalate");
            return Err(Failure::refused(kind.resource(), name, &why));
        }
        let missing = {
            let index = self.index();
            let held: Vec<&Rule> = index.rules_of(user, namespace).collect();
            rule::missing(&held, wanted)
        };
        if missing.is_empty() {
            return Ok(());
        }
        self.metrics.escalation();
        let why = format!(
            "user {:?} (groups={}) is attempting to grant RBAC permissions not currently held:\n{}",
            user.name,
            rule::quoted(&user.groups),
            rule::text(&missing)
        );
        Err(Failure::refused(kind.resource(), name, &why))
    }
}

fn read<T: serde::de::DeserializeOwned + Default>(kind: &Kind, name: &str, value: &Value) -> Result<T, Failure> {
    if value.is_null() {
        return Ok(T::default());
    }
    T::deserialize(value)
        .map_err(|cause| Failure::bad_request(format!("{} {name:?} cannot be read: {cause}", kind.kind)))
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}
