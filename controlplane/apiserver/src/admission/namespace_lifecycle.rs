//! NamespaceLifecycle: nothing is created where no namespace is or where one is on its way out, and what all of the
//! cluster is in cannot be deleted.

use diolkos_api::kind::Kind;
use diolkos_api::status::{Failure, StatusCause};
use serde_json::Value;

use super::Write;

pub(super) const NAME: &str = "NamespaceLifecycle";

/// Namespaces that nobody may delete, as in Kubernetes: all of the cluster would go with them.
const IMMORTAL: [&str; 3] = ["default", "kube-system", "kube-public"];

/// 403 for something new in a namespace that ends.
pub(crate) fn check_creation(kind: &Kind, name: &str, namespace: &Value) -> Result<(), Failure> {
    if !namespace["metadata"]["deletionTimestamp"].is_string() {
        return Ok(());
    }
    let own = namespace["metadata"]["name"].as_str().unwrap_or_default();
    let why = format!("unable to create new content in namespace {own} because it is being terminated");
    Err(Failure::refused(kind.resource(), name, &why).with_cause(StatusCause {
        reason: Some("NamespaceTerminating".into()),
        message: Some(format!("namespace {own} is being terminated")),
        field: Some("metadata.namespace".into()),
    }))
}

/// 403 for the deletion of what has to stay.
pub(super) fn validate(write: &Write<'_>, _: &super::View<'_>) -> Result<(), Failure> {
    if write.is_of("", "namespaces") && write.is_delete() && IMMORTAL.contains(&write.name) {
        return Err(write.refused("this namespace may not be deleted"));
    }
    Ok(())
}
