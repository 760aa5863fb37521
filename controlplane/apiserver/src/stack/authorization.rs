//! Who may do what: the node authorizer, then RBAC, both fed from the watch cache.

mod escalation;
mod follow;
mod node;
mod rbac;
mod rule;

use std::borrow::Cow;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard};

use diolkos_api::status::{Failure, GroupResource};

use super::{Record, User};
use crate::cache::Cache;
use crate::metrics::Metrics;
use crate::pki::ADMIN_GROUP;
use rbac::Index;

pub(crate) use escalation::RBAC_GROUP;
pub(crate) use follow::Follower;
pub(crate) use node::{MIRROR, NODE_LEASES, references};
pub(crate) use rbac::{RoleRef, SERVICE_ACCOUNT};
pub(crate) use rule::Rule;

/// What is asked: a verb on a resource, or (with an empty resource) on a path.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Attributes {
    /// get, list, watch, create, update, patch, delete, deletecollection, impersonate, bind, escalate, ...
    pub verb: Cow<'static, str>,
    pub group: String,
    pub version: String,
    pub resource: String,
    pub subresource: String,
    pub namespace: String,
    pub name: String,
    pub path: String,
    /// The node that the field selector of a list or watch of pods names.
    pub selected_node: Option<String>,
}

impl Attributes {
    pub(crate) fn of_path(verb: impl Into<Cow<'static, str>>, path: &str) -> Self {
        Attributes { verb: verb.into(), path: path.to_owned(), ..Attributes::default() }
    }

    pub(crate) fn is_read(&self) -> bool {
        matches!(&*self.verb, "get" | "list" | "watch")
    }
}

/// What an authorizer says, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Decision {
    Allowed(String),
    /// Refused unless another authorizer allows it.
    NoOpinion(String),
}

impl Decision {
    pub(crate) fn is_allowed(&self) -> bool {
        matches!(self, Decision::Allowed(_))
    }

    pub(crate) fn reason(&self) -> &str {
        match self {
            Decision::Allowed(reason) | Decision::NoOpinion(reason) => reason,
        }
    }
}

/// Decides on requests. Clones share what they know.
#[derive(Clone)]
pub(crate) struct Authorizer {
    index: Arc<RwLock<Index>>,
    graph: Arc<RwLock<node::Graph>>,
    metrics: Metrics,
}

impl Authorizer {
    /// Knows nothing yet: [`Follower`] fills it.
    pub(crate) fn new(metrics: Metrics) -> Authorizer {
        Authorizer { index: Arc::default(), graph: Arc::default(), metrics }
    }

    /// The tasks that keep it current, once what the cache holds now is in.
    pub(crate) async fn follow(&self, cache: &Cache) -> Result<Follower, Failure> {
        follow::start(self, cache).await
    }

    /// Members of `system:masters` may do everything; nodes what concerns them; everybody what their roles say.
    pub(crate) fn decide(&self, user: &User, asked: &Attributes) -> Decision {
        if user.is_in(ADMIN_GROUP) {
            return Decision::Allowed(String::new());
        }
        let of_node = match user.node() {
            Some(node) => node::decide(&self.graph(), node, asked),
            None => Decision::NoOpinion(String::new()),
        };
        if of_node.is_allowed() {
            return of_node;
        }
        match self.index().decide(user, asked) {
            Decision::NoOpinion(_) => of_node,
            allowed @ Decision::Allowed(_) => allowed,
        }
    }

    /// 403 with Kubernetes' message unless it is allowed. Question and answer are noted for the audit log.
    pub(crate) fn authorize(&self, user: &User, asked: &Attributes, record: &Record) -> Result<(), Failure> {
        let decision = self.decide(user, asked);
        record.note(asked);
        record.decided(&decision);
        if decision.is_allowed() {
            return Ok(());
        }
        self.metrics.forbidden();
        Err(forbidden(user, asked, decision.reason()))
    }

    /// Everything the roles of a user allow in a namespace: rules on resources and on paths.
    pub(crate) fn rules_of(&self, user: &User, namespace: &str) -> Vec<Rule> {
        self.index().rules_of(user, namespace).cloned().collect()
    }

    fn index(&self) -> RwLockReadGuard<'_, Index> {
        self.index.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn graph(&self) -> RwLockReadGuard<'_, node::Graph> {
        self.graph.read().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The rules of `wanted` of which a part is missing in `present`.
pub(crate) fn missing_rules(present: &[serde_json::Value], wanted: &[serde_json::Value]) -> Vec<serde_json::Value> {
    use serde::Deserialize as _;
    let read = |value: &serde_json::Value| Rule::deserialize(value).unwrap_or_default();
    let present: Vec<Rule> = present.iter().map(read).collect();
    let held: Vec<&Rule> = present.iter().collect();
    let lacks = |value: &&serde_json::Value| !rule::missing(&held, &[read(value)]).is_empty();
    wanted.iter().filter(lacks).cloned().collect()
}

pub(crate) fn forbidden(user: &User, asked: &Attributes, reason: &str) -> Failure {
    let failure = if asked.resource.is_empty() {
        Failure::forbidden_path(&user.name, &asked.verb, &asked.path)
    } else {
        let resource = GroupResource { group: &asked.group, resource: &asked.resource };
        Failure::forbidden(&user.name, &asked.verb, resource, &asked.subresource, &asked.namespace, &asked.name)
    };
    if reason.is_empty() { failure } else { failure.because(reason) }
}

#[cfg(test)]
#[path = "authorization/tests.rs"]
mod tests;
