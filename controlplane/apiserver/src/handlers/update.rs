//! Update: the whole object or its status, compared and swapped.

use diolkos_api::kind::Kind;
use diolkos_api::status::Failure;
use diolkos_api::wire;
use serde_json::Value;

use super::body::{self, FieldValidation};
use super::transaction::{Current, Edit};
use super::writer::{Tracking, check_manager};
use super::{Caller, Handlers, Target};
use crate::managed;

impl Handlers {
    pub(crate) async fn update(&self, caller: &Caller, request: wire::WriteRequest) -> Result<wire::Object, Failure> {
        let target = self.target(caller, "update", request.key.clone(), true)?;
        let validation = FieldValidation::parse(&request.field_validation)?;
        check_manager("UpdateOptions", &request.field_manager)?;
        if target.subresource == "scale" {
            return self.update_scale(caller, &target, &request).await;
        }
        let (mut sent, mut warnings) = body::parse(&target.served, &request.json, validation)?;
        check_address(&target, &sent)?;
        body::drop_nulls_of(&target.served, &mut sent);
        to_storage(&target, &mut sent);
        warnings.extend(target.kind.warnings(&sent));
        let tracking = Tracking::of(&target, caller, &request.field_manager);
        let mut updated =
            self.change(&target, request.dry_run, |current| replace(&target, &sent, current, Some(&tracking))).await?;
        updated.warnings.extend(warnings);
        target.serve(updated)
    }
}

/// Makes what a client sent an object as it rests.
pub(super) fn to_storage(target: &Target, object: &mut Value) {
    target.served.prune(object);
    if target.served.is_converted() {
        target.served.default(object);
        target.served.to_storage(object);
    }
}

/// The object that `sent` makes of the present one. Its version and uid, when given, must be those of the present one.
/// `tracking`: whose change this is, unless that is noted already.
pub(super) fn replace(
    target: &Target,
    sent: &Value,
    current: &Current,
    tracking: Option<&Tracking>,
) -> Result<Edit, Failure> {
    let (kind, old) = (&target.kind, &current.object);
    check_preconditions(target, &sent["metadata"], old)?;
    let mut new = sent.clone();
    new["metadata"]["name"] = target.name.clone().into();
    if kind.namespaced {
        new["metadata"]["namespace"] = target.namespace.clone().into();
    }
    match target.subresource.as_str() {
        "" => {
            keep_addresses(kind, &mut new, old);
            kind.default(&mut new);
            kind.prepare_for_update(&mut new, old);
        }
        part => kind.prepare_for_part_update(part, &mut new, old),
    }
    if let Some(tracking) = tracking {
        managed::track(Some(old), &mut new, &tracking.write());
    } else {
        managed::carry(sent, &mut new);
    }
    if target.served.is_converted() && new != *old {
        target.served.check_converted(&new, Some(old))?;
    }
    new["metadata"]["resourceVersion"] = old["metadata"]["resourceVersion"].clone();
    let leaving = new["metadata"]["deletionTimestamp"].is_string() && !kind.has_finalizers(&new);
    let grace = new["metadata"]["deletionGracePeriodSeconds"].as_i64().unwrap_or(0);
    Ok(if leaving && grace == 0 {
        Edit::Remove(new)
    } else if new == *old {
        Edit::Keep
    } else {
        Edit::Put(new)
    })
}

/// A writer that leaves the addresses of a service out means those it has.
fn keep_addresses(kind: &Kind, new: &mut Value, old: &Value) {
    if kind.kind != "Service" || !kind.group.is_empty() || new["spec"]["type"] == "ExternalName" {
        return;
    }
    let unset = |value: &Value| value.is_null() || *value == "" || value.as_array().is_some_and(Vec::is_empty);
    for field in ["clusterIP", "clusterIPs"] {
        if new["spec"].is_object() && unset(&new["spec"][field]) && !unset(&old["spec"][field]) {
            new["spec"][field] = old["spec"][field].clone();
        }
    }
}

fn check_preconditions(target: &Target, sent: &Value, old: &Value) -> Result<(), Failure> {
    let resource = target.kind.resource();
    if let Some(uid) = sent["uid"].as_str().filter(|uid| !uid.is_empty())
        && old["metadata"]["uid"] != uid
    {
        let own = old["metadata"]["uid"].as_str().unwrap_or_default();
        let why = format!("Precondition failed: UID in precondition: {uid}, UID in object meta: {own}");
        return Err(Failure::conflict(resource, &target.name, &why));
    }
    match sent["resourceVersion"].as_str() {
        None | Some("" | "0") => Ok(()),
        Some(version) if old["metadata"]["resourceVersion"] == version => Ok(()),
        Some(version) if version.parse::<u64>().is_err() => {
            Err(Failure::bad_request(format!("invalid resource version: resourceVersion: Invalid value: {version:?}")))
        }
        Some(_) => Err(Failure::modified(resource, &target.name)),
    }
}

/// The object must be the one that the request names.
pub(super) fn check_address(target: &Target, sent: &Value) -> Result<(), Failure> {
    let name = sent["metadata"]["name"].as_str().unwrap_or_default();
    if !name.is_empty() && name != target.name {
        let asked = &target.name;
        return Err(Failure::bad_request(format!(
            "the name of the object ({name}) does not match the name on the URL ({asked})"
        )));
    }
    let namespace = sent["metadata"]["namespace"].as_str().unwrap_or_default();
    if target.kind.namespaced && !namespace.is_empty() && namespace != target.namespace {
        return Err(Failure::bad_request(
            "the namespace of the provided object does not match the namespace sent on the request",
        ));
    }
    Ok(())
}
