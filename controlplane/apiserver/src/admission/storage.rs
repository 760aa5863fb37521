//! DefaultStorageClass: a claim that names no class gets the cluster's usual one. PersistentVolumeClaimResize: a claim
//! grows only when it is bound and its class can.

use diolkos_api::quantity::Quantity;
use diolkos_api::status::Failure;
use serde_json::Value;

use super::{View, Write};

const CLASSES: &str = "/registry/storage.k8s.io/storageclasses/";
const DEFAULT: [&str; 2] =
    ["storageclass.kubernetes.io/is-default-class", "storageclass.beta.kubernetes.io/is-default-class"];
/// The older way to name a claim's class.
const CLASS_ANNOTATION: &str = "volume.beta.kubernetes.io/storage-class";

pub(super) fn default_class(write: &Write<'_>, claim: &mut Value, view: &View<'_>) -> Result<(), Failure> {
    if !write.is_of_whole("", "persistentvolumeclaims") || !write.is_create() || !claim["spec"].is_object() {
        return Ok(());
    }
    if claim["spec"]["storageClassName"].is_string() || annotation(claim, CLASS_ANNOTATION).is_some() {
        return Ok(());
    }
    if let Some(name) = super::view::newest(view.list(CLASSES), |class| {
        DEFAULT.iter().any(|key| annotation(class, key) == Some("true"))
    }) {
        claim["spec"]["storageClassName"] = name.into();
    }
    Ok(())
}

pub(super) fn resize(write: &Write<'_>, view: &View<'_>) -> Result<(), Failure> {
    let (Some(new), Some(old)) = (write.new, write.old) else { return Ok(()) };
    if !write.is_of_whole("", "persistentvolumeclaims") {
        return Ok(());
    }
    let size = |claim: &Value| {
        let text = claim["spec"]["resources"]["requests"]["storage"].as_str().unwrap_or("0").to_owned();
        Quantity::parse(&text).unwrap_or_default()
    };
    if size(new) <= size(old) {
        return Ok(());
    }
    if old["status"]["phase"] != "Bound" {
        return Err(write.refused("only bound persistent volume claims can be expanded"));
    }
    let class = annotation(new, CLASS_ANNOTATION).or_else(|| new["spec"]["storageClassName"].as_str());
    let class = class.filter(|name| !name.is_empty()).and_then(|name| view.get(&format!("{CLASSES}{name}")));
    if class.is_none_or(|class| class["allowVolumeExpansion"] != true) {
        return Err(write.refused(
            "only dynamically provisioned pvc can be resized and the storageclass that provisions the pvc must support \
             resize",
        ));
    }
    Ok(())
}

fn annotation<'a>(object: &'a Value, key: &str) -> Option<&'a str> {
    object["metadata"]["annotations"][key].as_str()
}
