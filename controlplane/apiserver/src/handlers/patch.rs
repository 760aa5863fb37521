//! Patch: the server edits, and edits anew when another writer was first.

use diolkos_api::status::{Failure, StatusCause};
use diolkos_api::wire;
use diolkos_api::wire::patch_request::Type;
use serde_json::Value;

use super::apply::Patched;
use super::body::{self, FieldValidation};
use super::update::{replace, to_storage};
use super::writer::{Tracking, check_patch_options};
use super::{Caller, Handlers, Target};
use crate::patch::Patch;

/// What a patch may not change: which object it is.
const IDENTITY: [&str; 5] = ["/apiVersion", "/kind", "/metadata/name", "/metadata/namespace", "/metadata/uid"];

/// How custom objects are patched.
const CUSTOM_PATCHES: &[&str] =
    &["application/json-patch+json", "application/merge-patch+json", "application/apply-patch+yaml"];

impl Handlers {
    pub(crate) async fn patch(&self, caller: &Caller, request: wire::PatchRequest) -> Result<Patched, Failure> {
        let target = self.target(caller, "patch", request.key.clone(), true)?;
        let validation = FieldValidation::parse(&request.field_validation)?;
        let applies = request.r#type() == Type::Apply;
        check_patch_options(applies, &request.field_manager, request.force)?;
        if applies {
            return self.apply(caller, target, &request).await;
        }
        if request.r#type() == Type::StrategicMerge && target.kind.custom().is_some() {
            // Nothing says how the lists of custom objects would merge.
            return Err(Failure::unsupported_media_type(CUSTOM_PATCHES));
        }
        let patch = Patch::parse(request.r#type(), &request.patch)?;
        let tracking = Tracking::of(&target, caller, &request.field_manager);
        if target.subresource == "scale" {
            let object = self.patch_scale(&target, &patch, request.dry_run, &tracking).await?;
            return Ok(Patched { object, created: false });
        }
        let (mut warnings, mut fits) = (Vec::new(), true);
        let patched = self
            .change(&target, request.dry_run, |current| {
                let mut old = current.object.clone();
                target.served.from_storage(&mut old);
                let mut new = old.clone();
                let applied = patch.apply(&target.served, &target.name, &mut new);
                fits = applied.is_ok();
                applied?;
                body::drop_nulls_of(&target.served, &mut new);
                check_identity(&target, &new, &old)?;
                warnings = body::check_fields(&target.served, &new, Vec::new(), validation)?;
                to_storage(&target, &mut new);
                warnings.extend(target.kind.warnings(&new));
                replace(&target, &new, current, Some(&tracking))
            })
            .await;
        if !fits {
            self.metrics.unfit_patch();
        }
        let mut patched = patched?;
        patched.warnings.extend(warnings);
        Ok(Patched { object: target.serve(patched)?, created: false })
    }
}

fn check_identity(target: &Target, new: &Value, old: &Value) -> Result<(), Failure> {
    let changed = |path: &&str| new.pointer(path).is_some_and(|value| Some(value) != old.pointer(path));
    let causes: Vec<StatusCause> = IDENTITY
        .iter()
        .filter(|path| changed(path))
        .map(|path| {
            let value = new.pointer(path).unwrap_or(&Value::Null);
            StatusCause {
                field: Some(path.trim_start_matches('/').replace('/', ".")),
                message: Some(format!("Invalid value: {value}: field is immutable")),
                reason: Some("FieldValueInvalid".into()),
            }
        })
        .collect();
    if causes.is_empty() { Ok(()) } else { Err(Failure::invalid(&target.kind, &target.name, causes)) }
}
