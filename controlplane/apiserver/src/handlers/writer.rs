//! Under which name a request owns the fields that it writes, and the options that say so.

use diolkos_api::status::{Failure, StatusCause};

use super::{Caller, Target};
use crate::managed::{self, Scope, Writer};
use crate::schema::Root;

/// Bytes of a manager's name, as in Kubernetes.
const MAX_MANAGER: usize = 128;

/// Who says nothing about itself.
const UNKNOWN: &str = "unknown";

/// Who writes a target, and what its fields are.
pub(super) struct Tracking {
    pub writer: Writer,
    root: Root,
    scope: Scope,
    now: String,
}

impl Tracking {
    /// `manager`: as the request names it; "" for the client's own name.
    pub(super) fn of(target: &Target, caller: &Caller, manager: &str) -> Tracking {
        let manager = if manager.is_empty() { own_name(&caller.agent) } else { manager.to_owned() };
        let writer = Writer {
            manager,
            applies: false,
            api_version: target.kind.api_version(),
            subresource: target.subresource.clone(),
        };
        let scope = match target.subresource.as_str() {
            "" if target.kind.subresource("status").is_some() => Scope::AllButStatus,
            "status" => Scope::Status,
            _ => Scope::Whole,
        };
        Tracking { writer, root: Root::of(&target.kind), scope, now: super::now() }
    }

    /// The write as the tracker wants it.
    pub(super) fn write(&self) -> managed::Write<'_> {
        let Tracking { writer, root, scope, now } = self;
        managed::Write { writer, shape: root.shape(), scope: *scope, now }
    }
}

/// The first word of a user agent: "kubectl" of "kubectl/v1.36.2 (linux/amd64)".
fn own_name(agent: &str) -> String {
    let word = agent.split('/').next().unwrap_or_default();
    let name: String = word.chars().filter(|letter| !letter.is_control()).collect();
    match name.get(..name.floor_char_boundary(MAX_MANAGER.min(name.len()))) {
        Some("") | None => UNKNOWN.into(),
        Some(name) => name.into(),
    }
}

/// 422 for a name that no manager can have. `options`: the type of the request's options, "PatchOptions".
pub(super) fn check_manager(options: &str, manager: &str) -> Result<(), Failure> {
    let mut causes = Vec::new();
    if manager.len() > MAX_MANAGER {
        let why = format!("Too long: may not be more than {MAX_MANAGER} bytes");
        causes.push(cause("FieldValueTooLong", "fieldManager", why));
    }
    for (position, letter) in manager.char_indices().filter(|(_, letter)| letter.is_control()) {
        let code = u32::from(letter);
        let why = format!("Invalid value: {manager:?}: invalid character U+{code:04X} (at position {position})");
        causes.push(cause("FieldValueInvalid", "fieldManager", why));
    }
    refuse(options, causes)
}

/// The options that belong to one type of patch each.
pub(super) fn check_patch_options(applies: bool, manager: &str, force: bool) -> Result<(), Failure> {
    let mut causes = Vec::new();
    if applies && manager.is_empty() {
        causes.push(cause("FieldValueRequired", "fieldManager", "Required value: is required for apply patch".into()));
    }
    if !applies && force {
        let why = "Forbidden: may not be specified for non-apply patch";
        causes.push(cause("FieldValueForbidden", "force", why.into()));
    }
    refuse("PatchOptions", causes)?;
    check_manager("PatchOptions", manager)
}

fn refuse(options: &str, causes: Vec<StatusCause>) -> Result<(), Failure> {
    if causes.is_empty() { Ok(()) } else { Err(Failure::invalid_options(options, causes)) }
}

fn cause(reason: &str, field: &str, message: String) -> StatusCause {
    StatusCause { reason: Some(reason.into()), message: Some(message), field: Some(field.into()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_is_called_by_the_first_word_of_its_user_agent() {
        assert_eq!(own_name("kubectl/v1.36.2 (linux/amd64) kubernetes/98b3519"), "kubectl");
        assert_eq!(own_name(""), UNKNOWN);
        assert_eq!(own_name("a\u{7}b"), "ab");
        assert_eq!(own_name(&"é".repeat(100)).len(), MAX_MANAGER);
    }

    #[test]
    fn names_that_are_too_long_or_cannot_be_printed_are_refused() {
        assert!(check_manager("CreateOptions", &"x".repeat(MAX_MANAGER)).is_ok());
        for bad in ["x".repeat(MAX_MANAGER + 1), "a\nb".into()] {
            let failure = check_manager("CreateOptions", &bad).err();
            assert_eq!(failure.map(|failure| failure.code()), Some(422), "{bad:?}");
        }
    }
}
