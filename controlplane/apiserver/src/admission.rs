//! What a request has to pass between being allowed and being written: each plugin looks at the object as it would be
//! stored, and completes or refuses it.

pub(crate) mod node_restriction;

use diolkos_api::kind::Kind;
use serde_json::Value;

use crate::stack::User;

/// One write, as plugins see it.
pub(crate) struct Write<'a> {
    pub kind: &'a Kind,
    pub namespace: &'a str,
    pub name: &'a str,
    pub subresource: &'a str,
    /// create, update, patch, delete or deletecollection.
    pub verb: &'static str,
    pub user: &'a User,
    /// What would be stored; nothing for a deletion.
    pub new: Option<&'a Value>,
    /// What is there; nothing for a creation.
    pub old: Option<&'a Value>,
}

impl Write<'_> {
    fn is_delete(&self) -> bool {
        matches!(self.verb, "delete" | "deletecollection")
    }
}
