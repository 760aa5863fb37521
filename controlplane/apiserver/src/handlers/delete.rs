//! Delete: at once, or marked and left to its finalizers or, for a pod on a node, to its kubelet.

use diolkos_api::kind::{Causes, Kind};
use diolkos_api::status::Failure;
use diolkos_api::wire;
use futures::stream::{self, StreamExt as _, TryStreamExt as _};
use k8s_openapi::jiff::{SignedDuration, Timestamp};
use serde_json::Value;

use super::transaction::{Current, Edit};
use super::{Caller, Handlers, Listing, Target, rfc3339};
use crate::definitions;

/// Grace of a pod that does not say how long it wants, in seconds.
const DEFAULT_GRACE: i64 = 30;
/// Objects of a collection that are deleted at once.
const CONCURRENT_DELETES: usize = 16;

/// What every delete of one request has in common.
struct Options {
    grace: Option<i64>,
    uid: String,
    resource_version: String,
    dry_run: bool,
}

impl Handlers {
    /// Returns the object as it was at last, or as it waits for its end.
    pub(crate) async fn delete(&self, caller: &Caller, request: wire::DeleteRequest) -> Result<wire::Object, Failure> {
        let target = self.target(caller, "delete", request.key.clone(), true)?;
        if !target.subresource.is_empty() {
            return Err(Failure::method_not_allowed());
        }
        let options = options(&request)?;
        self.delete_one(&target, &options).await
    }

    /// Deletes what a list of the same options would show, and returns that list. A client that was given a token goes
    /// on where this page ends.
    pub(crate) async fn delete_collection(
        &self,
        caller: &Caller,
        request: wire::DeleteRequest,
    ) -> Result<Listing, Failure> {
        let target = self.collection(caller, "deletecollection", request.key.clone(), &request.field_selector)?;
        let options = options(&request)?;
        let list = wire::ListRequest {
            label_selector: request.label_selector,
            field_selector: request.field_selector,
            limit: request.limit,
            r#continue: request.r#continue,
            resource_version: request.resource_version,
            resource_version_match: request.resource_version_match,
            ..wire::ListRequest::default()
        };
        let listing = self.list_of(caller, &target, list).await?;
        let names: Vec<(String, String)> =
            listing.items.iter().map(|object| (object.namespace().to_owned(), object.name().to_owned())).collect();
        let deletions = stream::iter(names.into_iter().map(|(namespace, name)| {
            let target = Target { namespace, name, ..target.whole() };
            let options = &options;
            async move {
                match self.delete_one(&target, options).await {
                    // Somebody else was faster, which is as good.
                    Err(failure) if !failure.is_not_found() => Err(failure),
                    _ => Ok(()),
                }
            }
        }));
        deletions.buffer_unordered(CONCURRENT_DELETES).try_collect::<()>().await?;
        Ok(listing)
    }

    /// Deletes what was found and allowed already.
    pub(super) async fn delete_target(
        &self,
        target: &Target,
        request: &wire::DeleteRequest,
    ) -> Result<wire::Object, Failure> {
        self.delete_one(target, &options(request)?).await
    }

    async fn delete_one(&self, target: &Target, options: &Options) -> Result<wire::Object, Failure> {
        target.serve(self.change(target, options.dry_run, |current| edit(target, options, current)).await?)
    }
}

fn options(request: &wire::DeleteRequest) -> Result<Options, Failure> {
    match request.propagation_policy.as_str() {
        "" | "Background" => {}
        policy @ ("Orphan" | "Foreground") => {
            return Err(Failure::unimplemented(format!(
                "propagationPolicy {policy} is not part of this server: delete with Background"
            )));
        }
        other => {
            let mut causes = Causes::default();
            causes.unsupported("propagationPolicy", other, &["Foreground", "Background", "Orphan", "nil"]);
            return Err(Failure::invalid_options("DeleteOptions", causes.into_vec()));
        }
    }
    Ok(Options {
        // As Kubernetes reads a negative one.
        grace: request.grace_period_seconds.map(|seconds| if seconds < 0 { 1 } else { seconds }),
        uid: request.precondition_uid.clone(),
        resource_version: request.precondition_resource_version.clone(),
        dry_run: request.dry_run,
    })
}

fn edit(target: &Target, options: &Options, current: &Current) -> Result<Edit, Failure> {
    let mut object = current.object.clone();
    if target.kind.group == definitions::GROUP && target.kind.plural == definitions::PLURAL {
        definitions::mark(&mut object);
    }
    let object = &object;
    let is_namespace = target.kind.kind == "Namespace" && target.kind.group.is_empty();
    check_preconditions(target, options, object)?;
    let grace = grace(&target.kind, object, options.grace);
    let marked = object["metadata"]["deletionTimestamp"].is_string();
    if grace == 0 && !target.kind.has_finalizers(object) {
        return Ok(Edit::Remove(object.clone()));
    }
    let own_grace = object["metadata"]["deletionGracePeriodSeconds"].as_i64().unwrap_or(0);
    if marked && grace >= own_grace {
        return Ok(Edit::Keep);
    }
    let mut object = object.clone();
    let end = diolkos_api::now().saturating_add(SignedDuration::from_secs(grace)).unwrap_or(Timestamp::MAX);
    object["metadata"]["deletionTimestamp"] = rfc3339(end).into();
    object["metadata"]["deletionGracePeriodSeconds"] = grace.into();
    if let (true, Some(generation)) = (target.kind.generation, object["metadata"]["generation"].as_i64()) {
        object["metadata"]["generation"] = (generation + 1).into();
    }
    if is_namespace {
        object["status"]["phase"] = "Terminating".into();
    }
    Ok(Edit::Put(object))
}

/// Seconds that the object gets. Only a pod that runs on a node has somebody who ends it.
fn grace(kind: &Kind, object: &Value, asked: Option<i64>) -> i64 {
    let runs = object["spec"]["nodeName"].as_str().is_some_and(|node| !node.is_empty())
        && !matches!(object["status"]["phase"].as_str(), Some("Succeeded" | "Failed"));
    if kind.kind != "Pod" || !kind.group.is_empty() || !runs {
        return 0;
    }
    asked.or_else(|| object["spec"]["terminationGracePeriodSeconds"].as_i64()).unwrap_or(DEFAULT_GRACE).max(0)
}

fn check_preconditions(target: &Target, options: &Options, object: &Value) -> Result<(), Failure> {
    // Kubernetes names the kind here, not the plural.
    let mut resource = target.kind.resource();
    resource.resource = &target.kind.kind;
    let own = |field: &str| object["metadata"][field].as_str().unwrap_or_default().to_owned();
    let differs = |what: &str, given: &str, own: &str| {
        let why = format!(
            "the {what} in the precondition ({given}) does not match the {what} in record ({own}). The object might \
             have been deleted and then recreated"
        );
        Err(Failure::conflict(resource, &target.name, &why))
    };
    if !options.uid.is_empty() && options.uid != own("uid") {
        return differs("UID", &options.uid, &own("uid"));
    }
    if !options.resource_version.is_empty() && options.resource_version != own("resourceVersion") {
        let why = format!(
            "the ResourceVersion in the precondition ({}) does not match the ResourceVersion in record ({}). The \
             object might have been modified",
            options.resource_version,
            own("resourceVersion")
        );
        return Err(Failure::conflict(resource, &target.name, &why));
    }
    Ok(())
}
