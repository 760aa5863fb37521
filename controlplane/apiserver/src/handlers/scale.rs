//! The scale of a Deployment or ReplicaSet, as an object of its own: autoscaling/v1 Scale.

use diolkos_api::kind::Kind;
use diolkos_api::status::Failure;
use diolkos_api::wire;
use serde_json::{Value, json};

use super::body;
use super::transaction::{Current, Edit};
use super::update::replace;
use super::writer::Tracking;
use super::{Caller, Handlers, Target, reply};
use crate::patch::Patch;

impl Handlers {
    /// The scale of a served object.
    pub(super) fn scale_of_reply(kind: &Kind, object: &wire::Object) -> Result<wire::Object, Failure> {
        let object_value: Value = serde_json::from_slice(&object.json).map_err(Failure::internal)?;
        Ok(reply(&scale_of(kind, &object_value), object.resource_version, object.warnings.clone()))
    }

    pub(super) async fn update_scale(
        &self,
        caller: &Caller,
        target: &Target,
        request: &wire::WriteRequest,
    ) -> Result<wire::Object, Failure> {
        let (scale, _) = body::parse_document(&request.json)
            .map_err(|cause| Failure::bad_request(format!("cannot read the Scale: {cause}")))?;
        let tracking = Tracking::of(target, caller, &request.field_manager);
        let changed =
            self.change(target, request.dry_run, |current| set_scale(target, &scale, current, &tracking)).await?;
        Self::scale_of_reply(&target.kind, &changed)
    }

    pub(super) async fn patch_scale(
        &self,
        target: &Target,
        patch: &Patch,
        dry_run: bool,
        tracking: &Tracking,
    ) -> Result<wire::Object, Failure> {
        let changed = self
            .change(target, dry_run, |current| {
                let mut scale = scale_of(&target.kind, &current.object);
                patch.apply(&target.kind, &target.name, &mut scale)?;
                set_scale(target, &scale, current, tracking)
            })
            .await?;
        Self::scale_of_reply(&target.kind, &changed)
    }
}

fn set_scale(target: &Target, scale: &Value, current: &Current, tracking: &Tracking) -> Result<Edit, Failure> {
    let mut new = current.object.clone();
    write_replicas(&target.kind, &mut new, replicas_of(scale)?);
    let version = &scale["metadata"]["resourceVersion"];
    if version.is_string() {
        new["metadata"]["resourceVersion"] = version.clone();
    }
    replace(&target.whole(), &new, current, Some(tracking))
}

fn write_replicas(kind: &Kind, object: &mut Value, replicas: i64) {
    match kind.custom().and_then(|custom| custom.scale()) {
        Some(paths) => paths.write(object, replicas),
        None => object["spec"]["replicas"] = replicas.into(),
    }
}

fn replicas_of(scale: &Value) -> Result<i64, Failure> {
    match &scale["spec"]["replicas"] {
        Value::Null => Ok(0),
        value => value.as_i64().filter(|count| (0..=i64::from(i32::MAX)).contains(count)).ok_or_else(|| {
            Failure::bad_request(format!("spec.replicas of the Scale is {value}: it has to be a number of 0 or more"))
        }),
    }
}

/// The configuration of the object that one of its scale means.
pub(super) fn configuration(kind: &Kind, scale: &Value) -> Result<Value, Failure> {
    let mut config = json!({"apiVersion": kind.api_version(), "kind": kind.kind, "metadata": {}});
    for field in ["name", "namespace", "uid", "resourceVersion"] {
        if !scale["metadata"][field].is_null() {
            config["metadata"][field] = scale["metadata"][field].clone();
        }
    }
    if !scale["spec"]["replicas"].is_null() {
        write_replicas(kind, &mut config, replicas_of(scale)?);
    }
    Ok(config)
}

fn scale_of(kind: &Kind, object: &Value) -> Value {
    let (wanted, present, selector) = match kind.custom().and_then(|custom| custom.scale()) {
        Some(paths) => paths.read(object),
        None => (
            object["spec"]["replicas"].clone(),
            object["status"]["replicas"].as_i64().unwrap_or(0),
            selector_text(&object["spec"]["selector"]),
        ),
    };
    let metadata = &object["metadata"];
    let mut scale = json!({
        "kind": "Scale",
        "apiVersion": "autoscaling/v1",
        "metadata": {
            "name": metadata["name"],
            "namespace": metadata["namespace"],
            "uid": metadata["uid"],
            "resourceVersion": metadata["resourceVersion"],
            "creationTimestamp": metadata["creationTimestamp"],
        },
        "spec": {"replicas": wanted},
        "status": {
            "replicas": present,
            "selector": selector,
        },
    });
    body::drop_nulls(&mut scale);
    scale
}

fn selector_text(selector: &Value) -> String {
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
    let selector = serde_json::from_value::<LabelSelector>(selector.clone()).unwrap_or_default();
    diolkos_api::selector::LabelSelector::from_meta(&selector).map(|s| s.to_string()).unwrap_or_default()
}
